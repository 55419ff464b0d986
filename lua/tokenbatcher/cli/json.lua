--- JSON for the command line: cjson decodes; encoding is ours around cjson's scalars,
-- with object keys sorted, so that the same results give the same bytes every time.

local cjson = require("cjson").new()

local M = {}

cjson.decode_invalid_numbers(false)
cjson.encode_invalid_numbers(false)

local MAX_DEPTH = 1000
local EXACT = 2 ^ 53

--- @return any value (cjson.null for null), or nil and a message
function M.decode(text)
  local ok, value = pcall(cjson.decode, text)
  if ok then return value end
  return nil, value
end

local function number(value)
  if value ~= value or value == math.huge or value == -math.huge then
    error({ message = "the number " .. tostring(value) .. " has no JSON form" })
  end
  if value % 1 == 0 and value > -EXACT and value < EXACT then return ("%d"):format(value) end
  local short = ("%.14g"):format(value)
  return tonumber(short) == value and short or ("%.17g"):format(value)
end

local function sorted_keys(value)
  local keys = {}
  for key in pairs(value) do
    if type(key) ~= "string" and type(key) ~= "number" then
      error({ message = "a " .. type(key) .. " as a key has no JSON form" })
    end
    keys[#keys + 1] = key
  end
  table.sort(keys, function(a, b)
    if type(a) == type(b) then return a < b end
    return type(a) == "number"
  end)
  return keys
end

local append

local function append_table(out, value, depth)
  if depth > MAX_DEPTH then error { message = "a value is nested too deeply, or contains itself" } end
  local keys = sorted_keys(value)
  local n = #keys
  local is_list = n > 0 and keys[1] == 1 and keys[n] == n
  out[#out + 1] = is_list and "[" or "{"
  for i = 1, n do
    if i > 1 then out[#out + 1] = "," end
    if not is_list then
      out[#out + 1] = cjson.encode(tostring(keys[i]))
      out[#out + 1] = ":"
    end
    append(out, value[keys[i]], depth + 1)
  end
  out[#out + 1] = is_list and "]" or "}"
end

function append(out, value, depth)
  local kind = type(value)
  if kind == "table" then
    append_table(out, value, depth)
  elseif kind == "number" then
    out[#out + 1] = number(value)
  elseif kind == "string" or kind == "boolean" or value == nil or value == cjson.null then
    out[#out + 1] = cjson.encode(value)
  else
    error { message = "a " .. kind .. " has no JSON form" }
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
