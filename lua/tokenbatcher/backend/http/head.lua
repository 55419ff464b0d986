--- The headers of a message as text, both ways.

local M = {}

--- "Content-Type: a\r\n" lines as a table by lower-case name; of several, joined by ", ".
function M.parse(text)
  local headers = {}
  for name, value in text:gmatch "([^:\r\n]+):[ \t]*([^\r\n]*)" do
    name, value = name:lower(), value:gsub("%s+$", "")
    headers[name] = headers[name] and headers[name] .. ", " .. value or value
  end
  return headers
end

--- Is it a header's name?
function M.is_name(name)
  return type(name) == "string" and name:find "^[%w!#$%%&'*+%-.^_`|~]+$" ~= nil
end

--- Can it be a header's value, on one line?
function M.is_value(value)
  return not value:find "[%z\1-\8\10-\31\127]"
end

return M
