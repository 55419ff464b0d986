--- One JSON line for each batch that went: when, how many were queued, who was picked and why, so that the author of a
-- policy sees what it does.
--
--   {"policy":"on_time","at":1.204518,"queued":12,"picked":[3,9],"cost":480,"waited_s":[0.31,0.02],"reason":"policy"}
--
-- at is in seconds since the first arrival; picked has the numbers of arrivals, from 1, in the order of the batch.
-- Before it stands at most one line for all the times since the batch before at which a scripted policy was asked and
-- named nobody, so that there are never more than two lines a batch:
--
--   {"policy":"on_time","at":1.2,"queued":11,"picked":[],"cost":0,"waited_s":[],"reason":"wait","asked":4,"last":1.203,
--    "until":1.2045,"idle_slots":1,"full":false,"due":false}
--
-- It was asked so many times, at first at `at`, at last at `last`; queued and what follows are of the last time. until
-- is when it wants to be asked again, if nothing comes before; null: when something does.

local json = require "tokenbatcher.base.json"
local REASONS = require("tokenbatcher.core.stats").REASONS

local M = {}
local Decisions = {}
Decisions.__index = Decisions

--- @return an object to be closed, or nil and a message
function M.open(path)
  local file, message = io.open(path, "wb")
  if not file then return nil, "--decisions: " .. message end
  return setmetatable({ path = path, file = file, label = "", numbers = {}, waited = {}, asked = 0 }, Decisions)
end

local function seconds(at_us) return ("%.6f"):format(at_us / 1e6) end

-- The line of the times at which nobody was picked, if there were any.
local function tell_waits(self)
  if self.asked == 0 then return end
  self.file:write(('{"policy":%s,"at":%s,"queued":%d,"picked":[],"cost":0,"waited_s":[],"reason":"wait",'
    .. '"asked":%d,"last":%s,"until":%s,"idle_slots":%d,"full":%s,"due":%s}\n'):format(self.label,
    seconds(self.from_us), self.queued, self.asked, seconds(self.last_us),
    self.until_us and seconds(self.until_us) or "null", self.idle_slots,
    tostring(self.is_full), tostring(self.is_due)))
  self.asked = 0
end

--- What follows is of this run.
function Decisions:begin(label)
  tell_waits(self)
  self.label = json.quote(label)
end

--- The policy was asked and has named nobody. @param until_us number|nil  see above
-- @param view table  what it has seen: size, idle_slots, full, due
function Decisions:not_now(at_us, until_us, view)
  if self.asked == 0 then self.from_us = at_us end
  self.asked, self.last_us, self.until_us = self.asked + 1, at_us, until_us
  self.queued, self.idle_slots, self.is_full, self.is_due = view.size, view.idle_slots, view.full, view.due
end

--- One more of the batch that is about to be told. @param i number  from 0
function Decisions:pick(i, number, waited_us)
  self.numbers[i + 1], self.waited[i + 1] = ("%d"):format(number), ("%.6f"):format(waited_us / 1e6)
end

--- The batch of n records that was picked.
function Decisions:batch(at_us, queued, n, cost, reason)
  tell_waits(self)
  self.file:write(('{"policy":%s,"at":%.6f,"queued":%d,"picked":[%s],"cost":%.14g,"waited_s":[%s],"reason":"%s"}\n')
    :format(self.label, at_us / 1e6, queued, table.concat(self.numbers, ",", 1, n), cost,
      table.concat(self.waited, ",", 1, n), REASONS[reason + 1]))
end

--- @return true, or nil and a message: not all could be written
function Decisions:close()
  tell_waits(self)
  local ok, message = self.file:close()
  if ok then return true end
  return nil, ("--decisions: cannot write %s: %s"):format(self.path, message)
end

return M
