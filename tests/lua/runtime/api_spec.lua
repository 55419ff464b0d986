-- Section 4 of the design: every call of the Lua face, its values and its errors.

local tb = require "tokenbatcher"
local options = require "tokenbatcher.core.options"
local H = require "tests.lua.helper"
local virtually = H.virtually

local VIRTUAL = { clock = "virtual" }

describe("run:", function()
  for _, clock in ipairs { "real", "virtual" } do
    it("returns what its function returns, nils included (" .. clock .. ")", function()
      local function pack(...) return { n = select("#", ...), ... } end
      local results = pack(tb.run(function()
        tb.sleep(0.001)
        return nil, 2, nil
      end, { clock = clock }))
      assert.equal(3, results.n)
      assert.same({ nil, 2 }, { results[1], results[2] })
      assert.equal(0, pack(tb.run(function() end, { clock = clock })).n)
    end)

    it("takes a record from submit to its answer (" .. clock .. ")", function()
      assert.equal("re:x", tb.run(function()
        local batcher = tb.TokenBatcher { inference_fn = H.recorder(0.001), batch_timeout_s = 0.001 }
        batcher:start()
        local answer = batcher:submit("x"):await()
        batcher:stop()
        return answer
      end, { clock = clock }))
    end)
  end

  it("waits for what it spawned and for every accepted record", function()
    local spawned, future
    tb.run(function()
      local batcher = H.start { takes = 1 }
      future = batcher:submit "a"
      tb.spawn(function()
        tb.sleep(5)
        tb.spawn(function()
          tb.sleep(5)
          spawned = tb.now()
        end)
      end)
    end, VIRTUAL)
    assert.near(10, spawned, 1e-6)
    assert.equal("re:a", (future:await()))
  end)

  it("raises at once what its function raises, with the traceback, whatever else still runs", function()
    local others = 0
    local message = H.message(tb.run, function()
      tb.spawn(function()
        while true do
          tb.sleep(1)
          others = others + 1
        end
      end)
      tb.sleep(2.5)
      error "boom in here"
    end, VIRTUAL)
    assert.matches("api_spec.lua:%d+: boom in here", message)
    assert.matches("stack traceback", message)
    assert.equal(2, others)
  end)

  it("raises a table as an err that holds it as cause, with the traceback", function()
    local thrown = { status = 500 }
    local _, err = pcall(tb.run, function() error(thrown) end, VIRTUAL)
    assert.equal(thrown, err.cause)
    assert.equal("coroutine_failed", err.code)
    assert.matches("traceback", err.traceback)
  end)

  it("raises deadlock when coroutines wait and nothing can wake them", function()
    for _, clock in ipairs { "virtual", "real" } do
      local ok, err = pcall(tb.run, function()
        local batcher = H.start { batch_timeout_s = 0 }
        local never
        never = tb.spawn(function() never:await() end)
        batcher:submit("a"):await()
        never:await()
      end, { clock = clock })
      assert.is_false(ok)
      assert.equal("deadlock", err.code)
      assert.matches("2 in await", tostring(err))
    end
  end)

  it("a deadlock leaves no future unsettled and the next run works", function()
    local future, batcher
    local ok = pcall(tb.run, function()
      batcher = H.start { batch_timeout_s = 0, inference_fn = function(records)
        tb.spawn(function() coroutine.yield() end)
        future:await()
        return records
      end }
      future = batcher:submit "a"
      future:await()
    end, VIRTUAL)
    assert.is_false(ok)
    assert.equal("stopped", select(2, future:await()).code)
    assert.is_false(batcher.is_running)
    assert.equal(1, tb.run(function() return 1 end, VIRTUAL))
  end)

  it("cannot be nested", function()
    assert.matches("cannot be nested", (H.message(tb.run, function()
      tb.run(function() end, VIRTUAL)
    end, VIRTUAL)))
    assert.matches("cannot be nested", (H.message(tb.run, function()
      tb.spawn(function() tb.run(print) end)
    end, VIRTUAL)))
    assert.is_true(tb.run(function() return true end))
  end)

  it("takes a callable table, too, as spawn does", function()
    local callable = setmetatable({ value = 5 }, { __call = function(self, more) return self.value + (more or 0) end })
    assert.equal(5, tb.run(callable, VIRTUAL))
    assert.equal(7, tb.run(function() return (tb.spawn(callable, 2):await()) end, VIRTUAL))
  end)

  it("refuses what is no function, a foreign clock, unknown options", function()
    for _, bad in ipairs { 5, "text", {}, false } do
      assert.matches("run: a function is needed", (H.message(tb.run, bad)))
    end
    assert.matches("run: a function is needed", (H.message(tb.run)))
    assert.matches('"real" or "virtual"', (H.message(tb.run, print, { clock = "lunar" })))
    assert.matches('"real" or "virtual"', (H.message(tb.run, print, { clock = 5 })))
    assert.matches("did you mean 'clock'", (H.message(tb.run, print, { clocks = "real" })))
    assert.matches("table", (H.message(tb.run, print, "virtual")))
    assert.equal(1, tb.run(function() return 1 end))
  end)

  it("takes the same steps in the same order every time on the virtual clock", function()
    local function story()
      return tb.run(function()
        local batcher, calls = H.start { max_batch_size = 3, takes = 0.07, max_queue_size = 4 }
        local log = {}
        for i = 1, 20 do
          tb.spawn(function()
            tb.sleep((i * 7919 % 13) / 100)
            log[#log + 1] = i .. (batcher:submit(i, { timeout_s = i % 3 == 0 and 0.2 or nil }):await() or "-")
          end)
        end
        tb.sleep(1)
        batcher:stop()
        return table.concat(log, " ") .. "|" .. table.concat(H.batches(calls), "|") .. tb.now()
      end, VIRTUAL)
    end
    local first = story()
    for _ = 1, 5 do assert.equal(first, story()) end
  end)

  it("does not wait on the virtual clock", function()
    local started = os.clock()
    tb.run(function() tb.sleep(1e8) end, VIRTUAL)
    assert.is_true(os.clock() - started < 1)
  end)
end)

describe("spawn:", function()
  it("gives a future of the result, passes arguments, and starts in order", virtually(function()
    local order = {}
    local futures = {}
    for i = 1, 5 do
      futures[i] = tb.spawn(function(...)
        order[#order + 1] = i
        return select("#", ...) .. tostring((select(2, ...)))
      end, nil, i, nil)
    end
    assert.same({ "31", "32", "33", "34", "35" }, (tb.gather(futures)))
    assert.same({ 1, 2, 3, 4, 5 }, order)
  end))

  it("hands on nil, err as a failure", virtually(function()
    local value, err = tb.spawn(function() return nil, "reason" end):await()
    assert.is_nil(value)
    assert.equal("reason", err)
    assert.is_nil((tb.spawn(function() end):await()))
    assert.equal(false, (tb.spawn(function() return false end):await()))
  end))

  it("cannot be cancelled", virtually(function()
    local future = tb.spawn(function()
      tb.sleep(1)
      return "done"
    end)
    assert.is_false(future:cancel())
    assert.equal("done", (future:await()))
    assert.is_false(future:cancel())
  end))

  it("an error in it is coroutine_failed, with cause and traceback", virtually(function()
    local _, err = tb.spawn(function() error "boom" end):await()
    assert.equal("coroutine_failed", err.code)
    assert.matches("api_spec.lua:%d+: boom", err.message)
    assert.matches("boom", err.cause)
    assert.matches("traceback", err.traceback)
    assert.matches("^coroutine_failed: ", tostring(err))
  end))

  it("an error that nobody awaited is raised when run ends, and not before", function()
    local reached
    local message = H.message(tb.run, function()
      tb.spawn(function() error "nobody looks" end)
      tb.sleep(10)
      reached = tb.now()
    end, VIRTUAL)
    assert.near(10, reached, 1e-6)
    assert.matches("nobody looks", message)
    assert.matches("traceback", message)
  end)

  it("an error that somebody awaited, before or after it came, is not raised", function()
    assert.equal("end", tb.run(function()
      local early = tb.spawn(function()
        tb.sleep(1)
        error "early"
      end)
      early:await()
      local late = tb.spawn(function() error "late" end)
      tb.sleep(1)
      late:await()
      return "end"
    end, VIRTUAL))
  end)

  it("refuses what is no function", virtually(function()
    assert.matches("spawn: a function is needed, got a nil", (H.message(tb.spawn)))
    assert.matches("spawn: a function is needed, got a number", (H.message(tb.spawn, 5)))
  end))

  it("ten thousand coroutines, each awaiting its record, get their own answers", virtually(function()
    local batcher = H.start { max_queue_size = 100 }
    local futures = {}
    for i = 1, 10000 do
      futures[i] = tb.spawn(function() return batcher:submit(i):await() end)
    end
    local results = tb.gather(futures)
    for i = 1, 10000 do assert(results[i] == "re:" .. i) end
  end))
end)

describe("time:", function()
  it("sleep suspends for its seconds, now is monotonic", virtually(function()
    local started = tb.now()
    tb.sleep(1.5)
    assert.near(started + 1.5, tb.now(), 1e-9)
    tb.sleep(0)
    assert.near(started + 1.5, tb.now(), 1e-9)
  end))

  it("sleepers wake in the order of their times, then of their calls", virtually(function()
    local order = {}
    for i, s in ipairs { 3, 1, 2, 1, 0, 3 } do
      tb.spawn(function()
        tb.sleep(s)
        order[#order + 1] = i
      end)
    end
    tb.sleep(4)
    assert.same({ 5, 2, 4, 3, 1, 6 }, order)
  end))

  it("on the real clock sleep is never early", function()
    tb.run(function()
      for _ = 1, 20 do
        local at = tb.now()
        tb.sleep(0.0003)
        assert.is_true(tb.now() - at >= 0.000299)
      end
    end)
  end)

  it("sleep takes seconds >= 0 and must be able to wait", function()
    H.run(function()
      for _, bad in ipairs { -1, 0 / 0, math.huge, "1", {} } do
        assert.matches("sleep: a number of seconds", (H.message(tb.sleep, bad)))
      end
      assert.matches("sleep", (H.message(tb.sleep)))
    end)
    assert.matches("sleep cannot wait here: outside of a coroutine", (H.message(tb.sleep, 1)))
  end)
end)

describe("futures:", function()
  it("may be awaited by many, and again", virtually(function()
    local batcher = H.start { takes = 1 }
    local future = batcher:submit "a"
    local answers = {}
    for i = 1, 5 do
      tb.spawn(function() answers[i] = future:await(i % 2 == 0 and 0.5 or nil) or "late" end)
    end
    assert.equal("re:a", (future:await()))
    assert.equal("re:a", (future:await()))
    tb.sleep(0)
    assert.same({ "re:a", "late", "re:a", "late", "re:a" }, answers)
  end))

  it("await outside of a coroutine works for a settled future and raises for a pending one", function()
    local future
    H.run(function()
      local batcher = H.start()
      future = batcher:submit "a"
      assert.matches("await cannot wait here: inside a coroutine of the program's own",
        coroutine.wrap(function() return (H.message(future.await, future)) end)())
    end)
    assert.equal("re:a", (future:await()))
    assert.is_true(future:done())
  end)

  it("await takes seconds >= 0", virtually(function()
    local future = H.start({ takes = 1 }):submit "a"
    for _, bad in ipairs { -1, 0 / 0, "1", {}, false } do
      assert.matches("await: timeout_s must be a number", (H.message(future.await, future, bad)))
    end
    assert.equal("re:a", (future:await(math.huge)))
  end))

  it("a very long await is an await", virtually(function()
    local future = H.start({ takes = 1 }):submit "a"
    assert.equal("re:a", (future:await(1e300)))
    local never
    never = tb.spawn(function() return (never:await(1e300)) end)
    assert.equal("await_timeout", select(2, never:await(5)).code)
  end))

  it("an await that was answered in time leaves nothing behind that wakes its coroutine later", virtually(function()
    local batcher = H.start { batch_timeout_s = 0, takes = 1 }
    assert.equal("re:a", (batcher:submit("a"):await(5)))
    tb.sleep(100)
    assert.near(101, tb.now(), 1e-6)
  end))

  it("an await that timed out leaves nothing behind, alone or among others", virtually(function()
    local batcher = H.start { batch_timeout_s = 0, takes = 5 }
    local future = batcher:submit "a"
    local woken = {}
    for i = 1, 3 do
      tb.spawn(function()
        if i == 2 then future:await() end
        assert.equal(i == 2 and "re:a" or nil, (future:await(i)))
        tb.sleep(100)
        woken[#woken + 1] = i .. " at " .. math.floor(tb.now() + 0.5)
      end)
    end
    future:await(1)
    tb.sleep(100)
    assert.near(101, tb.now(), 1e-6)
    tb.sleep(100)
    assert.same({ "1 at 101", "3 at 103", "2 at 105" }, woken)
  end))

  it("many awaits that end in any order keep all times right", virtually(function()
    local batcher = H.start { batch_timeout_s = 0, max_batch_size = 1, max_concurrent_batches = 500,
      inference_fn = function(records)
        tb.sleep(records[1])
        return records
      end }
    local ended = 0
    for i = 1, 400 do
      local takes, patience = i * 7919 % 401, i * 104729 % 397 + 0.5
      tb.spawn(function()
        local value, err = batcher:submit(takes):await(patience)
        assert.equal(takes < patience and takes or nil, value)
        assert.equal(takes < patience, err == nil)
        assert.near(math.min(takes, patience), tb.now(), 1e-6)
        ended = ended + 1
      end)
    end
    tb.sleep(1000)
    assert.equal(400, ended)
  end))

  it("wakes who awaits in the order of their calls", virtually(function()
    local future = H.start({ takes = 1 }):submit "a"
    local order = {}
    for i = 1, 6 do
      tb.spawn(function()
        future:await()
        order[#order + 1] = i
      end)
    end
    tb.sleep(2)
    assert.same({ 1, 2, 3, 4, 5, 6 }, order)
  end))

  it("records and answers are let go once they are settled and nobody holds them", virtually(function()
    local alive = setmetatable({}, { __mode = "k" })
    local batcher = H.start { max_batch_size = 10, inference_fn = function(records)
      local out = {}
      for i, record in ipairs(records) do
        if record.n == 25 then error "a failing batch" end
        out[i] = { of = record }
        alive[out[i]] = true
      end
      return out
    end }
    local function submit_all()
      for i = 1, 100 do
        local record = { n = i }
        alive[record] = true
        local future = batcher:submit(record, { timeout_s = i % 7 == 0 and 1e-6 or nil })
        if i % 3 == 0 or i > 98 then future:cancel() end
      end
    end
    submit_all()
    tb.sleep(10)
    tb.spawn(function() end):await()
    collectgarbage()
    collectgarbage()
    assert.is_nil(next(alive))
    assert.equal(0, batcher.unsettled)
  end))

  it("gather waits for all, and keeps results and errors at their indices", virtually(function()
    local batcher = H.start { inference_fn = function() return { 1, tb.failure "two", 3 } end }
    local results, errs = tb.gather(H.submit_costs(batcher, { 1, 1, 1 }))
    assert.same({ 1, nil, 3 }, results)
    assert.is_nil(errs[1])
    assert.equal("two", errs[2].message)
    local none, no_errs = tb.gather {}
    assert.same({ {}, {} }, { none, no_errs })
    assert.matches("gather: element 2", (H.message(tb.gather, { tb.spawn(function() end), 5 })))
    assert.matches("gather: a list of futures", (H.message(tb.gather, 5)))
  end))
end)

describe("Prompt:", function()
  it("is a record with text that costs floor(#text / 4) + 1 tokens", virtually(function()
    for text, cost in pairs { [""] = 1, abc = 1, abcd = 2, ["What is 2+2?"] = 4 } do
      local prompt = tb.Prompt(text)
      assert.equal(text, prompt.text)
      assert.equal(cost, prompt:estimate_tokens())
    end
    local batcher = H.start { inference_fn = function(records, info) return { records[1].text .. info.cost } end }
    assert.equal("abcd2", (batcher:submit(tb.Prompt "abcd"):await()))
    assert.matches("Prompt: text must be a string", (H.message(tb.Prompt, 5)))
  end))
end)

describe("stats:", function()
  local NUMBERS = {
    "total_submitted", "total_completed", "total_batches", "total_batch_cost", "avg_batch_size", "avg_batch_cost",
    "busy_time_s", "idle_time_s", "utilization", "total_failed", "total_cancelled", "total_expired",
    "total_rejected", "total_oversize", "queue_size", "queue_cost", "waiting_submits", "prefetched_batches",
    "prefetched_records", "running_batches", "running_records", "policy_errors", "policy_overruled", "padding_ratio",
    "total_joined", "oldest_queued_s", "oldest_running_s", "abandoned_calls",
  }
  local SUMMARIES = { "wait_s", "service_s", "latency_s", "batch_size", "batch_cost" }
  local PARTS = { "count", "mean", "p50", "p90", "p99", "max" }

  it("has every key of the design, and no other, from the first moment", function()
    local stats = tb.TokenBatcher({ inference_fn = print }).stats
    local expected = { dispatched = true }
    for _, name in ipairs(NUMBERS) do
      expected[name] = true
      assert.equal(0, stats[name], name)
    end
    for _, name in ipairs(SUMMARIES) do
      expected[name] = true
      for _, part in ipairs(PARTS) do assert.equal(0, stats[name][part]) end
    end
    assert.same({ full = 0, timeout = 0, idle = 0, drain = 0, policy = 0 }, stats.dispatched)
    for name in pairs(stats) do assert.is_true(expected[name], name) end
  end)

  it("is a copy", virtually(function()
    local batcher = H.start()
    local before = batcher.stats
    before.total_submitted = 99
    batcher:submit("a"):await()
    assert.equal(99, before.total_submitted)
    assert.equal(1, batcher.stats.total_submitted)
  end))

  it("counts and measures what happened", virtually(function()
    local batcher = H.start { max_batch_size = 2, takes = 2, batch_timeout_s = 1, default_cost = 10 }
    H.submit_costs(batcher, { 4, 6 })
    tb.sleep(3)
    batcher:submit "c"
    tb.sleep(5)
    local stats = batcher.stats
    assert.same({ 3, 3, 2, 20 },
      { stats.total_submitted, stats.total_completed, stats.total_batches, stats.total_batch_cost })
    assert.same({ 1.5, 10 }, { stats.avg_batch_size, stats.avg_batch_cost })
    assert.near(4, stats.busy_time_s, 1e-6)
    assert.near(4, stats.idle_time_s, 1e-6)
    assert.near(0.5, stats.utilization, 1e-6)
    assert.same({ 1, 1 }, { stats.dispatched.full, stats.dispatched.timeout })
    assert.same({ 3, 2, 3 }, { stats.wait_s.count, stats.service_s.count, stats.latency_s.count })
    assert.near(1, stats.wait_s.max, 1e-6)
    assert.near(1 / 3, stats.wait_s.mean, 1e-6)
    assert.near(2, stats.service_s.mean, 1e-6)
    assert.near(3, stats.latency_s.max, 1e-6)
    assert.same({ 2, 2, 10 }, { stats.batch_size.max, stats.batch_size.p99, stats.batch_cost.p50 })
  end))

  it("busy time is slot-seconds, running batches included", virtually(function()
    local batcher = H.start { max_batch_size = 1, max_concurrent_batches = 4, takes = 10 }
    H.submit_costs(batcher, { 1, 1, 1 })
    tb.sleep(2)
    local stats = batcher.stats
    assert.near(6, stats.busy_time_s, 1e-6)
    assert.near(2, stats.idle_time_s, 1e-6)
    assert.near(0.75, stats.utilization, 1e-6)
  end))

  it("percentiles are within 3 %", virtually(function()
    local batcher = H.start { max_batch_size = 1, max_queue_size = 2000, takes = 1, max_concurrent_batches = 1 }
    local list = {}
    for i = 1, 1000 do list[i] = i end
    batcher:submit_batch(list)
    batcher:stop()
    local latency = batcher.stats.latency_s
    for part, exact in pairs { p50 = 500, p90 = 900, p99 = 990, max = 1000, mean = 500.5 } do
      assert.near(exact, latency[part], exact * 0.03)
    end
  end))
end)

describe("constructors:", function()
  for _, class in ipairs { "TokenBatcher", "DynamicBatcher" } do
    it(class .. " needs a function", function()
      local wanted = class .. " requires either 'inference_fn' or 'process_fn'"
      assert.is_truthy(H.message(tb[class], {}):find(wanted, 1, true))
      assert.is_truthy(H.message(tb[class], { max_batch_size = 5 }):find(wanted, 1, true))
    end)

    it(class .. " refuses options that are no table", function()
      for _, bad in ipairs { 5, "text", false, print } do
        assert.matches("options must be a table", (H.message(tb[class], bad)))
      end
      assert.matches("options must be a table", (H.message(tb[class])))
    end)

    it(class .. " names an unknown option and the nearest known one", function()
      local typos = {
        max_batchsize = "max_batch_size", batch_timeout = "batch_timeout_s", inference = "inference_fn",
        ploicy = "policy", max_concurrent_batch = "max_concurrent_batches", on_eror = "on_error",
      }
      for typo, name in pairs(typos) do
        local message = H.message(tb[class], { inference_fn = print, [typo] = 1 })
        assert.matches("unknown option '" .. typo .. "'; did you mean '" .. name .. "'", message)
      end
      assert.matches("unknown option '5'", (H.message(tb[class], { inference_fn = print, [5] = 1 })))
      assert.matches("unknown option 'true'", (H.message(tb[class], { inference_fn = print, [true] = 1 })))
      local odd = setmetatable({}, { __tostring = function() error "no name" end })
      assert.matches("unknown option", (H.message(tb[class], { inference_fn = print, [odd] = 1 })))
    end)
  end

  it("DynamicBatcher does not know the token names; TokenBatcher knows both, the token name wins", virtually(function()
    for _, entry in ipairs(options.list) do
      if entry.token_name then
        local value = entry.kind == "function" and print or 7
        local message = H.message(tb.DynamicBatcher, { inference_fn = print, [entry.token_name] = value })
        assert.matches("unknown option '" .. entry.token_name .. "'; did you mean", message)
        assert.is_table(tb.TokenBatcher { inference_fn = print, [entry.token_name] = value })
        assert.is_table(tb.DynamicBatcher { inference_fn = print, [entry.name] = value })
      end
    end
    local batcher, calls = H.start { target_batch_tokens = 2, target_batch_cost = 50, default_cost = 30,
      default_token_estimate = 1 }
    for i = 1, 4 do batcher:submit(i) end
    batcher:stop()
    assert.same({ 2, 2 }, H.sizes(calls))
    batcher, calls = H.start { cost_estimator = function() return 9 end, token_estimator = function() return 3 end }
    batcher:submit("a"):await()
    assert.equal(3, calls[1].cost)
  end))

  local GOOD_WRONG = { -- what fits no option of the kind
    count = { "5", {}, print, true, 1.5, 0 / 0, math.huge, -math.huge, -1 },
    cost = { "5", {}, print, true, 1.5, 0 / 0, math.huge, -math.huge, -1 },
    seconds = { "5", {}, print, true, 0 / 0, math.huge, -math.huge, -1, -1e-9 },
    number = { "5", {}, print, true, 0 / 0, math.huge, -math.huge, -1e-9 },
    choice = { 5, {}, print, true, "no such choice", "", 0 },
    policy = { 5, {}, true, "no such policy", "", { form = 1 } },
    ["function"] = { 5, "text", {}, true },
    string = { 5, {}, print, true },
    boolean = { 5, "true", {}, print },
    slo = { {}, true, 0, -1, 0 / 0, math.huge },
  }

  for _, entry in ipairs(options.list) do
    it("option " .. entry.name .. " refuses wrong types and values outside its bounds, and names itself", function()
      local names = { entry.name, entry.token_name }
      for _, name in ipairs(names) do
        local function message_for(value)
          local given = { inference_fn = print, [name] = value }
          return H.message(tb.TokenBatcher, given)
        end
        for _, bad in ipairs(GOOD_WRONG[entry.kind]) do
          local message = message_for(bad)
          assert.is_string(message)
          assert.matches("option '" .. name .. "' must be", message)
        end
        if entry.kind == "count" or entry.kind == "cost" or entry.kind == "seconds" or entry.kind == "number" then
          assert.matches(name, message_for(entry.max * 1.01 + 1))
          assert.matches(name, message_for(entry.min - 1))
        end
        if #entry.choices > 0 then
          assert.matches("did you mean", message_for(entry.choices[1] .. "x"))
        end
      end
    end)

    it("option " .. entry.name .. " takes its default, its bounds and its choices", function()
      local values
      if entry.kind == "choice" then
        values = entry.choices
      elseif entry.kind == "policy" then
        values = { "fifo", "eager", "priority", tb.policy.fair {}, { form = print } }
      elseif entry.kind == "function" then
        values = { print, setmetatable({}, { __call = print }) }
      elseif entry.kind == "string" then
        values = { "", "a name" }
      elseif entry.kind == "slo" then
        values = { 1e-6, 1e5, "0.25 + 0.001*tokens", function() return 1 end }
      elseif entry.kind == "boolean" then
        values = { true, false }
      else
        values = { entry.min, entry.max > 1e6 and 1e5 or entry.max, entry.default }
      end
      for _, value in ipairs(values) do
        local given = { inference_fn = print, [entry.name] = value }
        if entry.name == "min_batch_size" then given.max_batch_size = 1e6 end
        assert.is_table(tb.TokenBatcher(given))
      end
    end)
  end

  it("the defaults are those of the design", function()
    local defaults = {
      target_batch_cost = 32000, default_cost = 1, max_batch_size = 256, min_batch_size = 1, batch_timeout_s = 0.05,
      max_queue_size = 5000, prefetch_batches = 2, max_concurrent_batches = 1, policy = "fifo", cost_model = "sum",
      on_full = "wait", on_oversize = "alone", on_error = "fail", suspect_s = 10, abandon_s = 60,
    }
    for _, entry in ipairs(options.list) do
      assert.equal(defaults[entry.name], entry.default, entry.name)
      assert.is_true(#entry.text > 10)
    end
    for name in pairs(defaults) do assert.is_table(options.by_name[name]) end
  end)

  it("options of one batcher are copied: changing the table later changes nothing", virtually(function()
    local infer, calls = H.recorder()
    local given = { inference_fn = infer, max_batch_size = 1 }
    local batcher = tb.TokenBatcher(given)
    given.max_batch_size, given.inference_fn = 5, nil
    batcher:start()
    H.submit_costs(batcher, { 1, 1 })
    batcher:stop()
    assert.same({ 1, 1 }, H.sizes(calls))
  end))

  it("a batcher's name is in its text", function()
    assert.equal("TokenBatcher", tostring(tb.TokenBatcher { inference_fn = print }))
    assert.equal("DynamicBatcher 'b'", tostring(tb.DynamicBatcher { inference_fn = print, name = "b" }))
  end)

  it("start outside of run raises, at the caller's line", function()
    local batcher = tb.TokenBatcher { inference_fn = print }
    local line = H.line() + 1
    local message = H.message(function() batcher:start() end)
    assert.matches("api_spec.lua:" .. line .. ": .*start must be called within", message)
    assert.is_false(batcher.is_running)
  end)
end)

describe("a slip of the pen is told at its line, with what was meant:", function()
  it("a name that the module has not", function()
    local message = H.message(function() return tb.TokenBacher { inference_fn = print } end)
    assert.matches("^tests/lua/runtime/api_spec.lua:%d+: tokenbatcher has no 'TokenBacher'; did you mean 'TokenBatch",
      message)
    assert.matches("tokenbatcher has no 'frobnicate'; it has: DynamicBatcher, ", (H.message(function()
      return tb.frobnicate
    end)))
    assert.truthy(tb.http)
  end)

  it("a figure that stats have not, nor a part of them", virtually(function()
    local batcher = H.start()
    local message = H.message(function() return batcher.stats.total_complete end)
    assert.matches("^tests/lua/runtime/api_spec.lua:%d+: stats has no 'total_complete'; did you mean 'total_complete",
      message)
    assert.matches("a part of stats has no 'p95'; did you mean 'p9[09]'?", (H.message(function()
      return batcher.stats.wait_s.p95
    end)))
    assert.is_nil(batcher.stats[1])
    batcher:stop()
  end))

  it("a method with a dot", virtually(function()
    local b = H.start()
    for _, name in ipairs { "submit", "try_submit", "submit_batch" } do
      for _, record in ipairs { "text", 7, { text = "x" } } do
        local pattern = ("^tests/lua/runtime/api_spec.lua:%%d+: %s needs a colon: batcher:%s"):format(name, name)
        assert.matches(pattern, (H.message(function() b[name](record) end)))
        assert.matches(pattern, (H.message(function() b[name](record, { priority = 1 }) end)))
      end
    end
    for _, name in ipairs { "start", "stop", "flush", "set" } do
      assert.matches(name .. " needs a colon", (H.message(function() b[name] {} end)))
      assert.matches(name .. " needs a colon", (H.message(function() b[name]() end)))
    end
    assert.equal(0, b.stats.total_submitted)
    b:stop()
  end))
end)

describe("misuse:", function()
  it("names the caller's file and line, for every call", virtually(function()
    local batcher = H.start { name = "b" }
    local future = batcher:submit "a"
    local first = H.line() + 2
    local wrong = {
      function() return (tb.TokenBatcher { inference_fn = 5 }) end,
      function() return (tb.DynamicBatcher { token_estimator = print }) end,
      function() return (tb.TokenBatcher {}) end,
      function() return (batcher:submit(nil)) end,
      function() return (batcher:submit("r", 5)) end,
      function() return (batcher:submit("r", { priorty = 1 })) end,
      function() return (batcher:submit("r", { priority = "high" })) end,
      function() return (batcher:submit("r", { key = 5 })) end,
      function() return (batcher:submit("r", { timeout_s = 0 })) end,
      function() return (batcher:submit("r", { estimated_tokens = -1 })) end,
      function() return (batcher:try_submit(nil)) end,
      function() return (batcher:try_submit("r", { estimated_cost = "5" })) end,
      function() return (batcher:submit_batch(5)) end,
      function() return (batcher:submit_batch({ 1 }, { estimated_cost = 1 })) end,
      function() return (batcher:submit_batch({ 1 }, { estimated_cost = { -1 } })) end,
      function() return (batcher:start()) end,
      function() return (batcher:set { max_batch_size = 0 }) end,
      function() return (batcher:set { max_batch_size = 1, min_batch_size = 2 }) end,
      function() return (batcher:stop { timeout = 1 }) end,
      function() return (future:await(-1)) end,
      function() return (tb.sleep(-1)) end,
      function() return (tb.spawn(5)) end,
      function() return (tb.gather(5)) end,
      function() return (tb.with(5, print)) end,
      function() return (tb.run(print)) end,
      function() return (tb.step()) end,
      function() return (tb.Prompt(5)) end,
      function() return (tb.backend.nonsense) end,
      function() return (tb.backend.simulated { bases = 1 }) end,
    }
    for i, call in ipairs(wrong) do
      local message = H.message(call)
      assert.is_string(message, "call " .. i)
      assert.equal(("runtime/api_spec.lua:%d: "):format(first + i - 1), message:match "(runtime/api_spec.lua:%d+: )")
    end
  end))

  it("submit takes a priority and a key, which fifo does not look at", virtually(function()
    local batcher, calls = H.start()
    batcher:submit("a", { priority = -1, key = "x" })
    batcher:submit("b", { priority = math.huge, key = "" })
    batcher:submit_batch({ "c" }, { priority = 0.5, key = "x" })
    batcher:stop()
    assert.same({ "a b c" }, H.batches(calls))
    assert.matches("priority", (H.message(batcher.start(batcher).submit, batcher, "r", { priority = 0 / 0 })))
  end))

  it("submit names an unknown option and the nearest one it has", virtually(function()
    local token, dynamic = H.start(), H.start { class = "DynamicBatcher" }
    assert.matches("'estimated_token'; did you mean 'estimated_tokens'",
      (H.message(token.submit, token, "r", { estimated_token = 1 })))
    assert.matches("'estimated_tokens'; did you mean 'estimated_cost'",
      (H.message(dynamic.submit, dynamic, "r", { estimated_tokens = 1 })))
  end))

  it("an err reads well as text, and has code, message and nothing it should not", virtually(function()
    local batcher = H.start { max_queue_size = 1, on_full = "reject", name = "small" }
    batcher:submit "a"
    local _, err = batcher:submit "b"
    assert.equal("queue_full: TokenBatcher 'small': the queue is full (max_queue_size = 1)", tostring(err))
    assert.same({ "queue_full", nil, nil }, { err.code, err.cause, err.traceback })
  end))
end)

describe("backend:", function()
  it("simulated takes base_s + per_token_s x cost and answers from the input", virtually(function()
    local batcher = tb.TokenBatcher {
      inference_fn = tb.backend.simulated { base_s = 1, per_token_s = 0.1 }, batch_timeout_s = 0,
    }
    batcher:start()
    local answer = batcher:submit({ text = "hello" }, { estimated_tokens = 20 }):await()
    assert.near(3, tb.now(), 1e-6)
    assert.same({ tokens = 20, text = "hello" }, answer)
    assert.same({ tokens = 1, text = ("x"):rep(32) }, (batcher:submit(("x"):rep(100)):await()))
    assert.same({ tokens = 1 }, (batcher:submit(5):await()))
    assert.is_function(tb.backend.simulated())
  end))

  it("validates its options and names what ships", function()
    assert.matches("unknown option 'base'; did you mean 'base_s'", (H.message(tb.backend.simulated, { base = 1 })))
    assert.matches("'base_s' must be", (H.message(tb.backend.simulated, { base_s = -1 })))
    assert.matches("has no 'gpt'", (H.message(function() return tb.backend.gpt end)))
  end)
end)
