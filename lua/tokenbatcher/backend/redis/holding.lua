--- What a worker holds: records that Redis has given to it, and that it says again and again it works on. A record
-- that it does not hold any more (the process was stopped for longer than the lease, say) leaves the queue unrun.

local clock = require "tokenbatcher.runtime.clock"

local M = {}

local MOST = 64 -- ids a script

-- Run a script for many records of each stream. @param each function(stream, reply), or nil
-- @return true, or nil and an err
local function for_ids(w, script, list, before, each)
  for _, stream in ipairs(w.streams) do
    local arguments = { w.group, w.consumer, unpack(before) }
    local fixed, n = #arguments, #arguments
    for i = 1, #list + 1 do
      local entry = list[i]
      if entry and entry.stream == stream then
        n = n + 1
        arguments[n] = entry.sid
      end
      if n > fixed and (not entry or n - fixed == MOST) then
        local value, err = w.command:run(script, { stream.name, stream.dead }, arguments)
        if err then return nil, err end
        if each then each(stream, value) end
        for k = fixed + 1, n do arguments[k] = nil end
        n = fixed
      end
    end
  end
  return true
end

--- It is another's: what has not begun does not begin.
function M.drop(w, entry)
  if entry.is_lost then return end
  entry.is_lost = true
  w.counts.lost = w.counts.lost + 1
  w.held[entry.sid] = nil
  if not entry.started_us and entry.future then entry.future:cancel() end
end

local function drop_all(w, sids)
  for _, sid in ipairs(sids) do
    if w.held[sid] then M.drop(w, w.held[sid]) end
  end
end

-- --- the heartbeat -------------------------------------------------------------------

local function all_held(w)
  local list = {}
  for _, entry in pairs(w.held) do list[#list + 1] = entry end
  return list
end

-- What has been lost, because nobody could say that it is held.
local function tell_of_loss(w, before)
  local lost = w.counts.lost - before
  if lost > 0 then
    w:warn(("lease_lost: %d record%s went to other workers"):format(lost, lost == 1 and "" or "s"))
  end
end

local function beat(w)
  local before = w.counts.lost
  w:ask_time()
  local ok = for_ids(w, "beat", all_held(w), {}, function(_, lost) drop_all(w, lost) end)
  tell_of_loss(w, before)
  return ok
end

--- The body of a task: beats until the worker is over.
function M.run(w)
  while not w.is_over do
    w.bells.beat:wait(w.lease_s / 3)
    if not w.is_over and w.command:wait_ready() then beat(w) end
  end
end

-- --- a batch begins -------------------------------------------------------------------

-- Count a start of those that were another's before: not those that nobody can say are still mine.
local function start(w, list)
  local starting = {}
  for _, entry in ipairs(list) do starting[entry.sid] = true end
  local ok = for_ids(w, "start", list, {}, function(_, lost)
    for _, sid in ipairs(lost) do starting[sid] = nil end
  end)
  for _, entry in ipairs(list) do
    if not ok or not starting[entry.sid] then M.drop(w, entry) end
  end
end

--- Called before the inference call of each batch, in its coroutine: see Batcher:gate.
function M.gate(w, futures, n)
  local begun, claimed = {}, {}
  for i = 1, n do
    local entry = w.by_future[futures[i]]
    while entry do
      begun[#begun + 1] = entry
      if entry.must_count then claimed[#claimed + 1] = entry end
      entry = entry.next
    end
  end
  if #claimed > 0 then start(w, claimed) end
  local now = clock.now_us()
  for _, entry in ipairs(begun) do
    if not entry.is_lost then
      entry.started_us = now
      w:unqueue(entry)
    end
  end
end

-- --- the end ----------------------------------------------------------------------------

--- Give back what has not begun. @return true, or nil and an err
function M.release(w, list)
  local ok, err = for_ids(w, "release", list, { w.lease_s * 1000 })
  for _, entry in ipairs(list) do
    w.counts.released = w.counts.released + 1
    w:forget(entry)
  end
  return ok, err
end

return M
