-- F1: records of different groups never share a batch; what a policy sees of groups.

local tb = require "tokenbatcher"
local H = require "tests.lua.helper"
local virtually = H.virtually

-- Submit "a1 b1 a2": the first letter of a record is its group.
local function submit_all(batcher, text, opts)
  local futures = {}
  for record in text:gmatch "%S+" do
    local given = { group = record:sub(1, 1), estimated_cost = 1 }
    for name, value in pairs(opts or {}) do given[name] = value end
    futures[#futures + 1] = batcher:submit(record, given)
  end
  return futures
end

local function assert_pure(calls)
  for _, call in ipairs(calls) do
    for _, record in ipairs(call.records) do
      assert.equal(call.records[1]:sub(1, 1), record:sub(1, 1), table.concat(call.records, " "))
    end
  end
end

describe("groups:", function()
  it("F1: a change of group ends a batch of fifo, and that batch is full", virtually(function()
    local batcher, calls = H.start { batch_timeout_s = 5 }
    submit_all(batcher, "a1 a2 b1 a3")
    tb.sleep(0)
    tb.sleep(0)
    batcher:stop()
    assert.same({ "a1 a2", "b1", "a3" }, H.batches(calls))
    assert.equal("full", calls[1].reason)
    assert.equal(0, calls[1].at)
  end))

  it("F1: eager, cuts ahead and a policy that names everything keep groups apart", virtually(function()
    local greedy = { form = function(queue, batch) for i = 1, queue.size do batch:add(i) end end }
    local policies = { "fifo", "eager", "priority", "length_bucketed", "fair", "deadline", "adaptive", greedy }
    for _, policy in ipairs(policies) do
      local batcher, calls = H.start { policy = policy, takes = 0.1, max_batch_size = 4, prefetch_batches = 3 }
      local futures = submit_all(batcher, "a1 b1 a2 a3 b2 c1 c2 a4 a5 a6 a7 b3 b4 b5 b6 b7")
      batcher:stop()
      assert_pure(calls)
      for _, future in ipairs(futures) do assert.matches("^re:", (future:await())) end
    end
  end))

  it("F1: max_wait_s puts in the oldest record's group, the others come first in later batches", virtually(function()
    local never = { form = function(queue, batch) if queue.due then batch:add(queue.size) end end }
    local batcher, calls = H.start { policy = never, max_wait_s = 1, batch_timeout_s = 10 }
    submit_all(batcher, "a1 b1 a2")
    batcher:stop()
    assert_pure(calls)
  end))

  it("batch:add says why not: group, budget", virtually(function()
    local said = {}
    local policy = { form = function(queue, batch)
      for i = 1, queue.size do
        local is_in, why = batch:add(i)
        said[#said + 1] = queue:record(i) .. (is_in and "+" or "-" .. why)
      end
    end }
    local batcher = H.start { policy = policy, max_batch_size = 2 }
    submit_all(batcher, "a1 b1 a2 a3")
    tb.sleep(0)
    assert.same({ "a1+", "b1-group", "a2+", "a3-budget" }, { unpack(said, 1, 4) })
    batcher:stop()
  end))

  it("a policy sees groups in the order of their first records, and each one's records", virtually(function()
    local seen
    local policy = { form = function(queue, batch)
      if not queue.due then return end
      seen = seen or {}
      for group in queue:groups() do
        local list = {}
        for i in queue:of_group(group) do list[#list + 1] = queue:record(i) .. queue:group(i) end
        seen[#seen + 1] = group .. ":" .. table.concat(list, ",")
      end
      batch:add(1)
    end }
    local batcher = H.start { policy = policy, batch_timeout_s = 1, max_concurrent_batches = 1, takes = 1 }
    submit_all(batcher, "b1 a1 b2")
    tb.sleep(1.5)
    assert.same({ "b:b1b,b2b", "a:a1a" }, seen)
    batcher:stop()
  end))

  it("F2, F3: full and due are asked for one group, too", virtually(function()
    local seen = {}
    local policy = { form = function(queue, batch)
      seen[#seen + 1] = ("%s %s %s %s %s"):format(tostring(queue.full), tostring(queue:full_of_group "a"),
        tostring(queue:full_of_group "b"), tostring(queue:due_of_group "a"), tostring(queue:due_of_group "b"))
      if queue.full or queue.due then batch:add(1) end
    end }
    local batcher = H.start { policy = policy, max_batch_size = 2, batch_timeout_s = 1 }
    submit_all(batcher, "b1", { batch_timeout_s = 3 })
    submit_all(batcher, "a1", {})
    tb.sleep(0)
    tb.sleep(1.1)
    submit_all(batcher, "a2 a3", {})
    tb.sleep(0)
    assert.equal("false false false false false", seen[1])
    assert.equal("false false false true false", seen[2])
    batcher:stop()
  end))

  it("a group that is no string is refused at the caller's line", virtually(function()
    local batcher = H.start()
    local message = H.message(function() batcher:submit("x", { group = 5 }) end)
    assert.matches("group_spec.lua:%d+: submit: group must be a string, got 5", message)
    batcher:stop()
  end))

  it("info names the batch's group; a record without one is in \"\"", virtually(function()
    local groups = {}
    local batcher = tb.TokenBatcher { inference_fn = function(records, info)
      groups[#groups + 1] = info.group
      return records
    end }
    batcher:start()
    batcher:submit("x", { group = "m" })
    batcher:submit "y"
    batcher:stop()
    assert.same({ "m", "" }, groups)
  end))

  it("S5: submit_batch takes one group for all", virtually(function()
    local batcher, calls = H.start { batch_timeout_s = 1 }
    batcher:submit_batch({ "a1", "a2" }, { group = "a" })
    batcher:submit_batch({ "b1" }, { group = "b" })
    batcher:stop()
    assert.same({ "a1 a2", "b1" }, H.batches(calls))
  end))
end)

describe("one_group", function()
  it("sends the group that fills a batch at once, the others when due", virtually(function()
    local batcher, calls = H.start { policy = "one_group", max_batch_size = 3, batch_timeout_s = 1 }
    submit_all(batcher, "a1 b1 a2 b2 a3")
    tb.sleep(0.5)
    assert.same({ "a1 a2 a3" }, H.batches(calls))
    tb.sleep(1)
    assert.same({ "a1 a2 a3", "b1 b2" }, H.batches(calls))
    batcher:stop()
  end))

  it("lets no group starve beside one that is always full", virtually(function()
    local batcher, calls = H.start { policy = "one_group", max_batch_size = 2, batch_timeout_s = 0.1, takes = 0.2 }
    submit_all(batcher, "b1")
    for i = 1, 20 do
      submit_all(batcher, ("a%d a%d"):format(2 * i, 2 * i + 1))
      tb.sleep(0.1)
    end
    local at
    for i, call in ipairs(calls) do if call.records[1] == "b1" then at = i end end
    assert.is_true(at ~= nil and at <= 3, "b1 went as number " .. tostring(at))
    batcher:stop()
  end))

  it("sends the group of the oldest when the queue can take no more and none is full", virtually(function()
    local batcher, calls = H.start { policy = "one_group", max_batch_size = 4, max_queue_size = 4, batch_timeout_s = 9 }
    submit_all(batcher, "a1 b1 a2 c1")
    tb.sleep(0)
    tb.sleep(0)
    assert.same({ "a1 a2" }, H.batches(calls))
    batcher:stop()
  end))

  it("gathers densely where fifo sends ones", virtually(function()
    local sizes = {}
    for _, policy in ipairs { "fifo", "one_group" } do
      local batcher, calls = H.start { policy = policy, max_batch_size = 8, takes = 0.1 }
      for i = 1, 64 do batcher:submit(("abcd"):sub(i % 4 + 1, i % 4 + 1) .. i, { group = "g" .. i % 4 }) end
      batcher:stop()
      sizes[policy] = 64 / #calls
    end
    assert.equal(1, sizes.fifo)
    assert.equal(8, sizes.one_group)
  end))
end)
