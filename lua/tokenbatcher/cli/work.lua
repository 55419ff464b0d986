--- tokenbatcher work: records from Redis Streams through a script's inference function, on as many machines as run it.

local batcher_class = require "tokenbatcher.batching.batcher"
local clock = require "tokenbatcher.runtime.clock"
local decode = require "tokenbatcher.cli.decode"
local errors = require "tokenbatcher.base.errors"
local figures = require "tokenbatcher.backend.redis.figures"
local listen_flags = require "tokenbatcher.cli.listen_flags"
local otel_flags = require "tokenbatcher.cli.otel_flags"
local reload_script = require "tokenbatcher.cli.reload"
local script = require "tokenbatcher.script.load"
local signals = require "tokenbatcher.cli.signals"
local submit_options = require "tokenbatcher.script.submit_options"
local tasks = require "tokenbatcher.runtime.tasks"
local tb = require "tokenbatcher"

local is_executable, process = pcall(require, "tokenbatcher.process") -- in src/host/main.c
if not is_executable then error("tokenbatcher: `work` is for the executable, whose signals it handles", 0) end

local M = {}

local NO_TIMEOUT = "%s: inference_timeout_s is not set: a call that hangs would hold its records for ever. Set it in "
  .. "the script, or here: --set inference_timeout_s=60"

local function build(definition, args)
  local made, message = script.build(definition, args.given, args.overrides)
  if not made then return nil, message end
  local ok, batcher = pcall(batcher_class.TokenBatcher, made.options)
  if not ok then return nil, definition.path .. ": " .. errors.text(batcher) end
  if not batcher:option "inference_timeout_s" then return nil, NO_TIMEOUT:format(definition.path) end
  return made, batcher
end

-- What a script says of a record, where the message does not.
local function options_of(job)
  return function(record, opts)
    local fn = job.current.submit_options
    if not fn then return opts end
    return submit_options.ask(fn, record, opts)
  end
end

local function encode_of(job)
  return function(record, result)
    if job.current.encode then return job.current.encode(record, result) end
    return tb.json.encode(result)
  end
end

local function new_source(job)
  local args = job.args
  return tb.source.redis {
    url = args.redis, streams = args.stream, group = args.group, consumer = args.consumer, lease_s = args.lease,
    ahead = args.ahead, max_deliveries = args.max_deliveries, reply_ttl_s = args.reply_ttl,
    max_record_bytes = args.max_record_bytes,
    decode = function(text) return decode.record(job.current.decode, text) end,
    encode = encode_of(job), options = options_of(job),
    log = function(_, text) job.report:say("tokenbatcher: ", text) end,
  }
end

-- --- what people see ------------------------------------------------------------------

local Report = {}
Report.__index = Report

function Report:say(...) -- luacheck: ignore self
  io.stderr:write(...)
  io.stderr:write "\n"
end

local function failures_of(failures)
  local parts = {}
  for code, n in pairs(failures) do parts[#parts + 1] = code .. " " .. n end
  table.sort(parts)
  return #parts > 0 and " (" .. table.concat(parts, ", ") .. ")" or ""
end

function Report:summary(job)
  local counts, s = job.source.counts, job.batcher.stats
  self:say(("records      %d answered, %d failed%s, %d dead letters, in %.2f s"):format(counts.answered,
    counts.failed, failures_of(job.source.failures), counts.dead, (clock.now_us() - job.started_us) / 1e6))
  if counts.claimed + counts.lost + counts.late + counts.released > 0 then
    self:say(("others       %d claimed from other workers, %d lost to them, %d answered by them first, %d given back")
      :format(counts.claimed, counts.lost, counts.late, counts.released))
  end
  if s.total_batches > 0 then
    self:say(("batches      %d, mean %.1f records, utilization %.1f %%"):format(s.total_batches, s.avg_batch_size,
      100 * s.utilization))
  end
end

-- --- the work ----------------------------------------------------------------------------

-- What signals.lua calls: the first ends the reading, the second everything.
local function add_ends(job)
  job.input = { interrupt = function() job.source:stop_soon() end }
  job.answers = { close = function()
    job.source:abandon()
    if job.waiter then tasks.wake(job.waiter) end
  end }
end

local function work(job)
  job.batcher:start()
  local source = job.source
  function job.metrics() return figures.text(source) end
  local ok, problem = otel_flags.open(job)
  if ok then ok, problem = listen_flags.open(job) end
  if ok then
    local err
    ok, err = source:connect()
    problem = err and err.message
  end
  if not ok then
    job.failure = problem
    job.batcher:stop()
    return
  end
  signals.install(job, { reload = function()
    reload_script.reload(job, build, function() return nil end)
  end })
  job.started_us = clock.now_us()
  job.report:say(("tokenbatcher: worker %s: stream%s %s, group %s, at %s"):format(source.consumer,
    job.args.stream[2] and "s" or "", table.concat(job.args.stream, ", "), source.group, source.to.shown))
  source:feed(job.batcher)
  if job.ended_at_once then error("stopped at once", 0) end -- whatever still runs ends now
  job.batcher:stop()
  process.prepare_to_leave()
end

local function new_job(definition, args, made, batcher)
  return {
    path = definition.path, args = args, batcher = batcher, process = process, report = setmetatable({}, Report),
    current = { decode = made.decode, encode = made.encode, submit_options = made.submit_options },
  }
end

--- @param args table  redis, stream and what else redis_flags.lua declares; overrides, given: see run.lua
-- @return number exit status: 0 all answered, 1 some failed, or nil and a message
function M.run(definition, args)
  if not args.stream or #args.stream == 0 then return nil, "work needs --stream: where the records are" end
  local made, batcher = build(definition, args)
  if not made then return nil, batcher end
  local job = new_job(definition, args, made, batcher)
  local ok, source = pcall(new_source, job)
  if not ok then return nil, (errors.text(source):gsub("^source.redis: ", "")) end
  job.source = source
  add_ends(job)
  local message
  ok, message = pcall(tb.run, function() work(job) end)
  process.leave()
  if job.failure then return nil, job.failure end
  if not ok and not job.ended_at_once then return nil, errors.message_of(message) end
  job.report:summary(job)
  local counts = source.counts
  if job.ended_at_once or counts.failed + counts.dead > 0 or batcher:was_policy_disabled() then return 1 end
  return 0
end

return M
