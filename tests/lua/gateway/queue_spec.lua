-- The queue before an upstream (gateway/queue/), without nginx, in virtual time: who goes, who waits, who is told to
-- come again, and that no slot is ever lost.

local estimate = require "tokenbatcher.gateway.queue.estimate"
local Gate = require "tokenbatcher.gateway.queue.gate"
local helper = dofile "tests/lua/gateway_helper.lua"
local json = require "tokenbatcher.base.json"
local metrics = require "tokenbatcher.batching.metrics"
local pages = require "tokenbatcher.gateway.pages"
local snapshots = require "tokenbatcher.gateway.snapshot"
local tb = require "tokenbatcher"

local function nothing() return { status = 200, headers = {}, body = "" } end

-- A body of so many estimated tokens, all of them to be made but 1.
local function body_of(cost) return json.encode { model = "m", max_tokens = cost - 1, messages = {} } end

-- A request of somebody for chat. @param more table|nil  cost (100), headers, on_abort, path
local function chat(who, more)
  more = more or {}
  local headers = { authorization = "Bearer " .. who }
  for name, value in pairs(more.headers or {}) do headers[name] = value end
  return helper.request(more.path or "/v1/chat/completions", more.body or body_of(more.cost or 100),
    { headers = headers, on_abort = more.on_abort, method = more.method })
end

-- Run fn(gateway, queue) with one upstream.
local function run(queue, fn, given, upstream)
  local config = { queue = queue, fairness_key = "authorization", limits = { keys_per_address = 0 } }
  for name, value in pairs(given or {}) do config[name] = value end
  return helper.run(config, { upstream or helper.upstream(nothing) }, function(gateway, logged)
    local line = gateway.lines[1]
    fn(gateway, line.queue, logged)
    if line.queue and line.queue.batcher.is_running then line.queue.batcher:stop() end
  end)
end

-- Somebody's stream of so many seconds, from asking to its end. @param order table  gets his name when he is let in
-- @return future of {status, headers, body, at (when he was let in), waited}
local function stream(gateway, order, who, seconds, more)
  return tb.spawn(function()
    local request, since = chat(who, more), tb.now()
    local status, headers, body = gateway:handle(request)
    local out = { status = status, headers = headers, body = body, at = tb.now(), waited = tb.now() - since }
    if not status then
      order[#order + 1] = who
      tb.sleep(seconds)
    end
    gateway:over(request)
    return out
  end)
end

local function several(n, fn)
  local out = {}
  for i = 1, n do out[i] = fn(i) end
  return out
end

local function joined(...)
  local out = {}
  for _, list in ipairs { ... } do
    for _, value in ipairs(list) do out[#out + 1] = value end
  end
  return out
end

local function count(list, what, upto)
  local n = 0
  for i = 1, upto or #list do n = n + (list[i] == what and 1 or 0) end
  return n
end

-- Nobody is there, all slots are free, the engine's identity holds.
local function assert_at_rest(queue)
  local book, stats = queue.book, queue.batcher.stats
  assert.same({ 0, 0, 0, 0, 0, 0, 0 }, { book.n, book.weight, book.queued, book.held, queue.n_held, queue.sum_since_us,
    stats.queue_size })
  assert.is_nil(next(book.keys))
  assert.equal(stats.total_submitted, stats.total_completed + stats.total_failed + stats.total_cancelled
    + stats.total_expired)
end

describe("the queue before an upstream:", function()
  it("lets so many go as there are slots, and the next when one has been given back", function()
    run({ slots = 2 }, function(gateway, queue)
      local order = {}
      local results = tb.gather(several(5, function() return stream(gateway, order, "a", 1) end))
      for i, at in ipairs { 0, 0, 1, 1, 2 } do assert.equal(at, results[i].waited) end
      tb.sleep(0)
      assert_at_rest(queue)
      assert.equal(5, queue.batcher.stats.total_completed)
    end)
  end)

  it("lets through what is not of its paths, or no POST, as if it were not there", function()
    run({ slots = 1, paths = { "/v1/chat/*", "/v1/x" } }, function(gateway)
      local order = {}
      local first = stream(gateway, order, "a", 10)
      tb.sleep(0)
      for _, it in ipairs { { path = "/v1/completions", body = '{"prompt":"x","model":"m","stream":true}' },
        { path = "/v1/chat/completions", method = "GET" }, { path = "/v1/models", method = "GET" } } do
        assert.equal(0, stream(gateway, order, "b", 0, it):await().waited)
      end
      for _, path in ipairs { "/v1/chat/completions", "/v1/chat/else", "/v1/x", "/v1/x/", "/v1/x//" } do
        assert.is_false(stream(gateway, order, "b", 0, { path = path }):done())
      end
      first:await()
    end)
  end)

  it("without one, nothing waits", function()
    run(nil, function(gateway)
      local order = {}
      local results = tb.gather(several(50, function() return stream(gateway, order, "a", 1) end))
      for i = 1, 50 do assert.equal(0, results[i].waited) end
    end)
  end)

  it("a stream of a batched path waits, and bypassing the batcher does not bypass the queue", function()
    run({ slots = 1 }, function(gateway)
      local order = {}
      local body = '{"model":"m","prompt":"x","stream":true}'
      local results = tb.gather { stream(gateway, order, "a", 1),
        stream(gateway, order, "b", 1, { path = "/v1/completions", body = body }),
        stream(gateway, order, "c", 1, { path = "/v1/completions", body = '{"model":"m","prompt":"x"}',
          headers = { ["x-tokenbatcher"] = "bypass" } }) }
      assert.same({ 0, 1, 2 }, { results[1].waited, results[2].waited, results[3].waited })
    end)
  end)
end)

describe("shares:", function()
  it("who comes new is next in line, however many wait and have been served", function()
    run({ slots = 2 }, function(gateway)
      local order = {}
      local flood = several(30, function() return stream(gateway, order, "flood", 1) end)
      tb.sleep(4.5)
      local before = #order
      local quiet = stream(gateway, order, "quiet", 1)
      tb.gather(joined(flood, { quiet }))
      assert.equal("quiet", order[before + 1])
      assert.equal(0.5, quiet:await().waited)
    end)
  end)

  it("and is so each time that it comes, not only at first", function()
    run({ slots = 4, max_wait_s = 1000 }, function(gateway)
      local order, state = {}, 1
      local flood = several(800, function()
        state = state * 16807 % 2147483647
        return stream(gateway, order, "flood", 0.5 + state % 1000 / 1000)
      end)
      for i = 1, 40 do
        tb.sleep(0.5 + i % 7 / 10)
        local before = #order
        stream(gateway, order, "quiet", 0.1, { cost = 50 + i % 3 * 40 }):await()
        assert.is_true(order[before + 1] == "quiet" or order[before + 2] == "quiet", i)
      end
      local behind, last = 0, nil -- but for what went in the same instant that it came
      for _, who in ipairs(order) do
        if who == "quiet" and last == "quiet" then behind = behind + 1 end
        last = who
      end
      assert.equal(0, behind)
      tb.gather(flood)
    end)
  end)

  it("no stream of newcomers, each of whom comes once, keeps the others waiting for ever", function()
    run({ slots = 1, max_wait_s = 1000 }, function(gateway)
      local order = {}
      local flood = several(20, function() return stream(gateway, order, "flood", 1) end)
      local others = several(200, function(i)
        return tb.spawn(function()
          tb.sleep(i)
          return stream(gateway, order, "new " .. i, 1):await()
        end)
      end)
      tb.sleep(100.5)
      local n = count(order, "flood")
      assert.is_true(n >= 8, n) -- as many of them wait by then
      tb.gather(joined(flood, others))
    end)
  end)

  it("equal keys take turns, by cost: who asks for four times as much goes a quarter as often", function()
    run({ slots = 1, max_wait_s = 1000 }, function(gateway)
      local order = {}
      tb.gather(joined(several(60, function() return stream(gateway, order, "small", 1, { cost = 100 }) end),
        several(60, function() return stream(gateway, order, "large", 1, { cost = 400 }) end)))
      assert.is_true(math.abs(count(order, "large", 50) - 10) <= 1, count(order, "large", 50))
    end)
  end)

  it("a weight of 4 is four times as many of the same cost, whatever the order they came in", function()
    for _, by in ipairs { "gold", "Bearer gold" } do
      run({ slots = 3, weights = { [by] = 4 }, max_wait_s = 1000 }, function(gateway)
        local order = {}
        local base = several(100, function() return stream(gateway, order, "base", 1) end)
        tb.sleep(2.5)
        local before = #order
        local gold = several(100, function() return stream(gateway, order, "gold", 1) end)
        tb.gather(joined(base, gold))
        local seen = {}
        for i = before + 1, before + 100 do seen[#seen + 1] = order[i] end
        assert.is_true(math.abs(count(seen, "gold") - 80) <= 1, count(seen, "gold"))
      end)
    end
  end)

  it("a debt is kept by who goes away for a moment; credit by nobody", function()
    run({ slots = 1 }, function(gateway)
      local order = {}
      local others = several(40, function() return stream(gateway, order, "other", 1) end)
      -- one that asks again as soon as it was answered: by turns with the others, not before all of them
      for _ = 1, 8 do stream(gateway, order, "again", 1):await() end
      assert.is_true(math.abs(count(order, "other") - count(order, "again")) <= 2, table.concat(order, " "))
      tb.gather(others)
    end)
    run({ slots = 1 }, function(gateway)
      local order = {}
      local early = stream(gateway, order, "late", 1)
      local others = several(30, function() return stream(gateway, order, "other", 1) end)
      early:await()
      tb.sleep(10)
      local before = #order
      tb.gather(joined(others, several(5, function() return stream(gateway, order, "late", 1) end)))
      local seen = {}
      for i = before + 1, before + 8 do seen[#seen + 1] = order[i] end
      assert.equal(4, count(seen, "late"), table.concat(seen, " ")) -- turns, no four at once
    end)
  end)

  it("many keys that come once are forgotten", function()
    run({ slots = 1, max_wait_s = 1e6 }, function(gateway, queue)
      local order = {}
      local flood = several(400, function() return stream(gateway, order, "flood", 0.1, { cost = 1000 }) end)
      for i = 1, 300 do stream(gateway, order, "once " .. i, 0, { cost = 2 }):await() end
      assert.is_true(queue.shares.n < 100, queue.shares.n)
      tb.gather(flood)
      assert.equal(0, queue.shares.n)
    end)
  end)
end)

describe("the reserve:", function()
  it("is left by a flood, and taken at once by a key that holds less than its share", function()
    run({ slots = 4, reserve = 1 }, function(gateway, queue)
      local order = {}
      local flood = several(20, function() return stream(gateway, order, "flood", 1) end)
      tb.sleep(0)
      assert.same({ 3, 17 }, { queue.book.held, queue.batcher.stats.queue_size })
      tb.sleep(2.25)
      assert.equal(3, queue.book.held)
      local quiet = stream(gateway, order, "quiet", 1)
      assert.equal(0, quiet:await().waited)
      tb.gather(flood)
      tb.sleep(0)
      assert_at_rest(queue)
    end)
  end)

  it("does not hold back keys that are within their shares: many use all slots", function()
    run({ slots = 8, reserve = 2 }, function(gateway, queue)
      local order = {}
      local all = several(16, function(i) return stream(gateway, order, "key " .. i, 1) end)
      tb.sleep(0)
      assert.equal(8, queue.book.held)
      tb.gather(all)
    end)
  end)

  it("goes by weight, to who holds least", function()
    run({ slots = 8, reserve = 3, weights = { gold = 6 } }, function(gateway, queue)
      local order = {}
      -- gold may hold 8 * 6 / 7 = 6.9 of 8: the reserve is nearly all its own
      local all = several(20, function() return stream(gateway, order, "gold", 1) end)
      tb.sleep(0)
      assert.equal(7, queue.book.held)
      tb.gather(all)
    end)
    run({ slots = 4, reserve = 2 }, function(gateway)
      local order = {}
      local all = joined(several(8, function() return stream(gateway, order, "a", 1) end),
        several(2, function() return stream(gateway, order, "b", 9) end))
      tb.sleep(0.001)
      -- a and b have a slot each by turns; of the two reserved each takes one more at most: 4 / 3 > 1
      assert.same({ 2, 2 }, { count(order, "a"), count(order, "b") })
      tb.gather(all)
    end)
  end)

  it("is nobody's when the queue drains", function()
    run({ slots = 2, reserve = 1, max_wait_s = 100 }, function(gateway, queue)
      local order = {}
      local flood = several(6, function() return stream(gateway, order, "flood", 1) end)
      tb.sleep(0)
      assert.equal(1, queue.book.held)
      queue.batcher:stop()
      assert.equal(3, tb.now())
      for _, future in ipairs(flood) do assert.is_nil(future:await().status) end
    end)
  end)
end)

describe("any policy:", function()
  it("priority: the highest first, by a function of the request", function()
    run({ slots = 1, policy = "priority", priority = function(request)
      return tonumber(request.headers["x-level"] or nil)
    end }, function(gateway)
      local order, all = {}, {}
      for i, level in ipairs { 0, 1, 5, 3 } do
        all[i] = stream(gateway, order, "level " .. level, 1, { headers = { ["x-level"] = tostring(level) } })
      end
      tb.gather(all)
      assert.equal("level 5", table.concat(order, " "):match "level 5 level 3 level 1 level 0$" and order[1])
    end)
  end)

  it("fair, fifo, on_time, deadline and a policy of one's own decide as they do, and the reserve is kept", function()
    local newest = { form = function(queue, batch) batch:add(queue.size) end }
    for _, policy in ipairs { "fair", "fifo", "eager", tb.policy.on_time { slo_s = 5 }, "deadline", newest } do
      run({ slots = 3, reserve = 1, policy = policy }, function(gateway, queue)
        local order = {}
        local flood = several(9, function(i) return stream(gateway, order, "flood", 1, { cost = 10 * i }) end)
        tb.sleep(0)
        assert.equal(2, queue.book.held)
        assert.equal(0, stream(gateway, order, "quiet", 1):await().waited)
        tb.gather(flood)
        tb.sleep(0)
        assert_at_rest(queue)
        assert.same({ 0, 0 }, { queue.batcher.stats.policy_errors, queue.batcher.stats.policy_overruled })
      end)
    end
    run({ slots = 1, policy = newest }, function(gateway)
      local order = {}
      tb.gather(several(4, function(i) return stream(gateway, order, tostring(i), 1) end))
      assert.equal("4 3 2 1", table.concat(order, " "))
    end)
  end)

  it("one that raises is told of, and the oldest goes", function()
    local said = ""
    local given = { slots = 1, policy = { form = function() error "out of order" end },
      options = { log = function(_, text) said = said .. text end } }
    run(given, function(gateway, queue)
      local order = {}
      tb.gather(several(3, function(i) return stream(gateway, order, tostring(i), 1) end))
      assert.equal("1 2 3", table.concat(order, " "))
      tb.sleep(0)
      assert_at_rest(queue)
      assert.equal(3, queue.batcher.stats.policy_errors)
    end)
    assert.matches("raised: .*out of order", said)
  end)
end)

describe("a slot is given back:", function()
  it("once, however often it is said, and a request that holds none gives none", function()
    run({ slots = 2 }, function(gateway, queue)
      local first, second = chat "a", chat "a"
      assert.is_nil((gateway:handle(first)))
      assert.is_nil((gateway:handle(second)))
      local ticket = first.ticket
      gateway:over(first)
      gateway:over(first)
      queue:leave(ticket)
      gateway:over(chat "unknown")
      tb.sleep(0)
      assert.equal(1, queue.book.held)
      assert.equal(1, queue.batcher.stats.running_batches)
      gateway:over(second)
      tb.sleep(0)
      assert_at_rest(queue)
    end)
  end)

  it("and that is told when it is so: the last who hears of a change finds nobody", function()
    run({ slots = 2 }, function(gateway, queue)
      local held
      gateway.on_change = function() held = queue.book.held end
      local order = {}
      tb.gather(several(5, function() return stream(gateway, order, "a", 1) end))
      tb.sleep(0)
      assert.same({ 0, 0 }, { held, queue.book.held })
    end)
  end)

  it("by a client that leaves while it waits: those behind it move up, and it counts as 499", function()
    run({ slots = 1 }, function(gateway, queue)
      local order, leave = {}, nil
      local first = stream(gateway, order, "a", 2)
      local gone = tb.spawn(function()
        local request = chat("b", { on_abort = function(_, fn) leave = fn end })
        local status = gateway:handle(request)
        gateway:over(request)
        return status
      end)
      local third = stream(gateway, order, "c", 1)
      tb.sleep(1)
      leave()
      leave()
      assert.equal(499, gone:await())
      assert.equal(2, third:await().waited)
      first:await()
      assert.same({ "a", "c" }, order)
      assert.equal(1, gateway.requests["pass 499"])
      assert.equal(1, queue.left)
      tb.sleep(0)
      assert_at_rest(queue)
    end)
  end)

  it("by one that was chosen and has left before it was let in", function()
    run({ slots = 1 }, function(_, queue)
      local ticket = queue:enter { key = "k", cost = 1 }
      queue.batcher:gate(function() -- it is called when a batch goes, before it begins
        assert.equal("holding", ticket.state)
        queue:leave(ticket)
      end)
      assert.is_nil((queue:wait(ticket)))
      queue.batcher:gate(nil)
      assert.equal("over", ticket.state)
      tb.sleep(0.1)
      assert_at_rest(queue)
      local another = queue:enter { key = "k", cost = 1 }
      assert.is_true(queue:wait(another))
      queue:leave(another)
      tb.sleep(0)
      assert_at_rest(queue)
    end)
  end)

  it("by time, where a host never says that a request is over", function()
    run({ slots = 1, max_hold_s = 60, max_wait_s = 100 }, function(gateway, queue)
      local lost = chat "a"
      gateway:handle(lost)
      local order = {}
      assert.equal(60, stream(gateway, order, "b", 0):await().waited)
      gateway:over(lost)
      tb.sleep(0)
      assert_at_rest(queue)
    end)
  end)
end)

describe("waiting is soft:", function()
  it("after max_wait_s it is 429, in JSON, with a Retry-After that is true", function()
    run({ slots = 2, max_wait_s = 5 }, function(gateway, queue)
      local order = {}
      tb.gather(several(2, function() return stream(gateway, order, "a", 20) end)) -- it knows how long they take
      local all = several(3, function() return stream(gateway, order, "a", 20) end)
      local refused = all[3]:await()
      assert.same({ 429, 5 }, { refused.status, refused.waited })
      assert.same({ "queue_timeout", "rate_limit_error", "no place became free within 5 s: try again later" },
        { json.decode(refused.body).error.code, json.decode(refused.body).error.type,
          json.decode(refused.body).error.message })
      -- two run, of which half is over as far as it knows: one is done in 10 s
      assert.equal("10", refused.headers["retry-after"])
      assert.equal(1, queue.refused.queue_timeout)
      tb.gather { all[1], all[2] }
      assert.equal(1, gateway.requests["pass 429"])
    end)
  end)

  it("Retry-After grows with what waits before one, by his share of the slots", function()
    run({ slots = 2, max_wait_s = 1000, max_queue = 100 }, function(gateway, queue)
      local order = {}
      tb.gather(several(2, function() return stream(gateway, order, "a", 10) end))
      local all = several(12, function() return stream(gateway, order, "flood", 10) end)
      tb.sleep(0)
      -- ten wait and two run: 10 * 10 / 2 + 10 / 2 for who has all of them before him
      local hash = all[1] and next(queue.book.keys)
      assert.equal(55, queue:seconds(hash, 1))
      assert.equal(5, queue:seconds("somebody new", 1))
      tb.gather(all)
      tb.sleep(0.001)
      assert.equal(1, queue:seconds("somebody new", 1))
    end)
  end)

  it("a client may say that it wants to wait for less", function()
    run({ slots = 1 }, function(gateway)
      local order = {}
      local first = stream(gateway, order, "a", 10)
      tb.sleep(0)
      local refused = stream(gateway, order, "b", 1, { headers = { ["x-max-wait-ms"] = "250" } }):await()
      assert.same({ 429, 0.25 }, { refused.status, refused.waited })
      assert.equal(400, stream(gateway, order, "b", 1, { headers = { ["x-max-wait-ms"] = "soon" } }):await().status)
      first:await()
    end)
  end)

  it("nobody fills the queue: a key may have as many waiting as there are places left", function()
    run({ slots = 1, max_queue = 20, max_wait_s = 1000 }, function(gateway, queue)
      local order = {}
      local first = stream(gateway, order, "flood", 1)
      tb.sleep(0.001)
      local flood = several(40, function() return stream(gateway, order, "flood", 1) end)
      tb.sleep(0.001)
      assert.equal(10, queue.batcher.stats.queue_size)
      local refused = flood[40]:await()
      assert.same({ 429, "queue_full" }, { refused.status, json.decode(refused.body).error.code })
      assert.is_truthy(tonumber(refused.headers["retry-after"]) >= 1)
      local quiet = several(4, function() return stream(gateway, order, "quiet", 1) end)
      for _, future in ipairs(quiet) do assert.is_nil(future:await().status) end
      tb.gather(joined(flood, { first }))
      assert.equal(30, queue.refused.queue_full)
    end)
  end)
end)

describe("who says what is not so, or comes under many names,", function()
  local HUGE = { cost = 1e9 }

  it("does not make Retry-After untrue for others, neither when served nor while it waits or is held", function()
    run({ slots = 1, max_wait_s = 1000, most_tokens = 1e9 }, function(gateway, queue)
      local order = {}
      stream(gateway, order, "huge", 10, HUGE):await()
      local all = several(10, function() return stream(gateway, order, "flood", 10) end)
      tb.sleep(0)
      local flood = next(queue.book.keys)
      assert.equal(95, queue:seconds(flood, 1)) -- nine before him, and half of one
      local huge = stream(gateway, order, "huge", 10, HUGE)
      tb.sleep(0)
      assert.equal(105, queue:seconds(flood, 1)) -- and that one
      assert.equal(5, queue:seconds("somebody new", 1))
      tb.sleep(15)
      assert.same({ "huge", "flood", "huge" }, order)
      assert.equal(15, queue:seconds("somebody new", 1)) -- one of the flood's has had nothing of that
      huge:await()
      tb.gather(all)
    end)
  end)

  it("does not come in between: who is new is next in line after one of any cost, too", function()
    run({ slots = 1, max_wait_s = 1000, most_tokens = 1e9 }, function(gateway)
      local order = {}
      local flood = several(30, function() return stream(gateway, order, "flood", 1) end)
      tb.sleep(1.5)
      stream(gateway, order, "huge", 1, HUGE):await()
      for i = 1, 5 do assert.is_true(stream(gateway, order, "new " .. i, 1):await().waited <= 2) end
      assert.is_true(#order <= 13, #order)
      tb.gather(flood)
    end)
  end)

  it("counts up to most_tokens: one that has asked for any number waits for so many of others, and no more", function()
    run({ slots = 1, max_wait_s = 1000, most_tokens = 400 }, function(gateway)
      local order = {}
      local first = stream(gateway, order, "huge", 1, HUGE)
      tb.sleep(0.001)
      local flood = several(30, function() return stream(gateway, order, "flood", 1) end)
      first:await()
      stream(gateway, order, "huge", 1, HUGE):await()
      assert.is_true(#order <= 8, #order)
      tb.gather(flood)
    end)
  end)

  it("is told when it would go by its own debt and cost, which others are not", function()
    run({ slots = 1, max_wait_s = 1000 }, function(gateway, queue)
      local order = {}
      local all = joined(several(10, function() return stream(gateway, order, "small", 1, { cost = 10 }) end),
        several(10, function() return stream(gateway, order, "large", 1, { cost = 100 }) end))
      tb.sleep(4.5)
      local after = { small = queue:seconds(gateway.fairness:of(chat "small"), 1),
        large = queue:seconds(gateway.fairness:of(chat "large"), 1) }
      local came = { small = stream(gateway, order, "small", 1, { cost = 10 }),
        large = stream(gateway, order, "large", 1, { cost = 100 }) }
      for who, future in pairs(came) do
        local waited = future:await().waited
        assert.is_true(math.abs(after[who] - waited) <= 2, who .. " " .. after[who] .. " " .. waited)
      end
      tb.gather(all)
    end)
  end)

  it("has no more of the queue: who has fewer waiting takes the place of the last of who has most", function()
    run({ slots = 1, max_queue = 20, max_wait_s = 1000 }, function(gateway, queue)
      local order = {}
      local floods = {}
      for i = 1, 12 do -- they fill it, each with half of what is left
        floods[i] = several(20, function() return stream(gateway, order, "flood " .. i, 1) end)
        tb.sleep(0)
      end
      assert.equal(20, queue.book.queued)
      local quiet = stream(gateway, order, "quiet", 1)
      assert.is_nil(quiet:await().status)
      assert.is_true(quiet:await().waited <= 13) -- each of twelve, who came before, has one
      local told, served = 0, 0
      for _, flood in ipairs(floods) do
        for _, future in ipairs(flood) do
          local it = future:await()
          if it.status then
            assert.same({ 429, "queue_full" }, { it.status, json.decode(it.body).error.code })
            assert.is_true(tonumber(it.headers["retry-after"]) >= 1)
            told = told + 1
          else
            served = served + 1
          end
        end
      end
      assert.same({ 240, told }, { told + served, queue.refused.queue_full })
      assert.is_true(served >= 20)
      tb.sleep(0)
      assert_at_rest(queue)
    end)
  end)

  it("nobody is put out for who has as many, nor an only one; a weight is as many more", function()
    run({ slots = 1, max_queue = 12, max_wait_s = 1000, weights = { gold = 4 } }, function(gateway, queue)
      local order, became = {}, {}
      local function come(who, n)
        for _ = 1, n do
          local future = stream(gateway, order, who, 100)
          tb.sleep(0)
          became[#became + 1] = { who, future }
        end
      end
      local function waiting()
        local out = {}
        for i = 1, #became do
          local who, future = became[i][1], became[i][2]
          if not future:done() then out[who] = (out[who] or 0) + 1 end
        end
        return out
      end
      local first = stream(gateway, order, "first", 1000)
      tb.sleep(0.001)
      for _, who in ipairs { "a", "b", "c", "d" } do come(who, 7) end
      assert.same({ a = 3, b = 3, c = 3, d = 3 }, waiting())
      come("gold", 12)
      local left = waiting()
      assert.same({ 7, 5 }, { left.gold, left.a + left.b + left.c + left.d })
      come("e", 3)
      assert.same({ a = 1, b = 1, c = 1, d = 1, e = 1, gold = 7 }, waiting())
      first:await()
      for i = 1, #became do became[i][2]:await() end
      tb.sleep(0)
      assert_at_rest(queue)
    end)
  end)

  it("an upstream that answers no more is seen in Retry-After, though it was fast before", function()
    run({ slots = 2, max_wait_s = 1000 }, function(gateway, queue)
      local order = {}
      for _ = 1, 5 do stream(gateway, order, "a", 0.01):await() end
      local stuck = several(2, function() return stream(gateway, order, "a", 500) end)
      tb.sleep(200)
      assert.equal(100, queue:seconds("somebody new", 1))
      tb.gather(stuck)
    end)
  end)
end)

describe("an end:", function()
  it("who waits is served while the queue drains; who comes then gets 503", function()
    run({ slots = 1 }, function(gateway, queue)
      local order = {}
      local all = several(4, function() return stream(gateway, order, "a", 1) end)
      tb.sleep(0.5)
      local stopping = tb.spawn(function() queue.batcher:stop() end)
      tb.sleep(0)
      assert.equal(503, stream(gateway, order, "late", 1):await().status)
      for _, future in ipairs(all) do assert.is_nil(future:await().status) end
      stopping:await()
      assert_at_rest(queue)
    end)
  end)

  it("who is left when its time is up gets 503, and streams go on", function()
    run({ slots = 1, max_wait_s = 1000 }, function(gateway, queue)
      local order = {}
      local all = several(3, function() return stream(gateway, order, "a", 50) end)
      tb.sleep(0)
      queue.batcher:stop { timeout_s = 5 }
      local status = {}
      for i, future in ipairs(all) do status[i] = future:await().status or "served" end
      assert.same({ "served", 503, 503 }, status)
      tb.sleep(0)
      assert_at_rest(queue)
    end)
  end)
end)

describe("the gate:", function()
  local PAGE = "# HELP vllm:num_requests_waiting x\nvllm:num_requests_waiting_total 9\n"
    .. 'vllm:num_requests_waiting{model="a b",engine="0"} %s\nvllm:num_requests_waiting{engine="1"} 1.0\r\nother 7\n'

  it("reads a metric of all series together, and nothing else", function()
    assert.equal(4, Gate.read(PAGE:format "3.0", "vllm:num_requests_waiting"))
    assert.equal(9, Gate.read(PAGE:format "3.0", "vllm:num_requests_waiting_total"))
    assert.equal(1, Gate.read(PAGE:format "NaN", "vllm:num_requests_waiting"))
    assert.is_nil(Gate.read(PAGE:format "3.0", "vllm:num_requests"))
    assert.is_nil(Gate.read("", "other"))
  end)

  it("holds all back while requests wait inside of the upstream, and asks nothing while nobody is here", function()
    local waiting, fails = 0, false
    local upstream = helper.upstream(function(request)
      assert.same({ "GET", "/metrics", 1 }, { request.method, request.path, request.attempts })
      if fails then return nil, { code = "upstream_unreachable", message = "it takes no connection" } end
      return { status = 200, headers = {}, body = PAGE:format(tostring(waiting)) }
    end)
    local gate = { most = 1, every_s = 1, stale_s = 10 }
    local logged = run({ slots = 4, gate = gate, max_wait_s = 100 }, function(gateway, queue)
      local order = {}
      tb.sleep(100)
      assert.equal(0, #upstream.calls)
      local first = stream(gateway, order, "a", 0.5)
      assert.equal(0, first:await().waited)
      waiting = 3
      tb.sleep(10)
      local second = stream(gateway, order, "a", 0.5)
      tb.sleep(5.25)
      assert.is_false(second:done())
      assert.equal(0, queue:snapshot().gate)
      waiting = 0
      assert.is_true(second:await().waited <= 7)
      assert.equal(1, queue:snapshot().gate)
      -- what was read is too old to close anything
      waiting = 5
      local third = stream(gateway, order, "a", 0.5)
      third:await()
      local since, fourth = tb.now(), stream(gateway, order, "a", 0.5)
      tb.sleep(2)
      fails = true
      fourth:await()
      assert.is_true(tb.now() - since >= 9 and tb.now() - since <= 14, tb.now() - since)
      tb.sleep(50)
      local calls = #upstream.calls
      tb.sleep(50)
      assert.equal(calls, #upstream.calls)
    end, {}, upstream)
    assert.matches("queue of http://upstream: /metrics cannot be read %(it takes no connection%): after 10 s its gate",
      table.concat(logged, "\n"))
  end)
end)

describe("what a request will cost:", function()
  it("is its prompt, by bytes, and what may be made of it", function()
    for body, cost in pairs {
      ['{"messages":[{"role":"user","content":"12345678"}],"max_tokens":100}'] = 103,
      ['{"messages":[{"role":"user","content":"12345678"}],"max_completion_tokens":10,"max_tokens":100}'] = 103,
      ['{"messages":[{"role":"user","content":[{"type":"text","text":"12345678"},{"type":"image_url","image_url":'
        .. '{"url":"data:,xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}}]}],"max_tokens":1}'] = 4,
      ['{"prompt":["1234","5678"],"max_tokens":10,"n":3}'] = 33,
      ['{"prompt":[1,2,3],"max_tokens":10}'] = 14,
      ['{"input":"1234","instructions":"5678","max_output_tokens":7}'] = 10,
      ['{"system":"1234","messages":[],"max_tokens":1}'] = 3,
      ['{"messages":[]}'] = 65,
      ['{"messages":7,"max_tokens":"many"}'] = 65,
      ['{"messages":[],"max_tokens":-5}'] = 65,
      ['{"messages":[],"max_tokens":1e300,"n":1e9}'] = 1 + 1000 * 128,
      ['{"messages":[],"max_tokens":"100"}'] = 101, -- there are upstreams that take it
      ['{"messages":[],"max_tokens":1,"max_output_tokens":"1e2","max_completion_tokens":null}'] = 101,
      ['{"prompt":"","max_tokens":10,"n":1,"best_of":5}'] = 51,
      ["no json"] = 67,
      ["[1]"] = 66,
      [""] = 65,
    } do assert.equal(cost, (estimate.cost(body, 64, 1000)), body) end
    assert.equal(11, (estimate.cost('{"messages":[]}', 64, 10)))
    assert.equal(1e9, (estimate.cost('{"messages":[],"max_tokens":1e9,"n":9}', 64, 1e9)))
  end)
end)

describe("its configuration:", function()
  local function message_of(given)
    local ok, err = pcall(helper.run, given, { helper.upstream(nothing) }, function() end)
    return ok and "fine" or tostring(err)
  end

  it("names what is wrong, and no key", function()
    for said, queue in pairs {
      ["upstream 1: queue: parameter 'slots' is missing"] = {},
      ["upstream 1: queue: parameter 'slots' must be a whole number from 1 to 1024, got 0"] = { slots = 0 },
      ["unknown parameter 'slot'; did you mean 'slots'"] = { slot = 1 },
      ["queue must be false or a table"] = "yes",
      ["queue: reserve = 2 leaves no slot for others: slots = 2"] = { slots = 2, reserve = 2 },
      ["queue: paths must be a list of paths that begin with /"] = { slots = 1, paths = { "chat" } },
      ["queue: paths must name at least one path"] = { slots = 1, paths = {} },
      ["queue: weights must map keys, strings, to numbers above 0 and up to 1000"] =
        { slots = 1, weights = { secret = 0 } },
      ["queue: options: 'max_batch_size' is the queue's own"] = { slots = 1, options = { max_batch_size = 2 } },
      ["queue: gate: parameter 'every_s' must be"] = { slots = 1, gate = { every_s = 0 } },
      ["queue: priority is for a policy that goes by it"] = { slots = 1, priority = function() return 1 end },
      ["queue: weights are for shares"] = { slots = 1, policy = "fifo", weights = { secret = 2 } },
      ["queue: gate: path must begin with /"] = { slots = 1, gate = { path = "metrics" } },
      ["queue: gate: metric must be the name of one"] = { slots = 1, gate = { metric = 'm{model="x"}' } },
      ["queue: gate: stale_s = 5 is below twice every_s = 10"] = { slots = 1, gate = { every_s = 10 } },
      ["there is no policy 'fare'; did you mean 'fair'"] = { slots = 1, policy = "fare" },
    } do
      local message = message_of { queue = queue }
      assert.truthy(message:find(said, 1, true), said .. "\n" .. message)
      assert.is_nil(message:find "secret")
    end
    assert.equal("fine", message_of { queue = false })
    local message = message_of { queue = { slots = 1, weights = { secret = 2 } }, fairness_key = "ip" }
    assert.truthy(message:find('upstream 1: queue: weights would do nothing: with "fairness_key" = "ip"', 1, true),
      message)
  end)

  it("an upstream's own is laid over the gateway's, and false is none", function()
    local a, b, c = helper.upstream(nothing, { name = "a" }), helper.upstream(nothing, { name = "b" }),
      helper.upstream(nothing, { name = "c" })
    helper.run({ queue = { slots = 4, max_wait_s = 7 }, upstreams = { { url = "http://a", name = "a" },
      { url = "http://b", name = "b", models = { "b" }, queue = { slots = 2 } },
      { url = "http://c", name = "c", models = { "c" }, queue = false } } }, { a, b, c }, function(gateway)
        local of = {}
        for i, line in ipairs(gateway.lines) do of[i] = line.queue and line.queue.config end
        assert.same({ 4, 7, 2, 7 }, { of[1].slots, of[1].max_wait_s, of[2].slots, of[2].max_wait_s })
        assert.is_nil(of[3])
        for _, line in ipairs(gateway.lines) do
          if line.queue then line.queue.batcher:stop() end
        end
      end)
  end)

  it("workers divide the slots: together they are as many as were said", function()
    local options = require "tokenbatcher.gateway.queue.options"
    local p, sum = options.read("q", { slots = 10, reserve = 1 }, nil, 4), 0
    for worker = 0, 3 do
      local slots, reserve = options.share(p, { workers = 4, worker = worker })
      sum = sum + slots
      assert.is_true(slots >= 2 and slots <= 3 and reserve == 1)
    end
    assert.equal(10, sum)
    for said, given in pairs { ["slots = 3 are fewer than the 4 workers"] = { slots = 3 },
      ["each of the 4 workers has 1 of the 6 slots, and reserves 1"] = { slots = 6, reserve = 1 } } do
      local _, err = pcall(options.read, "q", given, nil, 4)
      assert.truthy(tostring(err):find(said, 1, true), tostring(err))
    end
  end)
end)

it("what the queue says of itself is on the pages", function()
  run({ slots = 2, reserve = 1 }, function(gateway)
    local order = {}
    local all = several(3, function() return stream(gateway, order, "a", 10) end)
    all[4] = stream(gateway, order, "a", 1, { headers = { ["x-max-wait-ms"] = "1000" } })
    tb.sleep(2)
    local snapshot = json.decode(json.encode(snapshots.take(gateway)))
    snapshot.pid = 7
    local sum = {}
    snapshots.add(sum, snapshot, false)
    local workers = { { id = 0, sum = sum, live = { snapshot } } }
    local _, _, text = pages.metrics(gateway, workers)
    local label = metrics.label("name", "http://upstream queue") .. ',worker="0"'
    for name, value in pairs { queue_slots = 2, queue_slots_reserved = 1, queue_slots_used = 1,
      queue_admitted_total = 1, queue_left_total = 0, queue_records = 2, running_batches = 1,
      wait_seconds_count = 1 } do
      local line = ("tokenbatcher_%s{%s} %d\n"):format(name, label, value)
      assert.truthy(text:find(line, 1, true), line .. text)
    end
    assert.truthy(text:find('queue_refused_total{' .. label .. ',reason="queue_timeout"} 1', 1, true))
    local _, _, health = pages.health(gateway, workers)
    local ages = json.decode(health)
    assert.same({ 2, 2, 0 }, { ages.oldest_waiting_s, ages.oldest_held_s, ages.oldest_running_s })
    gateway.config.health.oldest_waiting_s = 1
    assert.equal(503, (pages.health(gateway, workers)))
    local status = json.decode((select(3, pages.status(gateway, workers))))
    assert.same({ slots = 2, used = 1, waiting = 2 }, status.workers[1].upstreams["http://upstream"].queue)
    -- a worker that is gone has what it has counted, and holds nothing
    snapshots.add(sum, snapshot, true)
    local queue = sum.lines["http://upstream"].queue
    assert.same({ 2, 2, 1 }, { queue.batcher.values.total_batches, queue.slots, queue.held })
    tb.gather(all)
  end)
end)

for seed = 1, 3 do
  local name = "a storm of clients that come, leave and stay (seed %d): no slot is lost, none is there twice"
  it(name:format(seed), function()
    local state = seed
    local function random(n)
      state = (state * 16807) % 2147483647
      return state % n + 1
    end
    local given = { slots = 5, reserve = 1, max_queue = 60, max_wait_s = 3, weights = { ["key 1"] = 3 } }
    run(given, function(gateway, queue)
      local holding, became = 0, { served = 0 }
      local function client(i)
        for _ = 1, 40 do
          local leave
          local request = chat("key " .. i % 7, { cost = random(500) + 1, on_abort = function(_, fn) leave = fn end })
          local asking = tb.spawn(function()
            local status = gateway:handle(request)
            if not status then holding = holding + 1 end
            assert.is_true(holding <= 5)
            return status or "served"
          end)
          if random(4) == 1 then
            tb.sleep(random(400) / 1000)
            if not asking:done() and leave then leave() end
          end
          local status = asking:await()
          became[status] = (became[status] or 0) + 1
          if status == "served" then
            if random(3) > 1 then tb.sleep(random(900) / 1000) end
            holding = holding - 1
          end
          gateway:over(request)
          if random(5) == 1 then gateway:over(request) end
          assert.is_true(queue.book.held <= 5)
        end
      end
      local futures = several(40, function(i) return tb.spawn(client, i) end)
      local _, errs = tb.gather(futures)
      for i = 1, 40 do assert.is_nil(errs[i] and tostring(errs[i])) end
      tb.sleep(0)
      assert_at_rest(queue)
      for _, what in ipairs { "served", 429, 499 } do assert.is_true((became[what] or 0) > 20, what) end
      local ticket = several(5, function(i) return queue:enter { key = "after " .. i, cost = 1 } end)
      for i = 1, 5 do
        assert.is_true(queue:wait(ticket[i]))
        queue:leave(ticket[i])
      end
    end)
  end)
end
