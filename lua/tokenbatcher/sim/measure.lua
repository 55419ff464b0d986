--- What came of a simulated run: one row, with the same fields in the same order every time.

local stats = require "tokenbatcher.core.stats"
local tbffi = require "tokenbatcher.core.ffi"

local C = tbffi.lib

local M = {}

-- Fields in the order of output; a list has its own fields behind its name.
local SPREAD = { "mean", "p50", "p90", "p99", "max" }
local REASONS = stats.REASONS
M.FIELDS = {
  "policy", "settings", "records", "completed", "failed", "rejected", "expired", "batches", "throughput", "goodput",
  { "latency_s", SPREAD }, { "wait_s", SPREAD }, "utilization", { "batch_size", SPREAD }, { "batch_cost", SPREAD },
  "padding_ratio", "fairness", { "dispatched", REASONS }, "policy_errors", "policy_overruled", "good_per_s",
  "at_most",
  { "ttft_s", SPREAD }, { "tpot_s", SPREAD }, { "e2e_s", SPREAD }, "tbt_max_s", "preemptions", "kv_peak_tokens",
  "warm_up_s",
}

-- Fields that only some rows have: with --bound, those of runs with a device, and with --warmup.
local IS_OPTIONAL = { at_most = true, ttft_s = true, tpot_s = true, e2e_s = true, tbt_max_s = true, preemptions = true,
  kv_peak_tokens = true, warm_up_s = true }

--- Those that a row has.
function M.fields_of(row)
  local out = {}
  for _, field in ipairs(M.FIELDS) do
    local name = type(field) == "table" and field[1] or field
    if row[name] ~= nil or not IS_OPTIONAL[name] then out[#out + 1] = field end
  end
  return out
end

local function of_histogram(h)
  return { mean = h:mean() / 1e6, p50 = h:percentile(0.5) / 1e6, p90 = h:percentile(0.9) / 1e6,
    p99 = h:percentile(0.99) / 1e6, max = h.max / 1e6 }
end

local function of_summary(s)
  return { mean = s.mean, p50 = s.p50, p90 = s.p90, p99 = s.p99, max = s.max }
end

local function ratio(a, b)
  return b > 0 and a / b or 0
end

local function add_device(row, serving)
  row.ttft_s, row.tpot_s, row.e2e_s = of_histogram(serving.ttft), of_histogram(serving.tpot), of_histogram(serving.e2e)
  row.tbt_max_s, row.preemptions = serving.server.tbt_max_us / 1e6, serving.server.preemptions
  row.kv_peak_tokens = serving.server:kv_peak()
  row.has_tpot = serving.tpot.count > 0 -- somebody's answer had more than one token
  return row
end

--- @param replay table  after its run
-- @param policy string  as people wrote it
-- @param settings table  a list of {name, text}
function M.row(replay, policy, settings)
  local s, dispatched = tbffi.new "tb_stats", {}
  C.tb_stats_read(replay.handle, s, replay.now)
  local warm_up = replay.warm_up
  local batches = warm_up and warm_up:correct(s) or { batch_size = of_summary(s.batch_size), batch_cost = of_summary(
    s.batch_cost) }
  local records = warm_up and warm_up.records or replay.records
  for i, name in ipairs(REASONS) do dispatched[name] = s.dispatched[i - 1] end
  local row = {
    policy = policy, settings = settings, records = records, completed = s.total_completed,
    failed = s.total_failed, rejected = s.total_rejected, expired = s.total_expired, batches = s.total_batches,
    throughput = ratio(s.total_completed, replay:span_s()), goodput = ratio(replay.good, records),
    latency_s = of_histogram(replay.latency), wait_s = of_histogram(replay.wait),
    utilization = ratio(s.busy_us, s.busy_us + s.idle_us), batch_size = batches.batch_size,
    batch_cost = batches.batch_cost, padding_ratio = ratio(s.padded_cost, s.sum_cost),
    fairness = replay.fairness:index(), dispatched = dispatched,
    policy_errors = replay.policy.errors, policy_overruled = replay.policy.overruled,
    good_per_s = ratio(replay.good, replay:span_s()), policy_disabled = replay.policy.disabled > 0,
    arrivals_span_s = replay:arrivals_span_s(), arrivals = replay.records, latency_curve = replay.latency:curve(400),
  }
  return replay.serving and add_device(row, replay.serving) or row
end

return M
