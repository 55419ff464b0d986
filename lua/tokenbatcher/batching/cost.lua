--- What a record costs: explicit number, estimator, the record's own method, default.

local errors = require "tokenbatcher.base.errors"
local options = require "tokenbatcher.core.options"
local tasks = require "tokenbatcher.runtime.tasks"
local tbffi = require "tokenbatcher.core.ffi"

local M = {}

local MAX = options.MAX_COST
local COST_IS = tbffi.text(tbffi.lib.tb_error_text(tbffi.lib.TB_ECOST))

-- Of a whole list, which one: the name of the culprit.
local function named(source, i)
  return i and ("%s (record %d)"):format(source, i) or source
end

local function complain(source, value)
  local what
  if type(value) == "number" then what = errors.text(value)
  elseif type(value) == "string" then what = "the string " .. errors.show(value)
  else what = value == nil and "nil" or "a " .. type(value) end
  errors.raise("bad_cost", ("%s is %s; %s"):format(source, what, COST_IS))
end

--- Raise bad_cost at the caller's line unless value is a cost.
-- @param source string  where it came from, for the message
-- @param i number|nil  which record of a list it is
local function checked(value, source, i)
  if type(value) == "number" and value >= 0 and value <= MAX then return value end
  return complain(named(source, i), value)
end
M.checked = checked

-- An estimator may read stats and submit elsewhere, but must not suspend.
local function call(fn, record, source, i)
  local ok, value, has_suspended = tasks.guarded(source, fn, record)
  if has_suspended then errors.raise("bad_cost", ("the %s suspended, which it must not"):format(named(source, i))) end
  if ok and type(value) == "number" and value >= 0 and value <= MAX then return value end
  if ok then return complain("the answer of the " .. named(source, i), value) end
  errors.raise("bad_cost", ("the %s raised: %s"):format(named(source, i), errors.message_of(value)), value)
end

local function index(record, name)
  return record[name]
end

local function method(record, name)
  local ok, fn = pcall(index, record, name)
  return ok and type(fn) == "function" and fn or nil
end

--- The cost of a record submitted without one.
-- @param source table  {estimator or nil, name (of it, for messages), default, knows_tokens (does
-- record:estimate_tokens count?)}
-- @param i number|nil  which record of a list it is
function M.estimate(source, record, i)
  local estimator = source.estimator
  if estimator then return call(estimator, record, source.name, i) end
  local kind = type(record)
  if kind == "table" or kind == "userdata" then
    if source.knows_tokens then
      local fn = method(record, "estimate_tokens")
      if fn then return call(fn, record, "record:estimate_tokens", i) end
    end
    local fn = method(record, "estimate_cost")
    if fn then return call(fn, record, "record:estimate_cost", i) end
  end
  return source.default
end

return M
