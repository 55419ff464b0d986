--- Names that say who is who, and not who it is: a hash with a secret that is drawn for each
-- set of names and kept nowhere (SipHash-2-4, in which 64 bits of it cannot be guessed at).

local bit = require "bit"

local bxor, rol, lshift, bor, tohex = bit.bxor, bit.rol, bit.lshift, bit.bor, bit.tohex

local M = {}

-- Eight bytes from `at` as a number, missing ones zero.
local function word(text, at)
  local value = 0ULL
  for i = 0, 7 do
    value = bor(value, lshift(0ULL + (text:byte(at + i) or 0), 8 * i))
  end
  return value
end

local function rounds(n, v0, v1, v2, v3)
  for _ = 1, n do
    v0 = v0 + v1; v1 = bxor(rol(v1, 13), v0); v0 = rol(v0, 32)
    v2 = v2 + v3; v3 = bxor(rol(v3, 16), v2)
    v0 = v0 + v3; v3 = bxor(rol(v3, 21), v0)
    v2 = v2 + v1; v1 = bxor(rol(v1, 17), v2); v2 = rol(v2, 32)
  end
  return v0, v1, v2, v3
end

--- SipHash-2-4. @param secret string  16 bytes  @return string  16 hexadecimal digits
function M.hash(secret, text)
  local k0, k1 = word(secret, 1), word(secret, 9)
  local v0, v1 = bxor(k0, 0x736f6d6570736575ULL), bxor(k1, 0x646f72616e646f6dULL)
  local v2, v3 = bxor(k0, 0x6c7967656e657261ULL), bxor(k1, 0x7465646279746573ULL)
  local whole = #text - #text % 8
  for at = 1, whole, 8 do
    local m = word(text, at)
    v0, v1, v2, v3 = rounds(2, v0, v1, v2, bxor(v3, m))
    v0 = bxor(v0, m)
  end
  local last = bor(word(text, whole + 1), lshift(0ULL + #text % 256, 56))
  v0, v1, v2, v3 = rounds(2, v0, v1, v2, bxor(v3, last))
  v0, v1, v2, v3 = rounds(4, bxor(v0, last), v1, bxor(v2, 0xffULL), v3)
  return tohex(bxor(bxor(v0, v1), bxor(v2, v3)))
end

--- A secret. @return string  16 bytes, or nil and a message
function M.secret()
  local file, message = io.open("/dev/urandom", "rb")
  local bytes = file and file:read(16)
  if file then file:close() end
  if bytes and #bytes == 16 then return bytes end
  return nil, message or "/dev/urandom: cannot be read"
end

return M
