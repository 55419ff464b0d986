--- What batchers do, as one table that is JSON: what the page draws, and anybody else may read.
--
--     state.text(state.of({ watch.new(batcher) }))
--
-- Several processes' are added (`add`), batchers of one name to one; `text` then makes of distributions what is read
-- of them. Times are seconds of the machine's monotonic clock, which processes of one machine share; `now` is on it,
-- too. Everything is bounded: BATCHERS of them, each at most 96 KiB of text.
--
-- THE SPECIAL PROBLEM OF TOO MUCH. Who asks four times a second wants no batch twice: `after` is the `now` of the
-- last state he has seen, and batches that had ended by then are left out.

local clock = require "tokenbatcher.runtime.clock"
local json = require "tokenbatcher.base.json"
local pseudonym = require "tokenbatcher.base.pseudonym"
local REASONS = require("tokenbatcher.core.stats").REASONS
local shown = require "tokenbatcher.listen.shown"
local tbffi = require "tokenbatcher.core.ffi"
local version = require "tokenbatcher.base.version"
local Watch = require "tokenbatcher.listen.watch"

local floor, max, min = math.floor, math.max, math.min

local M = {}

--- Batchers, and of each: keys, groups, batches that run, processes.
M.BATCHERS, M.TOP, M.RUNNING, M.WORKERS = 16, 10, 64, 64

--- What stands in a row of `batches`, by position: n counts the batches of a worker, at is when it began, padding is
-- the share of what it costs padded, calls are those of inference_fn, depth is how often it was halved, keys how many
-- different ones (-1: not counted), code why records failed ("": none did).
M.FIELDS = { "n", "id", "worker", "at", "s", "size", "cost", "padding", "reason", "calls", "depth", "failed", "code",
  "policy", "group", "keys" }
local END = { at = 4, s = 5 }

local TOTALS = { submitted = "total_submitted", completed = "total_completed", failed = "total_failed",
  cancelled = "total_cancelled", expired = "total_expired", rejected = "total_rejected", oversize = "total_oversize",
  batches = "total_batches", records = "total_batch_records", cost = "total_batch_cost", tokens = "sum_cost",
  padded = "padded_cost" }
local LEVELS = { queue = "queue_size", cost = "queue_cost", waiting = "waiting_submits", running = "running_batches",
  running_records = "running_records", cut_ahead = "prefetched_batches", abandoned = "abandoned_calls" }
local HISTORIES = { queue = "queue", cost = "cost", oldest_us = "oldest_us", completed = "completed" }

local function rounded(value, digits) return floor(value * 10 ^ digits + 0.5) / 10 ^ digits end
local function seconds(us) return rounded(us / 1e6, 6) end

-- --- one batcher of one process ----------------------------------------------------------------

local function names_of(watch, tally)
  local list, cost, is_partial = tally:top(M.TOP)
  local rows = json.list {}
  for i, it in ipairs(list) do rows[i] = { watch:show(it.name), rounded(it.cost, 3), it.records } end
  return { rows = rows, cost = rounded(cost, 3), is_partial = is_partial,
    is_hashed = not watch.batcher:option "record_keys" }
end

local function batches_of(watch, opts)
  local rows, hashed, worker = json.list {}, {}, opts.worker
  watch:each_batch(opts.after_us, opts.most, function(it)
    local group = it.group
    if group ~= "" then
      hashed[group] = hashed[group] or watch:show(group)
      group = hashed[group]
    end
    rows[#rows + 1] = { it.n, it.id, worker, seconds(it.at_us), seconds(it.us), it.size, rounded(it.cost, 3),
      it.padded > 0 and rounded(1 - it.tokens / it.padded, 4) or 0, it.reason, it.calls, it.depth, it.failed,
      it.code or "", it.policy, group, it.keys or -1 }
  end)
  return rows
end

local function running_of(watch, worker)
  local rows = json.list {}
  for i, run in ipairs(watch.batcher:running()) do
    if i > M.RUNNING then break end
    rows[i] = { run.id, worker, seconds(run.started_us), run.size, rounded(run.cost, 3), run.reason, run.attempt or 1 }
  end
  return rows
end

-- (A notice is {at, n, text, ...}: it becomes one of a worker.)
local function notices(list, worker, fields)
  local out = json.list {}
  for i, it in ipairs(list) do
    out[i] = { at = seconds(it.at_us), worker = worker, text = it.text }
    for _, name in ipairs(fields) do out[i][name] = it[name] end
  end
  return out
end

local function limits_of(batcher)
  return { queue = batcher:option "max_queue_size", queue_cost = batcher:option "max_queue_cost",
    oldest_s = batcher:option "batch_timeout_s", size = batcher:option "max_batch_size",
    cost = batcher:option "target_batch_cost", slots = batcher:option "max_concurrent_batches" }
end

local function history_of(watch)
  local out = { step_s = Watch.STEP_US / 1e6 }
  for name, field in pairs(HISTORIES) do
    out[name], out.last = watch:steps(field)
    for i, value in ipairs(out[name]) do out[name][i] = rounded(value, 3) end
  end
  return out
end

local function numbers_of(raw, fields)
  local out = {}
  for name, field in pairs(fields) do out[name] = raw[field] end
  return out
end

-- How many a second there were in the last ten seconds that are over.
local function rates_of(watch)
  local out = {}
  for _, name in ipairs { "submitted", "completed", "failed", "rejected", "expired" } do
    local list, sum = watch:steps(name), 0
    local last = max(1, #list - 1)
    local first = max(1, last - 19)
    for i = first, last do sum = sum + list[i] end
    out[name] = rounded(sum / ((last - first + 1) * Watch.STEP_US / 1e6), 2)
  end
  return out
end

local function distributions_of(watch)
  local out, over_s = {}, 0
  for what in pairs(Watch.BOUNDS) do out[what], over_s = watch:recent(what) end
  return out, rounded(over_s, 1)
end

local raw = tbffi.new "tb_stats"

-- Of its slots, since it started.
local function busy_share(of)
  local all_us = of.busy_us + of.idle_us
  return all_us > 0 and rounded(of.busy_us / all_us, 4) or 0
end

local function batcher_of(watch, opts)
  local worker = opts.worker
  local batcher, now_us = watch.batcher, watch:look()
  local policy_errors, overruled = batcher:fill_stats(raw)
  local out = { name = shown.text(batcher:option "name" or ""), state = batcher:state(), limits = limits_of(batcher),
    levels = numbers_of(raw, LEVELS), oldest_s = seconds(raw.oldest_queued_us), totals = numbers_of(raw, TOTALS),
    dispatched = {}, rates = rates_of(watch), history = history_of(watch), keys = names_of(watch, watch.keys),
    groups = names_of(watch, watch.groups), batches = batches_of(watch, opts),
    running = running_of(watch, worker), options = watch.shown,
    failures = notices(watch.failures, worker, { "n", "code", "status", "failed", "size" }),
    changes = notices(watch.changes, worker, {}), facts = watch.facts and watch.facts() or json.list {} }
  out.totals.policy_errors, out.totals.overruled = policy_errors, overruled
  for i, reason in ipairs(REASONS) do out.dispatched[reason] = raw.dispatched[i - 1] end
  out.distributions, out.over_s = distributions_of(watch)
  out.workers = json.list { { id = worker, pid = opts.pid, batches = out.totals.batches, records = out.totals.records,
    busy = busy_share(raw), up_s = rounded((now_us - watch.begun_us) / 1e6, 1),
    at = seconds(now_us) } }
  return out
end

-- --- several -----------------------------------------------------------------------------------

local started -- who this process is, so that a page sees another one in its place

local function process_id()
  local file = io.open("/proc/self/stat", "rb")
  local pid = file and file:read "*n"
  if file then file:close() end
  return pid or 0
end

local function identity()
  local pid = process_id()
  if not started or started.pid ~= pid then
    started = { pid = pid, id = pseudonym.hash(assert(pseudonym.secret()), "process") }
  end
  return started
end

--- @param watches list  of watch.lua, of batchers with names of their own
-- @param opts table|nil  after: seconds, see above; worker: what this process is called among others ("0" by default);
-- id: what is the same as long as the figures go on (by default this process); most_batches: of each (all)
function M.of(watches, opts)
  opts = opts or {}
  local who, out = identity(), json.list {}
  local of_one = { worker = opts.worker or "0", pid = who.pid, after_us = (opts.after or -1) * 1e6,
    most = opts.most_batches or Watch.RING }
  for i = 1, min(#watches, M.BATCHERS) do out[i] = batcher_of(watches[i], of_one) end
  return { tokenbatcher_state = 1, version = version, id = opts.id or who.id, now = seconds(clock.now_us()),
    batch_fields = M.FIELDS, left_out = #watches - #out, batchers = out }
end

local function add_numbers(into, from)
  for name, value in pairs(from) do into[name] = (into[name] or 0) + value end
end

-- Of two histories as long as each is, of steps up to `last`.
local function add_history(into, from)
  local last = max(into.last, from.last)
  for name in pairs(HISTORIES) do
    local is_flow, n = name == "completed", min(Watch.STEPS, max(#into[name] + last - into.last,
      #from[name] + last - from.last))
    local sum = {}
    for _, it in ipairs { into, from } do
      local list = it[name]
      for i = 1, n do
        local at = #list - (n - i) + (last - it.last) -- beyond its end it goes on as it was
        local value = list[at] or (at > #list and not is_flow and list[#list]) or 0
        sum[i] = name == "oldest_us" and max(sum[i] or 0, value) or (sum[i] or 0) + value
      end
    end
    into[name] = sum
  end
  into.last = last
end

local function add_names(into, from)
  local by_name = {}
  for _, rows in ipairs { into.rows, from.rows } do
    for _, row in ipairs(rows) do
      local sum = by_name[row[1]] or { row[1], 0, 0 }
      sum[2], sum[3] = sum[2] + row[2], sum[3] + row[3]
      by_name[row[1]] = sum
    end
  end
  local rows = json.list {}
  for _, row in pairs(by_name) do rows[#rows + 1] = row end
  table.sort(rows, function(a, b) return a[2] > b[2] or a[2] == b[2] and a[1] < b[1] end)
  for i = #rows, M.TOP + 1, -1 do rows[i] = nil end
  into.rows, into.cost, into.is_partial = rows, into.cost + from.cost, into.is_partial or from.is_partial
end

-- Of two lists the last `most` by what `when` says.
local function add_latest(into, from, most, when)
  local all = json.list {}
  for _, list in ipairs { into, from } do
    for _, it in ipairs(list) do all[#all + 1] = { when(it), #all, it } end
  end
  table.sort(all, function(a, b) return a[1] < b[1] or a[1] == b[1] and a[2] < b[2] end)
  local out = json.list {}
  for i = max(1, #all - most + 1), #all do out[#out + 1] = all[i][3] end
  return out
end

local function ended_at(row) return row[END.at] + row[END.s] end
local function at(it) return it.at end

-- What is said of several: each thing once.
local function add_facts(into, from)
  local by_name = {}
  for _, fact in ipairs(into) do by_name[fact[1]] = fact end
  for _, fact in ipairs(from) do
    local known = by_name[fact[1]]
    if not known then
      into[#into + 1] = fact
    elseif not (", " .. known[2] .. ", "):find(", " .. fact[2] .. ", ", 1, true) then
      known[2] = known[2] .. ", " .. fact[2]
      if fact[3] ~= "good" then known[3] = fact[3] end
    end
  end
end

local STATES = { stopped = 1, draining = 2, running = 3 }

local function add_batcher(into, from)
  for _, name in ipairs { "levels", "totals", "dispatched", "rates" } do add_numbers(into[name], from[name]) end
  for what, counts in pairs(from.distributions) do
    for i, value in ipairs(counts) do into.distributions[what][i] = into.distributions[what][i] + value end
  end
  add_history(into.history, from.history)
  add_names(into.keys, from.keys)
  add_names(into.groups, from.groups)
  add_facts(into.facts, from.facts)
  into.batches = add_latest(into.batches, from.batches, Watch.RING, ended_at)
  into.running = add_latest(into.running, from.running, M.RUNNING, function(row) return row[3] end)
  into.failures = add_latest(into.failures, from.failures, Watch.FAILURES, at)
  into.changes = add_latest(into.changes, from.changes, Watch.CHANGES, at)
  into.oldest_s, into.over_s = max(into.oldest_s, from.oldest_s), max(into.over_s, from.over_s)
  if STATES[from.state] > STATES[into.state] then into.state = from.state end
  for _, name in ipairs { "queue", "queue_cost", "slots" } do -- each has so many
    into.limits[name] = into.limits[name] and from.limits[name] and into.limits[name] + from.limits[name]
  end
  for _, row in ipairs(from.workers) do
    if #into.workers < M.WORKERS then into.workers[#into.workers + 1] = row end
  end
end

--- Add a state to another, whose id and options stay. Queues and slots are added up, limits of a batch are not.
function M.add(into, from)
  local by_name = {}
  for _, it in ipairs(into.batchers) do by_name[it.name] = it end
  for _, it in ipairs(from.batchers) do
    local known = by_name[it.name]
    if known then
      add_batcher(known, it)
    elseif #into.batchers < M.BATCHERS then
      into.batchers[#into.batchers + 1] = it
    end
  end
  into.now, into.left_out = max(into.now, from.now), max(into.left_out, from.left_out)
end

-- --- as text -----------------------------------------------------------------------------------

-- The value below which a share of those counted lies, within the bounds of its bucket.
local function quantile(counts, bounds, share)
  local n = counts[#counts]
  if n == 0 then return 0 end
  local target, before = share * n, 0
  for i, seen in ipairs(counts) do
    if seen >= target then
      local low, part = bounds[i - 1] or 0, seen > before and (target - before) / (seen - before) or 1
      return low + (bounds[i] - low) * part
    end
    before = seen
  end
  return bounds[#bounds]
end

local function latency_of(counts, bounds)
  local out = { count = counts[#counts] }
  for name, share in pairs { p50 = 0.5, p95 = 0.95, p99 = 0.99 } do
    out[name] = seconds(quantile(counts, bounds, share))
  end
  return out
end

-- Of counts up to each bound those in each bucket, without empty ones at the end.
local function bins_of(counts, bounds)
  local out, last = { bounds = json.list {}, counts = json.list {} }, 0
  for i in ipairs(counts) do
    if counts[i] > (counts[i - 1] or 0) then last = i end
  end
  for i = 1, last do out.bounds[i], out.counts[i] = bounds[i], counts[i] - (counts[i - 1] or 0) end
  return out
end

local function finish(batcher)
  local of, totals = batcher.distributions, batcher.totals
  batcher.distributions = nil
  batcher.latency = { over_s = batcher.over_s }
  for _, what in ipairs { "wait", "service", "latency" } do
    batcher.latency[what == "latency" and "total" or what] = latency_of(of[what], Watch.BOUNDS[what])
  end
  batcher.sizes, batcher.costs = bins_of(of.size, Watch.BOUNDS.size), bins_of(of.cost, Watch.BOUNDS.cost)
  batcher.padding = totals.padded > 0 and rounded(1 - totals.tokens / totals.padded, 4) or 0
  batcher.over_s = nil
end

--- The state as JSON, on one line. It is used up.
function M.text(state)
  for _, batcher in ipairs(state.batchers) do finish(batcher) end
  return (assert(json.encode(state)))
end

return M
