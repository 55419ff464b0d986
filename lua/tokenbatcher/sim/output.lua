--- Rows of simulated runs as JSON and CSV, with fields in a fixed order and numbers in a fixed
-- form: the same rows give the same bytes.

local json = require "tokenbatcher.base.json"
local measure = require "tokenbatcher.sim.measure"
local number_text = require "tokenbatcher.base.number_text"

local M = {}

-- Nine digits are more than any figure of a simulation is good for.
local function number(value) return number_text.rounded(value, 9) end

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

-- What names a row, and is no figure of it; the first of the fields.
local IS_NAME = { policy = true, settings = true }

local function names_json(row)
  return ('"policy":%s,"settings":%s'):format(value_json("policy", row.policy), value_json("settings", row.settings))
end

-- @param fields table  see measure.fields_of
local function figures_json(row, fields)
  local parts = {}
  for _, field in ipairs(fields) do
    if type(field) ~= "string" then
      local inner = {}
      for k, name in ipairs(field[2]) do inner[k] = ('"%s":%s'):format(name, value_json(name, row[field[1]][name])) end
      parts[#parts + 1] = ('"%s":{%s}'):format(field[1], table.concat(inner, ","))
    elseif not IS_NAME[field] then
      parts[#parts + 1] = ('"%s":%s'):format(field, value_json(field, row[field]))
    end
  end
  return table.concat(parts, ",")
end

local function quote_or_null(text) return text and json.quote(text) or "null" end

-- Of a row of several runs: how many, of what kind, half the widths of its intervals, each run.
local function seeds_json(row, fields, from)
  local runs, seeds = {}, row.seeds
  for i, run in ipairs(row.per_seed) do runs[i] = "{" .. figures_json(run, fields) .. "}" end
  return table.concat {
    (',"seeds":{"n":%d,"kind":"%s","first":%s'):format(seeds.n, seeds.kind, number(seeds.first)),
    ',"half_width":{', figures_json(row.half_width, fields), '},"per_seed":[', table.concat(runs, ","), "]}",
    ',"version":', quote_or_null(from.version), ',"command":', quote_or_null(from.command),
    ',"trace_sha256":', quote_or_null(from.trace_sha256),
  }
end

-- What --find-capacity has found. @param figures table  see capacity.figures
local function capacity_json(figures)
  local parts = {}
  for i, figure in ipairs(figures) do
    local value = figure[2]
    parts[i] = ('"%s":%s'):format(figure[1], type(value) == "number" and number(value) or tostring(value))
  end
  return ',"capacity":{' .. table.concat(parts, ",") .. "}"
end

--- A list of objects, one line for each row. The row of a policy at its capacity (of --find-capacity) says what it is.
-- @param from table|nil  version, command, trace_sha256: for rows of several runs
function M.json(rows, from)
  local lines = {}
  for i, row in ipairs(rows) do
    local fields = measure.fields_of(row)
    local several = row.seeds and seeds_json(row, fields, from or {}) or ""
    lines[i] = ("{%s,%s%s%s}"):format(names_json(row), figures_json(row, fields), several,
      row.capacity and capacity_json(row.capacity) or "")
  end
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

-- The names, or a row's values, in one flat list.
local function flat(out, fields, pick)
  for _, field in ipairs(fields) do
    if type(field) == "string" then
      out[#out + 1] = pick(field)
    else
      for _, name in ipairs(field[2]) do out[#out + 1] = pick(field[1], name) end
    end
  end
end

local function csv_value(row, name, part)
  local value = row[name]
  if part then value = value[part] end
  if value == nil then return "" end
  if name == "settings" then return quoted(M.settings_text(value)) end
  return type(value) == "number" and number(value) or quoted(value)
end

local function csv_line(row, fields)
  local out = {}
  flat(out, fields, function(name, part) return csv_value(row, name, part) end)
  if not row.seeds then return table.concat(out, ",") end
  out[#out + 1] = number(row.seeds.n)
  flat(out, fields, function(name, part) return not IS_NAME[name] and csv_value(row.half_width, name, part) or nil end)
  return table.concat(out, ",")
end

--- A header, and one line for each row; of several runs with half the width of the interval of each figure.
function M.csv(rows)
  local names, fields = {}, measure.fields_of(rows[1])
  flat(names, fields, function(name, part) return part and name .. "_" .. part or name end)
  if rows[1].seeds then
    names[#names + 1] = "seeds"
    for i, name in ipairs(names) do
      if name == "seeds" then break end
      if not IS_NAME[name] then names[#names + 1] = names[i] .. "_half_width" end
    end
  end
  local lines = { table.concat(names, ",") }
  for _, row in ipairs(rows) do lines[#lines + 1] = csv_line(row, fields) end
  return table.concat(lines, "\n") .. "\n"
end

return M
