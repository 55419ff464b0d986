--- Which jobs are kept, if as many as can be shall be done in time by one machine (Moore and Hodgson, 1968):
-- by due time, one after another; whenever one would be late, the longest of those kept so far goes.
--
-- Jobs are in arrays from 1 to n: due (when it must be done), work (seconds), weight (how many such there are).
-- All arrays are used again; nothing is made at a decision. They are arrays of C: a decision sorts hundreds of jobs,
-- and that takes half as long as in tables.

local arrays = require "tokenbatcher.base.arrays_ffi"
local bit = require "bit"

local band, rshift = bit.band, bit.rshift
local huge, max, min, sqrt = math.huge, math.max, math.min, math.sqrt

local M = {}
local FEW = 16 -- are sorted by insertion alone
local ROOM = 256 -- at first
local NUMBERS = { "due", "work", "weight" }
local INDICES = { "order", "by_work", "rank", "spare", "keys" }
local Keep = {}
Keep.__index = Keep

-- Room for so many jobs. Those that are there stay.
local function make_room(self, room)
  for _, name in ipairs(NUMBERS) do
    local array, old = arrays.doubles(room + 1), self[name]
    for i = 1, self.n do array[i] = old[i] end
    self[name] = array
  end
  for _, name in ipairs(INDICES) do self[name] = arrays.ints(room + 1) end
  self.room = room
end

function M.new()
  local self = setmetatable({ n = 0, kept = {}, holds = {}, counts = arrays.ints(256) }, Keep)
  make_room(self, ROOM)
  return self
end

--- Forget all jobs.
function Keep:clear() self.n = 0 end

--- @return number  its index
function Keep:add(due, work, weight)
  local n = self.n + 1
  if n > self.room then make_room(self, 2 * self.room) end
  self.n, self.due[n], self.work[n], self.weight[n] = n, due, work, weight
  return n
end

-- One pass of a radix sort, by a byte of the keys.
local function scatter(from, to, keys, n, counts, shift)
  for byte = 0, 255 do counts[byte] = 0 end
  for i = 1, n do
    local byte = band(rshift(keys[i], shift), 255)
    counts[byte] = counts[byte] + 1
  end
  local before = 1
  for byte = 0, 255 do
    local count = counts[byte]
    counts[byte], before = before, before + count
  end
  for i = 1, n do
    local index = from[i]
    local byte = band(rshift(keys[index], shift), 255)
    local at = counts[byte]
    to[at], counts[byte] = index, at + 1
  end
end

local function insert(order, values, n)
  for i = 2, n do
    local index = order[i]
    local at, k = values[index], i
    while k > 1 and values[order[k - 1]] > at do
      order[k], k = order[k - 1], k - 1
    end
    order[k] = index
  end
end

-- The indices by value, as fine as three bytes of the root can tell values apart (of 10 s among hours: 1 ms), equal
-- ones as they were added. A radix sort: one that compares goes now this way, now that, and takes ten times as long.
-- @return an array of indices: `order`, or what stands in for it
local function sorted(self, values, order)
  local n, keys, spare, counts = self.n, self.keys, self.spare, self.counts
  local first, last = huge, -huge
  for i = 1, n do
    order[i], first, last = i, min(first, values[i]), max(last, values[i])
  end
  if n <= FEW or first == last then
    insert(order, values, n)
    return order
  end
  local scale = 1 / (last - first)
  for i = 1, n do keys[i] = sqrt((values[i] - first) * scale) * 16777215 end
  scatter(order, spare, keys, n, counts, 0)
  scatter(spare, order, keys, n, counts, 8)
  scatter(order, spare, keys, n, counts, 16)
  self.spare = order
  return spare
end

-- All of them, if none is late. @return number|nil  the work of the longest
local function keep_all(self, now)
  local order, kept, due, work, weight = self.order, self.kept, self.due, self.work, self.weight
  local at, longest = now, 0
  for place = 1, self.n do
    local i = order[place]
    at = at + work[i] * weight[i]
    if at > due[i] then return nil end
    kept[i], longest = true, max(longest, work[i])
  end
  return longest
end

--- Decide. Afterwards order has the indices by due time, and kept[index] whether it is.
-- @param now number  when the machine is free
-- @return number  the work of the longest that is kept, 0 if none is
function Keep:run(now)
  self.order = sorted(self, self.due, self.order)
  local longest = keep_all(self, now)
  if longest then return longest end
  self.by_work = sorted(self, self.work, self.by_work)
  local order, by_work, rank, holds = self.order, self.by_work, self.rank, self.holds
  local kept, due, work, weight = self.kept, self.due, self.work, self.weight
  for at = 1, self.n do rank[by_work[at]], holds[at] = at, false end
  local at, top = now, 0 -- the rank of the longest that is kept
  for place = 1, self.n do
    local i = order[place]
    local mine, ends = rank[i], at + work[i] * weight[i]
    while ends > due[i] and top > mine do
      local out = by_work[top]
      kept[out], holds[top], ends = false, false, ends - work[out] * weight[out]
      repeat top = top - 1 until top == 0 or holds[top]
    end
    local is_kept = ends <= due[i]
    kept[i], holds[mine], at = is_kept, is_kept, is_kept and ends or ends - work[i] * weight[i]
    if is_kept and mine > top then top = mine end
  end
  return top > 0 and work[by_work[top]] or 0
end

return M
