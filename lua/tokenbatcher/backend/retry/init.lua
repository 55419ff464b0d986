--- What is tried again, when, and how often: one policy for tb.http, the backends, functions of one's
-- own (retrying.lua) and whoever else asks servers.
--
--     local retry = Retry.new("who, for messages", { attempts = 5 })
--     local wait_s, why = retry:wait_s(failed, attempt, left_s)
--
-- This file decides and does nothing: it reads no clock and sleeps for nobody. calls.lua does, and
-- circuit.lua says when nothing is to be tried at all.
--
-- A failure is {response} or {err}: an answer {status, headers, body, retry_after_s}, or an err with a code and
-- was_sent, as tb.http gives them; is_final: whoever made it knows that there is no use;
-- is_callers: it tells of who asked, not of the server. Tried again are:
--  - the statuses of `statuses`, unless the quota is used up (insufficient_quota: more requests help nobody)
--  - connections that failed before anything was sent
--  - other connections that failed half-way, and answers that did not come in time, where safe_to_repeat is set

local asked = require "tokenbatcher.backend.retry.asked"
local backoff = require "tokenbatcher.base.backoff"
local errors = require "tokenbatcher.base.errors"
local json = require "tokenbatcher.base.json"
local parameters = require "tokenbatcher.base.parameters"

local M = {}
local Retry = {}
Retry.__index = Retry

local DAY_S = 86400

--- What a policy may be given.
M.options = {
  { name = "attempts", kind = "count", default = 5, min = 1, max = 1001 }, -- in all, the first included
  { name = "statuses", kind = "table", default = { 408, 409, 425, 429, 500, 502, 503, 504, 529 } },
  { name = "backoff_s", kind = "number", default = 0.5, above = 0, max = DAY_S, unit = "seconds" },
  { name = "max_backoff_s", kind = "number", default = 30, above = 0, max = DAY_S, unit = "seconds" },
  { name = "retry_after_max_s", kind = "number", default = 60, min = 0, max = DAY_S, unit = "seconds" },
  { name = "total_s", kind = "number", above = 0, max = 366 * DAY_S, unit = "seconds" }, -- from the first attempt on
  { name = "safe_to_repeat", kind = "boolean", default = false }, -- what may have reached the server
}

local function status_set(who, list)
  local set = {}
  for _, status in pairs(list) do
    if type(status) ~= "number" or status % 1 ~= 0 or status < 300 or status > 599 then
      errors.misuse(("%s: statuses must be a list of HTTP statuses from 300 to 599, and holds %s"):format(who,
        errors.show(status)))
    end
    set[status] = true
  end
  return set
end

--- @param who string  for messages  @param given table|nil  see M.options
function M.new(who, given)
  local self = setmetatable(parameters.read(who, M.options, given), Retry)
  self.statuses = status_set(who, self.statuses)
  return self
end

-- --- what kind of failure it is ---------------------------------------------------------------

-- A server that is not there, or takes nobody now: no record is at fault.
local AWAY = { [429] = true, [502] = true, [503] = true, [504] = true, [529] = true }
local QUOTA_BYTES = 65536
local HOPELESS = { insufficient_quota = true, billing_hard_limit_reached = true, billing_not_active = true }

-- The code of a refusal that lasts until somebody has paid, or nil.
local function hopeless_code(response)
  if response.status ~= 429 or type(response.body) ~= "string" or #response.body > QUOTA_BYTES then return nil end
  local ok, answer = pcall(json.decode, response.body) -- raises where lua-cjson is not
  local problem = ok and type(answer) == "table" and answer.error
  if type(problem) ~= "table" then return nil end
  return HOPELESS[problem.code] and problem.code or HOPELESS[problem.type] and problem.type or nil
end

local function is_status_to_repeat(self, response)
  local wish = response.headers and response.headers["x-should-retry"]
  if wish == "true" then return true end
  if not self.statuses[response.status] then return false end
  if wish == "false" then return false, "the server says so" end
  local code = hopeless_code(response)
  return not code, code
end

-- Answers that will not be smaller, calls that were called off.
local NEVER = { http_too_large = true, cancelled = true }

--- Would it be tried again, if there were attempts and time? @return boolean, and where there is one, why not
function Retry:may_repeat(failed)
  if failed.is_final then return false end
  if failed.response then return is_status_to_repeat(self, failed.response) end
  local err = failed.err
  if NEVER[err.code] then return false end
  return err.was_sent == false or self.safe_to_repeat
end

--- Is it the server that is away, whoever asks?
function M.is_away(failed)
  if failed.response then return AWAY[failed.response.status] == true end
  return failed.err.was_sent == false
end

-- The server took the request and was not heard of again.
local SILENT = { http_broken = true, http_timeout = true }

--- May it be the server that is away? Others know: see circuit.lua.
function M.is_silent(failed)
  return not failed.response and SILENT[failed.err.code] == true
end

--- In a word or two, which quote nobody: "status 503", "http_connect".
function M.in_short(failed)
  return failed.response and "status " .. failed.response.status or tostring(failed.err.code)
end

--- What the answer asks for. @return number seconds, or nil
function M.asked_s(failed)
  return failed.response and asked.wait_s(failed.response)
end

-- --- how long to wait -----------------------------------------------------------------------------

--- @param attempt number  how many there were: 1 after the first
-- @param left_s number|nil  until nobody waits any more  @param limit string|nil  what ends then ("the deadline")
-- @return number seconds, or nil and why it is not tried again (nil: its kind never is)
function Retry:wait_s(failed, attempt, left_s, limit)
  local may, why = self:may_repeat(failed)
  if not may then return nil, why end
  if attempt >= self.attempts then return nil, attempt > 1 and ("tried %d times"):format(attempt) or nil end
  limit = limit or "the deadline"
  if left_s and left_s <= 0 then return nil, limit .. " has come" end
  local asked_s = M.asked_s(failed)
  if asked_s and asked_s > self.retry_after_max_s then
    return nil, ("it asks to wait %.14g s, more than retry_after_max_s = %.14g s"):format(asked_s,
      self.retry_after_max_s)
  end
  if asked_s and left_s and asked_s >= left_s then
    return nil, ("it asks to wait %.14g s, and %s comes in %.3g s"):format(asked_s, limit, left_s)
  end
  return backoff.wait_s(attempt - 1, asked_s,
    { first_s = self.backoff_s, most_s = self.max_backoff_s, left_s = left_s })
end

return M
