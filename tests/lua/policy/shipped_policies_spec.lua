-- What ships (the table of section 5): each policy does what its description promises.

local tb = require "tokenbatcher"
local policies = require "tokenbatcher.policy"
local H = require "tests.lua.helper"
local virtually = H.virtually

local seed = 1
local function draw(n)
  seed = (seed * 1103515245 + 12345) % 2 ^ 31
  return math.floor(seed / 2 ^ 12) % n
end

-- Uniform in (0, 1), exponential with mean 1, and heavy-tailed like prompts.
local function uniform() return (draw(100000) + 0.5) / 100000 end
local function exponential() return -math.log(uniform()) end
local function heavy(least, most) return math.min(most, math.ceil(least / uniform() ^ 0.8)) end

before_each(function() seed = 1 end)

-- A device: a call takes a + b x cost.
local function device(a_s, b_s)
  return function(_, info) return a_s + b_s * info.cost end
end

-- The policy that ships, as made for a batcher; `watch(queue, batch)` is called after each form.
local function watched(name, given, watch)
  return function()
    local made = policies.resolve(tb.policy[name](given)):make()
    return { on_complete = made.on_complete, form = function(queue, batch, now)
      local before = { oldest = queue:record(1), size = queue.size }
      local at = made.form(queue, batch, now)
      watch(queue, batch, before)
      return at
    end }
  end
end

local function policy_of(batcher) return batcher._decision.policy end

describe("length_bucketed:", function()
  -- Padding over a device that is kept busy, of 2,000 heavy-tailed records.
  local function padding(policy)
    seed = 5
    return H.run(function()
      local batcher = H.start { policy = policy, target_batch_tokens = 8000, max_batch_size = 32, cost_model = "padded",
        takes = device(0.01, 1e-5) }
      for i = 1, 2000 do
        batcher:submit(i, { estimated_tokens = heavy(20, 4000) })
        if i % 20 == 0 then tb.sleep(0.05 * exponential()) end
      end
      batcher:stop()
      assert.equal(2000, batcher.stats.total_completed)
      assert.equal(0, batcher.stats.policy_errors)
      return batcher.stats.padding_ratio
    end)
  end

  it("saves most of the padding that fifo wastes on a heavy-tailed workload", function()
    local fifo, bucketed = padding "fifo", padding "length_bucketed"
    assert.is_true(fifo > 2)
    assert.is_true(bucketed - 1 < 0.5 * (fifo - 1), ("%.2f against %.2f"):format(bucketed, fifo))
  end)

  it("the oldest record is always in the next batch", virtually(function()
    local expected = {}
    local batcher, calls = H.start { takes = device(0.01, 1e-5), target_batch_tokens = 2000,
      policy = watched("length_bucketed", {}, function(_, batch, before)
        if batch.size > 0 then expected[#expected + 1] = before.oldest end
      end) }
    for i = 1, 1000 do
      batcher:submit(i, { estimated_tokens = heavy(20, 3000) })
      if i % 10 == 0 then tb.sleep(0.02 * exponential()) end
    end
    batcher:stop()
    assert.equal(#expected, #calls)
    for k, call in ipairs(calls) do assert.equal(expected[k], call.records[1]) end
  end))

  it("takes the nearest in cost, until one does not fit", virtually(function()
    local batcher, calls = H.start { policy = "length_bucketed", target_batch_tokens = 30 }
    H.submit_costs(batcher, { 10, 25, 9, 1, 12 })
    batcher:stop()
    assert.same({ "r1 r3", "r2", "r4 r5" }, H.batches(calls))
  end))

  it("keeps gathering until the queue is full or due", virtually(function()
    local batcher, calls = H.start { policy = "length_bucketed", batch_timeout_s = 0.25 }
    batcher:submit "a"
    tb.sleep(0.2)
    assert.equal(0, #calls)
    tb.sleep(0.1)
    assert.same({ 0.25, "policy" }, { calls[1].at, calls[1].reason })
    batcher:stop()
  end))
end)

describe("priority:", function()
  it("highest first, ties by arrival; the batch closes at the first misfit", virtually(function()
    local batcher, calls = H.start { policy = "priority", target_batch_tokens = 10, takes = 0.001 }
    local records = { { 4, 0 }, { 4, 2 }, { 7, 1 }, { 3, 2 }, { 2, 0 } }
    for i, r in ipairs(records) do batcher:submit("r" .. i, { estimated_tokens = r[1], priority = r[2] }) end
    batcher:stop()
    assert.same({ "r2 r4", "r3", "r1 r5" }, H.batches(calls))
  end))

  -- When "low", of priority 0, goes: 20 of `level` before it, and 25 a second after it, where
  -- 20 a second can be served.
  local function wait_of_low(level, aging_s)
    return H.run(function()
      local batcher, calls = H.start { policy = tb.policy.priority { aging_s = aging_s }, max_batch_size = 2,
        takes = 0.1 }
      for i = 1, 20 do batcher:submit(-i, { priority = level }) end
      tb.sleep(0.01)
      batcher:submit "low"
      for i = 1, 500 do
        batcher:submit(i, { priority = level })
        batcher:submit(i, { priority = level })
        tb.sleep(0.08)
      end
      batcher:stop()
      for _, call in ipairs(calls) do
        for _, record in ipairs(call.records) do
          if record == "low" then return call.at end
        end
      end
    end)
  end

  it("aging bounds the wait of a low priority under overload", function()
    for _, case in ipairs { { 1, 1 }, { 4, 1 }, { 4, 2 }, { 10, 0.5 } } do
      local level, aging_s = case[1], case[2]
      local waited, overtaken_s = wait_of_low(level, aging_s), level * aging_s
      assert.is_true(waited > overtaken_s and waited <= 1.3 + 1.25 * overtaken_s,
        ("level %d, aging %.1f: %.2f s"):format(level, aging_s, waited))
    end
  end)

  it("with ageing switched off in effect, a low priority waits for all others", virtually(function()
    local batcher, calls = H.start { policy = tb.policy.priority { aging_s = 1e9 }, max_batch_size = 1, takes = 0.1 }
    batcher:submit "first"
    tb.sleep(0.06)
    batcher:submit "low"
    for i = 1, 50 do
      batcher:submit(i, { priority = 1 })
      tb.sleep(0.05)
    end
    batcher:stop()
    assert.equal("low", calls[#calls].records[1])
  end))
end)

describe("fair:", function()
  -- Two keys, backlogged throughout, and a few others that come and go. Returns the largest
  -- difference in service between any two completed batches, and the largest cost.
  local function service_gap(given, budget, cost_of)
    return H.run(function()
      local infer, calls = H.recorder(0.01)
      local batcher = tb.TokenBatcher { inference_fn = infer, policy = tb.policy.fair(given),
        target_batch_tokens = budget, max_batch_size = 16, max_queue_size = 1e5 }
      batcher:start()
      local largest = 0
      local function submit(key)
        local cost = cost_of(key)
        largest = math.max(largest, cost)
        batcher:submit(key, { estimated_tokens = cost, key = key })
      end
      for _ = 1, 400 do
        submit "a"
        if draw(3) > 0 then submit "b" end
      end
      for _ = 1, 600 do submit "b" end
      for _ = 1, 40 do
        for _ = 1, draw(6) do submit("c" .. draw(5)) end
        tb.sleep(0.02)
      end
      batcher:stop()
      assert.is_true(H.is_conserved(batcher.stats))
      assert.equal(0, batcher.stats.policy_errors + batcher.stats.policy_overruled)
      local left, a, b, least, most = 400, 0, 0, 0, 0
      for _, call in ipairs(calls) do
        for i, key in ipairs(call.records) do
          if key == "a" then a, left = a + call.costs[i], left - 1 end
          if key == "b" then b = b + call.costs[i] end
        end
        if left <= 0 then break end
        least, most = math.min(least, a - b), math.max(most, a - b)
      end
      return most - least, largest
    end)
  end

  it("the service of two backlogged keys never differs by more than two largest records and a quantum", function()
    local costs = {
      { "like", function() return 1 + draw(20) end },
      { "heavy-tailed", function() return heavy(5, 2000) end },
      { "unequal", function(key) return key == "a" and 1 or 90 end },
      { "oversize", function() return draw(4) == 0 and 500 or draw(3) end },
      { "alike", function() return 7 end },
    }
    for _, cost in ipairs(costs) do
      for _, quantum in ipairs { 0.5, 10, 100, 5000 } do
        local gap, largest = service_gap({ quantum = quantum }, 100, cost[2])
        assert.is_true(gap <= 2 * largest + quantum,
          ("%s, quantum %g: %d above 2 x %d + %g"):format(cost[1], quantum, gap, largest, quantum))
      end
      local gap, largest = service_gap({}, 100, cost[2])
      assert.is_true(gap <= 2 * largest + 100 / 8)
    end
  end)

  it("goes on where the batch before ended", virtually(function()
    local batcher, calls = H.start { policy = tb.policy.fair { quantum = 10 }, target_batch_tokens = 25, takes = 1 }
    for _, key in ipairs { "a", "b" } do
      for i = 1, 5 do batcher:submit(key .. i, { estimated_tokens = 5, key = key }) end
    end
    batcher:stop()
    assert.same({ "a1 a2 b1 b2 a3", "a4 b3 b4 a5 b5" }, H.batches(calls))
  end))

  it("the batch closes at the first record that does not fit, which then goes first", virtually(function()
    local batcher, calls = H.start { policy = tb.policy.fair { quantum = 100 }, target_batch_tokens = 10, takes = 1 }
    for i, r in ipairs { { "a", 4 }, { "a", 8 }, { "b", 3 }, { "b", 3 } } do
      batcher:submit("r" .. i, { key = r[1], estimated_tokens = r[2] })
    end
    batcher:stop()
    assert.same({ "r1", "r2", "r3 r4" }, H.batches(calls))
  end))

  -- The state that form holds on to.
  local function count(t)
    local n = 0
    for _ in pairs(t) do n = n + 1 end
    return n
  end

  it("an idle key keeps neither credit nor memory, and a thousand of them neither", virtually(function()
    local batcher = H.start { policy = tb.policy.fair { quantum = 3 }, target_batch_tokens = 50, takes = 0.001,
      max_batch_size = 20 }
    for i = 1, 3000 do
      batcher:submit(i, { key = "user" .. i % 1000, estimated_tokens = 1 + draw(9) })
      if i % 30 == 0 then tb.sleep(0.01) end
    end
    batcher:submit("a", { key = "stays", estimated_tokens = 7 })
    local cancelled = batcher:submit("b", { key = "cancelled" })
    batcher:flush()
    tb.sleep(5)
    assert.is_true(cancelled:done())
    local ring = policy_of(batcher).ring
    assert.same({ 0, 0 }, { ring:size(), count(ring.lanes) })
    assert.same({ 1, 1, 0 }, { count(batcher._keys.ids), count(batcher._keys.names), count(batcher._keys.uses) })
    batcher:stop()
  end))

  it("a key that was cancelled away is forgotten at the next decision", virtually(function()
    local batcher = H.start { policy = tb.policy.fair { quantum = 1 }, target_batch_tokens = 4, takes = 1 }
    local gone = {}
    for i = 1, 4 do
      batcher:submit(i, { key = "a", estimated_tokens = 3 })
      gone[i] = batcher:submit(-i, { key = "b", estimated_tokens = 3 })
    end
    tb.sleep(0.5)
    for _, future in ipairs(gone) do future:cancel() end
    tb.sleep(1)
    local ring = policy_of(batcher).ring
    assert.same({ 1, 1, "a" }, { ring:size(), count(ring.lanes), ring.ring[ring.first].key })
    batcher:stop()
  end))

  it("what was saved for a record that was cancelled is no credit for those behind it", virtually(function()
    local batcher, calls = H.start { policy = tb.policy.fair { quantum = 10 }, target_batch_tokens = 100, takes = 1,
      max_batch_size = 10, max_queue_size = 1000 }
    local large = batcher:submit("large", { key = "a", estimated_tokens = 90 })
    for i = 1, 100 do batcher:submit("b" .. i, { key = "b", estimated_tokens = 10 }) end
    tb.sleep(0.5) -- b sent one for each visit; a has saved as much
    large:cancel()
    for i = 1, 50 do batcher:submit("a" .. i, { key = "a", estimated_tokens = 2 }) end
    tb.sleep(1)
    local sent = { a = 0, b = 0 }
    for _, record in ipairs(calls[2].records) do
      local key = record:sub(1, 1)
      sent[key] = sent[key] + (key == "a" and 2 or 10)
    end
    assert(sent.a <= 2 + 2 * 10, ("a sent %d, b %d"):format(sent.a, sent.b))
    assert.is_true(sent.b > 0)
    batcher:stop()
  end))

  it("huge costs and a tiny quantum do not loop, and oversize records pass alone", function()
    local started = os.clock()
    H.run(function()
      local batcher, calls = H.start { policy = tb.policy.fair { quantum = 1e-3 }, target_batch_tokens = 1000 }
      for i = 1, 20 do
        batcher:submit("big", { key = "a", estimated_tokens = 1e11 + i })
        batcher:submit("small", { key = "b", estimated_tokens = i % 3 })
      end
      batcher:stop()
      assert.equal(40, batcher.stats.total_completed)
      assert.equal(20, batcher.stats.total_oversize)
      assert.equal(0, batcher.stats.policy_overruled + batcher.stats.policy_errors)
      for _, call in ipairs(calls) do assert.is_true(call.size == 1 or call.cost <= 1000) end
    end)
    assert.is_true(os.clock() - started < 0.5)
  end)
end)

describe("deadline:", function()
  -- Records with deadlines of their own; how many were answered by them.
  local function on_time(policy, load, n)
    seed = 11
    return H.run(function()
      local batcher, calls = H.start { policy = policy, target_batch_tokens = 4000, takes = device(0.02, 1e-4),
        batch_timeout_s = 0.02 }
      local due = {}
      for i = 1, n do
        tb.sleep(exponential() * 0.02 / load)
        local timeout_s = draw(3) == 0 and 0.3 or 4
        due[i] = tb.now() + timeout_s
        batcher:submit(i, { estimated_tokens = heavy(40, 1500), timeout_s = timeout_s })
      end
      batcher:stop()
      assert.equal(0, batcher.stats.policy_errors)
      local met = 0
      for _, call in ipairs(calls) do
        for _, i in ipairs(call.records) do
          if call.ended <= due[i] then met = met + 1 end
        end
      end
      return met / n
    end)
  end

  it("meets deadlines that fifo misses", function()
    local fifo, deadline = on_time("fifo", 1, 3000), on_time("deadline", 1, 3000)
    assert.is_true(deadline > 0.97 and deadline > fifo + 0.03, ("%.3f against %.3f"):format(deadline, fifo))
  end)

  it("meets more deadlines than fifo under overload, too", function()
    local fifo, deadline = on_time("fifo", 1.5, 2000), on_time("deadline", 1.5, 2000)
    assert.is_true(deadline > fifo + 0.1, ("%.3f against %.3f"):format(deadline, fifo))
  end)

  it("earliest deadline first, slo_s in place of one, those without any last", virtually(function()
    local function order(slo_s)
      local batcher, calls = H.start { policy = tb.policy.deadline { slo_s = slo_s }, max_batch_size = 1,
        takes = 0.01 }
      batcher:submit "first"
      tb.sleep(0.005)
      batcher:submit("plain1", {})
      batcher:submit("late", { timeout_s = 9 })
      batcher:submit("plain2", {})
      batcher:submit("soon", { timeout_s = 2 })
      batcher:submit("latest", { timeout_s = 60 })
      batcher:stop()
      return table.concat(H.batches(calls), " ")
    end
    assert.equal("first soon late latest plain1 plain2", order(nil))
    assert.equal("first soon plain1 plain2 late latest", order(5))
    assert.equal("first plain1 plain2 soon late latest", order(1))
    assert.equal("first soon late plain1 plain2 latest", order(30))
  end))

  it("slo_s expires none", virtually(function()
    local batcher = H.start { policy = tb.policy.deadline { slo_s = 0.01 }, max_batch_size = 1, takes = 1 }
    H.submit_costs(batcher, { 1, 1, 1 })
    batcher:stop()
    assert.same({ 3, 0 }, { batcher.stats.total_completed, batcher.stats.total_expired })
  end))

  it("what can no longer be on time never starts ahead of what can", virtually(function()
    local a_s, b_s = 0.05, 1e-3
    local wrong = 0
    local batcher = H.start { takes = device(a_s, b_s), target_batch_tokens = 500, batch_timeout_s = 0.01,
      policy = function()
        local made = policies.resolve(tb.policy.deadline { base_s = a_s, per_token_s = b_s, slo_s = 0.5 }):make()
        return { on_complete = made.on_complete, form = function(queue, batch, now)
          local feasible, is_feasible = 0, {}
          for i = 1, queue.size do
            is_feasible[i] = now + a_s + b_s * queue:cost(i) <= now - queue:age(i) + 0.5
            if is_feasible[i] then feasible = feasible + 1 end
          end
          made.form(queue, batch, now)
          local size = batch.size
          for i = 1, queue.size do
            -- a member again changes nothing; another one is refused by the limit
            batch:limit(0)
            if batch:add(i) and feasible > 0 and not is_feasible[i] then wrong = wrong + 1 end
          end
          assert(batch.size == size and size > 0)
        end }
      end }
    for i = 1, 800 do
      batcher:submit(i, { estimated_tokens = heavy(20, 400) })
      tb.sleep(exponential() * 0.06)
    end
    batcher:stop()
    assert.same({ 0, 0, 800 }, { wrong, batcher.stats.policy_errors, batcher.stats.total_completed })
  end))

  it("under overload the hopeless go last", virtually(function()
    local policy = tb.policy.deadline { base_s = 0.1, slo_s = 0.55 }
    local batcher, calls = H.start { policy = policy, max_batch_size = 2, takes = 0.1 }
    for i = 1, 12 do batcher:submit("old" .. i) end
    tb.sleep(0.45)
    for i = 1, 4 do batcher:submit("new" .. i) end
    batcher:stop()
    local order = H.batches(calls)
    assert.same({ "old1 old2", "old3 old4", "old5 old6", "old7 old8", "old9 old10" }, { unpack(order, 1, 5) })
    assert.same({ "new1 new2", "new3 new4", "old11 old12" }, { unpack(order, 6) })
  end))

  it("never grows a batch past the earliest deadline in it that can still be met", virtually(function()
    local a_s, b_s = 0.02, 1e-4
    local due = {}
    local batcher, calls = H.start { policy = tb.policy.deadline { base_s = a_s, per_token_s = b_s },
      max_batch_size = 64, takes = device(a_s, b_s), target_batch_tokens = 1e5 }
    for i = 1, 3000 do
      local timeout_s = 0.1 + 0.4 * exponential()
      due[i] = tb.now() + timeout_s
      batcher:submit(i, { estimated_tokens = heavy(20, 1000), timeout_s = timeout_s })
      if i % 5 == 0 then tb.sleep(0.08 * exponential()) end
    end
    batcher:stop()
    local past = 0
    for _, call in ipairs(calls) do
      for k, i in ipairs(call.records) do
        local was_possible = call.at + a_s + b_s * call.costs[k] <= due[i] - 2e-6
        if was_possible and call.ended > due[i] + 2e-6 then past = past + 1 end
      end
    end
    assert.is_true(#calls > 200 and batcher.stats.avg_batch_size > 2)
    assert.equal(0, past)
  end))

  it("learns a and b within 10 % of the device's, with noise, and of one that changes", virtually(function()
    local a_s, b_s = 0.03, 2e-4
    local batcher = H.start { policy = "deadline", target_batch_tokens = 3000,
      takes = function(_, info) return (a_s + b_s * info.cost) * (0.95 + 0.1 * uniform()) end }
    local function feed(n)
      for i = 1, n do
        batcher:submit(i, { estimated_tokens = heavy(30, 2000) })
        tb.sleep(0.03 * exponential())
      end
    end
    local function is_near()
      local model = policy_of(batcher).model
      assert.near(a_s, model.a, 0.1 * a_s)
      assert.near(b_s, model.b, 0.1 * b_s)
    end
    feed(1500)
    is_near()
    a_s, b_s = 0.06, 1e-4
    feed(3000)
    is_near()
    batcher:stop()
  end))

  it("learns nothing from batches that failed", virtually(function()
    local batcher = H.start { policy = tb.policy.deadline { base_s = 1, per_token_s = 0.5 },
      inference_fn = function() error "no" end }
    for i = 1, 5 do
      batcher:submit(i)
      tb.sleep(0.1)
    end
    assert.same({ 1, 0.5 }, { policy_of(batcher).model.a, policy_of(batcher).model.b })
    batcher:stop()
  end))

  it("learns from batches in which some records failed", virtually(function()
    local batcher = H.start { policy = "deadline", max_batch_size = 2, inference_fn = function()
      tb.sleep(0.25)
      return { 1, tb.failure "bad" }
    end }
    H.submit_costs(batcher, { 1, 1 })
    batcher:stop()
    assert.near(0.25, policy_of(batcher).model:service(2), 1e-6)
  end))
end)

describe("adaptive:", function()
  -- Latencies over a device, of exponential traffic: `rate` records a second, `mean` tokens.
  local function latency(policy, given)
    seed = 21
    return H.run(function()
      local batcher = H.start { policy = policy, takes = device(given.a_s, given.b_s), target_batch_tokens = 32000,
        max_batch_size = 10000, max_queue_size = 1e6, batch_timeout_s = given.batch_timeout_s or 0.05 }
      for i = 1, given.n or 4000 do
        tb.sleep(exponential() / given.rate)
        for _ = 1, given.burst or 1 do batcher:submit(i, { estimated_tokens = math.ceil(200 * exponential()) }) end
      end
      local model = policy ~= "fifo" and policy_of(batcher).model
      batcher:stop()
      assert.equal(0, batcher.stats.policy_errors)
      return batcher.stats.latency_s.p99, batcher.stats.latency_s.mean, model
    end)
  end

  it("keeps p99 within its target where fifo with a big budget does not", function()
    for _, given in ipairs {
      { a_s = 0.02, b_s = 5e-5, rate = 20, batch_timeout_s = 1 },
      { a_s = 0.02, b_s = 5e-5, rate = 60, batch_timeout_s = 1 },
      { a_s = 0.05, b_s = 1e-5, rate = 100, batch_timeout_s = 0.8 } } do
      local fifo, adaptive = latency("fifo", given), latency(tb.policy.adaptive { latency_target_s = 0.5 }, given)
      assert.is_true(fifo > 0.5 and adaptive <= 0.5, ("%.3f against %.3f"):format(adaptive, fifo))
    end
  end)

  it("is no worse than fifo otherwise, from idle to overload", function()
    for _, given in ipairs {
      { a_s = 0.02, b_s = 5e-5, rate = 5 }, { a_s = 0.02, b_s = 5e-5, rate = 40 },
      { a_s = 0.02, b_s = 5e-5, rate = 70 }, { a_s = 0.02, b_s = 5e-5, rate = 90 },
      { a_s = 0.1, b_s = 5e-5, rate = 50 },
      { a_s = 0.2, b_s = 2e-5, rate = 50 },
      { a_s = 0.02, b_s = 5e-5, rate = 2, burst = 30, n = 300 }, { a_s = 0.002, b_s = 5e-6, rate = 600 },
      { a_s = 0.02, b_s = 5e-5, rate = 130, n = 2000 } } do
      local fifo, fifo_mean = latency("fifo", given)
      local adaptive, mean = latency("adaptive", given)
      local text = ("a %g rate %d: p99 %.3f against %.3f, mean %.3f against %.3f"):format(given.a_s, given.rate,
        adaptive, fifo, mean, fifo_mean)
      assert.is_true(adaptive <= 1.06 * fifo and mean <= 1.06 * fifo_mean, text)
    end
  end)

  it("learns a and b within 10 %", function()
    for _, given in ipairs { { a_s = 0.02, b_s = 5e-5, rate = 60 }, { a_s = 0.2, b_s = 2e-5, rate = 50 },
      { a_s = 0.002, b_s = 5e-6, rate = 300 } } do
      local _, _, model = latency("adaptive", given)
      assert.near(given.a_s, model.a, 0.1 * given.a_s)
      assert.near(given.b_s, model.b, 0.1 * given.b_s)
    end
  end)

  it("takes no more at once than the oldest record can wait for", virtually(function()
    local batcher, calls = H.start { policy = tb.policy.adaptive { latency_target_s = 0.5 }, target_batch_tokens = 1e5,
      takes = device(0.01, 1e-4) }
    for i = 1, 60 do
      batcher:submit(i, { estimated_tokens = 50 + draw(100) })
      tb.sleep(0.05)
    end
    tb.sleep(1)
    local before = #calls
    for i = 1, 100 do batcher:submit(i, { estimated_tokens = 100 }) end
    batcher:stop()
    local call = calls[before + 1]
    assert.is_true(call.size > 20 and call.size < 100)
    assert.is_true(call.ended - call.at <= 0.5 + 1e-6)
  end))
end)

describe("rate_limited:", function()
  -- In every window of a minute that begins with a call: what was sent.
  local function check_windows(calls, max_requests, max_tokens)
    for i = 1, #calls do
      local requests, tokens = 0, 0
      for k = i, #calls do
        if calls[k].at > calls[i].at + 60 then break end
        requests, tokens = requests + (calls[k].requests or 1), tokens + calls[k].cost
      end
      assert.is_true(requests <= max_requests and tokens <= max_tokens,
        ("%d requests, %d tokens in the minute from %.3f"):format(requests, tokens, calls[i].at))
    end
  end

  it("never sends more than its limits in any sliding minute, stop included", function()
    for round, limits in ipairs { { 5, 4000 }, { 60, 900 }, { 1, 1e9 }, { 1e9, 700 } } do
      for _, inner in ipairs { "fifo", "eager", "priority", "length_bucketed", "fair", "deadline", "adaptive" } do
        seed = 30 + round
        H.run(function()
          local batcher, calls = H.start { max_concurrent_batches = round, takes = function() return 3 * uniform() end,
            target_batch_tokens = 500, max_batch_size = 8, batch_timeout_s = 0.5,
            policy = tb.policy.rate_limited {
              requests_per_minute = limits[1], tokens_per_minute = limits[2], inner = inner } }
          for i = 1, 150 do
            batcher:submit(i, { estimated_tokens = heavy(10, 600), priority = draw(3), key = "k" .. draw(4) })
            if draw(3) == 0 then tb.sleep(8 * exponential()) end
          end
          batcher:stop()
          assert.equal(150, batcher.stats.total_completed)
          assert.equal(0, batcher.stats.policy_overruled + batcher.stats.policy_errors)
          check_windows(calls, limits[1], limits[2])
        end)
      end
    end
  end)

  it("uses what it may: the next batch goes a moment after the minute", virtually(function()
    local batcher, calls = H.start { policy = tb.policy.rate_limited { requests_per_minute = 2 }, max_batch_size = 1 }
    for i = 1, 5 do batcher:submit(i) end
    batcher:stop()
    local expected = { 0, 0, 60, 60, 120 }
    for i, call in ipairs(calls) do
      assert.is_true(call.at >= expected[i] and call.at < expected[i] + 1e-5)
    end
    check_windows(calls, 2, 1e9)
  end))

  it("stop{timeout_s} bounds the wait", virtually(function()
    local batcher = H.start { policy = tb.policy.rate_limited { requests_per_minute = 1 }, max_batch_size = 1 }
    for i = 1, 3 do batcher:submit(i) end
    batcher:stop { timeout_s = 70 }
    assert.same({ 2, 1 }, { batcher.stats.total_completed, batcher.stats.total_failed })
    assert.near(70, tb.now(), 1e-6)
  end))

  it("its log outlives stop: a restart grants no fresh minute", virtually(function()
    local batcher, calls = H.start { policy = tb.policy.rate_limited { requests_per_minute = 1 } }
    batcher:submit "a"
    batcher:stop()
    batcher:start()
    batcher:submit "b"
    batcher:stop()
    check_windows(calls, 1, 1e9)
    assert.near(60, calls[2].at - calls[1].at, 1e-5)
  end))

  it("counts what the backend reports in info.requests", virtually(function()
    local sent = {}
    local batcher = H.start { policy = tb.policy.rate_limited { requests_per_minute = 10 }, max_batch_size = 1,
      inference_fn = function(records, info)
        info.requests = 4
        sent[#sent + 1] = { at = tb.now(), requests = 4, cost = 1 }
        return records
      end }
    for i = 1, 9 do batcher:submit(i) end
    batcher:stop()
    assert.equal(9, #sent)
    check_windows(sent, 12, 1e9) -- the last one is known when it is over
    assert.near(60, sent[4].at, 1e-5)
    batcher:set { inference_fn = function(records, info)
      info.requests = "many"
      return records
    end }
    batcher:start()
    batcher:submit "a"
    batcher:stop()
    assert.equal(0, batcher.stats.policy_errors)
  end))

  it("a record above tokens_per_minute is refused at submission: oversize, counted as rejected", virtually(function()
    local batcher, calls = H.start { policy = tb.policy.rate_limited { tokens_per_minute = 100.5 } }
    assert.equal("re:a", (batcher:submit("a", { estimated_tokens = 100 }):await()))
    for _, method in ipairs { "submit", "try_submit" } do
      local future, err = batcher[method](batcher, "b", { estimated_tokens = 100.25 })
      assert.same({ nil, "oversize" }, { future, err.code })
      assert.matches("100", tostring(err))
    end
    assert.equal(2, batcher.stats.total_rejected)
    local futures, err = batcher:submit_batch({ "c", "d", "e" }, { estimated_tokens = { 1, 200, 1 } })
    assert.same({ nil, "oversize" }, { futures, err.code })
    local stats = batcher.stats
    assert.same({ 5, 1, 0 }, { stats.total_rejected, stats.total_submitted, stats.total_cancelled })
    batcher:set { policy = "fifo" }
    assert.is_table(batcher:submit("f", { estimated_tokens = 200 }))
    batcher:stop()
    assert.same({ "a", "f" }, H.batches(calls))
  end))

  it("a record above it that was queued before goes alone, in a minute of its own", virtually(function()
    local batcher, calls = H.start { batch_timeout_s = 9 }
    H.submit_costs(batcher, { 300, 40, 50 })
    batcher:set { policy = tb.policy.rate_limited { tokens_per_minute = 100, inner = "priority" } }
    batcher:stop()
    assert.same({ "r1", "r2 r3" }, H.batches(calls))
    assert.is_true(calls[2].at - calls[1].at > 60)
  end))

  it("an oversize record keeps to what is left of the minute, too", virtually(function()
    local batcher, calls = H.start { policy = tb.policy.rate_limited { tokens_per_minute = 1000 },
      target_batch_tokens = 100, takes = 0.01, batch_timeout_s = 0.01 }
    H.submit_costs(batcher, { 90, 800, 90, 90, 700 })
    batcher:stop()
    check_windows(calls, 1e9, 1000)
    assert.equal(5, batcher.stats.total_completed)
  end))

  it("what inner wants next is not overtaken for its size", virtually(function()
    local batcher, calls = H.start { max_batch_size = 1, policy = tb.policy.rate_limited {
      tokens_per_minute = 100, inner = "priority" } }
    batcher:submit("first", { estimated_tokens = 50, priority = 2 })
    batcher:submit("small", { estimated_tokens = 10 })
    batcher:submit("large", { estimated_tokens = 90, priority = 99 })
    batcher:submit("second", { estimated_tokens = 20, priority = 50 })
    batcher:stop()
    assert.same({ "large", "second", "first", "small" }, H.batches(calls))
    check_windows(calls, 1e9, 100)
  end))

  it("max_wait_s does not break the limits", virtually(function()
    local policy = tb.policy.rate_limited { tokens_per_minute = 100, requests_per_minute = 3 }
    local batcher, calls = H.start { policy = policy, max_wait_s = 1, max_batch_size = 4 }
    for i = 1, 40 do batcher:submit(i, { estimated_tokens = 1 + draw(60) }) end
    batcher:stop()
    check_windows(calls, 3, 100)
  end))

  it("an inner policy that throws, or keeps silent, breaks no limit: fifo chooses in its place", function()
    local inners = {
      { form = function(queue, batch)
        batch:add(queue.size)
        error "inner"
      end, on_complete = function() error "inner" end },
      { form = function() end }, { form = function(_, _, now) return now end }, { form = function() return "x" end },
      { form = function(_, batch) batch:add(0) end },
    }
    for k, inner in ipairs(inners) do
      H.run(function()
        local said = {}
        local batcher, calls = H.start { max_batch_size = 2, log = function(_, text) said[#said + 1] = text end,
          policy = tb.policy.rate_limited { requests_per_minute = 2, tokens_per_minute = 50, inner = inner } }
        for i = 1, 40 do batcher:submit(i, { estimated_tokens = 1 + draw(30) }) end
        batcher:stop()
        assert.equal(40, batcher.stats.total_completed)
        check_windows(calls, 2, 50)
        local throws = k == 1 or k == 5
        assert.same({ throws and 10 or 0, throws and 2 or 0 }, { batcher.stats.policy_errors, #said })
        if throws then assert.matches("policy 'rate_limited': its inner policy raised: .*; fifo decides", said[1]) end
        if throws then assert.matches("policy 'rate_limited': its inner policy failed too often", said[2]) end
      end)
    end
  end)

  it("inner may be a name, a table, a file, or another policy that ships with its parameters", virtually(function()
    local path = os.tmpname()
    local file = io.open(path, "w")
    file:write "return function() return { form = function(q, b) for i in q:by_cost() do b:add(i) end end } end"
    file:close()
    local newest = { form = function(queue, batch) for i = queue.size, 1, -1 do batch:add(i) end end }
    for inner, expected in pairs { [newest] = "r3 r2 r1", [path] = "r2 r3 r1", [tb.policy.eager {}] = "r1 r2 r3",
      [tb.policy.fair { quantum = 5 }] = "r1 r2 r3" } do
      local batcher, calls = H.start { policy = tb.policy.rate_limited { requests_per_minute = 5, inner = inner } }
      H.submit_costs(batcher, { 3, 1, 2 })
      batcher:stop()
      assert.same({ expected }, H.batches(calls))
    end
    os.remove(path)
  end))
end)

describe("parameters:", function()
  local BAD = { "5", true, {}, 0 / 0, math.huge, -1, false, print }

  it("every number of every policy is validated: type, range, NaN and infinity", function()
    local checked = 0
    for _, name in ipairs(policies.names) do
      for _, p in ipairs(policies.module(name).parameters) do
        if p.kind == "number" then
          for _, bad in ipairs(BAD) do
            local line = H.line() + 1
            local message = H.message(function() tb.policy[name] { [p.name] = bad } end)
            local said = ("policy '%s': parameter '%s' must be a number of %s"):format(name, p.name, p.unit)
            assert.matches(said, message, 1, true)
            assert.matches("shipped_policies_spec.lua:" .. line .. ":", message, 1, true)
            checked = checked + 1
          end
          assert.equal("string", type(p.text))
        end
      end
    end
    assert.is_true(checked >= 8 * 7)
  end)

  it("bounds are those of their descriptions", function()
    for _, case in ipairs { { "priority", "aging_s" }, { "fair", "quantum" }, { "deadline", "slo_s" },
      { "adaptive", "latency_target_s" } } do
      assert.matches("above 0, got 0", H.message(tb.policy[case[1]], { [case[2]] = 0 }))
      tb.policy[case[1]] { [case[2]] = 1e-9 }
    end
    for _, name in ipairs { "requests_per_minute", "tokens_per_minute" } do
      assert.matches(">= 1, got 0.5", H.message(tb.policy.rate_limited, { [name] = 0.5 }))
      tb.policy.rate_limited { [name] = 1 }
    end
    tb.policy.deadline { base_s = 0, per_token_s = 0 }
  end)

  it("an unknown name is an error that names the nearest", function()
    for _, case in ipairs { { "fair", "quantom", "quantum" }, { "priority", "ageing_s", "aging_s" },
      { "deadline", "slo", "slo_s" }, { "deadline", "per_token", "per_token_s" },
      { "adaptive", "target_s", "latency_target_s" },
      { "rate_limited", "request_per_minute", "requests_per_minute" } } do
      local message = H.message(tb.policy[case[1]], { [case[2]] = 1 })
      local said = ("policy '%s': unknown parameter '%s'; did you mean '%s'?"):format(unpack(case))
      assert.matches(said, message, 1, true)
    end
    for _, name in ipairs { "fifo", "eager", "length_bucketed" } do
      assert.matches("unknown parameter 'x'; it has none", H.message(tb.policy[name], { x = 1 }))
      tb.policy[name] {}
      tb.policy[name]()
    end
    assert.matches("unknown parameter '1'", H.message(tb.policy.fair, { 5 }))
    assert.matches("parameters must be a table, got a number", H.message(tb.policy.fair, 5))
    assert.matches("has no 'fare'; it has: fifo, eager", H.message(function() return tb.policy.fare end))
  end)

  it("an inner policy is checked with the others", function()
    for bad, said in pairs { fify = "did you mean 'fifo'", ["./no.lua"] = "no.lua", [5] = "got a number",
      [{}] = "form" } do
      assert.matches("policy 'rate_limited': parameter 'inner': .*" .. said,
        H.message(tb.policy.rate_limited, { inner = bad }))
    end
  end)
end)
