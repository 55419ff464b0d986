--- Jain's index over keys: in windows of ten batches, over the keys that had records waiting
-- throughout, (sum x)^2 / (n x sum x^2) of the tokens that each was served; the mean over the
-- windows in which at least two keys competed, nothing if there was none. 1: all got the same;
-- 1/n: one got everything.

local M = {}
local Fairness = {}
Fairness.__index = Fairness

local WINDOW_BATCHES = 10

function M.new()
  return setmetatable({ lanes = {}, window = 1, batches = 0, sum = 0, windows = 0 }, Fairness)
end

--- A record of a key is queued. @param key number  above 0
function Fairness:arrived(key)
  local lane = self.lanes[key]
  if lane then
    lane.waiting = lane.waiting + 1
  else
    self.lanes[key] = { waiting = 1, served = 0, since = self.window }
  end
end

--- It is dispatched, or it expired at no cost.
function Fairness:left(key, cost)
  local lane = self.lanes[key]
  lane.waiting, lane.served = lane.waiting - 1, lane.served + cost
  if lane.waiting == 0 then self.lanes[key] = nil end
end

local function close_window(self)
  local n, sum, squares = 0, 0, 0
  for _, lane in pairs(self.lanes) do
    if lane.since < self.window then
      n, sum, squares = n + 1, sum + lane.served, squares + lane.served * lane.served
    end
    lane.served = 0
  end
  self.window = self.window + 1
  if n < 2 or squares == 0 then return end
  self.sum, self.windows = self.sum + sum * sum / (n * squares), self.windows + 1
end

function Fairness:dispatched()
  self.batches = self.batches + 1
  if self.batches % WINDOW_BATCHES == 0 then close_window(self) end
end

--- What was seen so far does not count.
function Fairness:forget() self.sum, self.windows = 0, 0 end

function Fairness:index()
  return self.windows > 0 and self.sum / self.windows or nil
end

return M
