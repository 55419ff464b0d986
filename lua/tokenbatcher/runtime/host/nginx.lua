--- Tasks inside an nginx worker (OpenResty): nginx's light threads. A batcher per worker, since
-- each worker has a Lua state of its own.
--
-- Who waits, waits on a semaphore. Each batch and each coroutine of spawn() runs in a timer of
-- its own with no delay (nginx_worker.lua); no request has one.
--
-- THE SPECIAL PROBLEM OF NGX.EXIT. In a timer it ends the light thread, from inside, and nothing
-- returns. Only the collector notices: a task's guard lives on the thread's stack and nowhere
-- else, so a guard that is collected before the task has ended says that it never will.

local clock = require "tokenbatcher.runtime.clock"
local errors = require "tokenbatcher.base.errors"
local no_suspend = require "tokenbatcher.base.no_suspend"
local pump = require "tokenbatcher.runtime.pump.nginx"
local worker = require "tokenbatcher.runtime.host.nginx_worker"

local semaphore = require "ngx.semaphore"

local ngx = ngx -- luacheck: ignore
local get_phase = ngx.get_phase

-- From where code may wait, and hand records in.
local PHASES = { rewrite = true, access = true, content = true, timer = true }
local WHERE = "(rewrite, access, content and timers may)"

-- How far the collector goes each time, so that it finds a thread that was ended.
local GC_STEP_KB = 1000
-- Waiters kept for later, semaphores included.
local SPARE = 1024

local OWNER = {} -- key in ngx.ctx of a timer that runs an inference call

local M = { task = nil, context = nil, call = no_suspend }

-- --- tasks --------------------------------------------------------------------

local running = 0 -- tasks that have begun and not ended
local lost = {} -- those whose light thread is gone

local function guard(task)
  local proxy = newproxy(true)
  getmetatable(proxy).__gc = function()
    if not task.is_over then lost[#lost + 1] = task end
  end
  return proxy
end

local function end_task(task, ok, ...)
  task.is_over, running = true, running - 1
  task.on_end(task, ok, ...)
  pump.wake()
end

worker.also_watch(function()
  if running > 0 then collectgarbage("step", GC_STEP_KB) end
  while lost[1] do
    end_task(table.remove(lost), false, "its light thread was ended from within (by ngx.exit?)")
  end
end)

local function run_task(task)
  if task.owner then ngx.ctx[OWNER] = task.owner end
  running = running + 1
  local function remember(value)
    task.traceback = debug.traceback(errors.text(value), 2)
    return value
  end
  local arguments, proxy = task.arguments, guard(task)
  end_task(task, xpcall(task.fn, remember, unpack(arguments, 1, arguments.n)))
  return proxy -- until here it is alive
end

function M.start(task)
  task.job = run_task
  worker.begin_soon(task)
end

--- A light thread's own traceback is all there is.
function M.remember_traceback() end

-- --- waiting --------------------------------------------------------------------

function M.owner()
  return get_phase() == "timer" and ngx.ctx[OWNER] or nil
end

function M.can_suspend()
  if clock.is_turning then return nil, "inside the batcher's own turn" end
  local phase = get_phase()
  if PHASES[phase] then return true end
  return nil, ("in nginx's phase %s %s"):format(phase, WHERE)
end

-- {waiting, value, sema}: waiters that nobody waits with. One is taken out here, before
-- anything can yield, so that two can never wait with the same.
local spare, n_spare = {}, 0

function M.waiter()
  if n_spare == 0 then return { waiting = false, sema = semaphore.new(0) } end
  local waiter = spare[n_spare]
  spare[n_spare], n_spare = nil, n_spare - 1
  return waiter
end

-- Woken by resume() alone: a semaphore that returns for another reason is not trusted again.
local function wait_for_wake(waiter)
  while waiter.waiting do
    local ok, err = waiter.sema:wait(worker.WATCH_S)
    if waiter.waiting then
      if ok or err ~= "timeout" then waiter.sema = semaphore.new(0) end
      worker.watch()
      if pump.has_given_up() then
        error("tokenbatcher: the nginx worker exits, and this waited for longer than its exit_timeout", 0)
      end
    end
  end
end

function M.suspend(waiter)
  wait_for_wake(waiter)
  local value = waiter.value
  waiter.value = nil
  if n_spare < SPARE then
    n_spare = n_spare + 1
    spare[n_spare] = waiter
  end
  return value
end

function M.resume(waiter)
  waiter.sema:post(1)
end

function M.answer(waiter)
  if not waiter.waiting then return end
  waiter.waiting = false
  M.resume(waiter)
end

--- Tasks are nginx's light threads, which wait on a semaphore.
function M.here() return nil end

function M.admits() return PHASES[get_phase()] == true end

-- --- a turn ---------------------------------------------------------------------

-- Who sleeps no time: until a decision has been made; and those whose turn it is.
local after_turn, sleepers = {}, {}

function M.rests(waiter)
  after_turn[#after_turn + 1] = waiter
  return true
end

function M.has_resting() return after_turn[1] ~= nil end

function M.has_ready() return false end

local function wake_sleepers(steps)
  local list = sleepers
  sleepers = {}
  for i = 1, #list do steps.wake(list[i]) end
end

--- Those that were started or woken run while let_run() waits.
-- @param late_us number  how much too late the turn is
-- @param is_leaving boolean  the worker exits: all that is queued is due now
function M.turn(steps, late_us, is_leaving)
  clock.is_turning = false -- true only if the last turn raised
  wake_sleepers(steps) -- they are some only if the last turn was broken off
  local now = pump.now()
  steps.away(late_us)
  local first = steps.first_timer()
  if first and first <= now and worker.has_unstarted() then pump.let_run() end
  if steps.timers(now) then pump.let_run() end
  if steps.awaits(now) then pump.let_run() end
  steps.away(pump.now() - now)
  clock.is_turning = true
  if is_leaving then steps.flush() end
  sleepers, after_turn = after_turn, {}
  steps.decide(pump.now())
  clock.is_turning = false
  if sleepers[1] and worker.has_unstarted() then pump.let_run() end
  wake_sleepers(steps)
end

-- --- places ---------------------------------------------------------------------

function M.can_start()
  if get_phase() ~= "init" then
    worker.check_limits()
    return true
  end
  return nil, "cannot be called in init_by_lua, which runs in nginx's master process: use init_worker_by_lua"
end

function M.check(name)
  local phase = get_phase()
  if not PHASES[phase] then errors.misuse(("%s cannot be called in nginx's phase %s %s"):format(name, phase, WHERE)) end
end

function M.refuse(name)
  errors.misuse(name .. ": nginx's own loop drives the batchers of a worker; "
    .. "start them in init_worker_by_lua or later")
end

--- The pump turns the loop, as long as the worker lives.
function M.drive(port)
  clock.use(pump)
  pump.drive(port)
end

M.set_exit_timeout = pump.set_exit_timeout

function M.log(level, text)
  worker.log(level, text)
  return true
end

return M
