-- on_time and deadline, and what they are made of: which jobs are kept, and how long batches take.

local tb = require "tokenbatcher"
local batch_model = require "tokenbatcher.policy.support.batch_model"
local keep = require "tokenbatcher.policy.support.keep"
local H = require "tests.lua.helper"
local virtually = H.virtually

local seed = 1
local function draw(n)
  seed = (seed * 1103515245 + 12345) % 2 ^ 31
  return math.floor(seed / 2 ^ 12) % n
end

local function uniform() return (draw(100000) + 0.5) / 100000 end

before_each(function() seed = 1 end)

local function device(a_s, b_s, c_s)
  return function(records, info)
    local largest = 0
    for i = 1, #records do largest = math.max(largest, info.costs[i]) end
    return a_s + b_s * info.cost + (c_s or 0) * #records * largest
  end
end

-- How many of these jobs can be done in time at the most: all subsets, each by due time.
local function most(jobs)
  local order, best = {}, 0
  for i = 1, jobs.n do order[i] = i end
  table.sort(order, function(x, y) return jobs.due[x] < jobs.due[y] end)
  for set = 0, 2 ^ jobs.n - 1 do
    local at, count, is_late = 0, 0, false
    for _, i in ipairs(order) do
      if math.floor(set / 2 ^ (i - 1)) % 2 == 1 then
        at, count = at + jobs.work[i], count + 1
        is_late = is_late or at > jobs.due[i]
      end
    end
    if not is_late then best = math.max(best, count) end
  end
  return best
end

describe("jobs that are kept", function()
  it("are as many as can be, and all in time (against all subsets)", function()
    local jobs, dropped = keep.new(), 0
    for _ = 1, 500 do
      jobs:clear()
      for _ = 1, 1 + draw(9) do jobs:add(1 + draw(30), 1 + draw(12), 1) end
      local longest = jobs:run(0)
      local at, count, top = 0, 0, 0
      for place = 1, jobs.n do
        local i = jobs.order[place]
        assert.is_true(place == 1 or jobs.due[jobs.order[place - 1]] <= jobs.due[i])
        if jobs.kept[i] then
          at, count, top = at + jobs.work[i], count + 1, math.max(top, jobs.work[i])
          assert.is_true(at <= jobs.due[i])
        end
      end
      assert.equal(most(jobs), count)
      assert.equal(top, longest)
      dropped = dropped + jobs.n - count
    end
    assert.is_true(dropped > 250)
  end)

  it("are in order of due time, many of them and one that is due in a year, too", function()
    local jobs = keep.new()
    for _ = 1, 300 do jobs:add(10 * uniform(), 1e-4, 1) end
    jobs:add(3e7, 1e-4, 1)
    jobs:run(0)
    local seen = {}
    for place = 2, 301 do
      assert.is_true(jobs.due[jobs.order[place]] > jobs.due[jobs.order[place - 1]] - 0.005)
      seen[jobs.order[place]] = true
    end
    assert.is_true(seen[301] and jobs.order[301] == 301)
  end)

  it("count for as many as they stand for", function()
    local jobs = keep.new()
    jobs:add(10, 1, 1)
    jobs:add(10, 2, 1)
    jobs:add(10, 1, 8)
    assert.equal(1, jobs:run(0))
    assert.same({ true, false, true }, { unpack(jobs.kept, 1, 3) })
  end)
end)

describe("the model of how long batches take", function()
  local function learn(model, n, a, b, c, straggle)
    for _ = 1, n do
      local records, largest = 1 + draw(20), 1 + draw(2000)
      local cost = math.ceil(largest + (records - 1) * largest * uniform())
      local service_s = a + b * cost + c * records * largest
      if straggle and draw(20) == 0 then service_s = 5 * service_s end
      model:learn { cost = cost, padded = records * largest, service_s = service_s, size = records, failed = 0 }
    end
    return { model.a, model.b, model.c }
  end

  it("finds a, b and c within 5 %, from nothing and from a wrong guess", function()
    for _, guess in ipairs { { 0, 0 }, { 1, 0.01 } } do
      for _, truth in ipairs { { 0.05, 4e-5, 0 }, { 0.05, 0, 4e-5 }, { 0.02, 2e-5, 3e-5 }, { 0, 1e-4, 0 } } do
        local found = learn(batch_model.new(guess[1], guess[2]), 500, unpack(truth))
        for i = 1, 3 do assert.near(truth[i], found[i], 0.05 * truth[i] + 1e-6) end
      end
    end
  end)

  it("stragglers make the others look 15 % slower at the most, where the mean is 20 % higher", function()
    local found = learn(batch_model.new(0, 0), 2000, 0.05, 4e-5, 0, true)
    local service_s = found[1] + (found[2] + found[3]) * 2000
    assert.is_true(service_s > 0.12 and service_s < 1.15 * 0.13, tostring(service_s))
  end)

  it("follows a device that becomes ten times as slow, and back", function()
    local model = batch_model.new(0, 0)
    learn(model, 300, 0.05, 4e-5, 0)
    for _, factor in ipairs { 10, 1 } do
      learn(model, 400, 0.05 * factor, 4e-5 * factor, 0)
      assert.near(0.13 * factor, model:service(2000), 0.01 * factor)
    end
  end)

  it("trusts no batch more than four times the largest so far, unless there is a guess", function()
    local model = batch_model.new(0, 0)
    assert.equal(math.huge, model:trusted())
    model:learn { cost = 100, padded = 100, service_s = 1, size = 1, failed = 0 }
    assert.equal(400, model:trusted())
    assert.equal(math.huge, batch_model.new(0.1, 0):trusted())
  end)
end)

-- How many of a burst are answered in time, a and b unknown to the policy.
local function answered(policy, options, n, gap_s, slo_s)
  return H.run(function()
    local given = { policy = policy, takes = device(0.05, 4e-5), max_queue_size = 100000 }
    for name, value in pairs(options or {}) do given[name] = value end
    local batcher, calls = H.start(given)
    local due = {}
    for i = 1, n do
      tb.sleep(-gap_s * math.log(uniform()))
      due[i] = tb.now() + slo_s
      batcher:submit(i, { estimated_tokens = math.ceil(200 / uniform() ^ 0.8) })
    end
    batcher:stop()
    assert.same({ 0, 0, n }, { batcher.stats.policy_errors, batcher.stats.policy_overruled,
      batcher.stats.total_completed })
    local met = 0
    for _, call in ipairs(calls) do
      for _, i in ipairs(call.records) do
        if call.ended <= due[i] then met = met + 1 end
      end
    end
    return met / n
  end)
end

describe("under three times what the device can do", function()
  local function met(policy, options)
    seed = 3
    return answered(policy, options, 2000, 0.01, 1)
  end

  it("deadline does not collapse, and on_time does better still", function()
    local fifo, deadline = met "fifo", met(tb.policy.deadline { slo_s = 1 })
    local on_time = met(tb.policy.on_time { slo_s = 1 })
    local text = ("fifo %.3f, deadline %.3f, on_time %.3f"):format(fifo, deadline, on_time)
    assert.is_true(fifo < 0.1 and deadline > 0.45 and on_time > deadline + 0.1, text)
  end)
end)

describe("who is late keeps others out of a queue of 20:", function()
  it("the shortest of them go first, so that more find room", function()
    local bounded = { max_queue_size = 20, log = function() end }
    seed = 3
    local mine = answered(tb.policy.on_time { slo_s = 1 }, bounded, 1000, 0.025, 1)
    seed = 3
    local shortest = answered("examples/policies/shortest_on_time.lua", bounded, 1000, 0.025, 1)
    assert.is_true(mine > shortest, ("%.3f against %.3f"):format(mine, shortest))
  end)
end)

describe("on_time:", function()
  it("a batch grows beyond what is weighed at a decision, to max_batch_size", virtually(function()
    local batcher, calls = H.start { policy = tb.policy.on_time { slo_s = 60, base_s = 0.1, per_token_s = 1e-5 },
      max_batch_size = 1000, max_concurrent_batches = 1, takes = 0.1 }
    batcher:submit "first"
    tb.sleep(0.01)
    for i = 1, 1500 do batcher:submit(i, { estimated_tokens = 1 + i % 7 }) end
    batcher:stop()
    assert.same({ 1, 1000, 500 }, { calls[1].size, calls[2].size, calls[3].size })
  end))

  it("records of different groups never share a batch, and a batch is of one group from then on", virtually(function()
    local batcher, calls = H.start { policy = tb.policy.on_time { slo_s = 5 }, takes = 0.05 }
    for round = 1, 5 do
      for i = 1, 40 do batcher:submit(i, { group = i % 2 == 0 and "a" or "b" }) end
      tb.sleep(0.3 * round)
    end
    batcher:stop()
    assert.equal(200, batcher.stats.total_completed)
    assert.equal(0, batcher.stats.policy_errors + batcher.stats.policy_overruled)
    assert.is_true(#calls <= 12, #calls .. " batches")
  end))

  it("texts that are padded: a long one does not travel with the short", virtually(function()
    local batcher, calls = H.start { policy = tb.policy.on_time { slo_s = 2 }, cost_model = "padded",
      takes = device(0.01, 1e-5) }
    local function burst()
      for i = 1, 20 do batcher:submit("short" .. i, { estimated_tokens = 20 }) end
      batcher:submit("long", { estimated_tokens = 4000 })
    end
    for _ = 1, 30 do
      burst()
      tb.sleep(1)
    end
    local from = #calls
    burst()
    batcher:stop()
    for k = from + 1, #calls do
      assert.is_true(calls[k].size == 1 or calls[k].cost <= 20 * 20, calls[k].size .. " for " .. calls[k].cost)
    end
  end))
end)

describe("deadline:", function()
  it("gathers as fifo does where no record has a deadline, nor an slo: it is no `eager`", virtually(function()
    local batcher, calls = H.start { policy = "deadline", batch_timeout_s = 0.5, takes = 0.01 }
    local at = tb.now()
    for i = 1, 4 do
      batcher:submit(i)
      tb.sleep(0.1)
    end
    batcher:stop()
    assert.same({ 1, 4 }, { #calls, calls[1].size })
    assert.near(0.4, calls[1].at - at, 1e-6) -- stop() came before batch_timeout_s
  end))

  it("who has no deadline rides along with one that has, if there is room", virtually(function()
    local batcher, calls = H.start { policy = tb.policy.deadline { base_s = 0.1 }, batch_timeout_s = 60, takes = 0.1 }
    batcher:submit "plain"
    batcher:submit("urgent", { timeout_s = 1 })
    batcher:stop { timeout_s = 5 }
    assert.same({ "urgent plain" }, H.batches(calls))
  end))

  it("sees padding: short records in time go together, where the long one would make them late", virtually(function()
    local batcher, calls = H.start { policy = tb.policy.deadline { slo_s = 0.5 }, takes = device(0.01, 0, 1e-5) }
    for _ = 1, 30 do
      batcher:submit("long", { estimated_tokens = 9000 })
      for i = 1, 20 do batcher:submit("short" .. i, { estimated_tokens = 20 }) end
      tb.sleep(2)
    end
    batcher:stop()
    local late = 0
    for k = #calls - 20, #calls do
      if calls[k].ended - calls[k].at > 0.5 then late = late + 1 end
    end
    assert.equal(0, late)
  end))
end)
