--- tb.metrics.prometheus(batcher, ...): the statistics of any number of batchers in the text
-- exposition format of Prometheus, labelled by the option `name`.

local batcher_class = require "tokenbatcher.batching.batcher"
local errors = require "tokenbatcher.base.errors"
local tbffi = require "tokenbatcher.core.ffi"
local REASONS = require("tokenbatcher.core.stats").REASONS
local utf8 = require "tokenbatcher.base.utf8"

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

local GAUGES = {
  { "queue_records", "queue_size", "Records queued." },
  { "queue_cost", "queue_cost", "Cost queued, in tokens." },
  { "waiting_submits", "waiting_submits", "Calls of submit that wait for room." },
  { "prefetched_batches", "prefetched_batches", "Full batches cut ahead." },
  { "prefetched_records", "prefetched_records", "Records in them." },
  { "running_batches", "running_batches", "Batches that run." },
  { "running_records", "running_records", "Records that run." },
  { "abandoned_calls", "abandoned_calls", "Calls of inference_fn that go on after their timeout." },
  { "oldest_queued_seconds", "oldest_queued_s", "How long the oldest queued record has waited." },
  { "oldest_running_seconds", "oldest_running_s", "How long the oldest running batch has run." },
  { "utilization_ratio", "utilization", "Busy share of the slots since the start." },
  { "padding_ratio", "padding_ratio", "Records x largest over the sum of costs, over all batches." },
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

-- As few digits as give the same number again.
local function number(value)
  if value % 1 == 0 and math.abs(value) < 1e15 then return ("%d"):format(value) end
  for digits = 15, 16 do
    local short = ("%." .. digits .. "g"):format(value)
    if tonumber(short) == value then return short end
  end
  return ("%.17g"):format(value)
end

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
      sample(out, row[1], source.label, source.stats[row[2]])
    end
  end
end

local function dispatched(out, sources)
  head(out, "dispatched_total", "counter", "Batches by why they went.")
  for _, source in ipairs(sources) do
    for _, reason in ipairs(REASONS) do
      sample(out, "dispatched_total", source.label .. ',reason="' .. reason .. '"', source.stats.dispatched[reason])
    end
  end
end

local function histograms(out, sources)
  for _, row in ipairs(HISTOGRAMS) do
    local name, field, kind, bounds, scale, help = unpack(row)
    head(out, name, "histogram", help)
    for _, source in ipairs(sources) do
      for _, bound in ipairs(bounds) do
        sample(out, name .. "_bucket", source.label .. ',le="' .. number(bound) .. '"',
          C.tb_stats_at_most(source.handle, kind, bound * scale))
      end
      local count = source.stats[field].count
      sample(out, name .. "_bucket", source.label .. ',le="+Inf"', count)
      sample(out, name .. "_sum", source.label, C.tb_stats_sum(source.handle, kind) / scale)
      sample(out, name .. "_count", source.label, count)
    end
  end
end

local function read(batchers, n)
  local sources, seen = {}, {}
  for i = 1, n do
    local b = batchers[i]
    if not batcher_class.is_batcher(b) then
      errors.misuse(("metrics.prometheus: argument %d is no batcher but a %s"):format(i, type(b)))
    end
    local name = utf8.clean(b._values.name or "") -- a page that is not UTF-8 is refused
    if seen[name] then
      errors.misuse(("metrics.prometheus: two batchers are named '%s'; give each a name of its own"):format(name))
    end
    seen[name] = true
    sources[i] = { label = 'name="' .. name:gsub('[\\"\n]', ESCAPES) .. '"', stats = b.stats, handle = b._handle }
  end
  return sources
end

--- @return string  text/plain; version=0.0.4
function M.prometheus(...)
  local sources, out = read({ ... }, select("#", ...)), {}
  plain(out, COUNTERS, "counter", sources)
  plain(out, GAUGES, "gauge", sources)
  dispatched(out, sources)
  histograms(out, sources)
  return table.concat(out, "\n") .. "\n"
end

return M
