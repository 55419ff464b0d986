--- What a worker has done, in the text format of Prometheus, beside its batcher's page.

local metrics = require "tokenbatcher.batching.metrics"

local M = {}

-- Fields of Source.counts, in the order in which they are shown.
local OUTCOMES = { "answered", "failed", "dead", "claimed", "lost", "late", "released" }

--- @param source table  of source.lua  @return string  lines, each ended
function M.text(source)
  local worker = metrics.label("worker", source.consumer) .. "," .. metrics.label("group", source.group)
  local out, records, failures, codes = {}, {}, {}, {}
  for i, outcome in ipairs(OUTCOMES) do
    records[i] = { worker .. "," .. metrics.label("outcome", outcome), source.counts[outcome] }
  end
  for code in pairs(source.failures) do codes[#codes + 1] = code end
  table.sort(codes)
  for i, code in ipairs(codes) do
    failures[i] = { worker .. "," .. metrics.label("code", code), source.failures[code] }
  end
  metrics.family(out, { name = "worker_records_total", kind = "counter", samples = records,
    help = "Records by what became of them: answered, failed or dead letters; claimed from others, lost to them, "
      .. "answered by them first (late), given back (released)." })
  metrics.family(out, { name = "worker_failures_total", kind = "counter", samples = failures,
    help = "Failed records by their error's code." })
  metrics.family(out, { name = "worker_redis_connected", kind = "gauge", help = "Is there a connection to Redis?",
    samples = { { worker, source.command and source.command.is_ready and 1 or 0 } } })
  return table.concat(out, "\n") .. "\n"
end

return M
