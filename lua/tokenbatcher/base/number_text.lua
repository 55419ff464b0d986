--- Numbers as text, the same everywhere: whole ones without a point, the others with as few digits as are wanted.

local M = {}

local WHOLE, EXACT = 1e15, 2 ^ 53

--- For people, and for figures that are no better than their first digits.
-- @param digits number  at the most; whole numbers below 1e15 have all of theirs
function M.rounded(value, digits)
  if value % 1 == 0 and value > -WHOLE and value < WHOLE then return ("%d"):format(value) end
  return ("%." .. digits .. "g"):format(value)
end

--- For programs: as few digits as give the same number again. Below 2^53 whole numbers have no exponent.
function M.shortest(value)
  if value % 1 == 0 and value > -EXACT and value < EXACT then return ("%d"):format(value) end
  for digits = 15, 16 do
    local short = ("%." .. digits .. "g"):format(value)
    if tonumber(short) == value then return short end
  end
  return ("%.17g"):format(value)
end

return M
