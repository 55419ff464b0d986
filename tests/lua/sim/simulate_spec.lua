-- The simulator is the same program on another clock: it makes the batches that a batcher makes,
-- and the waiting times that queueing theory gives where it is exact.

local experiment = require "tokenbatcher.sim.experiment"
local output = require "tokenbatcher.sim.output"
local policies = require "tokenbatcher.policy"
local random = require "tokenbatcher.sim.random"
local H = dofile "tests/lua/helper.lua"
local tb = require "tokenbatcher"

local TRACES = "../shared/data/traces/"
local AZURE, MOONCAKE = TRACES .. "AzureLLMInferenceTrace_code.csv", TRACES .. "mooncake_synthetic_trace.jsonl"
local BY_TOKENS, BY_PADDED = "0.05 + 0.00004*tokens", "0.05 + 0.00004*padded"

local function need_traces()
  local file = io.open(AZURE, "rb")
  if not file then pending "skipped: no ../shared/data" end
  file:close()
end

-- One row. `set` is a table of options.
local function simulate(args, set, policy)
  local job_args = { set = {}, given = {} }
  for name, value in pairs(args) do job_args[name] = value end
  for name, value in pairs(set or {}) do table.insert(job_args.set, { name, value }) end
  local variant = { settings = {}, policy_text = policy, policy = policy and assert(policies.parse(policy)) }
  return assert(experiment.run(assert(experiment.new(nil, job_args)), variant))
end

local function near(expected, got, tolerance, what)
  local text = ("%s: %.6g expected, got %.6g"):format(what, expected, got)
  assert.is_true(math.abs(got / expected - 1) <= tolerance, text)
end

local ONE_BY_ONE = { max_batch_size = 1, batch_timeout_s = 0, max_queue_size = 1000000, target_batch_tokens = 1e12 }

describe("the simulator agrees with queueing theory:", function()
  -- Pollaczek and Khinchine: rho s / 2 / (1 - rho), with constant service s.
  it("the mean wait of M/D/1 at load 0.5, 0.8 and 0.9, within 2 %", function()
    for _, load in ipairs { 0.5, 0.8, 0.9 } do
      local row = simulate({ arrivals = ("poisson:rate=%g"):format(load * 100), service = "0.01", limit = 1000000 },
        ONE_BY_ONE)
      near(load * 0.01 / 2 / (1 - load), row.wait_s.mean, 0.02, "load " .. load)
      near(load, row.utilization, 0.01, "busy share")
    end
  end)

  -- rho s / (1 - rho), with exponential service of mean s.
  it("the mean wait of M/M/1 at load 0.5, 0.8 and 0.9, within 2 %", function()
    for _, load in ipairs { 0.5, 0.8, 0.9 } do
      local row = simulate({
        arrivals = ("poisson:rate=%g,tokens=exponential(100000)"):format(load * 100), service = "1e-7*tokens",
        limit = 1000000,
      }, ONE_BY_ONE)
      near(load * 0.01 / (1 - load), row.wait_s.mean, 0.02, "load " .. load)
    end
  end)

  -- A server that takes all who wait, at most b, as soon as it is free and anybody waits, and who
  -- comes later has to wait: M/M(1,b)/1 of Neuts, A general class of bulk queues with Poisson input
  -- (Ann. Math. Statist. 38, 1967). With n waiting while it is busy P(n) = A r^n, where
  -- mu r^(b+1) - (lambda + mu) r + lambda = 0 and 0 < r < 1; P(idle) = A mu / lambda. So
  -- Lq = A r / (1 - r)^2, and the mean wait is Lq / lambda.
  it("the mean wait of a server of batches, M/M(1,b)/1 of Neuts (1967), within 2 %", function()
    local path = os.tmpname() .. ".lua"
    local file = assert(io.open(path, "wb"))
    file:write "return function() return -0.1 * math.log(1 - math.random()) end\n"
    file:close()
    local mu = 10
    for _, case in ipairs { { 40, 8 }, { 60, 8 }, { 18, 2 } } do
      local lambda, b = case[1], case[2]
      local low, high = 0, 1 - 1e-9 -- 1 is a root, too
      for _ = 1, 200 do
        local r = (low + high) / 2
        if mu * r ^ (b + 1) - (lambda + mu) * r + lambda > 0 then low = r else high = r end
      end
      local r = low
      local a = 1 / (mu / lambda + 1 / (1 - r))
      local row = simulate({ arrivals = "poisson:rate=" .. lambda, service = path, limit = 1000000 },
        { max_batch_size = b, max_queue_size = 1000000 }, "eager")
      near(a * r / (1 - r) ^ 2 / lambda, row.wait_s.mean, 0.02, ("lambda %d, b %d"):format(lambda, b))
      near(1 - a * mu / lambda, row.utilization, 0.01, "busy share")
    end
    os.remove(path)
  end)

  -- The same with constant service s, by the chain of queue lengths at the ends of services of
  -- Bailey, On queueing processes with bulk service (J. Roy. Statist. Soc. B 16, 1954): from n it
  -- goes to max(n - b, 0) + the arrivals during s. Over a cycle the queue adds up to
  -- max(n - b, 0) s + lambda s^2 / 2; the cycle lasts s, and 1 / lambda more from n = 0.
  it("the mean wait and batch of a server with constant service, M/D(1,b)/1, within 2 %", function()
    local s, states = 0.1, 120
    for _, case in ipairs { { 40, 8 }, { 70, 8 }, { 9, 4 } } do
      local lambda, b = case[1], case[2]
      local arrive = { [0] = math.exp(-lambda * s) }
      for k = 1, states do arrive[k] = arrive[k - 1] * lambda * s / k end
      local p = { [0] = 1 }
      for _ = 1, 300 do
        local new = {}
        for n = 0, states do
          local left = math.max(n - b, 0)
          for k = 0, states - left do new[left + k] = (new[left + k] or 0) + (p[n] or 0) * arrive[k] end
        end
        p = new
      end
      local queue, cycle, batch = 0, 0, 0
      for n = 0, states do
        queue = queue + p[n] * (math.max(n - b, 0) * s + lambda * s * s / 2)
        cycle = cycle + p[n] * (s + (n == 0 and 1 / lambda or 0))
        batch = batch + p[n] * math.max(1, math.min(n, b))
      end
      local row = simulate({ arrivals = "poisson:rate=" .. lambda, service = "0.1", limit = 500000 },
        { max_batch_size = b, max_queue_size = 1000000 }, "eager")
      near(queue / cycle / lambda, row.wait_s.mean, 0.02, ("wait, lambda %d, b %d"):format(lambda, b))
      near(batch, row.batch_size.mean, 0.02, "batch size")
    end
  end)
end)

describe("the simulator keeps to bounds that theory has:", function()
  -- A server that takes all who wait, however many: a batch of n takes tau + alpha n. The mean latency is at most
  -- 3 tau / (2 (1 - rho)) + alpha (rho + 2) / (2 (1 - rho^2)) with rho = lambda alpha, and close to it but where hardly
  -- anybody comes: Inoue, Queueing analysis of GPU-based inference servers with dynamic batching (Performance
  -- Evaluation 147, 2021).
  it("the mean latency of a server that takes all who wait, of Inoue (2021), and is within 4 % of it", function()
    local alpha, tau = 0.001, 0.01
    for _, load in ipairs { 0.3, 0.5, 0.7, 0.9 } do
      local row = simulate({ arrivals = ("poisson:rate=%g"):format(load / alpha), service = "0.01 + 0.001*records",
        limit = 500000 }, { max_batch_size = 1000000, max_queue_size = 1000000, target_batch_tokens = 1e12 }, "eager")
      local bound = 1.5 * tau / (1 - load) + alpha * (load + 2) / (2 * (1 - load * load))
      assert.is_true(row.latency_s.mean <= bound, ("load %g: %.6f above %.6f"):format(load, row.latency_s.mean, bound))
      near(bound, row.latency_s.mean, 0.04, "load " .. load)
    end
  end)
end)

describe("the simulator does what a batcher does:", function()
  -- Traffic with all that a record can have, through a batcher on the virtual clock, recorded. With
  -- on_full = "wait" each record has a producer of its own, which waits in line.
  local function run_recorded(path, options, n)
    local stream, stats, waits = random.new(7, "traffic"), nil, options.on_full == "wait"
    options.record, options.inference_fn = path, tb.backend.simulated { base_s = 0.05, per_token_s = 0.0001 }
    H.run(function()
      local batcher = tb.TokenBatcher(options)
      batcher:start()
      for i = 1, n do
        if i % 7 == 0 then tb.sleep(0.3 * stream:exponential()) end
        local opts = {
          estimated_tokens = math.ceil(100 * stream:exponential()), key = "k" .. math.floor(4 * stream:uniform()),
          priority = math.floor(3 * stream:uniform()), timeout_s = stream:uniform() < 0.3 and 0.4 or nil,
        }
        if waits then tb.spawn(batcher.submit, batcher, {}, opts) else batcher:try_submit({}, opts) end
      end
      if waits then tb.sleep(0) end -- the last producer's call
      batcher:stop()
      stats = batcher.stats
    end)
    return stats
  end

  local CASES = {
    { "fifo" }, { "eager", min_batch_size = 3 }, { "length_bucketed" }, { "priority:aging_s=0.5" }, { "fair" },
    { "deadline:slo_s=0.5" }, { "adaptive" }, { "fifo", max_concurrent_batches = 3, prefetch_batches = 1 },
    { "length_bucketed", max_concurrent_batches = 2, max_wait_s = 0.2, cost_model = "padded" },
    { "fifo", max_queue_size = 12, on_full = "reject" }, { "fair", max_queue_cost = 900, on_full = "reject" },
    { "fifo", max_queue_size = 30, on_full = "wait" }, { "fair", max_queue_cost = 900, on_full = "wait" },
    { "eager", max_queue_size = 30, on_full = "wait", max_concurrent_batches = 2, prefetch_batches = 0 },
    { "fifo", on_oversize = "reject", target_batch_tokens = 200 }, { "eager", inference_timeout_s = 0.09 },
  }
  for _, case in ipairs(CASES) do
    local names = {}
    for name, value in pairs(case) do
      if name ~= 1 then names[#names + 1] = (" %s=%s"):format(name, tostring(value)) end
    end
    table.sort(names)
    it(("replays a recording batch by batch: %s%s"):format(case[1], table.concat(names)), function()
      local path, set = os.tmpname(), { target_batch_tokens = 1500, max_batch_size = 20 }
      for name, value in pairs(case) do
        if name ~= 1 then set[name] = value end
      end
      local options = { policy = policies.parse(case[1]) }
      for name, value in pairs(set) do options[name] = value end
      local stats = run_recorded(path, options, 3000)
      local service = case.cost_model and "0.05+0.0001*padded" or "0.05+0.0001*tokens"
      local row = simulate({ trace = path, service = service }, set, case[1])
      os.remove(path)
      assert.equal(3000, row.records)
      assert.same({ stats.total_batches, stats.total_completed, stats.total_failed, stats.total_expired,
        stats.total_rejected }, { row.batches, row.completed, row.failed, row.expired, row.rejected })
      if not case.on_full or case.on_full == "reject" then assert.same(stats.dispatched, row.dispatched) end
      -- the clocks have other origins, so that now and then an end rounds to the next microsecond
      assert.near(stats.latency_s.mean, row.latency_s.mean, 2e-6)
      assert.near(stats.wait_s.mean, row.wait_s.mean, 2e-6)
      assert.near(stats.padding_ratio, row.padding_ratio, 1e-9)
      assert.near(stats.utilization, row.utilization, 1e-6)
      assert.is_true(row.batches > 100)
    end)
  end

  -- In a program each submit of a turn has a microsecond of its own, and still one decision sees all.
  it("what a recording has of one turn is seen by one decision, in a queue that is full, too", function()
    local path = os.tmpname()
    local function replay(turn, set)
      local file = assert(io.open(path, "wb"))
      file:write '{"tokenbatcher_recording":1}\n'
      for burst = 0, 9 do
        for i = 1, 32 do
          file:write(('{"at":%.6f,"turn":%d,"cost":1}\n'):format(burst + i * 1e-5, turn and burst + 1 or 0))
        end
      end
      file:close()
      return simulate({ trace = path, service = "0.001" }, set, "eager")
    end
    local together, apart = replay(true), replay(false)
    assert.same({ 10, 32 }, { together.batches, together.batch_size.max })
    assert.is_true(apart.batches >= 20)
    near(0.001 + 15.5e-5 / 10 * 10, together.latency_s.mean, 0.001, "latency from the call of submit")
    local narrow = replay(true, { max_queue_size = 8, max_batch_size = 8 })
    assert.same({ 320, 40, 8 }, { narrow.completed, narrow.batches, narrow.batch_size.max })
    os.remove(path)
  end)

  it("a model that asks for outputs where there are none is an error", function()
    local path = os.tmpname() .. ".lua"
    local file = assert(io.open(path, "wb"))
    file:write "return function(batch) return batch.tokens + batch.max_output_tokens end"
    file:close()
    for _, model in ipairs { "0.01 + 0.001*output_tokens", "max(tokens, max_output_tokens)", path } do
      local job = assert(experiment.new(nil, { arrivals = "constant:rate=1", service = model, limit = 5, set = {},
        given = {} }))
      local row, message = experiment.run(job, { settings = {} })
      assert.is_nil(row)
      assert.truthy(message:find("output", 1, true) and message:find(model, 1, true), message)
      assert.equal(5, simulate({ arrivals = "constant:rate=1,output=1", service = model, limit = 5 }).completed)
    end
    os.remove(path)
  end)

  it("with on_full = 'wait' nothing is lost, and the wait counts", function()
    local args = { arrivals = "gamma:rate=300,cv=5,tokens=100", service = "0.05", limit = 20000 }
    local narrow = simulate(args, { max_queue_size = 64, max_batch_size = 32 })
    local wide = simulate(args, { max_queue_size = 1000000, max_batch_size = 32 })
    assert.same({ 20000, 20000, 0 }, { narrow.completed, wide.completed, narrow.rejected })
    near(wide.latency_s.mean, narrow.latency_s.mean, 0.01, "mean latency")
  end)

  it("refused, expired and failed records count as missed", function()
    local row = simulate({ arrivals = "poisson:rate=400,tokens=100,timeout=0.5", service = "0.1", limit = 20000,
      slo = 10,
      fail_rate = 0.1 }, { max_batch_size = 20, max_queue_size = 150, on_full = "reject" })
    assert.is_true(row.rejected > 100 and row.expired > 100 and row.failed > 100)
    assert.equal(20000, row.completed + row.failed + row.rejected + row.expired)
    assert.near(row.completed / 20000, row.goodput, 1e-12)
    assert.near(row.throughput, row.good_per_s, 1e-9) -- without an slo every answer is good
  end)

  it("replicas work side by side, stragglers take longer, closed clients wait for their answers", function()
    local args = { arrivals = "constant:rate=100", service = "0.02", limit = 5000 }
    local one = simulate(args, ONE_BY_ONE)
    assert.near(200, simulate({ arrivals = "constant:rate=400", service = "0.02", limit = 5000 }, { max_batch_size = 1,
      batch_timeout_s = 0, max_concurrent_batches = 4 }).throughput, 1)
    assert.near(50, one.throughput, 0.5)
    args.straggle = { p = 0.1, factor = 11 }
    near(25, simulate(args, ONE_BY_ONE).throughput, 0.1, "throughput with stragglers")
    local closed = simulate({ arrivals = "closed:clients=8", service = "0.1", limit = 8000 }, { batch_timeout_s = 0.01,
      max_batch_size = 8 })
    assert.near(80, closed.throughput, 0.1)
    assert.near(0.1, closed.latency_s.max, 1e-6)
  end)

  it("the example shortest_on_time.lua meets more of made-up bursts than fifo, and deadline more than that", function()
    local args = { arrivals = "gamma:rate=2.5,cv=13,tokens=lognormal(7,1.1)", limit = 9000, service = BY_TOKENS,
      slo = 1 }
    local fifo, deadline = simulate(args, nil, "fifo"), simulate(args, nil, "deadline:slo_s=1")
    local mine = simulate(args, nil, "examples/policies/shortest_on_time.lua")
    assert.is_true(mine.goodput > fifo.goodput + 0.3 and deadline.goodput > mine.goodput)
    assert.equal(0, mine.policy_errors)
  end)

  it("fairness is 1 where waiting keys get the same, and less where one gets more", function()
    local args = { arrivals = "poisson:rate=300,tokens=100,keys=6", service = "0.05 + 0.0001*tokens", limit = 20000 }
    local set = { target_batch_tokens = 1000, max_queue_size = 1000000 }
    local fifo, fair = simulate(args, set), simulate(args, set, "fair:quantum=100")
    assert.is_true(fair.fairness > 0.98 and fifo.fairness < 0.85, ("%.3f and %.3f"):format(fair.fairness,
      fifo.fairness))
  end)

  it("fairness is nothing where no two keys waited at the same time", function()
    local row = simulate({ arrivals = "constant:rate=10", limit = 500 })
    assert.is_nil(row.fairness)
    assert.truthy(output.json({ row }):find('"fairness":null,', 1, true))
    assert.truthy(output.csv({ row }):find ",1,,%d+,")
    assert.truthy(require("tokenbatcher.sim.compare").text({ row }):find "1%.00%s+%-\n")
  end)

  it("temporary files of pictures are made by O_EXCL (mkstemp), and gone afterwards", function()
    local gnuplot = require "tokenbatcher.sim.gnuplot"
    if not gnuplot.check() then return pending("skipped: no gnuplot") end
    local open, tmpname, made, others = io.open, os.tmpname, {}, {}
    os.tmpname = function() -- luacheck: ignore
      local name = tmpname()
      made[name] = true
      return name
    end
    io.open = function(path, mode) -- luacheck: ignore
      if mode == "wb" and not made[path] then others[#others + 1] = path end
      return open(path, mode)
    end
    local ok, text = pcall(gnuplot.svg, "plot x", 300, 200)
    io.open, os.tmpname = open, tmpname -- luacheck: ignore
    assert.is_true(ok, text)
    assert.matches("^<svg", text)
    assert.same({}, others)
    for name in pairs(made) do assert.is_nil(io.open(name)) end
  end)

  it("queue:record(i) is the row's record where it has one, and nil where it has none", function()
    local path = os.tmpname()
    local file = io.open(path, "w")
    file:write('{"timestamp":0,"record":{"text":"four"}}\n{"timestamp":0,"input_length":7}\n',
      '{"timestamp":0,"input_length":3,"record":"plain"}\n{"timestamp":0,"input_length":1,"record":null}\n')
    file:close()
    local seen
    local script = { value = { inference_fn = print, token_estimator = function(record) return #record.text end,
      max_batch_size = 4 }, declared = {}, path = "script" }
    local job = assert(experiment.new(script, { trace = path, set = {}, given = {} }))
    for _ = 1, 2 do -- as read, and as kept
      seen = {}
      local row = assert(experiment.run(job, { settings = {}, policy = { form = function(queue, batch)
        if not queue.full then return end
        for i = 1, queue.size do
          local record = queue:record(i)
          seen[#seen + 1] = type(record) == "table" and record.text or tostring(record)
          batch:add(i)
        end
      end } }))
      assert.same({ "four", "nil", "plain", "nil" }, seen)
      assert.same({ 4, 0, 15 }, { row.completed, row.policy_errors, row.batch_cost.mean })
    end
    os.remove(path)
  end)

  it("a policy sees keys and the simulated clock; one that raises is counted and told of", function()
    local seen
    local row = assert(experiment.run(assert(experiment.new(nil, {
      arrivals = "poisson:rate=100,tokens=50,output=7,keys=2", limit = 100, set = {}, given = {} })), {
      settings = {}, policy_text = "mine", policy = { form = function(queue, batch, now)
        seen = { queue:cost(1), tostring(queue:record(1)), queue:key(1):match "^key", now > 0 }
        for i = 1, queue.size do batch:add(i) end
        if now > 1.5 then error "oops" end
      end },
    }))
    assert.same({ 50, "nil", "key", true }, seen)
    assert.equal(100, row.completed)
    assert.is_true(row.policy_errors > 0)
  end)
end)

describe("on the traces of ../shared/data", function()
  local function goodput(trace, service, slo_s, speedup, policy)
    return simulate({ trace = trace, service = service, slo = slo_s, speedup = speedup }, nil, policy)
  end

  it("fifo and eager come out as known", function()
    need_traces()
    local fifo, eager = goodput(AZURE, BY_TOKENS, 1, 1, "fifo"), goodput(AZURE, BY_TOKENS, 1, 1, "eager")
    assert.same({ 8819, 2332, 2636 }, { fifo.records, fifo.batches, eager.batches })
    assert.near(0.462, fifo.goodput, 0.0005)
    assert.near(0.472, eager.goodput, 0.0005)
    assert.equal(3993, goodput(MOONCAKE, BY_TOKENS, 5, 0.2, "fifo").records)
  end)

  it("adaptive and length_bucketed beat fifo somewhere, and never lose more than 5 %", function()
    need_traces()
    for _, case in ipairs { { "adaptive", BY_TOKENS }, { "length_bucketed", BY_PADDED } } do
      for trace, loads in pairs { [AZURE] = { 0.5, 1, 2, 4 }, [MOONCAKE] = { 0.1, 0.2, 0.3, 0.4 } } do
        local has_won = false
        for _, speedup in ipairs(loads) do
          local slo_s = trace == AZURE and 1 or 5
          local fifo = goodput(trace, case[2], slo_s, speedup, "fifo").goodput
          local got = goodput(trace, case[2], slo_s, speedup, case[1]).goodput
          assert.is_true(got >= 0.95 * fifo, ("%s %s x%g: %.4f against %.4f"):format(case[1], trace, speedup, got,
            fifo))
          has_won = has_won or got > fifo
        end
        assert.is_true(has_won, case[1] .. " " .. trace)
      end
    end
  end)
end)

describe("the output of a simulation", function()
  it("is the same bytes every time", function()
    local function bytes()
      local rows = {}
      for i, policy in ipairs { "fifo", "fair", "deadline:slo_s=1", "adaptive" } do
        rows[i] = simulate({ arrivals = "gamma:rate=50,cv=3,tokens=lognormal(6,1),keys=9", service = BY_TOKENS, slo = 1,
          limit = 5000, fail_rate = 0.02, straggle = { p = 0.05, factor = 4 }, seed = 42 }, nil, policy)
      end
      return output.json(rows) .. output.csv(rows)
    end
    assert.equal(bytes(), bytes())
  end)

  it("changes with the seed", function()
    local args = { arrivals = "poisson:rate=50", service = "0.01", limit = 1000 }
    local one = simulate(args).latency_s.mean
    args.seed = 2
    assert.not_equal(one, simulate(args).latency_s.mean)
  end)

  -- Both overload the device: most of the records wait for room.
  it("does not take more memory for more arrivals, nor for a longer trace", function()
    local function kilobytes(args)
      args.service = "0.01"
      simulate(args, { max_batch_size = 8 })
      collectgarbage()
      return collectgarbage "count"
    end
    local function made_up(n) return kilobytes { arrivals = "poisson:rate=2000,tokens=100", limit = n } end
    made_up(1000)
    local short = made_up(10000)
    assert.is_true(made_up(500000) < short + 1000)
    local path = os.tmpname()
    local file = assert(io.open(path, "wb"))
    file:write '{"tokenbatcher_recording":1}\n'
    for i = 1, 200000 do file:write(('{"at":%.3f,"cost":100}\n'):format(i / 1000)) end
    file:close()
    short = kilobytes { trace = path, limit = 70000 } -- more than one block of rows
    local long = kilobytes { trace = path }
    os.remove(path)
    assert.is_true(long < short + 1000, ("%d and %d KB"):format(short, long))
  end)
end)
