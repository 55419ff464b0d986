-- Section 5: what a scripted policy sees, what it may do, and when it is asked.

local tb = require "tokenbatcher"
local policies = require "tokenbatcher.policy"
local H = require "tests.lua.helper"
local virtually = H.virtually

local written = {}

-- A file for this spec; all are removed at its end.
local function write(name, text)
  local unique = os.tmpname()
  local path = unique .. "-" .. name
  os.remove(unique)
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
  written[#written + 1] = path
  return path
end

-- A policy that lets `read` look once, at its first decision, and then leaves all to F3.
-- read's results are returned; what it raises is raised here.
local function look(records, read, options)
  local results
  local given = { batch_timeout_s = 1, policy = { form = function(queue, batch, now)
    if not results then results = { pcall(read, queue, batch, now) } end
  end } }
  for name, value in pairs(options or {}) do given[name] = value end
  local batcher, calls = H.start(given)
  for i, opts in ipairs(records) do batcher:submit("r" .. i, opts) end
  tb.sleep(0)
  assert(results, "form was not called")
  batcher:stop()
  if not results[1] then error(results[2], 0) end
  assert.equal(0, batcher.stats.policy_errors)
  return results[2], calls
end

local function costs(list)
  local out = {}
  for i, cost in ipairs(list) do out[i] = { estimated_cost = cost } end
  return out
end

local function positions(step, state, first)
  local out = {}
  for i in step, state, first do out[#out + 1] = i end
  return out
end

-- A batcher whose policy notes its calls and answers what `answer` says: a list of
-- positions to add (or nil) and a time.
local function noting(answer, options)
  local asked = {}
  local given = { policy = { form = function(queue, batch, now)
    asked[#asked + 1] = { at = now, size = queue.size, due = queue.due, full = queue.full, draining = queue.draining,
      idle_slots = queue.idle_slots }
    local add, at = answer(queue, now, #asked)
    for _, i in ipairs(add or {}) do batch:add(i) end
    return at
  end } }
  for name, value in pairs(options or {}) do given[name] = value end
  local batcher, calls = H.start(given)
  return batcher, asked, calls
end

local function times(asked)
  local out = {}
  for i, call in ipairs(asked) do out[i] = math.floor(call.at * 1e6 + 0.5) / 1e6 end
  return out
end

describe("a policy's queue:", function()
  it("has the records in arrival order with cost, age, priority, deadline, key and record", virtually(function()
    local record = { text = "b" }
    local seen
    local batcher = H.start { batch_timeout_s = 1, min_batch_size = 3, policy = { form = function(queue, _, now)
      if seen then return end
      seen = { now = now }
      for i = 1, queue.size do
        seen[i] = { queue:cost(i), queue:age(i), queue:priority(i), queue:deadline(i) or "none", queue:key(i),
          queue:record(i) }
      end
    end } }
    batcher:submit("a", { estimated_cost = 2.5 })
    tb.sleep(0.25)
    batcher:submit(record, { estimated_cost = 7, priority = -1.5, timeout_s = 4, key = "alice" })
    tb.sleep(0.125)
    batcher:submit(false, { estimated_cost = 0, priority = 3 })
    tb.sleep(0)
    assert.same({
      now = 0.375,
      { 3, 0.375, 0, "none", "", "a" },
      { 7, 0.125, -1.5, 4.25, "alice", record },
      { 0, 0, 3, "none", "", false },
    }, seen)
    assert.equal(record, seen[2][6])
    batcher:stop()
  end))

  it("has size, total_cost, full, due, draining and idle_slots", virtually(function()
    local function read(queue)
      return { queue.size, queue.total_cost, queue.full, queue.due, queue.draining, queue.idle_slots }
    end
    assert.same({ 3, 12, false, false, false, 1 }, (look(costs { 3, 4, 5 }, read)))
    assert.same({ 3, 12, true, false, false, 3 },
      (look(costs { 3, 4, 5 }, read, { target_batch_cost = 8, max_concurrent_batches = 3 })))
    local batcher, asked = noting(function() end, { batch_timeout_s = 0.1 })
    batcher:submit "a"
    tb.sleep(0.05)
    batcher:submit "b"
    tb.sleep(0.04)
    batcher:stop()
    assert.same({ false, false, true }, { asked[1].due, asked[2].due, asked[3].due })
    assert.same({ false, false, true }, { asked[1].draining, asked[2].draining, asked[3].draining })
  end))

  it("full means that a fifo prefix fills a batch, whatever is behind it", virtually(function()
    local function is_full(queue) return queue.full end
    assert.is_true((look(costs { 5, 6, 1 }, is_full, { target_batch_cost = 10 })))
    assert.is_false((look(costs { 5, 1, 1 }, is_full, { target_batch_cost = 10 })))
    assert.is_true((look(costs { 1, 1, 1 }, is_full, { max_batch_size = 3 })))
  end))

  it("an unknown name is nil, and a write raises", virtually(function()
    assert.is_true((look(costs { 1 }, function(queue, batch)
      return queue.nonsense == nil and batch.nonsense == nil
        and not pcall(function() queue.size = 3 end) and not pcall(function() batch.cost = 3 end)
    end)))
  end))

  it("raises on a position that is not there, naming it and the size", virtually(function()
    local message = look(costs { 1, 2 }, function(queue)
      local said = {}
      for _, method in ipairs { "cost", "age", "priority", "deadline", "key", "record", "near" } do
        for _, i in ipairs { 0, 3, 1.5, -1, 0 / 0, math.huge, 2 ^ 40, "1", {} } do
          local ok, err = pcall(queue[method], queue, i)
          assert(not ok, method)
          said[#said + 1] = err
        end
        assert(not pcall(queue[method], queue, nil))
      end
      return said[2]
    end)
    assert.matches("no position 3", message)
    assert.matches("size is 2", message)
  end))

  it("raises when a method is called without its colon", virtually(function()
    look(costs { 1, 2 }, function(queue, batch)
      assert.has_error(function() queue.cost(1) end)
      assert.has_error(function() batch.add(1) end)
      assert.has_error(function() queue.by_cost() end)
    end)
  end))
end)

describe("a policy's views:", function()
  it("by_cost: smallest first, ties by arrival", virtually(function()
    assert.same({ 4, 2, 3, 6, 1, 5 }, (look(costs { 9, 4, 4, 1, 9, 4 }, function(queue)
      return positions(queue:by_cost())
    end)))
  end))

  it("by_deadline: earliest first, ties by arrival, those without one last", virtually(function()
    local records = { {}, { timeout_s = 9 }, { timeout_s = 5 }, {}, { timeout_s = 9 }, { timeout_s = 6 } }
    assert.same({ 3, 6, 2, 5, 1, 4 }, (look(records, function(queue) return positions(queue:by_deadline()) end)))
  end))

  it("by_priority: highest first, ties by arrival; without aging_s age does not count", virtually(function()
    local records = { { priority = 1 }, {}, { priority = 1 }, { priority = 2.5 }, { priority = -1 }, {} }
    assert.same({ 4, 1, 3, 2, 6, 5 }, (look(records, function(queue) return positions(queue:by_priority()) end)))
  end))

  it("by_priority(aging_s): priority + age / aging_s, and another aging_s orders anew", virtually(function()
    local batcher
    local seen = {}
    batcher = H.start { min_batch_size = 3, batch_timeout_s = 9, policy = { form = function(queue)
      for i, aging_s in ipairs { 1, 0.4, 10, 1 } do seen[i] = positions(queue:by_priority(aging_s)) end
      seen[5] = positions(queue:by_priority())
    end } }
    batcher:submit("old", { priority = 0 })
    tb.sleep(1)
    batcher:submit("new", { priority = 2 })
    batcher:submit("equal", { priority = 1 })
    tb.sleep(0)
    assert.same({ { 2, 1, 3 }, { 1, 2, 3 }, { 2, 3, 1 }, { 2, 1, 3 }, { 2, 3, 1 } }, seen)
    batcher:stop()
  end))

  it("by_priority refuses an aging_s that is no number of seconds above 0", virtually(function()
    look(costs { 1 }, function(queue)
      for _, bad in ipairs { 0, -1, 0 / 0, "1", {} } do
        local message = H.message(queue.by_priority, queue, bad)
        assert.matches("aging_s must be a number of seconds above 0", message)
      end
      assert.same({ 1 }, positions(queue:by_priority(math.huge)))
      assert.same({ 1 }, positions(queue:by_priority(1e-9)))
    end)
  end))

  it("near(i): i itself, then by distance in cost, ties by arrival", virtually(function()
    local list = { 10, 12, 8, 30, 12, 8, 10, 11, 9, 10 }
    look(costs(list), function(queue)
      assert.same({ 7, 1, 10, 8, 9, 2, 3, 5, 6, 4 }, positions(queue:near(7)))
      assert.same({ 1, 7, 10, 8, 9, 2, 3, 5, 6, 4 }, positions(queue:near(1)))
      assert.same({ 4, 2, 5, 8, 1, 7, 10, 9, 3, 6 }, positions(queue:near(4)))
    end)
  end))

  it("near(i) of random costs is what sorting by distance and arrival gives", virtually(function()
    local seed = 7
    local function draw(n)
      seed = (seed * 1103515245 + 12345) % 2 ^ 31
      return math.floor(seed / 2 ^ 8) % n
    end
    for _ = 1, 60 do
      local list, n = {}, 1 + draw(40)
      for i = 1, n do list[i] = draw(12) end
      look(costs(list), function(queue)
        for i = 1, n do
          local expected = {}
          for k = 1, n do expected[k] = k end
          table.sort(expected, function(a, b)
            local x, y = math.abs(list[a] - list[i]), math.abs(list[b] - list[i])
            if (a == i) ~= (b == i) then return a == i end
            if x ~= y then return x < y end
            return a < b
          end)
          assert.same(expected, positions(queue:near(i)))
        end
      end)
    end
  end))

  it("keys in the order of their first queued record, of(key) by arrival, \"\" for no key", virtually(function()
    local records = { { key = "b" }, {}, { key = "a" }, { key = "b" }, {}, { key = "" } }
    look(records, function(queue)
      assert.same({ "b", "", "a" }, positions(queue:keys()))
      assert.same({ 1, 4 }, positions(queue:of "b"))
      assert.same({ 3 }, positions(queue:of "a"))
      assert.same({ 2, 5, 6 }, positions(queue:of ""))
      assert.same({}, positions(queue:of "nobody"))
      assert.same({}, positions(queue:of(42)))
      assert.same({}, positions(queue:of(nil)))
    end)
  end))

  it("iterators may be nested and several open at a time", virtually(function()
    look(costs { 3, 1, 2 }, function(queue)
      local pairs_seen = {}
      for i in queue:by_cost() do
        for j in queue:near(i) do pairs_seen[#pairs_seen + 1] = i * 10 + j end
      end
      assert.same({ 22, 23, 21, 33, 31, 32, 11, 13, 12 }, pairs_seen)
    end)
  end))

  it("views follow records that come, go and are cancelled", virtually(function()
    local seen = {}
    local options = { target_batch_cost = 5, batch_timeout_s = 9 }
    options.policy = { form = function(queue, batch)
      seen[#seen + 1] = { positions(queue:by_cost()), positions(queue:keys()), positions(queue:of "k") }
      if queue.size == 4 or queue.draining then
        for i in queue:by_cost() do
          if not batch:add(i) then break end
        end
      end
    end }
    local batcher, calls = H.start(options)
    local futures = {}
    for i, cost in ipairs { 5, 2, 4, 1 } do
      futures[i] = batcher:submit("r" .. i, { estimated_cost = cost, key = i % 2 == 0 and "k" or "odd" })
    end
    tb.sleep(0)
    assert.same({ "r4 r2" }, H.batches(calls))
    batcher:submit("r5", { estimated_cost = 3, key = "k" })
    tb.sleep(0)
    futures[1]:cancel()
    batcher:submit("r6", { estimated_cost = 1 })
    tb.sleep(0)
    assert.same({ { { 4, 2, 3, 1 }, { "odd", "k" }, { 2, 4 } }, { { 3, 2, 1 }, { "odd", "k" }, { 3 } } },
      { seen[1], seen[2] })
    assert.same({ { 3, 2, 1 }, { "odd", "k", "" }, { 2 } }, seen[#seen])
    batcher:stop()
    assert.same({ "r4 r2", "r6 r5", "r3" }, H.batches(calls))
    assert.is_nil(H.broken(batcher))
  end))
end)

describe("a policy's batch:", function()
  it("add is true once more for what is in, false for what does not fit, and changes nothing then", virtually(function()
    look(costs { 4, 7, 6 }, function(_, batch)
      assert.same({ 0, 0, 10 }, { batch.size, batch.cost, batch.budget })
      assert.is_true(batch:add(1))
      assert.is_true(batch:add(1))
      assert.is_false(batch:add(2))
      assert.same({ 1, 4 }, { batch.size, batch.cost })
      assert.is_true(batch:add(3))
      assert.same({ 2, 10 }, { batch.size, batch.cost })
    end, { target_batch_cost = 10 })
  end))

  it("add is false beyond max_batch_size", virtually(function()
    local _, calls = look(costs { 1, 1, 1 }, function(_, batch)
      assert.is_true(batch:add(3) and batch:add(1))
      assert.is_false(batch:add(2))
    end, { max_batch_size = 2 })
    assert.same({ "r3 r1", "r2" }, H.batches(calls))
  end))

  it("an oversize record fits only an empty batch", virtually(function()
    local _, calls = look(costs { 1, 50, 2 }, function(_, batch)
      assert.is_true(batch:add(1))
      assert.is_false(batch:add(2))
    end, { target_batch_cost = 10 })
    assert.equal("r1", H.batches(calls)[1])
    look(costs { 1, 50, 0 }, function(_, batch)
      assert.is_true(batch:add(2))
      assert.is_false(batch:add(1))
      assert.is_false(batch:add(3))
      assert.same({ 1, 50 }, { batch.size, batch.cost })
    end, { target_batch_cost = 10 })
  end))

  it("the cost model decides what fits and what a batch costs", virtually(function()
    look(costs { 2, 5, 3, 1 }, function(_, batch)
      assert.is_true(batch:add(1) and batch:add(3))
      assert.equal(6, batch.cost)
      assert.is_false(batch:add(2))
      assert.is_true(batch:add(4))
      assert.same({ 3, 9 }, { batch.size, batch.cost })
    end, { target_batch_cost = 10, cost_model = "padded" })
  end))

  it("add raises on a position that is not there", virtually(function()
    look(costs { 1, 1 }, function(_, batch)
      for _, i in ipairs { 0, 3, 1.5, -1, 0 / 0, math.huge, 2 ^ 40, "1", {} } do
        assert.matches("no position", H.message(batch.add, batch, i))
      end
      assert.matches("no position", H.message(batch.add, batch, nil))
      assert.equal(0, batch.size)
    end)
  end))

  it("limit lowers the budget for this decision alone, and never raises it", virtually(function()
    local budgets = {}
    local options = { target_batch_cost = 10, batch_timeout_s = 0.01 }
    options.policy = { form = function(queue, batch)
      budgets[#budgets + 1] = batch.budget
      batch:limit(20)
      budgets[#budgets + 1] = batch.budget
      batch:limit(4.7)
      budgets[#budgets + 1] = batch.budget
      batch:limit(6)
      budgets[#budgets + 1] = batch.budget
      for i = 1, queue.size do batch:add(i) end
    end }
    local batcher, calls = H.start(options)
    H.submit_costs(batcher, { 3, 1, 1, 4 })
    tb.sleep(0)
    assert.same({ 10, 10, 4, 4 }, { unpack(budgets, 1, 4) })
    assert.same({ "r1 r2", "r3", "r4" }, (function() batcher:stop() return H.batches(calls) end)())
    assert.equal(10, budgets[5])
  end))

  it("limit holds for a record above the budget and for the first of a batch, too", virtually(function()
    look(costs { 30, 5, 1 }, function(_, batch)
      batch:limit(20)
      assert.is_false(batch:add(1))
      batch:limit(4)
      assert.is_false(batch:add(2))
      assert.is_true(batch:add(3))
    end, { target_batch_cost = 10 })
    look(costs { 30, 0 }, function(_, batch)
      batch:limit(-3)
      assert.equal(0, batch.budget)
      assert.is_false(batch:add(1))
      assert.is_true(batch:add(2))
    end, { target_batch_cost = 10 })
  end))

  it("limit refuses what is no number, and infinity changes nothing", virtually(function()
    look(costs { 1 }, function(_, batch)
      for _, bad in ipairs { "5", {}, 0 / 0 } do assert.has_error(function() batch:limit(bad) end) end
      assert.has_error(function() batch:limit() end)
      batch:limit(math.huge)
      assert.equal(32000, batch.budget)
    end)
  end))

  it("is dispatched in the order added, for the reason policy", virtually(function()
    local _, calls = look(costs { 1, 2, 3, 4 }, function(_, batch)
      for _, i in ipairs { 3, 1, 4, 3 } do batch:add(i) end
    end)
    assert.same({ "r3 r1 r4", "r2" }, H.batches(calls))
    assert.same({ 3, 1, 4 }, calls[1].costs)
    assert.equal("policy", calls[1].reason)
    assert.equal(8, calls[1].cost)
  end))

  it("answers go to the records, whatever the order", virtually(function()
    local batcher = H.start { policy = { form = function(queue, batch)
      for i = queue.size, 1, -1 do batch:add(i) end
    end } }
    local futures = H.submit_costs(batcher, { 1, 2, 3 })
    for i, future in ipairs(futures) do assert.equal("re:r" .. i, (future:await())) end
    assert.same({ 1, 1 }, { batcher.stats.dispatched.policy, batcher.stats.total_batches })
    batcher:stop()
  end))
end)

describe("a policy is asked:", function()
  it("once for all that arrived in a turn", virtually(function()
    local batcher, asked = noting(function() end, { batch_timeout_s = 1 })
    for _ = 1, 5 do batcher:submit "a" end
    tb.sleep(0)
    assert.equal(1, #asked)
    assert.equal(5, asked[1].size)
    tb.sleep(0)
    tb.sleep(0.1)
    assert.equal(1, #asked)
    batcher:submit "b"
    tb.sleep(0)
    assert.equal(2, #asked)
    batcher:stop()
  end))

  it("never with an empty queue, never while every slot is busy, and when one comes free", virtually(function()
    local batcher, asked, calls = noting(function() return { 1 } end, { takes = 1 })
    tb.sleep(0.5)
    assert.equal(0, #asked)
    batcher:submit "a"
    tb.sleep(0.25)
    batcher:submit "b"
    batcher:submit "c"
    tb.sleep(0.25)
    assert.same({ 0.5 }, times(asked))
    tb.sleep(2)
    assert.same({ 0.5, 1.5, 2.5 }, times(asked))
    assert.same({ "a", "b", "c" }, H.batches(calls))
    batcher:stop()
  end))

  it("again at once while a slot is idle and its last answer was a batch", virtually(function()
    local batcher, asked = noting(function(_, _, n) if n ~= 3 then return { 1 } end end,
      { takes = 1, max_concurrent_batches = 5, batch_timeout_s = 9 })
    for i = 1, 6 do batcher:submit(i) end
    tb.sleep(0)
    assert.same({ 0, 0, 0 }, times(asked))
    assert.same({ 5, 4, 3 }, { asked[1].idle_slots, asked[2].idle_slots, asked[3].idle_slots })
    assert.same({ 6, 5, 4 }, { asked[1].size, asked[2].size, asked[3].size })
    tb.sleep(0.5)
    assert.equal(3, #asked)
    batcher:stop()
    assert.is_true(#asked >= 7)
  end))

  it("once a turn, producers let in meanwhile included", virtually(function()
    local per_turn, turn_now, turns = {}, nil, 0
    local batcher = H.start { max_queue_size = 2, max_concurrent_batches = 2, takes = 1, batch_timeout_s = 9,
      policy = { form = function(queue, batch, now)
        if now ~= turn_now then turn_now, turns = now, turns + 1 end
        per_turn[turns] = (per_turn[turns] or 0) + 1
        if per_turn[turns] == 1 then batch:add(1) end
        return queue.draining and now + 0.01 or nil
      end } }
    for i = 1, 4 do tb.spawn(function() batcher:submit(i) end) end
    tb.sleep(0.5)
    assert.equal(2, per_turn[1])
    batcher:stop()
  end))

  it("when the queue becomes due, once", virtually(function()
    local batcher, asked = noting(function(_, now) return nil, now + 5 end, { batch_timeout_s = 0.25 })
    batcher:submit "a"
    tb.sleep(1)
    assert.same({ 0, 0.25 }, times(asked))
    assert.same({ false, true }, { asked[1].due, asked[2].due })
    batcher:flush()
    tb.sleep(0)
    assert.same({ 0, 0.25, 1 }, times(asked))
    tb.sleep(4.5)
    assert.equal(3, #asked)
    tb.sleep(1)
    assert.equal(4, #asked)
    batcher:stop { timeout_s = 0 }
  end))

  it("when half of a record's timeout has passed", virtually(function()
    local batcher, asked, calls = noting(function() end, { batch_timeout_s = 9 })
    batcher:submit("a", { timeout_s = 3 })
    tb.sleep(2)
    assert.same({ 0, 1.5 }, times(asked))
    assert.same({ "a" }, H.batches(calls))
    assert.equal("timeout", calls[1].reason)
    batcher:stop()
  end))

  it("at the time that it asked for, to the microsecond and not before", virtually(function()
    local batcher, asked = noting(function(_, now, n)
      if n < 4 then return nil, now + 0.1 / 3 end
      return { 1 }
    end, { batch_timeout_s = 9 })
    tb.sleep(0.7)
    batcher:submit "a"
    tb.sleep(1)
    assert.equal(4, #asked)
    for n = 2, 4 do
      local late = asked[n].at - asked[n - 1].at - 0.1 / 3
      assert.is_true(late > -1e-9 and late < 2.1e-6)
    end
    batcher:stop()
  end))

  it("and what happens before that time does not take the time away unless it answers anew", virtually(function()
    local batcher, asked = noting(function(_, now, n)
      if n == 1 then return nil, now + 1 end
      if n == 2 then return nil, now + 0.25 end
      return { 1, 2 }
    end, { batch_timeout_s = 9 })
    batcher:submit "a"
    tb.sleep(0.5)
    batcher:submit "b"
    tb.sleep(1)
    assert.same({ 0, 0.5, 0.75 }, times(asked))
    batcher:stop()
  end))

  it("when draining begins", virtually(function()
    local batcher, asked = noting(function(queue) if queue.draining then return { 1 } end end, { batch_timeout_s = 9 })
    batcher:submit "a"
    tb.sleep(0.5)
    batcher:stop()
    assert.same({ 0, 0.5 }, times(asked))
    assert.equal(1, batcher.stats.dispatched.policy)
  end))

  it("below min_batch_size only when the queue is full or due", virtually(function()
    local batcher, asked = noting(function(queue)
      local all = {}
      for i = 1, queue.size do all[i] = i end
      return all
    end, { min_batch_size = 3, batch_timeout_s = 0.25, target_batch_cost = 10 })
    batcher:submit "a"
    tb.sleep(0.1)
    batcher:submit "b"
    tb.sleep(0.1)
    assert.equal(0, #asked)
    tb.sleep(0.1)
    assert.same({ 0.25 }, times(asked))
    H.submit_costs(batcher, { 6, 6 })
    tb.sleep(0)
    assert.is_true(asked[2].full)
    tb.sleep(1)
    H.submit_costs(batcher, { 1, 1, 1 })
    tb.sleep(0)
    assert.same({ 3, false, false }, { asked[#asked].size, asked[#asked].full, asked[#asked].due })
    batcher:stop()
  end))

  it("a batch below min_batch_size is what it wants, once it is asked", virtually(function()
    local batcher, _, calls = noting(function() return { 2 } end, { min_batch_size = 2, batch_timeout_s = 9 })
    batcher:submit "a"
    batcher:submit "b"
    tb.sleep(0)
    assert.same({ "b" }, H.batches(calls))
    batcher:stop()
  end))
end)

describe("a policy's on_complete:", function()
  it("adds up what the calls of a bisected batch reported", virtually(function()
    local report
    local batcher = tb.TokenBatcher {
      on_error = "bisect", policy = { form = function(queue, batch)
        for i = 1, queue.size do batch:add(i) end
      end, on_complete = function(r) report = r end },
      inference_fn = function(records, info)
        info.usage, info.requests = { total_tokens = 10 * #records }, 2
        for _, record in ipairs(records) do
          if record == "poison" then error "no" end
        end
        return records
      end,
    }
    batcher:start()
    tb.gather(batcher:submit_batch { "a", "poison" })
    batcher:stop()
    assert.equal(6, report.requests) -- together, "a", "poison"
    assert.equal(40, report.usage.total_tokens)
    assert.equal(1, report.failed)
  end))

  it("has size, cost, padded, service_s, failed, usage and requests", virtually(function()
    local reports = {}
    local batcher = H.start {
      policy = {
        form = function(queue, batch) for i = 1, queue.size do batch:add(i) end end,
        on_complete = function(report) reports[#reports + 1] = report end,
      },
      inference_fn = function(records, info)
        tb.sleep(0.25)
        info.usage, info.requests = { total_tokens = 77 }, 4
        local results = H.copy(records)
        results[2] = tb.failure "bad"
        return results
      end,
    }
    H.submit_costs(batcher, { 2, 5, 3 })
    batcher:stop()
    assert.equal(1, #reports)
    local r = reports[1]
    assert.same({ 3, 10, 15, 0.25, 1, { total_tokens = 77 }, 4 },
      { r.size, r.cost, r.padded, r.service_s, r.failed, r.usage, r.requests })
  end))

  it("is told of batches that F3 decided, failed, timed out and were stopped", virtually(function()
    local reports = {}
    local batcher = H.start {
      policy = {
        form = function() end,
        on_complete = function(r) reports[#reports + 1] = { r.size, r.failed, r.service_s } end,
      },
      inference_timeout_s = 1, batch_timeout_s = 0,
      inference_fn = function(records)
        if records[1] == "raise" then error "no" end
        tb.sleep(records[1])
        return records
      end,
    }
    for _, record in ipairs { 0.5, "raise", 2, 0.75 } do
      batcher:submit(record)
      tb.sleep(0)
    end
    tb.sleep(1.6)
    batcher:stop { timeout_s = 0.25 }
    assert.same({ 1, 0, 0.5 }, reports[1])
    local total, failed = 0, 0
    for _, r in ipairs(reports) do total, failed = total + r[1], failed + r[2] end
    assert.equal(batcher.stats.total_completed + batcher.stats.total_failed, total)
    assert.equal(batcher.stats.total_failed, failed)
  end))
end)

describe("a policy's life:", function()
  local function counting()
    local made = {}
    return function()
      local state = { calls = 0 }
      made[#made + 1] = state
      return { form = function(queue, batch)
        state.calls = state.calls + 1
        for i = 1, queue.size do batch:add(i) end
      end }
    end, made
  end

  it("its factory is called once, at the first start, and its state outlives stop", virtually(function()
    local factory, made = counting()
    local batcher = tb.TokenBatcher { inference_fn = H.recorder(), policy = factory }
    assert.equal(0, #made)
    for round = 1, 3 do
      batcher:start()
      batcher:submit "a"
      batcher:stop()
      assert.same({ 1, round }, { #made, made[1].calls })
    end
  end))

  it("its factory is called again at each set{policy}, and at no other set", virtually(function()
    local factory, made = counting()
    local batcher = H.start { policy = factory }
    batcher:set { batch_timeout_s = 1 }
    assert.equal(1, #made)
    batcher:set { policy = factory }
    assert.equal(2, #made)
    batcher:submit "a"
    batcher:stop()
    assert.same({ 0, 1 }, { made[1].calls, made[2].calls })
    batcher:set { policy = factory }
    assert.equal(3, #made)
    batcher:start()
    assert.equal(3, #made)
    batcher:stop()
  end))

  it("two batchers given one factory share nothing", virtually(function()
    local factory, made = counting()
    local one, other = H.start { policy = factory }, H.start { policy = factory }
    one:submit "a"
    tb.sleep(0)
    assert.same({ 2, 1, 0 }, { #made, made[1].calls, made[2].calls })
    one:stop()
    other:stop()
  end))

  it("one table given to two batchers works and mixes nothing", virtually(function()
    local seen = {}
    local policy = { form = function(queue, batch)
      for i in queue:by_cost() do
        seen[#seen + 1] = queue:record(i)
        batch:add(i)
      end
    end }
    local one, calls = H.start { policy = policy, takes = 1 }
    local other, other_calls = H.start { policy = policy, takes = 1 }
    for i = 1, 3 do
      one:submit("one" .. i, { estimated_cost = 10 - i, key = "x" })
      other:submit("other" .. i, { estimated_cost = i, key = "y" })
    end
    one:stop()
    other:stop()
    assert.same({ "one3 one2 one1" }, H.batches(calls))
    assert.same({ "other1 other2 other3" }, H.batches(other_calls))
    assert.same({ "one3", "one2", "one1", "other1", "other2", "other3" }, seen)
  end))

  it("queue and batch raise after the call: every method, field and iterator", virtually(function()
    local kept
    local batcher = H.start { batch_timeout_s = 9, policy = { form = function(queue, batch)
      kept = kept or { queue = queue, batch = batch, iterators = {
        { queue:by_cost() }, { queue:by_deadline() }, { queue:by_priority(1) }, { queue:near(1) },
        { queue:keys() }, { queue:of "k" }, { queue:of "nobody" } } }
    end } }
    batcher:submit("a", { key = "k" })
    tb.sleep(0)
    local function refuses(fn, ...)
      assert.matches("valid only during the call of form", H.message(fn, ...))
    end
    for _, name in ipairs { "cost", "age", "priority", "deadline", "key", "record", "by_cost", "by_deadline",
      "by_priority", "near", "of", "keys" } do
      refuses(kept.queue[name], kept.queue, 1)
    end
    for _, name in ipairs { "size", "total_cost", "full", "due", "draining", "idle_slots" } do
      refuses(function() return kept.queue[name] end)
    end
    for _, name in ipairs { "size", "cost", "budget" } do refuses(function() return kept.batch[name] end) end
    refuses(kept.batch.add, kept.batch, 1)
    refuses(kept.batch.limit, kept.batch, 1)
    for _, iterator in ipairs(kept.iterators) do refuses(iterator[1], iterator[2], iterator[3]) end
    batcher:stop()
  end))

  it("queue and batch raise in on_complete, in another batcher's form, and after an error, too", virtually(function()
    local kept, messages = nil, {}
    local function try(what)
      messages[#messages + 1] = { what, H.message(function() return kept.queue.size end) or "no error" }
    end
    local other = H.start { policy = { form = function(queue, batch)
      try "form of another"
      for i = 1, queue.size do batch:add(i) end
    end } }
    local batcher = H.start { batch_timeout_s = 0, policy = {
      form = function(queue)
        kept = { queue = queue }
        error "no"
      end,
      on_complete = function() try "on_complete" end,
    } }
    batcher:submit "a"
    tb.sleep(0.01)
    other:submit "a"
    tb.sleep(0.01)
    assert.equal(2, #messages)
    for _, m in ipairs(messages) do assert.matches("valid only during", m[2]) end
    batcher:stop()
    other:stop()
  end))

  it("keeps no batcher alive that is gone", function()
    local kept = setmetatable({}, { __mode = "v" })
    H.run(function()
      for i = 1, 20 do
        local batcher = H.start { policy = { form = function(queue, batch)
          for k in queue:by_cost() do batch:add(k) end
        end } }
        batcher:submit "a"
        batcher:stop()
        kept[i] = batcher
      end
    end)
    for _ = 1, 4 do collectgarbage() end
    local left = 0
    for _ in pairs(kept) do left = left + 1 end
    assert.is_true(left <= 1)
  end)
end)

describe("set{policy}:", function()
  it("X4: changes the policy while running, for what is queued, too", virtually(function()
    local batcher, calls = H.start { batch_timeout_s = 9, takes = 0.1 }
    H.submit_costs(batcher, { 3, 1, 2 })
    tb.sleep(1)
    assert.equal(0, #calls)
    batcher:set { policy = { form = function(queue, batch)
      for i in queue:by_cost() do batch:add(i) end
    end } }
    tb.sleep(0)
    assert.same({ "r2 r3 r1" }, H.batches(calls))
    H.submit_costs(batcher, { 1, 1 })
    batcher:set { policy = "fifo" }
    tb.sleep(1)
    assert.equal(1, #calls)
    batcher:set { policy = "eager" }
    tb.sleep(0)
    assert.same({ "r2 r3 r1", "r1 r2" }, H.batches(calls))
    assert.equal("idle", calls[2].reason)
    batcher:stop()
    assert.is_nil(H.broken(batcher))
  end))

  it("X4: full batches that fifo cut ahead are the new policy's to choose from", virtually(function()
    local batcher, calls = H.start { max_batch_size = 2, takes = 1 }
    H.submit_costs(batcher, { 9, 8, 7, 6, 5, 4 })
    tb.sleep(0.5)
    assert.equal(2, batcher.stats.prefetched_batches)
    batcher:set { policy = { form = function(queue, batch)
      for i in queue:by_cost() do
        if not batch:add(i) then break end
      end
    end } }
    assert.equal(0, batcher.stats.prefetched_batches)
    batcher:stop()
    assert.same({ "r1 r2", "r6 r5", "r4 r3" }, H.batches(calls))
  end))

  it("X4: is all or nothing: a bad option or a policy that cannot be made changes nothing", virtually(function()
    local batcher, calls = H.start { batch_timeout_s = 9, policy = { form = function(queue, batch)
      if queue.size == 2 then return batch:add(2) and batch:add(1) and nil end
    end } }
    local bad = {
      { policy = { form = 3 } },
      { policy = "no_such_policy" },
      { policy = function() error "cannot" end, batch_timeout_s = 0 },
      { policy = function() return { form = 1 } end, batch_timeout_s = 0 },
      { policy = "eager", max_batch_size = 0 },
      { policy = 17 },
    }
    for _, given in ipairs(bad) do assert.has_error(function() batcher:set(given) end) end
    H.submit_costs(batcher, { 1, 1 })
    tb.sleep(0)
    assert.same({ "r2 r1" }, H.batches(calls))
    batcher:submit "x"
    tb.sleep(1)
    assert.equal(1, #calls)
    batcher:stop()
  end))

  it("X4: a running batch is reported to the policy that formed it, and views are forgotten", virtually(function()
    local reports = { then_ = 0, now = 0 }
    local function counting(name)
      return { form = function(queue, batch)
        for i in queue:by_cost() do batch:add(i) end
      end, on_complete = function() reports[name] = reports[name] + 1 end }
    end
    local batcher = H.start { takes = 1, policy = counting "then_", batch_timeout_s = 0 }
    batcher:submit "a"
    tb.sleep(0.5)
    batcher:set { policy = counting "now" }
    tb.sleep(1)
    assert.same({ then_ = 1, now = 0 }, reports)
    batcher:submit "b"
    batcher:stop()
    assert.same({ then_ = 1, now = 1 }, reports)
    assert.is_nil(H.broken(batcher))
  end))
end)

describe("where a policy comes from:", function()
  teardown(function()
    for _, path in ipairs(written) do os.remove(path) end
  end)

  local SMALLEST = [[
return {
  form = function(queue, batch)
    for i in queue:by_cost() do
      if not batch:add(i) then break end
    end
  end,
}]]
  local WITH_PARAMETERS = [[
return function(p)
  local first = p.first or 1
  return { form = function(queue, batch)
    batch:add(math.min(first, queue.size))
  end }
end]]

  local function order(policy, n)
    return H.run(function()
      local batcher, calls = H.start { policy = policy, target_batch_cost = 100 }
      local list = { 3, 1, 2 }
      H.submit_costs(batcher, { unpack(list, 1, n or 3) })
      batcher:stop()
      assert.equal(0, batcher.stats.policy_errors)
      return H.batches(calls)
    end)
  end

  it("a table, a function of parameters, a file of either, a name, tb.policy.NAME{...}", function()
    local smallest = loadstring(SMALLEST)()
    assert.same({ "r2 r3 r1" }, order(smallest))
    assert.same({ "r2 r3 r1" }, order(function() return smallest end))
    assert.same({ "r2 r3 r1" }, order(write("smallest.lua", SMALLEST)))
    assert.same({ "r1", "r2", "r3" }, order(write("parameters.lua", WITH_PARAMETERS)))
    for _, name in ipairs(policies.names) do
      assert.equal("string", type(policies.module(name).about))
      local given = name == "rate_limited" and { requests_per_minute = 100 } or nil
      assert.is_true(#order(given and tb.policy[name](given) or name) >= 1)
      assert.is_true(#order(tb.policy[name](given)) >= 1)
    end
  end)

  it("tb.policy.NAME{...} of a policy in the core is that policy", virtually(function()
    local batcher, calls = H.start { policy = tb.policy.eager {} }
    batcher:submit "a"
    tb.sleep(0)
    assert.equal("idle", calls[1].reason)
    batcher:set { policy = tb.policy.fifo() }
    batcher:submit "a"
    tb.sleep(0)
    assert.equal(1, #calls)
    batcher:stop()
  end))

  it("on a command line: name, file, and either with parameters", function()
    assert.equal("fair", policies.parse "fair")
    local path = write("parse.lua", WITH_PARAMETERS)
    assert.equal(path, policies.parse(path))
    assert.same({ "r2", "r3", "r1" }, order(policies.parse(path .. ":first=2")))
    local fair = policies.parse "fair:quantum=500"
    assert.equal("fair", policies.resolve(fair).name)
    local limited = policies.parse "rate_limited:requests_per_minute=5,inner=eager"
    assert.equal("rate_limited", policies.resolve(limited).name)
    assert.is_true(#order(limited) >= 1)
  end)

  it("on a command line: what is wrong is an error that names it", function()
    local cases = {
      { "fair:quantum=no", "quantum.*number" }, { "fair:quantum=0", "quantum.*above 0" },
      { "fair:quantom=5", "quantom.*did you mean 'quantum'" }, { "fair:quantum", "name=value.*quantum" },
      { "fare", "fare.*did you mean 'fair'" }, { "fare:quantum=5", "fare.*did you mean 'fair'" },
      { "rate_limited:inner=fify", "inner.*fify.*fifo" },
      { "eager:x=1", "unknown parameter 'x'" }, { "./no/such.lua:x=1", "no/such.lua" },
      { write("table.lua", SMALLEST) .. ":x=1", "takes no parameters" }, { "", "no policy" },
    }
    for _, case in ipairs(cases) do
      local value, message = policies.parse(case[1])
      assert.is_nil(value)
      assert.matches(case[2], message)
    end
  end)

  it("a broken policy is an error at construction that names it", function()
    local cases = {
      { "./no_such_policy.lua", "no_such_policy%.lua" },
      { write("syntax.lua", "return {"), "syntax%.lua:1" },
      { write("number.lua", "return 3"), "number%.lua' must be a table.*got a number" },
      { write("nothing.lua", ""), "nothing%.lua' must be a table.*got nil" },
      { write("formless.lua", "return {}"), "formless%.lua' has no function 'form'" },
      { write("raises.lua", "error 'oh no'"), "raises%.lua:1: oh no" },
      { write("odd.lua", "return { form = function() end, on_complete = 5 }"), "odd%.lua': 'on_complete' must be" },
      { "fare", "did you mean 'fair'" },
      { "", "no policy" },
      { 12, "a policy is a name, a file, a table or a function, got a number" },
      { {}, "has no function 'form'" },
      { true, "got a boolean" },
    }
    for _, case in ipairs(cases) do
      local message = H.message(tb.TokenBatcher, { inference_fn = print, policy = case[1] })
      assert.matches("option 'policy'", message)
      assert.matches(case[2], message)
    end
  end)

  it("a factory that fails or returns no policy is an error at start that names it", virtually(function()
    local cases = {
      { write("factory_number.lua", "return function() return 3 end"), "factory_number%.lua' must be a table" },
      { write("factory_formless.lua", "return function() return {} end"),
        "factory_formless%.lua' has no function 'form'" },
      { write("factory_raises.lua", "return function() error 'oh' end"), "factory_raises%.lua:1: oh" },
      { function() end, "must be a table" },
    }
    for _, case in ipairs(cases) do
      local batcher = tb.TokenBatcher { inference_fn = print, policy = case[1] }
      assert.matches(case[2], H.message(batcher.start, batcher))
      assert.is_false(batcher.is_running)
      batcher:set { policy = "fifo" }
      batcher:start()
      batcher:stop()
    end
  end))

  it("two batchers from one file share nothing", virtually(function()
    local path = write("state.lua", "return function() local n = 0 return { form = function(queue, batch) n = n + 1 "
      .. "if n == 1 then return end for i = 1, queue.size do batch:add(i) end end } end")
    local one, calls = H.start { policy = path, batch_timeout_s = 9 }
    local other, other_calls = H.start { policy = path, batch_timeout_s = 9 }
    one:submit "a"
    tb.sleep(0)
    one:submit "b"
    other:submit "c"
    tb.sleep(0)
    assert.same({ { "a b" }, {} }, { H.batches(calls), H.batches(other_calls) })
    one:stop()
    other:stop()
  end))
end)
