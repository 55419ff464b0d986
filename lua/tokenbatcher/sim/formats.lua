--- The formats of traces: how one is known by its first line, and what a line of it says.
--
-- A format is {name, new(estimate) -> parse}. estimate(record) gives the cost of a record, or nil and
-- why not, for rows of JSON that have a "record" in place of a cost. parse(text, from, to, row) reads
-- the line that is text[from..to] and fills row.at_s (seconds, any origin), row.cost, row.output (-1: it does not
-- say), row.record (of JSON, where it has one) and, in our recordings, turn (0: none), key, group, priority,
-- timeout_us and slo_us (0: none), batch_timeout_us (as the core takes it: 0: none, -1: the record goes at once).
-- It returns true; false for a line that is no arrival; or nil and what is wrong. A line of CSV is read where it
-- is: no string is made of it.

local json = require "tokenbatcher.base.json"
local options = require "tokenbatcher.core.options"

local byte, floor, max = string.byte, math.floor, math.max

local M = {}

local AT_ONCE = -1
local NO_OUTPUT = -1
local MAX_COST = options.MAX_COST
local MAX_FRACTION = 20 -- digits of a fraction of a second; hundreds would overflow
M.VERSION = 1

local function is_number(value, most)
  return type(value) == "number" and value >= 0 and value <= most
end

-- --- Azure: TIMESTAMP,ContextTokens,GeneratedTokens --------------------------------

-- Digits from `at`, at least one: their value and the place behind them; or nil.
local function digits(text, at)
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

-- The fraction and the time zone "+00:00" or "Z", if there are any; and the place behind them.
local function fraction(text, at)
  local value = 0
  if byte(text, at) == 46 then
    local part, next_at = digits(text, at + 1)
    if not part or next_at > at + MAX_FRACTION then return end
    value, at = part / 10 ^ (next_at - at - 1), next_at
  end
  if byte(text, at) == 90 then return value, at + 1 end
  if byte(text, at) == 43 and text:sub(at, at + 5) == "+00:00" then return value, at + 6 end
  return value, at
end

local function azure_complaint(line)
  local _, commas = line:gsub(",", ",")
  if commas ~= 2 then return ("3 columns are expected, there are %d"):format(commas + 1) end
  local stamp, context, generated = line:match "^(.-),(.-),(.*)$"
  if not context:find "^%d+$" then return ("ContextTokens is '%s', not a whole number"):format(context) end
  if not generated:find "^%d+$" then return ("GeneratedTokens is '%s', not a whole number"):format(generated) end
  if tonumber(context) > MAX_COST then return "ContextTokens is above 1e12" end
  if tonumber(generated) > MAX_COST then return "GeneratedTokens is above 1e12" end
  return ("TIMESTAMP is '%s', not YYYY-MM-DD HH:MM:SS.fffffff"):format(stamp)
end

local function new_azure()
  local base
  return function(text, from, to, row)
    local whole = whole_seconds(text, from)
    local part, comma, cost, output, stop
    if whole then part, comma = fraction(text, from + 19) end
    if part and byte(text, comma) == 44 then cost, comma = digits(text, comma + 1) end
    if cost and byte(text, comma) == 44 then output, stop = digits(text, comma + 1) end
    if not output or stop ~= to + 1 or cost > MAX_COST or output > MAX_COST then
      return nil, azure_complaint(text:sub(from, to))
    end
    base = base or whole
    row.at_s, row.cost, row.output = whole - base + part, cost, output
    return true
  end
end

-- --- JSON lines ----------------------------------------------------------------

local function decode(text, from, to)
  local value, message = json.decode(text:sub(from, to))
  if value == nil then return nil, "no JSON: " .. message end
  if type(value) ~= "table" then return nil, "no JSON object" end
  return value
end

-- The record that a row of JSON has, or nil (JSON's null is a userdata).
local function record_of(value)
  if type(value.record) == "userdata" then return nil end
  return value.record
end

-- The cost of a row: its field `name`, or what the estimator says of its record.
local function cost_of(value, name, estimate)
  if value[name] == nil and record_of(value) ~= nil then return estimate(value.record) end
  if is_number(value[name], MAX_COST) then return value[name] end
  return nil, name .. " is no number from 0 to 1e12"
end

local function new_mooncake(estimate)
  return function(text, from, to, row)
    local value, message = decode(text, from, to)
    if not value then return nil, message end
    if not is_number(value.timestamp, 1e15) then return nil, "timestamp is no number of milliseconds" end
    local cost
    cost, message = cost_of(value, "input_length", estimate)
    if not cost then return nil, message end
    local output = value.output_length
    if output ~= nil and not is_number(output, MAX_COST) then
      return nil, "output_length is no number from 0 to 1e12"
    end
    row.at_s, row.cost, row.output, row.record = value.timestamp / 1000, cost, output or NO_OUTPUT, record_of(value)
    return true
  end
end

local function microseconds(seconds) return seconds and max(1, floor(seconds * 1e6 + 0.5)) or 0 end

-- What is wrong with the parts of an arrival that need not be there, or nil.
local function complaint(value)
  for _, name in ipairs { "key", "group" } do
    if value[name] ~= nil and type(value[name]) ~= "string" then return name .. " is no string" end
  end
  if value.priority ~= nil and type(value.priority) ~= "number" then return "priority is no number" end
  for _, name in ipairs { "timeout_s", "slo" } do
    local s = value[name]
    if s ~= nil and not (is_number(s, 1e12) and s > 0) then return name .. " is no number of seconds above 0" end
  end
  if value.batch_timeout_s ~= nil and not is_number(value.batch_timeout_s, 1e12) then
    return "batch_timeout_s is no number of seconds"
  end
  if value.turn ~= nil and not is_number(value.turn, 2 ^ 53) then return "turn is no number" end
end

local function parse_recorded(value, row, estimate)
  if value.batch ~= nil then return false end
  if not is_number(value.at, 1e12) then return nil, "at is no number of seconds" end
  local cost, message = cost_of(value, "cost", estimate)
  if not cost then return nil, message end
  local problem = complaint(value)
  if problem then return nil, problem end
  row.at_s, row.cost, row.output, row.record = value.at, cost, NO_OUTPUT, record_of(value)
  row.turn = value.turn or 0
  row.key, row.group, row.priority = value.key, value.group, value.priority or 0
  row.timeout_us, row.slo_us = microseconds(value.timeout_s), microseconds(value.slo)
  row.batch_timeout_us = value.batch_timeout_s == 0 and AT_ONCE or microseconds(value.batch_timeout_s)
  return true
end

local function new_recording(estimate)
  return function(text, from, to, row)
    local value, message = decode(text, from, to)
    if not value then return nil, message end
    if value.tokenbatcher_recording ~= nil then return false end
    return parse_recorded(value, row, estimate)
  end
end

M.azure = { name = "Azure CSV", has_header = true, new = new_azure }
M.mooncake = { name = "Mooncake JSON lines", new = new_mooncake }
M.recording = { name = "recording", has_header = true, new = new_recording }

--- Which one a file is, by its first line. @return format, or nil and a message
function M.detect(line)
  if line:lower() == "timestamp,contexttokens,generatedtokens" then return M.azure end
  local value = line:sub(1, 1) == "{" and json.decode(line)
  if type(value) == "table" and value.tokenbatcher_recording ~= nil then
    if value.tokenbatcher_recording == M.VERSION then return M.recording end
    return nil, ("is a recording of version %s; this program reads version %d"):format(
      tostring(value.tokenbatcher_recording), M.VERSION)
  end
  if type(value) == "table" and value.timestamp ~= nil then return M.mooncake end
  return nil, "is no trace of a known format: the first line is neither TIMESTAMP,ContextTokens,GeneratedTokens, nor "
    .. 'JSON with "timestamp" and "input_length", nor the header of a recording'
end

return M
