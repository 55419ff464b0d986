-- What lies at a rim of the batcher, and nothing else met.

local errors = require "tokenbatcher.base.errors"
local H = require "tests.lua.helper"
local tasks = require "tokenbatcher.runtime.tasks"
local tb = require "tokenbatcher"
local virtually = H.virtually

describe("tb.with", function()
  it("cancels what is queued in the order in which it came", virtually(function()
    local batcher, order = tb.TokenBatcher { inference_fn = H.recorder(), batch_timeout_s = 100 }, {}
    pcall(tb.with, batcher, function()
      for i = 1, 20 do
        tb.spawn(function()
          local _, err = batcher:submit("r" .. i):await()
          order[#order + 1] = err.code .. i
        end)
      end
      tb.sleep(0.01)
      error "stop here"
    end)
    tb.sleep(0.01)
    local expected = {}
    for i = 1, 20 do expected[i] = "cancelled" .. i end
    assert.same(expected, order)
  end))
end)

describe("R7: a suspect's record that fails for another reason than inference", function()
  it("keeps it suspect no longer", virtually(function()
    local calls = {}
    local batcher = tb.TokenBatcher { on_error = "bisect", batch_timeout_s = 0.01, suspect_s = 2,
      inference_fn = function(records)
        calls[#calls + 1] = table.concat(records, " ")
        if records[1] == "slow" then tb.sleep(0.2) end
        for _, record in ipairs(records) do
          if record == "bad" then error "bad" end
        end
        return records
      end }
    batcher:start()
    batcher:submit("good", { key = "g" })
    batcher:submit("bad", { key = "b" })
    tb.sleep(1.5)
    local slow = batcher:submit("slow", { key = "b" })
    tb.sleep(0.1)
    assert.is_true(slow:cancel()) -- it runs
    tb.sleep(0.6) -- 2.2 s since the failure, 0.6 s since the cancel
    batcher:submit("x", { key = "b" })
    batcher:submit("y", { key = "g" })
    tb.sleep(0.1)
    assert.equal("x y", calls[#calls])
    batcher:stop()
  end))
end)

describe("an inference call", function()
  it("knows until when its answer is wanted", virtually(function()
    local told = {}
    local batcher = H.start { batch_timeout_s = 0, inference_timeout_s = 3, inference_fn = function(records, info)
      told[#told + 1] = info.timeout_at
      return records
    end }
    tb.sleep(2)
    batcher:submit("a"):await()
    batcher:set { inference_timeout_s = false }
    batcher:submit("b"):await()
    assert.same({ 5 }, told)
    batcher:stop()
  end))

  it("learns that nobody wants it any more when all of its records are cancelled, and not before", virtually(function()
    local wanted = {}
    local batcher = H.start { policy = "eager", max_batch_size = 2, inference_fn = function(records)
      for i = 1, 3 do
        tb.sleep(1)
        wanted[i] = pcall(tasks.require_wanted, "call")
      end
      return records
    end }
    local futures = batcher:submit_batch { "a", "b" }
    tb.sleep(0.5)
    futures[1]:cancel()
    tb.sleep(1)
    futures[2]:cancel()
    tb.sleep(5)
    assert.same({ true, false }, wanted) -- and one that goes on all the same ends
    batcher:stop()
  end))

  it("that is called off after its timeout and goes on all the same ends, which is said to nobody", virtually(function()
    local said = {}
    local batcher = H.start { policy = "eager", inference_timeout_s = 1,
      log = function(_, text) said[#said + 1] = text end, inference_fn = function()
        tb.sleep(2)
        pcall(tasks.require_wanted, "call") -- it is told,
        tasks.require_wanted "call" -- and begins something
        error "never"
      end }
    batcher:submit "a"
    tb.sleep(5)
    assert.equal(0, batcher.stats.abandoned_calls)
    batcher:stop()
    assert.same({}, said)
  end))
end)

describe("a batch", function()
  it("is not handed over when who has the last say cancels all of it", virtually(function()
    local batcher, calls = H.start { policy = "eager" }
    batcher:gate(function(futures, n)
      for i = 1, n do futures[i]:cancel() end
    end)
    local _, err = batcher:submit("a"):await()
    batcher:gate(function(futures) futures[1]:cancel() end)
    local futures = batcher:submit_batch { "b", "c" }
    tb.gather(futures)
    batcher:stop()
    assert.same({ "cancelled", 1, 2 }, { err.code, #calls, calls[1].size })
  end))

  it("that fails with an error object keeps its traceback", virtually(function()
    local batcher = H.start { policy = "eager", inference_fn = function()
      error(errors.new("mine", "it failed", nil, "where it was first raised"), 0)
    end }
    local _, err = batcher:submit("a"):await()
    batcher:stop()
    assert.same({ "inference_failed", "where it was first raised" }, { err.code, err.traceback })
  end))
end)

describe("R6: ask, in a batch that is bisected and then times out", function()
  it("asks again at once, and is answered", virtually(function()
    local batcher = tb.TokenBatcher { on_error = "bisect", batch_timeout_s = 0, max_batch_size = 4,
      inference_timeout_s = 1, inference_fn = function(records, info)
        if info.size == 4 and info.attempt == 1 and records[1] == "r1" then error "all of them" end
        if records[1] == "r3" then tb.sleep(10) end
        return records
      end }
    batcher:start()
    local out = {}
    for i = 1, 4 do
      tb.spawn(function()
        local result, err = batcher:ask("r" .. i)
        out[i] = result or err.code
        if i < 3 then
          result, err = batcher:ask("again" .. i)
          out[i + 4] = result or err.code
        end
      end)
    end
    tb.sleep(20)
    assert.same({ "r1", "r2", "inference_timeout", "inference_timeout", "again1", "again2" }, out)
    assert.is_true(H.is_conserved(batcher.stats))
    batcher:stop()
  end))
end)
