--- Where relative names of files mean what they say: in a script, its own folder; elsewhere, the current one.

local M = {}

local folder -- of the script that is being loaded

--- The folder of a file.
function M.of(path)
  local found = path:match "^(.*)/[^/]*$"
  return found == "" and "/" or found or "."
end

--- From now on names are those of a script in this folder, or (nil) of nobody's.
-- @return string|nil  the former one, to be set again
function M.set(new)
  local former = folder
  folder = new
  return former
end

--- The name of a file, as seen from the current folder. @param from string|nil  the folder of the script
function M.resolve(name, from)
  from = from or folder
  if not from or from == "." or name:sub(1, 1) == "/" then return name end
  return from:gsub("/$", "") .. "/" .. name:gsub("^%./+", "")
end

return M
