--- Numbers and dates where they stand in a text: no string is made of them.
--
-- A date is "2023-11-16 18:17:03.9799600", with a T between or none, and "Z", "+00:00", "-05:30" or nothing
-- behind (then it is taken for UTC).

local byte, floor = string.byte, math.floor

local M = {}

local MAX_FRACTION = 20 -- digits of a fraction of a second; hundreds would overflow

--- Digits from `at`, at least one: their value and the place behind them; or nil.
function M.digits(text, at)
  local value, from = 0, at
  local c = byte(text, at)
  while c and c >= 48 and c <= 57 do
    value, at = value * 10 + c - 48, at + 1
    c = byte(text, at)
  end
  if at > from then return value, at end
end

-- Exactly two digits and a mark behind them, if one is given.
local function two(text, at, mark)
  local tens, ones, behind = byte(text, at, at + 2)
  if not ones or tens < 48 or tens > 57 or ones < 48 or ones > 57 then return nil end
  if mark and behind ~= mark then return nil end
  return (tens - 48) * 10 + ones - 48
end

-- Days from 1970-01-01 in the Gregorian calendar.
local function days_from(year, month, day)
  if month <= 2 then year, month = year - 1, month + 12 end
  local leap_days = floor(year / 4) - floor(year / 100) + floor(year / 400)
  return 365 * year + leap_days + floor((153 * month - 457) / 5) + day - 719469
end

local DAYS = { 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 }

local function is_day(year, month, day)
  if month < 1 or month > 12 or day < 1 or day > DAYS[month] then return false end
  return month ~= 2 or day < 29 or (year % 4 == 0 and (year % 100 ~= 0 or year % 400 == 0))
end

-- "2023-11-16 18:17:03" to whole seconds.
local function whole_seconds(text, at)
  local century, year = two(text, at), two(text, at + 2, 45)
  local month, day = two(text, at + 5, 45), two(text, at + 8, 32) or two(text, at + 8, 84)
  local hour, minute, second = two(text, at + 11, 58), two(text, at + 14, 58), two(text, at + 17)
  if not (century and year and month and day and hour and minute and second) then return end
  year = 100 * century + year
  if not is_day(year, month, day) or hour > 23 or minute > 59 or second > 60 then return end
  return days_from(year, month, day) * 86400 + hour * 3600 + minute * 60 + second
end

-- Seconds that the zone at `at` is ahead of UTC, and the place behind it.
local function zone(text, at)
  local c = byte(text, at)
  if c == 90 then return 0, at + 1 end
  if c ~= 43 and c ~= 45 then return 0, at end
  local hours, minutes = two(text, at + 1), two(text, at + 3)
  local behind = at + 5
  if byte(text, at + 3) == 58 then minutes, behind = two(text, at + 4), at + 6 end
  if not (hours and minutes) or hours > 14 or minutes > 59 then return 0, at end
  local ahead = hours * 3600 + minutes * 60
  return c == 43 and ahead or -ahead, behind
end

--- A date from `at`: whole seconds since 1970, the fraction, and the place behind it; or nil.
function M.read(text, at)
  local whole, value, behind = whole_seconds(text, at), 0, at + 19
  if not whole then return nil end
  if byte(text, behind) == 46 then
    local part, next_at = M.digits(text, behind + 1)
    if not part or next_at > behind + 1 + MAX_FRACTION then return nil end
    value, behind = part / 10 ^ (next_at - behind - 1), next_at
  end
  local ahead
  ahead, behind = zone(text, behind)
  return whole - ahead, value, behind
end

return M
