--- The option `slo`: within how many seconds of its submission an answer to a record is of use. Policies read it as
-- queue:slo(i); it fails no record, and no batch goes for it.
--
-- It is a number; an expression over tokens (the record's cost) and priority, "0.25 + 0.00016*tokens"; or a function
-- of (record, tokens) that returns seconds, or nil: this record has none.

local errors = require "tokenbatcher.base.errors"
local expression = require "tokenbatcher.base.expression"
local kinds = require "tokenbatcher.base.kinds"
local tasks = require "tokenbatcher.runtime.tasks"

local M = {}

local NAMES = { "tokens", "priority" }

local function is_time(value) return type(value) == "number" and value > 0 and value < math.huge end

--- @return {value, of = function(tokens, priority) | nil, ask = function(record, tokens) | nil}, or nil and a message
function M.resolve(value)
  if errors.is_callable(value) then return { ask = value } end
  if is_time(value) then return { of = function() return value end } end
  if type(value) ~= "string" then
    return nil, "must be a number of seconds above 0, an expression, or a function, got " .. errors.show(value)
  end
  local fn, message = expression.compile(value, NAMES)
  if not fn then return nil, ("'%s': %s (names: tokens, priority)"):format(value, message) end
  return { of = fn }
end

-- What a user's function says.
local function asked(slo, record, tokens)
  local ok, seconds, has_suspended = tasks.guarded("slo function", slo.ask, record, tokens)
  if has_suspended then errors.raise("bad_slo", "the slo function suspended, which it must not") end
  if not ok then errors.raise("bad_slo", "the slo function raised: " .. errors.message_of(seconds), seconds) end
  return seconds
end

--- @param slo table  of resolve()
-- @return number|nil  seconds; nil: the record has none. Raises bad_slo.
function M.of(slo, record, tokens, opts)
  local seconds
  if slo.ask then
    seconds = asked(slo, record, tokens)
  else
    seconds = slo.of(tokens, opts and opts.priority or 0)
  end
  if seconds == nil or is_time(seconds) then return seconds end
  errors.raise("bad_slo", ("slo gave %s for a record of %.14g tokens; a number of seconds above 0 is needed")
    :format(errors.show(seconds), tokens))
end

--- The same for a list, so that on a bad one none has entered.
function M.check_each(slo, records, costs, n, opts)
  for i = 1, n do M.of(slo, records[i], costs[i - 1], opts[i]) end
end

kinds.register("slo", M)

return M
