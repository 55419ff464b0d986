-- C3-C5: stop, flush, restart, and nothing ever lost.

local tb = require "tokenbatcher"
local H = require "tests.lua.helper"
local virtually = H.virtually

local function code_of(future)
  return select(2, future:await()).code
end

describe("stop:", function()
  it("C3: stop dispatches what is queued without lingering, and waits until every future has settled",
    virtually(function()
      local batcher, calls = H.start { batch_timeout_s = 60, max_batch_size = 2, takes = 1 }
      local futures = H.submit_costs(batcher, { 1, 1, 1, 1, 1 })
      assert.is_true(batcher.is_running)
      batcher:stop()
      assert.is_false(batcher.is_running)
      for i = 1, 5 do assert.is_true(futures[i]:done()) end
      assert.near(3, tb.now(), 1e-6)
      assert.same({ 2, 2, 1 }, H.sizes(calls))
      assert.same({ 2, 1 }, { batcher.stats.dispatched.full, batcher.stats.dispatched.drain })
    end))

  it("C3: stop serves producers that already wait for room", virtually(function()
    local batcher = H.start { max_queue_size = 1, max_batch_size = 1, batch_timeout_s = 60, takes = 1 }
    local answers = {}
    for i = 1, 5 do
      tb.spawn(function() answers[i] = batcher:submit(i):await() end)
    end
    tb.sleep(0)
    batcher:stop()
    tb.sleep(0)
    for i = 1, 5 do assert.equal("re:" .. i, answers[i]) end
  end))

  it("C3: is_running stays true while it drains", virtually(function()
    local batcher = H.start { takes = 1 }
    batcher:submit "a"
    local stopping = tb.spawn(function() batcher:stop() end)
    tb.sleep(0.5)
    assert.is_true(batcher.is_running)
    stopping:await()
    assert.is_false(batcher.is_running)
  end))

  it("C3: twice, concurrently and when not running is fine", virtually(function()
    local batcher = H.start { takes = 1 }
    batcher:submit "a"
    local ended = {}
    for i = 1, 3 do
      tb.spawn(function()
        batcher:stop()
        ended[i] = tb.now()
      end)
    end
    batcher:stop()
    tb.sleep(0)
    assert.same({ tb.now(), tb.now(), tb.now() }, ended)
    batcher:stop()
    tb.TokenBatcher({ inference_fn = print }):stop()
  end))

  it("C3: stop of an idle batcher takes no time", virtually(function()
    local batcher = H.start()
    batcher:stop()
    assert.equal(0, tb.now())
    assert.is_false(batcher.is_running)
  end))

  it("C3: after timeout_s what is left fails as stopped: running, cut, queued and waiting", virtually(function()
    local batcher, calls = H.start { max_batch_size = 1, max_queue_size = 1, prefetch_batches = 1, takes = 10 }
    local running = batcher:submit "running"
    tb.sleep(1)
    local cut = batcher:submit "cut"
    tb.sleep(1)
    local queued = batcher:submit "queued"
    local waiting = { tb.spawn(function() return batcher:submit "waiting" end),
      tb.spawn(function() return batcher:submit_batch { "w1", "w2" } end) }
    tb.sleep(1)
    assert.same({ 1, 1, 1, 2 }, { batcher.stats.running_records, batcher.stats.prefetched_records,
      batcher.stats.queue_size, batcher.stats.waiting_submits })
    batcher:stop { timeout_s = 2 }
    assert.near(5, tb.now(), 1e-6)
    assert.is_false(batcher.is_running)
    for _, future in ipairs { running, cut, queued } do assert.equal("stopped", code_of(future)) end
    for i = 1, 2 do
      local future, err = waiting[i]:await()
      assert.is_nil(future)
      assert.equal("stopped", err.code)
    end
    local stats = batcher.stats
    assert.same({ 3, 3, 3 }, { stats.total_submitted, stats.total_failed, stats.total_rejected })
    assert.is_true(H.is_conserved(stats))
    assert.same({ "running" }, H.batches(calls))
  end))

  it("C3: timeout_s = 0 fails everything at once", virtually(function()
    local batcher, calls = H.start()
    local future = batcher:submit "a"
    batcher:stop { timeout_s = 0 }
    assert.equal("stopped", code_of(future))
    assert.same({ 0, 0 }, { #calls, tb.now() })
  end))

  it("C3: of two stops the earlier end counts", virtually(function()
    local batcher = H.start { takes = 100 }
    batcher:submit "a"
    tb.spawn(function() batcher:stop { timeout_s = 50 } end)
    tb.spawn(function()
      tb.sleep(1)
      batcher:stop { timeout_s = 2 }
    end)
    batcher:stop()
    assert.near(3, tb.now(), 1e-6)
  end))

  it("C3: stop with time enough is as graceful as one without", virtually(function()
    local batcher = H.start { takes = 1 }
    local future = batcher:submit "a"
    batcher:stop { timeout_s = 100 }
    assert.equal("re:a", (future:await()))
    assert.near(1, tb.now(), 1e-6)
  end))

  it("C3: from inside its own inference function stop is an error, not a deadlock", virtually(function()
    local batcher
    batcher = H.start { inference_fn = function(records)
      batcher:stop()
      return records
    end }
    local _, err = batcher:submit("a"):await()
    assert.equal("inference_failed", err.code)
    assert.matches("stop called from its own inference function", err.message)
    assert.matches("stop_spec", err.message)
    assert.is_true(batcher.is_running)
  end))

  it("C3: one batcher's inference function may stop another", virtually(function()
    local inner = H.start { takes = 1 }
    local future = inner:submit "x"
    local outer = H.start { inference_fn = function(records)
      inner:stop()
      return records
    end }
    assert.equal("a", (outer:submit("a"):await()))
    assert.equal("re:x", (future:await()))
  end))

  it("C3: stop takes only timeout_s, a number of seconds >= 0", virtually(function()
    local batcher = H.start()
    for _, bad in ipairs { -1, 0 / 0, "1", {} } do
      assert.matches("timeout_s", (H.message(batcher.stop, batcher, { timeout_s = bad })))
    end
    assert.matches("did you mean 'timeout_s'", (H.message(batcher.stop, batcher, { timeout = 1 })))
    assert.matches("table", (H.message(batcher.stop, batcher, 5)))
    assert.is_true(batcher.is_running)
    batcher:stop { timeout_s = math.huge }
  end))

  it("C3: start after stop works, and statistics add up over restarts", virtually(function()
    local batcher = H.start { takes = 1 }
    for i = 1, 3 do
      assert.equal("re:" .. i, (batcher:submit(i):await()))
      batcher:stop()
      tb.sleep(10)
      assert.equal(batcher, batcher:start())
    end
    batcher:stop()
    local stats = batcher.stats
    assert.same({ 3, 3, 3 }, { stats.total_submitted, stats.total_completed, stats.total_batches })
    assert.near(3, stats.busy_time_s, 1e-6)
    assert.near(0.15, stats.idle_time_s, 1e-6) -- the time stopped is neither
  end))

  it("C3: start while running or draining raises 'is already running'", virtually(function()
    local batcher = H.start { takes = 1, name = "twice" }
    local line = H.line() + 1
    local message = H.message(function() batcher:start() end)
    assert.matches("stop_spec.lua:" .. line .. ": .*twice.* is already running", message)
    batcher:submit "a"
    tb.spawn(function() batcher:stop() end)
    tb.sleep(0.5)
    assert.matches("is already running", (H.message(batcher.start, batcher)))
  end))

  it("C3: a batcher lives through several runs, on either clock", function()
    local infer = H.recorder()
    local batcher = tb.TokenBatcher { inference_fn = infer, batch_timeout_s = 0.001 }
    for i, clock in ipairs { "virtual", "real", "virtual", "real" } do
      H.run(function()
        batcher:start()
        assert.equal("re:" .. i, (batcher:submit(i):await()))
        if i % 2 == 0 then batcher:stop() end
      end, clock)
      assert.is_false(batcher.is_running)
      assert.is_nil(H.broken(batcher))
    end
    assert.equal(4, batcher.stats.total_completed)
  end)

  it("C4: flush makes everything queued now due at once, and nothing that comes later", virtually(function()
    local batcher, calls = H.start { batch_timeout_s = 60, prefetch_batches = 0, takes = 1 }
    H.submit_costs(batcher, { 1, 1 })
    batcher:flush()
    tb.sleep(0.1)
    assert.same({ "r1 r2" }, H.batches(calls))
    assert.equal("timeout", calls[1].reason)
    local late = batcher:submit "late"
    tb.sleep(30)
    assert.is_false(late:done())
    batcher:flush()
    assert.equal("re:late", (late:await()))
    batcher:flush()
    batcher:stop()
    batcher:flush() -- nothing to do is fine
  end))

  it("C4: flush while the slot is busy is remembered", virtually(function()
    local batcher, calls = H.start { batch_timeout_s = 60, takes = 1 }
    batcher:submit "a"
    batcher:flush()
    tb.sleep(0.5)
    batcher:submit "b"
    batcher:flush()
    tb.sleep(1)
    assert.same({ "a", "b" }, H.batches(calls))
    assert.near(1, calls[2].at, 1e-6)
  end))

  it("C5: submitted = queued + cut + running + completed + failed + cancelled + expired, at every quiet point",
    virtually(function()
      local batcher = H.start { max_batch_size = 2, max_queue_size = 3, inference_timeout_s = 2,
        inference_fn = function(records)
          if records[1] == 3 then error "three" end
          tb.sleep(records[1] == 5 and 9 or 1)
          return records
        end }
      for i = 1, 12 do
        tb.spawn(function()
          local future = batcher:submit(i, { timeout_s = i > 9 and 3 or nil })
          if i == 8 then future:cancel() end
          future:await()
        end)
      end
      for _ = 1, 30 do
        tb.sleep(0.25)
        assert.is_true(H.is_conserved(batcher.stats))
        assert.is_nil(H.broken(batcher))
      end
      batcher:stop { timeout_s = 1 }
      local stats = batcher.stats
      assert.is_true(H.is_conserved(stats))
      assert.same({ 0, 0, 0 }, { stats.queue_size, stats.running_records, stats.prefetched_records })
      assert.equal(12, stats.total_submitted)
      assert.is_true(stats.total_failed > 0 and stats.total_cancelled > 0 and stats.total_expired > 0)
    end))

  it("C5: stopped and inference_timeout count as failed, a cancelled running record leaves running_records",
    virtually(function()
      local batcher = H.start { inference_timeout_s = 1, takes = 5, max_concurrent_batches = 2, batch_timeout_s = 0 }
      batcher:submit "times out"
      tb.sleep(2)
      local running = batcher:submit "cancelled"
      tb.sleep(0.1)
      assert.equal(1, batcher.stats.running_records)
      running:cancel()
      assert.equal(0, batcher.stats.running_records)
      batcher:submit "stopped"
      tb.sleep(0.1)
      batcher:stop { timeout_s = 0.1 }
      assert.same({ 2, 1 }, { batcher.stats.total_failed, batcher.stats.total_cancelled })
    end))
end)

describe("tb.with:", function()
  it("starts, calls, stops, and returns what the function returns", virtually(function()
    local batcher = tb.TokenBatcher { inference_fn = H.recorder() }
    local future
    local a, b, c = tb.with(batcher, function(given)
      assert.equal(batcher, given)
      assert.is_true(batcher.is_running)
      future = batcher:submit "x"
      return 1, nil, 3
    end)
    assert.same({ 1, nil, 3 }, { a, b, c })
    assert.is_true(future:done())
    assert.is_false(batcher.is_running)
  end))

  it("cancels what is queued, awaits what runs and raises again when the function raises", virtually(function()
    local batcher = tb.TokenBatcher { inference_fn = H.recorder(1), max_batch_size = 1, max_queue_size = 1 }
    local running, queued, waiting
    local boom = { "boom" }
    local ok, err = pcall(tb.with, batcher, function()
      running = batcher:submit "running"
      tb.sleep(0.1)
      queued = batcher:submit_batch { "q1", "q2", "q3" }
      tb.spawn(function() waiting = batcher:submit "waiting" end)
      tb.sleep(0.1)
      assert.equal(1, batcher.stats.waiting_submits)
      error(boom)
    end)
    assert.is_false(ok)
    assert.equal(boom, err)
    assert.is_false(batcher.is_running)
    assert.equal("re:running", (running:await()))
    for i = 1, 3 do assert.equal("cancelled", code_of(queued[i])) end
    tb.sleep(0)
    assert.equal("cancelled", code_of(waiting))
    assert.near(1, tb.now(), 1e-6)
  end))

  it("raises errors of any type again, nil included", virtually(function()
    for _, value in ipairs { "text", 5, false } do
      local batcher = tb.TokenBatcher { inference_fn = print }
      local ok, err = pcall(tb.with, batcher, function() error(value, 0) end)
      assert.is_false(ok)
      assert.equal(value, err)
      assert.is_false(batcher.is_running)
    end
    local ok, err = pcall(tb.with, tb.TokenBatcher { inference_fn = print }, function() error(nil) end)
    assert.is_false(ok)
    assert.is_nil(err)
  end))

  it("takes a batcher that the function has stopped already", virtually(function()
    local batcher = tb.TokenBatcher { inference_fn = print }
    assert.equal("done", tb.with(batcher, function()
      batcher:stop()
      return "done"
    end))
  end))

  it("needs a batcher and a function, and a place where it can wait", function()
    local batcher = tb.TokenBatcher { inference_fn = print }
    assert.matches("with", (H.message(tb.with, batcher, print)))
    H.run(function()
      assert.matches("with: a batcher is needed", (H.message(tb.with, {}, print)))
      assert.matches("with: a function is needed", (H.message(tb.with, batcher, 5)))
      assert.is_false(batcher.is_running)
    end)
  end)
end)
