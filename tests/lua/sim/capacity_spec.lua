-- The highest rate at which a share is on time.

local capacity = require "tokenbatcher.sim.capacity"
local experiment = require "tokenbatcher.sim.experiment"
local json = require "tokenbatcher.base.json"
local output = require "tokenbatcher.sim.output"
local policies = require "tokenbatcher.policy"
local seeds = require "tokenbatcher.sim.seeds"

local function find(args, share, n)
  local given = { set = { { "max_batch_size", 1 }, { "batch_timeout_s", 0 } }, given = {} }
  for name, value in pairs(args) do given[name] = value end
  local job = assert(experiment.new(nil, given))
  local variant = { settings = {}, policy_text = "eager", policy = assert(policies.parse "eager") }
  return capacity.find(variant, job.speedup, share, function(at) return seeds.run(job, at, n or 1, {}) end)
end

describe("capacity", function()
  it("of a device that takes 0.01 s is 100 regular arrivals a second, wherever the search begins", function()
    for _, rate in ipairs { 3, 100, 7000 } do
      local found = find({ arrivals = "constant:rate=" .. rate, limit = 2000, service = "0.01", slo = 0.0101 }, 0.99)
      assert.near(100, found.rate, 1.5)
      assert.is_true(found.share >= 0.99 and found.above.share < 0.99 and found.is_monotone)
      assert.near(1, found.above.speedup / found.speedup, 0.011)
    end
  end)

  it("is decided by the lower limit of several seeds, so that it is lower", function()
    local args = { arrivals = "poisson:rate=50", limit = 3000, service = "0.01", slo = 0.05 }
    local one, five = find(args, 0.95), find(args, 0.95, 5)
    assert.is_true(five.rate < one.rate * 1.02 and five.rate > 0.8 * one.rate)
  end)

  it("stands in --json at the end of the row of a run at that rate, several seeds or one", function()
    for n = 1, 3, 2 do
      local args = { arrivals = "poisson:rate=50", limit = 1000, service = "0.01", slo = 0.05 }
      local found = find(args, 0.9, n)
      args.set, args.given = { { "max_batch_size", 1 }, { "batch_timeout_s", 0 } }, {}
      local row = assert(seeds.run(assert(experiment.new(nil, args)), found.variant, n, {}))
      row.capacity = capacity.figures(found, 0.9)
      local got = assert(json.decode(output.json { row }))[1].capacity
      assert.same({ 0.9, true }, { got.wanted, got.is_monotone })
      assert.near(found.rate, got.arrivals_per_s, 1e-6 * found.rate)
      assert.near(found.speedup, got.speedup, 1e-6)
      assert.is_true(got.on_time >= 0.9 and got.not_at_on_time < 0.9 and got.not_at_speedup > got.speedup)
      assert.is_true(row.goodput >= got.on_time - 1e-9)
    end
  end)

  it("is said not to be there where no rate is low enough, or none too high", function()
    local never = find({ arrivals = "constant:rate=1", limit = 20, service = "1", slo = 0.5 }, 0.9)
    local always = find({ arrivals = "constant:rate=1", limit = 20, service = "0.001", slo = 10 }, 0.9)
    assert.is_truthy(never:find "fewer are on time" and always:find "as many are on time")
    assert.is_truthy(capacity.text({ { "eager", never } }, 0.9):find("90 % on time", 1, true))
  end)
end)
