--- An answer as a line of the output.
--
-- An entry is {index, at, record, result, err, accepted, id, again}: `index` the number of the line of input,
-- `id` {name, text}, the record's own, as JSON.

local errors = require "tokenbatcher.base.errors"
local json = require "tokenbatcher.base.json"
local tasks = require "tokenbatcher.runtime.tasks"

local M = {}

-- Each returns the line and, when the record counts as failed, the code and message.

local function start(entry)
  local id = entry.id
  if not id then return ('{"index":%d,'):format(entry.index) end
  return ('{"index":%d,%s:%s,'):format(entry.index, id.name, id.text)
end

local function failure_line(entry, code, message)
  local text = ('%s"error":{"code":%s,"message":%s}}'):format(start(entry), json.quote(code), json.quote(message))
  return text, code, message
end

local function plain_line(entry)
  if entry.err then return failure_line(entry, entry.err.code, entry.err.message) end
  local text, message = json.encode(entry.result)
  if text and not entry.id then return ('{"index":%d,"result":%s}'):format(entry.index, text) end
  if text then return start(entry) .. '"result":' .. text .. "}" end
  return failure_line(entry, "bad_output", "the result cannot be written: " .. message)
end

-- The script's own encode: a string is the line, whatever is in it (see json.one_line); any
-- other value is written as JSON.
local function scripted_line(entry, encode)
  local ok, line = tasks.guarded("encode function", encode, entry.record, entry.result, entry.err)
  if not ok then return failure_line(entry, "bad_output", "encode raised: " .. errors.message_of(line)) end
  if line == nil then return failure_line(entry, "bad_output", "encode returned nil") end
  if type(line) ~= "string" then
    local text, message = json.encode(line)
    if not text then
      return failure_line(entry, "bad_output", "what encode returned cannot be written: " .. message)
    end
    line = text
  end
  line = json.one_line(line)
  if entry.err then return line, entry.err.code, entry.err.message end
  return line
end

--- @param encode function|nil  the script's  @return string line, without its newline; of a failed record also
-- the code and message
function M.line(entry, encode)
  if encode and entry.accepted then return scripted_line(entry, encode) end
  return plain_line(entry)
end

return M
