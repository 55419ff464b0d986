--- How many values fell where, in memory that does not grow: 256 buckets for each power of
-- two, so that a percentile is within 0.2 % of the value itself. Mean and maximum are exact.
-- The bucket of a value is the upper bits of its double: exponent and the first eight of the
-- mantissa.

local bit = require "bit"
local tbffi = require "tokenbatcher.core.ffi"

local rshift = bit.rshift

local M = {}
local Histogram = {}
Histogram.__index = Histogram

local BITS = 8
local SHIFT = 20 - BITS
local LOW_EXPONENT, OCTAVES = 1023, 54 -- values from 1 to 2^54; below 1 is bucket 0
local FIRST = LOW_EXPONENT * 2 ^ BITS
local BUCKETS = OCTAVES * 2 ^ BITS + 1

local parts = tbffi.new "union { double value; uint32_t half[2]; }"

function M.new()
  return setmetatable({ buckets = tbffi.new("double[?]", BUCKETS), count = 0, sum = 0, max = 0 }, Histogram)
end

--- @param value number  0 to 2^53
function Histogram:add(value)
  local i = 0
  if value >= 1 then
    parts.value = value
    i = rshift(parts.half[1], SHIFT) - FIRST + 1
  end
  local buckets = self.buckets
  buckets[i] = buckets[i] + 1
  self.count, self.sum = self.count + 1, self.sum + value
  if value > self.max then self.max = value end
end

-- The middle of a bucket; below 1 nothing is told apart.
local function middle_of(i)
  if i == 0 then return 0 end
  local octave, step = math.floor((i - 1) / 2 ^ BITS), (i - 1) % 2 ^ BITS
  return 2 ^ octave * (1 + (step + 0.5) / 2 ^ BITS)
end

--- The smallest value that at least this share of all does not exceed; 0 if there are none.
-- @param share number  0 to 1
function Histogram:percentile(share)
  local rank, seen = math.max(1, math.ceil(share * self.count - 1e-9)), 0
  if self.count == 0 then return 0 end
  for i = 0, BUCKETS - 1 do
    seen = seen + self.buckets[i]
    if seen >= rank then return math.min(middle_of(i), self.max) end
  end
  return self.max
end

function Histogram:mean()
  return self.count > 0 and self.sum / self.count or 0
end

--- Points of the cumulative distribution, at most `most`: a list of {value, share}.
function Histogram:curve(most)
  local out, seen, told = {}, 0, -1
  for i = 0, BUCKETS - 1 do
    if self.buckets[i] > 0 then
      seen = seen + self.buckets[i]
      local share = seen / self.count
      if math.floor(share * most) > told or seen == self.count then
        told = math.floor(share * most)
        out[#out + 1] = { math.min(middle_of(i), self.max), share }
      end
    end
  end
  return out
end

return M
