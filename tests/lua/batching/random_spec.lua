-- Random schedules in virtual time: many producers, cancels, timeouts, inference that
-- fails, hangs and is slow, knobs that change. After each step the core verifies itself and
-- the conservation identity holds; in the end every future has settled, once, with its own
-- answer, and the counters are what the producers saw; nothing is left behind.

local tb = require "tokenbatcher"
local H = require "tests.lua.helper"

local SEEDS = 150

-- Numbers of our own, the same on every machine (Park and Miller).
local function generator(seed)
  local state = seed * 7919 + 1
  for _ = 1, 5 do state = state * 16807 % 2147483647 end
  local function below(n) -- a whole number from 0 to n - 1
    state = state * 16807 % 2147483647
    return state % n
  end
  return { below = below, one_in = function(n) return below(n) == 0 end,
    pick = function(list) return list[below(#list) + 1] end }
end

-- The first ones are first come, first served.
local POLICIES = { "fifo", "eager", "fifo", "eager", "one_group", "fair", "priority", "length_bucketed", "deadline",
  "on_time" }
local IN_ORDER = { fifo = true, eager = true }

local function random_options(random)
  return {
    policy = random.pick(POLICIES),
    cost_model = random.pick { "sum", "padded" },
    on_full = random.pick { "wait", "wait", "reject" },
    on_oversize = random.pick { "alone", "reject" },
    on_error = random.pick { "fail", "bisect" },
    target_batch_cost = random.pick { 5, 20, 100 },
    max_batch_size = random.pick { 1, 3, 8, 50 },
    max_queue_size = random.pick { 2, 5, 50 },
    max_queue_cost = random.pick { nil, 30, 200 } or false,
    prefetch_batches = random.pick { 0, 1, 2, 5 },
    max_concurrent_batches = random.pick { 1, 2, 4 },
    batch_timeout_s = random.pick { 0, 0.01, 0.3 },
    inference_timeout_s = random.pick { false, 0.2, 1 },
    max_wait_s = random.pick { false, 0.05 },
    suspect_s = random.pick { 0, 0.2, 10 },
    max_abandoned_calls = random.pick { false, 0, 2 },
    abandon_s = random.pick { 0.1, 5 },
    log = function() end,
  }
end

-- What a test run knows: its batcher, and what producers saw.
local function new_world(seed)
  local random = generator(seed)
  local world = { random = random, options = random_options(random), fixed = random.one_in(2),
    sequence = 0, futures = {}, settled = 0, rejected = 0, calls = {}, running = 0, most_running = 0,
    groups = random.pick { 1, 1, 3 }, has_keys = random.one_in(2), has_lingers = random.one_in(2) }
  world.is_in_order = IN_ORDER[world.options.policy]
  if random.one_in(3) then -- R8: producers then hand in equal records
    world.options.join = function(record)
      return type(record) == "number" and record % 5 > 0 and tostring(record) or nil
    end
    world.is_in_order = false
  end
  return world
end

local function check(world)
  local broken = H.broken(world.batcher)
  if broken then error("the core is broken: " .. broken) end
  assert(H.is_conserved(world.batcher.stats), "the conservation identity is broken")
end

-- F1: a record's group and key are always the same.
local function group_of(world, record)
  local number = record % world.groups
  return number > 0 and "g" .. number or ""
end

local function own_options(world, record)
  local random = world.random
  return {
    group = world.groups > 1 and group_of(world, record) or nil,
    key = world.has_keys and record % 3 > 0 and "k" .. record % 4 or nil,
    batch_timeout_s = world.has_lingers and random.one_in(2) and random.pick { 0, 0.005, 0.1, 2 } or nil,
    priority = random.below(3),
  }
end

local function infer(world)
  local random = world.random
  return function(records, info)
    world.calls[#world.calls + 1] = { records = H.copy(records), info = info, size = info.size, cost = info.cost,
      attempt = info.attempt }
    world.running = world.running + 1
    world.most_running = math.max(world.most_running, world.running)
    if random.one_in(3) then tb.sleep(random.below(100) / 100) end
    if random.one_in(60) then tb.sleep(50) end
    world.running = world.running - 1
    check(world)
    for _, record in ipairs(records) do assert(info.group == group_of(world, record), "groups are mixed") end
    if random.one_in(12) then error(random.pick { "boom", { "boom" }, 5 }) end
    if random.one_in(25) then return {} end
    local out = {}
    for i, record in ipairs(records) do
      out[i] = random.one_in(20) and tb.failure(record) or "re:" .. record
      if record % 17 == 0 then error "poison" end
    end
    return out
  end
end

local CODES = { inference_failed = "failed", inference_timeout = "failed", stopped = "failed",
  cancelled = "cancelled", deadline = "expired" }

-- Note how a future settles; it must be its own answer, and stay it.
local function watch(world, record, future)
  local entry = { record = record, future = future, times = 0 }
  world.futures[#world.futures + 1] = entry
  tb.spawn(function()
    entry.value, entry.err = future:await()
    entry.times = entry.times + 1
    assert(entry.value == nil or entry.value == "re:" .. record, "another record's answer")
    assert(entry.value ~= nil or CODES[entry.err.code], "settled with " .. tostring(entry.err))
  end)
end

local function next_record(world)
  if not (world.options.join and world.random.one_in(2)) then world.sequence = world.sequence + 1 end
  return world.sequence
end

local function take(world, records, futures, err)
  if not futures then
    world.rejected = world.rejected + #records
    assert(err.code == "queue_full" or err.code == "oversize" or err.code == "stopped"
      or err.code == "batch_too_large" and #records > 1, tostring(err))
    return
  end
  for i, record in ipairs(records) do watch(world, record, futures[i]) end
end

-- A cost and nothing else, at times: the quick way in.
local function options_of(world, record)
  local random = world.random
  local is_plain = random.one_in(3) and group_of(world, record) == ""
  local opts = is_plain and {} or own_options(world, record)
  opts.estimated_cost = random.below(random.one_in(10) and 150 or 8)
  return opts, is_plain
end

-- Its future is nobody's; a producer asks many times.
local function ask_one(world)
  local record = next_record(world)
  local value, err = world.batcher:ask(record, (options_of(world, record)))
  if value == nil and (err.code == "queue_full" or err.code == "oversize") then
    world.rejected = world.rejected + 1
    return
  end
  assert(value == nil or value == "re:" .. record, "another record's answer")
  assert(value ~= nil or CODES[err.code], "settled with " .. tostring(err))
  world.futures[#world.futures + 1] = { record = record, value = value, err = err, times = 1 }
end

local function submit_one(world, method)
  local random, record = world.random, next_record(world)
  local opts, is_plain = options_of(world, record)
  if not is_plain then opts.timeout_s = random.one_in(4) and (random.below(50) + 1) / 100 or nil end
  local future, err = world.batcher[method](world.batcher, record, opts)
  take(world, { record }, future and { future }, err)
end

local function submit_many(world)
  local random, records, costs, first = world.random, {}, {}, nil
  for _ = 1, random.below(12) do
    local record = next_record(world)
    first = first or record
    if group_of(world, record) == group_of(world, first) then
      records[#records + 1], costs[#costs + 1] = record, random.below(8)
    end
  end
  local opts = own_options(world, first or 0)
  opts.estimated_cost, opts.timeout_s = costs, random.one_in(6) and 0.2 or nil
  take(world, records, world.batcher:submit_batch(records, opts))
end

local function cancel_any(world)
  if #world.futures == 0 then return end
  local entry = world.random.pick(world.futures)
  if not entry.future then return end
  local was_done = entry.future:done()
  assert(entry.future:cancel() == not was_done, "cancel lies")
end

local function bad_submit(world)
  local ok, err = pcall(world.batcher.submit, world.batcher, "bad", { estimated_cost = -1 })
  assert(not ok and err.code == "bad_cost")
end

local function change(world)
  if world.fixed then return end
  local given = random_options(world.random)
  for _, name in ipairs { "on_full", "log" } do given[name] = nil end
  world.is_in_order = world.is_in_order and IN_ORDER[given.policy]
  world.batcher:set(given)
end

local OPERATIONS = {
  function(world) submit_one(world, "submit") end, function(world) submit_one(world, "submit") end,
  function(world) submit_one(world, "submit") end, function(world) submit_one(world, "try_submit") end,
  ask_one, ask_one, submit_many, cancel_any, cancel_any, bad_submit, change,
  function(world) world.batcher:flush() end,
}

local function produce(world)
  for _ = 1, 10 + world.random.below(20) do
    if not world.batcher.is_running or world.stopping then return end
    world.random.pick(OPERATIONS)(world)
    check(world)
    if world.random.one_in(2) then tb.sleep(world.random.below(40) / 1000) end
  end
end

-- Not a failure: the batcher stopped while the producer was on its way.
local function produce_until_stopped(world)
  local ok, err = pcall(produce, world)
  if not ok and not (world.stopping and type(err) == "table" and err.code == "not_running") then error(err, 0) end
end

local function judge_counters(world)
  local counted = { completed = 0, failed = 0, cancelled = 0, expired = 0 }
  for _, entry in ipairs(world.futures) do
    assert(entry.times == 1, "settled " .. entry.times .. " times")
    assert(entry.value ~= nil or entry.err ~= nil)
    local kind = entry.err and CODES[entry.err.code] or "completed"
    counted[kind] = counted[kind] + 1
  end
  local stats = world.batcher.stats
  assert.is_true(H.is_conserved(stats))
  if world.stop_timeout then return end -- a submit_batch turned away half-way keeps its futures to itself
  if world.options.join then -- one record is many futures, each cancelled by itself
    assert.same({ #world.futures, world.rejected },
      { stats.total_submitted + stats.total_joined, stats.total_rejected })
    return
  end
  assert.same({ #world.futures, world.rejected, counted.completed, counted.failed, counted.cancelled,
    counted.expired }, { stats.total_submitted, stats.total_rejected, stats.total_completed, stats.total_failed,
    stats.total_cancelled, stats.total_expired })
end

-- S3, R7, R8: who has gone leaves nothing behind, but suspects their names.
local function judge_leftovers(world)
  local batcher, names = world.batcher, 0
  for _ in pairs(batcher._keys.ids) do names = names + 1 end
  assert.equal(1 + batcher._suspects.count, names)
  for _, field in ipairs { "_records", "_futures", "_runs" } do assert.is_nil(next(batcher[field]), field) end
  assert.same({ [""] = 0 }, batcher._groups.ids)
  assert.is_nil(next(batcher._joining.records))
  assert.equal(0, batcher._joining.deadlines.size)
  assert.equal(0, batcher.unsettled)
end

-- fifo and eager are first come, first served; the budget is strict.
local function judge_batches(world)
  local last, options = 0, world.options
  for _, call in ipairs(world.calls) do
    if call.attempt == 1 and world.is_in_order then
      for _, record in ipairs(call.records) do
        assert(record > last, "overtaken")
        last = record
      end
    end
    if world.fixed then
      assert(call.size == 1 or call.cost <= options.target_batch_cost, "over the budget")
      assert(call.size <= options.max_batch_size, "too many records")
    end
  end
  if world.fixed and not options.inference_timeout_s then
    assert.is_true(world.most_running <= options.max_concurrent_batches)
  end
end

local function play(seed)
  local world = new_world(seed)
  H.run(function()
    local given = {}
    for name, value in pairs(world.options) do given[name] = value end
    given.inference_fn = infer(world)
    world.batcher = tb.TokenBatcher(given)
    world.batcher:start()
    local producers = {}
    for i = 1, 2 + world.random.below(8) do producers[i] = tb.spawn(produce_until_stopped, world) end
    if world.random.one_in(3) then
      tb.sleep(world.random.below(60) / 100)
      world.stopping = true
      world.stop_timeout = world.random.one_in(2) and world.random.below(100) / 100 or nil
    else
      tb.gather(producers)
    end
    world.batcher:stop { timeout_s = world.stop_timeout }
    assert.is_false(world.batcher.is_running)
    check(world)
  end)
  judge_counters(world)
  judge_leftovers(world)
  judge_batches(world)
end

describe("random schedules:", function()
  for first = 1, SEEDS, 10 do
    local last = first + 9
    it(("C5, R1, R7, R8, C1, C2, F1, F4: seeds %d to %d settle every record once, with its answer"):format(first, last),
      function()
        for seed = first, last do
          local ok, err = pcall(play, seed)
          if not ok then error("seed " .. seed .. ": " .. tostring(err), 0) end
        end
      end)
  end
end)
