--- How records come in: read while a slot is idle, or claimed from workers that have fallen silent.
--
-- Records that were started by another worker, which then fell silent, are suspects: one of them may have
-- killed it. After one start they run a few together, apart from fresh ones; after two, each alone; after
-- max_deliveries they are dead letters.

local errors = require "tokenbatcher.base.errors"
local clock = require "tokenbatcher.runtime.clock"
local Future = require "tokenbatcher.runtime.future"
local grouping = require "tokenbatcher.batching.grouping"
local holding = require "tokenbatcher.backend.redis.holding"
local message = require "tokenbatcher.backend.redis.message"
local outbox = require "tokenbatcher.backend.redis.outbox"

local M = {}

local BLOCK_MS = 1000 -- the longest that a read waits in Redis
local MOST_CLAIMED = 64
local AGAIN_S = 0.5
local SMOOTH = 0.05 -- of the mean cost of records, how much the next one counts

-- --- one record ---------------------------------------------------------------------

local function on_settled(w, entry, future)
  w.unsettled = w.unsettled - 1
  w:unqueue(entry)
  local key = future.joined_to or future
  w.by_future[key] = nil
  local result, err = Future.outcome(future)
  w.bells.intake:ring()
  if not err then
    outbox.answer(w, entry, result)
  elseif err.code == "cancelled" or err.code == "stopped" then
    if not entry.is_lost then w.unrun[#w.unrun + 1] = entry end
  else
    outbox.fail(w, entry, err.code, err.message)
  end
  entry.record, entry.future = nil, nil
end

-- What submit is to know of it; or nil, a code and a message.
local function options_of(w, entry, suspect_number)
  local opts = { key = entry.key, group = entry.group, priority = entry.priority, estimated_cost = entry.cost }
  if entry.batch_timeout_ms then opts.batch_timeout_s = entry.batch_timeout_ms / 1000 end
  local until_ms = math.min(entry.timeout_ms and entry.added_ms + entry.timeout_ms or math.huge,
    entry.deadline_ms or math.huge)
  if until_ms < math.huge then
    local left_ms = until_ms - w:redis_ms()
    if left_ms <= 0 then return nil, "deadline", "the record's deadline passed before it was handed to inference_fn" end
    opts.timeout_s = math.min(left_ms / 1000, clock.LONGEST_S)
  end
  if w.options then
    local _, problem = w.options(entry.record, opts)
    if problem then return nil, "bad_record", problem end
  end
  if suspect_number then
    opts.group, opts.batch_timeout_s = grouping.apart(opts.group, suspect_number), 0
  end
  if not opts.estimated_cost then
    local ok, cost = pcall(w.batcher.estimate, w.batcher, entry.record)
    if not ok then return nil, "bad_cost", (errors.message_of(cost):gsub("^.-bad_cost: ", "")) end
    opts.estimated_cost = cost
  end
  return opts
end

local function submit(w, entry, opts)
  local ok, future, err = pcall(w.batcher.submit, w.batcher, entry.record, opts)
  if not ok then return outbox.fail(w, entry, errors.is_err(future) and future.code or "inference_failed",
    errors.message_of(future)) end
  if not future then
    if err.code == "stopped" or err.code == "not_running" then w.unrun[#w.unrun + 1] = entry return end
    return outbox.fail(w, entry, err.code, err.message)
  end
  local key = future.joined_to or future
  entry.future, entry.next = future, w.by_future[key]
  w.by_future[key] = entry
  w.unsettled = w.unsettled + 1
  w:queue(entry, opts.estimated_cost)
  w.mean_cost = w.mean_cost and w.mean_cost + SMOOTH * (opts.estimated_cost - w.mean_cost) or opts.estimated_cost
  Future.on_settled(future, function() on_settled(w, entry, future) end)
end

-- @param starts number|nil  how often it was started before; nil: it is fresh
local function admit(w, stream, sid, fields, starts, suspect_number)
  local entry, reason, problem = message.read(sid, fields, stream.rules)
  entry.stream, entry.added_ms, entry.deliveries = stream, message.added_ms(sid), (starts or 0) + 1
  entry.must_count = starts ~= nil
  w.held[sid] = entry
  if reason then return outbox.bury(w, entry, reason, problem) end
  local opts, code
  opts, code, problem = options_of(w, entry, suspect_number)
  if opts then return submit(w, entry, opts) end
  if code == "bad_record" then return outbox.bury(w, entry, code, problem) end
  outbox.fail(w, entry, code, problem)
end

-- --- how many -------------------------------------------------------------------------

--- How many records are wanted now: what idle slots can take.
local function wanted(w)
  local batcher = w.batcher
  local slots = batcher:idle_slots() + w.ahead
  local size = batcher:option "max_batch_size"
  local credit = slots * batcher:option "target_batch_cost" - w.queued_cost
  local room = slots * size - w.queued
  if credit <= 0 or room <= 0 then return 0 end
  return math.max(1, math.min(math.floor(credit / math.max(w.mean_cost or 1, 1e-9)), room, size))
end

-- Is more queued than two batches for each slot?
local function is_surplus(w)
  local slots = math.max(1, w.batcher:idle_slots() + w.ahead)
  return w.queued_cost >= 2 * slots * w.batcher:option "target_batch_cost"
end

local function give_back(w, stream, sid)
  local entry = { stream = stream, sid = sid }
  w.held[sid] = entry
  w.unrun[#w.unrun + 1] = entry
end

-- --- reading ---------------------------------------------------------------------------

local function take(w, reply)
  for _, part in ipairs(reply) do
    local stream = w.by_name[part[1]]
    for _, item in ipairs(part[2]) do
      if w.is_stopping or is_surplus(w) or not item[2] then
        give_back(w, stream, item[1])
      else
        admit(w, stream, item[1], item[2])
      end
    end
  end
end

local function read(w, n, streams, block_ms)
  local words = { "XREADGROUP", "GROUP", w.group, w.consumer, "COUNT", n }
  if block_ms then words[#words + 1], words[#words + 2] = "BLOCK", block_ms end
  words[#words + 1] = "STREAMS"
  for _, stream in ipairs(streams) do words[#words + 1] = stream.name end
  for _ = 1, #streams do words[#words + 1] = ">" end
  local reply, err = w.reader:call_list(words)
  if err then return nil, err end
  if reply then take(w, reply) end
  return reply and true or false
end

-- Streams in order: the first that has something; else wait for any.
local function read_any(w, n, block_ms)
  if w.streams[2] then
    for _, stream in ipairs(w.streams) do
      local got, err = read(w, n, { stream })
      if got or err then return got, err end
    end
  end
  return read(w, n, w.streams, block_ms)
end

-- --- claiming ----------------------------------------------------------------------------

local function claimed_one(w, stream, item, bundles)
  local sid, fields, starts, reply_to, id = item[1], item[2], item[3], item[4], item[5]
  if w.held[sid] then return end -- it was mine, and is
  w.counts.claimed = w.counts.claimed + 1
  if fields and starts < w.max_deliveries then
    local few = math.max(1, math.floor(w.batcher:option "max_batch_size" / 4))
    local number = starts > 0 and bundles(starts == 1 and few or 1) or nil
    return admit(w, stream, sid, fields, starts, number)
  end
  local entry = { stream = stream, sid = sid, id = id, added_ms = message.added_ms(sid), deliveries = starts }
  if message.is_reply_stream(reply_to, stream.rules.prefix) and id ~= "" then entry.reply_to = reply_to end
  w.held[sid] = entry
  if not fields then
    return outbox.bury(w, entry, "bad_record", ("the record has more than %d bytes"):format(stream.rules.most_record))
  end
  outbox.bury(w, entry, "dead_letter", ("it was started %d times, and no worker has answered it"):format(starts))
end

-- Numbers for groups of suspects: those that may share a batch get the same.
local function new_bundles(w)
  local left = 0
  return function(size)
    if size == 1 or left == 0 then
      w.suspect_number = w.suspect_number + 1
      left = size
    end
    left = left - 1
    return w.suspect_number
  end
end

-- @return true: there may be more to claim at once; nil and an err
local function claim(w, stream, n)
  local lease_ms = w.lease_s * 1000
  local reply, err = w.command:run("claim", { stream.name, stream.dead, stream.sweep }, { w.group, w.consumer,
    math.ceil(lease_ms), stream.cursor, math.min(n, MOST_CLAIMED), stream.rules.most_record, math.ceil(lease_ms / 4) })
  if err then return nil, err end
  if not reply then return false end -- another worker sweeps
  stream.cursor = reply[1]
  local bundles = new_bundles(w)
  for _, item in ipairs(reply[2]) do
    if w.is_stopping then give_back(w, stream, item[1]) else claimed_one(w, stream, item, bundles) end
  end
  return stream.cursor ~= "0-0"
end

-- Consumers that were killed leave their names.
local function tidy(w, stream)
  w.command:run("leave", { stream.name, stream.dead }, { w.group, "", math.ceil(10000 * w.lease_s) })
end

-- @return true, or nil and an err
local function sweep(w)
  local now = clock.now_us()
  if now < w.sweep_at then return true end
  local has_more = false
  for _, stream in ipairs(w.streams) do
    local n = wanted(w)
    if n > 0 then
      local more, err = claim(w, stream, n)
      if err then return nil, err end
      has_more = has_more or more
    end
  end
  w.sweeps = w.sweeps + 1
  if w.sweeps % 40 == 1 then
    for _, stream in ipairs(w.streams) do tidy(w, stream) end
  end
  if not has_more then w.sweep_at = now + w.lease_s / 4 * 1e6 end
  return true
end

-- --- the task ----------------------------------------------------------------------------

--- What went wrong with a read or a sweep.
local function recover(w, err)
  if err.redis == "NOGROUP" or err.redis == "UNBLOCKED" then
    local ok, problem = w:make_groups()
    if ok then return end
    err = problem
  end
  if err.code ~= "redis_unavailable" then w:warn(err.message) end
  w.bells.intake:wait(AGAIN_S)
end

local function step(w)
  local ok, err = sweep(w)
  if not ok then return recover(w, err) end
  local n = wanted(w)
  if n < 1 or w.is_stopping then return end
  local block_ms = math.max(1, math.min(BLOCK_MS, math.ceil((w.sweep_at - clock.now_us()) / 1000)))
  ok, err = read_any(w, n, block_ms)
  if ok == nil then recover(w, err) end
end

--- The body of a task, until the worker stops.
function M.run(w)
  local function is_enough() return w.is_stopping end
  while not w.is_stopping do
    if #w.unrun > 0 and w.command.is_ready then
      local list = w.unrun
      w.unrun = {}
      holding.release(w, list)
    end
    if not (w.reader:wait_ready(nil, is_enough) and w.command:wait_ready(nil, is_enough)) then return end
    if not w.is_stopping then
      if wanted(w) > 0 then step(w) else w.bells.intake:wait() end
    end
  end
end

return M
