--- What a provider has last said of its limits (x-ratelimit-remaining-* and the like), which others may
-- use up, too: how much of it there is by now, and when there is enough.
--
-- It said how much is left, and in how many seconds all is there again. Where the whole is known, what is
-- missing comes back evenly until then, as in a bucket that fills; else all at once.

local M = {}
local Provider = {}
Provider.__index = Provider

local DEFAULT_RESET_S, MOMENT_S = 60, 1e-6
local WHATS = { "requests", "tokens" }

function M.new() return setmetatable({}, Provider) end

-- What is known of one limit and still holds, or nil.
local function known(self, what, now)
  local one = self[what]
  if one and now >= one.at and now < one.full_at then return one end
  self[what] = nil -- all is there again, or this is another clock
end

--- @param limits table  {requests = {limit, remaining, reset_s}, tokens = {...}}, as far as it was said
-- @param flying table  {requests, tokens}: of calls that are under way, which it may not have counted
function Provider:observe(limits, now, flying)
  for _, what in ipairs(WHATS) do
    local said = limits[what]
    local remaining = type(said) == "table" and tonumber(said.remaining)
    if remaining then
      local reset_s = math.max(MOMENT_S, tonumber(said.reset_s) or DEFAULT_RESET_S)
      local missing = (tonumber(said.limit) or 0) - remaining
      self[what] = { left = remaining - flying[what], at = now, full_at = now + reset_s,
        per_s = missing > 0 and missing / reset_s or 0 }
    end
  end
end

--- How much may be sent now; math.huge: as much as one likes.
function Provider:room(what, now)
  local one = known(self, what, now)
  return one and one.left + one.per_s * (now - one.at) or math.huge
end

--- So much is sent.
function Provider:spend(tokens, requests)
  if self.tokens then self.tokens.left = self.tokens.left - tokens end
  if self.requests then self.requests.left = self.requests.left - requests end
end

local function enough_at(one, amount)
  local missing = amount - one.left
  if one.per_s == 0 or missing <= 0 then return one.full_at end
  return math.min(one.full_at, one.at + missing / one.per_s + MOMENT_S)
end

--- When so much may be sent; nil: it may be now.
function Provider:free_at(tokens, requests, now)
  local at
  for what, amount in pairs { tokens = tokens, requests = requests } do
    if self:room(what, now) < amount then at = math.max(at or 0, enough_at(self[what], amount)) end
  end
  return at
end

--- When all that it said is over; nil: it says nothing.
function Provider:over_at(now)
  local at
  for _, what in ipairs(WHATS) do
    local one = known(self, what, now)
    if one then at = math.max(at or 0, one.full_at) end
  end
  return at
end

return M
