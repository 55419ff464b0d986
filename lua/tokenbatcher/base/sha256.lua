--- SHA-256 (FIPS 180-4): says whether two files are the same one.

local bit = require "bit"

local band, bnot, bxor, ror, rshift, tobit = bit.band, bit.bnot, bit.bxor, bit.ror, bit.rshift, bit.tobit
local byte = string.byte

local M = {}

local BLOCK = 64
local CHUNK_BYTES = 1024 * BLOCK

-- The first 32 bits of the fractions of roots of the first primes.
local function fractions(count, root)
  local out, candidate = {}, 2
  while #out < count do
    local is_prime = true
    for divisor = 2, math.floor(math.sqrt(candidate)) do is_prime = is_prime and candidate % divisor ~= 0 end
    if is_prime then out[#out + 1] = tobit(math.floor(root(candidate) % 1 * 2 ^ 32)) end
    candidate = candidate + 1
  end
  return out
end

local START = fractions(8, math.sqrt)
local K = fractions(64, function(x) return x ^ (1 / 3) end)

local words = {}

-- One block of 64 bytes that begins at text[at], into the state.
local function compress(state, text, at)
  for i = 1, 16 do
    local a, b, c, d = byte(text, at + 4 * i - 4, at + 4 * i - 1)
    words[i] = tobit(a * 2 ^ 24 + b * 2 ^ 16 + c * 2 ^ 8 + d)
  end
  for i = 17, 64 do
    local x, y = words[i - 15], words[i - 2]
    local s0, s1 = bxor(ror(x, 7), ror(x, 18), rshift(x, 3)), bxor(ror(y, 17), ror(y, 19), rshift(y, 10))
    words[i] = tobit(words[i - 16] + s0 + words[i - 7] + s1)
  end
  local a, b, c, d, e, f, g, h = state[1], state[2], state[3], state[4], state[5], state[6], state[7], state[8]
  for i = 1, 64 do
    local choice = bxor(band(e, f), band(bnot(e), g))
    local first = tobit(h + bxor(ror(e, 6), ror(e, 11), ror(e, 25)) + choice + K[i] + words[i])
    local majority = bxor(band(a, b), band(a, c), band(b, c))
    local second = tobit(bxor(ror(a, 2), ror(a, 13), ror(a, 22)) + majority)
    a, b, c, d, e, f, g, h = tobit(first + second), a, b, c, tobit(d + first), e, f, g
  end
  state[1], state[2], state[3] = tobit(state[1] + a), tobit(state[2] + b), tobit(state[3] + c)
  state[4], state[5], state[6] = tobit(state[4] + d), tobit(state[5] + e), tobit(state[6] + f)
  state[7], state[8] = tobit(state[7] + g), tobit(state[8] + h)
end

-- What follows `bytes` bytes, of which `rest` is not whole.
local function padding(rest, bytes)
  local tail = {}
  for i = 8, 1, -1 do
    tail[i] = string.char(math.floor(bytes * 8 / 2 ^ (8 * (8 - i))) % 256)
  end
  return rest .. "\128" .. ("\0"):rep((BLOCK - 9 - #rest) % BLOCK) .. table.concat(tail)
end

-- @param read function  () -> the next text, any number of whole blocks but for the last; nil at the end
local function digest(read)
  local state, bytes, rest = { unpack(START) }, 0, ""
  for text in read do
    bytes = bytes + #text
    local whole = #text - #text % BLOCK
    for at = 1, whole, BLOCK do compress(state, text, at) end
    rest = text:sub(whole + 1)
  end
  local last = padding(rest, bytes)
  for at = 1, #last, BLOCK do compress(state, last, at) end
  for i = 1, 8 do state[i] = bit.tohex(state[i]) end
  return table.concat(state)
end

--- @return string  64 hexadecimal digits
function M.of_text(text)
  local is_read = false
  return digest(function()
    if is_read then return nil end
    is_read = true
    return text
  end)
end

--- Of a file's bytes. @return string, or nil and a message
function M.of_file(path)
  local file, message = io.open(path, "rb")
  if not file then return nil, message end
  local ok, hash = pcall(digest, function() return (file:read(CHUNK_BYTES)) end)
  file:close()
  if not ok then return nil, hash end
  return hash
end

return M
