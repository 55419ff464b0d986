-- tokenbatcher run: lines in, lines out, and what may be wrong with them.

local cjson = require "cjson"
local cli = dofile "tests/lua/cli_helper.lua"

local ECHO, answering = cli.ECHO, cli.answering

-- The code and the message of an error line.
local function error_of(line)
  local answer = cjson.decode(line)
  assert.is_table(answer.error, line)
  return answer.error.code, answer.error.message
end

local function assert_error(line, code, part)
  local found, message = error_of(line)
  assert.equal(code, found)
  assert.truthy(message:find(part, 1, true), ("'%s' is not in: %s"):format(part, message))
end

describe("tokenbatcher run", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  describe("lines of input", function()
    it("answers in input order with line numbers as index, and exits 0", function()
      local r = cli.run(ECHO, '{"a":1}\n"two"\n3\n')
      assert.equal('{"index":1,"result":{"a":1}}\n{"index":2,"result":"two"}\n{"index":3,"result":3}\n', r.out)
      assert.equal(0, r.status)
    end)

    it("skips blank lines but counts them", function()
      local r = cli.run(ECHO, '\n1\n\n  \t \n\r\n2\n\n')
      assert.same({ '{"index":2,"result":1}', '{"index":6,"result":2}' }, r.lines)
    end)

    it("takes a last line without a newline", function()
      assert.equal('{"index":1,"result":1}\n{"index":2,"result":2}\n', cli.run(ECHO, "1\n2").out)
    end)

    it("takes lines that end in CR LF, and decode does not see the CR", function()
      assert.same({ '{"index":1,"result":"a"}', '{"index":2,"result":"b"}' }, cli.run(ECHO, '"a"\r\n"b"\r\n').lines)
      local r = cli.run("return { decode = function(line) return line end, " .. ECHO:match "return {(.*)", "x\r\ny")
      assert.same({ '{"index":1,"result":"x"}', '{"index":2,"result":"y"}' }, r.lines)
    end)

    it("takes a byte order mark before the first line, and nowhere else", function()
      local r = cli.run(ECHO, "\239\187\1911\n\239\187\1912\n")
      assert.equal('{"index":1,"result":1}', r.lines[1])
      assert_error(r.lines[2], "bad_input", "broken JSON")
    end)

    it("skips a first line that is a byte order mark alone", function()
      assert.equal('{"index":2,"result":1}\n', cli.run(ECHO, "\239\187\191\n1\n").out)
      assert.equal("", cli.run(ECHO, "\239\187\191").out)
    end)

    it("writes nothing for an empty input or blank lines only, and exits 0", function()
      for _, input in ipairs { "", "\n", "\n\n  \n", "\r\n" } do
        local r = cli.run(ECHO, input)
        assert.equal("", r.out)
        assert.equal(0, r.status)
        assert.truthy(r.err:find("records      0", 1, true))
      end
    end)

    it("answers every line of an input of many chunks", function()
      local input, expected = {}, {}
      for i = 1, 5000 do
        input[i] = ('{"n":%d,"pad":"%s"}\n'):format(i, ("x"):rep(i % 97))
        expected[i] = ('{"index":%d,"result":{"n":%d,"pad":"%s"}}\n'):format(i, i, ("x"):rep(i % 97))
      end
      assert.is_true(table.concat(expected) == cli.run(ECHO, table.concat(input)).out)
    end)

    it("reads --input and writes --output, and takes - for the standard streams", function()
      local from, to = cli.file("in.jsonl", "1\n"), cli.path "out.jsonl"
      local r = cli.run(ECHO, "", { "--input", from, "--output", to })
      assert.equal("", r.out)
      assert.equal('{"index":1,"result":1}\n', cli.read(to))
      assert.equal('{"index":1,"result":7}\n', cli.run(ECHO, "7\n", { "--input", "-", "--output", "-" }).out)
    end)
  end)

  describe("a bad line becomes an error line, its neighbours are answered, the exit status is 1:", function()
    local function between_neighbours(line, part)
      local r = cli.run(ECHO, '"before"\n' .. line .. '\n"after"\n')
      assert.equal('{"index":1,"result":"before"}', r.lines[1])
      assert_error(r.lines[2], "bad_input", part)
      assert.equal('{"index":3,"result":"after"}', r.lines[3])
      assert.equal(1, r.status)
    end

    local BROKEN = { "{", "}", '{"a":}', '{"a" 1}', "[1,]", "[1 2]", '"open', "nul", "NaN", "Infinity", "-Infinity",
      "0x10", "+1", "1 2", "'single'", '{"a":1} trailing', "\\", '"\\x"', '"\\ud800"', "{1:2}", ",", "tru", "\0",
      '"a\tb"', '"a\0"', "1.", "1e999", "01", ".5", '"\\udc00"', '"\\ud800\\u0041"', "[1]\0" }
    for _, text in ipairs(BROKEN) do
      it(("broken JSON, %q"):format(text), function() between_neighbours(text, "broken JSON") end)
    end

    local NOT_UTF8 = {
      ["a lone continuation byte"] = "\128", ["a lead byte without the rest"] = "\195",
      ["an overlong form of two bytes"] = "\192\175", ["an overlong form of three"] = "\224\128\175",
      ["an overlong form of four"] = "\240\128\128\175", ["a surrogate"] = "\237\160\128",
      ["a code point above U+10FFFF"] = "\244\144\128\128", ["the byte FE"] = "\254", ["the byte FF"] = "\255",
      ["a sequence cut short by a letter"] = "\226\130a", ["a sequence of five bytes"] = "\248\136\128\128\128",
      ["Latin-1"] = "caf\233",
    }
    for name, bytes in pairs(NOT_UTF8) do
      it("invalid UTF-8, " .. name, function() between_neighbours('"' .. bytes .. '"', "invalid UTF-8 at byte") end)
    end

    it("invalid UTF-8, with the position of the first wrong byte", function()
      between_neighbours('"h\195\169llo \255"', "invalid UTF-8 at byte 9")
    end)

    it("UTF-16 text", function()
      local r = cli.run(ECHO, "\255\254{\0}\0\n\0")
      assert_error(r.lines[1], "bad_input", "invalid UTF-8 at byte 1")
    end)

    it("a bomb of nested brackets", function()
      between_neighbours(("["):rep(100000) .. ("]"):rep(100000), "nested")
    end)

    it("a cost that the estimator cannot give, naming the value", function()
      local script = [[return {
        token_estimator = function(r)
          if r == "raise" then error "no idea" end
          if r == "nan" then return 0 / 0 elseif r == "string" then return "12" end
          if r == "negative" then return -1 end
          if r == "ok" then return 1 end
        end,
        inference_fn = function(records) return records end }]]
      local r = cli.run(script, '"ok"\n"raise"\n"nan"\n"string"\n"negative"\n"nil"\n{"a":1}\nnull\n"ok"\n')
      assert.equal('{"index":1,"result":"ok"}', r.lines[1])
      for i, part in ipairs { "no idea", "nan", '"12"', "-1", "nil", "nil", "nil" } do
        assert_error(r.lines[i + 1], "bad_cost", part)
        assert_error(r.lines[i + 1], "bad_cost", "token_estimator")
      end
      assert.equal('{"index":9,"result":"ok"}', r.lines[9])
      assert.equal(1, r.status)
    end)

    it("a record that the estimator cannot index, naming the script's line", function()
      local script = "return { token_estimator = function(r) return #r.text end,\n"
        .. "inference_fn = function(r) return r end }"
      local r = cli.run(script, '{"text":"x"}\n{"txt":"x"}\nnull\n7\n{"text":"y"}\n')
      assert.equal('{"index":1,"result":{"text":"x"}}', r.lines[1])
      for i = 2, 4 do assert_error(r.lines[i], "bad_cost", "script.lua:1:") end
      assert.equal('{"index":5,"result":{"text":"y"}}', r.lines[5])
    end)
  end)

  describe("records and results", function()
    it("may be any JSON value", function()
      local values = { "null", "true", "false", "0", "-1", "1.5", '""', '"x"', "{}", "[1,2]", '{"a":[{"b":null}]}' }
      local r = cli.run(ECHO, table.concat(values, "\n"))
      for i, value in ipairs(values) do assert.equal(('{"index":%d,"result":%s}'):format(i, value), r.lines[i]) end
      assert.equal(0, r.status)
    end)

    it("keep numbers exact, in as few digits as do", function()
      local values = { "1", "1.5", "1e+20", "0.1", "-0.25", "9007199254740991", "9007199254740992", "1e-07",
        "0.1234567890123456", "1.7976931348623157e+308", "-123456789012" }
      local r = cli.run(ECHO, table.concat(values, "\n"))
      for i, value in ipairs(values) do assert.equal(('{"index":%d,"result":%s}'):format(i, value), r.lines[i]) end
      assert.equal('{"index":1,"result":0.30000000000000004}\n', cli.run(answering "0.1 + 0.2", "1").out)
      assert.equal('{"index":1,"result":-0}\n', cli.run(answering "-0", "1").out)
    end)

    it("keep text: Unicode as it is, control characters escaped, slashes plain", function()
      local text = [["h\u00e9llo \ud83d\ude00 \u0000\u001f\b\f\n\r\t \" \\ / \u007f"]]
      local r = cli.run(ECHO, text)
      assert.equal([[{"index":1,"result":"h]] .. "\195\169llo \240\159\152\128 " .. [[\u0000\u001f\b\f\n\r\t \" \\ / ]]
        .. "\127\"}", r.lines[1])
    end)

    it("have sorted keys at every level, the same bytes on every run", function()
      local script = answering [[{ z = 1, a = { y = { 1, { d = 1, c = 2 } }, x = 1, w = 2 }, m = "m",
        [2] = 2, [10] = 3 }]]
      local first = cli.run(script, ("1\n"):rep(50)).out
      assert.equal('{"index":1,"result":{"2":2,"10":3,"a":{"w":2,"x":1,"y":[1,{"c":2,"d":1}]},"m":"m","z":1}}',
        first:match "^[^\n]*")
      for _ = 1, 3 do assert.equal(first, cli.run(script, ("1\n"):rep(50)).out) end
    end)

    it("may be false, cjson.null, or an empty table", function()
      local r = cli.run(answering '({ false, require("cjson").null, {} })[r]', "1\n2\n3\n")
      assert.same({ '{"index":1,"result":false}', '{"index":2,"result":null}', '{"index":3,"result":{}}' }, r.lines)
    end)

    it("write a table with numeric keys that is no list as an object", function()
      assert.equal('{"index":1,"result":{"1":"a","1.5":"b","3":"c"}}\n',
        cli.run(answering '{ "a", [1.5] = "b", [3] = "c" }', "1").out)
    end)

    it("without a JSON form fail alone, with bad_output", function()
      local forms = {
        { "print", "a function" }, { "0 / 0", "nan" }, { "1 / 0", "inf" }, { "{ { x = -1 / 0 } }", "-inf" },
        { "coroutine.create(print)", "a thread" }, { "{ [print] = 1 }", "a function as a key" },
        { "(function() local t = {} t.t = t return t end)()", "containing itself" },
        { "(function() local t = {} t[1] = t t[2] = t return t end)()", "containing itself" },
        { '"\\255"', "not UTF-8" }, { '{ ["\\255"] = 1 }', "not UTF-8" }, { "{ [true] = 1 }", "a boolean as a key" },
        { '{ [1] = "a", ["1"] = "b", x = 1 }', 'the keys 1 and "1"' }, { "io.stdout", "a userdata" },
      }
      for _, form in ipairs(forms) do
        local r = cli.run(answering(('r == "bad" and %s or r'):format(form[1])), '"good"\n"bad"\n"good"\n')
        assert.equal('{"index":1,"result":"good"}', r.lines[1])
        assert_error(r.lines[2], "bad_output", form[2])
        assert.equal('{"index":3,"result":"good"}', r.lines[3])
        assert.equal(1, r.status)
      end
    end)

    it("may be long: a line of 10 MB in and out", function()
      local text = ("0123456789abcdef"):rep(2 ^ 16 * 10)
      local r = cli.run(ECHO, '"' .. text .. '"\n"next"\n')
      assert.is_true(r.lines[1] == '{"index":1,"result":"' .. text .. '"}')
      assert.equal('{"index":2,"result":"next"}', r.lines[2])
    end)
  end)

  describe("the inference function", function()
    it("that raises fails its batch with the script's line, the other batches are answered", function()
      local script = [[return { max_batch_size = 1, inference_fn = function(records)
        if records[1] == "bad" then error "the model is gone" end
        return records
      end }]]
      local r = cli.run(script, '"good"\n"bad"\n"good"\n')
      assert.equal('{"index":1,"result":"good"}', r.lines[1])
      assert_error(r.lines[2], "inference_failed", "script.lua:2: the model is gone")
      assert.equal('{"index":3,"result":"good"}', r.lines[3])
      assert.equal(1, r.status)
      assert.truthy(r.err:find("inference_failed 1", 1, true))
      assert.truthy(r.err:find("line 2: inference_failed", 1, true))
    end)

    it("may raise what is no string", function()
      for raised, part in pairs { ["{}"] = "table", ["nil"] = "nil", ["7"] = "7", ["false"] = "false" } do
        local r = cli.run("return { inference_fn = function() error(" .. raised .. ") end }", "1")
        assert_error(r.lines[1], "inference_failed", part)
      end
    end)

    it("may raise a message that is not UTF-8: the line stays valid JSON", function()
      local r = cli.run([[return { inference_fn = function() error("\255\0!", 0) end }]], "1")
      assert_error(r.lines[1], "inference_failed", "\239\191\189\0!")
    end)

    it("that returns the wrong thing fails every record of the batch, saying what it returned", function()
      local forms = { { "{}", "returned 0 results for a batch of 2" }, { "{1}", "returned 1 results" },
        { "{1,2,3}", "returned 3 results" }, { "nil", "returned nil" }, { '"x"', "returned a string" },
        { "{nil,2}", "hole at position 1" }, { "7", "returned a number" }, { "nil, 'out of memory'", "out of memory" } }
      for _, form in ipairs(forms) do
        local r = cli.run("return { inference_fn = function() return " .. form[1] .. " end }", "1\n2\n")
        for i = 1, 2 do assert_error(r.lines[i], "inference_failed", form[2]) end
        assert.equal(1, r.status)
      end
    end)

    it("fails single records with tb.failure", function()
      local script = answering 'r == 2 and require("tokenbatcher").failure("too old") or r'
      local r = cli.run(script, "1\n2\n3\n")
      assert.equal('{"index":1,"result":1}', r.lines[1])
      assert_error(r.lines[2], "inference_failed", "too old")
      assert.equal('{"index":3,"result":3}', r.lines[3])
    end)

    it("that is too slow fails with inference_timeout", function()
      local script = [[local tb = require "tokenbatcher"
        return { max_batch_size = 1, inference_timeout_s = 0.01, inference_fn = function(records)
          if records[1] == "slow" then tb.sleep(3600) end
          return records
        end }]]
      local r = cli.run(script, '"quick"\n"slow"\n"quick"\n')
      assert_error(r.lines[2], "inference_timeout", "0.01")
      assert.same({ '{"index":1,"result":"quick"}', '{"index":3,"result":"quick"}' }, { r.lines[1], r.lines[3] })
      assert.equal(1, r.status)
    end)

    it("prints to standard error, not among the answers", function()
      local r = cli.run(answering "(print('debug', nil, r)) or r", "1\n")
      assert.equal('{"index":1,"result":1}\n', r.out)
      assert.truthy(r.err:find("debug\tnil\t1\n", 1, true))
    end)
  end)

  describe("options of the batcher", function()
    it("on_full = reject refuses what does not fit, in its place", function()
      local script = "return { max_queue_size = 2, on_full = 'reject', inference_fn = function(r) return r end }"
      local r = cli.run(script, "1\n2\n3\n4\n")
      assert.equal('{"index":1,"result":1}', r.lines[1])
      assert.equal('{"index":2,"result":2}', r.lines[2])
      for i = 3, 4 do assert_error(r.lines[i], "queue_full", "max_queue_size = 2") end
      assert.equal(1, r.status)
    end)

    it("on_oversize = reject refuses the record that is too large", function()
      local r = cli.run(ECHO, '"a"\n', { "--set", "default_cost=5", "--set", "target_batch_tokens=4",
        "--set", "on_oversize=reject" })
      assert_error(r.lines[1], "oversize", "target_batch_cost = 4")
      assert.equal(1, r.status)
    end)

    it("--set wins over the script, the pair's other name included, and the last --set wins", function()
      local script = [[return { target_batch_tokens = 1, inference_fn = function(r, info)
        local out = {} for i = 1, #r do out[i] = info.size end return out
      end }]]
      assert.equal('{"index":1,"result":1}', cli.run(script, "1\n1\n1\n").lines[1])
      assert.equal('{"index":1,"result":3}', cli.run(script, "1\n1\n1\n", { "--set", "target_batch_cost=3" }).lines[1])
      for _ = 1, 5 do
        local r = cli.run(script, "1\n1\n1\n", { "--set", "target_batch_tokens=3", "--set", "target_batch_cost=2" })
        assert.equal('{"index":1,"result":2}', r.lines[1])
      end
    end)

    it("--set option=none takes a limit away", function()
      local script = "return { max_wait_s = 5, max_queue_cost = 1, on_full = 'reject', " .. ECHO:match "return {(.*)"
      assert.equal(1, cli.run(script, "1\n2\n").status)
      local r = cli.run(script, "1\n2\n", { "--set", "max_queue_cost=none", "--set", "max_wait_s=none" })
      assert.equal(0, r.status)
    end)
  end)

  describe("--unordered", function()
    -- The first record waits, in the second slot, until the second one is answered.
    local OVERTAKING = [[local tb = require "tokenbatcher"
      local answered = false
      return { max_batch_size = 1, max_concurrent_batches = 2, inference_fn = function(records)
        if records[1] == "first" then while not answered do tb.sleep(0) end end
        answered = true
        return records
      end }]]

    it("writes answers as they come", function()
      local r = cli.run(OVERTAKING, '"first"\n"second"\n', { "--unordered" })
      assert.same({ '{"index":2,"result":"second"}', '{"index":1,"result":"first"}' }, r.lines)
    end)

    it("is not the default", function()
      local r = cli.run(OVERTAKING, '"first"\n"second"\n')
      assert.same({ '{"index":1,"result":"first"}', '{"index":2,"result":"second"}' }, r.lines)
    end)
  end)

  describe("decode and encode of the script", function()
    local function with(decode, encode)
      return ("return { decode = %s, encode = %s, inference_fn = function(r) return r end }"):format(decode, encode)
    end

    it("make records of lines and lines of answers", function()
      local r = cli.run(with("function(line) return line:upper() end",
        "function(record, result, err) return record .. '=' .. tostring(result) .. tostring(err) end"), "a\nb\n")
      assert.equal("A=Anil\nB=Bnil\n", r.out)
    end)

    it("may return tables from encode: written as JSON with sorted keys", function()
      assert.equal('{"a":1,"b":[7]}\n', cli.run(with("nil", "function(r) return { b = { r }, a = 1 } end"), "7\n").out)
    end)

    it("see the err of a failed record, and the record counts as failed", function()
      local script = [[return { inference_fn = function() error("boom", 0) end,
        encode = function(record, result, err) return record .. err.code .. err.message .. tostring(result) end }]]
      local r = cli.run(script, '"x"\n')
      assert.equal("xinference_failedboomnil\n", r.out)
      assert.equal(1, r.status)
    end)

    it("that fail in decode make a bad_input line each", function()
      local r = cli.run(with("function(line) if line == 'r' then error('no way', 0) end if line == 'm' then "
        .. "return nil, 'too short' end if line == 'o' then return line end end", "nil"), "r\nm\nn\no\n")
      assert_error(r.lines[1], "bad_input", "decode raised: no way")
      assert_error(r.lines[2], "bad_input", "decode returned nil: too short")
      assert_error(r.lines[3], "bad_input", "decode returned nil")
      assert.equal('{"index":4,"result":"o"}', r.lines[4])
      assert.equal(1, r.status)
    end)

    it("that fail in encode make a bad_output line each", function()
      local r = cli.run(with("nil", "function(r) if r == 1 then error('no way', 0) end if r == 2 then return nil end "
        .. "if r == 3 then return print end return 'fine' end"), "1\n2\n3\n4\n")
      assert_error(r.lines[1], "bad_output", "encode raised: no way")
      assert_error(r.lines[2], "bad_output", "encode returned nil")
      assert_error(r.lines[3], "bad_output", "a function")
      assert.equal("fine", r.lines[4])
      assert.equal(1, r.status)
    end)

    it("must not suspend", function()
      local r = cli.run([[local tb = require "tokenbatcher"
        return { decode = function(l) if l == "d" then tb.sleep(0) end return l end,
          encode = function(r) tb.sleep(0) return r end, inference_fn = function(r) return r end }]], "d\ne\n")
      assert_error(r.lines[1], "bad_input", "decode function")
      assert_error(r.lines[2], "bad_output", "encode function")
    end)
  end)

  describe("the examples", function()
    it("pass check, and answer", function()
      for _, name in ipairs { "simulated_accelerator", "plain_text", "failures" } do
        assert.equal(0, cli.command({ "check", "examples/" .. name .. ".lua" }).status, name)
      end
      assert.equal("to be\t2\n", cli.command({ "run", "examples/plain_text.lua" }, "to be\n").out)
      assert.equal('{"index":1,"result":2}', cli.command({ "run", "examples/failures.lua" }, "4\n-1\n").lines[1])
      local r = cli.command { "run", "examples/simulated_accelerator.lua", "--input", "examples/prompts.jsonl",
        "--base-s", "0", "--per-token-s", "0" }
      assert.equal(240, #r.lines)
      assert.equal(0, r.status)
    end)

    it("answer the 1,319 questions of GSM8K", function()
      local path = "../shared/data/prompts/gsm8k_test.jsonl"
      local file = io.open(path)
      if not file then return pending("skipped: no ../shared/data") end
      file:close()
      local r = cli.command { "run", "examples/simulated_accelerator.lua", "--input", path,
        "--base-s", "0.001", "--per-token-s", "0" }
      assert.equal(1319, #r.lines)
      for i, line in ipairs(r.lines) do assert.equal(i, cjson.decode(line).index) end
      assert.equal(0, r.status)
    end)
  end)
end)
