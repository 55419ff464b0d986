-- S3, X3: several batchers, user code that does what it likes while one of them works.

local tb = require "tokenbatcher"
local H = require "tests.lua.helper"
local virtually = H.virtually

describe("batchers share nothing:", function()
  it("S3: a log called from a failing observe may stop another batcher", virtually(function()
    local other = tb.TokenBatcher { inference_fn = function(records) return records end, name = "other" }
    local stopped
    local estimator = setmetatable({ observe = function() error "observe is broken" end },
      { __call = function() return 1 end })
    local batcher = tb.TokenBatcher {
      token_estimator = estimator, batch_timeout_s = 0, inference_timeout_s = 1, max_concurrent_batches = 8,
      max_batch_size = 1,
      inference_fn = function(_, info)
        info.usage = { total_tokens = 1 }
        tb.sleep(5)
      end,
      log = function() if not stopped then stopped = true other:stop { timeout_s = 0 } end end,
    }
    other:start()
    batcher:start()
    local futures = {}
    for i = 1, 8 do futures[i] = batcher:submit(i) end
    tb.sleep(3)
    for i = 1, 8 do assert.equal("inference_timeout", select(2, futures[i]:await(1)).code) end
    assert.is_true(stopped)
    assert.is_false(other.is_running)
    batcher:stop()
  end))

  it("a log may stop its own batcher while that reports", virtually(function()
    local batcher
    batcher = tb.TokenBatcher {
      token_estimator = setmetatable({ observe = function() error "broken" end }, { __call = function() return 1 end }),
      batch_timeout_s = 0, inference_timeout_s = 1, max_batch_size = 1, max_concurrent_batches = 4,
      inference_fn = function(_, info)
        info.usage = { total_tokens = 1 }
        tb.sleep(5)
      end,
      log = function() batcher:stop { timeout_s = 0 } end,
    }
    batcher:start()
    local futures = {}
    for i = 1, 6 do futures[i] = batcher:submit(i) end
    tb.sleep(3)
    for i = 1, 6 do assert.is_true(futures[i]:done()) end
    assert.is_true(H.is_conserved(batcher.stats))
    assert.is_false(batcher.is_running)
  end))

  it("on_stop of an inference function may start and fill another batcher", virtually(function()
    local answers = {}
    local second = tb.TokenBatcher { inference_fn = function(records) return records end, batch_timeout_s = 0 }
    local first = tb.TokenBatcher { batch_timeout_s = 0, inference_fn = setmetatable({
      on_stop = function() second:start() answers[1] = second:submit "x" end,
    }, { __call = function(_, records) return records end }) }
    first:start()
    first:submit("a"):await()
    first:stop()
    assert.equal("x", (answers[1]:await()))
    second:stop()
  end))

  it("an error whose __tostring raises and runs others keeps its own traceback", virtually(function()
    local inner = H.start { batch_timeout_s = 0 }
    local nasty = setmetatable({}, { __tostring = function()
      pcall(error, "another error")
      return "nasty"
    end })
    local batcher = tb.TokenBatcher { batch_timeout_s = 0, inference_fn = function() error(nasty) end }
    batcher:start()
    local _, err = batcher:submit("x"):await()
    assert.matches("nasty", err.message)
    assert.matches("shared_state_spec", err.traceback)
    batcher:stop()
    inner:stop()
  end))

  it("await of what is no future raises, and leaves that table alone", virtually(function()
    local batcher = H.start()
    local future = batcher:submit "a"
    local other = {}
    assert.matches("await", H.message(future.await, other))
    assert.is_nil(next(other))
    assert.matches("await", H.message(future.await))
    batcher:stop()
  end))

  it("X4, F2: a log that changes a batcher while it decides: what is full now goes at once", virtually(function()
    local second = H.start { batch_timeout_s = 100 }
    local future = second:submit "a"
    tb.sleep(0)
    local first = H.start { batch_timeout_s = 0, inference_timeout_s = 1,
      token_estimator = setmetatable({ observe = function() error "broken" end }, { __call = function() return 1 end }),
      inference_fn = function(_, info)
        info.usage = { total_tokens = 1 }
        tb.sleep(10)
      end,
      log = function() second:set { max_batch_size = 1 } end }
    first:submit "z"
    future:await()
    assert.equal(1, tb.now())
    first:stop()
    second:stop()
  end))

  it("options with a metatable that hands in a record meanwhile are those of their own record", virtually(function()
    local seen = {}
    local other = H.start { batch_timeout_s = 0 }
    local batcher = H.start { batch_timeout_s = 0, inference_fn = function(records, info)
      seen = { info.keys[1], info.group, info.cost }
      return records
    end }
    local opts = setmetatable({ key = "a", estimated_cost = 7 }, { __index = function(_, name)
      other:submit("x", { key = "b", group = "h", estimated_cost = 3, timeout_s = 5, batch_timeout_s = 9 })
      if name == "group" then return "g" end
    end })
    batcher:submit("r", opts):await()
    assert.same({ "a", "g", 7 }, seen)
    assert.equal(0, batcher.stats.total_expired)
    batcher:stop()
    other:stop()
  end))
end)
