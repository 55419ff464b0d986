--- SIGHUP: the script of a command that runs, once more. Everything is checked as at the start, before anything
-- changes.

local batcher_class = require "tokenbatcher.batching.batcher"
local errors = require "tokenbatcher.base.errors"
local options = require "tokenbatcher.core.options"
local script = require "tokenbatcher.script.load"

local M = {}

local function load_again(job, build, refuse)
  local definition, message = script.load(job.path)
  if not definition then return nil, message end
  local made
  made, message = build(definition, job.args)
  if not made then return nil, message end
  message = refuse(made)
  if message then return nil, message end
  local ok
  ok, message = pcall(batcher_class.TokenBatcher, made.options)
  if ok then ok, message = pcall(job.batcher.set, job.batcher, options.complete(made.options)) end
  if not ok then return nil, message end
  return made
end

--- @param job table  path, args, batcher, current (decode, encode, submit_options: they are replaced), report
-- @param build function(definition, args) -> made, or nil and a message: as at the start
-- @param refuse function(made) -> a message: why it cannot be taken now; or nil
function M.reload(job, build, refuse)
  local ok, made, message = pcall(load_again, job, build, refuse) -- a script's table may raise when it is read
  if not ok then made, message = nil, made end
  if not made then
    job.report:say("tokenbatcher: SIGHUP: reload failed, the old script keeps running: ", errors.text(message))
    return
  end
  local current = job.current
  current.decode, current.encode, current.submit_options = made.decode, made.encode, made.submit_options
  job.report:say("tokenbatcher: SIGHUP: reloaded ", job.path)
end

return M
