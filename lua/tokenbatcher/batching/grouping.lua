--- What an inference function says of what may share a call. One that is a callable table may have
-- group(self, record): a string, or nil where it does not matter. It is joined to the group that the caller
-- gives, so that neither is broken (F1).

local errors = require "tokenbatcher.base.errors"
local tasks = require "tokenbatcher.runtime.tasks"

local M = {}

local APART = "\31"

--- A group's name with a mark: records of equal marks may share a call, and nobody else does. Who runs the batch
-- does not see it.
function M.apart(group, number)
  return ("%s%s%d"):format(group or "", APART, number)
end

--- A group's name as it was given.
function M.given(group)
  if not group:find(APART, 1, true) then return group end
  return (group:gsub(APART .. "%d*", ""))
end

--- The inference function, where it says such things; nil.
function M.grouper(fn)
  return type(fn) == "table" and errors.is_callable(fn.group) and fn or nil
end

-- Raises bad_group at the caller's line.
local function group_of(fn, record)
  local ok, value, has_suspended = tasks.guarded("group function", fn.group, fn, record)
  if has_suspended then errors.raise("bad_group", "the inference function's group suspended, which it must not") end
  if not ok then
    errors.raise("bad_group", "the inference function's group raised: " .. errors.message_of(value), value)
  end
  if value == nil or type(value) == "string" then return value end
  errors.raise("bad_group", ("the inference function's group returned %s; a string or nil is expected")
    :format(type(value) == "number" and errors.text(value) or "a " .. type(value)))
end

--- A record's options with its whole group: what was given, or a copy.
function M.options_of(fn, record, opts)
  local group = group_of(fn, record)
  if not group then return opts end
  local own = {}
  for name, value in pairs(opts or {}) do own[name] = value end
  own.group = own.group and own.group .. "\n" .. group or group
  return own
end

--- The same for a list of records. @param fn table|nil  see grouper()
-- @return table  by position; the same options for all where there is no grouper
function M.options_of_each(fn, records, opts)
  if not fn then return setmetatable({}, { __index = function() return opts end }) end
  local own = {}
  for i = 1, #records do own[i] = M.options_of(fn, records[i], opts) end
  return own
end

return M
