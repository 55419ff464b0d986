--- Coroutines that people start: each has a future of its result and keeps run() going until it
-- has ended. An error that nobody awaits is raised when the run ends.

local errors = require "tokenbatcher.base.errors"
local Future = require "tokenbatcher.runtime.future"
local host = require "tokenbatcher.runtime.host"
local tasks = require "tokenbatcher.runtime.tasks"

local M = {}

-- Errors kept for whoever awaits them later.
local FAILURES = 1000

local live, is_live = 0, {} -- how many have not ended, and which
local failures = {} -- futures of those that failed and nobody had awaited

-- Some are awaited later; those are dropped when the list is full. If it is full of others,
-- too_many_failures() makes run or step raise the first at once.
local function remember_failure(future)
  if #failures >= FAILURES then
    local kept = {}
    for i = 1, #failures do
      if not failures[i].awaited then kept[#kept + 1] = failures[i] end
    end
    failures = kept
  end
  if #failures < FAILURES then failures[#failures + 1] = future end
end

function M.too_many_failures()
  return #failures >= FAILURES and not failures[1].awaited
end

local function finish(task, ok, value, second)
  if ok then
    local err = nil
    if value == nil then err = second end
    Future.settle(task.future, value, err)
    return
  end
  local err = errors.new("coroutine_failed", errors.message_of(value), value, task.traceback)
  if not task.future.awaited and not host.log("error", err.message .. "\n" .. task.traceback) then
    remember_failure(task.future)
  end
  Future.settle(task.future, nil, err)
end

local function ended(task, ok, value, second)
  live, is_live[task] = live - 1, nil
  task.when_ended(task, ok, value, second)
end

--- A task that keeps the run going. @param when_ended function(task, ok, value, second)
function M.start(fn, arguments, when_ended)
  local task = tasks.start(fn, arguments, ended)
  live, is_live[task], task.when_ended = live + 1, true, when_ended
  return task
end

--- Run fn(...) in a coroutine. @return future of its result
function M.spawn(fn, ...)
  local future = Future.new(false, false)
  M.start(fn, { n = select("#", ...), ... }, finish).future = future
  return future
end

function M.live() return live end

--- An error that nobody awaited, or nil; forgets the rest.
function M.unawaited_failure()
  local list = failures
  failures = {}
  for i = 1, #list do
    if not list[i].awaited then return (select(2, Future.outcome(list[i]))) end
  end
end

--- Those that have not ended never will.
function M.clear()
  for task in pairs(is_live) do
    if task.future then
      Future.settle(task.future, nil, errors.new("coroutine_failed", "its run ended before it did"))
    end
  end
  live, is_live = 0, {}
end

return M
