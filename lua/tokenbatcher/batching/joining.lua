--- The option `join` (R8): records with an equal string and group that are in flight together are
-- one. Each caller has a future of its own; the record's settles them all.
--
-- A record that others may join has a future that nobody but us sees, with `callers`: the list of
-- theirs. A caller's future knows it by `joined_to`.

local errors = require "tokenbatcher.base.errors"
local Future = require "tokenbatcher.runtime.future"
local runs = require "tokenbatcher.batching.run"
local tasks = require "tokenbatcher.runtime.tasks"
local tbffi = require "tokenbatcher.core.ffi"
local Timers = require "tokenbatcher.runtime.timers"

local C = tbffi.lib
local STATE, ID = Future.STATE, Future.ID

local M = {}
local Joining = {}
Joining.__index = Joining

--- @param handle cdata  the core's batcher
function M.new(handle)
  -- group -> string -> the future of the record that others may join; who has a deadline of his own
  return setmetatable({ handle = handle, records = {}, deadlines = Timers.new() }, Joining)
end

--- The string by which a record is joined, or nil. Raises bad_join at the caller's line.
-- @param fn function  the option `join`
function M.string_of(fn, record)
  local ok, value, has_suspended = tasks.guarded("join function", fn, record)
  if has_suspended then errors.raise("bad_join", "the join function suspended, which it must not") end
  if not ok then errors.raise("bad_join", "the join function raised: " .. errors.message_of(value), value) end
  if value == nil or type(value) == "string" then return value end
  errors.raise("bad_join", ("the join function returned %s; a string or nil is expected")
    :format(type(value) == "number" and errors.text(value) or "a " .. type(value)))
end

-- An error of one's own (R3).
local function own(err)
  return err and errors.new(err.code, err.message, err.cause, err.traceback)
end

local NO_ENTRY = {}

-- The record has settled: so have all that joined it.
local function settle_callers(future)
  local value, err = Future.outcome(future)
  local joining, callers = future.joining, future.callers
  local by_string = joining.records[future.group or ""]
  if by_string and by_string[future.join_string] == future then
    by_string[future.join_string] = nil
    if next(by_string) == nil then joining.records[future.group or ""] = nil end
  end
  for i = 1, #callers do
    joining.deadlines:remove(callers[i].entry or NO_ENTRY)
    Future.settle(callers[i], value, i == 1 and err or own(err))
  end
end

--- One more who waits for a record. @param record table  what find() returned
-- @param deadline_us number|nil  his own  @return table  his future
local function new_caller(record, batcher, deadline_us)
  local caller = Future.new(batcher, false)
  caller.joined_to = record
  record.callers[#record.callers + 1], record.wanted = caller, record.wanted + 1
  if deadline_us then caller.entry = record.joining.deadlines:add(deadline_us, caller) end
  return caller
end

M.join = new_caller

--- A record that has entered and that others may join. @param record table  its future
-- @param linger_us number|nil  its own; nil: the option's, as it is when somebody comes
-- @return table  the future of who submitted it
function Joining:open(record, batcher, text, group, linger_us, now_us)
  record.joining, record.callers, record.wanted = self, {}, 0
  record.join_string, record.group, record.linger_us, record.submitted_us = text, group, linger_us, now_us
  self.records[group or ""] = self.records[group or ""] or {}
  self.records[group or ""][text] = record
  Future.on_settled(record, settle_callers)
  return new_caller(record, batcher)
end

-- Is it on its way, and due no later than that? One that runs is due no more.
local function may_be_joined(self, record, due_us, option_us)
  local state = C.tb_record_state(self.handle, record[ID])
  if state == C.TB_RECORD_RUNNING then return true end
  if state ~= C.TB_RECORD_QUEUED and state ~= C.TB_RECORD_CUT then return false end
  return record.submitted_us + (record.linger_us or option_us) <= due_us
end

--- Could one that is due then join a record? @param option_us number  the option batch_timeout_s
-- @return table|nil  its future
function Joining:find(text, group, due_us, option_us)
  local by_string = self.records[group or ""]
  local record = by_string and by_string[text]
  if not record or record[STATE] or not may_be_joined(self, record, due_us, option_us) then return nil end
  return record
end

-- One caller's future settles alone; the record goes with the last of them.
local function leave(batcher, caller, err)
  local record = caller.joined_to
  record.joining.deadlines:remove(caller.entry or NO_ENTRY)
  Future.settle(caller, nil, err)
  record.wanted = record.wanted - 1
  if record.wanted == 0 then batcher:cancel_record(record) end
end

--- Called by future:cancel().
function M.cancel(batcher, caller)
  leave(batcher, caller, errors.new("cancelled", "the record was cancelled"))
  return true
end

--- Callers whose own deadline has come before their record runs.
function Joining:expire(batcher, now_us)
  local caller = self.deadlines:pop(now_us)
  while caller do
    local is_waiting = C.tb_record_state(self.handle, caller.joined_to[ID]) ~= C.TB_RECORD_RUNNING
    if not caller[STATE] and is_waiting then leave(batcher, caller, runs.expired()) end
    caller = self.deadlines:pop(now_us)
  end
end

--- When expire() is needed next, microseconds, or nil.
function Joining:next_us()
  return self.deadlines:next()
end

--- How a record's linger and deadline translate: when it is due at the latest.
-- @param linger_us number  @param timeout_us number  0: none
function M.due_us(linger_us, timeout_us, now_us)
  return now_us + (timeout_us > 0 and math.min(linger_us, timeout_us / 2) or linger_us)
end

return M
