--- What is counted if the beginning of a run is not: a run starts with nothing queued and every slot idle, and until
-- it is in its stride its latencies are those of nobody's traffic.
--
-- What comes before is simulated and not counted. A record counts by its arrival, whenever it is answered; a batch by
-- its start. How long slots are busy is looked at from the first event after that time. Peaks, the longest pause and
-- preemptions of a device are those of the whole run.

local Histogram = require "tokenbatcher.sim.histogram"
local REASONS = require("tokenbatcher.core.stats").REASONS
local tbffi = require "tokenbatcher.core.ffi"

local C = tbffi.lib

local M = {}
local WarmUp = {}
WarmUp.__index = WarmUp

--- @param from_us number  on the run's clock
function M.new(from_us)
  local self = setmetatable({
    from_us = from_us, records = 0, completed = 0, failed = 0, rejected = 0, expired = 0,
    batches = 0, sum = 0, padded = 0,
    size = Histogram.new(), cost = Histogram.new(), dispatched = {}, busy_us = 0, idle_us = 0, is_over = false,
  }, WarmUp)
  for i = 1, #REASONS do self.dispatched[i] = 0 end
  return self
end

--- It is over: what was busy so far is not counted.
function WarmUp:begin(handle, fairness, now)
  local s = tbffi.new "tb_stats"
  C.tb_stats_read(handle, s, now)
  self.busy_us, self.idle_us, self.is_over = s.busy_us, s.idle_us, true
  fairness:forget()
end

--- One more of a count, if its record counts. @param what string  "records", "rejected" or "expired"
function WarmUp:count(what, arrived_us)
  if arrived_us >= self.from_us then self[what] = self[what] + 1 end
end

--- A batch begins.
function WarmUp:started(run)
  if run.started_us < self.from_us then return end
  self.batches, self.sum, self.padded = self.batches + 1, self.sum + run.sum, self.padded + run.padded
  self.dispatched[run.reason + 1] = self.dispatched[run.reason + 1] + 1
  self.size:add(run.n)
  self.cost:add(run.cost)
end

--- A batch is over.
function WarmUp:ended(run, has_failed)
  local what = has_failed and "failed" or "completed"
  for i = 0, run.n - 1 do self:count(what, run.arrived_us[i]) end
end

-- Sizes and costs are whole numbers.
local function of_histogram(h)
  local function at(share) return math.floor(h:percentile(share)) end
  return { mean = h:mean(), p50 = at(0.5), p90 = at(0.9), p99 = at(0.99), max = h.max }
end

--- Put what it has counted into the statistics of the core, which has counted all.
-- @param s cdata  tb_stats
-- @return {batch_size, batch_cost} (see measure.lua)
function WarmUp:correct(s)
  s.total_completed, s.total_failed, s.total_rejected = self.completed, self.failed, self.rejected
  s.total_expired, s.total_batches = self.expired, self.batches
  s.busy_us, s.idle_us = s.busy_us - self.busy_us, s.idle_us - self.idle_us
  s.padded_cost, s.sum_cost = self.padded, self.sum
  for i = 1, #REASONS do s.dispatched[i - 1] = self.dispatched[i] end
  return { batch_size = of_histogram(self.size), batch_cost = of_histogram(self.cost) }
end

return M
