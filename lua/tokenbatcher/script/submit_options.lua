--- A script's submit_options(record): what `submit` is to know of a record, beside its content.

local errors = require "tokenbatcher.base.errors"
local tasks = require "tokenbatcher.runtime.tasks"
local traceparent = require "tokenbatcher.base.traceparent"

local M = {}

local function above_zero(value) return value > 0 end
local function not_below_zero(value) return value >= 0 end
local function any() return true end
local function is_context(value) return traceparent.parse(value) ~= nil end

--- name -> {kind, what it must be, fits(value) for numbers}.
M.KNOWN = {
  key = { kind = "string", what = "a string" },
  group = { kind = "string", what = "a string" },
  priority = { kind = "number", what = "a number", fits = any },
  timeout_s = { kind = "number", what = "a number of seconds above 0", fits = above_zero },
  batch_timeout_s = { kind = "number", what = "a number of seconds >= 0", fits = not_below_zero },
  trace = { kind = "string", what = "a W3C traceparent (00-TRACE-SPAN-FLAGS)", fits = is_context },
}
local NAMES = { "batch_timeout_s", "group", "key", "priority", "timeout_s", "trace" }

--- Does a value do for what is known as `known`?
function M.fits(known, value)
  return type(value) == known.kind and (not known.fits or value == value and known.fits(value))
end

--- Ask the script, and put what it says into `opts`, where nothing is yet.
-- @return opts, or nil and a message
function M.ask(fn, record, opts)
  local ok, given = tasks.guarded("submit_options function", fn, record)
  if not ok then return nil, "submit_options raised: " .. errors.message_of(given) end
  if given == nil then return opts end
  if type(given) ~= "table" then return nil, "submit_options returned a " .. type(given) .. ", not a table" end
  for name, value in pairs(given) do
    local known = M.KNOWN[name]
    if not known then
      return nil, ("submit_options: unknown option '%s'; did you mean '%s'?"):format(errors.text(name),
        errors.nearest(errors.text(name), NAMES))
    end
    if not M.fits(known, value) then
      return nil, ("submit_options: %s must be %s, got %s"):format(name, known.what, errors.show(value))
    end
    if opts[name] == nil then opts[name] = value end
  end
  return opts
end

return M
