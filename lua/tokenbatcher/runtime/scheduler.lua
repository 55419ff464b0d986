--- Coroutines, timers and batchers on one clock.
--
-- A turn: wait (not at all if something is ready), wake what is due, run ready
-- coroutines until none is left, then let every batcher decide once. So all that is
-- submitted in one turn is seen by one decision, and no decision runs a user's code.
--
-- A pump supplies the clock: now() in microseconds and wait(deadline). See pump/.
--
-- Inside an nginx worker (`host`, below) the coroutines are nginx's own: pump/nginx.lua
-- suspends and resumes them and says when a turn is due; the timers and the batchers' part
-- in a turn stay here.
--
-- A task is a coroutine of ours: {co, future, live, owner}. `live` tasks keep run()
-- going; an inference call is not live (its records are what counts), so one that was
-- abandoned keeps nothing alive. `owner` is the batcher whose inference function it runs.
-- While a task waits for something that can be called off, its `on_abandon` does that.
--
-- A source is what wakes tasks from outside, such as the HTTP client; see add_source().

local errors = require "tokenbatcher.base.errors"
local Timers = require "tokenbatcher.runtime.timers"

local create, resume, yield, running = coroutine.create, coroutine.resume, coroutine.yield, coroutine.running
local status = coroutine.status

-- Resumes in one turn, at most: coroutines that keep waking each other must not keep
-- the loop from its deadlines.
local RESUMES_PER_TURN = 100000

-- Errors of spawned coroutines kept for whoever awaits them later.
local FAILURES = 1000

local NO_SOURCES = {}

local M = {}

--- Who runs now: nil outside of coroutines of ours. See also current().
M.task = nil
--- "token_estimator" and the like while such a function runs: it must not suspend.
M.context = nil
--- The clock in use; nil before the first run() or step().
M.pump = nil

-- Who sleeps, and who awaits with a timeout: of one instant, answers come before timeouts.
local timers, await_timers = Timers.new(), Timers.new()
local ready, ready_first, ready_last = {}, 1, 0
local batchers = {}
local live_tasks, live = 0, {} -- how many, and which
local waits = {} -- what suspended tasks wait for -> how many do
local failures = {} -- futures of spawned coroutines that failed and nobody had awaited
local host_is_busy = false -- coroutines or batchers that step() drives are not done
local in_run, in_turn = false, false
local host_pump
-- Inside nginx, who sleeps no time: until a decision has been made; and those whose turn it is.
local after_turn, sleepers = {}, {}
-- Inside nginx, what has tasks of its own: {current(), can_suspend(), can_start(), suspend(task),
-- resume(task), start(task), has_unstarted(), let_run(), check(name), call(fn, ...), log(level, text)}.
local host

--- Hooks the future module fills in (it needs us, we need its two functions).
M.new_future = nil
M.settle = nil

local function enqueue(task)
  ready_last = ready_last + 1
  ready[ready_last] = task
end

-- A host that owns the loop learns of work that came from outside a turn.
local function notify()
  if not in_turn and M.pump and M.pump.wake then M.pump.wake() end
end
M.notify = notify

--- Let a suspended task go on, once. @param value any  what suspend() returns there
function M.wake(task, value)
  if not task.waiting then return end
  task.waiting = false
  task.value = value
  if host then return host.resume(task) end
  enqueue(task)
  notify()
end

--- The running code as something that can be woken: what suspend() will put aside.
-- Its field `owner` is the batcher whose inference function this is, or nil.
function M.current()
  if host then return host.current() end
  return M.task
end

--- Call a function that must not suspend. @return like pcall, one value
M.call = pcall

--- May the running code suspend? nil and the reason if not.
function M.can_suspend()
  if M.context then return nil, "inside a " .. M.context end
  if host then
    if in_turn then return nil, "inside the batcher's own turn" end
    return host.can_suspend()
  end
  if not M.task then return nil, "outside of a coroutine started by run or spawn" end
  if running() ~= M.task.co then return nil, "inside a coroutine of the program's own" end
  return true
end

--- Suspend the running task until wake(task, value); returns value. Check can_suspend() first.
-- @param what string  what it waits for, for the deadlock report
function M.suspend(what)
  local task = M.current()
  task.waiting = true
  if host then return host.suspend(task) end
  waits[what] = (waits[what] or 0) + 1
  yield()
  waits[what] = waits[what] - 1
  local value = task.value
  task.value = nil
  return value
end

local function require_suspend(name)
  local ok, reason = M.can_suspend()
  if not ok then errors.misuse(name .. " cannot wait here: " .. reason) end
end
M.require_suspend = require_suspend

--- Suspend until a time. @param at_us number  on the pump's clock
function M.sleep_until(at_us)
  if host and at_us <= M.pump.now() then
    after_turn[#after_turn + 1] = M.current()
  else
    timers:add(at_us, M.current())
  end
  notify()
  M.suspend "sleep"
end

--- Wakes the running task with `false`, after all else of that instant.
-- @return table  for cancel_timer
function M.await_timer(at_us)
  notify()
  return await_timers:add(at_us, M.current())
end

function M.cancel_timer(entry)
  await_timers:remove(entry)
end

--- The clock, microseconds. Outside of run it is the real one.
function M.now_us()
  local pump = M.pump
  if not pump then
    M.host()
    pump = M.pump
  end
  return pump.now()
end

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

local function too_many_failures()
  return #failures >= FAILURES and not failures[1].awaited
end

local function end_life(task)
  if not task.live then return end
  live_tasks, live[task] = live_tasks - 1, nil
end

local function finish(task, ok, value, second)
  end_life(task)
  if not task.future then return end
  if ok then
    local err = nil
    if value == nil then err = second end
    M.settle(task.future, value, err)
    return
  end
  local err = errors.new("coroutine_failed", errors.message_of(value), value, task.traceback)
  if not task.future.awaited then
    if host then host.log("error", err.message .. "\n" .. task.traceback) else remember_failure(task.future) end
  end
  M.settle(task.future, nil, err)
end

--- An error that is about to be raised again was first raised here.
function M.remember_traceback(value, traceback)
  if M.task then M.task.raised, M.task.raised_traceback = value, traceback end
end

local function ended(task, ok, ...)
  if task.on_end then
    task.on_end(task, ok, ...)
  else
    finish(task, ok, ...)
  end
end

local function returned(task, ok, ...)
  if not ok then
    local value = (...)
    local is_remembered = task.raised_traceback and rawequal(task.raised, value)
    task.traceback = is_remembered and task.raised_traceback or debug.traceback(task.co, errors.text(value))
  end
  ended(task, ok, ...)
end

local function resumed(task, ok, ...)
  M.task, M.context = nil, nil
  if ok and task.waiting then return end
  if ok and status(task.co) == "suspended" then
    -- a bare coroutine.yield() in a user's code: its turn comes again
    task.waiting = true
    timers:add(M.pump.now(), task)
    return
  end
  returned(task, ok, ...)
end

local function resume_task(task)
  M.task = task
  local arguments = task.arguments
  if arguments then
    task.arguments = nil
    resumed(task, resume(task.co, unpack(arguments, 1, arguments.n)))
  else
    resumed(task, resume(task.co))
  end
end

-- coroutine.create takes functions only, and callable tables are functions to us.
local function function_of(callable)
  return function(...) return callable(...) end
end

local function new_task(fn, is_live, arguments)
  local task = { live = is_live, waiting = false, arguments = arguments }
  if is_live then live_tasks, live[task] = live_tasks + 1, true end
  if host then
    task.fn = fn
    host.start(task)
    return task
  end
  task.co = create(type(fn) == "function" and fn or function_of(fn))
  enqueue(task)
  notify()
  return task
end

local function pack(...)
  return { n = select("#", ...), ... }
end

--- Run fn(...) in a coroutine. @return future of its result
function M.spawn(fn, ...)
  local task = new_task(fn, true, pack(...))
  task.future = M.new_future(false, false)
  return task.future
end

--- Run fn(argument) for a batcher: not live, its end goes to on_end(task, ok, ...).
function M.start_call(owner, fn, argument, on_end)
  local task = new_task(fn, false, { n = 1, argument })
  task.owner, task.on_end = owner, on_end
  return task
end

--- Nobody wants any more what a task is computing. If it waits for something that can be
-- called off, that is called off; otherwise it goes on, and its answer is ignored.
function M.abandon(task)
  task.is_abandoned = true
  if task.on_abandon then task:on_abandon() end
end

--- Nobody wants the answer any more, but the call keeps its slot until it ends: only what can
-- be called off at no cost is (`on_unwanted`, a request; a thread would be lost).
function M.call_off(task)
  task.is_unwanted = true
  if task.on_unwanted then task:on_unwanted() end
end

--- A source belongs to the clock in use and takes part in its turns, before anything else:
-- turn(now_us) wakes tasks; next_us() is when it must be called, microseconds, or nil;
-- is_busy() whether it may still wake anyone; close() at the end of the run.
function M.add_source(source)
  local pump = M.pump
  pump.sources = pump.sources or {}
  pump.sources[#pump.sources + 1] = source
end

--- Batchers take part in every turn from attach to detach: turn(now_us), next_us(),
-- unsettled (count), abandon(now_us).
function M.attach(batcher)
  batchers[#batchers + 1] = batcher
end

function M.detach(batcher)
  for i = 1, #batchers do
    if batchers[i] == batcher then
      table.remove(batchers, i)
      return
    end
  end
end

local function has_ready()
  return ready_first <= ready_last
end

local function run_ready()
  local budget = RESUMES_PER_TURN
  while ready_first <= ready_last and budget > 0 do
    local task = ready[ready_first]
    ready[ready_first] = nil
    ready_first = ready_first + 1
    resume_task(task)
    budget = budget - 1
  end
  if ready_first > ready_last then ready_first, ready_last = 1, 0 end
end

local function fire(heap, now)
  local task = heap:pop(now)
  local any = task ~= nil
  while task do
    M.wake(task, false)
    task = heap:pop(now)
  end
  return any
end

local function let_sources_wake()
  local sources = M.pump.sources or NO_SOURCES
  if #sources == 0 then return end
  local now = M.pump.now()
  for i = 1, #sources do sources[i]:turn(now) end
end

-- May something but time still wake a task?
local function can_be_woken()
  if M.pump.external() then return true end
  local sources = M.pump.sources or NO_SOURCES
  for i = 1, #sources do
    if sources[i]:is_busy() then return true end
  end
  return false
end

local function let_batchers_decide()
  local now = M.pump.now()
  local i = 1
  while batchers[i] do
    local batcher = batchers[i]
    batcher:turn(now)
    if batchers[i] == batcher then i = i + 1 end -- one that has drained detaches itself
  end
end

--- The earliest time at which something is to be done, microseconds, or nil.
function M.next_us()
  if has_ready() then return M.pump.now() end
  local at, awaited_at = timers:next(), await_timers:next()
  if awaited_at and (not at or awaited_at < at) then at = awaited_at end
  for i = 1, #batchers do
    local due = batchers[i]:next_us()
    if due and (not at or due < at) then at = due end
  end
  local sources = M.pump.sources or NO_SOURCES
  for i = 1, #sources do
    local due = sources[i]:next_us()
    if due and (not at or due < at) then at = due end
  end
  return at
end

local function turn(deadline)
  in_turn = true
  M.pump.wait(deadline)
  let_sources_wake()
  local now = M.pump.now()
  fire(timers, now)
  run_ready()
  fire(await_timers, now)
  run_ready()
  let_batchers_decide()
  in_turn = false
end

local function unsettled()
  local n = 0
  for i = 1, #batchers do n = n + batchers[i].unsettled end
  return n
end
M.unsettled = unsettled

local function wake_sleepers()
  local list = sleepers
  sleepers = {}
  for i = 1, #list do M.wake(list[i], false) end
end

--- The turn inside nginx, where those that were started or woken run while let_run() waits.
-- @param is_leaving boolean  the worker exits: all that is queued is due now
function M.host_turn(is_leaving)
  in_turn = false -- true only if the last turn raised
  wake_sleepers() -- they are some only if the last turn was broken off
  local now = M.pump.now()
  local first = timers:next()
  if first and first <= now and host.has_unstarted() then host.let_run() end
  if fire(timers, now) then host.let_run() end
  if fire(await_timers, now) then host.let_run() end
  in_turn = true
  for i = 1, is_leaving and #batchers or 0 do batchers[i]:flush() end
  sleepers, after_turn = after_turn, {}
  let_batchers_decide()
  in_turn = false
  if sleepers[1] and host.has_unstarted() then host.let_run() end
  wake_sleepers()
end

--- Is there anything that a turn may still have to do?
function M.is_busy()
  return unsettled() > 0 or timers.size + await_timers.size + #after_turn > 0 or M.next_us() ~= nil
end

--- An error that nobody awaited, or nil; forgets the rest.
local function unawaited_failure()
  local list = failures
  failures = {}
  for i = 1, #list do
    if not list[i].awaited then return list[i]._held end
  end
end

--- Raise what a coroutine raised, with the traceback of there.
local function reraise(value, traceback)
  if type(value) == "string" then error(traceback or value, 0) end
  if errors.is_err(value) then
    value.traceback = value.traceback or traceback
    error(value, 0)
  end
  error(errors.new("coroutine_failed", errors.text(value), value, traceback), 0)
end

local function describe_waiting()
  local parts = {}
  for what, n in pairs(waits) do
    if n > 0 then parts[#parts + 1] = n .. " in " .. what end
  end
  table.sort(parts)
  return table.concat(parts, ", ")
end

local function raise_deadlock()
  local text = describe_waiting()
  local err = errors.new("deadlock", ("coroutines wait and nothing can wake them (%s; %d records unsettled)")
    :format(text, unsettled()))
  error(err, 0)
end

local function run_loop(main)
  while true do
    if too_many_failures() then return end
    if main.failed then reraise(main.failed.value, main.failed.traceback) end
    if live_tasks == 0 and not has_ready() and unsettled() == 0 then return end
    local deadline = M.next_us()
    if not deadline and not can_be_woken() then raise_deadlock() end
    turn(deadline)
  end
end

--- Batchers stop, what they still hold fails.
local function abandon_batchers()
  local now = M.pump.now()
  for i = #batchers, 1, -1 do batchers[i]:abandon(now) end
end
M.abandon_batchers = abandon_batchers

--- Leave nothing behind: batchers and what they hold; coroutines are dropped.
local function clean_up()
  in_turn = true -- settling must not wake a host
  abandon_batchers()
  for task in pairs(live) do
    if task.future then M.settle(task.future, nil, errors.new("coroutine_failed", "its run ended before it did")) end
  end
  for i = ready_first, ready_last do ready[i] = nil end -- last: settling has woken some
  ready_first, ready_last = 1, 0
  timers, await_timers, waits = Timers.new(), Timers.new(), {}
  live, host_is_busy = {}, false
  for _, source in ipairs(M.pump.sources or NO_SOURCES) do source:close() end
  M.pump.close()
  live_tasks, M.task, M.context, M.pump = 0, nil, nil, host_pump
  in_run, in_turn = false, false
end

--- Run fn as a coroutine until it and all it spawned are done and every record has
-- settled. @param pump table  @return what fn returns
function M.run(fn, pump)
  M.refuse_in_host "run"
  if in_run then errors.misuse("run cannot be nested: it is running already") end
  if in_turn then errors.misuse("run cannot be called from within step") end
  if host_is_busy then
    errors.misuse("run cannot begin while coroutines or batchers that step drives are not done: end or stop them first")
  end
  in_run, M.pump, failures = true, pump, {}
  local results
  local main = new_task(fn, true)
  main.on_end = function(task, ok, ...)
    end_life(task)
    if ok then
      results = pack(...)
    else
      task.failed = { value = (...), traceback = task.traceback }
    end
  end
  local ok, err = pcall(run_loop, main)
  clean_up()
  if not ok then error(err, 0) end
  local failure = unawaited_failure()
  if failure then reraise(failure.cause, failure.traceback) end
  return unpack(results or {}, 1, results and results.n or 0)
end

--- The pump of a host that owns the loop, made on first use.
function M.host()
  M.refuse_in_host "fd, next_deadline and step"
  if not host_pump then host_pump = require("tokenbatcher.runtime.pump.libev").new() end
  if not M.pump then M.pump = host_pump end
  return host_pump
end

--- One turn that never blocks, or up to `most` as long as coroutines are ready. Raises what
-- a spawned coroutine raised and nobody awaited, once all are done or very many have failed.
-- @param most number|nil
function M.step(most)
  if in_run or in_turn then errors.misuse("step cannot be called from within run or step") end
  local pump, left = M.host(), most or 1
  repeat
    turn(0)
    left = left - 1
  until left < 1 or not has_ready()
  pump.arm(M.next_us())
  host_is_busy = live_tasks > 0 or #batchers > 0 or timers.size + await_timers.size > 0
  if live_tasks > 0 and not too_many_failures() then return end
  local failure = unawaited_failure()
  if failure then reraise(failure.cause, failure.traceback) end
end

--- Is a batcher allowed to start here? nil and where it is, if not.
function M.is_driven()
  if host then return host.can_start() end
  if in_run or M.task ~= nil or in_turn then return true end
  return nil, "must be called within tokenbatcher.run"
end

--- Raise unless records may come in here.
function M.check_submit(name)
  if host then host.check(name) end
end

--- A line in the log of the host. @return boolean  is there one?
function M.host_log(level, text)
  if host then host.log(level, text) end
  return host ~= nil
end

function M.refuse_in_host(name)
  if host then
    errors.misuse(name .. ": nginx's own loop drives the batchers of a worker; "
      .. "start them in init_worker_by_lua or later")
  end
end

local ngx = rawget(_G, "ngx")
if ngx and ngx.get_phase then
  local nginx = require "tokenbatcher.runtime.pump.nginx"
  host = nginx.new(M, ended)
  M.pump, M.call, M.nginx = host, host.call, host
end

return M
