-- batcher.stats, field by field: units, and what a ratio of nothing is.

local H = require "tests.lua.helper"
local tb = require "tokenbatcher"

describe("statistics", function()
  it("of a batcher that has done nothing are all 0", function()
    local stats = tb.TokenBatcher({ inference_fn = H.recorder() }).stats
    for _, name in ipairs { "avg_batch_size", "avg_batch_cost", "utilization", "padding_ratio", "busy_time_s" } do
      assert.equal(0, stats[name], name)
    end
    assert.same({ 0, 0, 0, 0 }, { stats.wait_s.count, stats.wait_s.mean, stats.batch_size.count, stats.batch_cost.p99 })
  end)

  it("are in seconds, records and tokens; a count is a count", H.virtually(function()
    local batcher = H.start { policy = "eager", takes = 2, max_batch_size = 2 }
    batcher:submit_batch({ "a", "b" }, { estimated_tokens = { 10, 30 } })
    tb.sleep(2.5)
    local stats = batcher.stats
    assert.same({ 2, 2, 2, 1, 1, 1 }, { stats.wait_s.count, stats.latency_s.count, stats.total_completed,
      stats.service_s.count, stats.batch_size.count, stats.batch_cost.count })
    assert.same({ 2, 2, 2, 40, 1.5 }, { stats.service_s.max, stats.latency_s.mean, stats.batch_size.mean,
      stats.batch_cost.mean, stats.padding_ratio })
    assert.same({ 2, 0.5, 0.8 }, { stats.busy_time_s, stats.idle_time_s, stats.utilization })
    batcher:stop()
  end))
end)

describe("a queue's keys", function()
  it("end behind one that nobody in it has", H.virtually(function()
    local behind
    local batcher = H.start { policy = { form = function(queue, batch)
      local step, state = queue:keys()
      behind = { step(state, "nobody"), step(state, "") }
      for i = 1, queue.size do batch:add(i) end
    end } }
    batcher:submit "without"
    batcher:submit("with", { key = "k" })
    batcher:stop()
    assert.same({ nil, "k" }, behind)
  end))
end)
