--- tb.metrics.prometheus(batcher, ...): the statistics of any number of batchers in the text
-- exposition format of Prometheus, labelled by the option `name`.
--
-- What stands on the page is first taken down (`snapshot`), as a plain table that may go to another process and be
-- added to others (`add`); `text` writes it.

local batcher_class = require "tokenbatcher.batching.batcher"
local errors = require "tokenbatcher.base.errors"
local number_text = require "tokenbatcher.base.number_text"
local tbffi = require "tokenbatcher.core.ffi"
local REASONS = require("tokenbatcher.core.stats").REASONS
local utf8 = require "tokenbatcher.base.utf8"
local version = require "tokenbatcher.base.version"

local C = tbffi.lib

local M = {}

local COUNTERS = {
  { "submitted_total", "total_submitted", "Records accepted." },
  { "completed_total", "total_completed", "Records answered." },
  { "failed_total", "total_failed", "Records whose inference failed." },
  { "cancelled_total", "total_cancelled", "Records cancelled." },
  { "expired_total", "total_expired", "Records that passed their deadline undispatched." },
  { "rejected_total", "total_rejected", "Records refused." },
  { "oversize_total", "total_oversize", "Records above the budget that ran alone." },
  { "batches_total", "total_batches", "Batches dispatched." },
  { "batch_cost_total", "total_batch_cost", "Cost of all batches, in tokens." },
  { "busy_seconds_total", "busy_time_s", "Slot-seconds in which a batch ran." },
  { "idle_seconds_total", "idle_time_s", "Slot-seconds in which none did." },
  { "joined_total", "total_joined", "Records that joined an equal one in flight." },
  { "policy_errors_total", "policy_errors", "Calls of the policy that raised." },
  { "policy_overruled_total", "policy_overruled", "Decisions taken in the policy's place." },
}

-- The same of a batcher that is traced; of others there is nothing to say.
local TRACES = {
  { "trace_spans_sent_total", "trace_spans_sent", "Spans that a collector has taken." },
  { "trace_spans_dropped_total", "trace_spans_dropped", "Spans that no collector was sent, or that it refused." },
}

-- name, field, help, and how those of several batchers that are one to the reader become one (the sum, if not said).
local GAUGES = {
  { "queue_records", "queue_size", "Records queued." },
  { "queue_cost", "queue_cost", "Cost queued, in tokens." },
  { "waiting_submits", "waiting_submits", "Calls of submit that wait for room." },
  { "prefetched_batches", "prefetched_batches", "Full batches cut ahead." },
  { "prefetched_records", "prefetched_records", "Records in them." },
  { "running_batches", "running_batches", "Batches that run." },
  { "running_records", "running_records", "Records that run." },
  { "abandoned_calls", "abandoned_calls", "Calls of inference_fn that go on after their timeout." },
  { "oldest_queued_seconds", "oldest_queued_s", "How long the oldest queued record has waited.", "max" },
  { "oldest_running_seconds", "oldest_running_s", "How long the oldest running batch has run.", "max" },
  { "utilization_ratio", "utilization", "Busy share of the slots since the start.", "last" },
  { "padding_ratio", "padding_ratio", "Records x largest over the sum of costs, over all batches.", "last" },
}

-- What is set: the limits beside which the figures above are read.
local LIMITS = {
  { "slots", "max_concurrent_batches", "Batches that may run at once.", "last" },
  { "queue_limit_records", "max_queue_size", "The most records queued.", "last" },
  { "batch_limit_records", "max_batch_size", "The most records in a batch.", "last" },
  { "batch_limit_tokens", "target_batch_cost", "The budget of a batch.", "last" },
}

local TIMES_S = {
  0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60,
}
local SIZES = { 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024 }
local COSTS = { 1, 10, 100, 1000, 2000, 4000, 8000, 16000, 32000, 64000, 128000, 1000000 }

local HISTOGRAMS = {
  { "wait_seconds", "wait_s", C.TB_OF_WAIT, TIMES_S, 1e6, "From the call of submit to dispatch." },
  { "service_seconds", "service_s", C.TB_OF_SERVICE, TIMES_S, 1e6, "From dispatch of a batch to its end." },
  { "latency_seconds", "latency_s", C.TB_OF_LATENCY, TIMES_S, 1e6, "From the call of submit to completion." },
  { "batch_size_records", "batch_size", C.TB_OF_BATCH_SIZE, SIZES, 1, "Records in a batch." },
  { "batch_cost_tokens", "batch_cost", C.TB_OF_BATCH_COST, COSTS, 1, "Cost of a batch." },
}

local ESCAPES = { ["\\"] = "\\\\", ['"'] = '\\"', ["\n"] = "\\n" }

local number = number_text.shortest

--- A label: name="value". A page that is not UTF-8 is refused, so the value is made that.
function M.label(name, value)
  return ('%s="%s"'):format(name, (utf8.clean(value):gsub('[\\"\n]', ESCAPES)))
end

-- --- taking it down ---------------------------------------------------------------------------

local function histogram_of(handle, kind, bounds, scale, count)
  local buckets = {}
  for i, bound in ipairs(bounds) do buckets[i] = C.tb_stats_at_most(handle, kind, bound * scale) end
  return { buckets = buckets, sum = C.tb_stats_sum(handle, kind) / scale, count = count }
end

-- A policy's name; of a file the name alone, for where it lies is nobody's business.
local function policy_of(b) return b._values.resolved_policy.name:match "[^/]*$" end

--- The figures of a batcher: {policy, values = {field = number}, dispatched = {reason = number},
-- histograms = {field = {buckets, sum, count}}}, tables of strings and numbers.
function M.snapshot(b)
  local stats, handle = b.stats, b._handle
  local out = { policy = policy_of(b), values = {}, dispatched = {}, histograms = {} }
  for _, row in ipairs(LIMITS) do out.values[row[2]] = b._values[row[2]] end
  for _, row in ipairs(COUNTERS) do out.values[row[2]] = stats[row[2]] end
  for _, row in ipairs(GAUGES) do out.values[row[2]] = stats[row[2]] end
  local spans = b._tracer and b._tracer.counts
  if spans then out.values.trace_spans_sent, out.values.trace_spans_dropped = spans.sent, spans.dropped end
  for _, reason in ipairs(REASONS) do out.dispatched[reason] = stats.dispatched[reason] end
  for _, row in ipairs(HISTOGRAMS) do
    out.histograms[row[2]] = histogram_of(handle, row[3], row[4], row[5], stats[row[2]].count)
  end
  return out
end

local function add_gauge(into, from, field, how)
  local a, b = into[field] or 0, from[field] or 0
  into[field] = how == "max" and math.max(a, b) or how == "last" and b or a + b
end

local function add_numbers(into, from)
  for name, value in pairs(from) do into[name] = (into[name] or 0) + value end
end

--- Add a histogram {buckets, sum, count} to another of the same bounds.
function M.add_histogram(into, from)
  into.sum, into.count = (into.sum or 0) + from.sum, (into.count or 0) + from.count
  into.buckets = into.buckets or {}
  for i, value in ipairs(from.buckets) do into.buckets[i] = (into.buckets[i] or 0) + value end
end

--- Add a snapshot to another, or to an empty table. @param is_over boolean  its batcher is gone, and what it
-- held with it: only what it had counted stays
function M.add(into, from, is_over)
  for _, part in ipairs { "values", "dispatched", "histograms" } do into[part] = into[part] or {} end
  for _, row in ipairs(COUNTERS) do add_gauge(into.values, from.values, row[2]) end
  for _, row in ipairs(TRACES) do
    if from.values[row[2]] then add_gauge(into.values, from.values, row[2]) end
  end
  if not is_over then
    into.policy = from.policy
    for _, row in ipairs(GAUGES) do add_gauge(into.values, from.values, row[2], row[4]) end
    for _, row in ipairs(LIMITS) do add_gauge(into.values, from.values, row[2], row[4]) end
  end
  add_numbers(into.dispatched, from.dispatched)
  for field, histogram in pairs(from.histograms) do
    into.histograms[field] = into.histograms[field] or {}
    M.add_histogram(into.histograms[field], histogram)
  end
end

-- --- writing it -------------------------------------------------------------------------------

local function head(out, name, kind, help)
  out[#out + 1] = "# HELP tokenbatcher_" .. name .. " " .. help
  out[#out + 1] = "# TYPE tokenbatcher_" .. name .. " " .. kind
end

local function sample(out, name, labels, value)
  out[#out + 1] = "tokenbatcher_" .. name .. "{" .. labels .. "} " .. number(value)
end

local function plain(out, rows, kind, sources)
  for _, row in ipairs(rows) do
    head(out, row[1], kind, row[3])
    for _, source in ipairs(sources) do
      sample(out, row[1], source.label, source.snapshot.values[row[2]] or 0)
    end
  end
end

local function traces(out, sources)
  for _, row in ipairs(TRACES) do
    local samples = {}
    for _, source in ipairs(sources) do
      local value = source.snapshot.values[row[2]]
      if value then samples[#samples + 1] = { source.label, value } end
    end
    M.family(out, { name = row[1], kind = "counter", help = row[3], samples = samples })
  end
end

local function dispatched(out, sources)
  head(out, "dispatched_total", "counter", "Batches by why they went.")
  for _, source in ipairs(sources) do
    for _, reason in ipairs(REASONS) do
      sample(out, "dispatched_total", source.label .. ',reason="' .. reason .. '"',
        source.snapshot.dispatched[reason] or 0)
    end
  end
end

--- Write a histogram of several sources. @param given table  name, help, bounds, samples = {{label, histogram}, ...}
function M.histogram(out, given)
  head(out, given.name, "histogram", given.help)
  for _, it in ipairs(given.samples) do
    local label, histogram = it[1], it[2]
    for i, bound in ipairs(given.bounds) do
      sample(out, given.name .. "_bucket", label .. ',le="' .. number(bound) .. '"', histogram.buckets[i] or 0)
    end
    sample(out, given.name .. "_bucket", label .. ',le="+Inf"', histogram.count)
    sample(out, given.name .. "_sum", label, histogram.sum)
    sample(out, given.name .. "_count", label, histogram.count)
  end
end

--- Write any other figure. @param given table  name, kind ("counter", "gauge"), help, samples = {{label, value}, ...}
function M.family(out, given)
  if not given.samples[1] then return end
  head(out, given.name, given.kind, given.help)
  for _, it in ipairs(given.samples) do sample(out, given.name, it[1], it[2]) end
end

local function policies(out, sources)
  head(out, "batcher_info", "gauge", "Always 1; which policy decides who goes when, in which version of the library.")
  local about = "," .. M.label("version", version)
  for _, source in ipairs(sources) do
    sample(out, "batcher_info", source.label .. "," .. M.label("policy", source.snapshot.policy or "") .. about, 1)
  end
end

--- Write what batchers have counted. @param sources list  of {label, snapshot}
function M.text(out, sources)
  policies(out, sources)
  plain(out, COUNTERS, "counter", sources)
  plain(out, GAUGES, "gauge", sources)
  plain(out, LIMITS, "gauge", sources)
  dispatched(out, sources)
  traces(out, sources)
  for _, row in ipairs(HISTOGRAMS) do
    local samples = {}
    for i, source in ipairs(sources) do samples[i] = { source.label, source.snapshot.histograms[row[2]] } end
    M.histogram(out, { name = row[1], help = row[6], bounds = row[4], samples = samples })
  end
end

local function read(batchers, n)
  local sources, seen = {}, {}
  for i = 1, n do
    local b = batchers[i]
    if not batcher_class.is_batcher(b) then
      errors.misuse(("metrics.prometheus: argument %d is no batcher but a %s"):format(i, type(b)))
    end
    local label = M.label("name", b._values.name or "")
    if seen[label] then
      errors.misuse(("metrics.prometheus: two batchers are named '%s'; give each a name of its own"):format(
        utf8.clean(b._values.name or "")))
    end
    seen[label] = true
    sources[i] = { label = label, snapshot = M.snapshot(b) }
  end
  return sources
end

--- @return string  text/plain; version=0.0.4
function M.prometheus(...)
  local sources, out = read({ ... }, select("#", ...)), {}
  M.text(out, sources)
  return table.concat(out, "\n") .. "\n"
end

return M
