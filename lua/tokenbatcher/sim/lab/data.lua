--- What the page of --report draws, as JSON: of each run its figures, its curve, its queue and batches.

local compare = require "tokenbatcher.sim.compare"
local gnuplot = require "tokenbatcher.sim.gnuplot"
local json = require "tokenbatcher.base.json"
local plot = require "tokenbatcher.sim.plot"
local sweeps = require "tokenbatcher.sim.sweeps"
local timeline_plot = require "tokenbatcher.sim.timeline_plot"
local timelines = require "tokenbatcher.sim.timeline"

local M = {}

-- Microseconds of a run of months.
local function number(value) return ("%.12g"):format(value) end

-- A list of one number of each item.
local function column(items, pick)
  local out = {}
  for i, item in ipairs(items) do out[i] = number(type(pick) == "function" and pick(item) or item[pick]) end
  return "[" .. table.concat(out, ",") .. "]"
end

local function words(list)
  local out = {}
  for i, word in ipairs(list) do out[i] = json.quote(word) end
  return "[" .. table.concat(out, ",") .. "]"
end

-- Fields in the order given: {name, JSON}.
local function object(fields)
  local out = {}
  for _, field in ipairs(fields) do
    if field[2] then out[#out + 1] = json.quote(field[1]) .. ":" .. field[2] end
  end
  return "{" .. table.concat(out, ",") .. "}"
end

local function curve_json(row, slo_s, range)
  local points, band
  if row.per_seed then
    points, band = plot.points_of_seeds(row.per_seed, slo_s, range[1], range[2])
  else
    points = plot.points_of(row, slo_s)
  end
  return object { { "x", column(points, 1) }, { "y", column(points, 2) }, { "low", band and column(band, 2) },
    { "high", band and column(band, 3) } }
end

local function most(list, at)
  local out = 1
  for _, item in ipairs(list) do out = math.max(out, item[at]) end
  return number(out)
end

local function timeline_fields(timeline)
  local from_s, to_s = timeline:span()
  local bars, lanes, batch_bin = timeline:bars()
  local depths, depth_bin = timeline:depths()
  return {
    { "from", number(from_s) }, { "to", number(to_s) },
    { "depth_at", column(depths, 1) }, { "depth", column(depths, 2) }, { "depth_most", most(depths, 2) },
    { "depth_bin", depth_bin and number(depth_bin) },
    { "batches", object {
      { "from", column(bars, 1) }, { "to", column(bars, 2) }, { "size", column(bars, 3) },
      { "reason", column(bars, 4) },
      { "cost", lanes and column(bars, 5) }, { "lane", lanes and column(bars, 6) },
    } },
    { "size_most", most(bars, 3) }, { "lanes", number(lanes or 1) }, { "batch_bin", batch_bin and number(batch_bin) },
  }
end

-- The figures of the tables: {name, better (1, -1 or 0)}, and how to get them.
local function figures_of(rows)
  local out = {}
  for _, block in ipairs(compare.blocks(rows)) do
    for _, one in ipairs(block[2]) do out[#out + 1] = { name = block[1] .. ": " .. one[1], column = one } end
  end
  return out
end

local function values_json(row, figures)
  local values, texts = {}, {}
  for i, figure in ipairs(figures) do
    local value = figure.column[2](row)
    if value and figure.name:find "%%$" then value = 100 * value end
    values[i] = value and number(value) or "null"
    texts[i] = compare.cell(row, figure.column)
  end
  return "[" .. table.concat(values, ",") .. "]", words(texts)
end

local function run_json(row, timeline, figures, slo_s, range)
  local values, texts = values_json(row, figures)
  local fields = {
    { "label", json.quote(compare.label(row)) }, { "curve", curve_json(row, slo_s, range) }, { "values", values },
    { "texts", texts },
  }
  for _, field in ipairs(timeline and timeline_fields(timeline) or {}) do fields[#fields + 1] = field end
  return object(fields)
end

local function line_json(line, has_seeds)
  local points = {}
  for i, p in ipairs(plot.line_points(line)) do
    local order, numbers = has_seeds and { 1, 2, 5, 3, 4, 6, 7 } or { 1, 2, 5 }, {}
    for k, at in ipairs(order) do numbers[k] = number(p[at]) end
    points[i] = "[" .. table.concat(numbers, ",") .. "]"
  end
  return object {
    { "label", json.quote(line.label) }, { "colour", number(line.colour) }, { "dash", number(line.dash) },
    { "mark", number(line.mark) }, { "points", "[" .. table.concat(points, ",") .. "]" },
  }
end

local function colours()
  local of_reason = {}
  for i, name in ipairs(timelines.REASONS) do of_reason[i] = timeline_plot.COLOURS[name] end
  return words(gnuplot.COLOURS), words(of_reason)
end

--- @param recorded table  the timeline of each row, or empty  @param slo_s number|nil
-- @return string  JSON that may stand inside a script element
function M.of(rows, recorded, slo_s)
  local figures, runs, lines, names = figures_of(rows), {}, {}, {}
  local range, has_seeds = { plot.range_of(rows, slo_s) }, rows[1].per_seed ~= nil
  for i, figure in ipairs(figures) do
    names[i] = object { { "name", json.quote(figure.name) }, { "better", number(figure.column[4] or 0) } }
  end
  for i, row in ipairs(rows) do runs[i] = run_json(row, recorded[i], figures, slo_s, range) end
  for i, line in ipairs(sweeps.lines(rows)) do lines[i] = line_json(line, has_seeds) end
  local of_runs, of_reasons = colours()
  return (object {
    { "slo", slo_s and number(slo_s) }, { "colours", of_runs }, { "reason_colours", of_reasons },
    { "reasons", words(timelines.REASONS) }, { "figures", "[" .. table.concat(names, ",") .. "]" },
    { "runs", "[" .. table.concat(runs, ",\n") .. "]" }, { "lines", "[" .. table.concat(lines, ",") .. "]" },
  }:gsub("<", "\\u003c"))
end

return M
