--- Error objects. A failure that a program should handle is returned as `nil, err`;
-- misuse is raised. An `err` is a table:
--
--   code       string, stable: queue_full, oversize, batch_too_large, deadline, cancelled,
--              inference_failed, inference_timeout, stopped, await_timeout, coroutine_failed; raised:
--              bad_cost, bad_join, bad_group, bad_slo, not_running, deadlock
--   message    string, for people
--   cause      what was raised or given, where known
--   traceback  string, where known
--
-- tostring(err) reads "code: message".

local M = {}

local Err = {}
Err.__index = Err
Err.__tostring = function(self)
  return self.raised and self.message or self.code .. ": " .. self.message
end

--- Any value as text; never raises, whatever its __tostring does. A table that is an error
-- object of somebody else's speaks through its field `message`.
function M.text(value)
  if type(value) == "string" then return value end
  local meta = getmetatable(value)
  local has_text = type(value) ~= "table" or type(meta) == "table" and rawget(meta, "__tostring") ~= nil
  if has_text then
    local ok, text = pcall(tostring, value)
    if ok and type(text) == "string" then return text end
  end
  local message = type(value) == "table" and rawget(value, "message") or nil
  return type(message) == "string" and message or "(a " .. type(value) .. " that has no text)"
end

--- A value for use inside a message: strings quoted, everything short.
function M.show(value)
  if type(value) ~= "string" then return M.text(value) end
  local text = #value > 40 and value:sub(1, 40) .. "..." or value
  return ("%q"):format(text):gsub("\\\n", "\\n")
end

--- A new err.  @param fields table|nil  cause, traceback
function M.new(code, message, cause, traceback)
  return setmetatable({ code = code, message = message, cause = cause, traceback = traceback }, Err)
end

function M.is_err(value)
  return getmetatable(value) == Err
end

--- What a raised value says, without the code when it is an err.
function M.message_of(value)
  return M.is_err(value) and value.message or M.text(value)
end

-- Frames whose code is ours are not the caller's.
local OURS = debug.getinfo(1, "S").source:gsub("base/errors%.lua$", "")

--- "script.lua:12: " for the innermost line that is not ours; "" if there is none.
local function position()
  local level = 2
  local at = debug.getinfo(level, "Sl")
  while at do
    if at.what ~= "C" and at.source:sub(1, #OURS) ~= OURS then
      return at.short_src .. ":" .. at.currentline .. ": "
    end
    level = level + 1
    at = debug.getinfo(level, "Sl")
  end
  return ""
end

--- Raise an err whose message names the caller's line, code and what is wrong.
function M.raise(code, message, cause)
  local err = M.new(code, position() .. code .. ": " .. message, cause)
  err.raised = true
  error(err, 0)
end

--- Raise a string at the caller's line: the program is wrong.
function M.misuse(message)
  error(position() .. message, 0)
end

--- Can it be called?
function M.is_callable(value)
  if type(value) == "function" then return true end
  local meta = getmetatable(value)
  return type(meta) == "table" and rawget(meta, "__call") ~= nil
end

--- Classic edit distance, for "did you mean".
local function distance(a, b)
  local row = {}
  for j = 0, #b do row[j] = j end
  for i = 1, #a do
    local diagonal = row[0]
    row[0] = i
    for j = 1, #b do
      local cost = a:byte(i) == b:byte(j) and 0 or 1
      local best = math.min(row[j] + 1, row[j - 1] + 1, diagonal + cost)
      diagonal, row[j] = row[j], best
    end
  end
  return row[#b]
end

--- The known name nearest to `name` if it is likely to be meant, or nil.
function M.near(name, known)
  local best = M.nearest(name, known)
  return best and distance(name, best) <= math.max(2, math.floor(#name / 3)) and best or nil
end

--- A metatable with which reading an unknown field is an error that says what was meant, or what there is.
-- @param who string  what the table is called  @param find function|nil  (table, name): a field that is made
-- when it is asked for
function M.strict(who, find)
  return { __index = function(self, name)
    local value = find and find(self, name)
    if value ~= nil or type(name) ~= "string" then return value end
    local known = {}
    for field in pairs(self) do known[#known + 1] = field end
    table.sort(known)
    local near = M.near(name, known)
    M.misuse(("%s has no '%s'; %s"):format(who, name, near and "did you mean '" .. near .. "'?"
      or "it has: " .. table.concat(known, ", ")))
  end }
end

--- Raise: a method was called with a dot.
function M.needs_colon(name)
  M.misuse(("%s needs a colon: batcher:%s(...), not batcher.%s(...)"):format(name, name, name))
end

--- The known name nearest to `name`, however far. @param known string[]
function M.nearest(name, known)
  local best, best_distance
  for _, candidate in ipairs(known) do
    local d = distance(name, candidate)
    if not best or d < best_distance then best, best_distance = candidate, d end
  end
  return best
end

return M
