--- tokenbatcher run: records in as JSON lines, answers out as JSON lines.
--
-- Two coroutines: the feeder reads lines and submits, the main one writes. An output that
-- cannot be written ends the run at once; an input that cannot be read ends it after what
-- was read is answered.

local answers = require "tokenbatcher.cli.answers"
local batcher_class = require "tokenbatcher.batching.batcher"
local clock = require "tokenbatcher.runtime.clock"
local decode = require "tokenbatcher.cli.decode"
local errors = require "tokenbatcher.base.errors"
local Future = require "tokenbatcher.runtime.future"
local lines = require "tokenbatcher.cli.lines"
local options = require "tokenbatcher.core.options"
local recording = require "tokenbatcher.batching.recording"
local report = require "tokenbatcher.cli.report"
local script = require "tokenbatcher.script.load"
local tb = require "tokenbatcher"
local tbffi = require "tokenbatcher.core.ffi"

local is_executable, process = pcall(require, "tokenbatcher.process") -- in src/host/main.c
if not is_executable then error("tokenbatcher: `run` is for the executable, whose signals it handles", 0) end

local M = {}

local SIGHUP = 1
local END_SIGNALS = { [2] = "SIGINT", [15] = "SIGTERM" }

-- --- records from lines --------------------------------------------------

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
  local record, message = decode.record(job.current.decode, line)
  if message then return job.answers:settle(entry, nil, errors.new("bad_input", message)) end
  entry.record, entry.accepted = record, true
  local future, err = submit(job, record)
  if not future then return job.answers:settle(entry, nil, err) end
  Future.on_settled(future, function()
    job.answers:settle(entry, Future.outcome(future))
  end)
end

local function read_all(job)
  while true do
    job.answers:wait_below(job.batcher:option "max_queue_size")
    local line, message = job.lines:next()
    if message then error(("cannot read %s: %s"):format(job.input_name, message), 0) end
    if not line then return end
    if line:find "%S" then take_line(job, line) end
  end
end

local function feed(job)
  local ok, message = pcall(read_all, job)
  if not ok then job.failure = errors.text(message) end
  job.batcher:stop()
  job.answers:close()
end

-- --- signals ----------------------------------------------------------------

-- The second one never comes here: see src/host/main.c.
local function on_end_signal(job, signum)
  if job.ended_by then return end
  job.ended_by = END_SIGNALS[signum]
  job.report:say("tokenbatcher: ", job.ended_by, ": finishing what was read; once more aborts")
  job.lines:interrupt()
end

-- Everything is checked as at the start, before anything changes.
local function load_again(job)
  local definition, made, message
  definition, message = script.load(job.path)
  if not definition then return nil, message end
  made, message = script.build(definition, job.given, job.overrides)
  if not made then return nil, message end
  local ok
  ok, message = pcall(batcher_class.TokenBatcher, made.options)
  if ok then ok, message = pcall(job.batcher.set, job.batcher, options.complete(made.options)) end
  if not ok then return nil, message end
  return made
end

local function reload(job)
  local ok, made, message = pcall(load_again, job) -- a script's table may raise when it is read
  if not ok then made, message = nil, made end
  if not made then
    job.report:say("tokenbatcher: SIGHUP: reload failed, the old script keeps running: ", errors.text(message))
    return
  end
  job.current.decode, job.current.encode = made.decode, made.encode
  job.report:say("tokenbatcher: SIGHUP: reloaded ", job.path)
end

local function install_signals(job)
  local pump = clock.pump
  for signum in pairs(END_SIGNALS) do
    pump.signal(signum, function() on_end_signal(job, signum) end)
  end
  pump.signal(SIGHUP, function() reload(job) end)
  process.abort_on_second_signal()
end

-- --- the job ----------------------------------------------------------------

local function finish(job)
  if job.output ~= io.stdout then
    local ok, message = job.output:close()
    if not ok then job.failure = "cannot write the output: " .. message end
  end
  if job.ended_by then
    job.report:say(("tokenbatcher: %s: ended after line %d"):format(job.ended_by, job.lines.number))
  end
  if not job.failure or job.answers.written > 0 then job.report:summary(job.answers, job.batcher) end
end

local function work(job)
  local ok, message = pcall(job.batcher.start, job.batcher) -- makes the policy, which may raise
  if not ok then
    job.failure = errors.message_of(message)
    return
  end
  install_signals(job)
  job.report:start()
  if job.report.shows_progress then
    job.answers.on_written = function() job.report:progress(job.answers) end
  end
  tb.spawn(feed, job)
  job.answers:run()
  finish(job)
  process.prepare_to_leave()
end

local function open_input(job, path)
  if not path or path == "-" then
    job.fd, job.input_name = 0, "standard input"
    return true
  end
  local message
  job.input_name = path
  job.fd, message = tbffi.open(path)
  if not job.fd then return nil, "cannot open the input: " .. message end
  return true
end

local function open_output(job, path)
  job.output = io.stdout
  if path and path ~= "-" then
    if tbffi.is_same_file(job.fd, path) then
      return nil, ("the input (%s) cannot be the output (%s), too"):format(job.input_name, path)
    end
    local message
    job.output, message = io.open(path, "wb")
    if not job.output then return nil, "cannot open the output: " .. message end
  end
  job.output:setvbuf "full"
  return true
end

-- A recording is written anew at the start: over nothing that is read, or written by another.
local function check_recording(job, name, output)
  if not name then return true end
  local path = recording.path_of(name)
  if tbffi.is_same_file(job.fd, path) then
    return nil, ("the input (%s) cannot be the recording (%s), too"):format(job.input_name, path)
  end
  if tbffi.are_same_file(job.path, path) then
    return nil, ("the script cannot be the recording (%s), too"):format(path)
  end
  if output and (output == path or tbffi.are_same_file(output, path)) then
    return nil, ("the output cannot be the recording (%s), too"):format(path)
  end
  return true
end

--- @param args table  input, output, unordered, overrides (a list of {option, value}), given
-- (name -> value of the script's own options)
-- @return number exit status: 0 all answered, 1 some failed, or nil and a message
function M.run(definition, args)
  local made, message = script.build(definition, args.given, args.overrides)
  if not made then return nil, message end
  local ok, batcher = pcall(batcher_class.TokenBatcher, made.options)
  if not ok then return nil, definition.path .. ": " .. errors.text(batcher) end
  local job = {
    path = definition.path, given = args.given, overrides = args.overrides, batcher = batcher,
    current = { decode = made.decode, encode = made.encode },
  }
  ok, message = open_input(job, args.input)
  if ok then ok, message = check_recording(job, made.options.record, args.output) end
  if ok then ok, message = open_output(job, args.output) end
  if not ok then return nil, message end
  -- where answers scroll by, they are the progress
  local answers_are_seen = job.output == io.stdout and tbffi.is_terminal(1)
  job.report = report.new(tbffi.is_terminal(2) and not answers_are_seen)
  job.lines = lines.new(job.fd)
  job.answers = answers.new(job.output, not args.unordered, job.current)
  ok, message = pcall(tb.run, function() work(job) end)
  process.leave()
  job.report:clear()
  if not ok then return nil, errors.message_of(message) end
  if job.failure then return nil, job.failure end
  return job.answers.failed == 0 and not job.batcher:was_policy_disabled() and 0 or 1
end

return M
