--- The snapshot behind batcher.stats.

local errors = require "tokenbatcher.base.errors"
local tbffi = require "tokenbatcher.core.ffi"
local C = tbffi.lib

local M = {}

--- Why a batch went: the names in the core's order, so that REASONS[reason + 1] is its name.
M.REASONS = {}
for i = 1, tonumber(C.TB_REASONS) do M.REASONS[i] = tbffi.text(C.tb_reason_name(i - 1)) end

local WHOLE, A_PART = errors.strict "stats", errors.strict "a part of stats"

-- Each field by its name, here and below: a field that is looked up by a variable takes five times as long.
local function summary(from, scale)
  return setmetatable({
    count = from.count, mean = from.mean * scale, p50 = from.p50 * scale, p90 = from.p90 * scale,
    p99 = from.p99 * scale, max = from.max * scale,
  }, A_PART)
end

local function ratio(a, b)
  return b > 0 and a / b or 0
end

local function counters(raw)
  return {
    total_submitted = raw.total_submitted, total_completed = raw.total_completed, total_batches = raw.total_batches,
    total_batch_cost = raw.total_batch_cost, total_failed = raw.total_failed, total_cancelled = raw.total_cancelled,
    total_expired = raw.total_expired, total_rejected = raw.total_rejected, total_oversize = raw.total_oversize,
    queue_size = raw.queue_size, queue_cost = raw.queue_cost, waiting_submits = raw.waiting_submits,
    prefetched_batches = raw.prefetched_batches, prefetched_records = raw.prefetched_records,
    running_batches = raw.running_batches, running_records = raw.running_records,
  }
end

--- @param handle cdata  the core's batcher  @return table  a copy; times in seconds
function M.read(handle, now_us)
  local raw = tbffi.new "tb_stats"
  C.tb_stats_read(handle, raw, now_us)
  local out = counters(raw)
  out.avg_batch_size = ratio(raw.total_batch_records, raw.total_batches)
  out.avg_batch_cost = ratio(raw.total_batch_cost, raw.total_batches)
  out.busy_time_s, out.idle_time_s = raw.busy_us / 1e6, raw.idle_us / 1e6
  out.oldest_queued_s, out.oldest_running_s = raw.oldest_queued_us / 1e6, raw.oldest_running_us / 1e6
  out.abandoned_calls = raw.abandoned_calls
  out.utilization = ratio(raw.busy_us, raw.busy_us + raw.idle_us)
  out.padding_ratio = ratio(raw.padded_cost, raw.sum_cost)
  out.dispatched = {}
  for i, name in ipairs(M.REASONS) do
    out.dispatched[name] = raw.dispatched[i - 1]
  end
  out.wait_s, out.service_s = summary(raw.wait_us, 1e-6), summary(raw.service_us, 1e-6)
  out.latency_s = summary(raw.latency_us, 1e-6)
  out.batch_size, out.batch_cost = summary(raw.batch_size, 1), summary(raw.batch_cost, 1)
  return setmetatable(out, WHOLE)
end

return M
