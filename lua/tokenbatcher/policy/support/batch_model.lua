--- Learns service time = a + b x cost + c x padded (records x the largest) from batches as they complete:
-- least squares over three terms, none below zero, in which an observation counts for less with every later
-- one. A straggler counts as twice what was expected: one batch in twenty that takes five times as long must
-- not make the others look slow. A device that has become slower is followed all the same.

local max, min = math.max, math.min

local M = {}
local Model = {}
Model.__index = Model

local KEEP = 0.98 -- the weight of the past at each observation: about the last 50 count
local GUESS, NOTHING = 0.1, 1e-7 -- the weight of a first guess; what keeps the sums solvable
local TRUSTED, CLIP = 10, 2 -- after so many observations, none counts as more than so many times the expected
local SWEEPS = 40
local FARTHER = 4 -- than the largest batch so far

--- @param a_s number  first guess, seconds  @param b_s number  first guess, seconds a token
function M.new(a_s, b_s)
  return setmetatable({
    a = a_s, b = b_s, c = 0, observed = 0, largest = (a_s > 0 or b_s > 0) and math.huge or 0,
    -- sums of products: x is the cost, p the padded cost, y the seconds
    n = 0, x = 0, p = 0, y = 0, xx = 0, xp = 0, pp = 0, xy = 0, py = 0,
  }, Model)
end

-- As if the first guess had been seen, a little; without one, next to nothing.
local function begin(self, cost)
  local unit = max(1, cost) ^ 2
  local weight = (self.a > 0 or self.b > 0) and GUESS or NOTHING
  self.n, self.y = weight, weight * self.a
  self.xx, self.xy = weight * unit, weight * unit * self.b
  self.pp = weight * unit
  self.nothing = NOTHING * unit
end

-- Coordinate by coordinate, from where it was: it has nearly converged before.
local function solve(self)
  local a, b, c = self.a, self.b, self.c
  for _ = 1, SWEEPS do
    a = max(0, (self.y - self.x * b - self.p * c) / self.n)
    b = max(0, (self.xy - self.x * a - self.xp * c) / self.xx)
    c = max(0, (self.py - self.p * a - self.xp * b) / self.pp)
  end
  self.a, self.b, self.c = a, b, c
end

--- @param cost number  of the batch, as the cost model counts  @param padded number  records x the largest
function Model:observe(cost, padded, service_s)
  if self.observed == 0 then begin(self, cost) end
  if self.observed >= TRUSTED then
    local expected = self.a + self.b * cost + self.c * padded
    if expected > 0 then service_s = min(max(service_s, expected / CLIP), expected * CLIP) end
  end
  self.observed, self.largest = self.observed + 1, max(self.largest, cost)
  self.n, self.y = self.n * KEEP + 1, self.y * KEEP + service_s
  self.x, self.p = self.x * KEEP + cost, self.p * KEEP + padded
  self.xx = self.xx * KEEP + cost * cost + self.nothing
  self.pp = self.pp * KEEP + padded * padded + self.nothing
  self.xp = self.xp * KEEP + cost * padded
  self.xy, self.py = self.xy * KEEP + cost * service_s, self.py * KEEP + padded * service_s
  solve(self)
end

--- From a policy's report. A batch of which no record succeeded says nothing of how long one takes.
function Model:learn(report)
  if report.failed < report.size then self:observe(report.cost, report.padded, report.service_s) end
end

--- Seconds that a record of this cost takes by itself.
function Model:service(cost)
  return self.a + (self.b + self.c) * cost
end

--- The cost up to which a batch may grow: what is not known by a first guess is found out in steps.
function Model:trusted()
  return self.largest > 0 and FARTHER * self.largest or math.huge
end

--- Seconds that each token of a record by itself adds.
function Model:per_token()
  return self.b + self.c
end

return M
