--- Tasks: what runs, waits and is woken. A task is {fn, arguments, on_end, waiting, value, owner}.
-- `owner` is the batcher whose inference function it runs. While a task waits for something
-- that can be called off, its `on_abandon` does that.

local clock = require "tokenbatcher.runtime.clock"
local errors = require "tokenbatcher.base.errors"
local host = require "tokenbatcher.runtime.host"
local Timers = require "tokenbatcher.runtime.timers"

local M = {}

-- Who sleeps, and who awaits with a timeout: of one instant, answers come before timeouts.
local timers, await_timers = Timers.new(), Timers.new()

local call = host.call

--- Let a suspended task go on, once. @param value any  what suspend() returns there
function M.wake(task, value)
  if not task.waiting then return end
  task.waiting = false
  task.value = value
  host.resume(task)
end

--- Let a task go on that waits for an answer, which is where it will look for it.
-- @function answer(task)
M.answer = host.answer

--- The task that runs, if it is one of ours and its own code, not that of a coroutine in it, and may suspend; nil.
M.here = host.here

--- Suspend this task, which here() was, until it is given an answer. @param what string  see suspend
M.pause = host.pause

--- The batcher whose inference function runs here, or nil.
M.owner = host.owner

--- The running code as something that wake() can wake. Check can_suspend() first; suspend it next.
M.waiter = host.waiter

--- May the running code suspend? nil and the reason if not.
function M.can_suspend()
  if host.context then return nil, "inside a " .. host.context end
  return host.can_suspend()
end

--- Suspend the running code until wake(waiter, value); returns value.
-- @param what string  what it waits for, for the deadlock report
function M.suspend(waiter, what)
  waiter.waiting = true
  return host.suspend(waiter, what)
end

--- Raise unless the running code may suspend. @param name string  of the call that would
function M.require_suspend(name)
  local ok, reason = M.can_suspend()
  if not ok then errors.misuse(name .. " cannot wait here: " .. reason) end
end

--- "token_estimator" and the like while such a function runs; nil.
function M.context() return host.context end

--- From now on such a function runs, or none (nil). @return what ran until now, to be set again
function M.set_context(context)
  local outer = host.context
  host.context = context
  return outer
end

--- Call a user's function that must not suspend. @param context string  what it is: see context()
-- @return like pcall, one value; whether it has suspended all the same; a second value (not in nginx)
function M.guarded(context, fn, a, b, c, d)
  local outer = host.context
  host.context = context
  local ok, value, second = call(fn, a, b, c, d)
  local has_suspended = host.context ~= context -- cleared when a coroutine is put aside
  host.context = outer
  return ok, value, has_suspended, second
end

--- Suspend until a time. @param at_us number  on the pump's clock
function M.sleep_until(at_us)
  local waiter = host.waiter()
  if not (at_us <= clock.now_us() and host.rests(waiter)) then timers:add(at_us, waiter) end
  clock.notify()
  M.suspend(waiter, "sleep")
end

--- Wakes the waiter with `false`, after all else of that instant.
-- @return table  for cancel_timer
function M.await_timer(waiter, at_us)
  clock.notify()
  return await_timers:add(at_us, waiter)
end

function M.cancel_timer(entry)
  await_timers:remove(entry)
end

--- Run fn(unpack(arguments)), then on_end(task, ok, ...).
-- @param owner table|nil  the batcher whose inference function it is
function M.start(fn, arguments, on_end, owner)
  local task = { fn = fn, arguments = arguments, on_end = on_end, owner = owner, waiting = false }
  host.start(task)
  return task
end

-- Owners of tasks that were abandoned: at the end of the run those that have not ended never will.
local owners = setmetatable({}, { __mode = "k" })

--- Nobody wants any more what a task is computing. If it waits for something that can be
-- called off, that is called off; otherwise it goes on, and its answer is ignored.
function M.abandon(task)
  task.is_abandoned, owners[task.owner] = true, true
  if task.on_abandon then task:on_abandon() end
end

--- To be called by the running task before it begins what could be called off: if nobody wants
-- its answer, it learns so by `cancelled`, once. Should it begin something all the same (it retries
-- for ever, say), it ends there and is never resumed.
function M.require_wanted(what)
  local task = M.waiter()
  if not (task.is_abandoned or task.is_unwanted) then return end
  if task.was_told then host.drop() end
  M.raise_cancelled(task, what)
end

--- What it waited for was called off: it is told so.
function M.raise_cancelled(task, what)
  task.was_told = true
  error(errors.new("cancelled", ("nobody waits for this %s any more"):format(what)), 0)
end

--- Nobody wants the answer any more, but the call keeps its slot until it ends: only what can
-- be called off at no cost is (`on_unwanted`, a request; a thread would be lost).
function M.call_off(task)
  task.is_unwanted = true
  if task.on_unwanted then task:on_unwanted() end
end

-- --- for the loop -----------------------------------------------------------------

local function fire(heap, now)
  local task = heap:pop(now)
  local any = task ~= nil
  while task do
    M.wake(task, false)
    task = heap:pop(now)
  end
  return any
end

--- Wake who has slept until now; who has awaited for too long. @return boolean  anyone
function M.fire_sleepers(now) return fire(timers, now) end

function M.fire_awaits(now) return fire(await_timers, now) end

--- The turn of a task comes again at once.
function M.again(task) timers:add(clock.pump.now(), task) end

--- When the first who sleeps is to be woken, microseconds, or nil.
function M.first_sleeper_us() return timers:next() end

--- When the first of all is to be woken.
function M.next_us()
  local at, awaited_at = timers:next(), await_timers:next()
  if awaited_at and (not at or awaited_at < at) then at = awaited_at end
  return at
end

--- How many wait for a time.
function M.timed() return timers.size + await_timers.size end

--- Forget all who wait.
function M.clear()
  timers, await_timers = Timers.new(), Timers.new()
  host.clear()
  for owner in pairs(owners) do
    owners[owner] = nil
    owner:forget_calls()
  end
end

return M
