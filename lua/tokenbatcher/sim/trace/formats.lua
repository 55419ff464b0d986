--- The formats of traces: how one is known by its first line, and what a line of it says.
--
-- A format is {name, unit (see columns.lua), has_header, has_quotes, new(estimate, note) -> parse, finish}.
-- estimate(record) gives the cost of a record, or nil and why not, for rows of JSON that have a "record" in place of
-- a cost; note(text) tells people. parse(text, from, to, row) reads the line that is text[from..to] and fills
-- row.at_s (seconds, any origin), row.cost, row.output (-1: it does not say), row.record (of JSON, where it has one),
-- key, group, class, priority and, in our recordings, turn (0: none), timeout_us and slo_us (0: none),
-- batch_timeout_us (as the core takes it: 0: none, -1: the record goes at once). It returns true; false for a line
-- that is no arrival, and perhaps why; or nil and what is wrong. finish(), if there is one, says at the end of
-- a whole reading what was wrong with it, or nil. Azure's CSV is read where it is: no string is made of it.
--
-- A file that is one value has `rows` in place of new: {n, at_s, cost, output (arrays from 0), failed}.

local columns = require "tokenbatcher.sim.trace.columns"
local dates = require "tokenbatcher.sim.trace.dates"
local json = require "tokenbatcher.base.json"
local options = require "tokenbatcher.core.options"
local vllm_bench = require "tokenbatcher.sim.trace.vllm_bench"

local byte, floor, max = string.byte, math.floor, math.max

local M = {}

local AT_ONCE, NO_OUTPUT = -1, -1
local MAX_COST = options.MAX_COST
M.VERSION = 1

local function is_number(value, most)
  return type(value) == "number" and value >= 0 and value <= most
end

-- --- Azure: TIMESTAMP,ContextTokens,GeneratedTokens --------------------------------

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
  local digits, read_date = dates.digits, dates.read
  return function(text, from, to, row)
    local whole, part, comma = read_date(text, from)
    local cost, output, stop
    if whole and byte(text, comma) == 44 then cost, comma = digits(text, comma + 1) end
    if cost and byte(text, comma) == 44 then output, stop = digits(text, comma + 1) end
    if not output or stop ~= to + 1 or cost > MAX_COST or output > MAX_COST then
      return nil, azure_complaint(text:sub(from, to))
    end
    base = base or whole
    row.at_s, row.cost, row.output = whole - base + part, cost, output
    return true
  end
end

M.azure = { name = "Azure CSV", unit = "date", has_header = true, new = new_azure }

-- --- our recordings --------------------------------------------------------------

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

-- The record that a row has, or nil (JSON's null is a userdata).
local function record_of(value)
  if type(value.record) == "userdata" then return nil end
  return value.record
end

local function cost_of(value, estimate)
  if value.cost == nil and record_of(value) ~= nil then return estimate(value.record) end
  if is_number(value.cost, MAX_COST) then return value.cost end
  return nil, "cost is no number from 0 to 1e12"
end

local function parse_recorded(value, row, estimate)
  if value.batch ~= nil then return false end
  if not is_number(value.at, 1e12) then return nil, "at is no number of seconds" end
  local cost, message = cost_of(value, estimate)
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
    local value, message = columns.decode(text, from, to)
    if not value then return nil, message end
    if value.tokenbatcher_recording ~= nil then return false end
    return parse_recorded(value, row, estimate)
  end
end

M.recording = { name = "recording", unit = "s", has_header = true, new = new_recording }

-- --- those of others --------------------------------------------------------------

local FRACTION = "the timestamps have fractions of a millisecond, which Mooncake's have not, and are read as "
  .. "milliseconds all the same; if they are seconds, say --time-unit s"

-- Traces with Mooncake's names and times in seconds exist, and would be read a thousand times too fast.
local function watch_mooncake(row, note)
  local ms = row.at_s * 1000
  if math.abs(ms - floor(ms + 0.5)) > 1e-6 * max(1, ms / 1e6) then note(FRACTION) end
end

-- Each is known by the columns that `has` names; the first that fits is taken.
local CSV = {
  { name = "Azure CSV", unit = "date", has = { "TIMESTAMP", "ContextTokens", "GeneratedTokens" },
    columns = { time = "TIMESTAMP", cost = "ContextTokens", output = "GeneratedTokens" } },
  { name = "BurstGPT CSV", unit = "s", has = { "Timestamp", "Request tokens", "Response tokens" },
    columns = { time = "Timestamp", cost = "Request tokens", output = "Response tokens", class = "Model" },
    failed = "Response tokens" },
  { name = "Splitwise-sim CSV", unit = "s", has = { "arrival_timestamp", "prompt_size", "token_size" },
    columns = { time = "arrival_timestamp", cost = "prompt_size", output = "token_size", class = "request_type" } },
  { name = "Vidur CSV", unit = "s", has = { "arrived_at", "num_prefill_tokens", "num_decode_tokens" },
    columns = { time = "arrived_at", cost = "num_prefill_tokens", output = "num_decode_tokens" } },
}
local JSON = {
  { name = "Bailian JSON lines", unit = "s", has = { "chat_id", "timestamp", "input_length" },
    columns = { time = "timestamp", cost = "input_length", output = "output_length", class = "type" } },
  { name = "Mooncake JSON lines", unit = "ms", has = { "timestamp", "input_length" }, watch = watch_mooncake,
    has_number_times = true, columns = { time = "timestamp", cost = "input_length", output = "output_length" } },
  { name = "Mooncake JSON lines", unit = "ms", has = { "timestamp", "record" }, watch = watch_mooncake,
    columns = { time = "timestamp", cost = "input_length", output = "output_length" } },
  { name = "LLMServingSim JSON lines", unit = "s", has = { "input_toks", "output_toks", "queued_ts" },
    no_time_is_failed = true, columns = { time = "queued_ts", cost = "input_toks", output = "output_toks" } },
  { name = "LLMServingSim JSON lines", unit = "ns", has = { "input_toks", "output_toks", "arrival_time_ns" },
    columns = { time = "arrival_time_ns", cost = "input_toks", output = "output_toks" } },
}

--- For people: what is read without --columns.
M.KNOWN = "Azure (2023 to 2025), BurstGPT, Splitwise-sim, Vidur, Mooncake, Bailian, LLMServingSim, vLLM's benchmark "
  .. "(detailed), recordings of ours"

-- The one of a list that fits, its columns as they are called in this file (capitals do not matter).
-- @param has_no_times boolean  it fits without its times, too
local function known(list, names, has_no_times)
  local by_lower = {}
  for _, name in ipairs(names) do by_lower[name:lower()] = by_lower[name:lower()] or name end
  for _, layout in ipairs(list) do
    local fits, out = true, { name = layout.name, unit = layout.unit, columns = {}, watch = layout.watch,
      no_time_is_failed = layout.no_time_is_failed, has_number_times = layout.has_number_times }
    for _, name in ipairs(layout.has) do
      fits = fits and (by_lower[name:lower()] ~= nil or has_no_times and name == layout.columns.time)
    end
    for role, name in pairs(fits and layout.columns or {}) do
      out.columns[role] = by_lower[name:lower()] or list == JSON and name or nil
    end
    if fits then
      out.failed = layout.failed and by_lower[layout.failed:lower()]
      if has_no_times then out.columns.time, out.watch = nil, nil end
      return out
    end
  end
end

-- What the command line says of columns and units goes before what is known.
-- @return a layout, or nil and a message
local function asked(layout, given, kind)
  local own = given.columns
  local is_whole = own and (own.time or given.has_no_times) and (own.cost or kind == "JSON lines")
  if is_whole then layout = { name = kind, columns = {} } end
  if not layout then return nil end
  layout.asked = own
  for role, name in pairs(own or {}) do layout.columns[role] = name end
  if own and own.time then layout.unit, layout.watch = nil, nil end
  if own and own.output then layout.failed = nil end
  if given.unit then layout.unit, layout.watch = given.unit, nil end
  if given.has_no_times then layout.columns.time = nil end
  return layout
end

local UNKNOWN = "is no trace of a known format (" .. M.KNOWN .. "): say which columns it has with --columns "
  .. "time=NAME,cost=NAME,... and --time-unit"

local A_LIST = "is one JSON list: one object a line is needed (jq -c '.[]' makes them of it)"

local function no_times(names)
  for _, name in ipairs(names) do
    if name == "sub_requests" then return "begins with " .. columns.SESSION end
    if name:lower() == "num_prefill_tokens" then
      return "has lengths and no times of arrival: make them up, with --arrivals poisson:rate=...,tokens=@FILE"
    end
  end
  return UNKNOWN .. "; it has: " .. columns.printable_names(names)
end

local function detect_csv(line, given)
  local names = columns.header(line)
  if #names < 2 and not given.columns then return nil, UNKNOWN end
  local layout = asked(known(CSV, names, given.has_no_times), given, "CSV")
  if not layout then return nil, no_times(names) end
  local is_plain_azure = not given.columns and not given.unit and not given.has_no_times
    and line:lower() == "timestamp,contexttokens,generatedtokens"
  if is_plain_azure then return M.azure end
  return columns.csv(layout, names)
end

local function names_of(value)
  local out = {}
  for name in pairs(value) do
    if type(name) == "string" then out[#out + 1] = name end
  end
  table.sort(out)
  return out
end

local function detect_json(value, given)
  local names = names_of(value)
  local found = known(JSON, names, given.has_no_times)
  if found and found.has_number_times and type(value[found.columns.time]) == "string" then
    found.name, found.unit, found.watch = "JSON lines", nil, nil -- Mooncake's names, in others' traces
  end
  local layout = asked(found, given, "JSON lines")
  if not layout then return nil, no_times(names) end
  if not layout.unit and layout.columns.time then
    local time = columns.first_value(value, layout.columns.time)
    local message
    if time ~= nil then layout.unit, message = columns.unit_of(time) end
    if message then return nil, message end
    layout.unit = layout.unit or "s" -- the column is not there: that is told next
  end
  return columns.json(layout, value, layout.watch)
end

local function detect_recording(value, given)
  if value.tokenbatcher_recording ~= M.VERSION then
    return nil, ("is a recording of version %s; this program reads version %d"):format(
      tostring(value.tokenbatcher_recording), M.VERSION)
  end
  if given.columns or given.unit then return nil, "is a recording of ours: --columns and --time-unit are for others" end
  return M.recording
end

--- Which one a file is, by its first line.
-- @param given table|nil  columns ({role = name}, see columns.parse), unit (a name of columns.UNITS), has_no_times (it
-- needs none: see lengths.lua)
-- @param rest function|nil  () -> the whole text; asked for where the first line is no whole value of JSON
-- @return format, or nil and a message
function M.detect(line, given, rest)
  given = given or {}
  if not line:find "^%s*[{%[]" then return detect_csv(line, given) end
  local value = json.decode(line)
  local whole = value == nil and rest and json.decode(rest())
  if vllm_bench.is(value) or vllm_bench.is(whole) then
    if given.columns or given.unit then return nil, "is one of vLLM's benchmarks: it has no columns to be named" end
    if vllm_bench.is(value) and rest and rest():find("%S", #line + 1) then
      return nil, "has more than one of vLLM's benchmarks in it (--append-result): save each in a file of its own"
    end
    return vllm_bench.format(vllm_bench.is(value) and value or whole, given.has_no_times)
  end
  if value == nil then value = whole end
  if type(value) == "table" and type(value[1]) == "table" then return nil, A_LIST end
  if type(value) ~= "table" or value == whole then return nil, UNKNOWN end
  if value.tokenbatcher_recording ~= nil then return detect_recording(value, given) end
  return detect_json(value, given)
end

return M
