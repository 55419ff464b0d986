--- What a record costs: explicit number, estimator, the record's own method, default.

local errors = require "tokenbatcher.errors"
local scheduler = require "tokenbatcher.scheduler"

local M = {}

local MAX = 1e12

local function complain(source, value)
  local what
  if type(value) == "number" then what = errors.text(value)
  elseif type(value) == "string" then what = "the string " .. errors.show(value)
  else what = value == nil and "nil" or "a " .. type(value) end
  errors.raise("bad_cost", ("%s is %s; a cost is a finite number from 0 to 1e12"):format(source, what))
end

--- Raise bad_cost at the caller's line unless value is a cost.
-- @param source string  where it came from, for the message
local function checked(value, source)
  if type(value) == "number" and value >= 0 and value <= MAX then return value end
  return complain(source, value)
end
M.checked = checked

-- An estimator may read stats and submit elsewhere, but must not suspend.
local function call(fn, record, source)
  local context = scheduler.context
  scheduler.context = source
  local ok, value = pcall(fn, record)
  local has_yielded = scheduler.context ~= source -- the scheduler clears it when a coroutine is put aside
  scheduler.context = context
  if has_yielded then errors.raise("bad_cost", ("the %s suspended, which it must not"):format(source)) end
  if ok then return checked(value, "the " .. source .. "'s answer") end
  errors.raise("bad_cost", ("the %s raised: %s"):format(source, errors.message_of(value)), value)
end

local function index(record, name)
  return record[name]
end

local function method(record, name)
  local ok, fn = pcall(index, record, name)
  return ok and type(fn) == "function" and fn or nil
end

--- The cost of a record submitted without one.
-- @param batcher table  with _estimator, _default_cost, _class
function M.estimate(batcher, record)
  local estimator = batcher._estimator
  if estimator then return call(estimator, record, batcher._estimator_name) end
  local kind = type(record)
  if kind == "table" or kind == "userdata" then
    if batcher._class == "TokenBatcher" then
      local fn = method(record, "estimate_tokens")
      if fn then return call(fn, record, "record:estimate_tokens") end
    end
    local fn = method(record, "estimate_cost")
    if fn then return call(fn, record, "record:estimate_cost") end
  end
  return batcher._default_cost
end

return M
