--- What happened when in a run: how many records were queued, and every batch from its start to its end.
--
-- Memory does not grow with the run. Up to a number of them batches and changes of the queue are kept one
-- by one. Beyond it time falls into bins, which double in width when they no longer reach, and of
-- each bin the largest queue is kept, and the largest batch for each reason why batches go.

local stats = require "tokenbatcher.core.stats"
local tbffi = require "tokenbatcher.core.ffi"

local C = tbffi.lib
local floor, huge, max, min = math.floor, math.huge, math.max, math.min

local M = {}
local Timeline = {}
Timeline.__index = Timeline

local BINS, FIRST_WIDTH_US = 1000, 1000
local REASONS = tonumber(C.TB_REASONS)

--- Batches that are kept one by one, and twice as many changes of the queue.
M.KEPT = 10000

--- The names of reasons; a batch has the place of its reason here, from 1.
M.REASONS = stats.REASONS

local function new_bins()
  return { depth = tbffi.new("double[?]", BINS), size = tbffi.new("double[?]", BINS * REASONS) }
end

--- @param window table|nil  {from, to}, seconds of the run
function M.new(window)
  return setmetatable({
    from_us = window and window.from * 1e6 or 0, to_us = window and window.to * 1e6 or huge, last_us = 0,
    depth_us = 0, width_us = FIRST_WIDTH_US, bins = new_bins(), depth = 0, batches = {}, batch_count = 0,
    changes = {}, change_count = 0,
  }, Timeline)
end

local function double_width(self)
  local old, new = self.bins, new_bins()
  for i = 0, BINS - 1 do
    local to = floor(i / 2)
    new.depth[to] = max(new.depth[to], old.depth[i])
    for r = 0, REASONS - 1 do
      local at = to * REASONS + r
      new.size[at] = max(new.size[at], old.size[i * REASONS + r])
    end
  end
  self.bins, self.width_us = new, 2 * self.width_us
end

local function bin_of(self, at_us)
  local from_us = at_us - self.from_us
  while from_us >= BINS * self.width_us do double_width(self) end
  return floor(from_us / self.width_us)
end

local function note_change(self, at_us, depth)
  if not self.changes then return end
  self.change_count = self.change_count + 1
  if self.change_count > 2 * M.KEPT then
    self.changes = nil
  else
    self.changes[self.change_count] = { at_us / 1e6, depth }
  end
end

--- So many records are queued from now on.
function Timeline:queued(at_us, depth)
  local before = self.depth
  self.depth = depth
  if at_us > self.to_us then return end
  if at_us < self.from_us then
    self.depth_before = depth
    return
  end
  if depth ~= before or self.change_count == 0 then note_change(self, at_us, depth) end
  local bin = bin_of(self, at_us)
  local bins, first = self.bins, max(0, floor((self.depth_us - self.from_us) / self.width_us))
  for i = first, bin do bins.depth[i] = max(bins.depth[i], before) end
  bins.depth[bin] = max(bins.depth[bin], depth)
  self.depth_us, self.last_us = at_us, max(self.last_us, at_us)
end

--- A batch is over.
-- @param reason number  from 0, as the core has it
function Timeline:batch(started_us, ended_us, size, reason, cost)
  if ended_us < self.from_us or started_us > self.to_us then return end
  local i = bin_of(self, max(started_us, self.from_us)) * REASONS + reason
  self.bins.size[i] = max(self.bins.size[i], size)
  self.batch_count, self.last_us = self.batch_count + 1, max(self.last_us, min(ended_us, self.to_us))
  if self.batch_count > M.KEPT then
    self.batches = nil
  else
    self.batches[self.batch_count] = { started_us / 1e6, ended_us / 1e6, size, reason + 1, cost }
  end
end

--- The part of time that is shown, in seconds.
function Timeline:span()
  local to_us = self.to_us < huge and self.to_us or max(self.last_us, self.from_us + self.width_us)
  return self.from_us / 1e6, to_us / 1e6
end

--- The queue as steps: a list of {from when (s), records}, the last one lasting to the end; and the width of
-- a bin in seconds if these are the largest of bins.
function Timeline:depths()
  local from_s = self:span()
  local out = { { from_s, self.depth_before or 0 } }
  if self.changes then
    for i, change in ipairs(self.changes) do out[i + 1] = change end
    return out
  end
  for i = 0, BINS - 1 do
    local at_us = self.from_us + i * self.width_us
    if at_us <= self.last_us then out[#out + 1] = { at_us / 1e6, self.bins.depth[i] } end
  end
  return out, self.width_us / 1e6
end

-- So that batches which run at once are beside each other: each takes the first lane that is free.
local function give_lanes(batches)
  local sorted, ends = {}, {}
  for i, batch in ipairs(batches) do sorted[i] = batch end
  table.sort(sorted, function(a, b)
    if a[1] ~= b[1] then return a[1] < b[1] end
    return a[2] < b[2]
  end)
  for _, batch in ipairs(sorted) do
    local lane = 1
    while ends[lane] and ends[lane] > batch[1] do lane = lane + 1 end
    ends[lane], batch[6] = batch[2], lane
  end
  return sorted, #ends
end

--- Batches: a list of {from (s), to, size, reason, cost, lane}, in order of their start, and how many lanes; or, if
-- there were too many to keep: of each bin and reason the largest one, {from, to, size, reason}, nil, and the width of
-- a bin in seconds.
function Timeline:bars()
  if self.batches then return give_lanes(self.batches) end
  local out = {}
  for i = 0, BINS - 1 do
    for r = 0, REASONS - 1 do
      local size, at_us = self.bins.size[i * REASONS + r], self.from_us + i * self.width_us
      if size > 0 then out[#out + 1] = { at_us / 1e6, (at_us + self.width_us) / 1e6, size, r + 1 } end
    end
  end
  return out, nil, self.width_us / 1e6
end

return M
