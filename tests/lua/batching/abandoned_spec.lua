-- R5: calls that go on after their timeout.

local tb = require "tokenbatcher"
local H = require "tests.lua.helper"
local virtually = H.virtually

-- Hangs for `takes_s`; counts how many are in it at once.
local function hanging(takes_s)
  local count = { now = 0, most = 0, calls = 0 }
  return function(records)
    count.now, count.calls = count.now + 1, count.calls + 1
    count.most = math.max(count.most, count.now)
    tb.sleep(takes_s)
    count.now = count.now - 1
    return records
  end, count
end

local function start(options, takes_s)
  local fn, count = hanging(takes_s)
  options.inference_fn, options.batch_timeout_s = fn, 0
  options.max_batch_size = options.max_batch_size or 1
  local batcher = tb.TokenBatcher(options)
  batcher:start()
  return batcher, count
end

describe("R5: abandoned calls", function()
  it("pile up without a limit, and are counted", virtually(function()
    local batcher, count = start({ inference_timeout_s = 1 }, 10)
    for i = 1, 5 do batcher:submit(i) end
    tb.sleep(5.5)
    assert.equal(5, count.most)
    assert.equal(5, batcher.stats.abandoned_calls)
    tb.sleep(20)
    assert.equal(0, batcher.stats.abandoned_calls)
    batcher:stop()
  end))

  it("with max_abandoned_calls = 0 the device has one call at a time", virtually(function()
    local batcher, count = start({ inference_timeout_s = 1, max_abandoned_calls = 0 }, 1.5)
    local futures = {}
    for i = 1, 10 do futures[i] = batcher:submit(i) end
    tb.sleep(30)
    assert.equal(1, count.most)
    for i = 1, 10 do assert.equal("inference_timeout", select(2, futures[i]:await(0)).code) end
    assert.is_true(H.is_conserved(batcher.stats))
    batcher:stop()
  end))

  it("while so many run, the slot of one that times out stays taken until a call ends", virtually(function()
    local batcher, count = start({ inference_timeout_s = 1, max_abandoned_calls = 2 }, 10)
    for i = 1, 8 do batcher:submit(i) end
    tb.sleep(5)
    assert.equal(3, count.calls)
    tb.sleep(5.5) -- the first has ended after 10 s
    assert.equal(4, count.calls)
    batcher:stop { timeout_s = 0 }
  end))

  it("a slot is free again abandon_s after the timeout", virtually(function()
    local batcher, count = start({ inference_timeout_s = 1, max_abandoned_calls = 0, abandon_s = 3 }, 1000)
    for i = 1, 3 do batcher:submit(i) end
    tb.sleep(3.9)
    assert.equal(1, count.calls)
    tb.sleep(0.2)
    assert.equal(2, count.calls)
    batcher:stop { timeout_s = 0 }
  end))

  it("keep stop waiting for nothing but answers", virtually(function()
    local batcher = start({ inference_timeout_s = 1, max_abandoned_calls = 0 }, 1000)
    local future = batcher:submit "a"
    batcher:stop()
    assert.equal("inference_timeout", select(2, future:await()).code)
    assert.equal(1, tb.now())
  end))

  it("that a run leaves behind do not count in the next one", function()
    local batcher = tb.TokenBatcher { batch_timeout_s = 0, inference_timeout_s = 1, max_abandoned_calls = 1,
      inference_fn = function(records)
        if records[1] == "hang" then tb.sleep(1e6) end
        return records
      end }
    for _ = 1, 2 do
      H.run(function()
        batcher:start()
        assert.equal(0, batcher.stats.abandoned_calls)
        batcher:submit("hang"):await()
        assert.equal(1, batcher.stats.abandoned_calls)
        assert.equal("x", (batcher:submit("x"):await()))
        assert.equal(1, tb.now())
        batcher:stop()
      end)
      assert.equal(0, batcher.stats.abandoned_calls)
    end
  end)

  it("the ages of the oldest show a queue that is stuck", virtually(function()
    local batcher = start({}, 1e6)
    batcher:submit "a"
    tb.sleep(1)
    batcher:submit "b"
    tb.sleep(3600)
    local stats = batcher.stats
    assert.equal(3601, math.floor(stats.oldest_running_s))
    assert.equal(3600, math.floor(stats.oldest_queued_s))
    batcher:stop { timeout_s = 0 }
    assert.equal(0, batcher.stats.oldest_queued_s)
  end))
end)

describe("R5: time in which nobody could look", function()
  it("does not count against calls: a loop that was blocked takes the answers that came", function()
    H.run(function()
      local batcher = tb.TokenBatcher { batch_timeout_s = 0, inference_timeout_s = 0.2, max_batch_size = 1,
        inference_fn = function(records)
          tb.sleep(0.05)
          tb.sleep(0.05) -- two steps: one turn does not bring it to its end
          return records
        end }
      batcher:start()
      local future = batcher:submit "a"
      tb.sleep(0.01)
      local until_s = tb.now() + 0.5
      while tb.now() < until_s do end -- luacheck: ignore
      assert.equal("a", (future:await()))
      batcher:stop()
    end, "real")
  end)

  it("is none while the loop only waits: a hanging call times out", function()
    H.run(function()
      local batcher = tb.TokenBatcher { batch_timeout_s = 0, inference_timeout_s = 0.1,
        inference_fn = function() tb.sleep(1000) end }
      batcher:start()
      local began = tb.now()
      assert.equal("inference_timeout", select(2, batcher:submit("a"):await()).code)
      assert.is_true(tb.now() - began < 1)
      batcher:stop()
    end, "real")
  end)
end)
