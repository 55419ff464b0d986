-- F3, over random schedules: while a slot is idle no record goes later than it is due, whatever the
-- policy that gathers, and whatever may share its batch.

local tb = require "tokenbatcher"
local H = require "tests.lua.helper"

local SEEDS = 12
local LINGER_S, MAX_WAIT_S, TOLERANCE_S = 0.05, 0.08, 2e-6

local everything = { form = function(queue, batch)
  if not (queue.full or queue.due) then return end
  for i = 1, queue.size do
    local is_in, why = batch:add(i)
    if not is_in and why == "budget" then break end
  end
end }
local POLICIES = { "fifo", "eager", "fair", "priority", "one_group", "length_bucketed", everything }

-- Numbers of our own, the same on every machine (Park and Miller).
local function generator(seed)
  local state = seed * 7919 + 1
  for _ = 1, 5 do state = state * 16807 % 2147483647 end
  return function(n)
    state = state * 16807 % 2147483647
    return state % n
  end
end

local function new_world(policy, below)
  local world = { below = below, records = {}, max_wait_s = below(3) == 0 and MAX_WAIT_S or nil }
  world.batcher = H.start {
    policy = policy, batch_timeout_s = LINGER_S, max_wait_s = world.max_wait_s, max_concurrent_batches = 64,
    max_batch_size = 2 + below(6), target_batch_cost = 20, cost_model = below(2) == 0 and "sum" or "padded",
    on_error = "bisect", suspect_s = 0.3, log = function(_, text) error(text) end,
    inference_fn = function(records)
      for _, record in ipairs(records) do record.went = record.went or tb.now() end
      for _, record in ipairs(records) do
        if record.is_bad then error "one of these is bad" end
      end
      return records
    end,
  }
  return world
end

local function submit(world)
  local below = world.below
  local record = { at = tb.now(), is_bad = below(11) == 0,
    linger_s = below(2) == 0 and ({ 0, 0.01, 0.03, 0.2, 1 })[1 + below(5)] or nil,
    timeout_s = below(5) == 0 and (below(40) + 1) / 100 or nil }
  record.future = world.batcher:submit(record, { batch_timeout_s = record.linger_s, timeout_s = record.timeout_s,
    group = below(2) == 0 and "g" .. below(3) or nil, key = below(2) == 0 and "k" .. below(3) or nil,
    estimated_cost = below(8), priority = below(4) })
  world.records[#world.records + 1] = record
end

local function act(world)
  local below = world.below
  local what = below(10)
  if what < 7 then
    submit(world)
  elseif what == 7 then
    tb.sleep(below(50) / 1000)
  elseif what == 8 and below(3) == 0 then
    world.batcher:flush()
    for _, record in ipairs(world.records) do record.flushed = record.flushed or tb.now() end
  elseif what == 9 and #world.records > 0 then
    local record = world.records[1 + below(#world.records)]
    record.is_cancelled = record.future:cancel() or record.is_cancelled
  end
end

local function due_of(world, record)
  local wait_s = math.min(record.linger_s or LINGER_S, record.timeout_s and record.timeout_s / 2 or math.huge,
    world.max_wait_s or math.huge)
  return math.min(record.at + wait_s, record.flushed or math.huge)
end

local function play(policy, seed)
  H.run(function()
    local world = new_world(policy, generator(seed))
    for _ = 1, 150 do act(world) end
    tb.sleep(3)
    for i, record in ipairs(world.records) do
      local due = due_of(world, record)
      if not record.is_cancelled and not (record.went and record.went <= due + TOLERANCE_S) then
        error(("record %d was due at %.6f and went at %s"):format(i, due, tostring(record.went)))
      end
    end
    world.batcher:stop()
  end)
end

describe("F3: while a slot is idle no record goes later than it is due:", function()
  for i, policy in ipairs(POLICIES) do
    it(type(policy) == "string" and policy or "a policy that names everything", function()
      for seed = i * 1000 + 1, i * 1000 + SEEDS do
        local ok, err = pcall(play, policy, seed)
        if not ok then error("seed " .. seed .. ": " .. tostring(err), 0) end
      end
    end)
  end
end)
