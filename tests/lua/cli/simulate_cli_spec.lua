-- tokenbatcher simulate, tune and fit as a user sees them: traces as published, bad rows, bad flags,
-- files that come out.

local cli = dofile "tests/lua/cli_helper.lua"

local AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
  .. "2023-11-16 23:59:59.9000000,4808,10\r\n2023-11-16 23:59:59.9000000,3180,8\r\n2023-11-17 00:00:00.1500001,110,27"
local MOONCAKE = '{"timestamp": 0, "input_length": 40, "output_length": 6, "hash_ids": [0, 1]}\n'
  .. '{"timestamp": 3000, "input_length": 60, "output_length": 3, "hash_ids": []}\n'

local function refuses(args, ...)
  local result = cli.command(args)
  assert.equal(2, result.status, result.out .. result.err)
  assert.equal("", result.out)
  for _, part in ipairs { ... } do
    assert.truthy(result.err:find(part, 1, true), ("'%s' is not in: %s"):format(part, result.err))
  end
  assert.is_nil(result.err:find("stack traceback", 1, true), result.err)
end

local function simulate(...)
  local result = cli.command { "simulate", ... }
  assert.equal(0, result.status, result.err)
  return result
end

-- A number out of the first row of --json.
local function field(json, path)
  local at = 1
  for name in path:gmatch "[^.]+" do
    local _, stop = json:find('"' .. name .. '":', at, true)
    at = assert(stop, path .. " is not in " .. json) + 1
  end
  return tonumber(json:match("^[%d.e+-]+", at))
end

describe("tokenbatcher simulate", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  describe("reads", function()
    it("Azure's CSV: CR LF, seven digits, equal timestamps, midnight, no newline at the end", function()
      local out = simulate("--trace", cli.file("azure.csv", AZURE), "--service", "1e-6*tokens", "--json", "-",
        "--set", "max_batch_size=1").out
      assert.same({ 3, 3, 3 }, { field(out, "records"), field(out, "completed"), field(out, "batches") })
      assert.near(3 / 0.25011, field(out, "throughput"), 0.001)
      assert.near(0.004808 + 0.00318, field(out, "latency_s.max"), 1e-6)
    end)
    it("Azure's CSV with a time zone and six digits, as of 2024", function()
      local text = "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,2162,5\n"
        .. "2024-05-10 00:00:00.017335+00:00,2399,6\n"
      assert.equal(2, field(simulate("--trace", cli.file("a.csv", text), "--json", "-").out, "records"))
    end)
    it("Mooncake's JSON lines, in milliseconds", function()
      local out = simulate("--trace", cli.file("m.jsonl", MOONCAKE), "--service", "0.5", "--json", "-").out
      assert.same({ 2, 2 }, { field(out, "records"), field(out, "batches") })
      assert.near(2 / 3.5, field(out, "throughput"), 1e-6)
      assert.equal(50, field(out, "batch_cost.mean"))
    end)
    it("rows with a record in place of a cost: the script's estimator gives it", function()
      local path = cli.file("e.jsonl", '{"timestamp":0,"record":{"text":"abcd"}}\n'
        .. '{"timestamp":1,"record":{"text":"ab"}}\n'
        .. '{"timestamp":2,"record":{}}\n{"timestamp":3,"input_length":9}\n')
      local script = cli.file("s.lua", "return { token_estimator = function(r) return #r.text end }")
      local result = simulate(script, "--trace", path, "--json", "-")
      assert.truthy(result.err:find("e.jsonl:3: bad_cost: the token_estimator raised", 1, true), result.err)
      assert.same({ 3, 15 }, { field(result.out, "records"), field(result.out, "batch_cost.max") })
      assert.equal(12, field(simulate("--trace", path, "--json", "-").out, "batch_cost.max"))
    end)
    it("Bailian's JSON lines in seconds, at the rate that they have", function()
      local path = cli.file("b.jsonl", '{"chat_id":1,"timestamp":0.0,"input_length":40,"output_length":6}\n'
        .. '{"chat_id":2,"timestamp":60.6,"input_length":60,"output_length":3}\n')
      local out = simulate("--trace", path).out
      assert.truthy(out:find("(Bailian JSON lines, 2 rows in 60.6 s, 0.033 a second; times in s)\n", 1, true), out)
      local named = simulate("--trace", path, "--columns", "time=timestamp,cost=input_length,class=chat_id",
        "--time-unit", "ms").out
      assert.truthy(named:find("(JSON lines, 2 rows in 0.0606 s, 33 a second; times in ms)\n", 1, true), named)
    end)
    it("made-up arrivals, whose span and rate it tells", function()
      local out = simulate("--arrivals", "constant:rate=10", "--limit", "101").out
      assert.truthy(out:find("^arrivals  constant:rate=10 %(101 rows in 10 s, 10.1 a second%)\n"), out)
    end)
    it("a trace faster with --speedup, less of it with --limit", function()
      local path = cli.file("m.jsonl", MOONCAKE)
      local fast = simulate("--trace", path, "--service", "0.5", "--speedup", "3", "--json", "-").out
      assert.near(2 / 1.5, field(fast, "throughput"), 1e-6)
      assert.equal(1, field(simulate("--trace", path, "--limit", "1", "--json", "-").out, "records"))
    end)
  end)

  describe("names a bad row and its line, counts it and leaves it out:", function()
    local function bad(name, text, line, what, good)
      it(what, function()
        local path = cli.file(name, text)
        local result = simulate("--trace", path, "--json", "-")
        assert.truthy(result.err:find(("%s:%d: "):format(path, line), 1, true), result.err)
        assert.truthy(result.err:find(what, 1, true), result.err)
        assert.truthy(result.err:find("1 bad row was left out", 1, true), result.err)
        assert.equal(good, field(result.out, "records"))
        refuses({ "simulate", "--trace", path, "--strict" }, ("%s:%d: "):format(path, line), what)
      end)
    end
    local function azure(row) return AZURE .. "\r\n" .. row .. "\r\n2023-11-17 00:00:01.0,5,5\r\n" end
    bad("b.csv", azure "2023-11-17 00:00:00.5,12", 5, "3 columns are expected, there are 2", 4)
    bad("b.csv", azure "2023-11-17 00:00:00.5,many,1", 5, "ContextTokens is 'many'", 4)
    bad("b.csv", azure "2023-11-17 00:00:00.5,1,-1", 5, "GeneratedTokens is '-1'", 4)
    bad("b.csv", azure "2023-13-17 00:00:00.5,1,1", 5, "TIMESTAMP is '2023-13-17 00:00:00.5'", 4)
    bad("b.csv", azure "2023-02-29 00:00:00.5,1,1", 5, "TIMESTAMP is '2023-02-29 00:00:00.5'", 4)
    bad("b.csv", azure("2023-11-17 00:00:00." .. ("1"):rep(400) .. ",1,1"), 5, "TIMESTAMP is '2023-11-17 00:00:00.11",
      4)
    bad("b.csv", azure "yesterday,1,1", 5, "TIMESTAMP is 'yesterday'", 4)
    bad("b.csv", azure "2023-11-17 00:00:00.5,9999999999999,1", 5, "above 1e12", 4)
    bad("b.jsonl", MOONCAKE .. "{nope\n", 3, "no JSON", 2)
    bad("b.jsonl", MOONCAKE .. "7\n", 3, "no JSON object", 2)
    bad("b.jsonl", MOONCAKE .. '{"timestamp": 4000}\n', 3, "input_length", 2)
    bad("b.jsonl", MOONCAKE .. '{"timestamp": "x", "input_length": 1}\n', 3, "timestamp", 2)
    bad("r.jsonl", '{"tokenbatcher_recording":1}\n{"at":1,"cost":5}\n{"at":2,"cost":-1}\n', 3, "cost is no number", 1)
    bad("r.jsonl", '{"tokenbatcher_recording":1}\n{"at":1,"cost":5}\n{"at":2,"cost":1,"key":7}\n', 3,
      "key is no string", 1)

    it("in bytes that a terminal can show", function()
      local path = cli.file("b.csv", AZURE .. "\r\n2023-11-17 00:00:01.0,\27[2J\0" .. ("\255"):rep(5000) .. ",1\r\n")
      local result = simulate("--trace", path, "--json", "-")
      assert.is_nil(result.err:find "[%z\1-\9\11-\31\127-\255]")
      assert.is_true(#result.err < 600)
    end)
    it("names five, counts all, and passes over blank lines", function()
      local result = simulate("--trace", cli.file("b.jsonl", MOONCAKE:rep(5) .. ("x\n\n"):rep(9)), "--json", "-",
        "--policy", "fifo", "--policy", "eager")
      assert.truthy(result.err:find("9 bad rows were left out", 1, true), result.err)
      assert.equal(6, select(2, result.err:gsub("\n", "\n")))
    end)
  end)

  describe("exits with 2 and names the culprit:", function()
    local trace
    setup(function() trace = cli.file("azure.csv", AZURE) end)
    local function bad(what, args, ...)
      local parts = { ... }
      it(what, function()
        local words = { "simulate" }
        for i, word in ipairs(args) do words[i + 1] = word == "TRACE" and trace or word end
        refuses(words, unpack(parts))
      end)
    end
    bad("no arrivals", {}, "--trace", "--arrivals")
    bad("a trace and arrivals", { "--trace", "TRACE", "--arrivals", "poisson:rate=1" }, "not both")
    bad("a trace that is not there", { "--trace", "/nowhere/t.csv" }, "/nowhere/t.csv", "No such file")
    bad("a trace that is a folder", { "--trace", "/tmp" }, "/tmp", "Is a directory")
    bad("an unknown policy", { "--trace", "TRACE", "--policy", "fofi" }, "fofi", "fifo")
    bad("a policy's parameter", { "--trace", "TRACE", "--policy", "fair:quantm=3" }, "quantm", "quantum")
    bad("an unknown option to sweep", { "--trace", "TRACE", "--sweep", "max_bach_size=1,2" }, "max_bach_size",
      "max_batch_size")
    bad("a value to sweep", { "--trace", "TRACE", "--sweep", "max_batch_size=1,zero" }, "max_batch_size", "zero")
    bad("a sweep without values", { "--trace", "TRACE", "--sweep", "max_batch_size=" }, "--sweep")
    bad("a speedup of zero", { "--trace", "TRACE", "--sweep", "speedup=1,0" }, "speedup", "0")
    bad("options that contradict", { "--trace", "TRACE", "--sweep", "min_batch_size=1,500" }, "min_batch_size", "500")
    bad("an expression with an unknown name", { "--trace", "TRACE", "--service", "0.1*tokns" }, "tokns", "tokens")
    bad("an expression with something else in it", { "--trace", "TRACE", "--service", "os.exit(3)" }, "os")
    bad("two expressions", { "--trace", "TRACE", "--service", "1,2" }, "1,2", "no arithmetic expression")
    bad("a recording of a simulation", { "--trace", "TRACE", "--set", "record=x" }, "record", "not recorded")
    bad("a recording of each of a sweep", { "--trace", "TRACE", "--sweep", "record=x,y" }, "record", "not recorded")
    bad("an expression that is none", { "--trace", "TRACE", "--service", "1 +" }, "1 +", "no arithmetic expression")
    bad("a service time below zero", { "--trace", "TRACE", "--service", "1-tokens" }, "service time", "1-tokens", "-")
    bad("a service time that is no number", { "--trace", "TRACE", "--service", "0/0" }, "service time", "nan")
    bad("a service file that is not there", { "--trace", "TRACE", "--service", "/nowhere.lua" }, "/nowhere.lua")
    bad("a recording to fit that is a trace", { "--trace", "TRACE", "--service", "@/nowhere" }, "/nowhere")
    bad("unknown arrivals", { "--arrivals", "poison:rate=1" }, "poison", "poisson")
    bad("arrivals without a rate", { "--arrivals", "poisson" }, "rate")
    bad("a parameter of arrivals", { "--arrivals", "poisson:rate=1,token=4" }, "token", "tokens")
    bad("a distribution", { "--arrivals", "poisson:rate=1,tokens=lognorm(1,2)" }, "lognorm", "lognormal")
    bad("a distribution's parameters", { "--arrivals", "poisson:rate=1,tokens=uniform(9,2)" }, "uniform(9,2)")
    bad("a parameter of arrivals twice", { "--arrivals", "poisson:rate=1,rate=2" }, "rate", "twice")
    bad("a rate below zero", { "--arrivals", "poisson:rate=-1" }, "rate=-1")
    bad("a closed loop made faster", { "--arrivals", "closed:clients=3", "--speedup", "2" }, "--speedup")
    bad("an slo", { "--trace", "TRACE", "--slo", "-1" }, "--slo", "-1")
    bad("a limit", { "--trace", "TRACE", "--limit", "1.5" }, "--limit", "1.5")
    bad("a probability", { "--trace", "TRACE", "--fail-rate", "2" }, "--fail-rate", "2")
    bad("a straggler", { "--trace", "TRACE", "--straggle", "0.5" }, "--straggle", "0.5")
    bad("bisecting what fails by lot", { "--trace", "TRACE", "--fail-rate", "0.1", "--set", "on_error=bisect" },
      "bisect")
    bad("a picture of an unknown kind", { "--trace", "TRACE", "--plot", "x.gif" }, "--plot", "x.gif")
    bad("a window without a timeline", { "--trace", "TRACE", "--window", "1:2" }, "--window")
    bad("a window", { "--trace", "TRACE", "--timeline", "x.svg", "--window", "2:1" }, "--window", "2:1")
    bad("a file that cannot be written", { "--trace", "TRACE", "--json", "/nowhere/x.json" }, "/nowhere/x.json")

    it("an empty trace, one without rows, and what is no trace", function()
      refuses({ "simulate", "--trace", cli.file("e.csv", "") }, "e.csv", "empty")
      refuses({ "simulate", "--trace", cli.file("h.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\r\n") }, "h.csv",
        "no rows")
      refuses({ "simulate", "--trace", cli.file("x.txt", "hello\n") }, "x.txt", "no trace")
      refuses({ "simulate", "--trace", cli.file("r.jsonl", '{"tokenbatcher_recording":99}\n') }, "version 99")
    end)
    it("a service file that returns no function, or raises", function()
      refuses({ "simulate", "--trace", trace, "--service", cli.file("s.lua", "return 7") }, "s.lua", "number")
      refuses({ "simulate", "--trace", trace, "--service", cli.file("s.lua", "return function() error 'no' end") },
        "s.lua raised", "no")
      refuses({ "simulate", "--trace", trace, "--service", cli.file("s.lua", "return function() error {} end") },
        "s.lua raised")
    end)
    it("a result in the place of what is read, by whatever name, or of another result", function()
      local model = cli.file("model.lua", "return function() return 1 end")
      for _, flag in ipairs { "--json", "--csv", "--plot", "--timeline", "--report" } do
        refuses({ "simulate", "--trace", trace, flag, cli.folder .. "/./azure.csv" }, flag, "is the trace")
      end
      assert.equal(AZURE, cli.read(trace))
      refuses({ "simulate", "--trace", trace, "--service", model, "--csv", model }, "--csv", "is the service model")
      refuses({ "simulate", "--trace", trace, "--json", "-", "--csv", "-" }, "--json and --csv cannot both be -")
      refuses({ "simulate", "--trace", trace, "--plot", "x.svg", "--timeline", "x.svg" }, "cannot both be x.svg")
    end)
    it("an option swept twice, by another of its names, too", function()
      refuses({ "simulate", "--trace", trace, "--sweep", "batch_timeout_s=0,1", "--sweep", "batch_timeout_s=2" },
        "batch_timeout_s is given twice")
      refuses({ "simulate", "--trace", trace, "--sweep", "target_batch_tokens=10,20", "--sweep",
        "target_batch_cost=30" }, "target_batch_cost is given twice")
    end)
    it("a picture on a disk that is full", function()
      if os.execute "command -v gnuplot >/dev/null 2>&1" ~= 0 then pending "skipped: no gnuplot" end
      for _, name in ipairs { "full.svg", "full.png" } do
        cli.shell("ln -sf /dev/full " .. cli.path(name))
        refuses({ "simulate", "--trace", trace, "--plot", cli.path(name) }, name, "did not finish it")
      end
    end)
    it("a line without an end, in a moment", function()
      refuses({ "simulate", "--trace", "/dev/zero" }, "/dev/zero:1:", "longer than 16 MiB")
      local long = cli.path "long.csv"
      cli.shell(("{ echo TIMESTAMP,ContextTokens,GeneratedTokens; head -c 20000000 /dev/zero; } >%s"):format(long))
      refuses({ "simulate", "--trace", long }, "long.csv:2:", "longer than 16 MiB")
    end)
    it("a pipe of more than 65536 rows that would have to be read twice", function()
      local rows = cli.path "long.jsonl"
      cli.shell(("{ for i in $(seq 70); do cat %s; done; } >%s"):format(cli.file("thousand.jsonl",
        ('{"timestamp":0,"input_length":1}\n'):rep(1000)), rows))
      local command = ("cat %s | %s simulate --trace - --service 1e-4 "):format(rows, cli.quote(cli.exe))
      local once = cli.shell(command)
      assert.equal(0, once.status, once.err)
      assert.truthy(once.out:find("arrivals  standard input (Mooncake JSON lines, 70000 rows; times in ms)", 1, true))
      local twice = cli.shell(command .. "--policy fifo --policy eager")
      assert.equal(2, twice.status, twice.out)
      assert.equal("", twice.out)
      assert.truthy(twice.err:find("standard input is a pipe of more than 65536 rows", 1, true), twice.err)
      local shorter = cli.shell(("head -1000 %s | %s simulate --trace /dev/stdin --service 1e-4 --policy fifo "
        .. "--policy eager"):format(rows, cli.quote(cli.exe)))
      assert.equal(0, shorter.status, shorter.err)
    end)
    it("pictures without gnuplot", function()
      local result = cli.shell(("PATH= %s simulate --trace %s --plot %s"):format(cli.quote(cli.exe), trace,
        cli.path "p.svg"))
      assert.equal(2, result.status)
      assert.truthy(result.err:find("gnuplot-nox", 1, true), result.err)
    end)
  end)

  it("compares policies and sweeps in rows, the best of a column marked", function()
    local result = simulate("--arrivals", "poisson:rate=100,tokens=100", "--limit", "2000", "--slo", "0.1", "--policy",
      "fifo", "--policy", "eager", "--sweep", "batch_timeout_s=0.01,0.2", "--sweep", "max_batch_size=4,8")
    local order = {}
    for line in result.out:gmatch "[^\n]+" do
      local label = line:match "^(%a+ batch_timeout_s=%S+ max_batch_size=%d)"
      if label and #order < 8 then order[#order + 1] = label end
      assert.is_true(#line <= 120, line)
    end
    assert.same({
      "fifo batch_timeout_s=0.01 max_batch_size=4", "fifo batch_timeout_s=0.01 max_batch_size=8",
      "fifo batch_timeout_s=0.2 max_batch_size=4", "fifo batch_timeout_s=0.2 max_batch_size=8",
      "eager batch_timeout_s=0.01 max_batch_size=4", "eager batch_timeout_s=0.01 max_batch_size=8",
      "eager batch_timeout_s=0.2 max_batch_size=4", "eager batch_timeout_s=0.2 max_batch_size=8",
    }, order)
    assert.truthy(result.out:find("%d%*"))
  end)

  it("shows a bar where standard error is a terminal, and none elsewhere", function()
    if os.execute "script -qec true /dev/null >/dev/null 2>&1 </dev/null" ~= 0 then
      return pending("skipped: no script(1), or no terminal can be made")
    end
    local command = cli.quote(cli.exe)
      .. " simulate --arrivals constant:rate=100 --limit 50000 --policy fifo --policy eager"
    local on_terminal = cli.shell("script -qec " .. cli.quote(command) .. " /dev/null", "").out
    assert.truthy(on_terminal:find("\r\27[Krun 2 of 2  [##", 1, true), on_terminal)
    assert.equal("", simulate("--arrivals", "constant:rate=100", "--limit", "50000").err)
  end)

  it("takes options, policy and the script's own options from a script", function()
    local script = cli.file("s.lua", [[
      return { options = { size = { "records in a batch", 2 }, seed = { "of its own", 1 } }, setup = function(opt)
        return { inference_fn = function() error "never called" end, max_batch_size = opt.size, policy = "eager",
          name = "seed" .. opt.seed }
      end }]])
    local args = { script, "--arrivals", "constant:rate=1000", "--limit", "100", "--service", "0.1", "--json", "-" }
    local out = simulate(unpack(args)).out
    assert.truthy(out:find('"policy":"eager"', 1, true))
    assert.equal(2, field(out, "batch_size.max"))
    out = simulate("--size", "5", "--script-seed", "9", unpack(args)).out
    assert.equal(5, field(out, "batch_size.max"))
    out = simulate("--set", "max_batch_size=7", unpack(args)).out
    assert.equal(7, field(out, "batch_size.max"))
  end)

  it("takes a service model from a Lua file", function()
    local service = cli.file("s.lua", [[return function(batch)
      return batch.records * 0.001 + batch.max_tokens * 0.01 + batch.max_output_tokens
        + 0 * batch.padded * batch.output_tokens
    end]])
    local out = simulate("--arrivals", "constant:rate=1,tokens=10,output=2", "--limit", "3", "--service", service,
      "--set", "max_batch_size=1", "--json", "-").out
    assert.near(2.101, field(out, "latency_s.p50") - field(out, "wait_s.p50"), 0.02)
  end)

  it("writes JSON with its fields in order, CSV, and the same bytes again", function()
    local function run(name)
      simulate("--arrivals", "gamma:rate=50,cv=2,tokens=lognormal(5,1),keys=3", "--limit", "3000", "--slo", "0.5",
        "--policy",
        "fifo", "--policy", "fair", "--sweep", "speedup=1,2", "--json", cli.path(name .. ".json"), "--csv",
        cli.path(name .. ".csv"))
      return cli.read(cli.path(name .. ".json")), cli.read(cli.path(name .. ".csv"))
    end
    local json, csv = run "one"
    assert.same({ json, csv }, { run "two" })
    local keys = {}
    for key in json:match "^%[(%b{})":gmatch '"([%w_]+)":' do keys[#keys + 1] = key end
    local spread = " mean p50 p90 p99 max"
    assert.equal("policy settings speedup records completed failed rejected expired batches throughput goodput "
      .. "latency_s" .. spread .. " wait_s" .. spread .. " utilization batch_size" .. spread .. " batch_cost" .. spread
      .. " padding_ratio fairness dispatched full timeout idle drain policy policy_errors policy_overruled good_per_s",
      table.concat(keys, " "))
    assert.equal(5, select(2, csv:gsub("\n", "\n")))
    assert.truthy(csv:find("\nfifo,speedup=1,3000,", 1, true))
  end)

  it("what answers nothing has no latency, and is not the best in it", function()
    local args = { "--arrivals", "poisson:rate=100,tokens=lognormal(6,1)", "--limit", "500", "--set",
      "on_oversize=reject", "--policy", "fifo", "--sweep" }
    args[#args + 1] = "target_batch_tokens=1,2000"
    local out = simulate(unpack(args)).out
    local none, some = out:match "(fifo target_batch_tokens=1 [^\n]+)\n(fifo target_batch_tokens=2000[^\n]+)"
    assert.truthy(none:find "0%.000%s+0%.0%s+%-%s+%-%s+%-%s+%-%s+0%s+500", out)
    assert.is_nil(none:find("*", 1, true), out)
    assert.truthy(some:find "%d%*%s+[%d.]+%*%s+[%d.]+%*%s+[%d.]+%*", out)
    if os.execute "command -v gnuplot >/dev/null 2>&1" ~= 0 then return end
    args[#args] = "target_batch_tokens=1"
    simulate("--plot", cli.path "none.svg", unpack(args))
    assert.truthy(cli.read(cli.path "none.svg"):find("</svg>", 1, true))
  end)

  it("draws pictures and writes a page with everything inside", function()
    if os.execute "command -v gnuplot >/dev/null 2>&1" ~= 0 then pending "skipped: no gnuplot" end
    local svg, png, page = cli.path "p.svg", cli.path "t.png", cli.path "r.html"
    simulate("--arrivals", "poisson:rate=100,tokens=100", "--limit", "3000", "--slo", "0.1", "--policy", "fifo",
      "--policy",
      "eager", "--plot", svg, "--timeline", png, "--window", "1:20", "--report", page, "--seeds", "2")
    assert.truthy(cli.read(svg):find("<svg", 1, true))
    assert.truthy(cli.read(svg):find("eager", 1, true))
    assert.equal("\137PNG", cli.read(png):sub(1, 4))
    local html = cli.read(page)
    assert.truthy(html:find('"runs":[', 1, true))
    assert.is_nil(html:find("src=", 1, true))
    assert.is_nil(html:find("href=\"http", 1, true))
    assert.truthy(html:find("<td>fifo</td>", 1, true))
    assert.truthy(html:find("<dd>poisson:rate=100,tokens=100 (3000 rows in ", 1, true))
    assert.truthy(html:find("<pre class=wide>2 seeds, 1 to 2: means", 1, true))
    assert.truthy(html:find("<dt>note</dt><dd>p99 rests on the 30 slowest answers", 1, true))
  end)
end)

describe("tokenbatcher tune", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  local ARRIVALS = { "--arrivals", "poisson:rate=30,tokens=lognormal(6,1)", "--limit", "4000", "--settings", "16" }

  local function tune(...)
    local args = { "tune", ... }
    for _, word in ipairs(ARRIVALS) do args[#args + 1] = word end
    return cli.command(args)
  end

  it("finds better settings, judges them on what it has not seen, and says so the same way again", function()
    local args = { "--slo", "0.3", "--vary", "batch_timeout_s=0.001..2", "--vary", "max_batch_size=1..64",
      "--set", "batch_timeout_s=2" }
    local result = tune(unpack(args))
    assert.equal(0, result.status, result.err)
    assert.truthy(result.out:find "held out%s+0.%d+%s+0.%d+  better by")
    assert.truthy(result.out:find("the gain holds on arrivals that the search has not seen", 1, true), result.out)
    assert.truthy(result.out:find "use%s+%-%-set batch_timeout_s=0.%d+ %-%-set max_batch_size=%d+")
    assert.equal(result.out, tune(unpack(args)).out)
  end)

  it("varies parameters of the policy, and goes down, too", function()
    local result = tune("--policy", "adaptive", "--vary", "latency_target_s=0.05..5", "--minimize", "latency_p99")
    assert.equal(0, result.status, result.err)
    assert.truthy(result.out:find "latency_target_s=" or result.out:find "the settings given")
  end)

  it("low latency bought by refusing what others answer is no gain", function()
    local result = tune("--set", "on_oversize=reject", "--vary", "target_batch_tokens=1..64000", "--minimize",
      "latency_p99")
    assert.equal(0, result.status, result.err)
    local target = tonumber(result.out:match "best%s+target_batch_tokens=(%d+)" or 32000)
    assert.is_true(target > 5000, result.out) -- the longest of 4000 from lognormal(6,1) is above this
  end)

  it("says when the gain does not hold out, or there is none", function()
    local result = tune("--slo", "1000", "--vary", "batch_timeout_s=0.001..0.1")
    assert.equal(0, result.status, result.err)
    local out = result.out
    assert.truthy(out:find "verdict%s+no gain: the settings given do as well" or out:find "nothing was found", out)
  end)

  it("exits with 2 and names the culprit", function()
    local arrivals = { "--arrivals", "poisson:rate=30" }
    local function bad(args, ...)
      refuses({ "tune", unpack(args) }, ...)
    end
    bad(arrivals, "--vary")
    bad({ "--vary", "batch_timeout_s=0.1..1" }, "--trace")
    bad({ "--vary", "batch_timeout_s=0.1..1", unpack(arrivals) }, "--slo")
    bad({ "--vary", "batch_timeot_s=0.1..1", unpack(arrivals) }, "batch_timeot_s", "batch_timeout_s")
    bad({ "--vary", "batch_timeout_s=1..0.1", unpack(arrivals) }, "1..0.1")
    bad({ "--vary", "max_batch_size=0..10", unpack(arrivals) }, "max_batch_size", "0")
    bad({ "--vary", "batch_timeout_s", unpack(arrivals) }, "batch_timeout_s")
    bad({ "--vary", "batch_timeout_s=1..2", "--maximize", "latency_p99", unpack(arrivals) }, "goodput", "latency_p99")
    bad({ "--vary", "batch_timeout_s=1..2", "--vary", "batch_timeout_s=1..3", unpack(arrivals) }, "twice")
    bad({ "--vary", "batch_timeout_s=1..2", "--slo", "1", "--limit", "5", unpack(arrivals) }, "too few")
  end)
end)
