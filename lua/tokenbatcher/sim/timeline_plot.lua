--- The picture of --timeline: of each run the queue over time, and below it each batch as a bar from its start
-- to its end, in the colour of why it went. With one slot a bar is as high as its batch is large; with more
-- there is a row for each slot. Where a run has more batches than can be told apart, the largest of a piece of
-- time stands for all in it.

local gnuplot = require "tokenbatcher.sim.gnuplot"
local timelines = require "tokenbatcher.sim.timeline"

local M = {}

local WIDTH, PANEL_HEIGHT = 1100, 210
local BAR_SHARE = 0.9 -- of a row
local DRAWN = 2000 -- bars of one run; more are thinner than a line
M.MAX_RUNS = 6 -- in one picture

--- By reason.
M.COLOURS = require "tokenbatcher.base.reason_colours"

-- A filled outline of steps: at each change its old and its new height.
local function outline(steps, to_s)
  local out = {}
  for i, step in ipairs(steps) do
    if i > 1 then out[#out + 1] = { step[1], steps[i - 1][2] } end
    out[#out + 1] = step
  end
  out[#out + 1] = { math.max(to_s, steps[#steps][1]), steps[#steps][2] }
  return out
end

-- The largest of each piece of time and each reason, from single batches.
local function thinned(bars, from_s, to_s)
  local width_s, found, out = (to_s - from_s) / 1000, {}, {}
  for _, bar in ipairs(bars) do
    local at = math.floor(math.max(0, bar[1] - from_s) / width_s)
    local key = at * #timelines.REASONS + bar[4]
    local one = found[key]
    if not one then
      one = { from_s + at * width_s, from_s + (at + 1) * width_s, 0, bar[4] }
      found[key], out[#out + 1] = one, one
    end
    one[3] = math.max(one[3], bar[3])
  end
  return out, width_s
end

-- What is drawn of a run.
local function content(timeline)
  local from_s, to_s = timeline:span()
  local bars, lanes, width_s = timeline:bars()
  if lanes and #bars > DRAWN then
    lanes = nil
    bars, width_s = thinned(bars, from_s, to_s)
  end
  local out = { from_s = from_s, to_s = to_s, depths = timeline:depths(), bars = bars, lanes = lanes, width_s = width_s,
    depth = 1, size = 1 }
  for _, step in ipairs(out.depths) do out.depth = math.max(out.depth, step[2]) end
  for _, bar in ipairs(bars) do out.size = math.max(out.size, bar[3]) end
  return out
end

local function colour_number(reason)
  return tonumber(M.COLOURS[timelines.REASONS[reason]]:sub(2), 16)
end

-- Rows of x, y, x from, x to, y from, y to, colour; the small ones last, so that no bar hides another.
local function bar_rows(run, size)
  local out = {}
  table.sort(run.bars, function(a, b)
    if a[3] ~= b[3] then return a[3] > b[3] end
    if a[1] ~= b[1] then return a[1] < b[1] end
    return a[4] < b[4]
  end)
  for i, bar in ipairs(run.bars) do
    local low, high = 0, bar[3]
    if (run.lanes or 1) > 1 then
      low = bar[6] - 1
      high = low + BAR_SHARE * bar[3] / size
    end
    out[i] = { bar[1], low, bar[1], bar[2], low, high, colour_number(bar[4]) }
  end
  return out
end

local function bars_plot(run, number, size)
  if #run.bars == 0 then return "plot 0 notitle" end
  local plots = { ("$bars%d using 1:2:3:4:5:6:7 with boxxyerror fs solid 0.8 border lw 0.5 lc rgb variable notitle")
    :format(number) }
  local has = {}
  for _, bar in ipairs(run.bars) do has[bar[4]] = true end
  for reason, name in ipairs(timelines.REASONS) do
    if has[reason] then
      plots[#plots + 1] = ("keyentry with boxes fs solid 0.8 noborder lc rgb '%s' title '%s'")
        :format(M.COLOURS[name], name)
    end
  end
  if (run.lanes or 1) == 1 then return "plot " .. table.concat(plots, ", \\\n  ") end
  local title = size > 1 and ("a row for each slot, bars up to %d records high"):format(size) or "a row for each slot"
  return ("set ytics %d\nset yrange [0:%d]\nset ylabel 'slots'\nset title '%s'\nplot %s\nset ytics autofreq\n"
    .. "unset title"):format(math.ceil(run.lanes / 8), run.lanes, title, table.concat(plots, ", \\\n  "))
end

-- Records are whole ones: no marks between.
local function whole_tics(most) return most < 5 and "set ytics 1" or "set ytics autofreq" end

local function panels(run, number, label, depth, size)
  local out = { gnuplot.block("depth" .. number, outline(run.depths, run.to_s)) }
  if #run.bars > 0 then out[2] = gnuplot.block("bars" .. number, bar_rows(run, size)) end
  out[#out + 1] = ("set xrange [%.9g:%.9g]\nset yrange [0:%.9g]\nset title %s\nset ylabel 'records queued'\n"
    .. "unset xlabel\nset format x ''\n%s\n"
    .. "plot $depth%d using 1:2 with filledcurves y1=0 fs solid 0.6 noborder lc rgb '#555555' notitle"):format(
    run.from_s, run.to_s, 1.05 * depth, gnuplot.quote(label), whole_tics(depth), number)
  local what = run.width_s and ("largest batch in %.3g s"):format(run.width_s) or "batch size"
  out[#out + 1] = ("unset title\nset yrange [0:%.9g]\nset ylabel '%s'\nset xlabel 'seconds'\nset format x '%%g'\n"
    .. "%s\n%s"):format(1.05 * size, what, whole_tics(size), bars_plot(run, number, size))
  return table.concat(out, "\n")
end

--- @param recorded table  a timeline of each run  @param labels table  the name of each
-- @return script, width, height for gnuplot.draw
function M.script(recorded, labels)
  local out = {
    ("set multiplot layout %d,1\nset border 3 lc rgb '#888888'\nset tics nomirror tc rgb '#333333'\nset grid y lc rgb "
      .. "'#dddddd'\nset lmargin 9\nset rmargin 16\nset key outside right top samplen 1 noautotitle")
      :format(2 * #recorded),
  }
  local runs, depth, size = {}, 1, 1 -- the same scales for all, so that they compare
  for i, timeline in ipairs(recorded) do
    runs[i] = content(timeline)
    depth, size = math.max(depth, runs[i].depth), math.max(size, runs[i].size)
  end
  for i, run in ipairs(runs) do out[#out + 1] = panels(run, i, labels[i], depth, size) end
  out[#out + 1] = "unset multiplot"
  return table.concat(out, "\n"), WIDTH, 2 * PANEL_HEIGHT * #recorded
end

return M
