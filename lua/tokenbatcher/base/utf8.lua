--- Is a string valid UTF-8? (Shortest forms only, no surrogates, at most U+10FFFF.)

local byte, find = string.byte, string.find

local M = {}

local of_library -- the same as first_error(text), in C

local REPLACEMENT = "\239\191\189" -- U+FFFD

-- Length, and the bounds of the second byte, by the first byte.
local function sequence(first)
  if first < 0x80 then return 1 end
  if first >= 0xC2 and first <= 0xDF then return 2, 0x80, 0xBF end
  if first == 0xE0 then return 3, 0xA0, 0xBF end
  if first == 0xED then return 3, 0x80, 0x9F end
  if first >= 0xE1 and first <= 0xEF then return 3, 0x80, 0xBF end
  if first == 0xF0 then return 4, 0x90, 0xBF end
  if first >= 0xF1 and first <= 0xF3 then return 4, 0x80, 0xBF end
  if first == 0xF4 then return 4, 0x80, 0x8F end
  return 0
end

--- @param from number|nil  where to begin (1)
-- @return number|nil  the position of the first byte that is wrong, nil if there is none
function M.first_error(text, from)
  if of_library and not from then return of_library(text) end
  local at = find(text, "[\128-\255]", from)
  if not at then return nil end
  local size = #text
  while at <= size do
    local length, low, high = sequence(byte(text, at))
    if length == 0 then return at end
    for i = 1, length - 1 do
      local next_byte = byte(text, at + i)
      if not next_byte or next_byte < low or next_byte > high then return at end
      low, high = 0x80, 0xBF
    end
    at = at + length
  end
  return nil
end

--- A library has come that does it faster.
function M.use(first_error)
  of_library = first_error
end

--- The same text with U+FFFD in the place of each wrong byte.
function M.clean(text)
  local at = M.first_error(text)
  if not at then return text end
  local parts, from = {}, 1
  while at do
    parts[#parts + 1] = text:sub(from, at - 1)
    parts[#parts + 1] = REPLACEMENT
    from = at + 1
    at = M.first_error(text, from)
  end
  parts[#parts + 1] = text:sub(from)
  return table.concat(parts)
end

return M
