--- A worker's figures as a plain table, and how those of several become one.

local clock = require "tokenbatcher.runtime.clock"
local counts = require "tokenbatcher.gateway.counts"
local metrics = require "tokenbatcher.batching.metrics"
local queues = require "tokenbatcher.gateway.queue"

local M = {}

local function of_line(line)
  local status = line.upstream:status()
  return { batcher = metrics.snapshot(line.batcher), counts = line.counts, retries = status.retries or 0,
    opened = status.opened or 0, state = status.state or "closed", max_inputs = line.upstream:limits().max_inputs,
    queue = line.queue and line.queue:snapshot() }
end

--- @return {at_us, lines (by name), requests ("route status" -> how many), active, held}
function M.take(gateway)
  local lines = {}
  for _, line in ipairs(gateway.lines) do lines[line.name] = of_line(line) end
  return { at_us = clock.now_us(), lines = lines, requests = gateway.requests, active = gateway.active,
    held = gateway.held }
end

local function add_line(into, from, is_over)
  into.batcher, into.counts = into.batcher or {}, into.counts or {}
  metrics.add(into.batcher, from.batcher, is_over)
  counts.add(into.counts, from.counts)
  into.retries, into.opened = (into.retries or 0) + from.retries, (into.opened or 0) + from.opened
  if from.queue then
    into.queue = into.queue or {}
    queues.add(into.queue, from.queue, is_over)
  end
  if not is_over then into.state, into.max_inputs = from.state, from.max_inputs end
end

--- Add a snapshot to others, or to an empty table. @param is_over boolean  its worker is gone
function M.add(into, from, is_over)
  into.lines, into.requests = into.lines or {}, into.requests or {}
  for name, line in pairs(from.lines or {}) do
    into.lines[name] = into.lines[name] or {}
    add_line(into.lines[name], line, is_over)
  end
  counts.add_numbers(into.requests, from.requests or {})
  if is_over then return end
  into.active, into.held = (into.active or 0) + from.active, (into.held or 0) + from.held
end

-- How long the oldest queued record and the oldest running batch of a batcher have waited, if longer than others.
local function older(values, since_s, queued, running)
  if values.queue_size > 0 then queued = math.max(queued, values.oldest_queued_s + since_s) end
  if values.running_batches > 0 then running = math.max(running, values.oldest_running_s + since_s) end
  return queued, running
end

--- How long the oldest queued record and the oldest running batch of a live worker have waited by now, seconds; and, if
-- there is a queue, who waits for its slots and who holds one.
function M.ages(snapshot, now_us)
  local since_s, queued, running = math.max(0, now_us - snapshot.at_us) / 1e6, 0, 0
  local waiting, held
  for _, line in pairs(snapshot.lines) do
    queued, running = older(line.batcher.values, since_s, queued, running)
    if line.queue then waiting, held = older(line.queue.batcher.values, since_s, waiting or 0, held or 0) end
  end
  return { oldest_queued_s = queued, oldest_running_s = running, oldest_waiting_s = waiting, oldest_held_s = held }
end

return M
