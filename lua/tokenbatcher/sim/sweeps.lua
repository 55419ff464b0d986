--- How rows go together in pictures. Where an option was swept, the rows that differ in it alone are one line,
-- in the order of its values; another option that was swept, or another policy, is another line. Colours tell
-- policies apart where there are several, else rows; marks and dashes tell the settings apart.

local compare = require "tokenbatcher.sim.compare"

local M = {}

local ALONG = "speedup" -- if it is swept, lines go along it

-- The setting that lines go along: speedup, or the one with most values, which must be numbers; nil if there is none.
local function along_of(rows)
  local values, names = {}, {}
  for _, row in ipairs(rows) do
    for _, pair in ipairs(row.settings) do
      local of = values[pair[1]]
      if not of then
        of = { count = 0, is_numeric = true }
        values[pair[1]], names[#names + 1] = of, pair[1]
      end
      if not of[pair[2]] then of[pair[2]], of.count = true, of.count + 1 end
      of.is_numeric = of.is_numeric and tonumber(pair[2]) ~= nil
    end
  end
  if values[ALONG] and values[ALONG].count > 1 then return ALONG end
  local best
  for _, name in ipairs(names) do
    local of = values[name]
    if of.is_numeric and of.count > 1 and (not best or of.count > values[best].count) then best = name end
  end
  return best
end

-- A row's settings but one, as text, and that one as a number.
local function without(row, along)
  local parts, value = {}, 0
  for _, pair in ipairs(row.settings) do
    if pair[1] == along then value = tonumber(pair[2]) else parts[#parts + 1] = pair[1] .. "=" .. pair[2] end
  end
  return table.concat(parts, " "), value
end

local function numbers_of(rows, name_of)
  local numbers, count = {}, 0
  for _, row in ipairs(rows) do
    local name = name_of(row)
    if not numbers[name] then
      count = count + 1
      numbers[name] = count
    end
  end
  return numbers, count
end

local function policy_of(row) return row.policy end

--- @return table  row -> {colour, dash, mark}, numbers from 1
function M.looks(rows)
  local policies, count = numbers_of(rows, policy_of)
  local settings = numbers_of(rows, function(row) return (without(row, nil)) end)
  local out = {}
  for i, row in ipairs(rows) do
    local setting = settings[without(row, nil)]
    out[row] = { colour = count > 1 and policies[row.policy] or i, dash = count > 1 and setting or 1, mark = setting }
    if count == #rows then out[row].mark = i end
  end
  return out
end

--- @return table  list of lines {label, rows (in order), colour, dash, mark}
function M.lines(rows)
  local along, lines, by_name = along_of(rows), {}, {}
  for _, row in ipairs(rows) do
    local rest, value = without(row, along)
    local name = rest == "" and row.policy or row.policy .. " " .. rest
    local line = by_name[name]
    if not line then
      line = { label = name, rest = rest, policy = row.policy, rows = {}, value_of = {} }
      by_name[name], lines[#lines + 1] = line, line
    end
    table.insert(line.rows, row)
    line.value_of[row] = value
  end
  local policies, count = numbers_of(rows, policy_of)
  local settings = numbers_of(lines, function(line) return line.rest end)
  for i, line in ipairs(lines) do
    table.sort(line.rows, function(a, b) return line.value_of[a] < line.value_of[b] end)
    line.colour, line.dash = count > 1 and policies[line.policy] or i, settings[line.rest]
    line.mark = count == #lines and i or settings[line.rest]
    if along and #line.rows > 1 then line.label = ("%s (along %s)"):format(line.label, along) end
    if #line.rows == 1 then line.label = compare.label(line.rows[1]) end
  end
  return lines
end

return M
