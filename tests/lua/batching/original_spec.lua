-- Everything the Python original has works under its own name and default, and none of
-- the faults that batchers are known for is ours.

local tb = require "tokenbatcher"
local H = require "tests.lua.helper"
local virtually = H.virtually

describe("the original's", function()
  it("inference_fn takes a batch and gives its results", virtually(function()
    local batcher = H.start { inference_fn = function(records) return { #records, "b" } end }
    local futures = H.submit_costs(batcher, { 1, 1 })
    assert.same({ 2, "b" }, (tb.gather(futures)))
  end))

  it("process_fn of DynamicBatcher does the same, as of TokenBatcher", virtually(function()
    for _, class in ipairs { "DynamicBatcher", "TokenBatcher" } do
      local batcher = H.start { class = class, process_fn = function(records) return records end }
      assert.equal("a", (batcher:submit("a"):await()))
    end
  end))

  it("token_estimator and cost_estimator give costs", virtually(function()
    local batcher, calls = H.start { token_estimator = function(record) return #record end }
    batcher:submit("four"):await()
    assert.equal(4, calls[1].cost)
    for _, class in ipairs { "DynamicBatcher", "TokenBatcher" } do
      batcher, calls = H.start { class = class, cost_estimator = function(record) return #record * 2 end }
      batcher:submit("four"):await()
      assert.equal(8, calls[1].cost)
    end
  end))

  it("target_batch_tokens and target_batch_cost bound a batch; 32000 is the default", virtually(function()
    for _, name in ipairs { "target_batch_tokens", "target_batch_cost" } do
      local batcher, calls = H.start { [name] = 10 }
      H.submit_costs(batcher, { 6, 6 })
      batcher:stop()
      assert.same({ 1, 1 }, H.sizes(calls))
    end
    local batcher, calls = H.start()
    H.submit_costs(batcher, { 16000, 16000, 1 })
    batcher:stop()
    assert.same({ 2, 1 }, H.sizes(calls))
  end))

  it("default_token_estimate and default_cost apply when nothing else does; 1 is the default", virtually(function()
    for _, name in ipairs { "default_token_estimate", "default_cost" } do
      local batcher, calls = H.start { [name] = 7 }
      batcher:submit("a"):await()
      assert.equal(7, calls[1].cost)
    end
    local batcher, calls = H.start()
    batcher:submit("a"):await()
    assert.equal(1, calls[1].cost)
  end))

  it("max_batch_size bounds a batch; 256 is the default", virtually(function()
    local batcher, calls = H.start { max_batch_size = 3 }
    H.submit_costs(batcher, { 1, 1, 1, 1 })
    batcher:stop()
    assert.same({ 3, 1 }, H.sizes(calls))
    batcher, calls = H.start()
    for i = 1, 300 do batcher:submit(i) end
    batcher:stop()
    assert.same({ 256, 44 }, H.sizes(calls))
  end))

  it("min_batch_size delays, but never beyond the timeout", virtually(function()
    local batcher, calls = H.start { min_batch_size = 5, batch_timeout_s = 0.2 }
    batcher:submit("a"):await()
    assert.near(0.2, calls[1].at, 1e-6)
  end))

  it("batch_timeout_s bounds the wait; 0.05 is the default", virtually(function()
    local batcher, calls = H.start()
    batcher:submit("a"):await()
    assert.near(0.05, calls[1].at, 1e-6)
  end))

  it("max_queue_size bounds the queue; 5000 is the default", virtually(function()
    local batcher = H.start { on_full = "reject", max_batch_size = 1e6, target_batch_cost = 1e6 }
    for i = 1, 5000 do assert(batcher:submit(i)) end
    assert.equal("queue_full", select(2, batcher:submit "one too many").code)
  end))

  it("prefetch_batches seals full batches ahead; 2 is the default", virtually(function()
    local batcher = H.start { max_batch_size = 1, takes = 1 }
    for i = 1, 6 do batcher:submit(i) end
    tb.sleep(0.1)
    assert.same({ 2, 3 }, { batcher.stats.prefetched_batches, batcher.stats.queue_size })
  end))

  it("is_running, start and stop", virtually(function()
    local batcher = tb.TokenBatcher { inference_fn = H.recorder() }
    assert.is_false(batcher.is_running)
    batcher:start()
    assert.is_true(batcher.is_running)
    batcher:stop()
    assert.is_false(batcher.is_running)
  end))

  it("submit takes estimated_tokens or estimated_cost, submit_batch lists of them", virtually(function()
    local batcher, calls = H.start { prefetch_batches = 0 }
    batcher:submit("a", { estimated_tokens = 3 })
    batcher:submit("b", { estimated_cost = 4 })
    batcher:submit_batch({ "c", "d" }, { estimated_tokens = { 5, 6 } })
    batcher:submit_batch({ "e", "f" }, { estimated_cost = { 7, 8 } })
    batcher:stop()
    assert.same({ 3, 4, 5, 6, 7, 8 }, calls[1].costs)
    local dynamic, dynamic_calls = H.start { class = "DynamicBatcher" }
    dynamic:submit("a", { estimated_cost = 4 })
    dynamic:submit_batch({ "b" }, { estimated_cost = { 5 } })
    dynamic:stop()
    assert.same({ 4, 5 }, dynamic_calls[1].costs)
  end))

  it("records know their own cost: estimate_tokens, estimate_cost, Prompt", virtually(function()
    local batcher, calls = H.start()
    batcher:submit(tb.Prompt "What is 2+2?")
    batcher:submit { estimate_cost = function(self) return self.n end, n = 9 }
    batcher:stop()
    assert.same({ 4, 9 }, calls[1].costs)
  end))

  it("stats has the keys of the original", virtually(function()
    local batcher = H.start { takes = 0.05 }
    H.submit_costs(batcher, { 2, 4 })
    batcher:stop()
    local stats = batcher.stats
    local expected = { total_submitted = 2, total_completed = 2, total_batches = 1, total_batch_cost = 6,
      avg_batch_size = 2, avg_batch_cost = 6, busy_time_s = 0.05, idle_time_s = 0, utilization = 1 }
    for name, value in pairs(expected) do assert.near(value, stats[name], 1e-6) end
  end))
end)

describe("what batchers get wrong, and ours does not:", function()
  it("no loop dies while submit still accepts: estimator, cost, cancel, a batch too large for unpack",
    virtually(function()
      local batcher = H.start { max_batch_size = 20000, max_queue_size = 20000, target_batch_cost = 1e9,
        token_estimator = function(record) return record == "bad" and error "no" or 1 end }
      pcall(batcher.submit, batcher, "bad")
      pcall(batcher.submit, batcher, "r", { estimated_tokens = 0 / 0 })
      batcher:submit("cancelled"):cancel()
      local list = {}
      for i = 1, 20000 do list[i] = i end
      local results = tb.gather(batcher:submit_batch(list))
      assert.equal("re:20000", results[20000])
      assert.equal(20000, batcher.stats.batch_size.max)
      assert.equal("re:end", (batcher:submit("end"):await()))
    end))

  it("counters do not drift: refusals, expiries, cancels and failures are counted once each", virtually(function()
    local batcher = H.start { max_queue_size = 4, on_full = "reject", takes = 1, batch_timeout_s = 0,
      prefetch_batches = 0 }
    batcher:submit "running"
    tb.sleep(0.5)
    batcher:submit("expires", { timeout_s = 0.1 })
    batcher:submit("cancelled"):cancel()
    for i = 1, 5 do batcher:submit(i) end
    tb.sleep(0.2)
    local stats = batcher.stats
    assert.same({ 6, 2, 1, 1, 3, 1 }, { stats.total_submitted, stats.total_rejected, stats.total_expired,
      stats.total_cancelled, stats.queue_size, stats.running_records })
    assert.is_true(H.is_conserved(stats))
    batcher:stop()
    assert.equal(4, batcher.stats.total_completed)
    assert.is_true(H.is_conserved(batcher.stats))
  end))

  it("nothing is put back in the queue: a record that does not fit keeps its place, full or below the minimum",
    virtually(function()
      local batcher, calls = H.start { target_batch_cost = 10, max_queue_size = 3, min_batch_size = 2 }
      local producer = tb.spawn(function()
        for i, cost in ipairs { 6, 6, 6, 6, 3, 6 } do batcher:submit("r" .. i, { estimated_cost = cost }) end
      end)
      producer:await()
      batcher:stop()
      assert.same({ "r1", "r2", "r3", "r4 r5", "r6" }, H.batches(calls))
    end))

  it("no caller gets another's answer when a neighbour is cancelled before, while or after it runs",
    virtually(function()
      local batcher = H.start { max_batch_size = 5, takes = 1 }
      local futures = H.submit_costs(batcher, { 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 })
      futures[7]:cancel() -- queued
      tb.sleep(0.5)
      futures[2]:cancel() -- running
      futures[8]:cancel() -- cut
      local results, errs = tb.gather(futures)
      for i = 1, 10 do
        if i == 2 or i == 7 or i == 8 then
          assert.equal("cancelled", errs[i].code)
        else
          assert.equal("re:r" .. i, results[i])
        end
      end
      assert.is_false(futures[1]:cancel())
    end))

  it("the timer starts at submission, not when the loop first looks", virtually(function()
    local batcher, calls = H.start { batch_timeout_s = 1, takes = 0.9, prefetch_batches = 0 }
    batcher:submit "a"
    batcher:flush()
    tb.sleep(0.1)
    local at = tb.now()
    batcher:submit "b" -- behind a busy slot until 0.9
    tb.sleep(3)
    assert.near(at + 1, calls[2].at, 1e-6)
  end))

  it("windows of a millisecond and less coalesce", function()
    H.run(function()
      for _, window_s in ipairs { 0.001, 0.0002 } do
        local batcher, calls = H.start { batch_timeout_s = window_s }
        local futures = {}
        for i = 1, 3 do futures[i] = tb.spawn(function() return batcher:submit(i):await() end) end
        tb.gather(futures)
        assert.same({ 3 }, H.sizes(calls))
        batcher:stop()
      end
    end, "real")
    H.run(function()
      local batcher, calls = H.start { batch_timeout_s = 0.0005 }
      for i = 1, 4 do
        batcher:submit(i)
        tb.sleep(0.0001)
      end
      batcher:stop()
      assert.same({ 4 }, H.sizes(calls))
    end)
  end)

  it("nothing polls: an idle batcher has nothing to do until its next deadline", virtually(function()
    local clock = require "tokenbatcher.runtime.clock"
    local batcher = H.start { batch_timeout_s = 5 }
    tb.sleep(1)
    assert.is_nil(batcher:next_us())
    batcher:submit "a"
    tb.sleep(1)
    assert.equal(clock.now_us() + 4e6, batcher:next_us())
  end))

  it("a record larger than the budget neither loops for ever nor evicts good ones", virtually(function()
    local batcher, calls = H.start { target_batch_cost = 10, max_queue_cost = 30 }
    local futures = H.submit_costs(batcher, { 5, 1000, 5, 5 })
    local results = tb.gather(futures)
    for i = 1, 4 do assert.equal("re:r" .. i, results[i]) end
    assert.same({ "r1", "r2", "r3 r4" }, H.batches(calls))
  end))

  it("one undecodable record need not fail its batch: tb.failure, or bisecting", virtually(function()
    local batcher = H.start { on_error = "bisect", inference_fn = function(records)
      local out = {}
      for i, record in ipairs(records) do
        if record == "throws" then error "cannot decode" end
        out[i] = record == "fails" and tb.failure "cannot decode" or record
      end
      return out
    end }
    local results, errs = tb.gather(batcher:submit_batch { "a", "throws", "b", "fails", "c" })
    assert.same({ "a", nil, "b", nil, "c" }, results)
    assert.matches("cannot decode", errs[2].message)
    assert.equal("cannot decode", errs[4].message)
  end))
end)
