-- F2: a queue that can take no more is full while a slot is idle.

local tb = require "tokenbatcher"
local H = require "tests.lua.helper"
local virtually = H.virtually

local function silent() end

describe("F2: a queue that can take no more", function()
  it("by max_queue_size goes at once, whatever the policy", virtually(function()
    local policies = { "fifo", "eager", "priority", "fair", "length_bucketed", "one_group", "adaptive", "deadline",
      "on_time" }
    for _, policy in ipairs(policies) do
      local batcher, calls = H.start { policy = policy, max_queue_size = 10, batch_timeout_s = 100, takes = 0.001,
        min_batch_size = policy == "eager" and 200 or 1, log = silent }
      local began = tb.now()
      tb.spawn(function()
        for i = 1, 100 do batcher:submit(i) end
      end):await()
      assert.is_true(tb.now() - began < 1, policy)
      assert.is_true(#calls >= 9, policy)
      batcher:stop()
    end
  end))

  it("by max_queue_cost goes at once", virtually(function()
    local batcher, calls = H.start { max_queue_cost = 40000, batch_timeout_s = 100, takes = 0.001, log = silent }
    tb.spawn(function()
      for i = 1, 20 do batcher:submit(i, { estimated_cost = 15000 }) end
    end):await()
    assert.is_true(tb.now() < 1)
    for _, call in ipairs(calls) do assert.is_true(call.size <= 2) end
    batcher:stop()
  end))

  it("because one was refused for room goes, too", virtually(function()
    local batcher, calls = H.start { max_queue_cost = 100, on_full = "reject", batch_timeout_s = 100, log = silent }
    batcher:submit("a", { estimated_cost = 60 })
    local _, err = batcher:submit("b", { estimated_cost = 60 })
    assert.equal("queue_full", err.code)
    tb.sleep(0)
    tb.sleep(0)
    assert.same({ "a" }, H.batches(calls))
    assert.equal(0, calls[1].at)
    batcher:stop()
  end))

  it("is told once, both numbers named", virtually(function()
    local said = {}
    local function log(_, text) said[#said + 1] = text end
    local batcher = H.start { max_queue_size = 100, log = log }
    batcher:set { batch_timeout_s = 1 }
    batcher:stop()
    batcher:start()
    assert.equal(1, #said)
    assert.matches("max_queue_size = 100 is below max_batch_size = 256", said[1])
    batcher:set { max_queue_cost = 10 }
    assert.equal(2, #said)
    assert.matches("max_queue_cost = 10 is below target_batch_cost = 32000", said[2])
    batcher:stop()
    local quiet = H.start { log = log }
    quiet:stop()
    assert.equal(2, #said)
  end))

  it("and a list that can never enter is refused in other words than queue_full", virtually(function()
    local batcher = H.start { max_queue_size = 512, on_full = "reject" }
    local list = {}
    for i = 1, 8000 do list[i] = i end
    local futures, err = batcher:submit_batch(list)
    assert.is_nil(futures)
    assert.equal("batch_too_large", err.code)
    assert.matches("8000", err.message)
    assert.matches("512", err.message)
    assert.equal(8000, batcher.stats.total_rejected)
    batcher:stop()
    local by_cost = H.start { max_queue_cost = 100, on_full = "reject", log = silent }
    list = {}
    for i = 1, 20 do list[i] = 10 end
    local _
    _, err = by_cost:submit_batch(list, { estimated_cost = list })
    assert.equal("batch_too_large", err.code)
    assert.matches("200", err.message)
    assert.matches("100", err.message)
    assert.is_table(by_cost:submit_batch({ "one" }, { estimated_cost = { 500 } }))
    by_cost:stop()
  end))
end)
