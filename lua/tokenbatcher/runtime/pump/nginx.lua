--- Inside an nginx worker (OpenResty): nginx's light threads are the tasks, its event loop
-- the one that waits. One batcher per worker, since each worker has a Lua state of its own.
--
-- Who waits, waits on a semaphore. Who wakes the pump (a submit, a batch that ended) rings
-- its bell; it answers when all events of this turn of nginx's loop have been handled, so
-- that one decision sees all that was submitted in it (F7). Each batch and each coroutine of
-- spawn() runs in a timer of its own with no delay; no request has one.
--
-- THE PUMP is such a timer, too: a loop of turns that lives while there is something to do,
-- and only then. Nothing is started at `require`, an idle worker has no timer of ours, and
-- with lua_code_cache off, where each request has a Lua state of its own, that state can go.
--
-- THE SPECIAL PROBLEM OF TIMERS THAT NEVER COME. Beyond lua_max_running_timers nginx drops a
-- timer with a line in its log, and beyond lua_max_pending_timers or worker_connections there
-- is none to be had. So a job that has not begun after a second is given another timer, by the
-- pump or by anyone who waits; whichever comes first runs it, the other finds it begun.
--
-- THE SPECIAL PROBLEM OF NGX.EXIT. In a timer it ends the light thread, from inside, and nothing
-- returns. Only the collector notices: a task's guard lives on the thread's stack and nowhere
-- else, so a guard that is collected before the task has ended says that it never will.
-- A policy can end the pump itself that way. Its turns are never far apart, so whoever waits
-- and finds the last one too long ago starts another; if the old one lives after all, it sees
-- that it has been replaced.
--
-- THE SPECIAL PROBLEM OF LEAVING. An exiting worker tells pending timers only. While the pump
-- lives, one is pending for that (`sentinel`). From then on all that is queued is due at once,
-- records still come in (a handler may be reading its body), and when exit_timeout_s have
-- passed the batchers stop: what is left fails as `stopped`, and who still sleeps is woken by
-- an error, or the worker would never end.

local errors = require "tokenbatcher.base.errors"
local no_suspend = require "tokenbatcher.base.no_suspend"
local tbffi = require "tokenbatcher.core.ffi"
local C = tbffi.lib

local semaphore = require "ngx.semaphore"

local ngx = ngx -- luacheck: ignore
local get_phase, timer_at, is_exiting = ngx.get_phase, ngx.timer.at, ngx.worker.exiting

local core, ended -- the scheduler, and its function for a task that has ended

-- From where code may wait, and hand records in.
local PHASES = { rewrite = true, access = true, content = true, timer = true }
local WHERE = "(rewrite, access, content and timers may)"

local EXIT_TIMEOUT_S = 30
local SENTINEL_S = 10
-- How long to wait before looking whether all that was started has begun.
local WATCH_S = 1
local WATCH_US = WATCH_S * 1e6
-- A turn that is longer ago than this will not come: a pump idles for WATCH_S at most.
local LOST_US = 1.5 * WATCH_US
-- How far the collector goes each time, so that it finds a thread that was ended.
local GC_STEP_KB = 1000
-- Waiters kept for later, semaphores included.
local SPARE = 1024

local OWNER = {} -- key in ngx.ctx of a timer that runs an inference call

local function real_now()
  return tonumber(C.tb_ev_now())
end

-- What the scheduler calls; a table, so that a test may put another clock into it.
local pump = { now = real_now, call = no_suspend, exit_timeout_s = EXIT_TIMEOUT_S }

local LEVELS = { warn = ngx.WARN, error = ngx.ERR }

function pump.log(level, text) ngx.log(LEVELS[level], "tokenbatcher: ", text) end

-- --- jobs: what runs in a timer of its own ------------------------------------

local unstarted = {} -- job -> when a timer was last asked for
local complained_at

local function begin(_, job)
  if not unstarted[job] then return end
  unstarted[job] = nil
  job:job()
end

local function ask_for_timer(job, now)
  unstarted[job] = now
  local ok, err = timer_at(0, begin, job)
  if ok or complained_at and now - complained_at < WATCH_US then return end
  complained_at = now
  pump.log("error", ("nginx gives no timer (%s): raise lua_max_pending_timers and worker_connections; "
    .. "trying again"):format(tostring(err)))
end

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
  ended(task, ok, ...)
  pump.wake()
end

local function end_lost()
  while lost[1] do
    end_task(table.remove(lost), false, "its light thread was ended from within (by ngx.exit?)")
  end
end

local watched_at = 0
local replace_lost_pump -- below

-- Once in a while: has all begun that was started, is all there that has begun?
local function watch()
  local now = real_now()
  if now - watched_at < WATCH_US then return end
  watched_at = now
  for job, at in pairs(unstarted) do
    if now - at >= WATCH_US then ask_for_timer(job, now) end
  end
  if running > 0 then collectgarbage("step", GC_STEP_KB) end
  end_lost()
  replace_lost_pump(now)
end

function pump.has_unstarted() return next(unstarted) ~= nil end

-- --- tasks --------------------------------------------------------------------

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

--- Run task.fn(unpack(task.arguments)) soon.
function pump.start(task)
  task.job = run_task
  ask_for_timer(task, real_now())
end

function pump.can_suspend()
  local phase = get_phase()
  if PHASES[phase] then return true end
  return nil, ("in nginx's phase %s %s"):format(phase, WHERE)
end

function pump.check(name)
  local phase = get_phase()
  if not PHASES[phase] then errors.misuse(("%s cannot be called in nginx's phase %s %s"):format(name, phase, WHERE)) end
end

function pump.can_start()
  if get_phase() ~= "init" then return true end
  return nil, "cannot be called in init_by_lua, which runs in nginx's master process: use init_worker_by_lua"
end

-- Waiters that nobody waits with: {waiting, value, owner, sema}. spare[n] is the one that
-- current() shows; it is taken by suspend().
local spare, n_spare = {}, 0

function pump.current()
  local phase = get_phase()
  if not PHASES[phase] then return nil end
  if n_spare == 0 then n_spare, spare[1] = 1, { waiting = false, sema = semaphore.new(0) } end
  local waiter = spare[n_spare]
  waiter.owner = phase == "timer" and ngx.ctx[OWNER] or nil
  return waiter
end

local leave_by -- when an exiting worker gives up, microseconds

-- Woken by wake() alone: a semaphore that returns for another reason is not trusted again.
local function wait_for_wake(waiter)
  while waiter.waiting do
    local ok, err = waiter.sema:wait(WATCH_S)
    if waiter.waiting then
      if ok or err ~= "timeout" then waiter.sema = semaphore.new(0) end
      watch()
      if leave_by and real_now() >= leave_by + WATCH_US then
        error("tokenbatcher: the nginx worker exits, and this waited for longer than its exit_timeout", 0)
      end
    end
  end
end

function pump.suspend(waiter)
  spare[n_spare], n_spare = nil, n_spare - 1
  wait_for_wake(waiter)
  local value = waiter.value
  waiter.value = nil
  if n_spare < SPARE then
    n_spare = n_spare + 1
    spare[n_spare] = waiter
  end
  return value
end

function pump.resume(waiter)
  waiter.sema:post(1)
end

-- --- the loop -----------------------------------------------------------------

local bell -- of the loop that is in charge
local is_alive, is_asleep, is_rung = false, false, false
local turned_at, suspected_at = 0, nil
local has_sentinel = false

local function keep_sentinel()
  if has_sentinel or leave_by then return end
  has_sentinel = timer_at(SENTINEL_S, function()
    has_sentinel = false
    if is_alive then pump.wake() end
  end)
end

--- Wait until `at` (microseconds; nil: no time) or until the bell is rung.
function pump.idle(at)
  local ms = at and math.ceil((at - real_now()) / 1000) or WATCH_S * 1000
  local own_bell = bell
  is_asleep = true
  own_bell:wait((math.min(math.max(ms, 1), WATCH_S * 1000) + 0.1) / 1000)
  if bell == own_bell then is_asleep = false end
end

local step

local is_letting = false

local function go_on()
  if is_letting then step:post(1) end
end

--- Return when those that were woken have had their go: a turn of nginx's loop later.
-- (Without a patch that Debian's nginx has not, ngx.sleep(0) does the same and complains.)
function pump.let_run()
  step = step or semaphore.new(0)
  is_letting = true
  timer_at(0, go_on)
  step:wait(0.001)
  is_letting = false
end

-- The worker exits: false when its time is up.
local function leave()
  leave_by = leave_by or real_now() + pump.exit_timeout_s * 1e6
  if real_now() < leave_by then return true end
  local ok, err = pcall(core.abandon_batchers)
  if not ok then pump.log("error", errors.text(err)) end
  return false
end

local function next_time()
  local at = core.next_us()
  if leave_by and not (at and at < leave_by) then return leave_by end
  return at
end

local function turn()
  is_rung = false
  local ok, err = pcall(core.host_turn, leave_by ~= nil)
  if ok then return end
  pump.log("error", "a turn raised: " .. errors.text(err))
  bell:wait(0.1) -- not a thousand lines a second
end

local function loop()
  local own_bell = semaphore.new(0)
  bell, turned_at = own_bell, real_now()
  while true do
    if is_exiting() and not leave() then break end
    turn()
    if bell ~= own_bell then return end
    turned_at = real_now()
    if not is_rung then
      if not core.is_busy() and not pump.has_unstarted() then break end
      keep_sentinel()
      watch()
      pump.idle(next_time())
      if bell ~= own_bell then return end
      turned_at = real_now()
    end
  end
  is_alive = false
end

local pump_job = { job = loop }

-- Seen twice: after something that has blocked the worker, the pump may only be late.
function replace_lost_pump(now)
  if not is_alive or unstarted[pump_job] or now - turned_at < LOST_US then return end
  if suspected_at ~= turned_at then
    suspected_at = turned_at
    return
  end
  pump.log("error", "the pump's light thread is gone (has a policy called ngx.exit?): another one takes over")
  bell, is_asleep, turned_at = nil, false, now
  ask_for_timer(pump_job, now)
end

--- Something happened that a turn must see. Cheap when it was called already.
function pump.wake()
  is_rung = true
  if is_asleep then
    is_asleep = false
    bell:post(1)
  elseif not is_alive then
    is_alive = true
    ask_for_timer(pump_job, real_now())
  end
end

function pump.close() end

--- @param scheduler table  host_turn, is_busy, next_us, abandon_batchers
-- @param on_end function  (task, ok, ...): a task's function has returned, or raised
-- @return table  pump and host of the scheduler
function pump.new(scheduler, on_end)
  core, ended = scheduler, on_end
  return pump
end

return pump
