--- What a gateway counts beside its batchers: requests by route and status, calls upstream by status, how long these
-- took, how many halvings there were, how large inputs are. Plain tables, that may go to another process and be
-- added up there.

local metrics = require "tokenbatcher.batching.metrics"

local M = {}

--- Bounds of the histograms.
M.SECONDS = { 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60 }
M.TOKENS = { 1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192 }

local function new_histogram(bounds)
  local buckets = {}
  for i = 1, #bounds do buckets[i] = 0 end
  return { buckets = buckets, sum = 0, count = 0 }
end

--- Count a value. (The buckets are cumulative, as they are shown.)
function M.observe(histogram, bounds, value)
  histogram.sum, histogram.count = histogram.sum + value, histogram.count + 1
  for i = #bounds, 1, -1 do
    if value > bounds[i] then break end
    histogram.buckets[i] = histogram.buckets[i] + 1
  end
end

--- Count one more of a name.
function M.count(table_of, name) table_of[name] = (table_of[name] or 0) + 1 end

--- Counts of a line: {codes (status or code of an error -> calls), seconds, tokens, bisections}.
function M.of_line()
  return { codes = {}, seconds = new_histogram(M.SECONDS), tokens = new_histogram(M.TOKENS), bisections = 0 }
end

local function add_numbers(into, from)
  for name, value in pairs(from) do into[name] = (into[name] or 0) + value end
end
M.add_numbers = add_numbers

--- Add the counts of a line to others, or to an empty table.
function M.add(into, from)
  into.codes, into.seconds, into.tokens = into.codes or {}, into.seconds or {}, into.tokens or {}
  add_numbers(into.codes, from.codes)
  metrics.add_histogram(into.seconds, from.seconds)
  metrics.add_histogram(into.tokens, from.tokens)
  into.bisections = (into.bisections or 0) + from.bisections
end

return M
