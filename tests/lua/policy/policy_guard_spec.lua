-- X1-X3 of section 3: policies that do wrong. Nothing is lost, whatever they do.

local tb = require "tokenbatcher"
local tbffi = require "tokenbatcher.core.ffi"
local H = require "tests.lua.helper"
local virtually = H.virtually

local function real_us() return tonumber(tbffi.lib.tb_ev_now()) end

-- A started batcher with this form, its calls and what it logs.
local function start(form, options)
  local given, said = { policy = { form = form } }, {}
  given.log = function(level, text) said[#said + 1] = level .. ": " .. text end
  for name, value in pairs(options or {}) do given[name] = value end
  local batcher, calls = H.start(given)
  return batcher, calls, said
end

local function submit_and_wait(batcher, n)
  local futures = {}
  for i = 1, n do futures[i] = batcher:submit(i) end
  for i = 1, n do assert.equal("re:" .. i, (futures[i]:await())) end
end

describe("X1:", function()
  it("a policy that throws costs one policy_errors, and F3 decides that round", virtually(function()
    local n = 0
    local batcher, calls, said = start(function(queue, batch)
      n = n + 1
      for i = queue.size, 1, -1 do batch:add(i) end
      if n == 1 then error "oh no" end
    end, { max_batch_size = 2, batch_timeout_s = 9 })
    H.submit_costs(batcher, { 1, 1 })
    tb.sleep(0)
    assert.same({ "r1 r2" }, H.batches(calls))
    assert.equal("full", calls[1].reason)
    assert.equal(1, batcher.stats.policy_errors)
    H.submit_costs(batcher, { 1, 1 })
    tb.sleep(0)
    assert.equal("r2 r1", H.batches(calls)[2])
    assert.equal(0, batcher.stats.policy_overruled)
    assert.equal(1, #said)
    assert.matches("policy '%(a table%)': form raised: .*policy_guard_spec.lua:31: oh no; fifo decides", said[1])
    batcher:stop()
  end))

  it("nothing that it added before it threw counts, and what is not due waits", virtually(function()
    local batcher, calls = start(function(_, batch)
      batch:add(2)
      error "oh no"
    end, { batch_timeout_s = 0.5 })
    H.submit_costs(batcher, { 1, 1 })
    tb.sleep(0.25)
    assert.same({ 0, 1 }, { #calls, batcher.stats.policy_errors })
    assert.equal(2, batcher.stats.queue_size)
    assert.is_nil(H.broken(batcher))
    tb.sleep(0.5)
    assert.same({ "r1 r2" }, H.batches(calls))
    assert.same({ "timeout", 0.5, 2 }, { calls[1].reason, calls[1].at, batcher.stats.policy_errors })
    batcher:stop()
  end))

  it("so does one that adds a record that does not exist", virtually(function()
    for _, i in ipairs { 0, -1, 4, 1.5, 0 / 0, math.huge, 2 ^ 60, "1", {}, true } do
      local batcher, calls = start(function(_, batch)
        batch:add(3)
        batch:add(i)
      end)
      H.submit_costs(batcher, { 1, 1, 1 })
      batcher:stop()
      assert.same({ "r1 r2 r3" }, H.batches(calls))
      assert.equal(1, batcher.stats.policy_errors)
    end
  end))

  it("an error may be of any type", virtually(function()
    local hostile = setmetatable({}, { __tostring = function() error "even this" end })
    for _, value in ipairs { "text", 17, {}, hostile, true, print, coroutine.create(print) } do
      local batcher, calls, said = start(function() error(value, 0) end, { batch_timeout_s = 0 })
      for i = 1, 12 do
        batcher:submit(i)
        tb.sleep(0.01)
      end
      assert.same({ 12, 10, 2 }, { #calls, batcher.stats.policy_errors, #said })
      batcher:stop()
    end
    local batcher, calls = start(function() error() end, { batch_timeout_s = 0 })
    submit_and_wait(batcher, 3)
    assert.equal(1, #calls)
    batcher:stop()
  end))

  it("a stack overflow, a bad call and a yield are errors like others", virtually(function()
    local function deeper() return 1 + deeper() end
    for _, form in ipairs { deeper, function(queue) queue.nothing() end, function() coroutine.yield() end,
      function(queue) return queue:cost {} end } do
      local batcher = start(form)
      submit_and_wait(batcher, 5) -- asked at their arrival, and when they are due
      assert.equal(2, batcher.stats.policy_errors)
      assert.is_nil(H.broken(batcher))
      batcher:stop()
    end
  end))

  it("ten in a row disable it, with one log line that names it and the error", virtually(function()
    local asked = 0
    local batcher, calls, said = start(nil, { batch_timeout_s = 0.01, policy = { name = "faulty", form = function()
      asked = asked + 1
      error "oh no"
    end } })
    for i = 1, 30 do
      batcher:submit(i)
      tb.sleep(0.05)
    end
    assert.same({ 10, 10, 30 }, { asked, batcher.stats.policy_errors, #calls })
    assert.equal(2, #said)
    assert.matches("^warn: policy 'faulty': form raised: .*policy_guard_spec.lua:%d+: oh no; fifo decides", said[1])
    assert.matches("^warn: policy 'faulty' failed 10 times in a row and is disabled", said[2])
    assert.matches("oh no", said[2])
    assert.equal(30, batcher.stats.total_completed)
    batcher:stop()
  end))

  it("nine in a row and one that is good begin the count anew", virtually(function()
    local asked = 0
    local batcher, _, said = start(function(_, batch)
      asked = asked + 1
      if asked % 10 == 0 then return batch:add(1) and nil end
      error "oh no"
    end, { batch_timeout_s = 0 })
    for i = 1, 60 do
      batcher:submit(i)
      tb.sleep(0.01)
    end
    assert.same({ 60, 54, 1 }, { asked, batcher.stats.policy_errors, #said })
    assert.matches("form raised", said[1])
    batcher:stop()
  end))

  it("set{policy} enables it again, set of other options does not, start does not", virtually(function()
    local asked, good = 0, false
    local policy = { form = function(queue, batch)
      asked = asked + 1
      if not good then error "oh no" end
      for i = queue.size, 1, -1 do batch:add(i) end
    end }
    local batcher, calls, said = start(nil, { policy = policy, batch_timeout_s = 0 })
    for i = 1, 12 do
      batcher:submit(i)
      tb.sleep(0.01)
    end
    good = true
    batcher:set { batch_timeout_s = 0.001 }
    submit_and_wait(batcher, 2)
    batcher:stop()
    batcher:start()
    submit_and_wait(batcher, 2)
    assert.equal(10, asked)
    batcher:set { policy = policy }
    submit_and_wait(batcher, 2)
    assert.equal(11, asked)
    assert.equal("policy", calls[#calls].reason)
    assert.equal(2, #said) -- the first error, and the tenth
    batcher:stop()
  end))

  it("an on_complete that throws counts, the answers are given, and ten in a row disable it", virtually(function()
    local completed = 0
    local batcher, calls, said = start(nil, { policy = {
      form = function(queue, batch) for i = 1, queue.size do batch:add(i) end end,
      on_complete = function()
        completed = completed + 1
        error { "a table" }
      end,
    } })
    for _ = 1, 15 do submit_and_wait(batcher, 2) end
    batcher:stop()
    assert.same({ 10, 10, 15, 2 }, { completed, batcher.stats.policy_errors, #calls, #said })
    assert.matches("on_complete raised: a table", (said[1]:gsub("%(a table that has no text%)", "a table")))
    assert.matches("10 times in a row .* on_complete raised", said[2])
    assert.same({ policy = 10, full = 0, timeout = 5, idle = 0, drain = 0 }, batcher.stats.dispatched)
  end))

  it("nothing is lost when it throws at every call, draining included", virtually(function()
    local batcher = start(function() error "oh no" end,
      { max_batch_size = 3, takes = 0.01, max_concurrent_batches = 2 })
    for i = 1, 100 do
      batcher:submit(i)
      if i % 10 == 0 then tb.sleep(0.001) end
    end
    batcher:stop()
    assert.equal(100, batcher.stats.total_completed)
    assert.is_true(H.is_conserved(batcher.stats))
  end))

  it("a log function that submits, or raises, disturbs no decision", virtually(function()
    local batcher
    batcher = start(function() error "oh no" end, { batch_timeout_s = 0.01, log = function()
      batcher:submit "from the log"
      error "and raises"
    end })
    for i = 1, 12 do
      batcher:submit(i)
      tb.sleep(0.05)
    end
    batcher:stop()
    assert.equal(14, batcher.stats.total_completed) -- the first error is told, and the tenth
    assert.is_nil(H.broken(batcher))
  end))
end)

describe("X2:", function()
  it("a policy that adds nothing is overruled when the queue is due", virtually(function()
    local batcher, calls = start(function() end, { batch_timeout_s = 0.25 })
    batcher:submit "a"
    tb.sleep(0.2)
    assert.same({ 0, 0 }, { #calls, batcher.stats.policy_overruled })
    tb.sleep(0.1)
    assert.same({ "a" }, H.batches(calls))
    assert.same({ 0.25, "timeout" }, { calls[1].at, calls[1].reason })
    assert.equal(1, batcher.stats.policy_overruled)
    batcher:submit "b"
    batcher:stop()
    assert.same({ "drain", 2, 0 }, { calls[2].reason, batcher.stats.policy_overruled, batcher.stats.policy_errors })
  end))

  it("it is not overruled because a batch is full", virtually(function()
    local batcher, calls = start(function() end, { batch_timeout_s = 0.25, max_batch_size = 2 })
    for i = 1, 5 do batcher:submit(i) end
    tb.sleep(0.2)
    assert.equal(0, #calls)
    tb.sleep(0.1)
    assert.same({ 2, 2, 1 }, H.sizes(calls))
    assert.equal(3, batcher.stats.policy_overruled)
    batcher:stop()
  end))

  it("one that asks for a later time is obeyed, past due and while draining", virtually(function()
    local batcher, calls = start(function(queue, batch, now)
      if now < 7 then return 7 end
      for i = 1, queue.size do batch:add(i) end
    end, { batch_timeout_s = 0.25 })
    batcher:submit "a"
    tb.sleep(1)
    batcher:submit "b"
    batcher:stop()
    assert.same({ "a b" }, H.batches(calls))
    assert.same({ 7, "policy", 0 }, { calls[1].at, calls[1].reason, batcher.stats.policy_overruled })
  end))

  it("stop{timeout_s} bounds what it may ask for", virtually(function()
    local batcher, calls = start(function(_, _, now) return now + 1 end)
    local future = batcher:submit "a"
    tb.sleep(2)
    batcher:stop { timeout_s = 0.5 }
    assert.equal(2.5, tb.now())
    local _, err = future:await()
    assert.same({ "stopped", 0 }, { err.code, #calls })
    assert.same({ 1, 0 }, { batcher.stats.total_failed, batcher.stats.policy_errors })
  end))

  it("deadlines bound what it may ask for, too", virtually(function()
    local batcher, calls = start(function(_, _, now) return now + 100 end)
    local _, err = batcher:submit("a", { timeout_s = 3 }):await()
    assert.same({ "deadline", 3, 0 }, { err.code, tb.now(), #calls })
    batcher:stop()
  end))

  it("a time that is past, now, NaN, infinite or no number counts as none", virtually(function()
    for _, answer in ipairs { "past", "now", 0 / 0, math.huge, -math.huge, "later", "99999", true, {}, print, 0, -1 } do
      local batcher, calls = start(function(_, _, now)
        if answer == "past" then return now - 1e-9 end
        if answer == "now" then return now end
        return answer
      end, { batch_timeout_s = 0.25 })
      local from = tb.now()
      tb.sleep(1 / 3)
      batcher:submit "a"
      tb.sleep(0.5)
      assert.equal(1, #calls)
      assert.near(from + 1 / 3 + 0.25, calls[1].at, 1e-5)
      assert.same({ 1, 0 }, { batcher.stats.policy_overruled, batcher.stats.policy_errors })
      batcher:stop()
    end
  end))

  it("a time a hair after now is a later one, and time goes on", virtually(function()
    local asked = 0
    local batcher, calls = start(function(_, _, now)
      asked = asked + 1
      if asked < 50 then return now + 1e-12 end
    end, { batch_timeout_s = 0 })
    tb.sleep(1)
    batcher:submit "a"
    tb.sleep(0.01)
    assert.same({ 50, 1 }, { asked, #calls })
    assert.near(1, calls[1].at, 2e-4)
    batcher:stop()
  end))

  it("a time that is very far away does no harm", virtually(function()
    local batcher = start(function() return 1e300 end)
    batcher:submit "a"
    tb.sleep(5)
    batcher:stop { timeout_s = 1 }
    assert.equal(1, batcher.stats.total_failed)
  end))

  it("while it waits for its time, a slot that is busy changes nothing", virtually(function()
    local batcher, calls = start(function(queue, batch, now)
      if queue.size == 1 and now < 3 then return 3 end
      batch:add(1)
    end, { takes = 1, max_concurrent_batches = 2, batch_timeout_s = 0 })
    H.submit_costs(batcher, { 1, 1 })
    tb.sleep(0.5)
    assert.same({ "r1" }, H.batches(calls))
    tb.sleep(1)
    assert.equal(1, #calls)
    batcher:stop()
    assert.equal(3, calls[2].at)
  end))

  it("records that waited max_wait_s make the queue due and go first, oldest first", virtually(function()
    local batcher, calls = start(function(queue, batch)
      if not queue.due then return end
      for i in queue:by_cost() do
        if not batch:add(i) then break end
      end
    end, { max_wait_s = 1, batch_timeout_s = 5, target_batch_cost = 10 })
    batcher:submit("old big", { estimated_cost = 6 })
    batcher:submit("old small", { estimated_cost = 2 })
    tb.sleep(0.5)
    for i = 1, 4 do batcher:submit("new" .. i, { estimated_cost = 1 }) end
    tb.sleep(0.4)
    assert.equal(0, #calls)
    tb.sleep(0.2)
    assert.equal(1, calls[1].at)
    assert.same({ "old big", "old small", "new1", "new2" }, calls[1].records)
    assert.equal("policy", calls[1].reason)
    batcher:stop()
  end))

  it("max_wait_s: a policy that never names a record cannot starve it", virtually(function()
    local batcher, calls = start(function(queue, batch) batch:add(queue.size) end,
      { max_wait_s = 2, takes = 0.5, batch_timeout_s = 0.01, max_batch_size = 1 })
    batcher:submit "old"
    for i = 1, 12 do
      batcher:submit(i)
      tb.sleep(0.25)
    end
    batcher:stop()
    for k, call in ipairs(calls) do
      if call.records[1] == "old" then
        assert.is_true(k > 1 and call.at >= 2 and call.at <= 2.51)
        return
      end
    end
    error "it was starved"
  end))

  it("max_wait_s: batch:limit holds for these records, the first that does not fit ends them", virtually(function()
    local batcher, calls = start(function(queue, batch)
      if not queue.due then return end
      batch:limit(5)
      batch:add(3)
    end, { max_wait_s = 1, batch_timeout_s = 5 })
    H.submit_costs(batcher, { 3, 4, 2 })
    tb.sleep(1.1)
    assert.same({ "r1 r3", 5 }, { H.batches(calls)[1], calls[1].cost })
    batcher:stop()
  end))

  it("max_wait_s: a later time asked for is obeyed past it", virtually(function()
    local batcher, calls = start(function(_, batch, now)
      if now < 3 then return 3 end
      batch:add(1)
    end, { max_wait_s = 1, batch_timeout_s = 5 })
    batcher:submit "a"
    tb.sleep(4)
    assert.equal(3, calls[1].at)
    batcher:stop()
  end))

  it("max_wait_s: a policy that adds nothing leaves them to F3", virtually(function()
    local batcher, calls = start(function() end, { max_wait_s = 1, batch_timeout_s = 5 })
    batcher:submit "a"
    tb.sleep(2)
    assert.same({ 1, "timeout", 1 }, { calls[1].at, calls[1].reason, batcher.stats.policy_overruled })
    batcher:stop()
  end))
end)

describe("X3:", function()
  -- Every way to do something, by name; each must raise inside a policy's hook.
  local function deeds(batcher, other, future)
    return {
      submit = function() batcher:submit "x" end,
      ["submit elsewhere"] = function() other:submit "x" end,
      try_submit = function() batcher:try_submit "x" end,
      submit_batch = function() batcher:submit_batch { "x" } end,
      ["submit_batch of none"] = function() batcher:submit_batch {} end,
      cancel = function() future:cancel() end,
      stop = function() batcher:stop() end,
      ["stop elsewhere"] = function() other:stop() end,
      set = function() batcher:set { batch_timeout_s = 1 } end,
      flush = function() batcher:flush() end,
      start = function() batcher:start() end,
      spawn = function() tb.spawn(print) end,
      sleep = function() tb.sleep(0) end,
      await = function() future:await() end,
      gather = function() tb.gather { future } end,
      with = function() tb.with(batcher, print) end,
      run = function() tb.run(print) end,
      step = function() tb.step() end,
    }
  end

  local function all_raise(batcher, other, future)
    local said = {}
    for name, deed in pairs(deeds(batcher, other, future)) do
      local message = H.message(deed)
      if not message then said[#said + 1] = name .. " did not raise" end
    end
    return said
  end

  it("form and on_complete may read; everything else raises there and changes nothing", virtually(function()
    local other = H.start { batch_timeout_s = 9 }
    local future = other:submit "theirs"
    local batcher, results = nil, {}
    batcher = H.start { policy = {
      form = function(queue, batch)
        results[#results + 1] = all_raise(batcher, other, future)
        for i = 1, queue.size do batch:add(i) end
      end,
      on_complete = function() results[#results + 1] = all_raise(batcher, other, future) end,
    } }
    submit_and_wait(batcher, 2)
    assert.same({ {}, {} }, results)
    assert.same({ 2, 0 }, { batcher.stats.total_submitted, batcher.stats.policy_errors })
    assert.is_false(future:done())
    assert.same({ 1, true }, { other.stats.total_submitted, other.is_running })
    batcher:stop()
    other:stop()
  end))

  it("the error names what was called, at the policy's line", virtually(function()
    local batcher, message, line
    batcher = start(function(queue, batch)
      line = H.line() + 1
      message = message or H.message(function() batcher:submit "x" end)
      for i = 1, queue.size do batch:add(i) end
    end)
    submit_and_wait(batcher, 1)
    assert.matches("policy_guard_spec.lua:" .. line .. ": .*submit cannot be called inside a policy", message)
    batcher:stop()
  end))

  it("it raises when it is not caught, as an error of the policy", virtually(function()
    local batcher
    batcher = start(function() batcher:submit "x" end)
    submit_and_wait(batcher, 3)
    assert.same({ 3, 2 }, { batcher.stats.total_submitted, batcher.stats.policy_errors })
    batcher:stop()
  end))

  it("stats, is_running and now may be read there", virtually(function()
    local batcher
    local seen = {}
    batcher = start(nil, { policy = {
      form = function(queue, batch)
        for i = 1, queue.size do batch:add(i) end
        seen[1] = { batcher.stats.queue_size, batcher.stats.total_submitted, batcher.is_running, tb.now() }
      end,
      on_complete = function() seen[2] = batcher.stats.running_batches end,
    } })
    submit_and_wait(batcher, 2)
    assert.same({ { 2, 2, true, 0 }, 0 }, seen)
    batcher:stop()
  end))

  it("a factory may not do either", virtually(function()
    local batcher = H.start { batch_timeout_s = 9 }
    local done = {}
    local other = H.start { policy = function()
      done[#done + 1] = H.message(function() batcher:submit "x" end) and "raised" or "did not raise"
      done[#done + 1] = H.message(tb.sleep, 0) and "raised" or "did not raise"
      return { form = function() end }
    end }
    assert.same({ "raised", "raised" }, done)
    submit_and_wait(other, 1)
    batcher:submit "works"
    other:stop()
    batcher:stop()
    assert.equal(1, batcher.stats.total_submitted)
  end))

  it("after the call everything is allowed again", virtually(function()
    local batcher = start(function() error "oh no" end)
    submit_and_wait(batcher, 1)
    tb.sleep(0.1)
    tb.spawn(function() batcher:submit "y" end)
    batcher:set { batch_timeout_s = 0 }
    tb.sleep(0.1)
    batcher:stop()
    assert.equal(2, batcher.stats.total_completed)
  end))

  it("a policy that holds up the loop for more than half a second is reported once, with its name", function()
    local batcher, _, said
    H.run(function()
      local turns = 0
      batcher, _, said = start(nil, { max_batch_size = 1, policy = { name = "slow one", form = function(_, batch)
        turns = turns + 1
        local until_us = real_us() + (turns <= 2 and 560000 or 0)
        while real_us() < until_us do batch:limit(math.huge) end
        batch:add(1)
      end } })
      submit_and_wait(batcher, 3)
      batcher:stop()
    end)
    assert.equal(1, #said)
    assert.matches("^warn: policy 'slow one': form took %d+%.%d%d s", said[1])
    assert.same({ 0, 3 }, { batcher.stats.policy_errors, batcher.stats.dispatched.policy })
  end)
end)

describe("a policy that does everything wrong at random:", function()
  local seed
  local function draw(n)
    seed = (seed * 1103515245 + 12345) % 2 ^ 31
    return math.floor(seed / 2 ^ 12) % n
  end

  local keep = {}
  local WRONGS = {
    function() error "thrown" end,
    function() error {} end,
    function(queue, batch) batch:add(queue.size + 1) end,
    function(queue, batch) batch:add(queue.size / 2 + 0.25) end,
    function(_, batch) batch:limit(draw(50) - 10) end,
    function() return 0 / 0 end,
    function() return "later" end,
    function(_, _, now) return now - 1 end,
    function(_, _, now) return now + draw(20) / 1000 end,
    function() return math.huge end,
    function(queue, batch) keep.queue, keep.batch = queue, batch end,
    function() return keep.queue and keep.queue.size end,
    function(queue) keep.step, keep.state, keep.at = queue:near(1 + draw(queue.size)) end,
    function() return keep.step and keep.step(keep.state, keep.at) end,
    function(queue) for i in queue:by_deadline() do if draw(4) == 0 then return i end end end,
    function(queue, batch) for i in queue:by_priority(1 + draw(3)) do batch:add(i) end end,
    function(queue, batch) for key in queue:keys() do for i in queue:of(key) do batch:add(i) end end end,
    function(queue, batch) for i in queue:by_cost() do if not batch:add(i) then return end end end,
    function(queue, batch) for i in queue:near(1 + draw(queue.size)) do if not batch:add(i) then return end end end,
    function(queue, batch) for _ = 1, 10 do batch:add(1 + draw(queue.size)) end end,
    function(queue, batch) pcall(batch.add, batch, queue) batch:add(1) end,
    function(queue, batch) for i = queue.size, 1, -1 do batch:add(i) end end,
    function(queue) queue.size = 0 end,
    function() keep.batcher:submit(0) end,
    function() tb.sleep(1) end,
    function() keep.future:cancel() end,
  }

  local function policy()
    return {
      form = function(queue, batch, now)
        local at
        for _ = 1, 1 + draw(3) do at = WRONGS[1 + draw(#WRONGS)](queue, batch, now) end
        return at
      end,
      on_complete = function() if draw(5) == 0 then error "in on_complete" end end,
    }
  end

  local function exercise(batcher, n, futures)
    for i = 1, n do
      local future = batcher:submit(i, { estimated_cost = draw(120), priority = draw(5), key = "k" .. draw(9),
        timeout_s = draw(4) == 0 and (1 + draw(400)) / 1000 or nil })
      futures[i], keep.future = future, future
      if draw(8) == 0 then tb.sleep(draw(20) / 1000) end
      if draw(10) == 0 then futures[1 + draw(i)]:cancel() end
      if draw(300) == 0 then batcher:set { policy = policy(), max_batch_size = 1 + draw(30) } end
      if draw(100) == 0 then batcher:flush() end
      if draw(50) == 0 then
        assert.is_nil(H.broken(batcher))
        assert.is_true(H.is_conserved(batcher.stats))
      end
    end
  end

  it("loses no record of ten thousand, keeps the budget and every count", function()
    for round = 1, 4 do
      seed = 100 + round
      H.run(function()
        local settled, futures = 0, {}
        local batcher, calls = start(nil, { policy = policy(), target_batch_cost = 100, max_batch_size = 20,
          max_queue_size = 60, batch_timeout_s = 0.02, max_concurrent_batches = round,
          max_wait_s = round > 2 and 0.1 or nil, cost_model = round % 2 == 0 and "padded" or "sum",
          takes = function() return draw(10) / 1000 end })
        keep.batcher = batcher
        exercise(batcher, 2500, futures)
        batcher:stop()
        for i = 1, 2500 do settled = settled + (futures[i]:done() and 1 or 0) end
        local stats = batcher.stats
        assert.same({ 2500, 2500 }, { settled, stats.total_submitted })
        assert.is_true(H.is_conserved(stats))
        assert.is_nil(H.broken(batcher))
        assert.is_true(stats.policy_errors > 0 and stats.policy_overruled > 0 and stats.dispatched.policy > 0)
        for _, call in ipairs(calls) do assert.is_true(call.cost <= 100 or call.size == 1) end
      end)
    end
  end)
end)
