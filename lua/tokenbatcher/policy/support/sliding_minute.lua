--- What was sent in the last minute, so that no minute, wherever it begins, holds too much.

local M = {}
local Window = {}
Window.__index = Window

local MINUTE_S, MOMENT_S = 60, 1e-6 -- sent a moment after the minute, nothing shares it

-- tokens and requests are the sums; entries first .. last, oldest first: {at, tokens, requests}.
local function clear(self)
  self.entries, self.first, self.last, self.tokens, self.requests = {}, 1, 0, 0, 0
end

function M.new()
  local self = setmetatable({}, Window)
  clear(self)
  return self
end

--- To be called before the sums are read. A clock that has gone back is another clock, on
-- which nothing was sent. @param now number  seconds
function Window:advance(now)
  if self.last >= self.first and self.entries[self.last].at > now then clear(self) end
  local entries = self.entries
  local sent = entries[self.first]
  while sent and sent.at + MINUTE_S < now do
    self.tokens, self.requests = self.tokens - sent.tokens, self.requests - sent.requests
    entries[self.first], self.first = nil, self.first + 1
    sent = entries[self.first]
  end
end

--- @param at number  seconds, not before that of the last call
function Window:note(at, tokens, requests)
  self.last = self.last + 1
  self.entries[self.last] = { at = at, tokens = tokens, requests = requests }
  self.tokens, self.requests = self.tokens + tokens, self.requests + requests
end

--- When no more than so much of what was sent counts any longer; nil: that is so already.
function Window:free_at(tokens, requests)
  local left_tokens, left_requests = self.tokens, self.requests
  for i = self.first, self.last do
    local sent = self.entries[i]
    left_tokens, left_requests = left_tokens - sent.tokens, left_requests - sent.requests
    if left_tokens <= tokens and left_requests <= requests then return sent.at + MINUTE_S + MOMENT_S end
  end
end

return M
