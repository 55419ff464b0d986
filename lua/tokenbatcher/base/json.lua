--- JSON: cjson decodes; encoding is ours, with object keys sorted,
-- so that the same results give the same bytes every time, and with nothing written that
-- is not JSON (NaN, a string that is not UTF-8).

local utf8 = require "tokenbatcher.base.utf8"

local find, gsub = string.find, string.gsub

local M = {}

local MAX_DEPTH = 1000
local EXACT = 2 ^ 53

local ESCAPES = { ['"'] = '\\"', ["\\"] = "\\\\", ["\b"] = "\\b", ["\f"] = "\\f", ["\n"] = "\\n",
  ["\r"] = "\\r", ["\t"] = "\\t" }
for code = 0, 31 do
  local char = string.char(code)
  ESCAPES[char] = ESCAPES[char] or ("\\u%04x"):format(code)
end

local library, decode

--- A lua-cjson of our own, loaded when it is first asked for. Raises where there is none.
function M.library()
  if library then return library end
  local ok, cjson = pcall(require, "cjson")
  if not ok then error("tokenbatcher: JSON is decoded by lua-cjson, which is not installed (Debian: lua-cjson)", 0) end
  library = cjson.new()
  library.decode_invalid_numbers(false)
  return library
end

--- @return any value (cjson.null for null), or nil and a message. Raises where lua-cjson is not.
function M.decode(text)
  decode = decode or M.library().decode
  local ok, value = pcall(decode, text)
  if ok then return value end
  return nil, value
end

-- Raised inside encode() only.
local function complain(message)
  error { message = message }
end

local function quoted(value)
  if find(value, '[%c"\\]') then value = gsub(value, '[%z\1-\31"\\]', ESCAPES) end
  return '"' .. value .. '"'
end

local function string_text(value)
  local at = utf8.first_error(value)
  if at then complain(("a string that is not UTF-8 (byte %d) has no JSON form"):format(at)) end
  return quoted(value)
end

--- A text for people as a JSON string, whatever bytes are in it.
function M.quote(text)
  return quoted(utf8.clean(text))
end

-- As few digits as give the same number again.
local function number_text(value)
  if value ~= value or value == math.huge or value == -math.huge then
    complain("the number " .. tostring(value) .. " has no JSON form")
  end
  if value % 1 == 0 and value > -EXACT and value < EXACT then return ("%d"):format(value) end
  for digits = 15, 16 do
    local short = ("%." .. digits .. "g"):format(value)
    if tonumber(short) == value then return short end
  end
  return ("%.17g"):format(value)
end

-- The length of a table that is a list (keys 1 to n), or nil.
local function list_length(value)
  local n = #value
  if n == 0 then return nil end
  local keys = 0
  for _ in pairs(value) do keys = keys + 1 end
  if keys ~= n then return nil end
  for i = 1, n do
    if value[i] == nil then return nil end
  end
  return n
end

-- Numbers first, in their order, then strings. As texts they must be different.
local function sorted_keys(value)
  local keys, seen = {}, {}
  for key in pairs(value) do
    if type(key) ~= "string" and type(key) ~= "number" then
      complain("a table with a " .. type(key) .. " as a key has no JSON form")
    end
    local text = tostring(key)
    if seen[text] then complain(("a table with the keys %s and \"%s\" has no JSON form"):format(text, text)) end
    seen[text] = true
    keys[#keys + 1] = key
  end
  table.sort(keys, function(a, b)
    if type(a) == type(b) then return a < b end
    return type(a) == "number"
  end)
  return keys
end

local append

local function append_list(out, value, n, depth)
  out[#out + 1] = "["
  for i = 1, n do
    if i > 1 then out[#out + 1] = "," end
    append(out, value[i], depth + 1)
  end
  out[#out + 1] = "]"
end

local function append_object(out, value, depth)
  out[#out + 1] = "{"
  for i, key in ipairs(sorted_keys(value)) do
    if i > 1 then out[#out + 1] = "," end
    out[#out + 1] = string_text(tostring(key))
    out[#out + 1] = ":"
    append(out, value[key], depth + 1)
  end
  out[#out + 1] = "}"
end

function append(out, value, depth)
  local kind = type(value)
  if kind == "number" then
    out[#out + 1] = number_text(value)
  elseif kind == "string" then
    out[#out + 1] = string_text(value)
  elseif kind == "table" then
    if depth > MAX_DEPTH then complain "a value nested too deeply, or containing itself, has no JSON form" end
    local n = list_length(value)
    if n then append_list(out, value, n, depth) else append_object(out, value, depth) end
  elseif kind == "boolean" then
    out[#out + 1] = tostring(value)
  elseif value == nil or kind == "userdata" and tostring(value) == "userdata: NULL" then -- cjson.null, ngx.null
    out[#out + 1] = "null"
  else
    complain("a " .. kind .. " has no JSON form")
  end
end

--- @return string, or nil and a message. An empty table is {}.
function M.encode(value)
  local out = {}
  local ok, err = pcall(append, out, value, 1)
  if ok then return table.concat(out) end
  return nil, type(err) == "table" and err.message or tostring(err)
end

return M
