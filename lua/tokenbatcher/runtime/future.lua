--- A future: the answer to one record, or the result of one coroutine. It settles once.

local clock = require "tokenbatcher.runtime.clock"
local errors = require "tokenbatcher.base.errors"
local tasks = require "tokenbatcher.runtime.tasks"

local here, pause, answer = tasks.here, tasks.pause, tasks.answer

local M = {}

--- @class tokenbatcher.Future
local Future = {}
Future.__index = Future

-- Four fields in the array part, which is the smallest table that there is:
--   STATE    false: pending; "done": it has a value; "failed": it has an err
--   HELD     while pending, who waits: false, a task, a function, or a list of those;
--            afterwards the value or the err
--   BATCHER  whom to ask to cancel the record; false for a coroutine's
--   ID       the record's id
-- and what its users add, each by name and where it is wanted: `tag`, whatever script/engine.lua would find there
-- again; in batching, the numbers of a record's key and group, what a producer in line waits with, who has joined.
local STATE, HELD, BATCHER, ID = 1, 2, 3, 4
M.STATE, M.HELD, M.BATCHER, M.ID = STATE, HELD, BATCHER, ID

--- @param batcher table|false  @param id number|false
function M.new(batcher, id)
  return setmetatable({ false, false, batcher, id }, Future)
end

-- A list of waiters is marked, since a task is a table, too.
local function add_waiter(future, waiter)
  local held = future[HELD]
  if not held then
    future[HELD] = waiter
  elseif type(held) == "table" and held.is_list then
    held[#held + 1] = waiter
  else
    future[HELD] = { is_list = true, held, waiter }
  end
end

local function drop_waiter(future, waiter)
  local held = future[HELD]
  if held == waiter then
    future[HELD] = false
    return
  end
  for i = 1, #held do
    if held[i] == waiter then return table.remove(held, i) end
  end
end

local function notify(waiter, future)
  if type(waiter) == "function" then waiter(future) else answer(waiter) end
end

local function notify_held(future, held)
  if type(held) == "table" and held.is_list then
    for i = 1, #held do notify(held[i], future) end
  else
    notify(held, future)
  end
end

--- Settle one that is pending with a value.
function M.fulfil(future, value)
  local held = future[HELD]
  future[STATE], future[HELD] = "done", value
  if held then notify_held(future, held) end
end

--- Settle it with a value, or with nil and an err. Settling twice changes nothing.
-- @return boolean  whether it did
function M.settle(future, value, err)
  if future[STATE] then return false end
  if err == nil then
    M.fulfil(future, value)
    return true
  end
  local held = future[HELD]
  future[STATE], future[HELD] = "failed", err
  if held then notify_held(future, held) end
  return true
end

--- What await returns, of a future that has settled.
local function outcome(future)
  if future[STATE] == "failed" then return nil, future[HELD] end
  return future[HELD]
end
M.outcome = outcome

--- Call fn(future) when it settles, or now. fn must be short and must not raise.
function M.on_settled(future, fn)
  if future[STATE] then fn(future) else add_waiter(future, fn) end
end

local LONGEST_S = clock.LONGEST_S

local function await_until(future, timeout_s)
  local waiter, timer = tasks.waiter(), nil
  if timeout_s then timer = tasks.await_timer(waiter, clock.now_us() + math.min(timeout_s, LONGEST_S) * 1e6) end
  add_waiter(future, waiter)
  tasks.suspend(waiter, "await")
  if timer then tasks.cancel_timer(timer) end
  if not future[STATE] then drop_waiter(future, waiter) end
end

--- Wait, as a task that is the only one who does, and for as long as it takes. @return as await
function M.await_alone(future, task)
  future[HELD] = task
  pause(task, "await")
  if future[STATE] == "done" then return future[HELD] end
  return nil, future[HELD]
end
local await_alone = M.await_alone

local function not_a_future(method, value)
  errors.misuse(("%s: a future is needed, got %s (future:%s() has a colon)"):format(method,
    value == nil and "nil" or "a " .. type(value), method))
end

--- Wait for the answer. May be called by many, and again.
-- @param timeout_s number|nil  seconds, >= 0; the future stays as it is when they pass
-- @return any result, or nil and an err (code await_timeout when the time passed)
function Future:await(timeout_s)
  if getmetatable(self) ~= Future then not_a_future("await", self) end
  if not self[BATCHER] then self.awaited = true end
  if self[STATE] then return outcome(self) end
  if timeout_s == nil and not self[HELD] then
    local task = here()
    if task then return await_alone(self, task) end
  end
  if timeout_s ~= nil and not (type(timeout_s) == "number" and timeout_s >= 0) then
    errors.misuse("await: timeout_s must be a number of seconds >= 0, got " .. errors.show(timeout_s))
  end
  if timeout_s == math.huge then timeout_s = nil end
  tasks.require_suspend "await"
  await_until(self, timeout_s)
  if self[STATE] then return outcome(self) end
  if not self[BATCHER] and not self[HELD] then self.awaited = false end -- nobody has seen it
  return nil, errors.new("await_timeout", ("no answer within %.14g s"):format(timeout_s))
end

--- Cancel the record. A coroutine's future cannot be cancelled.
-- @return boolean  whether that changed anything
function Future:cancel()
  if getmetatable(self) ~= Future then not_a_future("cancel", self) end
  if self[STATE] or not self[BATCHER] then return false end
  return self[BATCHER]:cancel_record(self)
end

--- @return boolean
function Future:done()
  if getmetatable(self) ~= Future then not_a_future("done", self) end
  return self[STATE] ~= false
end

--- Wait for all. @param futures table  a list
-- @return table results, table errors  by the same indices (nil where there is none)
function M.gather(futures)
  if type(futures) ~= "table" then errors.misuse("gather: a list of futures is needed, got a " .. type(futures)) end
  for i = 1, #futures do
    if getmetatable(futures[i]) ~= Future then
      errors.misuse(("gather: element %d is not a future but a %s"):format(i, type(futures[i])))
    end
  end
  local results, errs = {}, {}
  for i = 1, #futures do results[i], errs[i] = futures[i]:await() end
  return results, errs
end

return M
