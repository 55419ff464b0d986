--- A socket at which the loop listens: a source of its turns (see loop.add_source) that wakes nobody. What is asked
-- is answered in the turn in which it has come.
--
-- THE SPECIAL PROBLEM OF WHO ASKS TOO MUCH. The loop has other work. So nobody looks at the socket more often than
-- once a millisecond, and after a look that has taken t, for the next 20 t the loop is not even told that somebody is
-- there: whatever comes in, it takes one part in twenty-one of the time.

local clock = require "tokenbatcher.runtime.clock"
local errors = require "tokenbatcher.base.errors"
local listen_ffi = require "tokenbatcher.listen.listen_ffi"
local loop = require "tokenbatcher.runtime.loop"
local replies = require "tokenbatcher.listen.replies"
local tbffi = require "tokenbatcher.core.ffi"

local C = listen_ffi.lib
local max, min = math.max, math.min

local M = {}

local AT_ONCE = 8 -- requests that a turn answers
local LOOK_US, MOST_REST_US, SHARE = 1000, 250000, 20
local SHORT_US = 100 -- a look that took less has found nothing to rest from
local UNTOLD_US = 20000 -- the loop waits for as many descriptors as it can: somebody looks so often

local ids = tbffi.new("double[?]", AT_ONCE)

local Server = { is_onlooker = true }
Server.__index = Server

-- --- the loop's side ----------------------------------------------------------------------

local function answer_all(self, n)
  for i = 0, n - 1 do
    local id = ids[i]
    local request = listen_ffi.read(self.handle, id)
    if request then
      local ok, status, headers, body, is_stream = pcall(self.serve, request, self)
      if not ok then
        self.log("warn", "listen: " .. request.path .. " failed: " .. errors.text(status))
        status, headers, body = replies.refusal(500, "it failed: see the log")
      end
      if listen_ffi.answer(self.handle, id, status, headers, body, is_stream) and is_stream then
        self.streams:add(id)
      end
    end
  end
end

-- Until then the loop is not told of what comes in.
local function rest(self, now, spent_us)
  self.rested_at = now + max(LOOK_US, min(MOST_REST_US, SHARE * spent_us))
  self.is_resting = true
  self.pump.detach(self.fd)
end

-- Whatever goes wrong with what readers see, the run goes on.
local function send_events(self, now)
  local streams = self.streams
  if not streams then return false end
  local ok, has_sent = pcall(streams.turn, streams, now, self.handle)
  if ok then return has_sent end
  self.log("warn", "listen: events failed: " .. errors.text(has_sent))
  streams:let_go(self.handle)
  return true
end

local function look(self, now)
  local n = C.tb_listen_turn(self.handle, ids, AT_ONCE)
  if n > 0 then answer_all(self, n) end
  local has_sent = send_events(self, now)
  if n > 0 or has_sent then C.tb_listen_turn(self.handle, ids, 0) end -- it goes out at once
  return n > 0 or has_sent
end

function Server:turn(now)
  if now < self.rested_at then return end
  if self.is_resting and self.pump.attach(self.fd) then self.is_resting = false end
  local began = self.pump.now()
  local has_found = look(self, began)
  local ended = self.pump.now()
  self.rested_at = ended + LOOK_US
  if self.is_resting then
    self.rested_at = ended + UNTOLD_US
  elseif has_found or ended - began > SHORT_US then
    rest(self, ended, ended - began)
  end
  local at = tonumber(C.tb_listen_next(self.handle))
  self.at = at >= 0 and at or nil
end

--- When turn() is needed next, microseconds, or nil.
function Server:next_us()
  local at, due = self.at, self.streams and self.streams.at
  if due and (not at or due < at) then at = due end
  if self.is_resting then return self.rested_at end -- to be told again: nobody else would wake the loop
  return at and max(at, self.rested_at)
end

function Server:is_busy() return false end -- luacheck: ignore self

function Server:excuse() end -- luacheck: ignore self

--- Every connection ends. At the end of the run the loop calls it.
function Server:close()
  if not self.handle then return end
  if not self.is_resting then self.pump.detach(self.fd) end
  listen_ffi.close(self.handle)
  self.handle, self.turn = nil, function() end
  if self.on_close then self.on_close() end
end

--- Who listens no longer. Not within the loop's turn at this source.
function Server:stop()
  loop.remove_source(self)
  self:close()
end

--- Listen, on the clock in use.
-- @param place table  host and port, or path; is_remote
-- @param opts table  serve(request, server) -> status, headers, body, is_stream; log(level, text); streams: the
-- readers of streams (events.lua), or nil; on_close()
-- @return a server, or nil, one of tb_listen_refusal and a sentence
function M.open(place, opts)
  local handle, refusal, message = listen_ffi.open(place)
  if not handle then return nil, refusal, message end
  local pump = clock.pump
  local self = setmetatable({
    handle = handle, pump = pump, fd = C.tb_listen_fd(handle), serve = opts.serve, log = opts.log,
    streams = opts.streams, on_close = opts.on_close, rested_at = 0, is_resting = false,
    address = tbffi.text(C.tb_listen_address(handle)), is_file = place.path ~= nil,
  }, Server)
  local ok, problem = pump.attach(self.fd)
  if not ok then
    listen_ffi.close(handle)
    return nil, C.TB_LISTEN_ESYSTEM, "the loop cannot wait for it: " .. problem
  end
  loop.add_source(self)
  clock.notify()
  return self
end

--- An argument of a request's query, or nil.
function Server:argument(request, name)
  return listen_ffi.argument(self.handle, request.id, name)
end

return M
