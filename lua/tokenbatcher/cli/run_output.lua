--- Where a run's answers go, from the flag to the last of them: a file of its own (job.lua), what is no
-- file, or standard output.

local clock = require "tokenbatcher.runtime.clock"
local errors = require "tokenbatcher.base.errors"
local job_file = require "tokenbatcher.cli.job"
local loop = require "tokenbatcher.runtime.loop"
local output = require "tokenbatcher.cli.output_ffi"
local recording = require "tokenbatcher.batching.recording"
local sink = require "tokenbatcher.cli.sink"
local tbffi = require "tokenbatcher.core.ffi"

local M = {}

local STDOUT, STDERR = 1, 2
local TICK_S = 0.25

local function path_of(args)
  return args.output ~= "-" and args.output or nil
end

--- Is progress shown over and over? Where answers scroll by, they are the progress.
function M.shows_progress(args)
  local answers_are_seen = not path_of(args) and tbffi.is_terminal(STDOUT)
  return tbffi.is_terminal(STDERR) and not answers_are_seen
end

--- May the answers go there? It is not opened yet. @return true, or nil and a message
function M.check(job)
  local path = path_of(job.args)
  local record = job.recording and recording.path_of(job.recording)
  if not path then
    if output.are_same(job.fd, STDOUT) then
      return nil, ("the input (%s) cannot be the output, too"):format(job.input.name)
    end
    return true
  end
  local others = {
    { what = "input", fd = job.fd, shown = job.input.name, path = job.input_path },
  }
  if job.path then others[2] = { what = "script", path = job.path } end
  if record then others[#others + 1] = { what = "recording", path = record, is_output = true } end
  return job_file.check(path, others)
end

local function open_other(job, path)
  if job.args.resume then return nil, ("--resume needs a plain file as output, and %s is none"):format(path) end
  local fd, message = output.open_other(path)
  if not fd then return nil, "cannot open the output: " .. message end
  job.out_fd = fd
  return true
end

local function open_file(job, path)
  local file, message = job_file.open(path, job.args, job.current.encode ~= nil, function(noted)
    return job.input:check(noted, path)
  end)
  if not file then return nil, message end
  job.file, job.out_fd, job.state = file, file.fd, file.state
  job.earlier = file.lines + (file.state and file.state.restored_count - file.state.retries or 0)
  return true
end

--- Open it: the script runs. @return true, or nil and a message
function M.open(job)
  local path = path_of(job.args)
  local ok, message = true, nil
  if not path then
    job.out_fd = STDOUT
  elseif output.is_other(path) then
    ok, message = open_other(job, path)
  else
    ok, message = open_file(job, path)
  end
  if not ok then return nil, message end
  job.answers:attach(sink.new(job.out_fd, job.file and job.file.lines, function() job.answers:stir() end), job.file)
  return true
end

-- --- now and then ---------------------------------------------------------------

local function require_synced(job)
  local problem = job.process.sync_problem()
  if problem then error(errors.new("cannot_write", "cannot write the output to its disk: " .. problem), 0) end
end

-- One of a file and its journal at a time, if it has grown.
local function sync(job, now)
  local every_us = job.args.sync * 1e6
  if not job.file or every_us == 0 then return end
  local answers = job.answers
  for i, file in ipairs { { fd = job.file.fd, size = answers.sink.size }, answers.journal } do
    local last = job.synced[i] or { at = -math.huge }
    if last.size ~= file.size and now >= last.at + every_us and job.process.sync(file.fd) then
      job.synced[i] = { at = now, size = file.size }
    end
  end
end

-- A policy that shares by key has nothing to share by.
local function tell_of_keys(job)
  if job.has_told_keys or not job.batcher:lacks_keys() then return end
  job.has_told_keys = true
  job.report:say(("tokenbatcher: policy '%s' asks for keys, and no record has one: see --key-field and submit_options")
    :format(job.batcher:option("resolved_policy").name))
end

--- Progress is shown and the disk is asked for, whether or not anything is written. What ends waits is a descriptor
-- of its own: a timer of the loop's would look like something to wait for.
function M.watch(job)
  job.answers.on_written = function()
    require_synced(job)
    tell_of_keys(job)
    job.report.progress:show(clock.now_us())
  end
  local fd = output.new_ticks(TICK_S)
  if not fd or not clock.pump.attach(fd) then return end
  loop.add_source {
    turn = function(_, now)
      if not output.take_tick(fd) then return end
      job.report.progress:show(now)
      sync(job, now)
    end,
    next_us = function() return nil end,
    is_busy = function() return false end,
    excuse = function() end,
    close = function()
      clock.pump.detach(fd)
      tbffi.close(fd)
    end,
  }
end

-- --- the end ----------------------------------------------------------------------

--- What is to be said of an output that could not be written.
function M.what_failed(job, err)
  local message, to = errors.message_of(err), job.answers.sink
  if not job.file then return message end
  return ("%s (%s ends with its line %d, which is whole)"):format(message, job.file.path, to.lines)
end

local function finish_file(job)
  local file, answers = job.file, job.answers
  file.journal = answers.journal
  if job.failure or job.ended_at_once then return true end
  local ok, message
  if answers.has_replaced then
    ok, message = file:merge(answers.replaced)
    if not ok then return nil, message end
  elseif file.facts.is_synced then
    ok, message = output.sync(file.fd)
    if not ok then return nil, "cannot write the output: " .. message end
  end
  if job.is_complete then return file:finish(answers.replaced) end
  return true
end

--- All that is to be written is. @return true, or nil and a message
function M.finish(job)
  if not job.file then return not job.failure or nil, job.failure end
  local ok, message = finish_file(job)
  job.file:close()
  return ok and not job.failure or nil, message or job.failure
end

return M
