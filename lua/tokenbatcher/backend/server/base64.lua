--- Base64: of 32-bit floats, as embeddings are sent in it, exactly; and of texts, as logins are.

local M = {}

local DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

local value_of = {} -- byte -> 0 .. 63
for i = 1, #DIGITS do value_of[DIGITS:byte(i)] = i - 1 end

--- @return string
function M.encode(text)
  local out = {}
  for at = 1, #text, 3 do
    local a, b, c = text:byte(at, at + 2)
    local n = a * 65536 + (b or 0) * 256 + (c or 0)
    for i, size in ipairs { 262144, 4096, 64, 1 } do
      local digit = math.floor(n / size) % 64 + 1
      out[#out + 1] = (i == 3 and not b or i == 4 and not c) and "=" or DIGITS:sub(digit, digit)
    end
  end
  return table.concat(out)
end

-- The bytes of a text, as numbers; or nil where it is no base64.
local function bytes_of(text)
  if #text % 4 ~= 0 then return nil end
  local padding = text:match "=*$"
  if #padding > 2 then return nil end
  local out, n = {}, 0
  for at = 1, #text, 4 do
    local a, b, c, d = text:byte(at, at + 3)
    local is_last = at + 4 > #text
    local third, fourth = value_of[c], value_of[d]
    if is_last and #padding == 2 then third = 0 end
    if is_last and #padding > 0 then fourth = 0 end
    local first, second = value_of[a], value_of[b]
    if not (first and second and third and fourth) then return nil end
    local word = ((first * 64 + second) * 64 + third) * 64 + fourth
    out[n + 1], out[n + 2], out[n + 3] = math.floor(word / 65536), math.floor(word / 256) % 256, word % 256
    n = n + 3
  end
  for i = 0, #padding - 1 do out[n - i] = nil end
  return out, n - #padding
end

-- A float by its bytes, the least significant first.
local function float_of(b1, b2, b3, b4)
  local sign = b4 >= 128 and -1 or 1
  local exponent = b4 % 128 * 2 + math.floor(b3 / 128)
  local fraction = (b3 % 128 * 256 + b2) * 256 + b1
  if exponent == 255 then return fraction == 0 and sign * math.huge or 0 / 0 end
  if exponent == 0 then return sign * math.ldexp(fraction, -149) end
  return sign * math.ldexp(fraction + 2 ^ 23, exponent - 150)
end

--- @return list of numbers, or nil where the text is not the base64 of 32-bit floats
function M.floats(text)
  local bytes, n = bytes_of(text)
  if not bytes or n == 0 or n % 4 ~= 0 then return nil end
  local out = {}
  for i = 1, n / 4 do
    local at = 4 * i
    out[i] = float_of(bytes[at - 3], bytes[at - 2], bytes[at - 1], bytes[at])
  end
  return out
end

return M
