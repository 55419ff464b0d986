--- Rows of simulated runs as JSON and CSV, with fields in a fixed order and numbers in a fixed
-- form: the same rows give the same bytes.

local json = require "tokenbatcher.base.json"
local measure = require "tokenbatcher.sim.measure"

local M = {}

-- Nine digits are more than any figure of a simulation is good for.
local function number(value)
  if value % 1 == 0 and math.abs(value) < 1e15 then return ("%d"):format(value) end
  return ("%.9g"):format(value)
end

local function settings_json(settings)
  local parts = {}
  for i, pair in ipairs(settings) do
    local value = tonumber(pair[2])
    parts[i] = json.quote(pair[1]) .. ":" .. (value and value == value and math.abs(value) < math.huge and number(value)
      or json.quote(pair[2]))
  end
  return "{" .. table.concat(parts, ",") .. "}"
end

local function value_json(name, value)
  if name == "settings" then return settings_json(value) end
  if value == nil then return "null" end
  return type(value) == "number" and number(value) or json.quote(value)
end

local function row_json(row)
  local parts = {}
  for i, field in ipairs(measure.fields_of(row)) do
    if type(field) == "string" then
      parts[i] = ('"%s":%s'):format(field, value_json(field, row[field]))
    else
      local inner = {}
      for k, name in ipairs(field[2]) do inner[k] = ('"%s":%s'):format(name, number(row[field[1]][name])) end
      parts[i] = ('"%s":{%s}'):format(field[1], table.concat(inner, ","))
    end
  end
  return "{" .. table.concat(parts, ",") .. "}"
end

--- A list of objects, one line for each row.
function M.json(rows)
  local lines = {}
  for i, row in ipairs(rows) do lines[i] = row_json(row) end
  return "[" .. table.concat(lines, ",\n ") .. "]\n"
end

--- "a=1 b=2"
function M.settings_text(settings)
  local parts = {}
  for i, pair in ipairs(settings) do parts[i] = pair[1] .. "=" .. pair[2] end
  return table.concat(parts, " ")
end

local function quoted(text)
  return text:find '[,"\r\n]' and '"' .. text:gsub('"', '""') .. '"' or text
end

-- One flat list of the names, or of a row's values.
local function flat(fields, pick)
  local out = {}
  for _, field in ipairs(fields) do
    if type(field) == "string" then
      out[#out + 1] = pick(field)
    else
      for _, name in ipairs(field[2]) do out[#out + 1] = pick(field[1], name) end
    end
  end
  return table.concat(out, ",")
end

--- A header, and one line for each row.
function M.csv(rows)
  local fields = measure.fields_of(rows[1])
  local lines = { flat(fields, function(name, part) return part and name .. "_" .. part or name end) }
  for _, row in ipairs(rows) do
    lines[#lines + 1] = flat(fields, function(name, part)
      if part then return number(row[name][part]) end
      if name == "settings" then return quoted(M.settings_text(row.settings)) end
      if row[name] == nil then return "" end
      return type(row[name]) == "number" and number(row[name]) or quoted(row[name])
    end)
  end
  return table.concat(lines, "\n") .. "\n"
end

return M
