--- The picture of --plot: how latencies are distributed in each run, and latency against throughput over all
-- of them. A curve is a share of all arrivals, in steps, so that at the SLO it reads the goodput; it ends below
-- 100 % where records were refused, expired or failed. Runs over several seeds have a band from the lowest to
-- the highest of them.

local compare = require "tokenbatcher.sim.compare"
local gnuplot = require "tokenbatcher.sim.gnuplot"
local sweeps = require "tokenbatcher.sim.sweeps"

local M = {}

M.WIDTH = 1100
local PANEL_HEIGHT, LEGEND_LINE, LEGEND_TOP = 400, 20, 62
local LEAST = 1e-6 -- seconds: of what takes no time, where the axis has none
local MARKS_AT, APART = { 25, 50, 75 }, 25 -- per cent, of the first curve; those of the others are between
local SMALLEST, LARGER = 0.9, 0.6 -- marks: the last one drawn, and by how much the first may be larger
local BAND_POINTS = 200
-- Filled and hollow, in pairs.
local FILLED, HOLLOW = { 7, 5, 9, 11, 13, 15 }, { 6, 4, 8, 10, 12, 14 }

local function mark(list, i) return list[(i - 1) % #list + 1] end

-- --- distributions ---------------------------------------------------------------------

--- Points {latency, share of arrivals in %} of one run. @param slo_s number|nil  where the goodput is known exactly
function M.points_of(row, slo_s)
  local out, answered = {}, row.records > 0 and row.completed / row.records or 0
  local goodput = 100 * row.goodput
  for _, point in ipairs(row.latency_curve) do
    local x, y = math.max(point[1] / 1e6, LEAST), 100 * point[2] * answered
    if slo_s and x > slo_s and (#out == 0 or out[#out][1] < slo_s) then out[#out + 1] = { slo_s, goodput } end
    if slo_s then y = x <= slo_s and math.min(y, goodput) or math.max(y, goodput) end
    out[#out + 1] = { x, y }
  end
  return out
end

-- The share at x.
local function share_at(points, x)
  local low, high = 0, #points
  while low < high do
    local middle = math.ceil((low + high) / 2)
    if points[middle][1] <= x then low = middle else high = middle - 1 end
  end
  return low > 0 and points[low][2] or 0
end

--- Points of the mean of several runs, and of the lowest and highest of them: {x, mean}, {x, low, high}.
function M.points_of_seeds(rows, slo_s, from, to)
  local curves, xs, mean, band = {}, { slo_s }, {}, {}
  for i, row in ipairs(rows) do curves[i] = M.points_of(row, slo_s) end
  for i = 0, BAND_POINTS do xs[#xs + 1] = from * (to / from) ^ (i / BAND_POINTS) end
  table.sort(xs)
  for _, x in ipairs(xs) do
    local sum, low, high = 0, math.huge, 0
    for _, curve in ipairs(curves) do
      local share = share_at(curve, x)
      sum, low, high = sum + share, math.min(low, share), math.max(high, share)
    end
    mean[#mean + 1], band[#band + 1] = { x, sum / #curves }, { x, low, high }
  end
  return mean, band
end

--- What the axis of latencies must reach: from and to, seconds.
function M.range_of(rows, slo_s)
  local from, to = math.huge, 0
  for _, row in ipairs(rows) do
    for _, one in ipairs(row.per_seed or { row }) do
      local curve = one.latency_curve
      if #curve > 0 then
        from, to = math.min(from, curve[1][1] / 1e6), math.max(to, curve[#curve][1] / 1e6)
      end
    end
  end
  if slo_s then from, to = math.min(from, slo_s), math.max(to, slo_s) end
  from, to = math.max(LEAST, from < math.huge and from or 1), math.max(LEAST, to > 0 and to or 1)
  return from / 1.5, to * 1.5
end

-- A band of steps: at each x its old and its new bounds.
local function stepped(band)
  local out = {}
  for i, point in ipairs(band) do
    if i > 1 then out[#out + 1] = { point[1], band[i - 1][2], band[i - 1][3] } end
    out[#out + 1] = point
  end
  return out
end

-- Where curve i of n has its marks: none where another has, so that of two which are the same both are seen.
local function marks_of(points, i, n)
  local out = {}
  for _, first in ipairs(MARKS_AT) do
    local share = first + APART * (i - 1) / n
    for _, point in ipairs(points) do
      if point[2] >= share then
        out[#out + 1] = { point[1], share }
        break
      end
    end
  end
  return out
end

local function add_curve(out, plots, i, n, row, look, slo_s, range)
  local style = gnuplot.style(look.colour, look.dash)
  local points, band
  if row.per_seed then
    points, band = M.points_of_seeds(row.per_seed, slo_s, range[1], range[2])
    table.insert(out, 1, gnuplot.block("band" .. i, stepped(band)))
    table.insert(plots, 1, ("$band%d using 1:2:3 with filledcurves fs transparent solid 0.2 noborder %s notitle")
      :format(i, gnuplot.colour(look.colour)))
  else
    points = M.points_of(row, slo_s)
  end
  local marks = marks_of(points, i, n)
  table.insert(points, 1, { range[1], 0 })
  points[#points + 1] = { range[2], points[#points][2] }
  table.insert(out, 1, gnuplot.block("curve" .. i, points))
  plots[#plots + 1] = ("$curve%d using 1:2 with steps %s notitle"):format(i, style)
  if #marks > 0 then
    table.insert(out, 1, gnuplot.block("marks" .. i, marks))
    plots[#plots + 1] = ("$marks%d using 1:2 with points %s pt %d ps 0.9 notitle"):format(i,
      gnuplot.colour(look.colour), mark(FILLED, look.mark))
  end
  plots[#plots + 1] = ("keyentry with linespoints %s pt %d ps 0.9 title %s"):format(style, mark(FILLED, look.mark),
    gnuplot.quote(compare.label(row)))
end

local KIND_NAMES = { seeds = "seeds", pieces = "pieces of the trace", draws = "draws" }

local function distribution(out, rows, looks, slo_s)
  local plots, range = {}, { M.range_of(rows, slo_s) }
  for i, row in ipairs(rows) do add_curve(out, plots, i, #rows, row, looks[row], slo_s, range) end
  out[#out + 1] = ([[
set title 'Answered within a latency%s'
set xlabel 'latency, seconds'
set ylabel 'share of all arrivals, %%'
set logscale x
set format x '%%g'
set xrange [%.9g:%.9g]
set yrange [0:100]
]]):format(rows[1].per_seed and (": mean and range of %d %s"):format(#rows[1].per_seed,
    KIND_NAMES[rows[1].seeds.kind]) or "", range[1], range[2])
  if slo_s then
    out[#out + 1] = ("set arrow 1 from %.9g,graph 0 to %.9g,graph 1 nohead dt 2 lc rgb '#888888'\n"
      .. "set label 1 ' slo' at %.9g,graph 0.04 tc rgb '#666666'"):format(slo_s, slo_s, slo_s)
  end
  out[#out + 1] = "plot " .. table.concat(plots, ", \\\n  ")
  out[#out + 1] = "unset arrow\nunset label"
end

-- --- latency against throughput ------------------------------------------------------------

-- A figure of a row with its lowest and highest over the seeds.
local function spread(row, pick)
  local low, high = math.huge, -math.huge
  for _, one in ipairs(row.per_seed or { row }) do
    low, high = math.min(low, pick(one)), math.max(high, pick(one))
  end
  return math.max(LEAST, pick(row)), math.max(LEAST, low), math.max(LEAST, high)
end

local function p99_of(row) return row.latency_s.p99 end
local function p50_of(row) return row.latency_s.p50 end

--- Of a line (see sweeps.lua): lists of throughput, p99, its lowest and highest, and the same of p50.
function M.line_points(line)
  local out = {}
  for _, row in ipairs(line.rows) do
    if row.completed > 0 then
      local a, b, c = spread(row, p99_of)
      local d, e, f = spread(row, p50_of)
      out[#out + 1] = { row.throughput, a, b, c, d, e, f }
    end
  end
  return out
end

local function frontier(out, lines, has_seeds)
  local plots, y_range = {}, "1:10"
  for i, line in ipairs(lines) do
    local points = M.line_points(line)
    if #points > 0 then y_range = "*:*" else points[1] = { 0, "NaN", "NaN", "NaN", "NaN", "NaN", "NaN" } end
    table.insert(out, 1, gnuplot.block("frontier" .. i, points))
    local style, colour = gnuplot.style(line.colour, line.dash), gnuplot.colour(line.colour)
    local size = SMALLEST + LARGER * (#lines - i) / #lines -- of two at one place both are seen
    if has_seeds then
      for _, column in ipairs { 2, 5 } do
        plots[#plots + 1] = ("$frontier%d using 1:%d:%d:%d with yerrorbars %s lw 1 pt 0 notitle"):format(i, column,
          column + 1, column + 2, colour)
      end
    end
    plots[#plots + 1] = ("$frontier%d using 1:2 with linespoints %s pt %d ps %.3g title %s"):format(i, style,
      mark(FILLED, line.mark), size, gnuplot.quote(line.label))
    plots[#plots + 1] = ("$frontier%d using 1:5 with linespoints %s pt %d ps %.3g notitle"):format(i, style,
      mark(HOLLOW, line.mark), size)
  end
  out[#out + 1] = [[
set title 'Latency against throughput: p99 filled, p50 hollow'
set xlabel 'answers a second'
set ylabel 'latency, seconds'
unset logscale x
set logscale y
set format y '%g'
set xrange [0:*]
set offsets 0, graph 0.05, 0, 0
]]
  out[#out + 1] = ("set yrange [%s]\nplot %s"):format(y_range, table.concat(plots, ", \\\n  "))
end

-- --- the picture -----------------------------------------------------------------------

local function key_at(x, height)
  return ("set key at screen %.4f, screen %.4f left top vertical maxcols 1 samplen 3 width 1 Left reverse"):format(x,
    (height - PANEL_HEIGHT - LEGEND_TOP) / height)
end

--- @return script, width, height for gnuplot.draw
function M.script(rows, slo_s)
  local looks, lines = sweeps.looks(rows), sweeps.lines(rows)
  local legend = LEGEND_LINE * (math.max(#rows, #lines) + 1) + LEGEND_TOP -- below both panels, with the axis
  local height = PANEL_HEIGHT + legend
  local out = {
    ("set multiplot layout 1,2\nset border 3 lc rgb '#888888'\nset tics nomirror tc rgb '#333333'\n"
      .. "set grid lc rgb '#dddddd'\nset bmargin at screen %.4f\nset tmargin at screen %.4f\n%s"):format(
      legend / height, 1 - 45 / height, key_at(0.06, height)),
  }
  distribution(out, rows, looks, slo_s)
  out[#out + 1] = key_at(0.56, height)
  frontier(out, lines, rows[1].per_seed ~= nil)
  out[#out + 1] = "unset multiplot"
  return table.concat(out, "\n"), M.WIDTH, height
end

return M
