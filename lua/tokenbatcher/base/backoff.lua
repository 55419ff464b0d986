--- How long to wait before something is tried again.
--
-- Exponential backoff with full jitter: a random time up to first_s, 2 first_s, 4 first_s
-- ... most_s. A time that was asked for is a least: the wait is that and a random time up to
-- first_s, so that callers do not come back all at once. No wait ends after the time that is left.

local bit = require "bit"

local M = {}

local state -- of the generator, made on first use

-- xorshift32. math.random starts with the same numbers in every process, and is the program's.
local function random()
  if not state then
    local address = tonumber(tostring({}):match "0x(%x+)" or "1", 16) -- another in each process
    state = bit.bor(bit.bxor(bit.tobit(address), bit.rol(bit.tobit(address / 2 ^ 12), 16)), 1)
  end
  state = bit.bxor(state, bit.lshift(state, 13))
  state = bit.bxor(state, bit.rshift(state, 17))
  state = bit.bxor(state, bit.lshift(state, 5))
  return (state % 2 ^ 32) / 2 ^ 32
end
M.random = random

--- @param attempt number  0 for the first wait
-- @param asked_s number|nil  a least, asked for by a server
-- @param limits table  {first_s, most_s, left_s (nil: no limit)}; asked_s is below left_s
-- @return number seconds
function M.wait_s(attempt, asked_s, limits)
  local left_s = limits.left_s or math.huge
  if not asked_s then return random() * math.min(limits.first_s * 2 ^ attempt, limits.most_s, left_s) end
  return asked_s + random() * math.min(limits.first_s, left_s - asked_s)
end

return M
