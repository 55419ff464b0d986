--- How long to wait before a request that a server put off is sent again.
--
-- Exponential backoff with full jitter: a random time up to first_s, 2 first_s, 4 first_s
-- ... most_s. A Retry-After header is a least: the wait is that and a random time up to
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

--- Seconds asked for by a Retry-After header, or nil. Fractions are no standard, but sent.
function M.asked_s(response)
  local text = response.headers["retry-after"]
  if text and text:find "^%d+%.?%d*$" then return tonumber(text) end
  return response.retry_after_s
end

--- @param attempt number  0 for the first wait
-- @param asked_s number|nil  by the server
-- @param limits table  {first_s, most_s, longest_asked_s, left_s (until the deadline, or nil)}
-- @return number seconds, or nil and why there is no use in waiting
function M.wait_s(attempt, asked_s, limits)
  local left_s = limits.left_s or math.huge
  if left_s <= 0 then return nil, "the deadline has come" end
  if not asked_s then return random() * math.min(limits.first_s * 2 ^ attempt, limits.most_s, left_s) end
  if asked_s > limits.longest_asked_s then
    return nil, ("it asks to wait %.14g s, more than retry_after_max_s = %.14g s"):format(asked_s,
      limits.longest_asked_s)
  end
  if asked_s >= left_s then
    return nil, ("it asks to wait %.14g s, and the deadline comes in %.3g s"):format(asked_s, left_s)
  end
  return asked_s + random() * math.min(limits.first_s, left_s - asked_s)
end

return M
