-- base/json: what came is kept, what is wrong is named with its byte, both encoders agree.

local cli = dofile "tests/lua/cli_helper.lua"
local json = require "tokenbatcher.base.json"

local function same_text(text)
  local value, message = json.decode(text)
  assert.equal(nil, message)
  assert.equal(text, json.encode(value))
  assert.equal(text, json.encode_in_lua(value))
end

local function refuses(text, part)
  local value, message = json.decode(text)
  assert.equal(nil, value)
  assert.truthy(message:find(part, 1, true), message)
end

describe("JSON that is decoded and encoded again", function()
  it("keeps empty lists and empty objects apart, nested and at the top", function()
    for _, text in ipairs { "[]", "{}", '[[],{},[[{}]]]', '{"a":[],"b":{},"c":{"d":[[]]}}' } do same_text(text) end
  end)

  it("keeps a list a list when a script empties it, and an object an object", function()
    local record = json.decode '{"tags":["x"],"meta":{"y":1}}'
    record.tags[1], record.meta.y = nil, nil
    assert.equal('{"tags":[],"meta":{}}', json.encode(record))
  end)

  it("keeps the order of keys; new ones follow, sorted; those taken away are gone", function()
    local text = '{"z":1,"a":{"y":2,"b":3},"m":[{"q":1,"c":2},{"c":1,"q":2}]}'
    same_text(text)
    local record = json.decode(text)
    record.m, record.n, record.b, record[7] = nil, 1, 2, 3
    assert.equal('{"z":1,"a":{"y":2,"b":3},"7":3,"b":2,"n":1}', json.encode(record))
    assert.equal('{"z":1,"a":{"y":2,"b":3},"7":3,"b":2,"n":1}', json.encode_in_lua(record))
  end)

  it("keeps the order of more keys, and of more kinds of objects, than it remembers", function()
    local parts = {}
    for i = 1, 600 do parts[i] = ('"key %d":%d'):format(i * 7919 % 10007, i) end
    same_text("{" .. table.concat(parts, ",") .. "}")
    for round = 1, 3 do
      for i = 1, 3000 do
        local text = ('{"b%d":1,"a%d":[{"d%d":2,"c":3}]}'):format(i, round, i)
        assert.equal(text, json.encode(json.decode(text)))
      end
    end
    local many = {}
    for i = 1, 2000 do many[i] = ('{"z%d":1,"y":2,"x%d":3}'):format(i, i % 7) end
    same_text("[" .. table.concat(many, ",") .. "]")
  end)

  it("takes the last value of a key that comes twice, in the first one's place", function()
    assert.equal('{"a":3,"b":2}', json.encode(json.decode '{"a":1,"b":2,"a":3}'))
    local parts = { '"x0":0' }
    for i = 1, 300 do parts[#parts + 1] = ('"x%d":%d'):format(i % 299, i) end
    local text = json.encode(json.decode("{" .. table.concat(parts, ",") .. "}"))
    assert.equal(1, select(2, text:gsub('"x1":', "")))
    assert.matches('^{"x0":299,"x1":300,"x2":2,', text)
  end)

  it("keeps null, -0 and keys with a NUL in them", function()
    for _, text in ipairs { "null", '[null,{"a":null}]', "-0", "[-0,0]", '{"a\\u0000b":1,"a\\u0000c":2}' } do
      same_text(text)
    end
    assert.equal(json.null, json.decode '{"a":null}'.a)
    assert.equal(json.null, require("cjson").null)
    assert.equal("-0", json.encode(json.decode "-0.0"))
  end)

  it("writes numbers in as few digits as give the same number, the nearest of those", function()
    for text, written in pairs { ["1.0"] = "1", ["1e2"] = "100", ["0.30000000000000004"] = "0.30000000000000004",
      ["1E-7"] = "1e-07", ["123456789012345.5"] = "123456789012345.5", ["5e-324"] = "4.94065645841247e-324",
      ["1.7976931348623157e308"] = "1.7976931348623157e+308", ["0.00012"] = "0.00012", ["1e22"] = "1e+22" } do
      local value = json.decode(text)
      local back = json.encode(value)
      assert.equal(value, tonumber(back))
      if text ~= "5e-324" then assert.equal(written, back) end
    end
  end)
end)

describe("an integer above 2^53", function()
  local text = '{"id":9007199254740993}'
  local id = json.decode(text).id

  it("is written as it came, whatever table it is in", function()
    same_text(text)
    for _, digits in ipairs { "-9007199254740993", "18446744073709551615", "9223372036854775807",
      "-9223372036854775808", "18446744073709551616", "123456789012345678901234567890", "10000000000000000" } do
      same_text(digits)
      same_text("[" .. digits .. "]")
      assert.equal(digits, tostring(json.decode(digits)))
    end
    assert.equal('{"custom_id":9007199254740993}', json.encode { custom_id = id })
    assert.equal("request-9007199254740993", "request-" .. id)
    assert.equal("number", type(json.decode "9007199254740992"))
  end)

  it("compares exactly, with others and with numbers", function()
    local other = json.decode "9007199254740995"
    assert.is_true(id == json.decode "9007199254740993" and id ~= other and id < other and other >= id)
    assert.is_true(id ~= 2 ^ 53 and id > 2 ^ 53 and id < 2 ^ 53 + 2 and 1 < id and id > -1 and id < 1e300)
    local negative, less = json.decode "-9007199254740993", json.decode "-9007199254740995"
    assert.is_true(less < negative and negative < id and negative < -2 ^ 53 and -2 ^ 53 - 2 < negative)
    assert.is_true(id == 9007199254740993LL and json.decode "18446744073709551615" == 18446744073709551615ULL)
    assert.is_true(json.decode "10000000000000000" == 1e16)
    assert.is_false(id == nil or id == "9007199254740993" or id == json.null)
    assert.has_error(function() return id < {} end)
  end)

  it("takes part in arithmetic as the nearest number", function()
    assert.equal(2 ^ 53, id + 0)
    assert.equal(2 ^ 54, id * 2)
    assert.equal(-2 ^ 53, -id)
    assert.equal(1, id / 2 ^ 53)
  end)

  it("does as the key of a table", function()
    local seen = { [id] = "here" }
    assert.equal("here", seen[json.decode(text).id])
    assert.equal(nil, seen[json.decode "9007199254740995"])
  end)

  it("travels to a thread and back as LuaJIT's own integer, which is written in full, too", function()
    local buffer = require "string.buffer"
    local exact = require "tokenbatcher.base.exact_ffi"
    local ok, bytes = exact.sent(buffer.encode, { json.decode '[1,{"id":9007199254740993}]', id })
    assert.is_true(ok)
    assert.equal('[[1,{"id":9007199254740993}],9007199254740993]', json.encode(buffer.decode(bytes)))
    assert.equal("[-5,18446744073709551615]", json.encode { -5LL, 18446744073709551615ULL })
    assert.is_false((exact.sent(buffer.encode, { print, id })))
  end)
end)

describe("JSON that is wrong is refused, and what and where is said:", function()
  for text, part in pairs {
    ["1."] = "digits are missing after a decimal point (byte 3)", ["[1e]"] = "exponent (byte 4)",
    ["1e999"] = "a number is too large (byte 1)", [("1"):rep(400)] = "a number is too large (byte 1)",
    ['["a\tb"]'] = "a control character in a string, which must be escaped (byte 4)",
    ['"a\0"'] = "a control character in a string, which must be escaped (byte 3)",
    ['{"a":"\\ud800"}'] = "a lone surrogate in a string (byte 7)",
    ['"ab\\udc00"'] = "a lone surrogate in a string (byte 4)",
    ['"\\ud800\\ud800"'] = "a lone surrogate in a string (byte 2)",
    ['["\\\\ud800","\\ud800"]'] = "surrogate in a string (byte 13)",
    ['"\\ud83d\\ude00\\ude00"'] = "a lone surrogate in a string (byte 14)",
    ["1 2"] = "something follows the value (byte 3)", ["[1]\0"] = "something follows the value (byte 4)",
    ["{}x"] = "something follows the value (byte 3)", ["[1]]"] = "something follows the value (byte 4)",
    [""] = "a value is missing", ["  "] = "a value is missing", ['"abc'] = "a string has no end",
    ['"\\x"'] = "an unknown escape in a string (byte 2)", ['"\\u12G4"'] = "four hexadecimal digits",
    ["{1:2}"] = "a name in quotes is missing in an object (byte 2)", ['{"a" 1}'] = "a colon is missing",
    ['{"a":1'] = "a comma or } is missing in an object (byte 7)",
    ["[1 2]"] = "a comma or ] is missing in a list (byte 4)",
    ["[1,]"] = "no value is written like this (byte 4)", ["nul"] = "no value is written like this",
    ["[NaN]"] = "no value is written like this", ["-Infinity"] = "no value", ["+1"] = "no value",
    ["01"] = "something follows",
    [".5"] = "no value", ["-"] = "no value", ["/**/1"] = "no value", ["'a'"] = "no value",
    ['"h\195\169llo \255"'] = "invalid UTF-8 (byte 9)", ['"\237\160\128"'] = "invalid UTF-8 (byte 2)",
    [("["):rep(1001) .. ("]"):rep(1001)] = "nested too deeply",
  } do
    it(("%.40q: %s"):format(text, part), function() refuses(text, part) end)
  end

  it("but what only looks so is taken", function()
    for _, text in ipairs { '"\\\\ud800"', '"\\u005cud800"', "1e-999", '"\127"', "\t[1 ]\r\n", '"\\ud83d\\ude00"',
      '"\\uD83D\\uDE00 \\u00e9"', ("["):rep(1000) .. ("]"):rep(1000) } do
      local value, message = json.decode(text)
      assert.equal(nil, message)
      assert.truthy(value)
    end
  end)
end)

describe("both encoders", function()
  local function agree(value, text)
    local written, message = json.encode(value)
    assert.same({ written, message }, { json.encode_in_lua(value) })
    if text then assert.equal(text, written or message) end
  end

  it("sort the keys of what a script makes: numbers, then strings", function()
    agree({ b = 1, a = { d = 2, c = { 3 } }, [2] = 4, [10] = 5, [1.5] = 6 },
      '{"1.5":6,"2":4,"10":5,"a":{"c":[3],"d":2},"b":1}')
    agree({ ["a\0"] = 1, a = 2, ab = 3, [""] = 4 }, '{"":4,"a":2,"a\\u0000":1,"ab":3}')
  end)

  it("take a table for a list if its keys are 1 to n, in whatever order they were set", function()
    local list = {}
    for i = 40, 1, -1 do list[i] = i end
    agree(list)
    assert.equal("[1,2,3,", json.encode(list):sub(1, 7))
    agree({ 1, nil, 3 }, '{"1":1,"3":3}')
    agree({ 1, x = 2 }, '{"1":1,"x":2}')
    agree({ [0] = 1, 2 }, '{"0":1,"1":2}')
    agree(json.list {}, "[]")
    agree({}, "{}")
    agree(json.list { a = 1 }, '{"a":1}')
  end)

  it("refuse with the same words", function()
    local loop = {}
    loop[1] = loop
    agree(loop, "a value nested too deeply, or containing itself, has no JSON form")
    agree({ 0 / 0 }, "the number nan has no JSON form")
    agree(-math.huge, "the number -inf has no JSON form")
    agree("a\255", "a string that is not UTF-8 (byte 2) has no JSON form")
    agree({ ["\255"] = 1 }, "a string that is not UTF-8 (byte 1) has no JSON form")
    agree(print, "a function has no JSON form")
    agree({ [true] = 1 }, "a table with a boolean as a key has no JSON form")
    agree({ [1.5] = 1, ["1.5"] = 2 }, 'a table with the keys 1.5 and "1.5" has no JSON form')
    agree({ [0.1] = 1, [0.1 + 1e-17] = 2, [0.1 + 3e-17] = 3 }, 'a table with the keys 0.1 and "0.1" has no JSON form')
    agree(require("ffi").new "char[2]", "a cdata has no JSON form")
  end)

  it("are not misled by marks that somebody has meddled with", function()
    agree(setmetatable({ a = 1, b = 2 }, { __jsonorder = { "b", 7, {}, "a", "c" } }), '{"b":2,"a":1}')
    agree(setmetatable({ a = 1 }, { __jsontype = "array", __jsonorder = 5 }), '{"a":1}')
    agree(setmetatable({ a = 1 }, { __index = function() error "never" end }), '{"a":1}')
  end)

  -- A value drawn by lot. Strings of all kinds of bytes that are UTF-8.
  local PIECES = { "a", "\0", "\n", '"', "\\", "/", "\127", "\195\169", "\226\130\172",
    "\240\159\152\128", "12345678", "\31" }
  local function draw_string(random)
    local parts = {}
    for i = 1, random(0, 12) do parts[i] = PIECES[random(#PIECES)] end
    return table.concat(parts)
  end
  local function draw_number(random)
    local kind = random(4)
    if kind == 1 then return random(-1000, 1000) end
    if kind == 2 then return random() * 10 ^ random(-30, 30) end
    if kind == 3 then return tonumber(("%.6g"):format(random() * 10 ^ random(-10, 20))) end
    return (random() - 0.5) * 2 ^ random(0, 60)
  end
  local function draw(random, depth)
    local kind = random(depth > 4 and 4 or 6)
    if kind == 1 then return draw_string(random) end
    if kind == 2 then return draw_number(random) end
    if kind == 3 then return random(2) == 1 end
    if kind == 4 then return json.null end
    local out = kind == 5 and json.list {} or {}
    for i = 1, random(0, 5) do out[kind == 5 and i or draw_string(random)] = draw(random, depth + 1) end
    return out
  end

  it("write the same bytes for values drawn by lot, which come back as they were", function()
    math.randomseed(5)
    local others = 0 -- where two texts of a number are as short and as near
    for _ = 1, 3000 do
      local value = draw(math.random, 1)
      local text = assert(json.encode(value))
      local in_lua = json.encode_in_lua(value)
      if in_lua ~= text then others = others + 1 end
      assert.equal(nil, text:find "[\1-\31]")
      local back = json.decode(text)
      assert.same(value, back)
      assert.same(value, json.decode(in_lua))
      assert.equal(text, json.encode(back))
    end
    assert.is_true(others < 15, others)
  end)

  it("survive a text that was cut anywhere, or has another byte anywhere", function()
    local text = '{"a":[1,-2.5e3,"x\\u00e9\\ud83d\\ude00\\n"],"b":{"c":null,"d":[true,false,{}]},'
      .. '"e":12345678901234567890}'
    for at = 1, #text do
      refuses(text:sub(1, at - 1), at == 1 and "missing" or "(byte ")
      for _, byte in ipairs { "\0", '"', "\\", "}", "]", ",", "9", "\200", "e", "u", "\10" } do
        local value, message = json.decode(text:sub(1, at - 1) .. byte .. text:sub(at + 1))
        if not message then
          local written = json.encode(value)
          assert.equal(written, json.encode(json.decode(written)))
        end
      end
    end
  end)
end)

describe("one_line", function()
  it("leaves a line alone, takes one line break off its end", function()
    assert.equal("plain", json.one_line "plain")
    assert.equal("plain", json.one_line "plain\n")
    assert.equal("plain", json.one_line "plain\r\n")
  end)

  it("writes JSON over several lines without them, other text as a JSON string", function()
    assert.equal('{"b":[],"a":1}', json.one_line '{\n  "b": [],\n  "a": 1\n}\n')
    assert.equal('"two\\nlines"', json.one_line "two\nlines\n")
    assert.equal('"\\nx"', json.one_line "\nx")
    assert.equal('"a\\rb"', json.one_line "a\rb")
  end)
end)

describe("where libraries are missing", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  local function run(program, variables)
    local path = cli.file("program.lua", program)
    local found = ("LUA_PATH='%s/lua/?.lua;%s/lua/?/init.lua'"):format(cli.root, cli.root)
    return cli.shell(("env %s %s luajit %s"):format(found, variables, path))
  end
  local NOWHERE = "TOKENBATCHER_LIB=/nonexistent/libtokenbatcher.so "

  it("lua-cjson decodes, and it can be asked what is lost", function()
    local r = run([[
      local json = require "tokenbatcher.base.json"
      print(json.encode(json.decode '{"b":1,"a":[1.5,null]}'), json.lost())
      print(json.null == require("cjson").null, json.decode "[", json.decode "\255")
    ]], NOWHERE)
    assert.equal('{"a":[1.5,null],"b":1}', r.out:match "^[^\t]*", r.err)
    assert.matches("integers above 2^53 are rounded", r.out, 1, true)
    assert.matches("^true\tnil\t", r.lines[2])
    assert.equal(nil, json.lost())
  end)

  it("encoding goes on with neither, decoding says what was looked for", function()
    local r = run([[
      local json = require "tokenbatcher.base.json"
      print(json.encode { b = 1, a = {} }, json.quote "x")
      print(pcall(json.decode, "[]"))
    ]], NOWHERE .. "LUA_CPATH=")
    assert.equal('{"a":{},"b":1}\t"x"', r.lines[1], r.err)
    assert.matches("false\ttokenbatcher: JSON is decoded by libtokenbatcher_json.so or by lua%-cjson", r.lines[2])
    assert.matches("/nonexistent/libtokenbatcher_json.so", r.out, 1, true)
  end)

  it("the library part runs without any of them", function()
    os.execute(("cp %s/libtokenbatcher.so %s"):format(cli.build, cli.folder))
    local r = run([[
      local tb = require "tokenbatcher"
      print(tb.run(function()
        local b = tb.TokenBatcher { inference_fn = function(r) return r end, record = os.tmpname() }
        return tb.with(b, function() return b:submit("x", { key = "k" }):await() end)
      end))
    ]], ("LUA_CPATH= TOKENBATCHER_LIB=%s/libtokenbatcher.so"):format(cli.folder))
    assert.equal("x\n", r.out, r.err)
  end)
end)
