-- Policies on the command line: the list of what ships, --set policy=..., and what check
-- says of a policy of one's own.

local cli = dofile "tests/lua/cli_helper.lua"
local policies = require "tokenbatcher.policy"

local function assert_has(text, ...)
  for _, part in ipairs { ... } do
    assert.truthy(text:find(part, 1, true), ("'%s' is not in: %s"):format(part, text))
  end
end

describe("tokenbatcher policies", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  it("lists what ships, one line each: name, parameters with defaults, what it does", function()
    local r = cli.command { "policies" }
    assert.equal(0, r.status)
    assert.equal("", r.err)
    assert.equal(#policies.names, #r.lines)
    local signatures = {
      "fifo", "eager", "length_bucketed{}", "priority{aging_s = 1}", "fair{quantum = target/8}",
      "deadline{slo_s = none, base_s = 0, per_token_s = 0}", "adaptive{latency_target_s = 0.5}",
      'rate_limited{requests_per_minute, tokens_per_minute, inner = "fifo"}', "one_group{}",
      "on_time{slo_s = none, base_s = 0, per_token_s = 0}",
    }
    for i, line in ipairs(r.lines) do
      local signature, about = line:match "^(%S.-)  +(%S.*)$"
      assert.equal(signatures[i], signature)
      assert.equal(policies.module(policies.names[i]).about, about)
    end
  end)

  it("NAME shows each parameter with its text, unit and default", function()
    local r = cli.command { "policies", "deadline" }
    assert.equal(0, r.status)
    assert_has(r.out, "deadline{", "slo_s: a number of seconds above 0 (default: none)", "it expires none",
      "per_token_s: a number of seconds >= 0 (default: 0)", "--set policy=deadline:slo_s=...,base_s=...")
    assert_has(cli.command({ "policies", "fair" }).out, "quantum: a number of tokens above 0 (default: target/8)",
      "what a key may send")
    assert_has(cli.command({ "policies", "rate_limited" }).out, 'inner: a policy (default: "fifo")',
      "tokens_per_minute: a number of tokens >= 1 (default: none)")
    assert.matches("%-%-set policy=fifo\n$", cli.command({ "policies", "fifo" }).out)
  end)

  it("NAME knows every policy and each of its parameters", function()
    for _, name in ipairs(policies.names) do
      local out = cli.command({ "policies", name }).out
      assert_has(out, name, policies.module(name).about)
      for _, p in ipairs(policies.module(name).parameters) do assert_has(out, p.name .. ": ", p.text) end
    end
  end)

  it("of an unknown name exits with 2 and says the nearest", function()
    local r = cli.command { "policies", "fare" }
    assert.equal(2, r.status)
    assert.equal("", r.out)
    assert_has(r.err, "'fare'", "'fair'")
    assert.equal(2, cli.command({ "policies", "fair", "fifo" }).status)
    assert_has(cli.command({ "policies", "--bogus" }).err, "--bogus", "tokenbatcher policies --help")
  end)

  it("is in --help, has --help, and helps with --set", function()
    assert_has(cli.command({ "--help" }).out, "policies", "List the policies that ship")
    for _, args in ipairs { { "policies", "--help" }, { "policies", "-h" } } do
      local r = cli.command(args)
      assert.equal(0, r.status)
      assert_has(r.out, "Usage: tokenbatcher policies", "--set policy=NAME", "policy=./mine.lua")
    end
    assert_has(cli.command({ "run", "--help" }).out, "fair:quantum=500", "tokenbatcher policies")
  end)

  it("says when it cannot write", function()
    local r = cli.shell(cli.quote(cli.exe) .. " policies >/dev/full")
    assert.equal(2, r.status)
    assert_has(r.err, "No space left")
  end)
end)

describe("--set policy", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  -- Each answer is the batch that the record went with.
  local BATCHES = [[return { batch_timeout_s = 3600, max_batch_size = 3, target_batch_tokens = 1000,
    token_estimator = function(record) return record end,
    inference_fn = function(records, info)
      local batch, out = table.concat(records, " "), {}
      for i = 1, info.size do out[i] = batch end
      return out
    end }]]

  local function batches(setting)
    local r = cli.run(BATCHES, "9\n1\n8\n2\n", { "--set", "policy=" .. setting })
    assert.equal(0, r.status, r.err)
    local out = {}
    for i, line in ipairs(r.lines) do out[i] = line:match '"result":"([%d ]+)"' end
    return out
  end

  local LARGEST = [[return function(p)
    return { form = function(queue, batch)
      if not (queue.full or queue.due) then return end
      local largest = 1
      for i = 2, queue.size do
        if queue:cost(i) > queue:cost(largest) then largest = i end
      end
      batch:add(largest)
      if p.also_next and largest < queue.size then batch:add(largest + 1) end
    end }
  end]]

  it("takes what ships by name, and with parameters", function()
    assert.same({ "9 1 8", "9 1 8", "9 1 8", "2" }, batches "fifo")
    assert.same({ "9 8 2", "1", "9 8 2", "9 8 2" }, batches "length_bucketed")
    assert.same({ "9 1 8", "9 1 8", "9 1 8", "2" }, batches "fair:quantum=500")
    assert.same({ "9 1 8", "9 1 8", "9 1 8", "2" }, batches "rate_limited:requests_per_minute=10,inner=eager")
  end)

  it("takes a file, and with parameters", function()
    cli.file("mine.lua", LARGEST)
    assert.same({ "9", "1", "8", "2" }, batches(cli.path "mine.lua"))
    assert.same({ "9 1", "9 1", "8 2", "8 2" }, batches(cli.path "mine.lua" .. ":also_next=true"))
    assert.same({ "1 2 8", "1 2 8", "1 2 8", "9" }, (function()
      local out = batches "examples/policies/shortest_first.lua"
      return { out[2], out[4], out[3], out[1] }
    end)())
  end)

  it("takes a file by a name relative to where it is run", function()
    cli.file("mine.lua", LARGEST)
    cli.file("script.lua", BATCHES)
    local r = cli.shell(("cd %s && %s run script.lua --set policy=./mine.lua"):format(cli.quote(cli.folder),
      cli.quote(cli.exe)), "9\n1\n8\n2\n")
    assert.equal('{"index":4,"result":"2"}', r.lines[4])
    assert.equal(0, r.status)
  end)

  it("works in a script's options, too", function()
    cli.file("mine.lua", LARGEST)
    local script = BATCHES:gsub("return {", ("return { policy = %q,"):format(cli.path "mine.lua"), 1)
    assert.equal('{"index":4,"result":"2"}', cli.run(script, "9\n1\n8\n2\n").lines[4])
    script = BATCHES:gsub("return {", 'return { policy = require("tokenbatcher").policy.length_bucketed {},', 1)
    assert.equal('{"index":2,"result":"1"}', cli.run(script, "9\n1\n8\n2\n").lines[2])
  end)

  local REFUSED = {
    ["an unknown name, and says the nearest"] = { "fare", "'fare'", "'fair'" },
    ["an unknown parameter, and says the nearest"] = { "fair:quantun=5", "'quantun'", "'quantum'" },
    ["a parameter of the wrong type"] = { "fair:quantum=many", "'quantum'", '"many"' },
    ["a parameter out of range"] = { "fair:quantum=0", "'quantum'", "above 0" },
    ["a parameter without a value"] = { "fair:quantum", "name=value", "'quantum'" },
    ["a parameter of a policy that has none"] = { "fifo:x=1", "'x'", "it has none" },
    ["a wrong inner policy"] = { "rate_limited:inner=fare", "'inner'", "'fair'" },
    ["a file that is not there"] = { "/nowhere/mine.lua", "/nowhere/mine.lua", "No such file" },
    ["an empty name"] = { "", "''" },
  }
  for name, refused in pairs(REFUSED) do
    it("refuses " .. name .. ", in run and in check", function()
      for _, command in ipairs { "run", "check" } do
        local r = cli.command { command, cli.file("script.lua", cli.ECHO), "--set", "policy=" .. refused[1] }
        assert.equal(2, r.status)
        assert_has(r.out .. r.err, unpack(refused, 2))
      end
    end)
  end

  it("refuses a file that is broken, and names its line, in run and in check", function()
    local broken = { ["return {"] = "mine.lua:1:", ["\nerror 'not today'"] = "mine.lua:2: not today",
      ["return {}"] = "no function 'form'", ["return 7"] = "a number",
      ["return function() error 'no parameters' end"] = "no parameters" }
    for text, part in pairs(broken) do
      for _, command in ipairs { "run", "check" } do
        local r = cli.command { command, cli.file("script.lua", cli.ECHO), "--set",
          "policy=" .. cli.file("mine.lua", text) }
        assert.equal(2, r.status, command .. text)
        assert_has(r.out .. r.err, part)
        assert.is_nil(r.err:find("stack traceback", 1, true), r.err)
      end
    end
  end)
end)

describe("check of a policy", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  local function check(form, args)
    local path = cli.file("mine.lua", "return { form = function(queue, batch, now) " .. form .. " end }")
    return cli.check(cli.ECHO, { "--set", "policy=" .. path, unpack(args or {}) })
  end

  it("passes each that ships, and the example", function()
    for _, name in ipairs { "fifo", "eager", "length_bucketed", "priority", "fair:quantum=500", "deadline", "adaptive",
      "rate_limited:requests_per_minute=1,tokens_per_minute=10", "examples/policies/shortest_first.lua" } do
      local r = cli.check(cli.ECHO, { "--set", "policy=" .. name })
      assert.equal(0, r.status, r.out)
      assert_has(r.out, "policy " .. name:match "^[^:]+" .. ": it dispatched the sample record")
    end
  end)

  it("passes one that waits for a time it asks for", function()
    local r = check "if queue:age(1) < 60 then return now + 1 end batch:add(1)"
    assert.equal(0, r.status, r.out)
  end)

  local WRONG = {
    ["raises"] = { "error 'what now'", "mine.lua:1: what now" },
    ["raises only when several records are queued"] = { "if queue.size > 1 then queue:cost(9) end batch:add(1)",
      "no position 9" },
    ["names a record that does not exist"] = { "batch:add(queue.size + 1)", "no position 2" },
    ["submits or the like"] = { "require('tokenbatcher').sleep(1)", "sleep" },
    ["never names a record"] = { "", "names no record although the queue is due" },
    ["asks for later, again and again"] = { "return now + 1", "asks to be asked again", "3600 s" },
    ["asks for later, all the time"] = { "return now + 1e-6", "asks to be asked again", "10000 times" },
    ["asks for a time in the past"] = { "return now - 1", "names no record although the queue is due" },
  }
  for name, wrong in pairs(WRONG) do
    it("fails one that " .. name, function()
      local r = check(wrong[1])
      assert.equal(2, r.status, r.out)
      assert_has(r.out, "FAIL policy ", "mine.lua: ", unpack(wrong, 2))
    end)
  end

  it("fails one whose on_complete raises, or whose inner policy does", function()
    local path = cli.file("mine.lua", [[return { form = function(_, batch) batch:add(1) end,
      on_complete = function() error "no more" end }]])
    local r = cli.check(cli.ECHO, { "--set", "policy=" .. path })
    assert.equal(2, r.status)
    assert_has(r.out, "FAIL", "no more")
    cli.file("mine.lua", "return { form = function() error 'inner' end }")
    r = cli.check(cli.ECHO, { "--set", "policy=rate_limited:requests_per_minute=9,inner=" .. path })
    assert.equal(2, r.status)
    assert_has(r.out, "FAIL", "inner")
  end)

  it("notes a record that the policy's limits refuse", function()
    local r = cli.check(cli.ECHO, { "--set", "policy=rate_limited:tokens_per_minute=5", "--set", "default_cost=9" })
    assert.equal(0, r.status, r.out)
    assert_has(r.out, "note", "refused: oversize", "= 5")
  end)
end)

describe("a policy that fails", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  -- A misspelt method, in line 3 of mine.lua.
  local function misspelt()
    return cli.file("mine.lua",
      "return { form = function(queue, batch)\n\n  for i in queue:by_costs() do batch:add(i) end\nend }")
  end

  local ONE_BY_ONE = "return { max_batch_size = 1, inference_fn = function(records) return records end }"

  it("in run: the first error is said with policy, file and line, and counted in the summary", function()
    local r = cli.run(ONE_BY_ONE, "1\n2\n", { "--set", "policy=" .. misspelt() })
    assert.equal(0, r.status, r.err)
    assert_has(r.err, "mine.lua': form raised: ", "mine.lua:3: ", "by_costs", "policy_errors 2, policy_overruled 0")
  end)

  it("in run: once it is disabled, the exit status is 1, although all is answered", function()
    local input = {}
    for i = 1, 12 do input[i] = i .. "\n" end
    local r = cli.run(ONE_BY_ONE, table.concat(input), { "--set", "policy=" .. misspelt() })
    assert.equal(1, r.status, r.err)
    assert.equal(12, #r.lines)
    assert_has(r.err, "(12 answered, 0 failed)", "is disabled until", "policy_errors 10", "it was disabled")
  end)

  it("in run: what the engine overruled is counted, too; one that does its work has 0 and 0", function()
    local lazy = cli.file("lazy.lua", "return { form = function() end }")
    assert_has(cli.run(ONE_BY_ONE, "1\n", { "--set", "policy=" .. lazy }).err, "policy_errors 0, policy_overruled 1")
    assert_has(cli.run(ONE_BY_ONE, "1\n", { "--set", "policy=fair" }).err, "fair: policy_errors 0, policy_overruled 0")
    assert.is_nil(cli.run(ONE_BY_ONE, "1\n").err:find "policy_")
  end)

  local function simulate(...)
    return cli.command { "simulate", "--arrivals", "constant:rate=1000", "--limit", "100", "--set", "max_batch_size=1",
      "--policy", misspelt(), ... }
  end

  it("in simulate: said at once, in the table, in --json, --csv and --report; exit status 1", function()
    local r = simulate()
    assert.equal(1, r.status, r.err)
    assert_has(r.err, "form raised: ", "mine.lua:3: ", "by_costs")
    assert_has(r.out, "policy_errors", "policy_overruled")
    assert.matches("mine.lua +10 +0\n", r.out)
    r = simulate("--json", "-")
    assert.equal(1, r.status)
    assert_has(r.out, '"policy_errors":10,"policy_overruled":0,"good_per_s":')
    r = simulate("--csv", "-")
    assert.matches(",policy_errors,policy_overruled,good_per_s\n.*,10,0,[%d.]+\n$", r.out)
    r = simulate("--json", "-", "--policy", "fifo", "--limit", "5")
    assert.equal(0, r.status, r.err)
    if cli.shell("command -v gnuplot").status == 0 then
      simulate("--report", cli.path "r.html")
      assert_has(cli.read(cli.path "r.html"), "<th>policy_errors</th>", ">10</td>")
    end
  end)

  it("in tune: said once, shown for what is given and what is best; exit status 1", function()
    local r = cli.command { "tune", "--arrivals", "poisson:rate=100,tokens=100", "--limit", "2000", "--policy",
      misspelt(), "--vary", "batch_timeout_s=0.001..0.1", "--settings", "2", "--minimize", "latency_mean" }
    assert.equal(1, r.status, r.err)
    assert.equal(1, select(2, r.err:gsub("said once", "")))
    assert_has(r.err, "mine.lua:3: ")
    assert.matches("\npolicy_errors +10 +10\npolicy_overruled +0 +0\n", r.out)
  end)
end)

describe("a policy file with declared parameters", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  local DECLARED = [[return {
    parameters = { { name = "share", kind = "number", default = 0.5, above = 0 },
      { name = "mode", choices = { "fast", "slow" }, default = "fast" },
      { name = "most", kind = "count", default = 3 } },
    new = function(p)
      return { form = function(queue, batch)
        for i = 1, queue.size do batch:add(i) end
        error(("share %g mode %s most %d"):format(p.share, p.mode, p.most))
      end }
    end }]]

  local function raised_by(setting)
    local path = cli.file("mine.lua", DECLARED)
    local r = cli.run(cli.ECHO, "1\n", { "--set", "policy=" .. path .. setting })
    return r.status, r.err
  end

  it("gets its defaults, and what was given", function()
    local _, err = raised_by ""
    assert_has(err, "share 0.5 mode fast most 3")
    _, err = raised_by ":share=2,mode=slow,most=7"
    assert_has(err, "share 2 mode slow most 7")
  end)

  it("refuses a name that is not declared, saying the nearest, and a wrong value", function()
    for setting, parts in pairs {
      [":shar=2"] = { "unknown parameter 'shar'; did you mean 'share'?" },
      [":share=0"] = { "'share' must be a number above 0" },
      [":mode=quick"] = { "'mode' must be one of fast, slow" }, [":most=1.5"] = { "'most' must be a whole number" },
    } do
      local status, err = raised_by(setting)
      assert.equal(2, status, err)
      assert_has(err, unpack(parts))
    end
  end)

  it("says what is wrong with the declaration", function()
    for text, part in pairs {
      ["{ parameters = 7, new = print }"] = "'parameters' must be a list, got a number",
      ["{ parameters = { share = 1 }, new = print }"] = "'parameters' must be a list of",
      ["{ parameters = { { name = 'x', kind = 'nmber' } }, new = print }"] = "'x' must be of a kind",
      ["{ parameters = { { name = 'x', kind = 'count', default = 1.5 } }, new = print }"] = "its default must be",
      ["{ parameters = { 'x' }, new = print }"] = "number 1 must be a table with a name",
      ["{ parameters = {}, new = 7 }"] = "'new' must be a function, got a number",
    } do
      local r = cli.command { "check", cli.file("script.lua", cli.ECHO), "--set",
        "policy=" .. cli.file("mine.lua", "return " .. text) }
      assert.equal(2, r.status, text)
      assert_has(r.out .. r.err, part)
    end
  end)

  it("is checked, and check says so of a plain function, whose parameters nobody checks", function()
    local r = cli.check(cli.ECHO, { "--set", "policy=examples/policies/shortest_on_time.lua:slo_s=2" })
    assert.equal(0, r.status, r.out)
    assert.is_nil(r.out:find "not checked")
    r = cli.check(cli.ECHO, { "--set", "policy=examples/policies/shortest_on_time.lua:slow_s=2" })
    assert.equal(2, r.status)
    assert_has(r.out .. r.err, "'slow_s'", "'slo_s'")
    r = cli.check(cli.ECHO, { "--set", "policy=" .. cli.file("plain.lua",
      "return function(p) return { form = function(_, batch) batch:add(1) end } end") .. ":anything=1" })
    assert.equal(0, r.status, r.out)
    assert_has(r.out, "note ", "plain.lua: a function, whose parameters are not checked")
  end)

  it("may be tuned by its own parameters", function()
    local r = cli.command { "tune", "--arrivals", "poisson:rate=100,tokens=100", "--limit", "2000", "--policy",
      "examples/policies/shortest_on_time.lua", "--vary", "base_s=0.01..0.2", "--settings", "2", "--slo", "1" }
    assert.equal(0, r.status, r.err)
  end)
end)

describe("a slip of the pen is told for what was meant:", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  it("check, run and simulate of a policy file", function()
    for _, text in ipairs { "{ form = print }", "function(p) return {} end", "{ parameters = {}, new = print }" } do
      local path = cli.file("mine.lua", "return " .. text)
      for _, command in ipairs { "check", "run", "simulate" } do
        local r = cli.command { command, path, command == "simulate" and "--arrivals=constant:rate=1" or nil }
        assert.equal(2, r.status)
        assert_has(r.err, "mine.lua: ", "not a script", "--set policy=" .. path)
      end
    end
  end)

  it("policies of what is no policy lists those that are", function()
    local r = cli.command { "policies", "nope" }
    assert.equal(2, r.status)
    assert_has(r.err, "no policy 'nope' ships; there are fifo, eager, ")
    assert_has(cli.command({ "policies", "./mine.lua" }).err, "check SCRIPT --set policy=./mine.lua")
  end)
end)
