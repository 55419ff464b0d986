--- One truth over workers: each puts down what it has counted (a snapshot) where all can read it, a shared dict;
-- whoever is asked reads them all.
--
-- A snapshot is put down at most four times a second while something happens, and once after the last that
-- happened. An idle worker has no timer.
--
-- THE SPECIAL PROBLEM OF GENERATIONS. At a reload a worker and its successor live side by side under one id, and
-- what the former counted must stay counted when it is gone. So snapshots are kept by id and generation, and a new
-- worker adds those of its dead predecessors to the past of its id. Whoever adds first writes the past and then
-- takes the snapshot away, whoever reads takes snapshots first and then the past, which says what is in it: none is
-- missed, none counts twice.

local json = require "tokenbatcher.base.json"

local M = {}
local Board = {}
Board.__index = Board

local PERIOD_S = 0.25
local LOCK_S = 1

local function is_alive(pid)
  local file = io.open(("/proc/%d/stat"):format(pid))
  return file ~= nil and file:close()
end

local function name_of(id, generation) return ("w:%d:%d"):format(id, generation) end

--- @param given table  dict (get, set, add, incr, delete, as ngx.shared has them), id (from 0), pid,
-- is_alive(pid) if /proc does not know; later(s, fn) -> true, or nil: no more, the worker exits; snapshot() -> table;
-- add(into, snapshot, is_over): see snapshot.lua; is_busy() -> boolean; complain(level, text)
function M.new(given)
  local self = setmetatable({ is_pending = false, is_alive = is_alive }, Board)
  for name, value in pairs(given) do self[name] = value end
  return self
end

local function decode(text)
  local value = text and json.decode(text)
  return type(value) == "table" and value or nil
end

-- The past of an id: {first (generation that is not in it), folded (others that are, as texts), sum}.
local function past_of(self, id)
  local past = decode(self.dict:get("p:" .. id)) or { first = 1, folded = {}, sum = {} }
  return past
end

local function fold(self, past, generation)
  local name = name_of(self.id, generation)
  local snapshot = decode(self.dict:get(name))
  if snapshot and self.is_alive(snapshot.pid) then return end
  if snapshot then self.add(past.sum, snapshot, true) end
  past.folded[tostring(generation)] = true
  while past.folded[tostring(past.first)] do
    past.folded[tostring(past.first)] = nil
    past.first = past.first + 1
  end
  self.dict:set("p:" .. self.id, json.encode(past))
  self.dict:delete(name)
end

--- A worker begins.
function Board:join()
  local dict = self.dict
  self.generation = dict:incr("g:" .. self.id, 1, 0)
  while self.id >= (dict:get "n" or 0) do dict:incr("n", 1, 0) end
  self:publish()
  if not dict:add("l:" .. self.id, 1, LOCK_S) then return end
  local past = past_of(self, self.id)
  for generation = past.first, self.generation - 1 do
    if not past.folded[tostring(generation)] then fold(self, past, generation) end
  end
  dict:delete("l:" .. self.id)
end

--- Put a snapshot down now.
function Board:publish()
  local snapshot = self.snapshot()
  snapshot.pid, snapshot.generation = self.pid, self.generation
  local ok, err = self.dict:set(name_of(self.id, self.generation), json.encode(snapshot))
  if not ok then self.complain("error", "a snapshot could not be kept for other workers: " .. tostring(err)) end
end

-- A snapshot in a while.
local function ask_for_timer(self)
  self.is_pending = self.later(PERIOD_S, function()
    self.is_pending = false
    self:publish()
    if self.is_busy() then self:touch() end
  end)
  if not self.is_pending then self:publish() end -- the worker exits
end

--- Something has happened, or goes on: a snapshot will tell of it.
function Board:touch()
  if not self.is_pending then ask_for_timer(self) end
end

-- Those of an id that have put something down: {pid, generation, ...} in the order of their generations.
local function snapshots_of(self, id)
  local out = {}
  local from = past_of(self, id).first
  for generation = from, self.dict:get("g:" .. id) or 0 do
    local snapshot = decode(self.dict:get(name_of(id, generation)))
    if snapshot then out[#out + 1] = snapshot end
  end
  return out
end

--- Workers that live: list of {id, generation}.
function Board:live()
  local out = {}
  for id = 0, (self.dict:get "n" or 0) - 1 do
    for _, snapshot in ipairs(snapshots_of(self, id)) do
      if self.is_alive(snapshot.pid) then out[#out + 1] = { id = id, generation = snapshot.generation } end
    end
  end
  return out
end

--- Everything that was put down, this worker's as it is now.
-- @return list  of {id, sum (of all generations), live (list of snapshots of workers that live)}
function Board:read()
  self:publish()
  local out = {}
  for id = 0, (self.dict:get "n" or 0) - 1 do
    local it = { id = id, sum = {}, live = {} }
    local list = snapshots_of(self, id)
    local past = past_of(self, id)
    self.add(it.sum, past.sum, true)
    for _, snapshot in ipairs(list) do
      if snapshot.generation >= past.first and not past.folded[tostring(snapshot.generation)] then
        local is_live = self.is_alive(snapshot.pid)
        self.add(it.sum, snapshot, not is_live)
        if is_live then it.live[#it.live + 1] = snapshot end
      end
    end
    out[#out + 1] = it
  end
  return out
end

return M
