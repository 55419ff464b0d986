-- What a record of a job says of itself, what limits a job, and where a script finds its files.

local cli = dofile "tests/lua/cli_helper.lua"

local function run(script, lines, args)
  return cli.run(script, table.concat(lines, "\n") .. "\n", args)
end

-- Answers each record with what the policy and the call saw of it.
local SEEN = [[
local seen = {}
return { %s
  decode = function(line) return require("cjson").decode(line) end,
  policy = { form = function(queue, batch, now)
    if not queue.due then return end
    for i = 1, queue.size do
      if batch:add(i) then
        local deadline = queue:deadline(i)
        seen[queue:record(i)] = { key = queue:key(i), group = queue:group(i), priority = queue:priority(i),
          timeout = deadline and math.floor(deadline - now + queue:age(i) + 0.5) }
      end
    end
  end },
  inference_fn = function(records, info)
    local results = {}
    for i, r in ipairs(records) do results[i] = seen[r] end
    return results
  end }]]

local function seen(more) return SEEN:format(more or "") end

describe("A record of tokenbatcher run", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  it("carries its custom_id into its answer, beside index, and into its error line", function()
    local r = run([[return { inference_fn = function(records)
        local out = {}
        for i, r in ipairs(records) do
          out[i] = type(r) == "table" and r.bad and require("tokenbatcher").failure "bad" or 1
        end
        return out
      end }]], { '{"custom_id":"a\\"b"}', '{"custom_id":7,"bad":true}', '{"x":1}', "5", '{"custom_id":null}' })
    assert.same({
      '{"index":1,"custom_id":"a\\"b","result":1}',
      '{"index":2,"custom_id":7,"error":{"code":"inference_failed","message":"bad"}}',
      '{"index":3,"result":1}', '{"index":4,"result":1}', '{"index":5,"result":1}',
    }, r.lines)
  end)

  it("carries what --id-field names, also from within another field", function()
    local r = run(cli.answering "1", { '{"meta":{"id":"x"},"custom_id":"no"}', '{"meta.id":"y"}' },
      { "--id-field", "meta.id" })
    assert.same({ '{"index":1,"meta.id":"x","result":1}', '{"index":2,"meta.id":"y","result":1}' }, r.lines)
    r = run(cli.answering "1", {}, { "--id-field", "result" })
    assert.equal(2, r.status)
    assert.truthy(r.err:find("another meaning", 1, true), r.err)
  end)

  it("says by fields that flags name whose it is, with whom, how urgent and how long it may wait", function()
    local r = run(seen(), { '{"user":"u1","model":"m","urgent":"3","ttl":90}', '{"user":12,"model":"m"}' },
      { "--key-field", "user", "--group-field", "model", "--priority-field", "urgent", "--timeout-field", "ttl" })
    assert.same({
      '{"index":1,"result":{"group":"m","key":"u1","priority":3,"timeout":90}}',
      '{"index":2,"result":{"group":"m","key":"12","priority":0}}',
    }, r.lines)
  end)

  it("says the same by the script's submit_options; flags win", function()
    local more = [[submit_options = function(r)
      return { key = r.who, group = "g", priority = -1, timeout_s = 40 }
    end,]]
    local r = run(seen(more), { '{"who":"u1","p":5}' }, { "--priority-field", "p" })
    assert.same({ '{"index":1,"result":{"group":"g","key":"u1","priority":5,"timeout":40}}' }, r.lines)
  end)

  it("lingers no longer than its batch_timeout_s", function()
    local r = run("return { batch_timeout_s = 3600, inference_fn = function(r) return r end }", { '{"linger":0}', "2" },
      { "--batch-timeout-field", "linger" })
    assert.equal(0, r.status)
    assert.equal(2, #r.lines)
  end)

  it("whose field does not fit becomes a bad_input line, and no abort", function()
    local r = run(cli.answering "1", { '{"t":0}', '{"t":"soon"}', '{"t":1}', '{"k":{}}', '{"k":true}' },
      { "--timeout-field", "t", "--key-field", "k" })
    assert.equal(1, r.status)
    assert.truthy(r.lines[1]:find("field 't' must be a number of seconds above 0, got 0", 1, true), r.lines[1])
    assert.truthy(r.lines[2]:find('bad_input.*got \\"soon\\"'), r.lines[2])
    assert.equal('{"index":3,"result":1}', r.lines[3])
    assert.truthy(r.lines[4]:find("field 'k' must be a string", 1, true))
    assert.truthy(r.lines[5]:find("field 'k' must be a string", 1, true))
  end)

  it("for which submit_options is wrong becomes a bad_input line that says how", function()
    local r = run([[return { inference_fn = function(r) return r end, submit_options = function(r)
        if r == 1 then error "not this one" end
        if r == 2 then return 5 end
        if r == 3 then return { prioritty = 1 } end
        if r == 4 then return { key = 7 } end
      end }]], { "1", "2", "3", "4", "5" })
    for i, part in ipairs { "submit_options raised: .*not this one", "returned a number, not a table",
      "unknown option 'prioritty'; did you mean 'priority'", "key must be a string, got 7" } do
      assert.truthy(r.lines[i]:find(part), r.lines[i])
      assert.truthy(r.lines[i]:find("bad_input", 1, true))
    end
    assert.equal('{"index":5,"result":5}', r.lines[5])
  end)

  it("without a key, where the policy asks for one, is told of once", function()
    local function told(lines, args)
      local r = run(cli.ECHO, lines, { "--set", "policy=fair", unpack(args) })
      return select(2, r.err:gsub("asks for keys, and no record has one", ""))
    end
    assert.equal(1, told({ '{"u":"a"}', '{"u":"b"}' }, { "--set", "max_batch_size=1" }))
    assert.equal(0, told({ '{"u":"a"}', '{"u":"b"}' }, { "--key-field", "u" }))
  end)
end)

describe("tokenbatcher run is limited by", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  -- How many calls are made before the first wait, which a signal ends.
  local function calls_until_it_waits(options, args)
    local s = cli.start(([[return { batch_timeout_s = 0, %s inference_fn = function(records)
        io.stderr:write("called with ", #records, "\n")
        return records
      end }]]):format(options), args)
    for i = 1, 20 do s:send(i .. "\n") end
    return s
  end

  it("--requests-per-minute and --tokens-per-minute around the script's policy", function()
    for _, args in ipairs { { "--requests-per-minute", "3" }, { "--tokens-per-minute", "3" } } do
      local s = calls_until_it_waits("max_batch_size = 1, policy = 'fair',", args)
      for i = 1, 3 do assert.equal(('{"index":%d,"result":%d}'):format(i, i), s:line()) end
      s:kill "TERM"
      s:message "SIGTERM"
      s:kill "INT"
      local r = s:finish()
      assert.equal(1, r.status)
      assert.truthy(r.err:find("records      3 (3 answered, 0 failed)", 1, true), r.err)
      assert.truthy(r.err:find("policy       rate_limited", 1, true), r.err)
    end
  end)

  it("--concurrency, in place of the script's", function()
    local r = run([[local tb, now, most = require "tokenbatcher", 0, 0
      return { max_batch_size = 1, max_concurrent_batches = 9, inference_fn = function(records)
        now = now + 1
        most = math.max(most, now)
        tb.sleep(0.002)
        now = now - 1
        return { most }
      end }]], { "1", "2", "3", "4", "5", "6" }, { "--concurrency", "3" })
    assert.equal('{"index":6,"result":3}', r.lines[6])
  end)

  it("--max-failures N: ends with 1, sends nothing more, and can be gone on with", function()
    local calls = [[max_batch_size = 1, inference_fn = function(records)
      io.stderr:write "called\n"
      if not io.open(]] .. ("%q"):format(cli.path "works") .. [[) then error "down" end
      return records
    end }]]
    cli.file("in", ("1\n"):rep(500))
    local path = cli.file("script.lua", "return { " .. calls)
    for name, args in pairs { ordered = {}, unordered = { "--unordered" } } do
      os.remove(cli.path "works")
      local words = { "run", path, "--input", cli.path "in", "--output", cli.path(name), unpack(args) }
      words[#words + 1] = "--max-failures=5"
      local r = cli.command(words)
      assert.equal(1, r.status)
      assert.equal(5, select(2, r.err:gsub("called", "")))
      assert.equal(5, select(2, cli.read(cli.path(name)):gsub("\n", "")))
      assert.truthy(r.err:find("5 records have failed (--max-failures)", 1, true))
      assert.truthy(r.err:find("to go on     tokenbatcher run", 1, true))
      cli.file("works", "")
      words[#words] = "--retry-failed"
      r = cli.command(words)
      assert.equal(0, r.status, r.err)
      assert.equal(500, select(2, cli.read(cli.path(name)):gsub('"result":1}\n', "")))
    end
  end)

  it("--max-failures N%, of the answers so far, 100 at the least", function()
    local script = [[return { max_batch_size = 1, inference_fn = function(records)
      if records[1] % 10 == 0 then error "down" end
      return records
    end }]]
    local lines = {}
    for i = 1, 300 do lines[i] = tostring(i) end
    assert.equal(300, #run(script, lines, { "--max-failures", "10%" }).lines)
    local r = run(script, lines, { "--max-failures", "9%" })
    assert.equal(100, #r.lines)
    assert.equal(1, r.status)
    assert.equal(2, run(script, lines, { "--max-failures", "0" }).status)
    assert.equal(2, run(script, lines, { "--max-failures", "101%" }).status)
  end)
end)

describe("The folder of a script", function()
  setup(function()
    cli.new_folder()
    os.execute(("mkdir -p %s %s"):format(cli.path "there/lib", cli.path "here"))
  end)
  teardown(cli.clean)

  -- Run from another folder.
  local function here(words)
    local command = "cd %s && timeout -k 1 60 %s run %s"
    return cli.shell(command:format(cli.quote(cli.path "here"), cli.exe, words), "1\n2\n")
  end

  local POLICY = [[return { form = function(queue, batch)
    io.stderr:write "%s decides\n"
    if queue.due then for i = 1, queue.size do batch:add(i) end end
  end }]]

  it("is where its require, its policies and the scripts of its threads are, wherever it is run", function()
    cli.file("there/helper.lua", "return { answer = 'there' }")
    cli.file("here/helper.lua", "return { answer = 'here' }")
    cli.file("there/lib/init.lua", "return { more = '!' }")
    cli.file("there/pol.lua", POLICY:format "there")
    cli.file("here/pol.lua", POLICY:format "here")
    cli.file("there/worker.lua", [[local helper, lib = require "helper", require "lib"
      return { inference_fn = function(r) return { helper.answer .. lib.more, helper.answer .. lib.more } end }]])
    cli.file("there/script.lua", [[local tb, helper = require "tokenbatcher", require "helper"
      io.stderr:write("module of ", helper.answer, "\n")
      return { policy = "./pol.lua", inference_fn = tb.backend.threads { script = "worker.lua", threads = 1 } }]])
    for _, name in ipairs { "../there/script.lua", cli.path "there/script.lua" } do
      local r = here(name)
      assert.equal(0, r.status, r.err)
      assert.equal('{"index":1,"result":"there!"}', r.lines[1])
      assert.truthy(r.err:find("module of there", 1, true))
      assert.truthy(r.err:find("there decides", 1, true))
      assert.is_nil(("\n" .. r.err):find "\nhere decides")
    end
  end)

  it("is that of a policy within a policy, too", function()
    cli.file("there/inner.lua", [[local tb = require "tokenbatcher"
      return { policy = tb.policy.rate_limited { requests_per_minute = 9, inner = "pol.lua" },
        inference_fn = function(r) return r end }]])
    local r = here "../there/inner.lua"
    assert.equal(0, r.status, r.err)
    assert.truthy(r.err:find("there decides", 1, true), r.err)
  end)

  it("is not that of --set, --record, --input and --output: those are where it is run", function()
    cli.file("there/echo.lua", cli.ECHO)
    local r = here "../there/echo.lua --set policy=./pol.lua --record rec --output out"
    assert.equal(0, r.status, r.err)
    assert.truthy(r.err:find("here decides", 1, true), r.err)
    for _, name in ipairs { "rec", "out", "out.job" } do assert.truthy(io.open(cli.path("here/" .. name)), name) end
  end)

  it("has its modules loaded again at SIGHUP", function()
    cli.file("word.lua", "return 'old'")
    local s = cli.start([[local word = require "word"
      return { batch_timeout_s = 0, inference_fn = function() return { word } end }]])
    s:send "1\n"
    assert.equal('{"index":1,"result":"old"}', s:line())
    cli.file("word.lua", "return 'new'")
    s:kill "HUP"
    s:message "reloaded"
    s:send "2\n"
    assert.equal('{"index":2,"result":"new"}', s:line())
    cli.file("word.lua", "return 'newest'")
    cli.file("script.lua", "return {")
    s:kill "HUP"
    s:message "reload failed"
    s:send "3\n"
    assert.equal('{"index":3,"result":"new"}', s:line())
    s:close_input()
    assert.equal(0, s:finish().status)
  end)
end)

describe("tokenbatcher check --input", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  local SCRIPT = [[return { target_batch_tokens = 10, inference_fn = function() error "it costs" end,
    token_estimator = function(r) return r.n end }]]

  it("tells lines, bad lines by number, tokens and batches, and asks nobody", function()
    local path = cli.file("in", '{"n":3}\n{"n":4}\n\n{"n":5}\n{\n{"n":-1}\n{"n":2}\n')
    local r = cli.check(SCRIPT, { "--input", path })
    assert.equal(1, r.status)
    for _, part in ipairs { "sample record costs 3", "6 lines, 2 of them bad", "line 5: bad_input: broken JSON",
      "line 6: ", "tokens: 14 in all", "the largest record 5 of 10", "batches: 2, of 2.0 records" } do
      assert.truthy(r.out:find(part, 1, true), r.out)
    end
    assert.equal(0, cli.check(SCRIPT, { "--input", cli.file("good", '{"n":3}\n') }).status)
  end)

  it("reads standard input, and names what it cannot read", function()
    local r = cli.shell(("%s check %s --input -"):format(cli.exe, cli.file("script.lua", [[return {
      inference_fn = function(r) return r end }]])), "1\n2\n")
    assert.equal(0, r.status)
    assert.truthy(r.out:find("input: 2 lines, 0 of them bad", 1, true), r.out)
    r = cli.check(SCRIPT, { "--input", "/nowhere/in" })
    assert.equal(2, r.status)
    assert.truthy(r.out:find("cannot open the input", 1, true), r.out)
  end)

  local FUSSY = [[return { inference_fn = setmetatable({
    name = "fussy", max_records = 2, defaults = { max_batch_size = 2 },
    group = function(_, record) return record.kind end,
    problem = function(_, record) return record.n == 3 and "three is not sent" or nil end,
    set_aside = function(_, names) io.stderr:write("aside: ", table.concat(names, " "), "\n") end,
  }, { __call = function() error "it costs" end }) }]]

  it("does as a backend wants to be used, and shows it", function()
    local lines = '{"n":1,"kind":"a"}\n{"n":2,"kind":"a"}\n{"n":3}\n{"n":4,"kind":"a"}\n{"n":5,"kind":"b"}\n'
    local path = cli.file("kinds", lines)
    local r = cli.check(FUSSY, { "--input", path, "--key-field", "n", "--id-field", "kind" })
    assert.equal(1, r.status, r.err)
    for _, part in ipairs { "fussy: max_batch_size = 2\n", "5 lines, 1 of them bad",
      "line 3: inference_failed: three is not sent", "batches: 3, of 1.3 records" } do
      assert.truthy(r.out:find(part, 1, true), r.out)
    end
    assert.truthy(r.err:find("aside: kind n\n", 1, true), r.err)
    r = cli.check(FUSSY, { "--input", path, "--set", "max_batch_size=1", "--requests-per-minute", "2" })
    assert.truthy(r.out:find("max_batch_size = 1 (not its default, 2)", 1, true), r.out)
    assert.truthy(r.out:find("in 60 s at the least", 1, true), r.out)
  end)

  it("says how long the limits of its policy make it last", function()
    local r = cli.check([[return { max_batch_size = 1, inference_fn = print, policy =
      require("tokenbatcher").policy.rate_limited { requests_per_minute = 2 } }]],
      { "--input", cli.file("five", "1\n2\n3\n4\n5\n") })
    assert.truthy(r.out:find("in 120 s at the least", 1, true), r.out)
  end)
end)
