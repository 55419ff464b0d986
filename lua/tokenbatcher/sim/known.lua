--- Memory for what a simulated run knows of its records and batches: arrays that grow, none per record.

local tbffi = require "tokenbatcher.core.ffi"

local huge, max = math.huge, math.max

local M = {}

local ids = { capacity = 0 }

local function grown(array, from, to)
  local out = tbffi.new("double[?]", to)
  for i = 0, from - 1 do out[i] = array[i] end
  return out
end

--- Room for what is known of a record, by its slot in the core.
-- @param replay table  slots (how many there is room for) and arrays of that many doubles
function M.reserve(replay, slot)
  local had = replay.slots
  local want = max(1024, 2 * had, slot + 1)
  replay.arrived_us, replay.cost_of = grown(replay.arrived_us, had, want), grown(replay.cost_of, had, want)
  replay.output_of, replay.key_of = grown(replay.output_of, had, want), grown(replay.key_of, had, want)
  replay.group_of, replay.slo_of = grown(replay.group_of, had, want), grown(replay.slo_of, had, want)
  replay.priority_of, replay.number_of = grown(replay.priority_of, had, want), grown(replay.number_of, had, want)
  replay.slots = want
end

--- An array for the ids of a batch of n; the same one each time.
function M.ids(n)
  if n > ids.capacity then
    ids.capacity = max(n, 2 * ids.capacity)
    ids.array = tbffi.new("double[?]", ids.capacity)
  end
  return ids.array
end

--- The running batch in a slot of the core, with room for the times of n records.
-- @param runs table  by slot; false where there was none yet
-- @return {id, n, end_us, arrived_us[], failed, ...}
function M.run(runs, slot, n)
  local run = runs[slot]
  if not run then
    run = { id = 0, n = 0, end_us = huge, capacity = 0, arrived_us = nil, failed = false }
    runs[slot] = run
  end
  if n > run.capacity then
    run.capacity = max(64, 2 * n)
    run.arrived_us, run.slo_us = tbffi.new("double[?]", run.capacity), tbffi.new("double[?]", run.capacity)
    run.cost_of, run.output = tbffi.new("double[?]", run.capacity), tbffi.new("double[?]", run.capacity)
    run.priority = tbffi.new("double[?]", run.capacity)
  end
  return run
end

return M
