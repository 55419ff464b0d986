-- R5: time in which the loop was blocked does not count against calls: completions that have
-- arrived are taken before timeouts are served.

local H = require "tests.lua.helper"
local http = require "tests.lua.http_helper"
local tb = require "tokenbatcher"

local TIMEOUT_S = 0.3

-- Hold the loop up from within a coroutine while a call is under way, past its timeout.
local function answer_of(inference_fn)
  return H.run(function()
    local batcher = tb.TokenBatcher { inference_fn = inference_fn, policy = "eager", inference_timeout_s = TIMEOUT_S }
    batcher:start()
    local future = batcher:submit "x"
    repeat tb.sleep(0) until batcher.stats.running_records == 1
    tb.sleep(0) -- the call has begun
    local back_at = tb.now() + 3 * TIMEOUT_S
    repeat until tb.now() >= back_at
    local answer, err = future:await()
    batcher:stop()
    return answer or err
  end, "real")
end

describe("R5: an answer that came while a coroutine blocked the loop counts", function()
  it("of a sleep", function()
    assert.equal("x", answer_of(function(records)
      tb.sleep(TIMEOUT_S / 2)
      return records
    end))
  end)

  it("of an HTTP server", function()
    local reason = http.missing()
    if reason then return pending("skipped: " .. reason) end
    local server = http.server()
    finally(server.stop)
    assert.equal(200, answer_of(function() return { assert(tb.http.get(server.url .. "/stats")).status } end))
  end)

  it("but one that comes much later does not", function()
    assert.equal("inference_timeout", answer_of(function(records)
      tb.sleep(100 * TIMEOUT_S)
      return records
    end).code)
  end)
end)

describe("R5: a process that was stopped", function()
  it("takes an answer that would have been in time", function()
    local answered, err = H.run(function()
      local batcher = tb.TokenBatcher { policy = "eager", inference_timeout_s = 1, inference_fn = function(records)
        -- the call has begun: a shell stops this process, and lets it go on after twice the timeout
        os.execute "(kill -STOP $PPID; sleep 2; kill -CONT $PPID) >/dev/null 2>&1 &"
        tb.sleep(0.3) -- two steps, so that one look does not bring both
        tb.sleep(0.3)
        return records
      end }
      batcher:start()
      local answer, why = batcher:submit("x"):await()
      batcher:stop()
      return answer, why
    end, "real")
    assert.equal("x", answered, tostring(err))
  end)
end)

describe("R5, X4: waits are short while a call runs that began with a timeout", function()
  it("whatever the batcher's timeout has become meanwhile", function()
    H.run(function()
      local batcher = tb.TokenBatcher { policy = "eager", inference_timeout_s = 10, inference_fn = function(records)
        tb.sleep(1)
        return records
      end }
      batcher:start()
      local first = batcher:submit "x"
      tb.sleep(0.5)
      batcher:set { inference_timeout_s = false }
      assert.is_true(batcher:has_timed_calls())
      first:await()
      tb.sleep(0)
      assert.is_false(batcher:has_timed_calls())
      local second = batcher:submit "y"
      tb.sleep(0.5)
      assert.is_false(batcher:has_timed_calls())
      second:await()
      batcher:stop()
    end)
  end)
end)
