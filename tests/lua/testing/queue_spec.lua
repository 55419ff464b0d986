-- tokenbatcher.testing: a queue made by hand, and what a policy picks from it.

local policies = require "tokenbatcher.policy"
local tb = require "tokenbatcher"
local testing = require "tokenbatcher.testing"

local SHORTEST = "examples/policies/shortest_first.lua"

-- A policy of one function.
local function by(form) return { form = form } end

-- Takes all that fits, in the order of arrival, as soon as it is asked.
local all = by(function(queue, batch)
  for i = 1, queue.size do batch:add(i) end
end)

local function message_of(fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok)
  return tostring(err)
end

describe("a queue made by hand:", function()
  it("the batch has the indexes in its order, cost, padding and reason", function()
    local queue = testing.queue({ { cost = 900, waited_s = 0.4 }, { cost = 300 }, { cost = 100 } },
      { policy = SHORTEST, target_batch_tokens = 1000, batch_timeout_s = 0.4 })
    local batch = queue:pick()
    assert.same({ indexes = { 3, 2 }, cost = 400, padded = 600, reason = "policy", overruled = false }, batch)
    assert.equal(1, queue.size)
  end)

  it("nil is: not now, and when it is asked again", function()
    local queue = testing.queue({ { cost = 10, waited_s = 0.25 } }, { policy = SHORTEST, batch_timeout_s = 1 }, 100)
    local batch, at = queue:pick()
    assert.is_nil(batch)
    assert.equal(100.75, at)
    queue:wait(0.75)
    assert.same({ 1 }, queue:pick().indexes)
    assert.equal(0, queue.size)
  end)

  it("a time that the policy asks for is that of the next question, and it is asked then", function()
    local asked = {}
    local queue = testing.queue({ { cost = 1 } }, { batch_timeout_s = 60, policy = by(function(_, _, now)
      asked[#asked + 1] = now
      return now + 2
    end) }, 50)
    assert.same({ nil, 52 }, { queue:pick() })
    assert.same({ nil, 52 }, { queue:pick() }) -- nothing has happened
    queue:wait(2)
    queue:pick()
    assert.same({ 50, 52 }, asked)
  end)

  it("the policy sees every field of a record, and the clock", function()
    local record, seen = { text = "hello" }, nil
    testing.queue({ { cost = 7, key = "a", group = "g", priority = 3, waited_s = 0.5, timeout_s = 2, slo_s = 1.5,
      record = record } }, { policy = by(function(queue, _, now)
      seen = { queue:cost(1), queue:key(1), queue:group(1), queue:priority(1), queue:age(1), queue:deadline(1),
        queue:slo(1), queue:record(1), now }
    end) }, 10):pick()
    assert.same({ 7, "a", "g", 3, 0.5, 11.5, 1.5, record, 10 }, seen)
    assert.equal(record, seen[8])
  end)

  it("without a cost the record's is estimated, without slo_s the option says it", function()
    local seen
    testing.queue({ { record = "four" }, { record = "four", slo_s = 9 } }, {
      token_estimator = function(text) return #text end, slo = "1 + tokens",
      policy = by(function(queue) seen = { queue:cost(1), queue:slo(1), queue:slo(2) } end),
    }):pick()
    assert.same({ 4, 5, 9 }, seen)
  end)

  it("slots, groups and the budget are the core's", function()
    local queue = testing.queue({ { cost = 6, group = "a" }, { cost = 1, group = "b" }, { cost = 5, group = "a" },
      { cost = 4, group = "a" } }, { policy = all, target_batch_tokens = 10 })
    local first = queue:pick()
    assert.same({ 1, 4 }, first.indexes)
    assert.is_nil(queue:pick()) -- its slot is taken
    queue:done(first)
    assert.same({ 2 }, queue:pick().indexes)
  end)

  it("what is in the core picks, too", function()
    local records = { { cost = 5 }, { cost = 5 } }
    assert.same({ 1, 2 }, testing.queue(records, { policy = "eager" }):pick().indexes)
    assert.equal("idle", testing.queue(records, { policy = "eager" }):pick().reason)
    assert.is_nil(testing.queue(records, { batch_timeout_s = 1 }):pick()) -- fifo lingers
    local queue = testing.queue(records, { batch_timeout_s = 1 })
    queue:drain()
    assert.equal("drain", queue:pick().reason)
  end)

  it("one that names nobody of a due queue is overruled, and the batch says so", function()
    local queue = testing.queue({ { cost = 1, waited_s = 2 } }, { policy = by(function() end), batch_timeout_s = 1 })
    local batch = queue:pick()
    assert.same({ 1 }, batch.indexes)
    assert.is_true(batch.overruled)
  end)

  it("a record whose time is over leaves, and later ones keep their indexes", function()
    local queue = testing.queue({ { cost = 1, timeout_s = 1, key = "k" }, { cost = 1 } },
      { policy = SHORTEST, batch_timeout_s = 60 })
    queue:wait(1.5)
    assert.equal(1, queue.size)
    assert.equal(3, queue:add { cost = 1 })
    queue:drain()
    assert.same({ 2, 3 }, queue:pick().indexes)
  end)

  it("on_complete hears how long a batch took", function()
    local heard
    local queue = testing.queue({ { cost = 3 }, { cost = 5 } }, { policy = { form = all.form,
      on_complete = function(report) heard = report end } }, 10)
    local batch = queue:pick()
    queue:wait(0.25)
    queue:done(batch)
    assert.same({ 2, 8, 10, 0, 0.25, 10.25 },
      { heard.size, heard.cost, heard.padded, heard.failed, heard.service_s, heard.now })
    assert.matches("not over yet", message_of(queue.done, queue, batch))
  end)

  it("a batch that runs for inference_timeout_s has failed, and its slot is free", function()
    local heard
    local queue = testing.queue({ { cost = 3 }, { cost = 5 } }, { inference_timeout_s = 1, max_batch_size = 1,
      policy = { form = all.form, on_complete = function(report) heard = report end } })
    local batch = queue:pick()
    queue:wait(1)
    assert.same({ 1, 1, 1 }, { heard.size, heard.failed, heard.service_s })
    assert.matches("not over yet", message_of(queue.done, queue, batch))
    assert.same({ 2 }, queue:pick().indexes)
  end)

  it("every policy that ships picks from it", function()
    for _, name in ipairs(policies.names) do
      local given = name == "deadline" and { slo_s = 1 } or name == "on_time" and { slo_s = 1 }
        or name == "rate_limited" and { requests_per_minute = 60 } or nil
      local policy = given and tb.policy[name](given) or name
      local queue = testing.queue({ { cost = 5, key = "a", waited_s = 1 }, { cost = 7, key = "b" } },
        { policy = policy })
      queue:drain()
      local batch = queue:pick()
      table.sort(batch.indexes)
      assert.same({ 1, 2 }, batch.indexes, name)
      queue:wait(0.1)
      queue:done(batch)
      assert.same({}, queue.warnings, name)
    end
  end)
end)

describe("what is wrong is raised:", function()
  it("an error of the policy, with its file and line, each time", function()
    local path = os.tmpname() .. ".lua"
    local file = assert(io.open(path, "w"))
    file:write "return {\n  form = function(queue)\n    return queue.size.x.y\n  end,\n}\n"
    file:close()
    local queue = testing.queue({ { cost = 1 } }, { policy = path })
    assert.matches(path .. ":3: ", message_of(queue.pick, queue), 1, true)
    queue:add { cost = 1 }
    os.remove(path)
    local other = testing.queue({ { cost = 1 }, { cost = 2 } }, { max_batch_size = 1, max_concurrent_batches = 2,
      policy = by(function(_, batch) batch:add(9) end) })
    for _ = 1, 2 do
      assert.matches("queue_spec.lua:%d+: batch:add: there is no position 9", message_of(other.pick, other))
    end
  end)

  it("an error of on_complete, of an inner policy, and a policy that suspends", function()
    local queue = testing.queue({ { cost = 1 } },
      { policy = { form = all.form, on_complete = function() error "oh" end } })
    local batch = queue:pick()
    assert.matches("queue_spec.lua:%d+: oh", message_of(queue.done, queue, batch))
    queue = testing.queue({ { cost = 1 } }, { policy = tb.policy.rate_limited { requests_per_minute = 60,
      inner = by(function() error "inside" end) } })
    assert.matches("queue_spec.lua:%d+: inside", message_of(queue.pick, queue))
    queue = testing.queue({ { cost = 1 } }, { policy = by(function() coroutine.yield() end) })
    assert.matches("queue_spec.lua:%d+: attempt to yield", message_of(queue.pick, queue))
    queue = testing.queue({ { cost = 1 } }, { policy = by(function() error(nil) end) })
    assert.equal("the policy raised nil", message_of(queue.pick, queue))
  end)

  it("a bad record, by its number, at the caller's line", function()
    for _, case in ipairs {
      { { cst = 1 }, "there is no field 'cst'; did you mean 'cost'?" },
      { { cost = -1 }, "record 2: cost is -1" },
      { {}, "record 2: a cost is needed" },
      { "x", "record 2: a table is needed, got a string" },
      { { cost = 1, waited_s = 3 }, "record 2: has waited longer than one before it" },
      { { cost = 1, waited_s = -1 }, "record 2: waited_s must be" },
      { { cost = 1, waited_s = 1, timeout_s = 0.5 }, "record 2: has waited 1 s" },
      { { cost = 1, slo_s = 0 }, "record 2: slo_s must be" },
      { { cost = 1, key = 7 }, "key must be a string, got 7" },
    } do
      local message = message_of(testing.queue, { { cost = 1, waited_s = 2 }, case[1] })
      assert.truthy(message:find(case[2], 1, true), message)
      assert.matches("^[^\n]*queue_spec.lua:%d+: ", message)
    end
  end)

  it("bad lists, options, times, and a queue that is full", function()
    assert.matches("without holes, but it has the key \"a\"", message_of(testing.queue, { a = { cost = 1 } }))
    assert.matches("unknown option 'polcy'; did you mean 'policy'", message_of(testing.queue, {}, { polcy = "fifo" }))
    assert.matches("there is no policy 'fifa'", message_of(testing.queue, {}, { policy = "fifa" }))
    assert.matches("the time must be", message_of(testing.queue, {}, nil, 0))
    assert.matches("record 2: ", message_of(testing.queue, { { cost = 1 }, { cost = 1 } }, { max_queue_size = 1 }))
    local queue = testing.queue {}
    assert.matches("wait: a number of seconds", message_of(queue.wait, queue, -1))
    assert.matches("up to the time 9000000000, got 1e+300", message_of(queue.wait, queue, 1e300), 1, true)
    for _, name in ipairs { "add", "pick", "wait", "done", "drain" } do
      assert.matches("queue_spec.lua:%d+: testing: " .. name .. " needs a colon",
        message_of(function() queue[name](1) end))
    end
    queue:drain()
    assert.matches("record 1: ", message_of(queue.add, queue, { cost = 1 }))
  end)
end)

-- The spec that the guide shows, as a part of this one.
do
  local guide = dofile("tests/lua/cli_helper.lua").read "lua/tokenbatcher/policy/README.md"
  local text = guide:match '```lua\n(local testing = require "tokenbatcher.testing"\n.-)```'
  local chunk = loadstring(assert(text, "the guide shows no spec"), "@lua/tokenbatcher/policy/README.md")
  setfenv(assert(chunk), getfenv(1))()
end

-- The same decisions as a batcher's, over the same records, on the virtual clock.
it("a queue by hand and a batcher pick alike", function()
  local costs = {}
  for i = 1, 60 do costs[i] = 1 + (i * 7919) % 97 end
  for _, policy in ipairs { SHORTEST, "length_bucketed", "fair", "fifo" } do
    local given = { policy = policy, target_batch_tokens = 300, batch_timeout_s = 0.01 }
    local of_batcher, of_queue, records = {}, {}, {}
    tb.run(function()
      local made = { inference_fn = function(list)
        of_batcher[#of_batcher + 1] = { unpack(list) }
        return list
      end }
      for name, value in pairs(given) do made[name] = value end
      tb.with(tb.TokenBatcher(made), function(batcher)
        for i, cost in ipairs(costs) do batcher:submit(i, { estimated_tokens = cost, key = "k" .. i % 3 }) end
      end)
    end, { clock = "virtual" })
    for i, cost in ipairs(costs) do records[i] = { cost = cost, key = "k" .. i % 3 } end
    local queue = testing.queue(records, given)
    queue:drain()
    while queue.size > 0 do
      local batch = queue:pick()
      of_queue[#of_queue + 1] = batch.indexes
      queue:done(batch)
    end
    assert.same(of_batcher, of_queue, policy)
  end
end)
