-- Policies that pass over what may not share the batch: how far, and who is not overtaken.

local H = require "tests.lua.helper"
local tb = require "tokenbatcher"
local virtually = H.virtually

-- A batcher whose one slot is taken for a second.
local function start(options)
  options.takes = 1
  local batcher, calls = H.start(options)
  H.occupy(batcher)
  return batcher, calls
end

describe("priority", function()
  it("passes over records of another group, which keep their place", virtually(function()
    local batcher, calls = start { policy = "priority", batch_timeout_s = 0 }
    batcher:submit("a1", { group = "a", priority = 9 })
    batcher:submit("b1", { group = "b", priority = 8 })
    batcher:submit("a2", { group = "a", priority = 7 })
    batcher:submit("b2", { group = "b", priority = 6 })
    tb.sleep(5)
    assert.same({ "busy", "a1 a2", "b1 b2" }, H.batches(calls))
    batcher:stop()
  end))

  it("but not over more than 512 of them", virtually(function()
    local batcher, calls = start { policy = "priority", batch_timeout_s = 0, max_batch_size = 1000 }
    batcher:submit("a1", { group = "a", priority = 9 })
    for i = 1, 513 do batcher:submit("b" .. i, { group = "b", priority = 8 }) end
    batcher:submit("a2", { group = "a", priority = 1 })
    tb.sleep(5)
    assert.same({ "busy", "a1" }, { calls[1].records[1], table.concat(calls[2].records, " ") })
    batcher:stop()
  end))
end)

describe("one_group", function()
  it("of groups that are due takes the one whose oldest record came first, however long the queue", virtually(function()
    local batcher, calls = start { policy = "one_group", batch_timeout_s = 100, max_batch_size = 80 }
    for _ = 1, 70 do batcher:submit("c", { group = "c" }) end
    for _ = 1, 80 do batcher:submit("a", { group = "a" }) end -- a batch, which goes first
    batcher:submit("b", { group = "b", batch_timeout_s = 0 })
    batcher:submit("a", { group = "a", batch_timeout_s = 0 })
    tb.sleep(3.5)
    local first = {}
    for i, call in ipairs(calls) do first[i] = call.records[1] .. call.size end
    assert.same({ "busy1", "a80", "b1", "a1" }, first)
    batcher:stop()
  end))

  it("takes that of the oldest when the queue can take no more and no group is full", virtually(function()
    local batcher, calls = start { policy = "one_group", batch_timeout_s = 100, max_batch_size = 3,
      max_queue_size = 3 }
    for _, group in ipairs { "a", "b", "c" } do batcher:submit(group, { group = group }) end
    tb.sleep(1.5)
    assert.same({ "busy", "a" }, H.batches(calls))
    batcher:stop()
  end))
end)

describe("rate_limited", function()
  it("lets a record above the limit, which was there before, go by itself, whatever inner would rather", virtually(
    function()
      local batcher, calls = start { batch_timeout_s = 100 }
      batcher:submit("big", { estimated_cost = 50 })
      for i = 1, 20 do batcher:submit("s" .. i, { estimated_cost = 1, priority = 9 }) end
      batcher:set { policy = tb.policy.rate_limited { tokens_per_minute = 10, inner = "priority" },
        batch_timeout_s = 0 }
      tb.sleep(30)
      assert.same({ "busy", "big" }, { calls[1].records[1], table.concat(calls[2].records, " ") })
      batcher:stop { timeout_s = 0 }
    end))

  it("asks again when there is room for one more request", virtually(function()
    local batcher, calls = H.start { policy = tb.policy.rate_limited { requests_per_minute = 2 }, max_batch_size = 1,
      batch_timeout_s = 0 }
    batcher:submit_batch { "a", "b", "c" }
    tb.sleep(59.9)
    assert.same({ "a", "b" }, H.batches(calls))
    tb.sleep(0.2)
    assert.same({ "a", "b", "c" }, H.batches(calls))
    assert.equal(0, batcher.stats.policy_overruled)
    batcher:stop()
  end))
end)

describe("adaptive", function()
  it("gathers as long as a batch's base takes, by the busy share of the device", function()
    local policy = require("tokenbatcher.policy.adaptive").new { latency_target_s = 4 }
    policy.on_complete { id = 1, size = 1, cost = 10, padded = 10, service_s = 1, failed = 0, now = 1 }
    policy.on_complete { id = 2, size = 1, cost = 10, padded = 10, service_s = 1, failed = 0, now = 3 } -- idle for 1 s
    policy.model.a = 0.5
    local age = 0.1
    local queue = { full = false, due = false, size = 0 }
    function queue.age() return age end
    function queue.cost() return 1 end
    local batch = { limit = function() end }
    local busy, time = 0.9 + 1, 0.9 + 2
    local asked_at = policy.form(queue, batch, 10)
    assert.is_true(math.abs(asked_at - (10 - age + 0.5 * busy / time)) < 1e-9)
    age = 0.4
    assert.is_nil(policy.form(queue, batch, 10)) -- it has gathered
  end)
end)
