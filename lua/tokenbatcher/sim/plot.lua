--- The picture of --plot: how latencies are distributed in each run, and latency against
-- throughput over all of them. A curve is a share of all arrivals, so that at the SLO it reads
-- the goodput; it ends below 100 % where records were refused, expired or failed.

local compare = require "tokenbatcher.sim.compare"
local gnuplot = require "tokenbatcher.sim.gnuplot"

local M = {}

M.WIDTH = 1100
local PANEL_HEIGHT, LEGEND_LINE = 400, 20

local function curve_rows(row)
  local out, answered = {}, row.records > 0 and row.completed / row.records or 0
  for i, point in ipairs(row.latency_curve) do
    out[i] = { math.max(point[1] / 1e6, 1e-6), 100 * point[2] * answered }
  end
  if #out == 0 then out[1] = { 1, 0 } end
  return out
end

-- Runs by policy: {name, colour, rows}, and for each row its colour and dash. With one policy the
-- settings have the colours, else a policy has one, and settings are told apart by dashes.
local function by_policy(rows)
  local groups, of, looks = {}, {}, {}
  for _, row in ipairs(rows) do
    local group = of[row.policy]
    if not group then
      group = { name = row.policy, colour = #groups + 1, rows = {} }
      groups[#groups + 1], of[row.policy] = group, group
    end
    table.insert(group.rows, row)
    looks[row] = { group.colour, #group.rows }
  end
  if #groups == 1 then
    for i, row in ipairs(rows) do looks[row] = { i, 1 } end
  end
  return groups, looks
end

local function distribution(out, rows, looks, slo_s)
  local plots = {}
  for i, row in ipairs(rows) do
    table.insert(out, 1, gnuplot.block("curve" .. i, curve_rows(row)))
    plots[i] = ("$curve%d using 1:2 with lines %s title %s"):format(i, gnuplot.style(unpack(looks[row])),
      gnuplot.quote(compare.label(row)))
  end
  out[#out + 1] = [[
set title 'Answered within a latency'
set xlabel 'latency, seconds'
set ylabel 'share of all arrivals, %'
set logscale x
set format x '%g'
set yrange [0:100]
]]
  if slo_s then
    out[#out + 1] = ("set arrow 1 from %.9g,graph 0 to %.9g,graph 1 nohead dt 2 lc rgb '#888888'\n"
      .. "set label 1 ' slo' at %.9g,graph 0.04 tc rgb '#666666'"):format(slo_s, slo_s, slo_s)
  end
  out[#out + 1] = "plot " .. table.concat(plots, ", \\\n  ")
  out[#out + 1] = "unset arrow\nunset label"
end

local function frontier(out, groups)
  local plots, y_range = {}, "1:10"
  for i, group in ipairs(groups) do
    local points = {}
    table.sort(group.rows, function(a, b) return a.throughput < b.throughput end)
    for _, row in ipairs(group.rows) do
      points[#points + 1] = row.completed > 0
        and { row.throughput, math.max(1e-6, row.latency_s.p50), math.max(1e-6, row.latency_s.p99) } or nil
    end
    if #points > 0 then y_range = "*:*" else points[1] = { 0, "NaN", "NaN" } end -- no answers, no latency
    table.insert(out, 1, gnuplot.block("frontier" .. i, points))
    local style = gnuplot.style(group.colour, 1)
    plots[#plots + 1] = ("$frontier%d using 1:3 with linespoints %s pt 7 ps 0.8 title %s"):format(i, style,
      gnuplot.quote(group.name))
    plots[#plots + 1] = ("$frontier%d using 1:2 with linespoints %s pt 6 ps 0.8 notitle"):format(i, style)
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

--- @return script, width, height for gnuplot.draw
function M.script(rows, slo_s)
  local groups, looks = by_policy(rows)
  local legend = LEGEND_LINE * #rows + 78 -- below both panels, with the axis
  local height = PANEL_HEIGHT + legend
  local out = {
    ("set multiplot layout 1,2\nset border 3 lc rgb '#888888'\nset tics nomirror tc rgb '#333333'\n"
      .. "set grid lc rgb '#dddddd'\nset bmargin at screen %.4f\nset tmargin at screen %.4f\n"
      .. "set key below left vertical maxcols 1 samplen 3 width 1 Left reverse"):format(legend / height,
      1 - 45 / height),
  }
  distribution(out, rows, looks, slo_s)
  frontier(out, groups)
  out[#out + 1] = "unset multiplot"
  return table.concat(out, "\n"), M.WIDTH, height
end

return M
