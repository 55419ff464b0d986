--- SipHash-2-4 (Aumasson, Bernstein): a hash of a text under a key, 64 bits of it, which nobody can guess at who does
-- not have the key.

local bit = require "bit"
local ffi = require "ffi"

local bxor, rol, lshift, rshift, bor, tohex = bit.bxor, bit.rol, bit.lshift, bit.rshift, bit.bor, bit.tohex
local words, bytes = ffi.typeof "const uint64_t *", ffi.typeof "const uint8_t *"
local is_big_endian = ffi.abi "be"

local M = {}

-- The eight bytes at a place, the first one lowest.
local function word(pointer)
  local value = ffi.cast(words, pointer)[0]
  return is_big_endian and bit.bswap(value) or value
end

-- The last one to seven bytes of a text.
local function rest_of(text, left)
  if #text >= 8 then return rshift(word(ffi.cast(bytes, text) + (#text - 8)), 8 * (8 - left)) end
  local value = 0ULL
  for i = 1, left do value = bor(value, lshift(0ULL + text:byte(#text - left + i), 8 * (i - 1))) end
  return value
end

local function round(v0, v1, v2, v3)
  v0 = v0 + v1; v1 = bxor(rol(v1, 13), v0); v0 = rol(v0, 32)
  v2 = v2 + v3; v3 = bxor(rol(v3, 16), v2)
  v0 = v0 + v3; v3 = bxor(rol(v3, 21), v0)
  v2 = v2 + v1; v1 = bxor(rol(v1, 17), v2); v2 = rol(v2, 32)
  return v0, v1, v2, v3
end

local function take_word(m, v0, v1, v2, v3)
  v0, v1, v2, v3 = round(v0, v1, v2, bxor(v3, m))
  v0, v1, v2, v3 = round(v0, v1, v2, v3)
  return bxor(v0, m), v1, v2, v3
end

--- @param key string  16 bytes  @return string  16 hexadecimal digits: as good as any for the next key
function M.hash(key, text)
  local at = ffi.cast(bytes, key)
  local k0, k1 = word(at), word(at + 8)
  local v0, v1 = bxor(k0, 0x736f6d6570736575ULL), bxor(k1, 0x646f72616e646f6dULL)
  local v2, v3 = bxor(k0, 0x6c7967656e657261ULL), bxor(k1, 0x7465646279746573ULL)
  local left = #text % 8
  at = ffi.cast(bytes, text)
  for i = 0, #text - left - 8, 8 do v0, v1, v2, v3 = take_word(word(at + i), v0, v1, v2, v3) end
  local last = lshift(0ULL + #text % 256, 56)
  if left > 0 then last = bor(last, rest_of(text, left)) end
  v0, v1, v2, v3 = take_word(last, v0, v1, v2, v3)
  v2 = bxor(v2, 0xffULL)
  v0, v1, v2, v3 = round(v0, v1, v2, v3)
  v0, v1, v2, v3 = round(v0, v1, v2, v3)
  v0, v1, v2, v3 = round(v0, v1, v2, v3)
  v0, v1, v2, v3 = round(v0, v1, v2, v3)
  return tohex(bxor(bxor(v0, v1), bxor(v2, v3)))
end

return M
