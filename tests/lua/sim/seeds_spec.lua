-- Several runs in place of one: intervals that hold what is known exactly, differences over the same arrivals,
-- pieces of a trace, notes, and what the command line makes of them.

local cli = dofile "tests/lua/cli_helper.lua"
local experiment = require "tokenbatcher.sim.experiment"
local json = require "tokenbatcher.base.json"
local policies = require "tokenbatcher.policy"
local seeds = require "tokenbatcher.sim.seeds"
local sha256 = require "tokenbatcher.base.sha256"

local function job_of(args, set)
  local job_args = { set = {}, given = {} }
  for name, value in pairs(args) do job_args[name] = value end
  for name, value in pairs(set or {}) do table.insert(job_args.set, { name, value }) end
  return assert(experiment.new(nil, job_args))
end

local function variant(policy)
  return { settings = {}, policy_text = policy, policy = policy and assert(policies.parse(policy)) }
end

local ONE_BY_ONE = { max_batch_size = 1, batch_timeout_s = 0, max_queue_size = 1000000, target_batch_tokens = 1e12 }

describe("seeds", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  it("give intervals by Student's t", function()
    local mean, half = seeds.interval { 1, 2, 3, 4 }
    assert.equal(2.5, mean)
    assert.near(3.1824 * math.sqrt(5 / 3 / 4), half, 1e-4)
    local many = {}
    for i = 1, 101 do many[i] = i end
    assert.near(1.98397 * math.sqrt(858.5 / 101), select(2, seeds.interval(many)), 1e-3)
    assert.same({ 7 }, { seeds.interval { 7 } })
    assert.is_nil(seeds.interval {})
  end)

  -- The mean wait of M/M/1 is rho s / (1 - rho). Of 40 intervals of 95 % at most 6 fail to hold the mean in all but
  -- one case of a hundred thousand.
  it("whose intervals hold the true mean of M/M/1 as often as they say", function()
    local held, load = 0, 0.6
    for group = 1, 40 do
      local row = assert(seeds.run(job_of({ service = "1e-7*tokens", limit = 4000, seed = 1000 * group,
        arrivals = ("poisson:rate=%g,tokens=exponential(100000)"):format(load * 100) }, ONE_BY_ONE), variant(), 8, {}))
      local exact = load * 0.01 / (1 - load)
      if math.abs(row.wait_s.mean - exact) <= row.half_width.wait_s.mean then held = held + 1 end
    end
    assert.is_true(held >= 32, held .. " of 40")
  end)

  it("with one are today's run, and with more begin with it", function()
    local job = job_of { arrivals = "gamma:rate=60,cv=2,tokens=lognormal(5,1)", limit = 2000, slo = 0.3,
      straggle = { p = 0.1, factor = 3 } }
    local single = assert(experiment.run(job, variant "eager"))
    local one = assert(seeds.run(job, variant "eager", 1, {}))
    assert.same({ single.latency_s, single.goodput }, { one.latency_s, one.goodput })
    assert.is_nil(one.per_seed)
    local row = assert(seeds.run(job, variant "eager", 4, {}))
    assert.same(single.latency_s, row.per_seed[1].latency_s)
    local sum = 0
    for _, run in ipairs(row.per_seed) do sum = sum + run.latency_s.p99 end
    assert.near(sum / 4, row.latency_s.p99, 1e-12)
    assert.equal(2000, row.records)
    assert.is_true(row.per_seed[2].latency_s.mean ~= row.per_seed[3].latency_s.mean)
  end)

  it("pair: the difference of like policies is known better than either", function()
    local job = job_of { arrivals = "poisson:rate=60,tokens=lognormal(5,1)", limit = 4000, slo = 0.3 }
    local rows = { seeds.run(job, variant "fifo", 8, {}), seeds.run(job, variant "eager", 8, {}) }
    local gaps = {}
    for i = 1, 8 do gaps[i] = rows[2].per_seed[i].goodput - rows[1].per_seed[i].goodput end
    local mean, half = seeds.interval(gaps)
    assert.is_true(mean - half > 0 and half < rows[1].half_width.goodput / 3)
    local text = seeds.text(rows)
    assert.truthy(text:find("^8 seeds, 1 to 8: means, and half of their 95 %% intervals\n"), text)
    assert.truthy(text:find "\nless fifo, seed by seed over the same arrivals .*\neager%s+%+[%d.]+ %+%-[%d.]+%*", text)
    for line in text:gmatch "[^\n]+" do assert.is_true(#line <= 120, line) end
  end)

  it("of a device are told of its own figures", function()
    local job = job_of { arrivals = "poisson:rate=1,tokens=700,output=100", limit = 50,
      device = "preset:rtx4090-llama3.1-8b" }
    local row = assert(seeds.run(job, variant "fifo", 3, {}))
    assert.is_true(row.half_width.ttft_s.p99 > 0 and row.half_width.preemptions == 0)
    assert.truthy(seeds.text { row }:find "\n%s+goodput %%%s+ttft mean s%s+ttft p99 s%s+tpot mean s\nfifo%s+100")
  end)

  it("cut a trace into pieces, and say so; the figures are those of the whole", function()
    local lines = { "t,c" }
    for i = 1, 1000 do lines[#lines + 1] = ("%d,%d"):format(i * (i % 7 == 0 and 10 or 12), 100 + i % 900) end
    local path = cli.file("p.csv", table.concat(lines, "\n") .. "\n")
    local job = job_of { trace = path, columns = { time = "t", cost = "c" }, time_unit = "ms", slo = 0.1 }
    local whole = assert(experiment.run(job, variant "eager"))
    local row = assert(seeds.run(job, variant "eager", 7, {}))
    assert.same({ 1000, whole.latency_s }, { row.records, row.latency_s })
    local records = 0
    for _, piece in ipairs(row.per_seed) do records = records + piece.records end
    assert.same({ 1000, "pieces" }, { records, row.seeds.kind })
    assert.truthy(seeds.text { row }:find("^7 pieces of the trace, each for itself"))
    local none, message = seeds.run(job_of { trace = path, columns = { time = "t", cost = "c" }, time_unit = "ms",
      limit = 5 }, variant "eager", 7, {})
    assert.is_nil(none)
    assert.truthy(message:find("5 rows has no 7 pieces", 1, true), message)
  end)

  it("note where a p99 rests on too few, and where the device is near its limit", function()
    local calm = assert(experiment.run(job_of { arrivals = "constant:rate=20", limit = 10000 }, variant "fifo"))
    assert.same({}, seeds.notes { calm })
    local short = assert(experiment.run(job_of { arrivals = "constant:rate=20", limit = 900 }, variant "fifo"))
    assert.same({ "p99 rests on the 9 slowest answers (fifo); at the least 100, of 10000, make one to trust" },
      seeds.notes { calm, short })
    local busy = assert(experiment.run(job_of { arrivals = "constant:rate=1000,tokens=100", limit = 20000 },
      variant "eager"))
    assert.equal(1, #seeds.notes { calm, busy })
    assert.truthy(seeds.notes { calm, busy }[1]:find("busy above 85 % (eager)", 1, true))
    assert.truthy(seeds.notes { busy, busy }[1]:find("(all rows)", 1, true))
    local long = setmetatable({ policy = ("x"):rep(40) }, { __index = busy })
    assert.truthy(seeds.notes { calm, busy, long }[1]:find("(2 of 3 rows)", 1, true))
  end)

  it("count a figure of those runs alone that have measured it, pair by pair", function()
    local rows = { "arrived_at,num_prefill_tokens,num_decode_tokens" }
    for i = 0, 29 do rows[#rows + 1] = ("%d,100,%d"):format(i, i < 10 and 1 or i < 20 and 5 or 9) end
    local function told(path, ...)
      local json_path, csv_path = cli.path "some.json", cli.path "some.csv"
      local result = cli.command { "simulate", "--trace", path, "--device", "continuous:a=10ms,b=0,c=0,d=0",
        "--policy", "fifo", "--policy", "eager", "--json", json_path, "--csv", csv_path, ... }
      assert.equal(0, result.status, result.err)
      local header, first = cli.read(csv_path):match "^([^\n]+)\n([^\n]+)\n"
      assert.equal(select(2, header:gsub(",", "")), select(2, first:gsub(",", "")))
      return result.out, json.decode(cli.read(json_path))
    end
    local path = cli.file("some.csv_trace", table.concat(rows, "\n") .. "\n")
    local text, out = told(path, "--seeds", "3") -- the first piece has nothing between tokens
    assert.truthy(text:find("fifo[^\n]+ 0.010 %+%-0.000\n"), text)
    assert.truthy(text:find("eager[^\n]+ %+0.000 %+%-0.000\n"), text)
    assert.equal(0, out[1].seeds.half_width.tpot_s.mean)
    for i = 12, #rows do rows[i] = rows[i]:gsub("%d+$", i > 21 and "9" or "1") end
    text, out = told(cli.file("one.csv_trace", table.concat(rows, "\n") .. "\n"), "--seeds", "3") -- the last alone has
    assert.truthy(text:find("fifo[^\n]+ 0.010 %(one run%)\n"), text)
    assert.truthy(text:find("eager[^\n]+ %-\n"), text)
    assert.equal(json.null, out[1].seeds.half_width.tpot_s.mean)
  end)

  it("print intervals, differences and notes, and write every run with where it came from", function()
    local path = cli.file("m.jsonl", '{"timestamp": 0, "input_length": 40}\n{"timestamp": 900, "input_length": 60}\n'
      .. '{"timestamp": 1000, "input_length": 40}\n{"timestamp": 1900, "input_length": 60}\n')
    local json_path, csv_path = cli.path "out.json", cli.path "out.csv"
    local result = cli.command { "simulate", "--trace", path, "--policy", "fifo", "--policy", "eager", "--seeds", "2",
      "--json", json_path, "--csv", csv_path }
    assert.equal(0, result.status, result.err)
    assert.truthy(result.out:find("\n\n2 pieces of the trace, each for itself: means", 1, true), result.out)
    assert.truthy(result.out:find("\n\nnote      p99 rests on the 1 slowest answers (all rows)", 1, true), result.out)
    local rows = json.decode(cli.read(json_path))
    assert.same({ 2, "pieces", 1, 2 }, { rows[1].seeds.n, rows[1].seeds.kind, rows[1].seeds.first,
      #rows[1].seeds.per_seed })
    assert.equal(2, rows[1].seeds.per_seed[2].records)
    assert.equal(0, rows[1].seeds.half_width.latency_s.mean)
    assert.equal(sha256.of_file(path), rows[2].trace_sha256)
    assert.truthy(rows[1].command:find("tokenbatcher simulate --trace", 1, true))
    assert.equal(require("tokenbatcher")._VERSION, rows[1].version)
    local header, first = cli.read(csv_path):match "^([^\n]+)\n([^\n]+)\n"
    assert.equal(select(2, header:gsub(",", "")), select(2, first:gsub(",", "")))
    assert.truthy(header:find(",seeds,records_half_width,", 1, true))
    local bad = cli.command { "simulate", "--trace", path, "--seeds", "0" }
    assert.equal(2, bad.status)
    assert.truthy(bad.err:find("--seeds needs a whole number from 1 to 1000", 1, true), bad.err)
  end)

  it("hash as FIPS 180-4 says", function()
    assert.equal("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", sha256.of_text "")
    assert.equal("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", sha256.of_text "abc")
    local long = ("a"):rep(1000000)
    assert.equal("cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0", sha256.of_text(long))
    assert.equal(sha256.of_text(long), sha256.of_file(cli.file("a", long)))
    assert.is_nil(sha256.of_file "/nowhere")
  end)
end)
