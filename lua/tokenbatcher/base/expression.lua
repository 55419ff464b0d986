--- Arithmetic as people write it, "0.25 + 0.00016*tokens", compiled once to a function of its names. Nothing else
-- that Lua knows gets in: words that are not names, functions below or signs are refused, and named.

local errors = require "tokenbatcher.base.errors"

local M = {}

local FUNCTIONS = { "ceil", "floor", "log", "max", "min", "sqrt" }
local WORDS = { ["and"] = true, ["or"] = true, ["not"] = true }

local function set_of(list)
  local out = {}
  for _, name in ipairs(list) do out[name] = true end
  return out
end

local IS_FUNCTION = set_of(FUNCTIONS)

local function unknown_name(name, names)
  local known = {}
  for _, n in ipairs(names) do known[#known + 1] = n end
  for _, n in ipairs(FUNCTIONS) do known[#known + 1] = n end
  table.sort(known)
  return ("unknown name '%s'; did you mean '%s'?"):format(name, errors.nearest(name, known))
end

-- nil, or what is wrong with the words of an expression.
local function complaint(text, names, is_condition)
  local at, is_name = 1, set_of(names)
  while at <= #text do
    local number = text:match("^%d+%.?%d*[eE][+-]?%d+", at) or text:match("^%.?%d+%.?%d*", at)
    local name = text:match("^[%a_][%w_]*", at)
    local other = text:match("^[%s%+%-%*/%^%(%),]", at)
      or is_condition and (text:match("^[<>~=]=", at) or text:match("^[<>]", at))
    if name and not (is_name[name] or IS_FUNCTION[name] or is_condition and WORDS[name]) then
      return unknown_name(name, names)
    end
    local word = number or name or other
    if not word then return ("'%s' has no place in it"):format(text:sub(at, at)) end
    if word == "-" and text:sub(at + 1, at + 1) == "-" then return "'--' has no place in it" end
    at = at + #word
  end
end

--- Does it compare? @return boolean
function M.is_condition(text) return text:find "[<>=]" ~= nil end

--- Does it name this? @return boolean
function M.names(text, name)
  for word in text:gmatch "[%a_][%w_]*" do
    if word == name then return true end
  end
  return false
end

--- @param names table  what it may name, in the order of the function's arguments, all numbers
-- @param is_condition boolean|nil  may it compare (and, or, not), and is its value true or false?
-- @return function, or nil and what is wrong with it
function M.compile(text, names, is_condition)
  if not text:find "%S" then return nil, "is empty" end
  local problem = complaint(text, names, is_condition)
  if problem then return nil, problem end
  local chunk = ("local %s = math.%s\nreturn function(%s) return (%s) end"):format(table.concat(FUNCTIONS, ", "),
    table.concat(FUNCTIONS, ", math."), table.concat(names, ", "), text)
  local what = is_condition and "is no condition" or "is no arithmetic expression"
  local made = loadstring(chunk, "=expression")
  if not made then return nil, what end
  local fn, ones = made(), {}
  for i = 1, #names do ones[i] = 1 end
  local ok, value = pcall(fn, unpack(ones))
  if not ok or type(value) ~= (is_condition and "boolean" or "number") then return nil, what end
  return fn
end

return M
