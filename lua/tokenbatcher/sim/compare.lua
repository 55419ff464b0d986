--- The table that people read: one row for each run in three blocks of columns, the best of a
-- column marked where there is a better side and not all are alike.

local output = require "tokenbatcher.sim.output"

local M = {}

local LABEL_WIDTH, COLUMN_WIDTH = 30, 7 -- at the most; at the least

local function count(value) return ("%d"):format(value) end
local function percent(value) return ("%.1f"):format(100 * value) end
local function decimal(value) return ("%.2f"):format(value) end

-- Three or four digits of a time or a rate.
local function short(value)
  if value >= 1000 then return ("%.0f"):format(value) end
  return (value < 10 and "%.3f" or value < 100 and "%.2f" or "%.1f"):format(value)
end

local function reasons(row)
  local parts = {}
  for _, name in ipairs { "full", "timeout", "idle", "drain", "policy" } do
    if row.dispatched[name] > 0 then parts[#parts + 1] = ("%s %d"):format(name, row.dispatched[name]) end
  end
  return table.concat(parts, ", ")
end

local function of(name, part)
  return function(row) return part and row[name][part] or row[name] end
end

-- {heading, value, form, which side is better: 1 more, -1 less, nil neither}
local BLOCKS = {
  { "latency s", {
    { "records/s", of "throughput", short, 1 }, { "goodput %", of "goodput", percent, 1 },
    { "p50", of("latency_s", "p50"), short, -1 }, { "p90", of("latency_s", "p90"), short, -1 },
    { "p99", of("latency_s", "p99"), short, -1 }, { "max", of("latency_s", "max"), short, -1 },
    { "failed", of "failed", count, -1 }, { "rejected", of "rejected", count, -1 },
    { "expired", of "expired", count, -1 },
  } },
  { "queue wait s", {
    { "mean", of("wait_s", "mean"), short, -1 }, { "p50", of("wait_s", "p50"), short, -1 },
    { "p90", of("wait_s", "p90"), short, -1 }, { "p99", of("wait_s", "p99"), short, -1 },
    { "max", of("wait_s", "max"), short, -1 }, { "busy %", of "utilization", percent },
    { "padding", of "padding_ratio", decimal, -1 }, { "fairness", of "fairness", decimal, 1 },
  } },
  { "batches", {
    { "batches", of "batches", count }, { "size mean", of("batch_size", "mean"), short },
    { "size p99", of("batch_size", "p99"), short }, { "cost mean", of("batch_cost", "mean"), short },
    { "cost p99", of("batch_cost", "p99"), short },
  }, reasons },
}

--- How a row is called: its policy and what was swept.
function M.label(row)
  local settings = output.settings_text(row.settings)
  return settings == "" and row.policy or row.policy .. " " .. settings
end

-- The best value of a column; nil if all are alike or no side is better.
local function best_of(rows, column)
  if not column[4] then return nil end
  local best, worst = -math.huge, math.huge
  for _, row in ipairs(rows) do
    local value = column[4] * column[2](row)
    best, worst = math.max(best, value), math.min(worst, value)
  end
  return best > worst and best or nil
end

local function width_of(column)
  return math.max(COLUMN_WIDTH, #column[1])
end

local function block_lines(out, rows, labels, block)
  local width = 12
  for _, label in ipairs(labels) do width = math.max(width, math.min(LABEL_WIDTH, #label)) end
  local heading, best = ("%-" .. width .. "s"):format(block[1]), {}
  for i, column in ipairs(block[2]) do
    heading = heading .. (" %" .. width_of(column) .. "s "):format(column[1])
    best[i] = best_of(rows, column)
  end
  out[#out + 1] = heading .. (block[3] and " dispatched" or "")
  for r, row in ipairs(rows) do
    local label, cells = labels[r], {}
    if #label > width then
      out[#out + 1] = label
      label = ""
    end
    for i, column in ipairs(block[2]) do
      local value = column[2](row)
      local mark = best[i] and column[4] * value == best[i] and "*" or " "
      cells[i] = (" %" .. width_of(column) .. "s%s"):format(column[3](value), mark)
    end
    local rest = block[3] and " " .. block[3](row) or ""
    out[#out + 1] = ("%-" .. width .. "s"):format(label) .. table.concat(cells) .. rest
  end
end

--- @return string  the table, lines ended
function M.text(rows)
  local out, labels = {}, {}
  for i, row in ipairs(rows) do labels[i] = M.label(row) end
  for i, block in ipairs(BLOCKS) do
    if i > 1 then out[#out + 1] = "" end
    block_lines(out, rows, labels, block)
  end
  for i, line in ipairs(out) do out[i] = line:gsub("%s+$", "") end
  return table.concat(out, "\n") .. "\n"
end

M.BLOCKS, M.best_of = BLOCKS, best_of

return M
