--- Integers above 2^53, as JSON has them, which a Lua number cannot hold.
--
-- One is a value of its own kind (type "cdata"): it reads and is written as the digits that it
-- came with, compares exactly with others and with numbers, and takes part in arithmetic as the
-- nearest number (x + 0 is that number). Equal ones are one object while any is alive, so that
-- they do as keys of tables.

local ffi = require "ffi"

local M = {}

local exact = ffi.typeof "struct { double near; uint32_t size; char digits[?]; }"
local int64, uint64 = ffi.typeof "int64_t", ffi.typeof "uint64_t"

local alive = setmetatable({}, { __mode = "v" }) -- digits -> value

--- @param digits string  an integer as JSON writes it
function M.new(digits)
  local value = alive[digits]
  if value then return value end
  value = exact(#digits + 1, tonumber(digits), #digits)
  ffi.copy(value.digits, digits)
  alive[digits] = value
  return value
end

--- The digits of an exact integer, or of one of LuaJIT's 64-bit integers; nil for any other cdata.
function M.text(value)
  if ffi.istype(exact, value) then return ffi.string(value.digits, value.size) end
  if ffi.istype(int64, value) or ffi.istype(uint64, value) then return (tostring(value):match "^-?%d+") end
  return nil
end

-- LuaJIT's own 64-bit integer, or the nearest number where the digits are too many for one.
local function portable(value)
  local digits = M.text(value)
  local chunk = loadstring("return " .. digits .. (digits:sub(1, 1) == "-" and "LL" or "ULL"))
  local integer = chunk and chunk()
  return integer and M.text(integer) == digits and integer or value.near
end

-- A copy of a value with such integers. copies: table -> its copy
local function copy_of(value, copies)
  if type(value) == "cdata" and ffi.istype(exact, value) then return portable(value) end
  if type(value) ~= "table" then return value end
  if copies[value] then return copies[value] end
  local copy = {}
  copies[value] = copy
  for key, item in next, value do copy[copy_of(key, copies)] = copy_of(item, copies) end
  return copy
end

--- pcall(send, value), where send takes what another Lua state can be given: exact integers
-- travel as LuaJIT's own of 64 bits.
function M.sent(send, value)
  local ok, result = pcall(send, value)
  if ok then return true, result end
  local is_copied, copy = pcall(copy_of, value, {})
  local is_sent, second = pcall(send, copy)
  if is_copied and is_sent then return true, second end
  return false, result
end

local function is_number(value)
  return type(value) == "number" or type(value) == "cdata" and M.text(value) ~= nil
end

local function near(value)
  if type(value) == "number" then return value end
  if ffi.istype(exact, value) then return value.near end
  if is_number(value) then return tonumber(value) end
  local number = type(value) == "string" and tonumber(value)
  if number then return number end
  error("attempt to use a " .. type(value) .. " as a number, beside an exact integer", 3)
end

local function digits_of(value)
  if type(value) == "number" then return ("%.0f"):format(value) end
  return M.text(value)
end

-- Of two numbers: negative, 0 or positive, as the first is less, equal or greater. Where the
-- nearest numbers are equal, the signs are, too: the digits decide.
local function compare(a, b)
  local x, y = near(a), near(b)
  if x ~= y then return x < y and -1 or 1 end
  local left, right = digits_of(a), digits_of(b)
  if left == right then return 0 end
  local is_less = #left < #right or #left == #right and left < right
  return is_less == (x > 0) and -1 or 1
end

ffi.metatype(exact, {
  __tostring = M.text,
  __concat = function(a, b) return tostring(a) .. tostring(b) end,
  __eq = function(a, b) return is_number(a) and is_number(b) and compare(a, b) == 0 end,
  __lt = function(a, b) return compare(a, b) < 0 end,
  __le = function(a, b) return compare(a, b) <= 0 end,
  __unm = function(a) return -near(a) end,
  __add = function(a, b) return near(a) + near(b) end,
  __sub = function(a, b) return near(a) - near(b) end,
  __mul = function(a, b) return near(a) * near(b) end,
  __div = function(a, b) return near(a) / near(b) end,
  __mod = function(a, b) return near(a) % near(b) end,
  __pow = function(a, b) return near(a) ^ near(b) end,
})

return M
