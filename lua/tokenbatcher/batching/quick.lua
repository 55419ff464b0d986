--- The quick way in, for what most records are: a cost, and nothing else. One call of the core
-- (tb_submit_plain), which counts nothing when it refuses; whatever it refuses, and all that is not
-- plain, takes the way of submission.lua, which counts, waits or says why.
--
-- A batcher has `_is_plain` while nothing but the core wants to know of a record: no recording, no limit of a
-- policy, no joining, no grouping, no slo.

local clock = require "tokenbatcher.runtime.clock"
local cost = require "tokenbatcher.batching.cost"
local Future = require "tokenbatcher.runtime.future"
local host = require "tokenbatcher.runtime.host"
local options = require "tokenbatcher.core.options"
local tbffi = require "tokenbatcher.core.ffi"

local C, SLOTS = tbffi.lib, tbffi.SLOTS
local RUNNING, MAY_WAIT = tonumber(C.TB_RUNNING), tonumber(C.TB_MAY_WAIT)
local STATE, HELD, BATCHER, ID = Future.STATE, Future.HELD, Future.BATCHER, Future.ID
local MAX_COST = options.MAX_COST
local new_future, await_alone = Future.new, Future.await_alone

local M = {}

-- The cost that these options give, if they give nothing else, and if it is one.
local function only_cost(self, opts)
  if type(opts) ~= "table" or getmetatable(opts) ~= nil then return nil end
  local name, value = next(opts)
  if next(opts, name) ~= nil then return nil end
  if name ~= "estimated_cost" and not (name == "estimated_tokens" and self._class == "TokenBatcher") then return nil end
  return type(value) == "number" and value >= 0 and value <= MAX_COST and value or nil
end

--- What a plain record costs; nil: it is to be looked at with care. An estimator is asked here and not again.
-- @param self table  a batcher that is plain
function M.cost_of(self, record, opts)
  if opts ~= nil then return only_cost(self, opts) end
  if C.tb_state(self._handle) ~= RUNNING then return nil end
  return cost.estimate(self._cost_source, record)
end

-- @param future table|nil  to be used again
local function enlist(self, record, id, future)
  if future then
    future[STATE], future[HELD], future[BATCHER], future[ID] = false, false, self, id
  else
    future = new_future(self, id)
  end
  local slot = id % SLOTS
  self._records[slot], self._futures[slot] = record, future
  self.unsettled = self.unsettled + 1
  return future
end

--- Hand it to the core. @param future table|nil  to be used again
-- @return its future; nil: it was refused, and is to be handed in with care
local function hand_in(self, record, value, future)
  local pump = clock.pump
  if not pump then return nil end
  local id
  if pump.ev then
    id = C.tb_ev_submit_plain(pump.ev, self._handle, value)
  else
    id = C.tb_submit_plain(self._handle, value, pump.now())
  end
  if id < 0 then return nil end
  if not host.task then clock.notify() end
  return enlist(self, record, id, future)
end
M.hand_in = hand_in

local called = tbffi.new "tb_submission" -- no other field is ever set

--- The same for a record that another thread has handed in, which may take a place in the line.
-- @param submitted_us number  when it did
-- @return its future; or nil and the core's code, which has counted it
function M.hand_in_called(self, record, value, submitted_us)
  called.cost, called.submitted_us, called.flags = value, submitted_us, self._may_wait and MAY_WAIT or 0
  local id = C.tb_submit(self._handle, called, clock.now_us())
  if id < 0 then return nil, id end
  clock.notify()
  return enlist(self, record, id)
end

--- May a record come in this way, here? @param self any  what `submit` was called with
function M.is_open(self, record)
  return record ~= nil and type(self) == "table" and self._is_plain and not host.context
    and (host.task ~= nil or host.admits())
end

--- submit and await in one, for a task of ours. Nobody ever sees the future, so that the task uses it again (but
-- one of a batch that was bisected, whose futures are looked at once more: `is_kept`).
-- @return result, or nil and an err
function M.ask(self, task, record, value)
  local future = task.own
  task.own = nil -- what is called meanwhile may ask, too
  future = hand_in(self, record, value, future)
  if not future then return false end
  local result, err = await_alone(future, task)
  future[HELD] = false
  if not future.is_kept then task.own = future end
  return true, result, err
end

return M
