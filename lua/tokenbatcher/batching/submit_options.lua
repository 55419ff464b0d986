--- The options of a call of submit: which there are, whether what is given is of their kind, and
-- what its times are for the core.

local clock = require "tokenbatcher.runtime.clock"
local errors = require "tokenbatcher.base.errors"
local tbffi = require "tokenbatcher.core.ffi"
local traceparent = require "tokenbatcher.base.traceparent"

local AT_ONCE = tonumber(tbffi.lib.TB_AT_ONCE)

local M = {}

local OPTIONS = {
  TokenBatcher = { "estimated_tokens", "estimated_cost", "priority", "timeout_s", "batch_timeout_s", "key", "group",
    "trace" },
  DynamicBatcher = { "estimated_cost", "priority", "timeout_s", "batch_timeout_s", "key", "group", "trace" },
}
local IS_OPTION = {}
for class, names in pairs(OPTIONS) do
  IS_OPTION[class] = {}
  for _, name in ipairs(names) do IS_OPTION[class][name] = true end
end

--- The options that a class knows. @return string[]
function M.names(class) return OPTIONS[class] end

-- Longer ones mean for ever.
local LONGEST_S = clock.LONGEST_S

local function bad_option(class, name)
  local known = OPTIONS[class]
  errors.misuse(("submit: unknown option '%s'; did you mean '%s'?"):format(errors.text(name),
    errors.nearest(errors.text(name), known)))
end

local function check_string(name, value)
  if type(value) == "string" then return end
  errors.misuse(("submit: %s must be a string, got %s"):format(name, errors.show(value)))
end

local function check_trace(value)
  if type(value) == "string" and traceparent.parse(value) then return end
  errors.misuse("submit: trace must be a W3C traceparent such as "
    .. "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01, got " .. errors.show(value))
end

-- Raises unless all that a call gives is known and of its kind.
--- @param class string  of the batcher
function M.check(class, opts)
  if type(opts) ~= "table" then errors.misuse("submit: options must be a table, got a " .. type(opts)) end
  local is_known = IS_OPTION[class]
  for name in pairs(opts) do
    if not is_known[name] then bad_option(class, name) end
  end
  local priority, timeout_s, linger_s = opts.priority, opts.timeout_s, opts.batch_timeout_s
  if priority ~= nil and (type(priority) ~= "number" or priority ~= priority) then
    errors.misuse("submit: priority must be a number, got " .. errors.show(priority))
  end
  if opts.key ~= nil then check_string("key", opts.key) end
  if opts.group ~= nil then check_string("group", opts.group) end
  if opts.trace ~= nil then check_trace(opts.trace) end
  if timeout_s ~= nil and not (type(timeout_s) == "number" and timeout_s > 0) then
    errors.misuse("submit: timeout_s must be a number of seconds above 0, got " .. errors.show(timeout_s))
  end
  if linger_s ~= nil and not (type(linger_s) == "number" and linger_s >= 0) then
    errors.misuse("submit: batch_timeout_s must be a number of seconds >= 0, got " .. errors.show(linger_s))
  end
end

--- When it expires, microseconds after the call; 0: never.
function M.timeout_us(opts)
  local timeout_s = opts and opts.timeout_s
  if not timeout_s then return 0 end
  return math.max(1, math.floor(math.min(timeout_s, LONGEST_S) * 1e6 + 0.5))
end

-- How long a record may linger, for the core: TB_AT_ONCE, or microseconds; 0: as the option says.
function M.linger_us(opts)
  local linger_s = opts and opts.batch_timeout_s
  if not linger_s then return 0 end
  if linger_s == 0 then return AT_ONCE end
  return math.max(1, math.floor(math.min(linger_s, LONGEST_S) * 1e6 + 0.5))
end

return M
