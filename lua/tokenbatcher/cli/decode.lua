--- A record from a line of input: by the script's decode, or as JSON.

local errors = require "tokenbatcher.base.errors"
local json = require "tokenbatcher.base.json"
local tasks = require "tokenbatcher.runtime.tasks"
local utf8 = require "tokenbatcher.base.utf8"

local M = {}

local function scripted(decode, line)
  local ok, value, _, message = tasks.guarded("decode function", decode, line)
  if not ok then return nil, "decode raised: " .. errors.message_of(value) end
  if value == nil then
    return nil, "decode returned nil" .. (message ~= nil and ": " .. errors.message_of(message) or "")
  end
  return value
end

--- @param decode function|nil  the script's  @param line string
-- @return any value but nil, or nil and a message
function M.record(decode, line)
  local value, message
  if not decode then
    value, message = json.decode(line)
    if not message then return value end
  end
  local at = utf8.first_error(line)
  if at then return nil, ("invalid UTF-8 at byte %d"):format(at) end
  if decode then return scripted(decode, line) end
  return nil, "broken JSON: " .. message
end

return M
