--- References, where APISIX leaves them to plugins (before 3.16): $env://NAME, found in a table here. See runtime.lua.

local M = { values = {} }

local function resolved(value)
  if type(value) == "string" then return M.values[value] or value end
  if type(value) ~= "table" then return value end
  local out = {}
  for name, item in pairs(value) do out[name] = resolved(item) end
  return out
end

--- @return another table each time
function M.fetch_secrets(refs) return resolved(refs) end

return M
