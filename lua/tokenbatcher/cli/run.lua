--- tokenbatcher run: records in as JSON lines, answers out as JSON lines.

local answers = require "tokenbatcher.cli.answers"
local batcher_class = require "tokenbatcher.batcher"
local errors = require "tokenbatcher.errors"
local Future = require "tokenbatcher.future"
local json = require "tokenbatcher.cli.json"
local lines = require "tokenbatcher.cli.lines"
local options = require "tokenbatcher.options"
local scheduler = require "tokenbatcher.scheduler"
local script = require "tokenbatcher.cli.script"
local tb = require "tokenbatcher"
local tbffi = require "tokenbatcher.ffi"
local utf8 = require "tokenbatcher.cli.utf8"

local M = {}

local SIGHUP, SIGINT, SIGTERM = 1, 2, 15
local PROGRESS_EVERY_US = 200000

local function say(...)
  io.stderr:write(...)
  io.stderr:write "\n"
end

-- --- records from lines --------------------------------------------------

local function bad_input(message)
  return nil, errors.new("bad_input", message)
end

local function decode_line(current, line)
  local at = utf8.first_error(line)
  if at then return bad_input(("invalid UTF-8 at byte %d"):format(at)) end
  if not current.decode then
    local value, message = json.decode(line)
    if message then return bad_input("broken JSON: " .. message) end
    return value
  end
  scheduler.context = "decode function"
  local ok, value, message = pcall(current.decode, line)
  scheduler.context = nil
  if not ok then return bad_input("decode raised: " .. errors.message_of(value)) end
  if value == nil then
    return bad_input("decode returned nil" .. (message ~= nil and ": " .. errors.message_of(message) or ""))
  end
  return value
end

-- A raised bad_cost is this record's error; anything else raised is the script's.
local function submit(job, record)
  local ok, future, err = pcall(job.batcher.submit, job.batcher, record)
  if ok then return future, err end
  if errors.is_err(future) and future.code == "bad_cost" then
    return nil, errors.new("bad_cost", (future.message:gsub("^.-bad_cost: ", "")), future.cause)
  end
  error(future, 0)
end

local function take_line(job, line)
  local entry = { index = job.lines.number }
  job.answers:add(entry)
  local record, err = decode_line(job.current, line)
  local future
  if not err then
    entry.record, entry.accepted = record, true
    future, err = submit(job, record)
  end
  if not future then return job.answers:settle(entry, nil, err) end
  Future.on_settled(future, function()
    job.answers:settle(entry, Future.outcome(future))
  end)
end

local function strip_mark(line)
  return line:sub(1, 3) == "\239\187\191" and line:sub(4) or line
end

local function read_all(job)
  while not job.stopping do
    job.answers:wait_below(job.batcher._config.max_queue_size)
    local line, message = job.lines:next()
    if message then error(("cannot read %s: %s"):format(job.input_name, message), 0) end
    if not line then return end
    if job.lines.number == 1 then line = strip_mark(line) end
    if line:find "%S" then take_line(job, line) end
  end
end

-- --- signals ----------------------------------------------------------------

local function on_end_signal(job, signum)
  if job.stopping then
    job.output:flush()
    say(("tokenbatcher: signal %d again: aborted"):format(signum))
    os.exit(128 + signum, false)
  end
  job.stopping = true
  say(("tokenbatcher: signal %d: finishing what was read (again: abort)"):format(signum))
  job.lines:interrupt()
end

local function reload(job)
  local definition, message = script.load(job.path)
  local made
  if definition then made, message = script.build(definition, job.values, job.overrides) end
  local ok = made ~= nil
  if ok then ok, message = pcall(job.batcher.set, job.batcher, options.complete(made.options)) end
  if not ok then
    say("tokenbatcher: reload failed, the old script keeps running: ", errors.text(message))
    return
  end
  job.current.decode, job.current.encode = made.decode, made.encode
  say("tokenbatcher: reloaded ", job.path)
end

local function install_signals(job)
  local pump = scheduler.pump
  for _, signum in ipairs { SIGINT, SIGTERM } do
    pump.signal(signum, function() on_end_signal(job, signum) end)
  end
  pump.signal(SIGHUP, function() reload(job) end)
end

-- --- what people see -------------------------------------------------------

local function show_progress(job)
  local now = scheduler.now_us()
  if now < (job.progress_at or 0) then return end
  job.progress_at = now + PROGRESS_EVERY_US
  io.stderr:write(("\r%d answered, %d failed, %.0f/s "):format(job.answers.written, job.answers.failed,
    job.answers.written / math.max(1e-6, (now - job.started) / 1e6)))
end

local function summary(job, wall_s)
  local s = job.batcher.stats
  local reasons = {}
  for _, reason in ipairs { "full", "timeout", "idle", "drain", "policy" } do
    if s.dispatched[reason] > 0 then reasons[#reasons + 1] = ("%s %d"):format(reason, s.dispatched[reason]) end
  end
  say(("records      %d (%d answered, %d failed) in %.2f s"):format(job.answers.written,
    job.answers.written - job.answers.failed, job.answers.failed, wall_s))
  say(("batches      %d (%s)"):format(s.total_batches, table.concat(reasons, ", ")))
  say(("batch size   mean %.1f records, p99 %d"):format(s.avg_batch_size, s.batch_size.p99))
  say(("batch cost   mean %.1f of %.0f tokens, p99 %d"):format(s.avg_batch_cost,
    job.batcher._config.target_batch_cost, s.batch_cost.p99))
  say(("utilization  %.1f %%"):format(100 * s.utilization))
  say(("latency      p50 %.1f ms, p99 %.1f ms"):format(1e3 * s.latency_s.p50, 1e3 * s.latency_s.p99))
end

-- --- the job ----------------------------------------------------------------

local function work(job)
  job.started = scheduler.now_us()
  install_signals(job)
  if job.shows_progress then job.answers.on_written = function() show_progress(job) end end
  job.batcher:start()
  local writer = tb.spawn(job.answers.run, job.answers)
  read_all(job)
  job.answers:close()
  job.batcher:stop()
  local _, err = writer:await()
  if err then error(err.cause, 0) end
  if job.shows_progress then io.stderr:write "\r\27[K" end
  summary(job, (scheduler.now_us() - job.started) / 1e6)
end

local function open_files(job, args)
  local message
  if args.input and args.input ~= "-" then
    job.input_name = args.input
    job.fd, message = tbffi.open(args.input)
    if not job.fd then return nil, "cannot open the input: " .. message end
  else
    job.fd, job.input_name = 0, "standard input"
  end
  job.output = io.stdout
  if args.output and args.output ~= "-" then
    job.output, message = io.open(args.output, "wb")
    if not job.output then return nil, "cannot open the output: " .. message end
  end
  job.output:setvbuf "full"
  return true
end

--- @param args table  input, output, unordered, overrides (option -> value), values (the
-- script's own options)
-- @return number exit status: 0 all answered, 1 some failed, or nil and a message
function M.run(definition, args)
  local made, message = script.build(definition, args.values, args.overrides)
  if not made then return nil, message end
  local ok, batcher = pcall(batcher_class.TokenBatcher, made.options)
  if not ok then return nil, definition.path .. ": " .. errors.text(batcher) end
  local job = {
    path = definition.path, values = args.values, overrides = args.overrides, batcher = batcher,
    current = { decode = made.decode, encode = made.encode }, stopping = false,
    shows_progress = tbffi.is_terminal(2),
  }
  ok, message = open_files(job, args)
  if not ok then return nil, message end
  job.lines = lines.new(job.fd)
  job.answers = answers.new(job.output, not args.unordered, job.current)
  ok, message = pcall(tb.run, function() work(job) end)
  if not ok then return nil, errors.text(message) end
  return job.answers.failed == 0 and 0 or 1
end

return M
