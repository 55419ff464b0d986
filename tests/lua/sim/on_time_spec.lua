-- How many on_time and deadline answer on time, with one set of parameters, over traces and made-up overload: at least
-- the share that is known to be possible.

local experiment = require "tokenbatcher.sim.experiment"
local policies = require "tokenbatcher.policy"

local TRACES = "../shared/data/traces/"
local CODE, MOONCAKE = TRACES .. "AzureLLMInferenceTrace_code.csv", TRACES .. "mooncake_synthetic_trace.jsonl"
local BY_TOKENS, BY_PADDED = "0.05 + 0.00004*tokens", "0.05 + 0.00004*padded"

local function need_traces()
  local file = io.open(CODE, "rb")
  if not file then pending "skipped: no ../shared/data" end
  file:close()
end

-- Percent on time. @param case table  trace or arrivals, service, slo, speedup, limit, straggle, set = options
local function goodput(case, policy)
  local args = { set = {}, given = {} }
  for name, value in pairs(case) do args[name] = value end
  args.set = {}
  for name, value in pairs(case.set or {}) do table.insert(args.set, { name, value }) end
  local text = policy:find "slo_s" and policy or ("%s:slo_s=%g"):format(policy, case.slo)
  local variant = { settings = {}, policy_text = text, policy = assert(policies.parse(text)) }
  local row = assert(experiment.run(assert(experiment.new(nil, args)), variant))
  assert.same({ 0, 0 }, { row.policy_errors, row.policy_overruled })
  return 100 * row.goodput
end

local function code(speedup, service, more)
  local case = { trace = CODE, service = service or BY_TOKENS, slo = 1, speedup = speedup }
  for name, value in pairs(more or {}) do case[name] = value end
  return case
end

local function mooncake(speedup)
  return { trace = MOONCAKE, service = BY_TOKENS, slo = 5, speedup = speedup }
end

-- name, case, least of on_time, least of deadline
local CASES = {
  { "code", code(1), 90.0, 89.5 }, { "code, twice as fast", code(2), 78.0, 77.5 },
  { "code, four times as fast", code(4), 63.6, 63 },
  { "code, eight times, four slots", code(8, BY_TOKENS, { set = { max_concurrent_batches = 4 } }), 85.7, 85 },
  { "code, padded", code(1, BY_PADDED), 83.4, 83 },
  { "code, padded, and the budget counts it so", code(1, BY_PADDED, { set = { cost_model = "padded" } }), 83.4, 82 },
  { "code, a high fixed cost", code(1, "0.2 + 0.00002*tokens"), 91.1, 90 },
  { "code, stragglers", code(1, BY_TOKENS, { straggle = { p = 0.05, factor = 5 } }), 77.2, 76.5 },
  { "mooncake, a fifth", mooncake(0.2), 97.6, 97 }, { "mooncake, two fifths", mooncake(0.4), 92.2, 91.5 },
}

describe("on the traces of ../shared/data:", function()
  for _, case in ipairs(CASES) do
    it(case[1], function()
      need_traces()
      local on_time, deadline = goodput(case[2], "on_time"), goodput(case[2], "deadline")
      assert.is_true(on_time >= case[3] and deadline >= case[4], ("on_time %.2f, deadline %.2f"):format(on_time,
        deadline))
    end)
  end

  it("a queue of 50 costs 5 points, where it costs those 12 that let the late fill it", function()
    need_traces()
    local narrow = { set = { max_queue_size = 50 } }
    assert.is_true(goodput(code(1, BY_TOKENS, narrow), "on_time") >= 85)
    assert.is_true(goodput(code(1, BY_TOKENS, narrow), "examples/policies/shortest_on_time.lua") < 78)
  end)
end)

describe("in deep overload, thirty times what the device can do,", function()
  for _, n in ipairs { 1500, 3000, 5000 } do
    it(n .. " records: on_time is no worse than the shortest first, deadline nearly as good", function()
      local case = { arrivals = "poisson:rate=3000,tokens=lognormal(5,1)", limit = n, slo = 5, service = BY_TOKENS }
      local shortest = goodput(case, "examples/policies/shortest_on_time.lua")
      local on_time, deadline = goodput(case, "on_time"), goodput(case, "deadline")
      local text = ("shortest %.1f, on_time %.1f, deadline %.1f"):format(shortest, on_time, deadline)
      assert.is_true(on_time >= shortest and deadline >= shortest - 2, text)
    end)
  end
end)
