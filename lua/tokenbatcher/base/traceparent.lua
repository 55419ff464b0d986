--- Trace contexts as W3C's Trace Context has them: "00-" .. 32 hexadecimal digits of the trace .. "-" .. 16 of a span
-- .. "-" .. two of flags, all in lower case.

local M = {}

local function is_set(digits) return digits:find "[^0]" ~= nil end

--- The parts of a context of version 00. @return trace, span, is_sampled; or nil
function M.parse(text)
  if #text ~= 55 then return nil end
  local trace, span, flags = text:match "^00%-([%da-f]+)%-([%da-f]+)%-([%da-f][%da-f])$"
  if not trace or #trace ~= 32 or not is_set(trace) or not is_set(span) then return nil end
  return trace, span, tonumber(flags:sub(2), 16) % 2 == 1
end

--- A context of version 00. @return string
function M.format(trace, span, is_sampled)
  return ("00-%s-%s-%s"):format(trace, span, is_sampled and "01" or "00")
end

--- A header's context, of a later version what version 00 knows of it. @param value string|nil|false  of the header
-- @return string of version 00; nil: there is none, or one that is to be ignored
function M.of_header(value)
  if not value or #value < 55 then return nil end
  if M.parse(value) then return value end
  local version = value:match "^[%da-f][%da-f]%-"
  if not version or version == "00-" or version == "ff-" then return nil end
  if #value > 55 and value:sub(56, 56) ~= "-" then return nil end
  local text = "00" .. value:sub(3, 55)
  return M.parse(text) and text or nil
end

return M
