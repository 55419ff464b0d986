--- What a gateway says of itself: /metrics, /health, /ready and /status, each of all workers together (see board.lua
-- for what they are given: a list of {id, sum, live}).

local clock = require "tokenbatcher.runtime.clock"
local counts = require "tokenbatcher.gateway.counts"
local json = require "tokenbatcher.base.json"
local metrics = require "tokenbatcher.batching.metrics"
local snapshots = require "tokenbatcher.gateway.snapshot"
local version = require "tokenbatcher.base.version"

local M = {}

local STATES = { closed = 0, off = 0, probing = 1, open = 2 }

local function sorted_keys(of)
  local out = {}
  for key in pairs(of) do out[#out + 1] = key end
  table.sort(out)
  return out
end

-- --- /metrics ---------------------------------------------------------------------------------

-- The label of a batcher's series.
local function label_of(name, worker)
  return metrics.label("name", name) .. "," .. metrics.label("worker", tostring(worker.id))
end

-- Every line of every worker, and every queue: lists of {label, snapshot, line (what was added up of it)}.
local function each_line(gateway, workers)
  local out, queues = {}, {}
  for _, line in ipairs(gateway.lines) do
    for _, worker in ipairs(workers) do
      local it = worker.sum.lines and worker.sum.lines[line.name]
      if it then
        out[#out + 1] = { label = label_of(line.name, worker), snapshot = it.batcher, line = it }
      end
      local queue = it and line.queue and it.queue
      if queue then
        queues[#queues + 1] = { label = label_of(line.queue.label, worker), snapshot = queue.batcher, line = queue }
      end
    end
  end
  return out, queues
end

local function samples_of(sources, read)
  local out = {}
  for i, source in ipairs(sources) do out[i] = { source.label, read(source.line) } end
  return out
end

local function upstream_families(out, sources)
  local calls = {}
  for _, source in ipairs(sources) do
    for _, code in ipairs(sorted_keys(source.line.counts.codes)) do
      calls[#calls + 1] = { source.label .. "," .. metrics.label("code", code), source.line.counts.codes[code] }
    end
  end
  metrics.family(out, { name = "upstream_requests_total", kind = "counter",
    help = "Calls upstream by their status, or why there was none; retries are within.", samples = calls })
  metrics.family(out, { name = "retries_total", kind = "counter", help = "Calls upstream that were tried again.",
    samples = samples_of(sources, function(line) return line.retries end) })
  metrics.family(out, { name = "bisections_total", kind = "counter",
    help = "Calls of several inputs that were refused and halved.",
    samples = samples_of(sources, function(line) return line.counts.bisections end) })
  metrics.family(out, { name = "breaker_state", kind = "gauge", help = "0: closed, 1: probing, 2: open.",
    samples = samples_of(sources, function(line) return STATES[line.state] or 0 end) })
  metrics.histogram(out, { name = "upstream_seconds", bounds = counts.SECONDS, help = "How long a call upstream took.",
    samples = samples_of(sources, function(line) return line.counts.seconds end) })
  metrics.histogram(out, { name = "input_tokens", bounds = counts.TOKENS, help = "Estimated tokens of an input.",
    samples = samples_of(sources, function(line) return line.counts.tokens end) })
end

local function queue_families(out, queues)
  local refused = {}
  for _, source in ipairs(queues) do
    for _, code in ipairs(sorted_keys(source.line.refused)) do
      refused[#refused + 1] = { source.label .. "," .. metrics.label("reason", code), source.line.refused[code] }
    end
  end
  local function family(name, kind, help, read)
    metrics.family(out, { name = name, kind = kind, help = help, samples = samples_of(queues, read) })
  end
  family("queue_slots", "gauge", "Slots: requests upstream at once.", function(it) return it.slots or 0 end)
  family("queue_slots_reserved", "gauge", "Of them, for keys below their share.",
    function(it) return it.reserve or 0 end)
  family("queue_slots_used", "gauge", "Of them, in use.", function(it) return it.held or 0 end)
  family("queue_admitted_total", "counter", "Requests that were given a slot.",
    function(it) return it.batcher.values.total_batches end)
  family("queue_left_total", "counter", "Requests whose client left before they had one.",
    function(it) return it.left end)
  metrics.family(out, { name = "queue_refused_total", kind = "counter", help = "Requests that were given none.",
    samples = refused })
  local gated = {}
  for _, source in ipairs(queues) do
    if source.line.gate then gated[#gated + 1] = source end
  end
  metrics.family(out, { name = "queue_gate_open", kind = "gauge", help = "0: the upstream's own queue is too long.",
    samples = samples_of(gated, function(it) return it.gate end) })
end

local function request_families(out, workers)
  local requests, active, held = {}, {}, {}
  for _, worker in ipairs(workers) do
    local label = metrics.label("worker", tostring(worker.id))
    for _, name in ipairs(sorted_keys(worker.sum.requests or {})) do
      local route, code = name:match "^(%S+) (%S+)$"
      requests[#requests + 1] = { metrics.label("route", route) .. "," .. metrics.label("code", code) .. "," .. label,
        worker.sum.requests[name] }
    end
    active[#active + 1], held[#held + 1] = { label, worker.sum.active or 0 }, { label, worker.sum.held or 0 }
  end
  metrics.family(out, { name = "http_requests_total", kind = "counter",
    help = "Requests by route and status; 499: the client left.", samples = requests })
  metrics.family(out, { name = "http_requests_active", kind = "gauge", help = "Requests that are being served.",
    samples = active })
  metrics.family(out, { name = "http_held_bytes", kind = "gauge", help = "Bytes of their bodies, as announced.",
    samples = held })
end

--- @return status, headers, body
function M.metrics(gateway, workers)
  local out, all, sources, queues = {}, {}, each_line(gateway, workers)
  for _, list in ipairs { sources, queues } do
    for _, source in ipairs(list) do all[#all + 1] = source end
  end
  local about = metrics.label("version", version) .. "," .. metrics.label("auth", gateway:auth_mode())
  metrics.family(out, { name = "info", kind = "gauge", help = "Always 1.", samples = { { about, 1 } } })
  metrics.text(out, all)
  upstream_families(out, sources)
  queue_families(out, queues)
  request_families(out, workers)
  return 200, { ["content-type"] = "text/plain; version=0.0.4" }, table.concat(out, "\n") .. "\n"
end

-- --- /health and /ready -----------------------------------------------------------------------

local HEADERS = { ["content-type"] = "application/json" }

--- 503 once the oldest record queued, or the oldest call running, in any worker is older than its limit: a queue that
-- is stuck answers nobody, and no other figure shows it.
function M.health(gateway, workers)
  local status, oldest, now_us = 200, { oldest_queued_s = 0, oldest_running_s = 0 }, clock.now_us()
  for _, worker in ipairs(workers) do
    for _, snapshot in ipairs(worker.live) do
      for name, age in pairs(snapshots.ages(snapshot, now_us)) do oldest[name] = math.max(oldest[name] or 0, age) end
    end
  end
  for name, limit in pairs(gateway.config.health) do
    if (oldest[name] or 0) > limit then status = 503 end
  end
  local of_queue = oldest.oldest_waiting_s and (',"oldest_waiting_s":%.3f,"oldest_held_s":%.3f'):format(
    oldest.oldest_waiting_s, oldest.oldest_held_s) or ""
  return status, HEADERS, ('{"status":"%s","oldest_queued_s":%.3f,"oldest_running_s":%.3f%s}\n'):format(
    status == 200 and "ok" or "stuck", oldest.oldest_queued_s, oldest.oldest_running_s, of_queue)
end

--- 503 while no worker has an upstream that it would call.
function M.ready(_, workers)
  for _, worker in ipairs(workers) do
    for _, snapshot in ipairs(worker.live) do
      for _, line in pairs(snapshot.lines) do
        if line.state ~= "open" then return 200, HEADERS, '{"status":"ready"}\n' end
      end
    end
  end
  return 503, HEADERS, '{"status":"no upstream"}\n'
end

-- --- /status ----------------------------------------------------------------------------------

local function status_of_queue(queue)
  return (',"queue":{"slots":%d,"used":%d,"waiting":%d}'):format(queue.slots or 0, queue.held or 0,
    queue.batcher.values.queue_size or 0)
end

local function status_of_line(name, line)
  local values = line.batcher.values
  return json.encode(name) .. (':{"state":"%s","max_inputs":%d,"queued":%d,"queued_cost":%d,"running_calls":%d,'
    .. '"answered":%d,"failed":%d,"batches":%d,"retries":%d,"bisections":%d%s}'):format(line.state or "closed",
    line.max_inputs or 0, values.queue_size or 0, values.queue_cost or 0, values.running_batches or 0,
    values.total_completed, values.total_failed, values.total_batches, line.retries, line.counts.bisections,
    line.queue and status_of_queue(line.queue) or "")
end

local function status_of_worker(worker)
  local lines, pids = {}, {}
  for i, name in ipairs(sorted_keys(worker.sum.lines or {})) do
    lines[i] = status_of_line(name, worker.sum.lines[name])
  end
  for i, snapshot in ipairs(worker.live) do pids[i] = ("%d"):format(snapshot.pid) end
  return ('{"id":%d,"pids":[%s],"active":%d,"held_bytes":%d,"upstreams":{%s}}'):format(worker.id,
    table.concat(pids, ","), worker.sum.active or 0, worker.sum.held or 0, table.concat(lines, ","))
end

--- For people and programs: JSON of each worker and its upstreams.
function M.status(gateway, workers)
  local out = {}
  for i, worker in ipairs(workers) do out[i] = status_of_worker(worker) end
  return 200, HEADERS, ('{"version":"%s","auth":"%s","workers":[%s]}\n'):format(version, gateway:auth_mode(),
    table.concat(out, ","))
end

local BY_PATH = { ["/metrics"] = M.metrics, ["/health"] = M.health, ["/ready"] = M.ready, ["/status"] = M.status }

--- The page that a request asks for.
function M.page(gateway, workers, request)
  local page = BY_PATH[request.path]
  if page then return page(gateway, workers) end
  return gateway:refusal(404, request)
end

return M
