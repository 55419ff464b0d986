-- --warmup: what arrives first is simulated, and not counted.

local experiment = require "tokenbatcher.sim.experiment"
local policies = require "tokenbatcher.policy"

local function run(args, set)
  local given = { set = {}, given = {} }
  for name, value in pairs(args) do given[name] = value end
  for name, value in pairs(set or {}) do table.insert(given.set, { name, value }) end
  local job, message = experiment.new(nil, given)
  if not job then return nil, message end
  return experiment.run(job, { settings = {}, policy_text = "eager", policy = assert(policies.parse "eager") }, {})
end

describe("a warm-up", function()
  -- One in 0.1 s, 0.04 s each: the first at 0, the last of 100 at 9.9 s.
  it("leaves out whom it says, and the batches that began before", function()
    local args = { arrivals = "constant:rate=10,tokens=7", limit = 100, service = "0.04", slo = 0.05 }
    local all = assert(run(args))
    args.warmup = 6
    local row = assert(run(args))
    assert.same({ 40, 40, 40, 0 }, { row.records, row.completed, row.batches, row.failed })
    assert.same({ 6, 1, 7, 7, 1 }, { row.warm_up_s, row.goodput, row.batch_cost.mean, row.batch_cost.p99,
      row.batch_size.max })
    assert.near(40 / 3.94, row.throughput, 1e-9)
    assert.near(40 / 3.94, row.good_per_s, 1e-9)
    assert.near(all.utilization, row.utilization, 0.01)
    assert.near(0.04, row.latency_s.mean, 1e-6)
    assert.equal(40, row.dispatched.full + row.dispatched.timeout + row.dispatched.idle + row.dispatched.drain
      + row.dispatched.policy)
  end)

  -- A queue that begins empty: in overload the first are the fast ones.
  it("takes from the figures what a run that begins with nothing queued has added", function()
    local args = { arrivals = "poisson:rate=40,tokens=10", limit = 20000, service = "0.03", slo = 0.2 }
    local set = { max_batch_size = 1, max_queue_size = 50, on_full = "reject" }
    local all = assert(run(args, set))
    args.warmup = 300
    local row = assert(run(args, set))
    assert.is_true(row.records < all.records and row.records > all.records / 3)
    assert.equal(row.records, row.completed + row.failed + row.rejected + row.expired)
    assert.is_true(row.rejected > 0)
    assert.near(all.latency_s.mean, row.latency_s.mean, 0.2 * all.latency_s.mean)
  end)

  it("counts what expires, fails and times out by its arrival", function()
    local args = { arrivals = "poisson:rate=200,tokens=10,timeout=uniform(0.05,0.3)", limit = 5000,
      service = "0.1", fail_rate = 0.2, warmup = 5 }
    local row = assert(run(args, { max_batch_size = 4 }))
    assert.equal(row.records, row.completed + row.failed + row.rejected + row.expired)
    assert.is_true(row.expired > 0 and row.failed > 0 and row.completed > 0)
    args.service = "0.1 + 0.05*records"
    row = assert(run(args, { max_batch_size = 4, inference_timeout_s = 0.25 }))
    assert.equal(row.records, row.completed + row.failed + row.rejected + row.expired)
    assert.is_true(row.failed > 100)
  end)

  it("is the same for what a device's clients see, and for the bound", function()
    local args = { arrivals = "constant:rate=1,tokens=10,output=3", limit = 20, warmup = 10,
      device = "continuous:a=0.1,b=0,c=0,d=0" }
    local row = assert(run(args))
    assert.same({ 10, 10 }, { row.records, row.completed })
    assert.near(0.3, row.e2e_s.mean, 1e-6)
    args.device, args.service, args.slo, args.bound = nil, "1.5", 1.6, true
    row = assert(run(args, { max_batch_size = 1 }))
    assert.is_true(row.at_most >= row.goodput and row.at_most <= 1 and row.records == 10)
  end)

  it("after which nobody comes is refused", function()
    local row, message = run { arrivals = "constant:rate=10", limit = 10, warmup = 5 }
    assert.is_nil(row)
    assert.equal("--warmup 5: the last record arrives after 0.9 s", message)
  end)

  it("of none changes nothing", function()
    local args = { arrivals = "poisson:rate=50,tokens=lognormal(5,1)", limit = 2000, slo = 0.5 }
    local all = assert(run(args))
    args.warmup = 1e-6 -- the first arrival alone
    local row = assert(run(args))
    assert.equal(all.records - 1, row.records)
    assert.near(all.latency_s.mean, row.latency_s.mean, 1e-3)
  end)
end)
