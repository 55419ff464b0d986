--- Who will come: the arrivals of the last moments are expected once more. They are few, however many came:
-- when there are too many, of each two neighbours one is left, and counts for both.

local M = {}
local Forecast = {}
Forecast.__index = Forecast

local MOST = 64

function M.new()
  return setmetatable({ n = 0, seen = -math.huge, at = {}, cost = {}, lasts = {}, weight = {} }, Forecast)
end

--- Nobody has come.
function Forecast:restart() self.n, self.seen = 0, -math.huge end

local function thin(self)
  local n = 0
  for i = 1, self.n - 1, 2 do
    local of = n % 2 == 0 and i or i + 1
    n = n + 1
    self.at[n], self.cost[n], self.lasts[n] = self.at[of], self.cost[of], self.lasts[of]
    self.weight[n] = self.weight[i] + self.weight[i + 1]
  end
  self.n = n
end

--- One that came at this time, of this cost, and stands for `weight` such. Later ones later.
function Forecast:add(at, cost, lasts, weight)
  if self.n == MOST then thin(self) end
  local n = self.n + 1
  self.n, self.at[n], self.cost[n], self.lasts[n], self.weight[n] = n, at, cost, lasts, weight
end

--- Only those that came later than this count.
function Forecast:forget(before)
  local n, at = self.n, self.at
  local first = 1
  while first <= n and at[first] <= before do first = first + 1 end
  if first == 1 then return end
  for i = first, n do
    local to = i - first + 1
    at[to], self.cost[to], self.lasts[to], self.weight[to] = at[i], self.cost[i], self.lasts[i], self.weight[i]
  end
  self.n = n - first + 1
end

return M
