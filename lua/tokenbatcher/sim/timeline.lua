--- The picture of --timeline: how many records were queued, and every batch as a bar from its
-- start to its end, as high as it was large, in the colour of why it went.
--
-- Memory does not grow with the run: time falls into bins, which double in width when they no
-- longer reach; batches are kept one by one up to a number, beyond it the largest of a bin stands
-- for all of the same reason in it.

local gnuplot = require "tokenbatcher.sim.gnuplot"
local stats = require "tokenbatcher.core.stats"
local tbffi = require "tokenbatcher.core.ffi"

local C = tbffi.lib

local M = {}
local Timeline = {}
Timeline.__index = Timeline

local BINS, FIRST_WIDTH_US, BATCHES_MAX = 1000, 1000, 1500
local WIDTH, PANEL_HEIGHT = 1100, 210
M.MAX_RUNS = 6 -- in one picture

local REASONS, COLOURS = stats.REASONS, {
  full = "#0072b2", timeout = "#e69f00", idle = "#56b4e9", drain = "#999999", policy = "#009e73",
}

local function new_bins()
  return { depth = tbffi.new("double[?]", BINS), size = tbffi.new("double[?]", BINS * C.TB_REASONS) }
end

--- @param window table|nil  {from, to}, seconds of the run
function M.new(window)
  return setmetatable({
    from_us = window and window.from * 1e6 or 0, to_us = window and window.to * 1e6 or math.huge, last_us = 0,
    depth_us = 0, width_us = FIRST_WIDTH_US, bins = new_bins(), depth = 0, batches = {}, batch_count = 0,
  }, Timeline)
end

local function double_width(self)
  local old, new = self.bins, new_bins()
  for i = 0, BINS - 1 do
    local to = math.floor(i / 2)
    new.depth[to] = math.max(new.depth[to], old.depth[i])
    for r = 0, C.TB_REASONS - 1 do
      local at = to * C.TB_REASONS + r
      new.size[at] = math.max(new.size[at], old.size[i * C.TB_REASONS + r])
    end
  end
  self.bins, self.width_us = new, 2 * self.width_us
end

local function bin_of(self, at_us)
  local from_us = at_us - self.from_us
  while from_us >= BINS * self.width_us do double_width(self) end
  return math.floor(from_us / self.width_us)
end

--- So many records are queued from now on.
function Timeline:queued(at_us, depth)
  local before = self.depth
  self.depth = depth
  if at_us < self.from_us or at_us > self.to_us then return end
  local bin = bin_of(self, at_us)
  local bins, first = self.bins, math.max(0, math.floor((self.depth_us - self.from_us) / self.width_us))
  for i = first, bin do bins.depth[i] = math.max(bins.depth[i], before) end
  bins.depth[bin] = math.max(bins.depth[bin], depth)
  self.depth_us, self.last_us = at_us, math.max(self.last_us, at_us)
end

--- A batch is over.
function Timeline:batch(started_us, ended_us, size, reason)
  if ended_us < self.from_us or started_us > self.to_us then return end
  local at_us = math.max(started_us, self.from_us)
  local i = bin_of(self, at_us) * C.TB_REASONS + reason
  self.bins.size[i] = math.max(self.bins.size[i], size)
  self.batch_count, self.last_us = self.batch_count + 1, math.max(self.last_us, math.min(ended_us, self.to_us))
  if self.batch_count > BATCHES_MAX then
    self.batches = nil
  else
    self.batches[self.batch_count] = { started_us / 1e6, ended_us / 1e6, size, reason }
  end
end

local function end_us(self)
  if self.to_us < math.huge then return self.to_us end
  return math.max(self.last_us, self.from_us + self.width_us)
end

local function depth_rows(self)
  local out = {}
  for i = 0, BINS - 1 do
    local at_us = self.from_us + i * self.width_us
    if at_us <= self.last_us then out[#out + 1] = { at_us / 1e6, self.bins.depth[i] } end
  end
  if #out == 0 then out[1] = { self.from_us / 1e6, 0 } end
  out[#out + 1] = { math.max(self.last_us, self.from_us + self.width_us) / 1e6, out[#out][2] }
  return out
end

-- The largest queue and the largest batch.
local function peaks(self)
  local depth, size = 1, 1
  for i = 0, BINS - 1 do depth = math.max(depth, self.bins.depth[i]) end
  for i = 0, BINS * C.TB_REASONS - 1 do size = math.max(size, self.bins.size[i]) end
  return depth, size
end

-- Bars of one reason: {from, to, size}.
local function bars(self, reason)
  local out = {}
  for _, b in ipairs(self.batches or {}) do
    if b[4] == reason then out[#out + 1] = { b[1], b[2], b[3] } end
  end
  for i = 0, self.batches and -1 or BINS - 1 do
    local size, at_us = self.bins.size[i * C.TB_REASONS + reason], self.from_us + i * self.width_us
    if size > 0 then out[#out + 1] = { at_us / 1e6, (at_us + self.width_us) / 1e6, size } end
  end
  return out
end

local function panels(self, number, label, depth, size)
  local out, plots = { gnuplot.block("depth" .. number, depth_rows(self)) }, {}
  out[#out + 1] = ("set xrange [%.9g:%.9g]\nset yrange [0:%.9g]\nset title %s\nset ylabel 'records queued'\n"
    .. "unset xlabel\nset format x ''\n"
    .. "plot $depth%d using 1:2 with fillsteps fs solid 0.6 noborder lc rgb '#555555' notitle"):format(
    self.from_us / 1e6, end_us(self) / 1e6, 1.05 * depth, gnuplot.quote(label), number)
  for reason = 0, C.TB_REASONS - 1 do
    local rows = bars(self, reason)
    if #rows > 0 then
      local name = ("bars%d_%d"):format(number, reason)
      out[#out + 1] = gnuplot.block(name, rows)
      plots[#plots + 1] = ("$%s using 1:3:1:2:(0):3 with boxxyerror fs solid 0.7 border lw 0.5 lc rgb '%s' title '%s'")
        :format(name, COLOURS[REASONS[reason + 1]], REASONS[reason + 1])
    end
  end
  local what = self.batches and "batch size" or ("largest batch in %.3g s"):format(self.width_us / 1e6)
  out[#out + 1] = ("unset title\nset yrange [0:%.9g]\nset ylabel '%s'\nset xlabel 'seconds'\nset format x '%%g'\n"
    .. "plot %s"):format(1.05 * size, what, #plots > 0 and table.concat(plots, ", \\\n  ") or "0 notitle")
  return table.concat(out, "\n")
end

--- @param labels table  the name of each run
-- @return script, width, height for gnuplot.draw
function M.script(timelines, labels)
  local out = {
    ("set multiplot layout %d,1\nset border 3 lc rgb '#888888'\nset tics nomirror tc rgb '#333333'\nset grid y lc rgb "
      .. "'#dddddd'\nset lmargin 9\nset rmargin 16\nset key outside right top samplen 1 noautotitle")
      :format(2 * #timelines),
  }
  local depth, size = 1, 1 -- the same for all, so that they compare
  for _, timeline in ipairs(timelines) do
    local its_depth, its_size = peaks(timeline)
    depth, size = math.max(depth, its_depth), math.max(size, its_size)
  end
  for i, timeline in ipairs(timelines) do out[#out + 1] = panels(timeline, i, labels[i], depth, size) end
  out[#out + 1] = "unset multiplot"
  return table.concat(out, "\n"), WIDTH, 2 * PANEL_HEIGHT * #timelines
end

return M
