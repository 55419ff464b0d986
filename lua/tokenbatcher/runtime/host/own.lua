--- Tasks that are coroutines of ours. A task is {fn, arguments, on_end, co, waiting, what, value,
-- owner}; see tasks.lua.

local clock = require "tokenbatcher.runtime.clock"
local errors = require "tokenbatcher.base.errors"

local create, resume, yield, running = coroutine.create, coroutine.resume, coroutine.yield, coroutine.running
local status = coroutine.status

-- Resumes in one turn, at most: coroutines that keep waking each other must not keep
-- the loop from its deadlines.
local RESUMES_PER_TURN = 100000

-- A turn that takes longer than this looks again before timeouts are served.
local AWAY_US = 1000
local MOST_LOOKS = 3 -- coroutines that always block must not keep batchers from deciding

local M = { task = nil, context = nil, call = pcall }

local ready, ready_first, ready_last = {}, 1, 0
local all = setmetatable({}, { __mode = "k" }) -- tasks that may wait, for describe_waiting()

local function enqueue(task)
  ready_last = ready_last + 1
  ready[ready_last] = task
end

function M.resume(task)
  enqueue(task)
  clock.notify()
end

-- Within a turn nobody need be told.
function M.answer(task)
  if not task.waiting then return end
  task.waiting = false
  enqueue(task)
  if not clock.is_turning then clock.notify() end
end

function M.here()
  local task = M.task
  if task and not M.context and running() == task.co then return task end
end

function M.pause(task, what)
  task.waiting, task.what = true, what
  yield()
end

--- Records come in from anywhere.
function M.admits() return true end

function M.waiter() return M.task end

function M.owner() return M.task and M.task.owner end

function M.can_suspend()
  if not M.task then return nil, "outside of a coroutine started by run or spawn" end
  if running() ~= M.task.co then return nil, "inside a coroutine of the program's own" end
  return true
end

function M.suspend(task, what)
  task.what = what
  yield()
  local value = task.value
  task.value = nil
  return value
end

--- The running task ends here: it is never resumed.
function M.drop()
  M.task.is_dropped = true
  yield()
end

--- A timer of this instant is served in the next turn anyway.
function M.rests() return false end

function M.has_resting() return false end

-- coroutine.create takes functions only, and callable tables are functions to us.
local function function_of(callable)
  return function(...) return callable(...) end
end

function M.start(task)
  local fn = task.fn
  task.co = create(type(fn) == "function" and fn or function_of(fn))
  all[task] = true
  M.resume(task)
end

--- An error that is about to be raised again was first raised here.
function M.remember_traceback(value, traceback)
  if M.task then M.task.raised, M.task.raised_traceback = value, traceback end
end

local function returned(task, ok, value, second)
  all[task] = nil
  if not ok then
    local is_remembered = task.raised_traceback and rawequal(task.raised, value)
    task.traceback = is_remembered and task.raised_traceback or debug.traceback(task.co, errors.text(value))
  end
  task.on_end(task, ok, value, second)
end

-- It waits for nothing, and never goes on.
local function drop_task(task)
  all[task] = nil
  task.on_end(task, false, errors.new("cancelled", "it went on although it had been called off"))
end

-- It has come back for another reason than to wait for something of ours.
local function came_back(task, again, ok, value, second)
  if task.is_dropped then return drop_task(task) end
  if ok and status(task.co) == "suspended" then
    -- a bare coroutine.yield() in a user's code: its turn comes again
    task.waiting, task.what = true, nil
    return again(task)
  end
  returned(task, ok, value, second)
end

local function begin(task)
  local arguments = task.arguments
  task.arguments = nil
  return resume(task.co, unpack(arguments, 1, arguments.n))
end

function M.has_ready()
  return ready_first <= ready_last
end

local function run_ready(again)
  local budget = RESUMES_PER_TURN
  while ready_first <= ready_last and budget > 0 do
    local task = ready[ready_first]
    ready[ready_first] = nil
    ready_first = ready_first + 1
    M.task = task
    local ok, value, second
    if task.arguments then ok, value, second = begin(task) else ok, value, second = resume(task.co) end
    if M.context then M.context = nil end
    if not (ok and task.waiting) then
      M.task = nil
      came_back(task, again, ok, value, second)
    end
    budget = budget - 1
  end
  M.task = nil
  if ready_first > ready_last then ready_first, ready_last = 1, 0 end
end

-- Wait, and wake and run what that has brought.
local function take_arrivals(steps, deadline)
  local pump = clock.pump
  local began = pump.now()
  pump.wait(deadline)
  local now = pump.now()
  steps.waited(now, began, deadline)
  now = steps.sources(now)
  steps.timers(now)
  run_ready(steps.again)
  steps.awaits(now)
  run_ready(steps.again)
  return now
end

--- Wait (not at all if something is ready), wake what is due, run ready coroutines until
-- none is left, then let every batcher decide once. R5: where that took long (a coroutine that
-- blocks, a process that was stopped), what has arrived meanwhile is taken before any batcher
-- serves its timeouts.
function M.turn(steps, deadline)
  clock.is_turning = true
  local now
  for _ = 1, MOST_LOOKS do
    local looked_us = take_arrivals(steps, deadline)
    now = clock.pump.now()
    if now - looked_us <= AWAY_US then break end
    steps.away(now - looked_us)
    deadline = 0
  end
  steps.decide(now)
  clock.is_turning = false
end

function M.can_start(is_driven)
  if is_driven or M.task ~= nil then return true end
  return nil, "must be called within tokenbatcher.run"
end

--- Any place will do.
function M.check() end

function M.refuse() end

function M.log() return false end

--- run() and step() turn the loop.
function M.drive() end

function M.set_exit_timeout()
  errors.misuse "exit_timeout is for nginx workers; elsewhere stop{timeout_s} does it"
end

--- "2 in await, 1 in sleep".
function M.describe_waiting()
  local counts, parts = {}, {}
  for task in pairs(all) do
    local what = task.waiting and task.what
    if what then counts[what] = (counts[what] or 0) + 1 end
  end
  for what, n in pairs(counts) do parts[#parts + 1] = n .. " in " .. what end
  table.sort(parts)
  return table.concat(parts, ", ")
end

--- Forget all tasks.
function M.clear()
  for i = ready_first, ready_last do ready[i] = nil end
  ready_first, ready_last = 1, 0
  M.task, M.context = nil, nil
  for task in pairs(all) do all[task] = nil end
end

return M
