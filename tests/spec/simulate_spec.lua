-- The simulator is the same program on another clock: the same batches as a batcher under the virtual
-- clock, and the waiting times that queueing theory gives where it is exact.

local experiment = require "tokenbatcher.sim.experiment"
local output = require "tokenbatcher.sim.output"
local policies = require "tokenbatcher.policies"
local tb = require "tokenbatcher"

local AZURE = "../shared/data/traces/AzureLLMInferenceTrace_code.csv"
local MOONCAKE = "../shared/data/traces/mooncake_synthetic_trace.jsonl"

local function exists(path)
  local file = io.open(path, "rb")
  if file then file:close() end
  return file ~= nil
end

local function new_job(args)
  args.set, args.given = args.set or {}, {}
  return assert(experiment.new(nil, args))
end

-- One row. `set` is a table of options.
local function simulate(args, set, policy)
  args.set = {}
  for name, value in pairs(set or {}) do args.set[#args.set + 1] = { name, value } end
  local variant = { settings = {}, policy_text = policy, policy = policy and assert(policies.parse(policy)) }
  return assert(experiment.run(new_job(args), variant))
end

local function near(expected, got, tolerance, what)
  assert.is_true(math.abs(got / expected - 1) <= tolerance, ("%s: %.6g expected, got %.6g"):format(what, expected, got))
end

local ONE_BY_ONE = { max_batch_size = 1, batch_timeout_s = 0, max_queue_size = 1000000 }

describe("the simulator", function()
  describe("agrees with queueing theory:", function()
    -- Pollaczek and Khinchine: mean wait = rho s / 2 / (1 - rho) with constant service s.
    it("the mean wait of M/D/1 at load 0.5, 0.8 and 0.9, within 2 %", function()
      for _, load in ipairs { 0.5, 0.8, 0.9 } do
        local row = simulate({ arrivals = ("poisson:rate=%g"):format(load * 100), service = "0.01", limit = 1000000, seed = 1 },
          ONE_BY_ONE)
        near(load * 0.01 / 2 / (1 - load), row.wait_s.mean, 0.02, "load " .. load)
        near(load, row.utilization, 0.01, "busy share")
      end
    end)

    -- mean wait = rho s / (1 - rho) with exponential service of mean s.
    it("the mean wait of M/M/1 at load 0.5, 0.8 and 0.9, within 2 %", function()
      for _, load in ipairs { 0.5, 0.8, 0.9 } do
        local row = simulate({
          arrivals = ("poisson:rate=%g,tokens=exponential(100000)"):format(load * 100), service = "1e-7*tokens",
          limit = 2000000, seed = 1,
        }, { max_batch_size = 1, batch_timeout_s = 0, max_queue_size = 1000000, target_batch_tokens = 1e12 })
        near(load * 0.01 / (1 - load), row.wait_s.mean, 0.02, "load " .. load)
      end
    end)
  end)
end)

return { simulate = simulate, exists = exists, AZURE = AZURE, MOONCAKE = MOONCAKE, output = output, tb = tb }
