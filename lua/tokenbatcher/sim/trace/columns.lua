--- Which column of a file is what of an arrival: as --columns says it, and reading rows by it, of CSV with a
-- header and of JSON lines.
--
-- A layout is {name, unit, columns = {time = name, cost = name, ...}, failed = name or nil, asked (the columns that the
-- command line named), no_time_is_failed}: where the column `failed` is 0, or there is no time and no_time_is_failed is
-- set, the request has failed at its source, and is no arrival. unit:
-- a name of M.UNITS, or nil: not known yet. Without a time every row is at 0 (see lengths.lua).

local csv = require "tokenbatcher.sim.trace.csv"
local dates = require "tokenbatcher.sim.trace.dates"
local errors = require "tokenbatcher.base.errors"
local json = require "tokenbatcher.base.json"
local options = require "tokenbatcher.core.options"

local M = {}

local MAX_COST = options.MAX_COST
local MAX_TIME_S = 1e12
local NO_OUTPUT = -1
local DEPTH = 4 -- of the names that are shown of a row
local SHOWN_BYTES, SHOWN_NAMES_BYTES = 160, 4000 -- of a value, of all names of columns

--- For people: a row of LLMServingSim that is a session of an agent.
M.SESSION = "a session of calls that wait for each other (sub_requests): they have no times of arrival of their own"

--- What a column may be, in the order of --columns' help.
M.ROLES = { "time", "cost", "output", "key", "group", "priority", "class" }
--- Seconds in a unit of time; a date has none.
M.UNITS = { s = 1, ms = 1e-3, us = 1e-6, ns = 1e-9, date = false }
M.UNIT_NAMES = { "s", "ms", "us", "ns", "date" }

local IS_ROLE = {}
for _, role in ipairs(M.ROLES) do IS_ROLE[role] = true end

--- What a file says may be any bytes, and long: as people may see it.
function M.printable(text)
  text = text:gsub("[%c\127-\255]", "?")
  return #text > SHOWN_BYTES and text:sub(1, SHOWN_BYTES) .. "..." or text
end

--- Names of columns, which may be in any script, as people may see them. @param names string[]
function M.printable_names(names)
  local text = table.concat(names, ", "):gsub("%c", "?")
  return #text > SHOWN_NAMES_BYTES and text:sub(1, SHOWN_NAMES_BYTES) .. "..." or text
end

--- "time=arrival_s,cost=body.tokens": a name may have commas in it. @return {role = name}, or nil and a message
function M.parse(text)
  local out, last = {}, nil
  for part in (text .. ","):gmatch "([^,]*)," do
    local role, name = part:match "^%s*(%a+)=(.*)$"
    if role and not IS_ROLE[role] then
      return nil, ("--columns: there is no '%s'; did you mean '%s'?"):format(role, errors.nearest(role, M.ROLES))
    elseif role then
      if out[role] then return nil, ("--columns: %s is given twice"):format(role) end
      out[role], last = name, role
    elseif last then
      out[last] = out[last] .. "," .. part
    else
      return nil, ("--columns needs time=NAME,cost=NAME,..., got '%s'"):format(text)
    end
  end
  for role, name in pairs(out) do
    if name == "" then return nil, ("--columns: %s= needs the name of a column"):format(role) end
  end
  return out
end

-- --- values --------------------------------------------------------------------

-- What there is of a value: JSON's null and an empty field are nothing.
local function given(value)
  if value == "" or type(value) == "userdata" then return nil end
  return value
end

-- A number, or nil. An integer above 2^53 is the nearest one; what CSV has is text.
local function number_of(value)
  if type(value) == "number" then return value end
  if type(value) == "cdata" then return value + 0 end
  if type(value) ~= "string" or not value:find "^%s*[%d.+-][%d.eE+-]*%s*$" then return nil end
  return tonumber(value)
end

local function is_in(value, most) return value ~= nil and value >= 0 and value <= most end

local function show(value)
  if type(value) == "table" then return "a list or an object" end
  return "'" .. tostring(value) .. "'"
end

local function text_of(value)
  if type(value) == "number" then return ("%.14g"):format(value) end
  return type(value) ~= "table" and tostring(value) or nil
end

-- function(value) -> seconds, or nil and what is wrong
local function time_reader(unit)
  local factor, base = M.UNITS[unit], nil
  if factor then
    return function(value)
      local number = number_of(value)
      local s = number and number * factor
      if is_in(s, MAX_TIME_S) then return s end
      return nil, ("no number of %s"):format(unit)
    end
  end
  return function(value)
    local whole, part, behind
    if type(value) == "string" then whole, part, behind = dates.read(value, 1) end
    if not whole or behind ~= #value + 1 then return nil, "no date YYYY-MM-DD HH:MM:SS.fff" end
    base = base or whole
    return whole - base + part
  end
end

-- --- rows ----------------------------------------------------------------------

local OPTIONAL_TEXTS = { "key", "group", "class" }

-- The part of a row that need not be there. @param get function(role)  @return true, or nil and what is wrong
local function fill_optional(row, get, columns, seen)
  for _, role in ipairs(OPTIONAL_TEXTS) do
    local value = columns[role] and given(get(role))
    if value then
      row[role], seen[role] = text_of(value), true
      if not row[role] then return nil, ("%s is %s, no text"):format(columns[role], show(value)) end
    end
  end
  local priority = columns.priority and given(get "priority")
  if priority then
    row.priority, seen.priority = number_of(priority), true
    if not row.priority or math.abs(row.priority) == math.huge then
      return nil, ("%s is %s, no number"):format(columns.priority, show(priority))
    end
  end
  return true
end

-- The cost of a row: its column, or what the estimator says of its record. @param value table|nil  a row of JSON
local function cost_of(columns, get, value, estimate)
  local cost = columns.cost and given(get "cost")
  local record = value and value.record
  if cost == nil and record ~= nil and type(record) ~= "userdata" then return estimate(record) end
  local number = number_of(cost)
  if is_in(number, MAX_COST) then return number end
  return nil, ("%s is %s, no number from 0 to 1e12"):format(columns.cost or "the cost", cost == nil and "missing"
    or show(cost))
end

-- function(row, get, value): fills a row
local function filler(layout, estimate, seen)
  local columns, read_time = layout.columns, layout.columns.time and time_reader(layout.unit)
  return function(row, get, value)
    local at_s, message = 0, nil
    if read_time then at_s, message = read_time(given(get "time")) end
    if not at_s then
      local time = given(get "time")
      if time == nil and value and value.sub_requests then return nil, M.SESSION end
      if time == nil and layout.no_time_is_failed then return false, "failed at the source" end
      return nil, ("%s is %s, %s"):format(columns.time, time == nil and "missing" or show(time), message)
    end
    if layout.failed and number_of(get "failed") == 0 then return false, "failed at the source" end
    local cost
    cost, message = cost_of(columns, get, value, estimate)
    if not cost then return nil, value and value.sub_requests and M.SESSION or message end
    local output = columns.output and given(get "output")
    if output then
      seen.output = true
      local number = number_of(output)
      if not is_in(number, MAX_COST) then
        return nil, ("%s is %s, no number from 0 to 1e12"):format(columns.output, show(output))
      end
      output = number
    end
    row.at_s, row.cost, row.output = at_s, cost, output or NO_OUTPUT
    row.record = value and value.record ~= nil and type(value.record) ~= "userdata" and value.record or nil
    return fill_optional(row, get, columns, seen)
  end
end

local function unknown(role, name, known)
  local near = errors.nearest(name, known)
  return ("--columns %s=%s: there is no such column%s"):format(role, name, near and "; did you mean '"
    .. M.printable_names { near } .. "'?" or "")
end

-- Of optional columns that no row had: what is wrong, or nil.
local function unseen(layout, seen, known)
  for _, role in ipairs(M.ROLES) do
    local name = layout.asked and layout.asked[role]
    if name and role ~= "time" and role ~= "cost" and not seen[role] then return unknown(role, name, known) end
  end
end

-- --- CSV -------------------------------------------------------------------------

--- The names in a header, without what is around them.
function M.header(line)
  local names = {}
  local n = csv.split(line, 1, #line, names)
  for i = 1, n or 0 do names[i] = names[i]:match "^%s*(.-)%s*$" end
  return names
end

-- Where each column is. @return {role = number}, or nil and a message
local function places(layout, header)
  local at, out, is_twice = {}, {}, {}
  for i, name in ipairs(header) do
    is_twice[name] = at[name] ~= nil
    at[name] = at[name] or i
  end
  for role, name in pairs(layout.columns) do
    out[role] = at[name]
    if not out[role] then return nil, unknown(role, name, header) end
    if is_twice[name] then return nil, ("%s=%s: more than one column has this name"):format(role, name) end
  end
  out.failed = layout.failed and at[layout.failed]
  return out
end

--- The unit of a time that stands in a file, where none was given. @return "date", or nil and a message
function M.unit_of(value)
  if type(value) == "string" and dates.read(value, 1) then return "date" end
  return nil, ("--time-unit is needed, one of %s: the first time is %s"):format(table.concat(M.UNIT_NAMES, ", "),
    show(value))
end

-- The unit of a layout that has none, by its first row. Raises.
local function find_unit(format, layout, value)
  if layout.unit or not layout.columns.time then return end
  local message
  layout.unit, message = M.unit_of(value)
  if not layout.unit then error(message, 0) end
  format.unit = layout.unit
end

--- A format (see formats.lua) of CSV with this header.
function M.csv(layout, header)
  local place, message = places(layout, header)
  if not place then return nil, message end
  local format
  format = {
    name = layout.name, unit = layout.unit, has_header = true, has_quotes = true,
    new = function(estimate)
      local fields, expected, fill = {}, #header, nil
      local function get(role) return fields[place[role]] end
      return function(text, from, to, row)
        local n, problem = csv.split(text, from, to, fields)
        if not n then return nil, problem end
        if n ~= expected then return nil, ("%d columns are expected, there are %d"):format(expected, n) end
        if not fill then
          find_unit(format, layout, fields[place.time])
          fill = filler(layout, estimate, {})
        end
        return fill(row, get)
      end
    end,
  }
  return format
end

-- --- JSON lines ----------------------------------------------------------------

-- A value by its name, or by a path with dots.
local function at_path(value, name, parts)
  if value[name] ~= nil then return value[name] end
  for i = 1, #parts do
    if type(value) ~= "table" then return nil end
    value = value[parts[i]]
  end
  return value
end

local function names_in(value, prefix, depth, out)
  for name, inner in pairs(value) do
    if type(name) == "string" then
      out[#out + 1] = prefix .. name
      if type(inner) == "table" and depth < DEPTH then names_in(inner, prefix .. name .. ".", depth + 1, out) end
    end
  end
  return out
end

local function parts_of(name)
  local out = {}
  for part in (name .. "."):gmatch "([^.]*)%." do out[#out + 1] = part end
  return out
end

--- A row of JSON lines. @return a table, or nil and what is wrong
function M.decode(text, from, to)
  local value, message = json.decode(text:sub(from, to))
  if value == nil then return nil, "no JSON: " .. message end
  if type(value) ~= "table" then return nil, "no JSON object" end
  return value
end

--- A format of JSON lines. @param first table  the first row
-- @param watch function(row)|nil  sees each good row
function M.json(layout, first, watch)
  local paths, known = {}, names_in(first, "", 1, {})
  table.sort(known)
  for role, name in pairs(layout.columns) do paths[role] = parts_of(name) end
  for _, role in ipairs { "time", "cost" } do
    local name = layout.asked and layout.columns[role] and layout.asked[role]
    if name and at_path(first, name, paths[role]) == nil then return nil, unknown(role, name, known) end
  end
  return {
    name = layout.name, unit = layout.unit,
    new = function(estimate, note)
      local value, seen = nil, {}
      local fill = filler(layout, estimate, seen)
      local function get(role) return at_path(value, layout.columns[role], paths[role]) end
      local function parse(text, from, to, row)
        local message
        value, message = M.decode(text, from, to)
        if not value then return nil, message end
        local ok, problem = fill(row, get, value)
        if ok and watch then watch(row, note) end
        return ok, problem
      end
      return parse, function() return unseen(layout, seen, known) end
    end,
  }
end

--- The value of a role in the first row of JSON.
function M.first_value(first, name)
  return at_path(first, name, parts_of(name))
end

return M
