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

--- @param at number  seconds, not before that of the last call  @return table  for correct()
function Window:note(at, tokens, requests)
  local entry = { at = at, tokens = tokens, requests = requests, place = self.last + 1 }
  self.last = entry.place
  self.entries[entry.place] = entry
  self.tokens, self.requests = self.tokens + tokens, self.requests + requests
  return entry
end

--- What was noted has turned out to be so many tokens.
function Window:correct(entry, tokens)
  if self.entries[entry.place] == entry then self.tokens = self.tokens + tokens - entry.tokens end
  entry.tokens = tokens
end

--- When no more than so much of what was sent counts any longer; nil: that is so already.
function Window:free_at(tokens, requests)
  local left_tokens, left_requests = self.tokens, self.requests
  if left_tokens <= tokens and left_requests <= requests then return nil end
  for i = self.first, self.last do
    local sent = self.entries[i]
    left_tokens, left_requests = left_tokens - sent.tokens, left_requests - sent.requests
    if left_tokens <= tokens and left_requests <= requests then return sent.at + MINUTE_S + MOMENT_S end
  end
end

--- When the oldest of what was sent counts no longer; nil: nothing counts.
function Window:next_at()
  local oldest = self.entries[self.first]
  return oldest and oldest.at + MINUTE_S + MOMENT_S
end

return M
