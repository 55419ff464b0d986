--- A future: the answer to one record, or the result of one coroutine. It settles once.

local errors = require "tokenbatcher.errors"
local scheduler = require "tokenbatcher.scheduler"

local M = {}

--- @class tokenbatcher.Future
local Future = {}
Future.__index = Future

--- @param batcher table|nil  whom to ask to cancel the record
function M.new(batcher)
  return setmetatable({ _settled = false, _batcher = batcher, awaited = false }, Future)
end

local function remove_waiter(future, waiter)
  local list = future._waiters
  for i = 1, #list do
    if list[i] == waiter then return table.remove(list, i) end
  end
end

-- The first waiter has a field of its own: most futures have just one.
local function add_waiter(future, waiter)
  if future._waiter == nil then
    future._waiter = waiter
    return
  end
  local list = future._waiters or {}
  future._waiters = list
  list[#list + 1] = waiter
end

local function drop_waiter(future, waiter)
  if future._waiter ~= waiter then
    if future._waiters then remove_waiter(future, waiter) end
    return
  end
  future._waiter = future._waiters and table.remove(future._waiters, 1) or nil
end

local function notify(waiter, future)
  if type(waiter) == "function" then waiter(future) else scheduler.wake(waiter, true) end
end

--- Settle it with a value, or with nil and an err. Settling twice changes nothing.
-- @return boolean  whether it did
function M.settle(future, value, err)
  if future._settled then return false end
  future._settled, future._value, future._err = true, value, err
  local waiter = future._waiter
  if waiter ~= nil then
    future._waiter = nil
    notify(waiter, future)
    local list = future._waiters
    if list then
      future._waiters = nil
      for i = 1, #list do notify(list[i], future) end
    end
  end
  return true
end

--- Call fn(future) when it settles, or now. fn must be short and must not raise.
function M.on_settled(future, fn)
  future.awaited = true
  if future._settled then fn(future) else add_waiter(future, fn) end
end

local function await_until(future, timeout_s)
  local task = scheduler.task
  local timer
  if timeout_s then timer = scheduler.timer(scheduler.now_us() + timeout_s * 1e6) end
  add_waiter(future, task)
  scheduler.suspend "await"
  if timer then scheduler.cancel_timer(timer) end
  if not future._settled then drop_waiter(future, task) end
end

--- Wait for the answer. May be called by many, and again.
-- @param timeout_s number|nil  seconds, >= 0; the future stays as it is when they pass
-- @return any result, or nil and an err (code await_timeout when the time passed)
function Future:await(timeout_s)
  self.awaited = true
  if self._settled then return self._value, self._err end
  if timeout_s ~= nil and not (type(timeout_s) == "number" and timeout_s >= 0) then
    errors.misuse("await: timeout_s must be a number of seconds >= 0, got " .. errors.show(timeout_s))
  end
  if timeout_s == math.huge then timeout_s = nil end
  scheduler.require_suspend("await", 2)
  await_until(self, timeout_s)
  if self._settled then return self._value, self._err end
  return nil, errors.new("await_timeout", ("no answer within %.14g s"):format(timeout_s))
end

--- Cancel the record. A coroutine's future cannot be cancelled.
-- @return boolean  whether that changed anything
function Future:cancel()
  if self._settled or not self._batcher then return false end
  return self._batcher:cancel_record(self)
end

--- @return boolean
function Future:done()
  return self._settled
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

scheduler.new_future = M.new
scheduler.settle = M.settle

return M
