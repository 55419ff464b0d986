-- F1-F9: which records make a batch, and when it goes.

local tb = require "tokenbatcher"
local H = require "tests.lua.helper"
local virtually = H.virtually

describe("forming:", function()
  it("F1: a batch never costs more than target_batch_cost", virtually(function()
    local batcher, calls = H.start { target_batch_cost = 10 }
    H.submit_costs(batcher, { 4, 4, 4, 10, 1, 9, 2, 8, 3, 7, 1 })
    batcher:stop()
    for _, call in ipairs(calls) do assert.is_true(call.cost <= 10) end
    assert.same({ "r1 r2", "r3", "r4", "r5 r6", "r7 r8", "r9 r10", "r11" }, H.batches(calls))
    assert.equal(0, batcher.stats.total_oversize)
  end))

  it("F1: a record above the budget goes alone and is counted", virtually(function()
    local batcher, calls = H.start { target_batch_cost = 10 }
    H.submit_costs(batcher, { 1, 11, 1 })
    batcher:stop()
    assert.same({ "r1", "r2", "r3" }, H.batches(calls))
    assert.equal(1, batcher.stats.total_oversize)
    assert.equal(11, batcher.stats.batch_cost.max)
  end))

  it("F1: on_oversize = reject makes submit return nil, oversize, without looping or evicting", virtually(function()
    local batcher, calls = H.start { target_batch_cost = 10, on_oversize = "reject" }
    local a = batcher:submit("a", { estimated_cost = 10 })
    local future, err = batcher:submit("b", { estimated_cost = 10.5 })
    assert.is_nil(future)
    assert.equal("oversize", err.code)
    assert.matches("target_batch_cost = 10", tostring(err))
    assert.equal("re:a", (a:await()))
    assert.equal(1, batcher.stats.total_rejected)
    assert.same({ "a" }, H.batches(calls))
  end))

  it("F2: a batch is full at max_batch_size and goes at once", virtually(function()
    local batcher, calls = H.start { max_batch_size = 3, batch_timeout_s = 60 }
    H.submit_costs(batcher, { 1, 1, 1 })
    tb.sleep(0.001)
    assert.same({ 3 }, H.sizes(calls))
    assert.equal(0, calls[1].at)
    assert.equal("full", calls[1].reason)
  end))

  it("F2: a batch is full when the next record would not fit, and that one stays at the head", virtually(function()
    local batcher, calls = H.start { target_batch_cost = 10, batch_timeout_s = 5 }
    H.submit_costs(batcher, { 6, 5, 1 })
    tb.sleep(0.001)
    assert.same({ "r1" }, H.batches(calls))
    assert.equal("full", calls[1].reason)
    batcher:stop()
    assert.same({ "r1", "r2 r3" }, H.batches(calls))
  end))

  it("F2: a batch is full when nothing of cost 1 would fit", virtually(function()
    local batcher, calls = H.start { target_batch_cost = 10, batch_timeout_s = 5 }
    H.submit_costs(batcher, { 4, 6 })
    tb.sleep(0.001)
    assert.same({ "r1 r2" }, H.batches(calls))
    assert.equal("full", calls[1].reason)
  end))

  it("F2: records of cost 0 are bounded by max_batch_size alone", virtually(function()
    local batcher, calls = H.start { target_batch_cost = 1, max_batch_size = 4 }
    H.submit_costs(batcher, { 0, 0, 0, 0, 0 })
    batcher:stop()
    assert.same({ 4, 1 }, H.sizes(calls))
  end))

  it("F3: dispatches a batch that is not full when its oldest record has waited batch_timeout_s", virtually(function()
    local batcher, calls = H.start { batch_timeout_s = 0.05 }
    batcher:submit "a"
    tb.sleep(0.03)
    batcher:submit "b"
    tb.sleep(0.0199)
    assert.equal(0, #calls)
    tb.sleep(0.0001)
    tb.sleep(0)
    assert.same({ "a b" }, H.batches(calls))
    assert.near(0.05, calls[1].at, 1e-9)
    assert.equal("timeout", calls[1].reason)
    assert.same({ 0, 1 }, { batcher.stats.dispatched.full, batcher.stats.dispatched.timeout })
  end))

  it("F3: the timer starts at submission, time spent waiting for room included", virtually(function()
    local batcher, calls = H.start { batch_timeout_s = 0.5, max_queue_size = 2, prefetch_batches = 0, takes = 0.3 }
    H.occupy(batcher)
    local queued = { batcher:submit "a", batcher:submit "b" }
    tb.spawn(function() batcher:submit "c" end) -- waits for room
    tb.sleep(0.1)
    for _, future in ipairs(queued) do future:cancel() end
    tb.sleep(3)
    assert.same({ "busy", "c" }, H.batches(calls))
    assert.near(0.5, calls[2].at, 1e-6) -- since the call, not since it was let in
  end))

  it("F3: a record with a deadline makes the queue due at half its timeout_s", virtually(function()
    local batcher, calls = H.start { batch_timeout_s = 10 }
    batcher:submit "a"
    tb.sleep(1)
    local future = batcher:submit("b", { timeout_s = 2 })
    tb.sleep(4)
    assert.near(2, calls[1].at, 1e-6)
    assert.same({ "a b" }, H.batches(calls))
    assert.equal("re:b", (future:await())) -- lingering alone never expires a record
    assert.equal("timeout", calls[1].reason)
  end))

  it("F3: batch_timeout_s = 0 makes everything due at the end of its turn", virtually(function()
    local batcher, calls = H.start { batch_timeout_s = 0 }
    H.submit_costs(batcher, { 1, 1 })
    tb.sleep(0)
    assert.same({ 2 }, H.sizes(calls))
    assert.equal(0, calls[1].at)
  end))

  it("F3: draining counts as drain, not as timeout", virtually(function()
    local batcher, calls = H.start { batch_timeout_s = 60 }
    H.submit_costs(batcher, { 1, 1 })
    batcher:stop()
    assert.equal("drain", calls[1].reason)
    assert.equal(0, calls[1].at)
    assert.same({ 1, 0 }, { batcher.stats.dispatched.drain, batcher.stats.dispatched.timeout })
  end))

  it("F4: while the slot is busy a due batch stays open and keeps growing", virtually(function()
    local batcher, calls = H.start { batch_timeout_s = 0.01, takes = 1 }
    batcher:submit "a"
    tb.sleep(0.1)
    for i = 1, 5 do
      batcher:submit(i)
      tb.sleep(0.1)
    end
    batcher:stop()
    assert.same({ "a", "1 2 3 4 5" }, H.batches(calls))
  end))

  it("F4: sealing ahead cuts up to prefetch_batches full batches, outside of the queue's counts", virtually(function()
    local batcher, calls = H.start { max_batch_size = 2, prefetch_batches = 2, takes = 1 }
    H.submit_costs(batcher, { 1, 1 })
    tb.sleep(0.1)
    H.submit_costs(batcher, { 1, 1, 1, 1, 1, 1, 1 })
    tb.sleep(0.1)
    local stats = batcher.stats
    assert.same({ 2, 4, 3, 3 }, { stats.prefetched_batches, stats.prefetched_records, stats.queue_size,
      stats.queue_cost })
    assert.is_true(H.is_conserved(stats))
    batcher:stop()
    assert.same({ 2, 2, 2, 2, 1 }, H.sizes(calls))
    assert.equal("full", calls[3].reason)
  end))

  it("F4: prefetch_batches = 0 cuts nothing", virtually(function()
    local batcher = H.start { max_batch_size = 2, prefetch_batches = 0, takes = 1 }
    H.submit_costs(batcher, { 1, 1 })
    tb.sleep(0.1)
    H.submit_costs(batcher, { 1, 1, 1, 1 })
    tb.sleep(0.1)
    assert.same({ 0, 4 }, { batcher.stats.prefetched_records, batcher.stats.queue_size })
  end))

  it("F4: cut records leave room in the queue for others", virtually(function()
    local batcher = H.start { max_batch_size = 2, max_queue_size = 2, prefetch_batches = 1, on_full = "reject",
      takes = 1 }
    H.submit_costs(batcher, { 1, 1 })
    tb.sleep(0.1)
    assert.equal(2, #H.submit_costs(batcher, { 1, 1 }))
    tb.sleep(0.1)
    assert.equal(2, #H.submit_costs(batcher, { 1, 1 }))
    assert.equal("queue_full", select(2, batcher:submit "x").code)
  end))

  it("F4: cancelling a cut record moves the cuts in arrival order", virtually(function()
    local batcher, calls = H.start { max_batch_size = 2, prefetch_batches = 2, takes = 1 }
    H.submit_costs(batcher, { 1, 1 })
    tb.sleep(0.1)
    local futures = H.submit_costs(batcher, { 1, 1, 1, 1, 1 })
    tb.sleep(0.1)
    assert.is_true(futures[1]:cancel())
    tb.sleep(0.1)
    assert.same({ 2, 0 }, { batcher.stats.prefetched_batches, batcher.stats.queue_size })
    batcher:stop()
    assert.same({ "r1 r2", "r2 r3", "r4 r5" }, H.batches(calls))
  end))

  it("F4: set moves the cuts, too, and no record moves", virtually(function()
    local batcher, calls = H.start { max_batch_size = 2, prefetch_batches = 2, takes = 1 }
    H.submit_costs(batcher, { 1, 1 })
    tb.sleep(0.1)
    H.submit_costs(batcher, { 1, 1, 1, 1, 1 })
    tb.sleep(0.1)
    batcher:set { max_batch_size = 3 }
    tb.sleep(0.1)
    assert.same({ 1, 3 }, { batcher.stats.prefetched_batches, batcher.stats.prefetched_records })
    batcher:set { prefetch_batches = 0 }
    assert.same({ 0, 5 }, { batcher.stats.prefetched_batches, batcher.stats.queue_size })
    batcher:stop()
    assert.same({ "r1 r2", "r1 r2 r3", "r4 r5" }, H.batches(calls))
  end))

  it("F4: where cuts dissolve the queue may exceed its bound until it drains", virtually(function()
    local batcher, calls = H.start { max_batch_size = 2, max_queue_size = 2, prefetch_batches = 2, takes = 1 }
    H.submit_costs(batcher, { 1, 1 })
    tb.sleep(0.1)
    local accepted = 0
    for _ = 1, 3 do
      tb.spawn(function()
        batcher:submit_batch { "x", "y" }
        accepted = accepted + 2
      end)
      tb.sleep(0.01)
    end
    assert.equal(6, accepted)
    batcher:set { prefetch_batches = 0 }
    assert.equal(6, batcher.stats.queue_size)
    assert.equal("queue_full", select(2, batcher:try_submit "z").code)
    batcher:stop()
    assert.same({ 2, 2, 2, 2 }, H.sizes(calls))
  end))

  it("F5: min_batch_size holds eager back, and full, due and draining overrule it", virtually(function()
    local batcher, calls = H.start { policy = "eager", min_batch_size = 3, max_batch_size = 10, batch_timeout_s = 1,
      target_batch_cost = 10 }
    H.submit_costs(batcher, { 1, 1 })
    tb.sleep(0.5)
    assert.equal(0, #calls)
    batcher:submit "third"
    tb.sleep(0)
    assert.same({ 3 }, H.sizes(calls))
    assert.equal("idle", calls[1].reason)
    batcher:submit("large", { estimated_cost = 10 })
    tb.sleep(0)
    assert.equal("full", calls[2].reason)
    batcher:submit "lone"
    tb.sleep(2)
    assert.equal("timeout", calls[3].reason)
    batcher:submit "last"
    batcher:stop()
    assert.equal("drain", calls[4].reason)
  end))

  it("F5: min_batch_size delays fifo not at all beyond its timeout", virtually(function()
    local batcher, calls = H.start { min_batch_size = 100, batch_timeout_s = 0.1 }
    batcher:submit "a"
    tb.sleep(1)
    assert.near(0.1, calls[1].at, 1e-6)
  end))

  it("F5: eager dispatches a lone record at once", virtually(function()
    local batcher, calls = H.start { policy = "eager", batch_timeout_s = 60 }
    assert.equal("re:a", (batcher:submit("a"):await()))
    assert.equal(0, calls[1].at)
    assert.equal("idle", calls[1].reason)
  end))

  it("F5: min above max is a configuration error that names both", function()
    local message = H.message(tb.TokenBatcher, { inference_fn = print, min_batch_size = 5, max_batch_size = 4 })
    assert.matches("min_batch_size.*5.*max_batch_size.*4", message)
  end)

  it("F6: exactly max_concurrent_batches batches run at once", virtually(function()
    local running, most = 0, 0
    local batcher = H.start { max_batch_size = 1, max_concurrent_batches = 3, inference_fn = function(records)
      running = running + 1
      most = math.max(most, running)
      tb.sleep(1)
      running = running - 1
      return records
    end }
    H.submit_costs(batcher, { 1, 1, 1, 1, 1, 1, 1 })
    tb.sleep(0.5)
    assert.equal(3, running)
    assert.equal(3, batcher.stats.running_batches)
    tb.sleep(1)
    assert.equal(3, running)
    batcher:stop()
    assert.equal(3, most)
    assert.near(3, tb.now(), 1e-6)
  end))

  it("F6: set raises and lowers the cap while batches run", virtually(function()
    local batcher, calls = H.start { max_batch_size = 1, takes = 1 }
    H.submit_costs(batcher, { 1, 1, 1, 1, 1, 1, 1, 1 })
    tb.sleep(0.1)
    assert.equal(1, batcher.stats.running_batches)
    batcher:set { max_concurrent_batches = 4 }
    tb.sleep(0.1)
    assert.equal(4, batcher.stats.running_batches)
    batcher:set { max_concurrent_batches = 2 }
    assert.equal(4, batcher.stats.running_batches)
    tb.sleep(0.85)
    assert.equal(3, batcher.stats.running_batches) -- one ended, none began
    tb.sleep(0.1)
    assert.equal(2, batcher.stats.running_batches)
    batcher:stop()
    assert.equal(8, #calls)
  end))

  it("F7: everything submitted in one turn is seen by one decision", virtually(function()
    local batcher, calls = H.start { policy = "eager" }
    for i = 1, 20 do tb.spawn(function() batcher:submit(i) end) end
    tb.sleep(0)
    tb.sleep(0)
    assert.same({ 20 }, H.sizes(calls))
  end))

  it("F7: producers that one batch's answers wake are seen by one decision, too", virtually(function()
    local batcher, calls = H.start { policy = "eager", takes = 0.1 }
    for i = 1, 8 do
      tb.spawn(function()
        for _ = 1, 3 do batcher:submit(i):await() end
      end)
    end
    tb.sleep(1)
    assert.same({ 8, 8, 8 }, H.sizes(calls))
  end))

  it("F8: on the real clock a batch is never early, and not late by whole milliseconds", function()
    local timeout_s, best = 0.0004, math.huge
    H.run(function()
      local called
      local batcher = tb.TokenBatcher { batch_timeout_s = timeout_s, inference_fn = function(records)
        called = tb.now()
        return records
      end }
      batcher:start()
      for i = 1, 100 do
        local submitted = tb.now()
        batcher:submit(i):await()
        local waited = called - submitted
        assert.is_true(waited >= timeout_s - 2e-6)
        best = math.min(best, waited)
      end
      batcher:stop()
    end, "real")
    -- The best of many: a busy machine makes some late, whole-millisecond timers all.
    assert.is_true(best < timeout_s + 0.0005, "the best was " .. best)
  end)

  it("F9: padded cost is n times the largest, for what fits, for info and for the statistics", virtually(function()
    local batcher, calls = H.start { cost_model = "padded", target_batch_cost = 12, prefetch_batches = 0 }
    H.submit_costs(batcher, { 1, 2, 4, 4, 5, 5 })
    batcher:stop()
    assert.same({ "r1 r2 r3", "r4 r5", "r6" }, H.batches(calls))
    assert.same({ 12, 10, 5 }, { calls[1].cost, calls[2].cost, calls[3].cost })
    assert.equal(27, batcher.stats.total_batch_cost)
    assert.near(27 / 21, batcher.stats.padding_ratio, 1e-9)
  end))

  it("F9: padding_ratio is measured under the sum model, too", virtually(function()
    local batcher = H.start()
    H.submit_costs(batcher, { 1, 3 })
    batcher:stop()
    assert.equal(4, batcher.stats.total_batch_cost)
    assert.near(6 / 4, batcher.stats.padding_ratio, 1e-9)
  end))
end)
