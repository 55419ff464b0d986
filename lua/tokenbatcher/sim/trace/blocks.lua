--- Blocks of rows of a trace, in columns: a number for each row, or a value for the few that have one.
--
-- Rows 0 .. n - 1 may be shown. `held` ones behind them may yet get another before them: rows that are out of order
-- by no more than WINDOW places are put where they belong.

local tbffi = require "tokenbatcher.core.ffi"

local M = {}

M.ROWS, M.WINDOW = 65536, 1000

local NUMBERS = { "at_s", "cost", "output", "priority", "timeout_us", "batch_timeout_us", "slo_us", "turn" }
local VALUES = { "key", "group", "class", "record" } -- most rows have none
local BOTH = { NUMBERS, VALUES }

function M.new()
  local block = { n = 0, held = 0 }
  for _, name in ipairs(NUMBERS) do block[name] = tbffi.new("double[?]", M.ROWS + M.WINDOW) end
  for _, name in ipairs(VALUES) do block[name] = {} end
  return block
end

--- The rows that were held back are the first ones of what is read next. @return number  how many there are
function M.begin(block)
  local from, held = block.n, block.held
  for _, name in ipairs(NUMBERS) do
    local column = block[name]
    for i = 0, held - 1 do column[i] = column[from + i] end
  end
  for _, name in ipairs(VALUES) do
    local former, column = block[name], {}
    for i = 0, next(former) and held - 1 or -1 do column[i] = former[from + i] end
    block[name] = column
  end
  block.n, block.held = 0, 0
  return held
end

--- With a place for every field: a table that is full is made anew for one that is set to nil, in each row.
function M.new_row()
  return { at_s = 0, cost = 0, output = 0, record = false, key = false, group = false, class = false, priority = 0,
    timeout_us = 0, batch_timeout_us = 0, slo_us = 0, turn = 0 }
end

--- What most rows have not.
function M.clear_row(row)
  row.record, row.turn = nil, 0
  row.key, row.group, row.class = nil, nil, nil
  row.priority, row.timeout_us, row.batch_timeout_us, row.slo_us = 0, 0, 0, 0
end

--- Row n of a block, from what was read.
function M.put(block, n, row)
  block.at_s[n], block.cost[n], block.output[n], block.priority[n] = row.at_s, row.cost, row.output, row.priority
  block.timeout_us[n], block.batch_timeout_us[n] = row.timeout_us, row.batch_timeout_us
  block.slo_us[n], block.turn[n] = row.slo_us, row.turn
  if row.key then block.key[n] = row.key end
  if row.group then block.group[n] = row.group end
  if row.class then block.class[n] = row.class end
  if row.record ~= nil then block.record[n] = row.record end
end

--- Row n goes to its place among the WINDOW rows before it. @return boolean  is it there?
function M.sort_in(block, n)
  local at, at_s, lowest = n, block.at_s[n], math.max(0, n - M.WINDOW)
  while at > lowest and block.at_s[at - 1] > at_s do at = at - 1 end
  if at == lowest and lowest > 0 and block.at_s[at - 1] > at_s then return false end
  for _, names in ipairs(BOTH) do
    for _, name in ipairs(names) do
      local column = block[name]
      local value = column[n]
      for i = n, at + 1, -1 do column[i] = column[i - 1] end
      column[at] = value
    end
  end
  return true
end

--- Row n is none after all.
function M.remove(block, n)
  for _, name in ipairs(VALUES) do block[name][n] = nil end
end

return M
