--- A heap of things to happen, ordered by time; of equal times the one added first.
--
-- Entries know their place, so that one that is no longer wanted (an await that was
-- answered in time) leaves at once and a million of them never pile up.

local M = {}
local Timers = {}
Timers.__index = Timers

--- @return table  with add, remove, top, pop
function M.new()
  return setmetatable({ size = 0, added = 0 }, Timers)
end

local function before(a, b)
  if a.at ~= b.at then return a.at < b.at end
  return a.seq < b.seq
end

local function sift_up(heap, at, entry)
  while at > 1 do
    local parent = (at - at % 2) / 2
    if not before(entry, heap[parent]) then break end
    heap[at] = heap[parent]
    heap[at].place = at
    at = parent
  end
  heap[at] = entry
  entry.place = at
end

local function sift_down(heap, at, entry)
  while true do
    local child = 2 * at
    if child > heap.size then break end
    if child < heap.size and before(heap[child + 1], heap[child]) then child = child + 1 end
    if not before(heap[child], entry) then break end
    heap[at] = heap[child]
    heap[at].place = at
    at = child
  end
  heap[at] = entry
  entry.place = at
end

--- Wake `task` at `at` (microseconds). @return table  the entry, for remove()
function Timers:add(at, task)
  self.size, self.added = self.size + 1, self.added + 1
  local entry = { at = at, seq = self.added, task = task }
  sift_up(self, self.size, entry)
  return entry
end

--- Nothing happens if the entry has been removed or popped.
function Timers:remove(entry)
  local at = entry.place
  if not at then return end
  entry.place = nil
  local last = self[self.size]
  self[self.size] = nil
  self.size = self.size - 1
  if last == entry then return end
  local parent = (at - at % 2) / 2
  if at > 1 and before(last, self[parent]) then sift_up(self, at, last) else sift_down(self, at, last) end
end

--- The earliest time, or nil.
function Timers:next()
  local top = self[1]
  return top and top.at
end

--- The earliest entry's task if its time has come, or nil.
function Timers:pop(now)
  local top = self[1]
  if not top or top.at > now then return nil end
  self:remove(top)
  return top.task
end

return M
