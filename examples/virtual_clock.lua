-- An hour of traffic in a moment: the same program under the virtual clock, where nothing
-- waits and every run takes the same steps. Compares two policies under a growing load.
--     LUA_PATH="lua/?.lua;lua/?/init.lua;;" luajit examples/virtual_clock.lua

local tb = require "tokenbatcher"

-- Submits a record every 1/rate seconds for an hour, of 10 to 200 tokens.
local function traffic(policy, rate)
  return tb.run(function()
    local batcher = tb.TokenBatcher {
      policy = policy,
      inference_fn = tb.backend.simulated { base_s = 0.02, per_token_s = 0.00005 },
      target_batch_tokens = 4000,
    }
    tb.with(batcher, function()
      for i = 1, 3600 * rate do
        batcher:submit(i, { estimated_tokens = 10 + (i * 7919) % 191 })
        tb.sleep(1 / rate)
      end
    end)
    return batcher.stats
  end, { clock = "virtual" })
end

print "policy  records/s  mean batch  p50 ms  p99 ms  utilization"
for _, rate in ipairs { 10, 30, 100 } do
  for _, policy in ipairs { "fifo", "eager" } do
    local stats = traffic(policy, rate)
    print(("%-6s  %9d  %10.1f  %6.1f  %6.1f  %10.1f%%"):format(policy, rate, stats.avg_batch_size,
      1e3 * stats.latency_s.p50, 1e3 * stats.latency_s.p99, 100 * stats.utilization))
  end
end
