-- C1, C2: records that leave early.

local tb = require "tokenbatcher"
local H = require "tests.lua.helper"
local virtually = H.virtually

local function code_of(future)
  local value, err = future:await()
  assert.is_nil(value)
  return err.code
end

describe("cancel and deadlines:", function()
  it("C1: a queued record is unlinked, its cost returned, its neighbours unaffected", virtually(function()
    local batcher, calls = H.start()
    local futures = H.submit_costs(batcher, { 1, 20, 300 })
    assert.is_true(futures[2]:cancel())
    assert.same({ 2, 301 }, { batcher.stats.queue_size, batcher.stats.queue_cost })
    assert.is_true(futures[2]:done())
    assert.equal("cancelled", code_of(futures[2]))
    assert.equal("re:r1", (futures[1]:await()))
    assert.equal("re:r3", (futures[3]:await()))
    assert.same({ "r1 r3" }, H.batches(calls))
    assert.equal(1, batcher.stats.total_cancelled)
  end))

  it("C1: cancelling lets a waiting producer in", virtually(function()
    local batcher, calls = H.start { max_queue_size = 1, batch_timeout_s = 60, takes = 5 }
    H.occupy(batcher)
    local first = batcher:submit "a"
    local entered_at
    tb.spawn(function()
      local future = batcher:submit "b"
      entered_at = tb.now()
      assert.equal("re:b", (future:await()))
    end)
    tb.sleep(1)
    assert.is_nil(entered_at)
    first:cancel()
    tb.sleep(1)
    assert.near(1, entered_at, 1e-6)
    batcher:stop()
    assert.same({ "busy", "b" }, H.batches(calls))
  end))

  it("C1: cut but not started is dropped, and the cuts behind it move up", virtually(function()
    local batcher, calls = H.start { max_batch_size = 2, takes = 1 }
    H.submit_costs(batcher, { 1, 1 })
    tb.sleep(0.1)
    local futures = H.submit_costs(batcher, { 1, 1, 1, 1 })
    tb.sleep(0.1)
    assert.equal(4, batcher.stats.prefetched_records)
    futures[1]:cancel()
    futures[4]:cancel()
    batcher:stop()
    assert.same({ "r1 r2", "r2 r3" }, H.batches(calls))
    assert.equal("cancelled", code_of(futures[1]))
  end))

  it("C1: a running record settles as cancelled now, and its result is ignored", virtually(function()
    local batcher, calls = H.start { takes = 1 }
    local futures = H.submit_costs(batcher, { 1, 1, 1 })
    tb.sleep(0.5)
    assert.is_true(futures[2]:cancel())
    assert.equal("cancelled", code_of(futures[2]))
    assert.same({ 2, 1 }, { batcher.stats.running_records, batcher.stats.running_batches })
    assert.is_true(H.is_conserved(batcher.stats))
    assert.equal("re:r1", (futures[1]:await()))
    assert.equal("re:r3", (futures[3]:await()))
    assert.equal("cancelled", code_of(futures[2]))
    assert.same({ "r1 r2 r3" }, H.batches(calls))
    assert.same({ 2, 1 }, { batcher.stats.total_completed, batcher.stats.total_cancelled })
  end))

  it("C1: a running batch of which all are cancelled keeps its slot until its call returns", virtually(function()
    local batcher, calls = H.start { max_batch_size = 1, takes = 1, batch_timeout_s = 0 }
    local future = batcher:submit "a"
    tb.sleep(0.1)
    future:cancel()
    local next_one = batcher:submit "b"
    tb.sleep(0.1)
    assert.same({ 1, 0 }, { batcher.stats.running_batches, batcher.stats.running_records })
    assert.equal("re:b", (next_one:await()))
    assert.near(1, calls[2].at, 1e-6)
  end))

  it("C1: cancel returns true once, false afterwards and for a settled record", virtually(function()
    local batcher = H.start()
    local future = batcher:submit "a"
    assert.is_true(future:cancel())
    assert.is_false(future:cancel())
    local answered = batcher:submit "b"
    answered:await()
    assert.is_false(answered:cancel())
    assert.equal("re:b", (answered:await()))
    assert.equal(1, batcher.stats.total_cancelled)
  end))

  it("C1: a future whose slot is used again cancels nobody else", virtually(function()
    local batcher = H.start()
    local old = batcher:submit "old"
    old:cancel()
    local fresh = batcher:submit "fresh"
    assert.is_false(old:cancel())
    assert.equal("re:fresh", (fresh:await()))
  end))

  it("C1: cancel wakes everyone who awaits", virtually(function()
    local batcher = H.start { batch_timeout_s = 60 }
    local future = batcher:submit "a"
    local woken = 0
    for _ = 1, 3 do
      tb.spawn(function()
        assert.equal("cancelled", code_of(future))
        woken = woken + 1
      end)
    end
    tb.sleep(0)
    future:cancel()
    tb.sleep(0)
    assert.equal(3, woken)
  end))

  it("C1: inference_fn may cancel records of its own batch", virtually(function()
    local futures
    local batcher = H.start { inference_fn = function(records)
      futures[2]:cancel()
      return records
    end }
    futures = H.submit_costs(batcher, { 1, 1, 1 })
    local results, errs = tb.gather(futures)
    assert.same({ "r1", nil, "r3" }, results)
    assert.equal("cancelled", errs[2].code)
  end))

  it("C2: a record not handed over by its deadline fails and is never dispatched", virtually(function()
    local batcher, calls = H.start { batch_timeout_s = 0, takes = 5 }
    batcher:submit "long"
    tb.sleep(1)
    local future = batcher:submit("late", { timeout_s = 2 })
    local other = batcher:submit "patient"
    assert.equal("deadline", code_of(future))
    assert.near(3, tb.now(), 1e-6)
    assert.equal("re:patient", (other:await()))
    assert.same({ "long", "patient" }, H.batches(calls))
    assert.equal(1, batcher.stats.total_expired)
  end))

  it("C2: the deadline runs from the call of submit, and a suspended submit returns the settled future",
    virtually(function()
      local batcher, calls = H.start { max_queue_size = 1, batch_timeout_s = 0, prefetch_batches = 0, takes = 10 }
      batcher:submit "running"
      tb.sleep(1)
      batcher:submit "queued"
      local future, err = batcher:submit("in line", { timeout_s = 3 })
      assert.is_nil(err)
      assert.near(4, tb.now(), 1e-6)
      assert.is_true(future:done())
      assert.equal("deadline", code_of(future))
      batcher:stop()
      assert.same({ "running", "queued" }, H.batches(calls))
      assert.same({ 1, 0 }, { batcher.stats.total_expired, batcher.stats.total_rejected })
      assert.is_true(H.is_conserved(batcher.stats))
    end))

  it("C2: submit_batch in line returns its futures when their deadline passes", virtually(function()
    local batcher = H.start { max_queue_size = 2, batch_timeout_s = 0, prefetch_batches = 0, takes = 10 }
    batcher:submit "running"
    tb.sleep(1)
    local futures = batcher:submit_batch({ "a", "b", "c" }, { timeout_s = 2 })
    assert.near(3, tb.now(), 1e-6)
    for i = 1, 3 do assert.equal("deadline", code_of(futures[i])) end
  end))

  it("C2: a running record keeps its answer, however late", virtually(function()
    local batcher = H.start { batch_timeout_s = 0, takes = 10 }
    assert.equal("re:a", (batcher:submit("a", { timeout_s = 1 }):await()))
  end))

  it("C2: a cut record expires, too, and the cuts behind it move up", virtually(function()
    local batcher, calls = H.start { max_batch_size = 2, takes = 4 }
    H.submit_costs(batcher, { 1, 1 })
    tb.sleep(1)
    local late = batcher:submit("late", { timeout_s = 2 })
    H.submit_costs(batcher, { 1, 1, 1 })
    tb.sleep(1)
    assert.equal(4, batcher.stats.prefetched_records)
    assert.equal("deadline", code_of(late))
    batcher:stop()
    assert.same({ "r1 r2", "r1 r2", "r3" }, H.batches(calls))
  end))

  it("C2: at one instant completions come first, then expiries, then dispatch", virtually(function()
    local batcher, calls = H.start { batch_timeout_s = 0, takes = 2 }
    local order = {}
    local running = batcher:submit "running"
    tb.sleep(1)
    -- its deadline is the very instant at which the slot comes free
    local expiring = batcher:submit("expiring", { timeout_s = 1 })
    local next_one = batcher:submit "next"
    for name, future in pairs { running = running, expiring = expiring } do
      tb.spawn(function()
        future:await()
        order[#order + 1] = name
      end)
    end
    next_one:await()
    assert.same({ "running", "expiring" }, order)
    assert.equal("re:running", (running:await()))
    assert.equal("deadline", code_of(expiring))
    assert.same({ "running", "next" }, H.batches(calls))
  end))

  it("C2: await(t) bounds the wait of the caller and leaves the record alone", virtually(function()
    local batcher = H.start { batch_timeout_s = 0, takes = 2 }
    local future = batcher:submit "a"
    local value, err = future:await(1)
    assert.is_nil(value)
    assert.equal("await_timeout", err.code)
    assert.near(1, tb.now(), 1e-6)
    assert.equal("await_timeout", select(2, future:await(0)).code)
    assert.equal("re:a", (future:await(1)))
    assert.equal("re:a", (future:await(0)))
  end))

  it("C2: timeout_s must be a number above 0", virtually(function()
    local batcher = H.start()
    for _, bad in ipairs { 0, -1, 0 / 0, "1", {}, false } do
      assert.matches("timeout_s", (H.message(batcher.submit, batcher, "r", { timeout_s = bad })))
    end
    assert.equal("re:r", (batcher:submit("r", { timeout_s = math.huge }):await()))
    assert.equal("re:r", (batcher:submit("r", { timeout_s = 1e300 }):await()))
    assert.equal(1, batcher.stats.total_batches - batcher.stats.total_expired - 1)
  end))
end)
