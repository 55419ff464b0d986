--- The table that people read: one row for each run in four blocks of columns, the best of a
-- column marked where there is a better side and not all are alike. A run that answered nothing
-- has no latency, and no dash is the best.

local output = require "tokenbatcher.sim.output"
local REASONS = require("tokenbatcher.core.stats").REASONS

local M = {}

local LABEL_WIDTH, COLUMN_WIDTH = 30, 7 -- at the most; at the least

-- Means of several runs have fractions.
local function count(value) return (value % 1 == 0 and "%d" or "%.1f"):format(value) end
local function percent(value) return ("%.1f"):format(100 * value) end
local function decimal(value) return ("%.2f"):format(value) end

-- Three or four digits of a time or a rate.
local function short(value)
  if value >= 1000 then return ("%.0f"):format(value) end
  return (value < 10 and "%.3f" or value < 100 and "%.2f" or "%.1f"):format(value)
end

-- A time per token: tenths of a millisecond matter.
local function fine(value) return ("%.4f"):format(value) end

local function reasons(row)
  local parts = {}
  for _, name in ipairs(REASONS) do
    if row.dispatched[name] > 0 then parts[#parts + 1] = name .. " " .. count(row.dispatched[name]) end
  end
  return table.concat(parts, ", ")
end

local function of(name, part)
  return function(row) return part and row[name][part] or row[name] end
end

-- The same where a row without answers, or without batches, has no value.
local function if_any(counted, name, part)
  local value = of(name, part)
  return function(row) return row[counted] > 0 and value(row) or nil end
end
local function latency(part) return if_any("completed", "latency_s", part) end
local function wait(part) return if_any("batches", "wait_s", part) end
local function ttft(part) return if_any("completed", "ttft_s", part) end

-- Of the time between tokens, nil where no answer had more than one; without a part the longest.
local function tpot(part)
  local value = part and of("tpot_s", part) or of "tbt_max_s"
  return function(row) return row.has_tpot and value(row) or nil end
end

-- {heading, value (nil where there is none), form, which side is better: 1 more, -1 less, nil neither}
local BLOCKS = {
  { "latency s", {
    { "records/s", of "throughput", short, 1 }, { "goodput %", of "goodput", percent, 1 },
    { "p50", latency "p50", short, -1 }, { "p90", latency "p90", short, -1 },
    { "p99", latency "p99", short, -1 }, { "max", latency "max", short, -1 },
    { "failed", of "failed", count, -1 }, { "rejected", of "rejected", count, -1 },
    { "expired", of "expired", count, -1 },
  } },
  { "on time", {
    { "goodput %", of "goodput", percent, 1 }, { "at most", of "at_most", percent, when = "at_most" },
    { "good/s", of "good_per_s", short, 1 },
  }, when = "has_slo" },
  { "queue wait s", {
    { "mean", wait "mean", short, -1 }, { "p50", wait "p50", short, -1 },
    { "p90", wait "p90", short, -1 }, { "p99", wait "p99", short, -1 },
    { "max", wait "max", short, -1 }, { "busy %", of "utilization", percent },
    { "padding", if_any("batches", "padding_ratio"), decimal, -1 },
    { "fairness", if_any("batches", "fairness"), decimal, 1 },
  } },
  { "batches", {
    { "batches", of "batches", count }, { "size mean", if_any("batches", "batch_size", "mean"), short },
    { "size p99", if_any("batches", "batch_size", "p99"), short },
    { "cost mean", if_any("batches", "batch_cost", "mean"), short },
    { "cost p99", if_any("batches", "batch_cost", "p99"), short },
  }, reasons },
  { "device", {
    { "ttft mean", ttft "mean", short, -1 }, { "ttft p50", ttft "p50", short, -1 },
    { "ttft p99", ttft "p99", short, -1 },
    { "tpot mean", tpot "mean", fine, -1 }, { "tpot p50", tpot "p50", fine, -1 }, { "tpot p99", tpot "p99", fine, -1 },
    { "e2e mean", if_any("completed", "e2e_s", "mean"), short, -1 },
    { "e2e p99", if_any("completed", "e2e_s", "p99"), short, -1 },
    { "tbt max", tpot(), short, -1 }, { "preempted", of "preemptions", count, -1 },
    { "kv peak", of "kv_peak_tokens", count },
  }, when = "ttft_s" },
  { "policy", {
    { "policy_errors", of "policy_errors", count, -1 }, { "policy_overruled", of "policy_overruled", count, -1 },
  } },
}

local function has(rows, what)
  return not what or rows[1] and rows[1][what] ~= nil
end

--- The blocks that these rows have something for, and of those the columns.
function M.blocks(rows)
  local out = {}
  for _, block in ipairs(BLOCKS) do
    if has(rows, block.when) then
      local columns = {}
      for _, column in ipairs(block[2]) do
        if has(rows, column.when) then columns[#columns + 1] = column end
      end
      out[#out + 1] = { block[1], columns, block[3] }
    end
  end
  return out
end

--- How a row is called: its policy and what was swept.
function M.label(row)
  local settings = output.settings_text(row.settings)
  return settings == "" and row.policy or row.policy .. " " .. settings
end

-- The best value of a column, any before none; nil if all are alike or no side is better.
local function best_of(rows, column)
  if not column[4] then return nil end
  local best, worst = -math.huge, math.huge
  for _, row in ipairs(rows) do
    local value = column[2](row)
    best = math.max(best, value and column[4] * value or -math.huge)
    worst = math.min(worst, value and column[4] * value or -math.huge)
  end
  return best > worst and best or nil
end

--- What a cell shows. @param best number|nil  of best_of  @return its text, and whether it is the best
function M.cell(row, column, best)
  local value = column[2](row)
  if not value then return "-", false end
  return column[3](value), best ~= nil and column[4] * value == best
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
      local text, is_best = M.cell(row, column, best[i])
      cells[i] = (" %" .. width_of(column) .. "s%s"):format(text, is_best and "*" or " ")
    end
    local rest = block[3] and " " .. block[3](row) or ""
    out[#out + 1] = ("%-" .. width .. "s"):format(label) .. table.concat(cells) .. rest
  end
end

--- @return string  the table, lines ended
function M.text(rows)
  local out, labels = {}, {}
  for i, row in ipairs(rows) do labels[i] = M.label(row) end
  for i, block in ipairs(M.blocks(rows)) do
    if i > 1 then out[#out + 1] = "" end
    block_lines(out, rows, labels, block)
  end
  for i, line in ipairs(out) do out[i] = line:gsub("%s+$", "") end
  return table.concat(out, "\n") .. "\n"
end

M.best_of = best_of

return M
