-- S1-S5: what submit takes, what it refuses, who waits for room.

local tb = require "tokenbatcher"
local H = require "tests.lua.helper"
local virtually = H.virtually

local function cost_seen(options, record, opts)
  local batcher, calls = H.start(options)
  local _, err = batcher:submit(record, opts):await()
  assert.is_nil(err)
  batcher:stop()
  return calls[1].costs[1]
end

local function record_with(tokens, cost)
  return {
    estimate_tokens = tokens and function() return tokens end,
    estimate_cost = cost and function() return cost end,
  }
end

describe("submission:", function()
  describe("S1", function()
    it("S1: submit returns a future that settles with the record's own answer", virtually(function()
      local batcher = H.start()
      local future = batcher:submit("a")
      assert.is_false(future:done())
      assert.equal("re:a", (future:await()))
      assert.is_true(future:done())
    end))

    it("S1: explicit tokens win over an explicit cost, the estimator, the record and the default", virtually(function()
      local estimator = function() return 30 end
      local options = { token_estimator = estimator, default_cost = 60 }
      local record = record_with(40, 50)
      assert.equal(10, cost_seen(options, record, { estimated_tokens = 10, estimated_cost = 20 }))
      assert.equal(20, cost_seen(options, record, { estimated_cost = 20 }))
      assert.equal(30, cost_seen(options, record))
      assert.equal(40, cost_seen({ default_cost = 60 }, record))
      assert.equal(50, cost_seen({ default_cost = 60 }, record_with(nil, 50)))
      assert.equal(60, cost_seen({ default_cost = 60 }, {}))
      assert.equal(60, cost_seen({ default_token_estimate = 60 }, "text has no methods of ours"))
    end))

    it("S1: DynamicBatcher skips the two token names", virtually(function()
      local batcher, calls = H.start { class = "DynamicBatcher", default_cost = 60 }
      assert.matches("estimated_tokens", (H.message(batcher.submit, batcher, "r", { estimated_tokens = 5 })))
      batcher:submit(record_with(40, 50)):await()
      batcher:submit(record_with(40, nil)):await()
      assert.same({ 50, 60 }, { calls[1].costs[1], calls[2].costs[1] })
    end))

    it("S1: an explicit cost of zero is a cost, not an absent one", virtually(function()
      assert.equal(0, cost_seen({ default_cost = 7 }, "r", { estimated_cost = 0 }))
      assert.equal(0, cost_seen({ token_estimator = function() return 0 end, default_cost = 7 }, "r"))
    end))

    it("S1: an estimator may be a callable table", virtually(function()
      local estimator = setmetatable({}, { __call = function(_, record) return #record end })
      assert.equal(5, cost_seen({ token_estimator = estimator }, "hello"))
    end))

    it("S1: with an explicit cost the estimator is not called", virtually(function()
      local batcher = H.start { token_estimator = function() error "called" end }
      assert.equal("re:r", (batcher:submit("r", { estimated_cost = 1 }):await()))
    end))

    it("S1: a record is any value but nil; false, numbers, functions and tables come through", virtually(function()
      local batcher = H.start { inference_fn = function(records) return records end }
      local values = { false, true, 0, "", print, {}, coroutine.create(print) }
      for i = 1, #values do assert.equal(values[i], (batcher:submit(values[i]):await())) end
      assert.matches("nil", (H.message(batcher.submit, batcher, nil)))
    end))

    it("S1: a record whose __index throws costs the default", virtually(function()
      local record = setmetatable({}, { __index = function() error "no" end })
      assert.equal(9, cost_seen({ default_cost = 9 }, record))
    end))
  end)

  describe("S2", function()
    local function raised(fn, ...)
      local ok, err = pcall(fn, ...)
      assert.is_false(ok)
      assert.is_table(err)
      return err
    end

    it("S2: a cost is rounded up to a whole number", virtually(function()
      assert.equal(3, cost_seen({}, "r", { estimated_tokens = 2.0000001 }))
      assert.equal(1, cost_seen({}, "r", { estimated_tokens = 1e-9 }))
      assert.equal(2, cost_seen({}, "r", { estimated_tokens = 2 }))
    end))

    it("S2: a bad explicit cost raises bad_cost that names the value, and nothing is enqueued", virtually(function()
      local batcher = H.start()
      local bad = {
        { 0 / 0, "nan" }, { math.huge, "inf" }, { -math.huge, "inf" }, { -1, "-1" }, { -1e-9, "-1e%-09" },
        { "5", '"5"' }, { {}, "table" }, { false, "boolean" }, { print, "function" },
      }
      for _, name in ipairs { "estimated_tokens", "estimated_cost" } do
        for _, case in ipairs(bad) do
          local err = raised(batcher.submit, batcher, "r", { [name] = case[1] })
          assert.equal("bad_cost", err.code)
          assert.matches(case[2], err.message)
          assert.matches(name, err.message, 1, true)
        end
      end
      assert.equal(0, batcher.stats.total_submitted)
      assert.equal(0, batcher.stats.total_rejected)
    end))

    it("S2: nil, NaN, infinity, a negative, a string and an error of an estimator raise bad_cost", virtually(function()
      local answer
      local batcher = H.start { token_estimator = function()
        if answer == "throw" then error "cannot count this" end
        return answer
      end }
      for _, case in ipairs { { nil, "nil" }, { 0 / 0, "nan" }, { math.huge, "inf" }, { -3, "-3" }, { "7", '"7"' },
        { "throw", "cannot count this" } } do
        answer = case[1]
        local err = raised(batcher.submit, batcher, "r")
        assert.equal("bad_cost", err.code)
        assert.matches(case[2], err.message)
        assert.matches("token_estimator", err.message)
      end
      answer = 1
      assert.equal("re:r", (batcher:submit("r"):await()))
      assert.equal(1, batcher.stats.total_submitted)
    end))

    it("S2: a record's own method that is wrong raises bad_cost, too", virtually(function()
      local batcher = H.start()
      local err = raised(batcher.submit, batcher, record_with("many"))
      assert.equal("bad_cost", err.code)
      assert.matches("estimate_tokens", err.message)
    end))

    it("S2: the message names position, code and value", virtually(function()
      local batcher = H.start()
      local line
      local err = raised(function()
        line = H.line(); batcher:submit("r", { estimated_tokens = -4 })
      end)
      assert.matches("submission_spec.lua:" .. line .. ": bad_cost: .*-4", err.message)
      assert.matches("submission_spec.lua:" .. line .. ": bad_cost: .*-4", tostring(err))
    end))

    it("S2: a bad cost disturbs nobody else", virtually(function()
      local batcher, calls = H.start()
      local before = batcher:submit "a"
      pcall(batcher.submit, batcher, "bad", { estimated_cost = -1 })
      local after = batcher:submit "b"
      assert.equal("re:a", (before:await()))
      assert.equal("re:b", (after:await()))
      assert.same({ "a b" }, H.batches(calls))
    end))
  end)

  describe("S3", function()
    it("S3: before start and after stop every way of submitting raises not_running", virtually(function()
      local batcher = tb.TokenBatcher { inference_fn = H.recorder(), name = "gate" }
      local function refuses()
        for _, method in ipairs { "submit", "try_submit", "submit_batch" } do
          local line = H.line() + 1
          local ok, err = pcall(function() batcher[method](batcher, { "r" }) end)
          assert.is_false(ok)
          assert.equal("not_running", err.code)
          assert.matches("submission_spec.lua:" .. line .. ": not_running: .*gate", err.message)
        end
      end
      refuses()
      batcher:start()
      batcher:submit "r"
      batcher:stop()
      refuses()
    end))

    it("S3: while stopping, submit raises not_running", virtually(function()
      local batcher = H.start { takes = 1 }
      local future = batcher:submit "r"
      local stopping = tb.spawn(function() batcher:stop() end)
      tb.sleep(0.5)
      local ok, err = pcall(batcher.submit, batcher, "late")
      assert.is_false(ok)
      assert.equal("not_running", err.code)
      assert.matches("stopping", err.message)
      stopping:await()
      assert.equal("re:r", (future:await()))
    end))

    it("S3: a future still settles when the run ends without stop", function()
      local futures = {}
      H.run(function()
        local batcher = H.start { takes = 0.2 }
        for i = 1, 3 do futures[i] = batcher:submit(i) end
      end)
      for i = 1, 3 do assert.equal("re:" .. i, (futures[i]:await())) end
    end)
  end)

  describe("S4", function()
    local FULL = { max_queue_size = 2, max_batch_size = 2, prefetch_batches = 0, takes = 1 }

    it("S4: a full queue suspends submit, and producers enter strictly first come, first served", virtually(function()
      local batcher, calls = H.start(FULL)
      local order = {}
      for i = 1, 8 do
        tb.spawn(function()
          local future = batcher:submit(i)
          order[#order + 1] = i
          assert.equal("re:" .. i, (future:await()))
        end)
      end
      tb.sleep(0)
      assert.is_true(batcher.stats.waiting_submits > 0)
      batcher:stop()
      assert.same({ 1, 2, 3, 4, 5, 6, 7, 8 }, order)
      assert.same({ "1 2", "3 4", "5 6", "7 8" }, H.batches(calls))
      assert.equal(8, batcher.stats.total_submitted)
      assert.equal(0, batcher.stats.total_rejected)
    end))

    it("S4: on_full = reject returns nil and queue_full, counted as rejected and not as submitted", virtually(function()
      local batcher = H.start { max_queue_size = 2, on_full = "reject" }
      local a, b = batcher:submit "a", batcher:submit "b"
      local future, err = batcher:submit "c"
      assert.is_nil(future)
      assert.equal("queue_full", err.code)
      assert.matches("max_queue_size = 2", tostring(err))
      assert.same({ 2, 1 }, { batcher.stats.total_submitted, batcher.stats.total_rejected })
      assert.equal("re:a", (a:await()))
      assert.equal("re:b", (b:await()))
      assert.is_table(batcher:submit "c")
    end))

    it("S4: max_queue_cost bounds the queue, but an empty queue takes any record", virtually(function()
      local batcher = H.start { max_queue_cost = 10, on_full = "reject", max_queue_size = 100 }
      assert.is_table(batcher:submit("huge", { estimated_cost = 500 }))
      assert.equal("queue_full", select(2, batcher:submit("r", { estimated_cost = 0 })).code)
      tb.sleep(1)
      assert.is_table(batcher:submit("r", { estimated_cost = 4 }))
      assert.is_table(batcher:submit("r", { estimated_cost = 6 }))
      assert.equal("queue_full", select(2, batcher:submit("r", { estimated_cost = 1 })).code)
      assert.matches("max_queue_cost = 10", tostring(select(2, batcher:submit("r", { estimated_cost = 1 }))))
    end))

    it("S4: try_submit never suspends and never overtakes who waits", virtually(function()
      local batcher, calls = H.start { max_queue_cost = 10, max_queue_size = 100, prefetch_batches = 0, takes = 1 }
      H.occupy(batcher)
      batcher:submit("a", { estimated_cost = 10 })
      tb.spawn(function() batcher:submit("big", { estimated_cost = 10 }) end)
      tb.sleep(0)
      assert.equal(1, batcher.stats.waiting_submits)
      local future, err = batcher:try_submit("small", { estimated_cost = 0 })
      assert.is_nil(future)
      assert.equal("queue_full", err.code)
      batcher:flush()
      batcher:stop()
      assert.same({ "busy", "a", "big" }, H.batches(calls))
    end))

    it("S4: a small record that would fit never overtakes a large one in the line", virtually(function()
      local batcher, calls = H.start { max_queue_cost = 10, prefetch_batches = 0, takes = 1 }
      H.occupy(batcher)
      for _, case in ipairs { { "a", 8 }, { "large", 9 }, { "small", 1 } } do
        tb.spawn(function() batcher:submit(case[1], { estimated_cost = case[2] }):await() end)
      end
      tb.sleep(0)
      assert.equal(2, batcher.stats.waiting_submits)
      batcher:stop()
      assert.same({ "busy", "a", "large small" }, H.batches(calls))
    end))

    it("S4: time in line counts as waiting", virtually(function()
      local batcher = H.start { max_queue_size = 1, max_batch_size = 1, prefetch_batches = 0, takes = 1 }
      for i = 1, 4 do tb.spawn(function() batcher:submit(i) end) end
      tb.sleep(0)
      batcher:stop()
      assert.near(3, batcher.stats.wait_s.max, 0.1)
      assert.near(4, batcher.stats.latency_s.max, 0.1)
    end))
  end)

  describe("S5", function()
    it("S5: submit_batch gives one future for each record, in order", virtually(function()
      local batcher, calls = H.start()
      local futures = batcher:submit_batch({ "a", "b", "c" }, { estimated_tokens = { 1, 2, 3 } })
      assert.equal(3, #futures)
      for i, name in ipairs { "a", "b", "c" } do assert.equal("re:" .. name, (futures[i]:await())) end
      assert.same({ 1, 2, 3 }, calls[1].costs)
      assert.same({}, batcher:submit_batch {})
    end))

    it("S5: lists of costs of another length raise, and nothing is enqueued", virtually(function()
      local batcher = H.start()
      for _, name in ipairs { "estimated_tokens", "estimated_cost" } do
        for _, bad in ipairs { { 1 }, { 1, 2, 3 }, {}, 5, "12" } do
          local message = H.message(batcher.submit_batch, batcher, { "a", "b" }, { [name] = bad })
          assert.matches(name, message, 1, true)
        end
      end
      assert.equal(0, batcher.stats.total_submitted)
    end))

    it("S5: one bad cost among many raises bad_cost, and nothing is enqueued", virtually(function()
      local batcher, calls = H.start { token_estimator = function(r) return r == "bad" and -1 or 1 end }
      local ok, err = pcall(batcher.submit_batch, batcher, { "a", "b", "bad" })
      assert.is_false(ok)
      assert.equal("bad_cost", err.code)
      ok, err = pcall(batcher.submit_batch, batcher, { "a", "b" }, { estimated_cost = { 1, 0 / 0 } })
      assert.is_false(ok)
      assert.equal("bad_cost", err.code)
      assert.equal(0, batcher.stats.total_submitted)
      batcher:stop()
      assert.equal(0, #calls)
    end))

    it("S5: records with holes, a wrong type or foreign keys raise", virtually(function()
      local batcher = H.start()
      for _, bad in ipairs { "text", 5, { 1, nil, 3, n = 3 }, { [2] = "b" }, { a = 1 } } do
        assert.matches("submit_batch", (H.message(batcher.submit_batch, batcher, bad)))
      end
      assert.matches("submit_batch", (H.message(batcher.submit_batch, batcher, nil)))
      assert.equal(0, batcher.stats.total_submitted)
    end))

    it("S5: under reject it is all or nothing", virtually(function()
      local batcher = H.start { max_queue_size = 3, on_full = "reject" }
      batcher:submit "a"
      local futures, err = batcher:submit_batch { "b", "c", "d" }
      assert.is_nil(futures)
      assert.equal("queue_full", err.code)
      assert.same({ 1, 3 }, { batcher.stats.total_submitted, batcher.stats.total_rejected })
      assert.equal(2, #batcher:submit_batch { "b", "c" })
      assert.equal(3, batcher.stats.queue_size)
    end))

    it("S5: one oversize record refuses the whole call", virtually(function()
      local batcher = H.start { target_batch_cost = 10, on_oversize = "reject" }
      local futures, err = batcher:submit_batch({ "a", "b" }, { estimated_cost = { 1, 11 } })
      assert.is_nil(futures)
      assert.equal("oversize", err.code)
      assert.equal(0, batcher.stats.total_submitted)
    end))

    it("S5: under wait it takes one place in the line, and its records enter one by one", virtually(function()
      local batcher, calls = H.start { max_queue_size = 2, max_batch_size = 2, prefetch_batches = 0, takes = 1 }
      local returned_at
      tb.spawn(function()
        local futures = batcher:submit_batch { "a", "b", "c", "d", "e" }
        returned_at = tb.now()
        assert.equal(5, #futures)
      end)
      tb.spawn(function() batcher:submit "later" end)
      tb.sleep(0)
      assert.equal(2, batcher.stats.waiting_submits)
      assert.is_nil(returned_at)
      batcher:stop()
      assert.near(1, returned_at, 0.01)
      assert.same({ "a b", "c d", "e later" }, H.batches(calls))
    end))

    it("S5: a call larger than the whole queue gets in when it may wait", virtually(function()
      local batcher = H.start { max_queue_size = 2, max_batch_size = 1 }
      local list = {}
      for i = 1, 50 do list[i] = i end
      local results = tb.gather(batcher:submit_batch(list))
      for i = 1, 50 do assert.equal("re:" .. i, results[i]) end
    end))
  end)
end)
