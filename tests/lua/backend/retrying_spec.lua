-- tb.backend.retrying: what an attempt is given, and when there is no other.

local errors = require "tokenbatcher.base.errors"
local H = require "tests.lua.helper"
local tb = require "tokenbatcher"

-- A batcher around retrying{fn}. @return batcher, a function that tells how often fn was called
local function start(fn, options)
  local n = 0
  local given = { function(records, info)
    n = n + 1
    return fn(n, records, info)
  end, attempts = 5, backoff_s = 0.1 }
  for name, value in pairs(options and options.retrying or {}) do given[name] = value end
  local batcher = H.start { policy = "eager", inference_fn = tb.backend.retrying(given),
    inference_timeout_s = options and options.timeout_s }
  return batcher, function() return n end
end

describe("retrying", function()
  it("gives each attempt a list of its own", H.virtually(function()
    local batcher = start(function(n, records, info)
      assert.equal(2, #info.costs)
      if n == 1 then
        table.remove(records)
        table.remove(info.costs)
        error "changed, and failed"
      end
      return { records[1] .. "!", records[2] .. "!" }
    end)
    local futures = batcher:submit_batch { "a", "b" }
    assert.same({ "a!", "b!" }, { futures[1]:await(), (futures[2]:await()) })
    batcher:stop()
  end))

  it("does not try again what nobody waits for", H.virtually(function()
    local batcher, calls = start(function()
      error(errors.new("cancelled", "nobody waits for this call any more"), 0)
    end)
    local _, err = batcher:submit("a"):await()
    assert.same({ 1, "inference_failed" }, { calls(), err.code })
    batcher:stop()
  end))

  it("does not wait past the call's timeout: what failed is told, not that it took too long", H.virtually(function()
    local batcher, calls = start(function() error "broken" end, { timeout_s = 1,
      retrying = { backoff_s = 1000, max_backoff_s = 1000 } })
    local _, err = batcher:submit("a"):await()
    assert.equal("inference_failed", err.code)
    assert.matches("broken", err.message)
    assert.is_true(calls() >= 1 and tb.now() < 1)
    batcher:stop()
  end))
end)
