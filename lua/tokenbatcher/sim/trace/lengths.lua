--- Lengths of real records, for arrivals that are made up: the costs, and the outputs where there are any, of a file.
-- That is a trace of any format (its times are not looked at, and need not be there), one of vLLM's benchmarks, or
-- a number a line, or two with a comma between: cost,output.

local columns = require "tokenbatcher.sim.trace.columns"
local formats = require "tokenbatcher.sim.trace.formats"
local lines_of = require "tokenbatcher.sim.trace.lines"
local options = require "tokenbatcher.core.options"

local M = {}

local MAX_COST = options.MAX_COST
local PLAIN = "^%s*([%d.]+)%s*,?%s*([%d.]*)%s*$"

-- Of a line with one number or two: a parse as a format has it.
local function parse_plain(text, from, to, row)
  local cost, output = text:sub(from, to):match(PLAIN)
  cost, output = tonumber(cost), output ~= "" and tonumber(output) or nil
  if not cost or cost > MAX_COST or (output or 0) > MAX_COST then return nil, "no number from 0 to 1e12" end
  row.cost, row.output = cost, output or -1
  return true
end

local plain = { name = "numbers", new = function() return parse_plain end }

-- @return format, or nil and a message
local function detect(lines, given)
  local first = lines:next_text()
  if not first then return nil, "is empty" end
  if not given.columns and first:find(PLAIN) then
    lines:unread()
    return plain
  end
  local format, message = formats.detect(first, { columns = given.columns, has_no_times = true }, function()
    return first .. "\n" .. lines:rest()
  end)
  if format and not format.has_header and not format.rows then lines:unread() end
  return format, message
end

local function read_lines(lines, format)
  local parse = format.new(function() return nil, "a cost is needed" end, function() end)
  local row, cost, output, n, bad, first_bad = {}, {}, {}, 0, 0, nil
  local text, from, to = lines:take(format.has_quotes)
  while text do
    local is_row, message = parse(text, from, to, row)
    if is_row then
      n = n + 1
      cost[n], output[n] = row.cost, row.output
    elseif is_row == nil and text:sub(from, to):find "%S" then
      bad, first_bad = bad + 1, first_bad or ("line %d: %s"):format(lines.number, columns.printable(message))
    end
    text, from, to = lines:take(format.has_quotes)
  end
  return { n = n, cost = cost, output = output, bad = bad, first_bad = first_bad }
end

local function of_rows(rows)
  local cost, output = {}, {}
  for i = 1, rows.n do cost[i], output[i] = rows.cost[i - 1], rows.output[i - 1] end
  return { n = rows.n, cost = cost, output = output, bad = 0 }
end

local function has_outputs(found)
  for i = 1, found.n do
    if found.output[i] < 0 then return false end
  end
  return true
end

local function read(path, given)
  local lines, message = lines_of.open(path)
  if not lines then error(message, 0) end
  local format
  format, message = detect(lines, given)
  local found = format and (format.rows and of_rows(format.rows) or read_lines(lines, format))
  lines:close()
  if not found then error(("%s %s"):format(path, message), 0) end
  if found.n == 0 or found.bad > found.n then
    error(("%s: %d of %d rows are bad%s"):format(path, found.bad, found.bad + found.n,
      found.first_bad and " (" .. found.first_bad .. ")" or ""), 0)
  end
  found.has_outputs = has_outputs(found)
  return found
end

--- @param path string  @param given table|nil  columns: which hold cost and output (see columns.parse)
-- @return {n, cost, output (lists), has_outputs, bad}, or nil and a message
function M.read(path, given)
  local ok, found = pcall(read, path, given or {})
  if ok then return found end
  return nil, tostring(found)
end

--- function(stream) that draws a record's cost and output (nil: not known) by lot.
function M.pairs_of(found)
  local n, cost, output = found.n, found.cost, found.has_outputs and found.output
  return function(stream)
    local i = math.floor(stream:uniform() * n) + 1
    return cost[i], output and output[i] or nil
  end
end

--- The same of outputs alone.
function M.outputs_of(found)
  local n, output = found.n, found.output
  return function(stream) return output[math.floor(stream:uniform() * n) + 1] end
end

return M
