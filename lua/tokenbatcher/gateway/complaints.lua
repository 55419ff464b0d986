--- Lines in the log about requests that failed; of the many of an outage, some.

local clock = require "tokenbatcher.runtime.clock"
local host = require "tokenbatcher.runtime.host"

local M = {}
local Complaints = {}
Complaints.__index = Complaints

local MOST_LINES = 20 -- a second

--- @param log function|nil  (level, text); by default the host's log, or stderr
function M.new(log)
  return setmetatable({ log = log or M.log, n = 0, since_us = 0 }, Complaints)
end

function M.log(level, text)
  if not host.log(level, text) then io.stderr:write("tokenbatcher: ", text, "\n") end
end

--- A request failed. @param id string  its name
function Complaints:add(level, id, text)
  local now_us = clock.now_us()
  if now_us - self.since_us > 1e6 then
    if self.n > MOST_LINES then self.log("warn", ("%d more requests failed"):format(self.n - MOST_LINES)) end
    self.since_us, self.n = now_us, 0
  end
  self.n = self.n + 1
  if self.n <= MOST_LINES then self.log(level, ("request %s: %s"):format(id, text)) end
end

return M
