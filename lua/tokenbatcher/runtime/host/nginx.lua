--- Tasks inside an nginx worker (OpenResty): nginx's light threads. A batcher per worker, since
-- each worker has a Lua state of its own.
--
-- Who waits, waits on a semaphore. Each batch and each coroutine of spawn() runs in a timer with no
-- delay (nginx_worker.lua); no request has one. A timer costs a turn of nginx's loop and a request of its
-- own, so its light thread then takes further tasks, for a while: see the pool.
--
-- THE SPECIAL PROBLEM OF NGX.EXIT. In a timer it ends the light thread, from inside, and nothing
-- returns. Only the collector notices: a thread's guard lives on its stack and nowhere
-- else, so a guard that is collected while the thread has a task says that this will never end.

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

-- @param thread table  {task or nil, sema, remember}
local function guard(thread)
  local proxy = newproxy(true)
  getmetatable(proxy).__gc = function()
    if thread.task then lost[#lost + 1] = thread.task end
  end
  return proxy
end

local function end_task(task, ok, ...)
  running = running - 1
  task.on_end(task, ok, ...)
  pump.wake()
end

worker.also_watch(function()
  if running > 0 then collectgarbage("step", GC_STEP_KB) end
  while lost[1] do
    end_task(table.remove(lost), false, "its light thread was ended from within (by ngx.exit?)")
  end
end)

-- --- the pool -------------------------------------------------------------------

-- A light thread that has run a task waits for another, and ends: after so many, since the pool of its request
-- grows; when none has come for so long; and with the pump, so that an idle worker has no timer.
local MOST_RUNS, IDLE_S = 100, 1
-- More do not wait: each holds one of nginx's running timers.
local MOST_IDLE = 16

local idle, n_idle = {}, 0 -- those that wait
local n_handed = 0 -- tasks that were given to one of those and have not begun

local function ended(thread, ...)
  local task = thread.task
  thread.task = nil
  end_task(task, ...)
end

-- What a task has put into ngx.ctx is gone with it.
local function run(thread)
  local task = thread.task
  local arguments = task.arguments
  ngx.ctx = { [OWNER] = task.owner }
  running = running + 1
  ended(thread, xpcall(task.fn, thread.remember, unpack(arguments, 1, arguments.n)))
end

local function leave_pool(thread)
  for i = 1, n_idle do
    if idle[i] == thread then
      idle[i] = idle[n_idle]
      idle[n_idle], n_idle = nil, n_idle - 1
      return
    end
  end
end

-- @return boolean  has one come?
local function wait_for_task(thread)
  if n_idle >= MOST_IDLE or worker.is_exiting() then return false end
  n_idle = n_idle + 1
  idle[n_idle] = thread
  thread.sema:wait(IDLE_S)
  if thread.task then
    n_handed = n_handed - 1
    return true
  end
  leave_pool(thread)
  return false
end

-- Its run count is looked at before it waits: who waits takes what comes.
local function run_tasks(task)
  local thread = { task = task, sema = semaphore.new(0) }
  function thread.remember(value)
    thread.task.traceback = debug.traceback(errors.text(value), 2)
    return value
  end
  local proxy, runs = guard(thread), 0
  repeat
    run(thread)
    runs = runs + 1
  until runs >= MOST_RUNS or not wait_for_task(thread)
  return proxy -- until here it is alive
end

local function take_idle()
  local thread = idle[n_idle]
  idle[n_idle], n_idle = nil, n_idle - 1
  return thread
end

pump.at_rest(function()
  while n_idle > 0 do take_idle().sema:post(1) end
end)

function M.start(task)
  if n_idle == 0 then
    task.job = run_tasks
    return worker.begin_soon(task)
  end
  local thread = take_idle()
  thread.task, n_handed = task, n_handed + 1
  thread.sema:post(1)
end

-- Has a task been started that has not begun?
local function has_unstarted() return n_handed > 0 or worker.has_unstarted() end

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

-- It was not woken: a second has passed, or its semaphore has returned for another reason and is not trusted
-- again. Only resume() wakes. (Apart from suspend(), or the compiler would give up on that for the loop.)
local function wait_on(waiter, ok, err)
  while waiter.waiting do
    if ok or err ~= "timeout" then waiter.sema = semaphore.new(0) end
    worker.watch()
    if pump.has_given_up() then
      error("tokenbatcher: the nginx worker exits, and this waited for longer than its exit_timeout", 0)
    end
    ok, err = waiter.sema:wait(worker.WATCH_S)
  end
end

function M.suspend(waiter)
  local ok, err = waiter.sema:wait(worker.WATCH_S)
  if waiter.waiting then wait_on(waiter, ok, err) end
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
  if first and first <= now and has_unstarted() then pump.let_run() end
  if steps.timers(now) then pump.let_run() end
  if steps.awaits(now) then pump.let_run() end
  steps.away(pump.now() - now)
  clock.is_turning = true
  if is_leaving then steps.flush() end
  sleepers, after_turn = after_turn, {}
  steps.decide(pump.now())
  clock.is_turning = false
  if sleepers[1] and has_unstarted() then pump.let_run() end
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
