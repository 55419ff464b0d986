-- What the command line says when it is used wrongly, and its help: exit status 2 and a
-- message that names the culprit.

local cli = dofile "tests/lua/cli_helper.lua"

local ECHO = cli.ECHO

local function assert_says(result, ...)
  assert.equal(2, result.status, result.err)
  assert.equal("", result.out)
  for _, part in ipairs { ... } do
    assert.truthy(result.err:find(part, 1, true), ("'%s' is not in: %s"):format(part, result.err))
  end
  assert.is_nil(result.err:find("stack traceback", 1, true), result.err)
end

describe("tokenbatcher", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  describe("exits with 2 and names the culprit:", function()
    local echo
    setup(function() echo = cli.file("echo.lua", ECHO) end)

    local function refuses(args, ...)
      assert_says(cli.command(args, "1\n"), ...)
    end

    it("no command", function() refuses({}, "command is required", "--help") end)
    it("an unknown command", function() refuses({ "frobnicate" }, "frobnicate", "--help") end)
    it("an unknown flag", function()
      refuses({ "run", echo, "--bogus" }, "--bogus")
      refuses({ "run", "--bogus", echo }, "--bogus")
      refuses({ "run", echo, "--outptu", "x" }, "--outptu", "--output")
    end)
    it("a missing script", function()
      refuses({ "run" }, "script")
      refuses({ "check" }, "script")
    end)
    it("a second script", function() refuses({ "run", echo, "other.lua" }, "other.lua") end)
    it("a flag without its value", function()
      refuses({ "run", echo, "--input" }, "--input")
      refuses({ "run", echo, "--set" }, "--set")
    end)
    it("an input that does not exist", function()
      refuses({ "run", echo, "--input", "/nowhere/in.jsonl" }, "/nowhere/in.jsonl", "No such file")
    end)
    it("an input that is a directory", function()
      refuses({ "run", echo, "--input", cli.folder }, cli.folder, "Is a directory")
    end)
    it("an output that cannot be opened", function()
      refuses({ "run", echo, "--output", "/nowhere/out.jsonl" }, "/nowhere/out.jsonl", "No such file")
      refuses({ "run", echo, "--output", cli.folder }, cli.folder, "Is a directory")
    end)
    it("an output that is the input, which stays as it is", function()
      local both = cli.file("both.jsonl", "1\n")
      refuses({ "run", echo, "--input", both, "--output", both }, both, "output")
      assert.equal("1\n", cli.read(both))
    end)
    it("an output that is full", function()
      refuses({ "run", echo, "--output", "/dev/full" }, "cannot write the output", "No space left")
      assert_says(cli.shell(cli.quote(cli.exe) .. " run " .. echo .. " >/dev/full", "1\n"), "No space left")
      assert_says(cli.shell(cli.quote(cli.exe) .. " check " .. echo .. " >/dev/full"), "No space left")
      assert_says(cli.shell(cli.quote(cli.exe) .. " --help >/dev/full"), "No space left")
    end)
    it("a standard stream that is closed", function()
      assert_says(cli.shell(cli.quote(cli.exe) .. " run " .. echo .. " <&-"), "standard input", "Bad file descriptor")
      assert_says(cli.shell(cli.quote(cli.exe) .. " run " .. echo .. " >&-", "1\n"), "output", "Bad file descriptor")
    end)
    it("and leaves an output alone when the script is wrong", function()
      local kept = cli.file("kept.jsonl", "precious\n")
      refuses({ "run", cli.file("bad.lua", "return 7"), "--output", kept }, "bad.lua")
      assert.equal("precious\n", cli.read(kept))
    end)

    local SETTINGS = {
      ["without a value"] = { "max_batch_size", "max_batch_size" },
      ["with an unknown option, and the nearest name"] = { "max_bach_size=1", "max_bach_size", "max_batch_size" },
      ["with an ill-typed value"] = { "max_batch_size=many", "max_batch_size", '"many"' },
      ["with a fraction where a whole number is needed"] = { "max_batch_size=1.5", "max_batch_size", "1.5" },
      ["with a value out of range"] = { "max_batch_size=0", "max_batch_size", "from 1" },
      ["with nan"] = { "batch_timeout_s=nan", "batch_timeout_s", "nan" },
      ["with infinity"] = { "batch_timeout_s=inf", "batch_timeout_s", "inf" },
      ["with an unknown choice, and the nearest one"] = { "on_full=rejct", "on_full", "rejct", "reject" },
      ["with a function's name"] = { "inference_fn=print", "inference_fn", "function" },
      ["with none where there must be a value"] = { "max_batch_size=none", "max_batch_size", "none" },
      ["with an empty value"] = { "max_batch_size=", "max_batch_size" },
      ["with a minimum above the maximum"] = { "min_batch_size=300", "min_batch_size", "300", "max_batch_size", "256" },
    }
    for name, setting in pairs(SETTINGS) do
      it("--set " .. name, function()
        refuses({ "run", echo, "--set", setting[1] }, unpack(setting, 2))
        local checked = cli.command { "check", echo, "--set", setting[1] }
        assert.equal(2, checked.status)
        assert.truthy((checked.out .. checked.err):find(setting[2], 1, true))
      end)
    end
  end)

  describe("refuses a script that", function()
    local function refuses(text, ...)
      assert_says(cli.run(text, "1\n"), "script.lua", ...)
    end

    it("does not exist", function()
      assert_says(cli.command { "run", "/nowhere.lua" }, "/nowhere.lua", "No such file")
    end)
    it("is a directory", function()
      assert_says(cli.command { "run", cli.folder }, cli.folder, "directory")
    end)
    it("does not parse", function() refuses("return {\n  inference_fn = \n}", "script.lua:3:") end)
    it("is bytecode", function() refuses(string.dump(loadstring(ECHO)), "bytecode") end)
    it("raises", function()
      refuses("\nerror 'no model here'", "script.lua:2: no model here")
      refuses("error({}, 0)")
    end)
    it("returns no table", function()
      refuses("", "nil")
      refuses("return nil", "nil")
      refuses("return 7", "a number")
      refuses("return false", "a boolean")
      refuses("return function() end", "a function")
    end)
    it("has no inference function", function() refuses("return {}", "inference_fn") end)
    it("has an inference function that is none", function()
      refuses("return { inference_fn = 7 }", "inference_fn", "7")
    end)
    it("has an unknown option, and names the nearest", function()
      refuses("return { inference_fn = print, max_bach_size = 1 }", "max_bach_size", "max_batch_size")
      refuses("return { inference_fn = print, decod = print }", "decod", "'decode'")
      refuses("return { inference_fn = print, 7 }", "'1'")
    end)
    it("has an option of the wrong type or range", function()
      refuses("return { inference_fn = print, max_batch_size = '8' }", "max_batch_size", '"8"')
      refuses("return { inference_fn = print, batch_timeout_s = -1 }", "batch_timeout_s", "-1")
      refuses("return { inference_fn = print, min_batch_size = 9, max_batch_size = 8 }", "min_batch_size",
        "max_batch_size")
    end)
    it("has a decode or an encode that is no function", function()
      refuses("return { inference_fn = print, decode = 1 }", "'decode'", "a number")
      refuses("return { inference_fn = print, encode = {} }", "'encode'", "a table")
    end)
  end)

  it("takes a script that begins with a shebang or a byte order mark", function()
    assert.equal(0, cli.run("#!/usr/bin/env tokenbatcher\n" .. ECHO, "1\n").status)
    assert.equal(0, cli.run("\239\187\191" .. ECHO, "1\n").status)
  end)

  describe("options of the script's own", function()
    local OWN = [[return {
      options = { base_url = { "where the model is", "http://localhost" }, retries = { "how often", 3 },
        is_dry = { "call nothing", false } },
      setup = function(opt)
        return { inference_fn = function(records)
          local results = {}
          for i = 1, #records do results[i] = { opt.base_url, opt.retries, opt.is_dry } end
          return results
        end }
      end }]]

    local function result(args)
      return cli.run(OWN, "1\n", args).lines[1]
    end

    it("have their defaults", function()
      assert.equal('{"index":1,"result":["http://localhost",3,false]}', result {})
    end)

    it("are given as flags, typed by their defaults, before the script or after it", function()
      local expected = '{"index":1,"result":["x=y",-1.5,true]}'
      assert.equal(expected, result { "--base-url", "x=y", "--retries", "-1.5", "--is-dry", "true" })
      assert.equal(expected, result { "--base-url=x=y", "--retries=-1.5", "--is-dry=true" })
      local r = cli.command({ "run", "--retries", "7", "--set", "max_batch_size=1", cli.path "script.lua" }, "1\n")
      assert.equal('{"index":1,"result":["http://localhost",7,false]}', r.lines[1])
    end)

    it("are shown by --help, with their defaults", function()
      for _, command in ipairs { "run", "check" } do
        local r = cli.command { command, cli.file("script.lua", OWN), "--help" }
        assert.equal(0, r.status)
        for _, part in ipairs { "--base-url", "where the model is", "http://localhost", "--retries", "how often", "3",
          "--is-dry", "<boolean>", "false" } do
          assert.truthy(r.out:find(part, 1, true), part)
        end
      end
    end)

    it("of the wrong type, or unknown, are refused", function()
      assert_says(cli.run(OWN, "1\n", { "--retries", "often" }), "--retries", "number", "often")
      assert_says(cli.run(OWN, "1\n", { "--retries", "nan" }), "--retries", "number", "nan")
      assert_says(cli.run(OWN, "1\n", { "--is-dry", "maybe" }), "--is-dry", "true or false", "maybe")
      assert_says(cli.run(OWN, "1\n", { "--base-ulr", "x" }), "--base-ulr", "--base-url")
      assert_says(cli.run(OWN, "1\n", { "--retries" }), "--retries")
    end)

    it("must not have the names of the command line's own", function()
      for _, name in ipairs { "input", "output", "set", "unordered", "help", "sample" } do
        local text = "return { options = { " .. name .. " = { 'x', 1 } }, setup = function() return {} end }"
        assert_says(cli.run(text), "script.lua", "'" .. name .. "'", "--" .. name)
      end
    end)

    it("must be declared as {help, default}", function()
      local function refuses(specs, ...)
        local text = "return { options = " .. specs .. ", setup = function() return {} end }"
        assert_says(cli.run(text), "script.lua", ...)
      end
      refuses("7", "'options'", "a number")
      refuses("{ rate = 7 }", "'rate'", "{help, default}")
      refuses("{ rate = { 'x' } }", "'rate'", "default")
      refuses("{ rate = { 'x', {} } }", "'rate'", "default")
      refuses("{ ['two words'] = { 'x', 1 } }", "two words")
      refuses("{ { 'x', 1 } }", "a word")
    end)

    it("need a setup, a function that returns a table", function()
      local declared = "options = { a = { 'x', 1 } }"
      assert_says(cli.run("return { " .. declared .. ", inference_fn = print }"), "'options' needs a 'setup'")
      assert_says(cli.run("return { " .. declared .. ", setup = 7 }"), "'setup' must be a function")
      assert_says(cli.run("return { " .. declared .. ", setup = function() end }"), "'setup' must return a table")
      assert_says(cli.run("return { setup = function() error 'no key' end }"), "'setup' raised: ", "lua:1: no key")
      assert_says(cli.run("return { setup = function() return {} end }"), "inference_fn")
      assert_says(cli.run("return { setup = function() return {} end, encode = print }"),
        "'encode' stands beside 'setup'")
    end)
  end)

  describe("help", function()
    it("is there on every level, on standard output, with exit status 0", function()
      for _, args in ipairs { { "--help" }, { "-h" }, { "run", "--help" }, { "check", "--help" }, { "run", "-h" } } do
        local r = cli.command(args)
        assert.equal(0, r.status)
        assert.equal("", r.err)
        assert.truthy(r.out:find("Usage: tokenbatcher", 1, true))
      end
    end)

    it("lists every option of the one table that --set takes, with its default", function()
      local text = cli.command({ "run", "--help" }).out
      local unwrapped = text:gsub("%s+", " ")
      for _, entry in ipairs(require("tokenbatcher.core.options").list) do
        if entry.kind ~= "function" then
          assert.truthy(text:find("  " .. entry.name, 1, true), entry.name)
          assert.truthy(unwrapped:find(entry.text, 1, true), entry.text)
        end
      end
      assert.truthy(text:find("target_batch_cost, target_batch_tokens = 32000 tokens", 1, true))
      assert.truthy(text:find("inference_timeout_s = none s", 1, true))
    end)

    it("is there, with a warning, when the script cannot be loaded", function()
      local r = cli.command { "run", "/nowhere.lua", "--help" }
      assert.equal(0, r.status)
      assert.truthy(r.out:find("--input", 1, true))
      assert.truthy(r.err:find("/nowhere.lua", 1, true))
    end)

    it("tells the version", function()
      assert.equal("tokenbatcher " .. require("tokenbatcher")._VERSION .. "\n", cli.command({ "--version" }).out)
    end)
  end)

  it("runs from any directory with an empty environment", function()
    local path = cli.file("script.lua", 'assert(require "tokenbatcher" and require "cjson")\n' .. ECHO)
    local r = cli.shell(("cd / && env -i %s run %s"):format(cli.quote(cli.exe), cli.quote(path)), "1\n")
    assert.equal('{"index":1,"result":1}\n', r.out)
    assert.equal(0, r.status)
    r = cli.shell(("cd / && env -i LUA_PATH=/nowhere/?.lua LUA_CPATH=/nowhere/?.so TOKENBATCHER_LIB=/nowhere %s run %s")
      :format(cli.quote(cli.exe), cli.quote(path)), "1\n")
    assert.equal('{"index":1,"result":1}\n', r.out)
  end)

  describe("check", function()
    it("passes a good script and says what it found", function()
      local r = cli.check("return { token_estimator = function(r) return #r.text end, inference_fn = print }")
      assert.equal(0, r.status)
      assert.equal("", r.err)
      assert.truthy(r.out:find("token_estimator: the sample record costs 12", 1, true))
      assert.truthy(r.out:find("policy fifo: it dispatched", 1, true))
      assert.is_nil(r.out:find("note", 1, true))
    end)

    it("does not call the inference function", function()
      assert.equal(0, cli.check("return { inference_fn = function() os.exit(77) end }").status)
    end)

    it("notes that there is no estimator", function()
      local r = cli.check(ECHO)
      assert.equal(0, r.status)
      assert.truthy(r.out:find("note +no token_estimator"))
    end)

    it("notes a record that is larger than the budget", function()
      local r = cli.check(ECHO, { "--set", "default_cost=9", "--set", "target_batch_tokens=8" })
      assert.equal(0, r.status)
      assert.truthy(r.out:find("exceeds target_batch_cost = 8", 1, true))
    end)

    it("notes a record that would be refused", function()
      local r = cli.check(ECHO, { "--set", "default_cost=9", "--set", "target_batch_tokens=8", "--set",
        "on_oversize=reject" })
      assert.equal(0, r.status)
      assert.truthy(r.out:find("note +the sample record is refused: oversize"))
    end)

    local function fails(script, args, ...)
      local r = cli.check(script, args)
      assert.equal(2, r.status)
      for _, part in ipairs { ... } do
        assert.truthy((r.out .. r.err):find(part, 1, true), ("'%s' is not in: %s"):format(part, r.out .. r.err))
      end
    end

    it("fails a script without an inference function", function() fails("return {}", {}, "FAIL", "inference_fn") end)
    it("fails a script with a wrong option", function()
      fails("return { inference_fn = print, max_bach_size = 1 }", {}, "FAIL", "max_bach_size", "max_batch_size")
      fails("return { inference_fn = print, min_batch_size = 500 }", {}, "FAIL", "min_batch_size")
    end)
    it("fails a script that does not load", function() fails("return {", {}, "script.lua:1:") end)
    it("fails an estimator that raises, or whose answer is no cost", function()
      fails("return { token_estimator = function(r) return #r.review end, inference_fn = print }", {},
        "FAIL", "token_estimator", "script.lua:1:", "--sample")
      fails("return { token_estimator = function(r) return 'x' end, inference_fn = print }", {}, "FAIL", '"x"')
      fails("return { cost_estimator = function(r) end, inference_fn = print }", {}, "FAIL", "cost_estimator", "nil")
    end)
    it("fails a decode that raises or gives nothing", function()
      fails("return { decode = function() error 'what?' end, inference_fn = print }", {}, "FAIL", "what?", "--sample")
      fails("return { decode = function() return nil, 'no comma' end, inference_fn = print }", {}, "FAIL", "no comma")
    end)

    it("tries the line given with --sample", function()
      local script = "return { token_estimator = function(r) return #r.review end, inference_fn = print }"
      local r = cli.check(script, { "--sample", '{"review":"four"}' })
      assert.equal(0, r.status)
      assert.truthy(r.out:find("costs 4", 1, true))
      fails(script, { "--sample", "{" }, "FAIL", "broken JSON")
      fails(script, { "--sample", '"\255"' }, "FAIL", "UTF-8")
    end)

    it("takes the script's own options", function()
      local script = [[return { options = { cost = { "x", 1 } }, setup = function(opt)
        return { inference_fn = print, token_estimator = function() return opt.cost end } end }]]
      assert.truthy(cli.check(script, { "--cost", "5" }).out:find("costs 5", 1, true))
    end)
  end)
end)
