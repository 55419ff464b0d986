--- Suspects (R7): keys whose records failed while their neighbours' were answered. For a while
-- their records run in batches of one, so that one producer cannot stop the others.
--
-- Kept by name; the core knows one bit for each key's number, and nothing of time. A suspect keeps
-- its number (Keys:take), or the bit would pass to another key.

local tbffi = require "tokenbatcher.core.ffi"
local C = tbffi.lib

local M = {}
local Suspects = {}
Suspects.__index = Suspects

-- At most so many are kept; the one whose last failure is longest ago is forgotten.
local MOST = 10000
-- So many answers in a row clear a key.
local ENOUGH = 8

--- @param handle cdata  the core's batcher  @param keys table  of core/keys.lua
function M.new(handle, keys)
  -- a list of {name, number, failed_us, answered, before, after} in the order of the last failures
  return setmetatable({ handle = handle, keys = keys, by_name = {}, count = 0, first = nil, last = nil }, Suspects)
end

local function unlink(self, suspect)
  if suspect.before then suspect.before.after = suspect.after else self.first = suspect.after end
  if suspect.after then suspect.after.before = suspect.before else self.last = suspect.before end
end

local function append(self, suspect)
  suspect.before, suspect.after = self.last, nil
  if self.last then self.last.after = suspect else self.first = suspect end
  self.last = suspect
end

local function forget(self, suspect, now_us)
  unlink(self, suspect)
  self.by_name[suspect.name], self.count = nil, self.count - 1
  C.tb_key_alone(self.handle, suspect.number, 0, now_us)
  self.keys:give(suspect.number)
end

--- A record of this key failed where another was answered; or one of a suspect failed again.
function Suspects:blame(name, now_us)
  local suspect = self.by_name[name]
  if suspect then
    unlink(self, suspect)
  else
    if self.count >= MOST then forget(self, self.first, now_us) end
    suspect = { name = name, number = self.keys:take(name) }
    self.by_name[name], self.count = suspect, self.count + 1
    C.tb_key_alone(self.handle, suspect.number, 1, now_us)
  end
  suspect.failed_us, suspect.answered = now_us, 0
  append(self, suspect)
end

--- A record of a key was answered.
function Suspects:answered(name, now_us)
  local suspect = self.by_name[name]
  if not suspect then return end
  suspect.answered = suspect.answered + 1
  if suspect.answered >= ENOUGH then forget(self, suspect, now_us) end
end

function Suspects:has(name) return self.by_name[name] ~= nil end

-- A failure that is yet to come was of another run, on another clock.
local function is_over(suspect, for_us, now_us)
  return suspect.failed_us + for_us <= now_us or suspect.failed_us > now_us
end

--- Those whose time has passed are suspect no more.
-- @param for_us number  how long a key stays suspect after its last failure, microseconds
function Suspects:expire(for_us, now_us)
  while self.first and is_over(self.first, for_us, now_us) do forget(self, self.first, now_us) end
end

--- When expire() is needed next, microseconds, or nil.
function Suspects:next_us(for_us)
  return self.first and self.first.failed_us + for_us
end

return M
