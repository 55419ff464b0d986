-- X2-X4: what scripts may do, and that the loop outlives what they should not.

local tb = require "tokenbatcher"
local H = require "tests.lua.helper"
local virtually = H.virtually

-- Values that make bad errors, by name.
local function bad_errors()
  return {
    { "a string", "boom" },
    { "a number", 42 },
    { "nil", nil },
    { "false", false },
    { "a table", { code = 500 } },
    { "a function", print },
    { "a coroutine", coroutine.create(print) },
    { "a userdata", newproxy(true) },
    { "an object whose __tostring throws", setmetatable({}, { __tostring = function() error "no text" end }) },
    { "an object whose __tostring yields", setmetatable({}, { __tostring = function() coroutine.yield() end }) },
    { "an object whose __tostring returns a table", setmetatable({}, { __tostring = function() return {} end }) },
    { "an object whose __index throws", setmetatable({}, { __index = function() error "no field" end }) },
    { "an object with a locked metatable", setmetatable({}, { __metatable = "locked" }) },
    { "a failure", tb.failure "a failure" },
  }
end

describe("guards:", function()
  describe("X2", function()
    it("X2: max_wait_s makes the queue due before batch_timeout_s", virtually(function()
      local batcher, calls = H.start { batch_timeout_s = 60, max_wait_s = 2 }
      batcher:submit "a"
      tb.sleep(1)
      batcher:submit "b"
      tb.sleep(10)
      assert.near(2, calls[1].at, 1e-6)
      assert.same({ "a b" }, H.batches(calls))
      assert.equal("timeout", calls[1].reason)
    end))

    it("X2: max_wait_s overrules min_batch_size of eager", virtually(function()
      local batcher, calls = H.start { policy = "eager", min_batch_size = 10, batch_timeout_s = 60, max_wait_s = 3 }
      batcher:submit "a"
      tb.sleep(10)
      assert.near(3, calls[1].at, 1e-6)
    end))

    it("X2: max_wait_s above batch_timeout_s changes nothing, and set takes it away", virtually(function()
      local batcher, calls = H.start { batch_timeout_s = 1, max_wait_s = 5 }
      batcher:submit("a"):await()
      assert.near(1, calls[1].at, 1e-6)
      batcher:set { batch_timeout_s = 50, max_wait_s = false }
      batcher:submit("b"):await()
      assert.near(51, calls[2].at, 1e-6)
    end))
  end)

  describe("X3", function()
    for _, case in ipairs(bad_errors()) do
      it("X3: the loop outlives inference_fn raising " .. case[1], virtually(function()
        local n = 0
        local batcher = H.start { inference_fn = function(records)
          n = n + 1
          if n == 1 then error(case[2], 0) end
          return records
        end }
        local _, err = batcher:submit("a"):await()
        assert.equal("inference_failed", err.code)
        assert.is_string(err.message)
        assert.is_string(tostring(err))
        assert.is_true(rawequal(err.cause, case[2]))
        assert.equal("b", (batcher:submit("b"):await()))
      end))

      it("X3: the loop outlives an estimator raising " .. case[1], virtually(function()
        local batcher = H.start { token_estimator = function(record)
          if record == "bad" then error(case[2], 0) end
          return 1
        end }
        local queued = batcher:submit "before"
        local ok, err = pcall(batcher.submit, batcher, "bad")
        assert.is_false(ok)
        assert.equal("bad_cost", err.code)
        assert.is_string(tostring(err))
        assert.equal("re:after", (batcher:submit("after"):await()))
        assert.equal("re:before", (queued:await()))
        assert.equal(2, batcher.stats.total_submitted)
      end))

      it("X3: a spawned coroutine that raises " .. case[1] .. " fails its own future only", virtually(function()
        local value, err = tb.spawn(function() error(case[2], 0) end):await()
        assert.is_nil(value)
        assert.equal("coroutine_failed", err.code)
        assert.is_string(tostring(err))
        assert.is_true(rawequal(err.cause, case[2]))
      end))

      it("X3: run raises when its function raises " .. case[1] .. ", and the next run is a fresh one", function()
        local ok, err = pcall(tb.run, function() error(case[2], 0) end, { clock = "virtual" })
        assert.is_false(ok)
        assert.is_true(#tostring(err) > 0)
        assert.equal(7, tb.run(function() return 7 end, { clock = "virtual" }))
      end)
    end

    it("X3: the loop outlives a stack overflow and a nested coroutine in inference_fn", virtually(function()
      local function deeper() return 1 + deeper() end
      local batcher = H.start { inference_fn = function(records)
        if records[1] == "overflow" then deeper() end
        if records[1] == "nested" then
          return coroutine.wrap(function()
            tb.sleep(1) -- cannot work there
            return records
          end)()
        end
        return records
      end }
      assert.equal("inference_failed", select(2, batcher:submit("overflow"):await()).code)
      assert.matches("a coroutine of the program's own", select(2, batcher:submit("nested"):await()).message)
      assert.equal("fine", (batcher:submit("fine"):await()))
    end))

    it("X3: a bare coroutine.yield in inference_fn lets others run and comes back", virtually(function()
      local batcher = H.start { inference_fn = function(records)
        coroutine.yield("ignored")
        return records
      end }
      assert.equal("a", (batcher:submit("a"):await()))
    end))

    it("X3: inference_fn may call everything but stop", virtually(function()
      local seen, batcher = {}, nil
      batcher = H.start { batch_timeout_s = 0, inference_fn = function(records)
        if records[1] ~= "first" then return records end
        local extra = batcher:submit "extra"
        local tried = batcher:try_submit "tried"
        local many = batcher:submit_batch { "m1", "m2" }
        seen.stats = batcher.stats.running_records
        batcher:set { max_batch_size = 3 }
        batcher:flush()
        extra:cancel()
        seen.spawned = tb.spawn(function() return tb.now() end):await()
        tb.sleep(1)
        seen.futures = { tried, many[1], many[2] }
        assert.matches("already running", (H.message(batcher.start, batcher)))
        return records
      end }
      assert.equal("first", (batcher:submit("first"):await()))
      assert.equal(1, seen.stats)
      assert.is_number(seen.spawned)
      assert.same({ "tried", "m1", "m2" }, (tb.gather(seen.futures)))
    end))

    it("X3: inside its own inference function submit never suspends: full is nil, queue_full", virtually(function()
      local codes, batcher = {}, nil
      local options = { max_queue_size = 1, batch_timeout_s = 0, prefetch_batches = 0 }
      options.inference_fn = function(records)
        if records[1] == "first" then
          for _, more in ipairs { "second", "third" } do
            local _, err = batcher:submit(more)
            codes[#codes + 1] = err and err.code or "taken"
          end
          local _, err = batcher:submit_batch { "fourth" }
          codes[#codes + 1] = err.code
        end
        return records
      end
      batcher = H.start(options)
      batcher:submit("first"):await()
      assert.same({ "taken", "queue_full", "queue_full" }, codes)
      assert.equal(2, batcher.stats.total_rejected)
    end))

    it("X3: an inference function that awaits its own queue is a deadlock, and the loop says so", function()
      local message = H.message(tb.run, function()
        local batcher
        batcher = H.start { batch_timeout_s = 0, inference_fn = function(records)
          if records[1] == "a" then batcher:submit("b"):await() end
          return records
        end }
        batcher:submit("a"):await()
      end, { clock = "virtual" })
      assert.matches("deadlock", message)
    end)

    describe("an estimator", function()
      local FORBIDDEN = {
        start = function(batcher) batcher:start() end,
        stop = function(batcher) batcher:stop() end,
        flush = function(batcher) batcher:flush() end,
        set = function(batcher) batcher:set { max_batch_size = 1 } end,
        cancel = function(_, future) future:cancel() end,
        spawn = function() tb.spawn(function() end) end,
        sleep = function() tb.sleep(0) end,
        await = function(_, future) future:await() end,
        gather = function(_, future) tb.gather { future } end,
        with = function() tb.with(tb.TokenBatcher { inference_fn = print }, print) end,
        run = function() tb.run(print) end,
        step = function() tb.step() end,
      }
      local names = {}
      for name in pairs(FORBIDDEN) do names[#names + 1] = name end
      table.sort(names)
      for _, name in ipairs(names) do
        it("X3: must not " .. name, virtually(function()
          local future
          local batcher
          batcher = H.start { token_estimator = function()
            FORBIDDEN[name](batcher, future)
            return 1
          end }
          future = batcher:submit("queued", { estimated_tokens = 1 })
          local ok, err = pcall(batcher.submit, batcher, "r")
          assert.is_false(ok)
          assert.equal("bad_cost", err.code)
          assert.matches("guards_spec.lua:%d+: ", err.cause)
          assert.is_false(future:done())
          assert.is_true(batcher.is_running)
          assert.equal("re:queued", (future:await()))
          assert.equal("re:r", (batcher:submit("r", { estimated_tokens = 1 }):await()))
        end))
      end

      it("X3: must not yield either", virtually(function()
        local batcher = H.start { token_estimator = function()
          coroutine.yield()
          return 1
        end }
        local ok, err = pcall(batcher.submit, batcher, "r")
        assert.is_false(ok)
        assert.equal("bad_cost", err.code)
        assert.equal(0, batcher.stats.total_submitted)
      end))

      it("X3: may submit elsewhere, read statistics and the clock", virtually(function()
        local other = H.start()
        local extra
        local batcher
        batcher = H.start { token_estimator = function(record)
          assert(tb.now() >= 0 and batcher.stats.total_submitted == 0)
          extra = other:submit(record)
          assert(other:try_submit(record) and other:submit_batch { record })
          return 3
        end }
        assert.equal("re:r", (batcher:submit("r"):await()))
        assert.equal("re:r", (extra:await()))
        assert.equal(3, batcher.stats.total_batch_cost)
      end))

      it("X3: must not suspend after it has submitted elsewhere either", virtually(function()
        local other = H.start { token_estimator = function() return 1 end }
        local batcher = H.start { token_estimator = function(record)
          other:submit(record)
          tb.sleep(1)
          return 1
        end }
        local ok, err = pcall(batcher.submit, batcher, "r")
        assert.is_false(ok)
        assert.matches("sleep cannot wait here: inside a token_estimator", err.message)
        assert.equal(0, tb.now())
      end))

      it("X3: does not suspend where the other batcher is full", virtually(function()
        local other = H.start { max_queue_size = 1 }
        other:submit "first"
        local code
        local batcher = H.start { token_estimator = function(record)
          code = select(2, other:submit(record)).code
          return 1
        end }
        batcher:submit "r"
        assert.equal("queue_full", code)
      end))

      it("X3: that submits to its own batcher and fails deep down fails that submit alone", virtually(function()
        local depth, batcher = 0, nil
        batcher = H.start { token_estimator = function(record)
          depth = depth + 1
          return depth < 50 and batcher:submit(record) and 1 or -1
        end }
        local ok, err = pcall(batcher.submit, batcher, "r")
        assert.is_false(ok)
        assert.equal("bad_cost", err.code)
        assert.equal(0, batcher.stats.total_submitted)
        assert.equal("re:r", (batcher:submit("r", { estimated_tokens = 1 }):await()))
      end))
    end)
  end)

  describe("X4", function()
    it("X4: set changes knobs while running", virtually(function()
      local batcher, calls = H.start { batch_timeout_s = 60, max_batch_size = 100 }
      H.submit_costs(batcher, { 1, 1, 1 })
      tb.sleep(1)
      batcher:set { max_batch_size = 2 }
      tb.sleep(0)
      tb.sleep(0)
      assert.same({ 2 }, H.sizes(calls))
      batcher:set { batch_timeout_s = 5 }
      tb.sleep(10)
      assert.near(5, calls[2].at, 1e-6)
      batcher:set { policy = "eager" }
      batcher:submit("x"):await()
      assert.equal("idle", calls[3].reason)
    end))

    it("X4: every option with a number or a choice can be set to its bounds while records flow", virtually(function()
      local options = require "tokenbatcher.core.options"
      local batcher = H.start { batch_timeout_s = 0.001 }
      for _, entry in ipairs(options.list) do
        local values = {}
        if entry.kind == "choice" then
          values = entry.choices
        elseif entry.kind == "policy" then
          values = require("tokenbatcher.policy").names
        elseif entry.kind == "boolean" then
          values = { true, false }
        elseif entry.kind == "slo" then
          values = { 1e-6, 1000, "0.25 + 0.001*tokens" }
        elseif entry.kind ~= "function" and entry.kind ~= "string" then
          values = { entry.min, math.min(entry.max, 1000), entry.default }
        end
        for _, value in ipairs(values) do
          local ok, message = pcall(batcher.set, batcher, { [entry.name] = value })
          assert.is_true(ok or (message:find("min_batch_size", 1, true) ~= nil), message)
          if entry.name ~= "inference_timeout_s" then
            batcher:submit("r"):await(1)
            assert.is_nil(H.broken(batcher))
          end
        end
        batcher:set(options.complete { inference_fn = H.recorder() })
      end
    end))

    it("X4: set is all or nothing", virtually(function()
      local batcher, calls = H.start { batch_timeout_s = 1 }
      local bad = {
        { max_batch_size = 1, batch_timeout_s = -1 }, { max_batch_size = 1, nonsense = 1 },
        { max_batch_size = 1, inference_fn = 5 }, { max_batch_size = 1, min_batch_size = 2 },
        { max_batch_size = 1, policy = "no such" }, { max_batch_size = 1, inference_fn = false },
      }
      for _, options in ipairs(bad) do assert.is_string((H.message(batcher.set, batcher, options))) end
      assert.is_string((H.message(batcher.set, batcher, 5)))
      assert.is_string((H.message(batcher.set, batcher, nil)))
      H.submit_costs(batcher, { 1, 1 })
      tb.sleep(2)
      assert.same({ "r1 r2" }, H.batches(calls))
    end))

    it("X4: set raises at the caller's line and names the option", virtually(function()
      local batcher = H.start()
      local line = H.line() + 1
      local message = H.message(function() batcher:set { max_batchsize = 3 } end)
      assert.matches("guards_spec.lua:" .. line .. ": .*max_batchsize.*max_batch_size", message)
    end))

    it("X4: functions change for later batches, running ones keep theirs", virtually(function()
      local batcher = H.start { batch_timeout_s = 0, inference_fn = function(records)
        tb.sleep(1)
        return { "old " .. records[1] }
      end, token_estimator = function() return 1 end }
      local first = batcher:submit "a"
      tb.sleep(0.5)
      batcher:set { inference_fn = function(records) return { "new " .. records[1] } end,
        token_estimator = function() return 50 end }
      local second = batcher:submit "b"
      assert.equal("old a", (first:await()))
      assert.equal("new b", (second:await()))
      assert.equal(51, batcher.stats.total_batch_cost)
    end))

    it("X4: a bisecting batch keeps the function and on_error it began with", virtually(function()
      local batcher = H.start { on_error = "bisect", inference_fn = function(records)
        tb.sleep(1)
        if #records > 1 then error "too many" end
        return { "old " .. records[1] }
      end }
      local futures = H.submit_costs(batcher, { 1, 1 })
      tb.sleep(0.5)
      batcher:set { on_error = "fail", inference_fn = function() error "new" end }
      assert.same({ "old r1", "old r2" }, (tb.gather(futures)))
    end))

    it("X4: process_fn and inference_fn are one option under two names", virtually(function()
      local batcher = H.start { process_fn = function() return { 1 } end }
      assert.equal(1, (batcher:submit("a"):await()))
      batcher:set { inference_fn = function() return { 2 } end }
      assert.equal(2, (batcher:submit("a"):await()))
      batcher:set { process_fn = function() return { 3 } end }
      assert.equal(3, (batcher:submit("a"):await()))
      batcher:set { max_batch_size = 4 }
      assert.equal(3, (batcher:submit("a"):await()))
    end))

    it("X4: set works before start and after stop", virtually(function()
      local infer, calls = H.recorder()
      local batcher = tb.TokenBatcher { inference_fn = infer }
      batcher:set { max_batch_size = 1 }
      batcher:start()
      H.submit_costs(batcher, { 1, 1 })
      batcher:stop()
      batcher:set { max_batch_size = 2 }
      batcher:start()
      H.submit_costs(batcher, { 1, 1 })
      batcher:stop()
      assert.same({ 1, 1, 2 }, H.sizes(calls))
    end))

    it("X4: false means none again, for an option whose default is none", virtually(function()
      local batcher = H.start { max_queue_cost = 1, on_full = "reject", token_estimator = function() return 1 end }
      batcher:submit "a"
      assert.equal("queue_full", select(2, batcher:submit "b").code)
      batcher:set { max_queue_cost = false, token_estimator = false, default_cost = 9 }
      assert.equal("re:c", (batcher:submit("c"):await()))
      assert.equal(10, batcher.stats.total_batch_cost)
      assert.is_string((H.message(batcher.set, batcher, { max_queue_size = false })))
    end))

    it("X4: set on room lets waiting producers in", virtually(function()
      local batcher = H.start { max_queue_size = 1, batch_timeout_s = 60, takes = 5 }
      H.occupy(batcher)
      batcher:submit "a"
      local entered = false
      tb.spawn(function()
        batcher:submit "b"
        entered = true
      end)
      tb.sleep(1)
      assert.is_false(entered)
      batcher:set { max_queue_size = 2 }
      tb.sleep(0)
      tb.sleep(0)
      assert.is_true(entered)
    end))
  end)
end)
