--- tokenbatcher run: records in as JSON lines, answers out as JSON lines.
--
-- Two coroutines: the feeder reads lines and submits, the main one writes. An output that
-- cannot be written ends the run at once; an input that cannot be read ends it after what
-- was read is answered. What outlives a run, and is gone on with: job.lua.

local answers = require "tokenbatcher.cli.answers"
local batcher_class = require "tokenbatcher.batching.batcher"
local decode = require "tokenbatcher.cli.decode"
local errors = require "tokenbatcher.base.errors"
local flags = require "tokenbatcher.cli.run_flags"
local Future = require "tokenbatcher.runtime.future"
local input = require "tokenbatcher.cli.input"
local listen_flags = require "tokenbatcher.cli.listen_flags"
local otel_flags = require "tokenbatcher.cli.otel_flags"
local per_record = require "tokenbatcher.cli.per_record"
local recording = require "tokenbatcher.batching.recording"
local reload_script = require "tokenbatcher.cli.reload"
local report = require "tokenbatcher.cli.report"
local run_output = require "tokenbatcher.cli.run_output"
local signals = require "tokenbatcher.cli.signals"
local tb = require "tokenbatcher"
local tbffi = require "tokenbatcher.core.ffi"

local is_executable, process = pcall(require, "tokenbatcher.process") -- in src/host/main.c
if not is_executable then error("tokenbatcher: `run` is for the executable, whose signals it handles", 0) end

local M = {}

-- --- records from lines --------------------------------------------------

-- A raised bad_cost is this record's error; anything else raised is the script's.
local function submit(job, record, opts, entry, line)
  local ok, future, err
  if job.submit then
    ok, future, err = pcall(job.submit, line, opts, entry)
  else
    ok, future, err = pcall(job.batcher.submit, job.batcher, record, opts)
  end
  if ok then return future, err end
  if errors.is_err(future) and future.code == "bad_cost" then
    return nil, errors.new("bad_cost", (future.message:gsub("^.-bad_cost: ", "")), future.cause)
  end
  error(future, 0)
end

-- A record, and what submit is to know of it; or nil, nil and what is wrong with the line.
local function read_record(job, entry, line)
  local current = job.current
  local record, message = decode.record(current.decode, line)
  if message then return nil, nil, message end
  entry.id = per_record.id(record, job.args.id_field)
  local opts
  opts, message = per_record.options(record, current.submit_options, job.args.fields)
  if message then return nil, nil, message end
  return record, opts
end

-- @param entry table  index, at and again: see cli/entry.lua
local function take_line(job, line, entry)
  job.answers:add(entry)
  local record, opts, message = read_record(job, entry, line)
  if message then return job.answers:settle(entry, nil, errors.new("bad_input", message)) end
  entry.record, entry.accepted = record, true
  local future, err = submit(job, record, opts, entry, line)
  if not future then return job.answers:settle(entry, nil, err) end
  Future.on_settled(future, function()
    job.answers:settle(entry, Future.outcome(future))
  end)
end

-- Noted before anything is done for it: what is paid for must be known to be of this input.
local function note_line(job, line)
  local journal = job.answers.journal
  if not journal or job.input.number ~= journal.input.lines + 1 then return end
  local ok, message = journal:note_input(line)
  if not ok then error(message, 0) end
end

-- What to do with a line: an entry, or nil, where it is answered.
local function entry_of(job)
  local index, at = job.input.number, job.ordinal
  local what, line_in_output
  if job.state then what, line_in_output = job.state:of(index, at) end
  if what and what ~= "again" then return nil end
  return { index = index, at = line_in_output or at, again = what == "again" }
end

-- Those that were kept until they were known to be of the input that the output was begun for.
local function take_kept(job)
  local kept = job.kept
  job.kept = {}
  for _, one in ipairs(kept) do
    job.answers.limit = one.entry.index
    take_line(job, one.line, one.entry)
  end
end

local function see_line(job, line)
  note_line(job, line)
  local entry
  if line:find "%S" then
    job.ordinal = job.ordinal + 1
    entry = entry_of(job)
  end
  if not job.input:is_proven() then
    if entry then job.kept[#job.kept + 1] = { line = line, entry = entry } end
    return
  end
  if job.kept[1] then take_kept(job) end
  job.answers.limit = job.input.number
  if entry then take_line(job, line, entry) end
end

-- Was the output written for a longer input?
local function check_end(job)
  local state = job.state
  if state and not state.unordered and state:goes_beyond(job.input.number, job.ordinal) then
    error(("the output has more answers than the input (%s) has lines"):format(job.input.name), 0)
  end
end

local function read_all(job)
  while true do
    job.answers:wait_below(job.batcher:option "max_queue_size")
    local line, message = job.input:next()
    if message then error(message, 0) end
    if not line or job.gave_up then break end
    see_line(job, line)
  end
  if job.input.ended then return end -- by a signal
  check_end(job)
  job.has_read_all = true
end

local function feed(job)
  local ok, message = pcall(read_all, job)
  if not ok then job.failure = errors.text(message) end
  job.batcher:stop()
  job.answers:close()
end

-- --- ends before the end ---------------------------------------------------

-- What has not been sent is not, what is under way is waited for.
local function give_up(job, reason)
  if job.gave_up then return end
  job.gave_up = reason
  job.report:say("tokenbatcher: ", reason, ": what is under way is waited for, nothing more is sent")
  job.answers.gives_up = true
  job.input:interrupt()
  job.batcher:cancel_queued()
end

local LEAST_SHARED = 100 -- answers, of which a share is taken

local function check_failures(job)
  local most, failed, done = job.args.max_failures, job.answers.failed, job.answers.written
  if most.number and failed >= most.number then
    give_up(job, ("%d records have failed (--max-failures)"):format(failed))
  elseif most.percent and 100 * failed > most.percent * math.max(done, LEAST_SHARED) then
    give_up(job, ("%d of %d records have failed (--max-failures)"):format(failed, done))
  end
end

-- --- the script once more --------------------------------------------------

local function reload(job)
  if not job.path then return end -- there is none: see send
  reload_script.reload(job, flags.build, function(made)
    if job.file and (made.encode ~= nil) ~= job.file.facts.encoded then
      return "an encode cannot come or go while an output is written"
    end
  end)
end

-- --- the job ----------------------------------------------------------------

local function finish(job)
  job.is_complete = job.has_read_all and not (job.gave_up or job.ended_at_once or job.failure)
  local ok, message = run_output.finish(job)
  if not ok then job.failure = message end
  if job.ended_by then
    job.report:say(("tokenbatcher: %s: ended after line %d"):format(job.ended_by, job.input.number))
  end
  if not job.failure or job.answers.written > 0 then job.report:summary() else job.report:what_now() end
end

local function write_all(job)
  local ok, err = pcall(job.answers.run, job.answers)
  if ok then return finish(job) end
  job.failure = run_output.what_failed(job, err)
  finish(job)
  error(err, 0) -- whatever still runs ends now
end

-- What a backend says or is told: calls its method `name`, if it has that.
local function ask_backend(batcher, name)
  local fn = batcher:option "inference_fn" or batcher:option "process_fn"
  return type(fn) == "table" and errors.is_callable(fn[name]) and fn[name](fn) or nil
end

local function listen(job)
  return listen_flags.open(job, function(given)
    if given.policy ~= nil then flags.limit(given, job.args) end
  end)
end

local function work(job)
  local ok, message = pcall(job.batcher.start, job.batcher) -- makes the policy, which may raise
  if ok then ok, message = otel_flags.open(job) end
  if ok then ok, message = listen(job) end
  if ok then
    signals.install(job, { reload = reload })
    ok, message = run_output.open(job)
  end
  if not ok then
    job.failure = errors.message_of(message)
    job.batcher:stop()
    return
  end
  if job.state and job.earlier > job.state.failed then ask_backend(job.batcher, "was_there") end
  job.report:start()
  run_output.watch(job)
  tb.spawn(feed, job)
  write_all(job)
  process.prepare_to_leave()
  if job.ended_at_once then error("stopped at once", 0) end -- whatever still runs ends now
end

-- A recording is written anew at the start: over nothing that is read, or written by another.
local function check_recording(job, name)
  if not name then return true end
  local path = recording.path_of(name)
  if tbffi.is_same_file(job.fd, path) then
    return nil, ("the input (%s) cannot be the recording (%s), too"):format(job.input.name, path)
  end
  if tbffi.are_same_file(job.path, path) then
    return nil, ("the script cannot be the recording (%s), too"):format(path)
  end
  return true
end

local function new_job(definition, args, made, batcher)
  return {
    path = definition.path, args = args, batcher = batcher,
    current = { decode = made.decode, encode = made.encode, submit_options = made.submit_options },
    recording = made.options.record,
    status = function() return ask_backend(batcher, "status") end,
  }
end

local function prepare(job)
  local message
  job.input, message = input.open(job.args.input)
  if not job.input then return nil, message end
  job.fd, job.input_path = job.input.fd, job.input.path
  local ok
  ok, message = check_recording(job, job.recording)
  if ok then ok, message = run_output.check(job) end
  return ok, message
end

--- The rest of a command that answers lines: read, submit, write. @param job table  path (of the script, or nil), args,
-- batcher (or what is like one), current, status; submit(line, opts, entry): in place of the batcher's;
-- on_kept(entries): they are in the output, or in its journal
-- @return number exit status: 0 all answered, 1 some failed, or nil and a message
function M.perform(job)
  local args = job.args
  job.words, job.process, job.ordinal, job.earlier, job.has_read_all = args.words, process, 0, 0, false
  job.kept, job.synced = {}, {}
  local ok, message = prepare(job)
  if not ok then return nil, message end
  job.report = report.new(run_output.shows_progress(args), job)
  job.answers = answers.new(not args.unordered, job.current)
  job.answers.on_kept = job.on_kept
  if args.max_failures then job.answers.on_failure = function() check_failures(job) end end
  ok, message = pcall(tb.run, function() work(job) end)
  process.leave()
  job.report:clear()
  if job.failure then return nil, job.failure end
  if not ok and not job.ended_at_once then return nil, errors.message_of(message) end
  local failed = job.answers.failed + (job.state and job.state.failed or 0)
  if failed > 0 or job.gave_up or job.ended_at_once or job.batcher:was_policy_disabled() then return 1 end
  return 0
end

--- @param args table  input, output, unordered and what else run_flags.lua declares; overrides (a list of
-- {option, value}), given (name -> value of the script's own options), words (of the command line)
-- @return number exit status, or nil and a message: see perform()
function M.run(definition, args)
  local ok, message = flags.complete(args)
  if not ok then return nil, message end
  local made
  made, message = flags.build(definition, args)
  if not made then return nil, message end
  local batcher
  ok, batcher = pcall(batcher_class.TokenBatcher, made.options)
  if not ok then return nil, definition.path .. ": " .. errors.text(batcher) end
  return M.perform(new_job(definition, args, made, batcher))
end

return M
