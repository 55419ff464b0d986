--- Who reads events: a few times a second each reader is sent the state, the batches of it that he has not seen.
--
-- Nothing is kept for a reader but one state: who has not taken the last one gets none, and later one with what
-- he has missed. Who takes nothing for ten seconds is closed by the library.
--
-- THE SPECIAL PROBLEM OF WHAT IT COSTS. A state that took t to make and send is followed by the next one after 200 t
-- at the earliest: readers take half a per cent of the time, and see less often what is dear.

local clock = require "tokenbatcher.runtime.clock"
local listen_ffi = require "tokenbatcher.listen.listen_ffi"

local C = listen_ffi.lib
local max, min = math.max, math.min

local M = {}

--- Readers at a time.
M.MOST = 32

local TICK_US, LONGEST_US, SHARE = 300000, 3000000, 200

local Events = {}
Events.__index = Events

--- @param make function(after) -> text, now: the state as JSON on one line, without batches that had ended by `after`
-- (seconds, nil: with all), and the time that it is of
function M.new(make)
  return setmetatable({ make = make, readers = {}, n = 0 }, Events)
end

local function event(text) return "event: state\ndata: " .. text .. "\n\n" end

--- The beginning of a stream: what is to be seen now. A browser that lost it comes again after a second.
function Events:beginning()
  local text, now = self.make(nil)
  self.begun = now
  return "retry: 1000\n\n" .. event(text)
end

function Events:is_full() return self.n >= M.MOST end

--- The answer with this id is a stream, with the last beginning().
function Events:add(id)
  self.readers[id], self.n = { seen = self.begun }, self.n + 1
  self.at = self.at or clock.now_us() + TICK_US
end

local function leave(self, id)
  self.readers[id], self.n = nil, self.n - 1
end

-- Those who have seen the same get the same, made once a turn.
local function text_for(self, made, seen)
  if not made[seen] then
    local text, now = self.make(seen)
    made[seen], made.now = event(text), made.now or now
  end
  return made[seen]
end

local function send(self, handle, made, id, reader)
  local pending = tonumber(C.tb_listen_pending(handle, id))
  if pending < 0 then return leave(self, id) end
  if pending > 0 then return end
  local text = text_for(self, made, reader.seen)
  local refusal = C.tb_listen_send(handle, id, text, #text)
  if refusal == C.TB_LISTEN_EGONE then return leave(self, id) end
  if refusal == 0 then reader.seen = made.now end
end

--- No state can be made: readers are let go, and learn why when they ask again.
function Events:let_go(handle)
  for id in pairs(self.readers) do C.tb_listen_end(handle, id) end
  self.readers, self.n, self.at = {}, 0, nil
end

--- @return boolean  was anything sent?
function Events:turn(now, handle)
  if not self.at or now < self.at then return false end
  local made = {}
  for id, reader in pairs(self.readers) do send(self, handle, made, id, reader) end
  local spent = clock.now_us() - now
  self.at = self.n > 0 and now + max(TICK_US, min(LONGEST_US, SHARE * spent)) or nil
  return made.now ~= nil
end

return M
