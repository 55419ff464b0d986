-- fair: a key whose records have gone is forgotten, and comes back as a new one.

local H = require "tests.lua.helper"
local tb = require "tokenbatcher"

local function start()
  return H.start { policy = tb.policy.fair { quantum = 1 }, max_batch_size = 1, batch_timeout_s = 0, takes = 1 }
end

describe("fair", function()
  it("serves a key again whose records were all cancelled while it had a turn to come", H.virtually(function()
    local batcher, calls = start()
    batcher:submit("a1", { key = "a", estimated_cost = 1 })
    local second = batcher:submit("a2", { key = "a", estimated_cost = 1 })
    for i = 1, 9 do batcher:submit("b" .. i, { key = "b", estimated_cost = 1 }) end
    tb.sleep(0.5)
    second:cancel()
    tb.sleep(2) -- decisions without the key
    batcher:submit("a3", { key = "a", estimated_cost = 1 })
    tb.sleep(2.9)
    local last = table.concat(H.batches(calls), " ")
    assert.matches("a3", last) -- at the second decision from then, at the latest
    assert.equal(0, batcher.stats.policy_overruled)
    batcher:stop()
  end))

  it("gives a key no credit for rounds in which it was away", H.virtually(function()
    local batcher, calls = start()
    for i = 1, 3 do batcher:submit("a" .. i, { key = "a", estimated_cost = 1 }) end
    for i = 1, 12 do batcher:submit("b" .. i, { key = "b", estimated_cost = 1 }) end
    tb.sleep(10.5)
    for i = 4, 6 do batcher:submit("a" .. i, { key = "a", estimated_cost = 1 }) end
    tb.sleep(4)
    local order = table.concat(H.batches(calls), " ")
    assert.falsy(order:find("a4 a5", 1, true), order)
    assert.truthy(order:find("a5", 1, true), order)
    batcher:stop()
  end))
end)
