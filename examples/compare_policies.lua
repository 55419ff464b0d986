-- Tries policies on the same minute of traffic under the virtual clock: prompts arrive in
-- bursts, the device pads every batch to its longest member. A policy is a name or a file:
--     luajit examples/compare_policies.lua fifo length_bucketed examples/policies/shortest_first.lua

local tb = require "tokenbatcher"

-- 1,500 prompts in 30 bursts, one every two seconds; one in ten is long. The same each time.
local function traffic()
  local state, records = 42, {}
  local function draw(n)
    state = (state * 16807) % 2147483647
    return state % n
  end
  for burst = 0, 29 do
    for _ = 1, 50 do
      local tokens = draw(10) == 0 and 300 + draw(700) or 10 + draw(60)
      records[#records + 1] = { at = 2 * burst + draw(500) / 1000, tokens = tokens }
    end
  end
  table.sort(records, function(a, b) return a.at < b.at end)
  return records
end

local function try(policy)
  return tb.run(function()
    local batcher = tb.TokenBatcher {
      policy = policy, cost_model = "padded", target_batch_tokens = 8000, max_wait_s = 4,
      inference_fn = tb.backend.simulated { base_s = 0.05, per_token_s = 0.0001 },
      token_estimator = function(record) return record.tokens end,
    }
    tb.with(batcher, function()
      for _, record in ipairs(traffic()) do
        tb.sleep(math.max(0, record.at - tb.now()))
        batcher:submit(record)
      end
    end)
    return batcher.stats
  end, { clock = "virtual" })
end

local policies = #arg > 0 and arg or { "fifo", "length_bucketed", "examples/policies/shortest_first.lua" }
print(("%-38s %8s %8s %8s %8s %8s"):format("policy", "batches", "padding", "p50 s", "p90 s", "max s"))
for _, policy in ipairs(policies) do
  local s = try(policy)
  print(("%-38s %8d %8.2f %8.2f %8.2f %8.2f"):format(policy, s.total_batches, s.padding_ratio, s.latency_s.p50,
    s.latency_s.p90, s.latency_s.max))
end
