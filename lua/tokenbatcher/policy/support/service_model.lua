--- Learns service time = a + b x cost from batches as they complete: least squares in which
-- an observation counts for less with every later one, so that it follows a device that
-- changes.

local M = {}
local Model = {}
Model.__index = Model

local KEEP = 0.98 -- the weight of the past at each observation: about the last 50 count

--- @param a_s number  first guess, seconds  @param b_s number  first guess, seconds a token
function M.new(a_s, b_s)
  return setmetatable({ a = a_s, b = b_s, n = 0, x = 0, y = 0, xx = 0, xy = 0 }, Model)
end

-- With costs all alike a and b cannot be told apart: b stays, a takes the difference.
local function solve(self)
  local spread = self.n * self.xx - self.x * self.x
  if spread > 1e-6 * self.n * self.xx then
    self.b = math.max(0, (self.n * self.xy - self.x * self.y) / spread)
  end
  self.a = (self.y - self.b * self.x) / self.n
  if self.a >= 0 then return end
  self.a, self.b = 0, self.y / self.x
end

function Model:observe(cost, service_s)
  self.n = self.n * KEEP + 1
  self.x, self.y = self.x * KEEP + cost, self.y * KEEP + service_s
  self.xx, self.xy = self.xx * KEEP + cost * cost, self.xy * KEEP + cost * service_s
  solve(self)
end

--- From a policy's report. A batch of which no record succeeded says nothing of how long one takes.
function Model:learn(report)
  if report.failed < report.size then self:observe(report.cost, report.service_s) end
end

--- Seconds that a batch of this cost takes.
function Model:service(cost)
  return self.a + self.b * cost
end

--- The cost of the largest batch that takes no longer than this.
function Model:cost_within(seconds)
  if self.b <= 0 then return seconds >= self.a and math.huge or 0 end
  return (seconds - self.a) / self.b
end

return M
