--- One JSON line for each batch that went: when, how many were queued, who was picked and why, so that the author of a
-- policy sees what it does.
--
--   {"policy":"on_time","at":1.204518,"queued":12,"picked":[3,9],"cost":480,"waited_s":[0.31,0.02],"reason":"policy"}
--
-- at is in seconds since the first arrival; picked has the numbers of arrivals, from 1, in the order of the batch.

local json = require "tokenbatcher.base.json"
local REASONS = require("tokenbatcher.core.stats").REASONS

local M = {}
local Decisions = {}
Decisions.__index = Decisions

--- @return an object to be closed, or nil and a message
function M.open(path)
  local file, message = io.open(path, "wb")
  if not file then return nil, "--decisions: " .. message end
  return setmetatable({ path = path, file = file, label = "", numbers = {}, waited = {} }, Decisions)
end

--- What follows is of this run.
function Decisions:begin(label) self.label = json.quote(label) end

--- One more of the batch that is about to be told. @param i number  from 0
function Decisions:pick(i, number, waited_us)
  self.numbers[i + 1], self.waited[i + 1] = ("%d"):format(number), ("%.6f"):format(waited_us / 1e6)
end

--- The batch of n records that was picked.
function Decisions:batch(at_us, queued, n, cost, reason)
  self.file:write(('{"policy":%s,"at":%.6f,"queued":%d,"picked":[%s],"cost":%.14g,"waited_s":[%s],"reason":"%s"}\n')
    :format(self.label, at_us / 1e6, queued, table.concat(self.numbers, ",", 1, n), cost,
      table.concat(self.waited, ",", 1, n), REASONS[reason + 1]))
end

--- @return true, or nil and a message: not all could be written
function Decisions:close()
  local ok, message = self.file:close()
  if ok then return true end
  return nil, ("--decisions: cannot write %s: %s"):format(self.path, message)
end

return M
