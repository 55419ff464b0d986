--- Random numbers for simulations: xoshiro128** (Blackman and Vigna, 2018), seeded by a number
-- and the name of a stream. The same seed gives the same numbers on every machine; a stream
-- that is used more does not shift another.

local bit = require "bit"
local tbffi = require "tokenbatcher.core.ffi"

local bxor, lshift, rol, tobit = bit.bxor, bit.lshift, bit.rol, bit.tobit
local floor, log, sqrt, cos, exp = math.floor, math.log, math.sqrt, math.cos, math.exp

local M = {}
local Stream = {}
Stream.__index = Stream

local TWO_32 = 2 ^ 32

-- The product of two 32-bit numbers modulo 2^32, exact in doubles.
local function multiply(a, b)
  a, b = a % TWO_32, b % TWO_32
  local high, low = floor(a / 65536), a % 65536
  return tobit((high * b % 65536) * 65536 + low * b)
end

-- FNV-1a over the words of a seed.
local function hash(text)
  local h = tobit(0x811c9dc5)
  for i = 1, #text do h = multiply(bxor(h, text:byte(i)), 0x01000193) end
  return h
end

--- @param seed number  @param name string  which stream of that seed
function M.new(seed, name)
  local state = tbffi.new "int32_t[4]"
  for i = 0, 3 do state[i] = hash(("%.17g/%s/%d"):format(seed, name, i)) end
  local self = setmetatable({ state = state }, Stream)
  for _ = 1, 16 do self:next32() end
  return self
end

--- A whole number from 0 to 2^32 - 1.
function Stream:next32()
  local s = self.state
  local s1 = s[1]
  local result = tobit(rol(tobit(s1 * 5), 7) * 9)
  local t = lshift(s1, 9)
  s[2], s[3] = bxor(s[2], s[0]), bxor(s[3], s[1])
  s[1], s[0] = bxor(s[1], s[2]), bxor(s[0], s[3])
  s[2] = bxor(s[2], t)
  s[3] = rol(s[3], 11)
  return result % TWO_32
end

--- Uniform, above 0 and below 1.
function Stream:uniform()
  return (self:next32() + 0.5) / TWO_32
end

--- Exponential with mean 1.
function Stream:exponential()
  return -log(self:uniform())
end

--- Standard normal (Box and Muller).
function Stream:normal()
  return sqrt(-2 * log(self:uniform())) * cos(2 * math.pi * self:uniform())
end

--- Gamma with this shape and mean `shape` (Marsaglia and Tsang, 2000).
function Stream:gamma(shape)
  local boost = 1
  if shape < 1 then
    boost, shape = exp(log(self:uniform()) / shape), shape + 1
  end
  local d = shape - 1 / 3
  local c = 1 / sqrt(9 * d)
  while true do
    local x = self:normal()
    local v = (1 + c * x) ^ 3
    if v > 0 and log(self:uniform()) < 0.5 * x * x + d - d * v + d * log(v) then return d * v * boost end
  end
end

-- --- distributions as people write them ---------------------------------------

local function number_list(text)
  local out = {}
  for part in (text .. ","):gmatch "%s*(.-)%s*," do
    local value = tonumber(part)
    if not value or value ~= value or math.abs(value) == math.huge then return nil, part end
    out[#out + 1] = value
  end
  return out
end

-- name -> {parameters, check, draw}
local DISTRIBUTIONS = {
  lognormal = {
    "mu,sigma", function(_, sigma) return sigma >= 0 end,
    function(stream, mu, sigma) return exp(mu + sigma * stream:normal()) end,
  },
  exponential = {
    "mean", function(mean) return mean > 0 end,
    function(stream, mean) return mean * stream:exponential() end,
  },
  gamma = {
    "mean,cv", function(mean, cv) return mean > 0 and cv > 0 end,
    function(stream, mean, cv)
      local shape = 1 / (cv * cv)
      return stream:gamma(shape) * mean / shape
    end,
  },
  uniform = {
    "from,to", function(from, to) return from >= 0 and to >= from end,
    function(stream, from, to) return from + (to - from) * stream:uniform() end,
  },
}

local function known_distributions()
  local names = {}
  for name, entry in pairs(DISTRIBUTIONS) do names[#names + 1] = ("%s(%s)"):format(name, entry[1]) end
  table.sort(names)
  return "a number, " .. table.concat(names, ", ")
end

--- A distribution of numbers >= 0 from "480", "lognormal(6,1)", "exponential(500)",
-- "gamma(500,2)" or "uniform(10,20)".
-- @return function(stream) that draws one, or nil and a message
function M.distribution(text)
  local constant = tonumber(text)
  if constant then
    if not (constant >= 0 and constant < math.huge) then return nil, ("'%s' is not a number >= 0"):format(text) end
    return function() return constant end
  end
  local name, rest = text:match "^%s*(%a+)%((.*)%)%s*$"
  local entry = name and DISTRIBUTIONS[name]
  if not entry then return nil, ("'%s' is no distribution; there are: %s"):format(text, known_distributions()) end
  local given, bad = number_list(rest)
  if not given then return nil, ("'%s': '%s' is not a number"):format(text, bad) end
  local _, commas = entry[1]:gsub(",", "")
  if #given ~= commas + 1 or not entry[2](given[1], given[2]) then
    return nil, ("'%s': %s(%s) cannot have these parameters"):format(text, name, entry[1])
  end
  local draw, first, second = entry[3], given[1], given[2]
  return function(stream) return draw(stream, first, second) end
end

return M
