--- What a server's headers say of its limits, and of when to come again. Pure: it reads no clock; a date
-- counts from the answer's own Date, so that a clock that is wrong does no harm.

local M = {}

local EPOCH_S = 1e9 -- larger numbers are dates, not durations

-- --- durations and dates ----------------------------------------------------------------

local UNITS_S = { d = 86400, h = 3600, m = 60, s = 1, ms = 1e-3, us = 1e-6, ["\194\181s"] = 1e-6, ns = 1e-9 }

--- "1s", "6m0s", "20ms", "1h2m3.5s", or a number of seconds. @return number seconds, or nil
function M.duration_s(text)
  local number = text:find "^%d+%.?%d*$" and tonumber(text)
  if number then return number < EPOCH_S and number or nil end
  local sum, at = 0, 1
  while at <= #text do
    local digits, unit, after = text:match("^(%d+%.?%d*)(%D+)()", at)
    if not digits or not UNITS_S[unit] then return nil end
    sum, at = sum + tonumber(digits) * UNITS_S[unit], after
  end
  return at > 1 and sum or nil
end

local MONTHS = { Jan = 1, Feb = 2, Mar = 3, Apr = 4, May = 5, Jun = 6, Jul = 7, Aug = 8, Sep = 9, Oct = 10,
  Nov = 11, Dec = 12 }

-- Days from 1970-01-01 of the Gregorian calendar.
local function days_of(year, month, day)
  if month <= 2 then year, month = year - 1, month + 12 end
  local leaps = math.floor(year / 4) - math.floor(year / 100) + math.floor(year / 400)
  return 365 * year + leaps + math.floor((153 * (month - 3) + 2) / 5) + day - 719469
end

--- "Sun, 06 Nov 1994 08:49:37 GMT" as seconds since 1970, or nil.
function M.date_s(text)
  local day, month, year, hour, minute, second =
    text:match "^%a%a%a, (%d%d) (%a%a%a) (%d%d%d%d) (%d%d):(%d%d):(%d%d) GMT$"
  if not day or not MONTHS[month] then return nil end
  return days_of(tonumber(year), MONTHS[month], tonumber(day)) * 86400 + hour * 3600 + minute * 60 + second
end

-- --- when to come again -------------------------------------------------------------------

--- What Retry-After says, or retry-after-ms. @return number seconds, or nil
function M.retry_after_s(headers)
  local ms = tonumber(headers["retry-after-ms"])
  if ms and ms >= 0 and ms < math.huge then return ms / 1000 end
  local text = headers["retry-after"]
  if not text then return nil end
  if text:find "^%d+%.?%d*$" then return tonumber(text) end -- fractions are no standard, but sent
  local at, now = M.date_s(text), headers.date and M.date_s(headers.date)
  return at and now and math.max(0, at - now) or nil
end

local function number(text)
  local value = text and tonumber(text)
  return value and value >= 0 and value < math.huge and value or nil
end

--- What x-ratelimit-* headers say. @return table {requests = {limit, remaining, reset_s}, tokens = {...}},
-- each part and field only where it is known; or nil
function M.limits(headers)
  local out
  for _, what in ipairs { "requests", "tokens" } do
    local reset = headers["x-ratelimit-reset-" .. what]
    local one = { limit = number(headers["x-ratelimit-limit-" .. what]),
      remaining = number(headers["x-ratelimit-remaining-" .. what]), reset_s = reset and M.duration_s(reset) }
    if next(one) then
      out = out or {}
      out[what] = one
    end
  end
  return out
end

-- Until the limits that are used up are there again. (Those of which something is left may not be at fault.)
local function reset_s(headers)
  local longest
  for _, limit in pairs(M.limits(headers) or {}) do
    if limit.reset_s and (limit.remaining or 0) == 0 then longest = math.max(longest or 0, limit.reset_s) end
  end
  return longest
end

--- Seconds after which an answer asks to be tried again, or nil.
-- @param response table  {status, headers (by lower-case name), retry_after_s (as libcurl reads it, or nil)}
function M.wait_s(response)
  local headers = response.headers or {}
  return M.retry_after_s(headers) or response.retry_after_s or response.status == 429 and reset_s(headers) or nil
end

return M
