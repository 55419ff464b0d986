--- Synthetic arrivals: "poisson:rate=200,tokens=lognormal(6,1)". Kinds:
--
--   poisson:rate=R         independent arrivals, R a second
--   gamma:rate=R,cv=C      the gaps have this coefficient of variation: above 1 it is bursty
--   constant:rate=R        one every 1/R seconds
--   closed:clients=N       N clients, each of which asks again when it is answered, after think=T s
--
-- Each takes tokens=D (cost of a record, default 1), output=D (default: not known), keys=N (default: no keys;
-- key k is chosen as often as 1/k says), timeout=D (seconds; default none). D is a number,
-- lognormal(mu,sigma), exponential(mean), gamma(mean,cv) or uniform(from,to); of tokens and output also
-- @FILE: lengths of real records (trace/lengths.lua), drawn by lot; with tokens=@FILE the output is that of the same
-- record, unless output is given. For sources, see trace/init.lua.

local errors = require "tokenbatcher.base.errors"
local lengths = require "tokenbatcher.sim.trace.lengths"
local options = require "tokenbatcher.core.options"
local random = require "tokenbatcher.sim.random"
local tbffi = require "tokenbatcher.core.ffi"

local floor, max, min = math.floor, math.max, math.min

local M = {}

M.default_records = 100000
local MAX_COST = options.MAX_COST
local KINDS = { "closed", "constant", "gamma", "poisson" }
local NEEDED = { poisson = "rate", gamma = "rate", constant = "rate", closed = "clients" }
local COMMON = { "keys", "output", "timeout", "tokens" }
local ALLOWED = {
  poisson = { "rate" }, gamma = { "rate", "cv" }, constant = { "rate" }, closed = { "clients", "think" },
}

-- "a=1,b=f(2,3)" to a list of {name, value}; commas inside of parentheses do not part.
local function split(text)
  local out, depth, from = {}, 0, 1
  for i = 1, #text + 1 do
    local c = i > #text and "," or text:sub(i, i)
    depth = depth + (c == "(" and 1 or c == ")" and -1 or 0)
    if c == "," and depth == 0 then
      out[#out + 1] = text:sub(from, i - 1)
      from = i + 1
    end
  end
  return out
end

local function number_above(text, least)
  local value = tonumber(text)
  return value and value > least and value < math.huge and value or nil
end

-- name -> {what it must be, read(text) -> value or nil and a message}
local READ = {}
for _, name in ipairs { "rate", "cv" } do
  READ[name] = function(text) return number_above(text, 0), "a number above 0 is needed" end
end
for _, name in ipairs { "clients", "keys" } do
  READ[name] = function(text)
    local value = number_above(text, 0)
    return value and value % 1 == 0 and value <= 1e6 and value or nil, "a whole number from 1 to 1000000 is needed"
  end
end
for _, name in ipairs { "timeout", "think" } do READ[name] = random.distribution end

-- A distribution, or the lengths of a file. @param draws function(found)  what draws of them
local function lengths_or_distribution(text, given, draws)
  local path = text:match "^@(.+)$"
  if not path then return random.distribution(text) end
  local found, message = lengths.read(path, given)
  if not found then return nil, message end
  return draws(found)
end

function READ.tokens(text, given) return lengths_or_distribution(text, given, lengths.pairs_of) end

function READ.output(text, given)
  return lengths_or_distribution(text, given, function(found)
    if not found.has_outputs then return nil, "there are rows without outputs" end
    return lengths.outputs_of(found)
  end)
end

local function read_parameters(kind, text, files)
  local known, given = { unpack(COMMON) }, {}
  for _, name in ipairs(ALLOWED[kind]) do known[#known + 1] = name end
  for _, pair in ipairs(text == "" and {} or split(text)) do
    local name, value = pair:match "^%s*([%a_]+)%s*=%s*(.-)%s*$"
    if not name then return nil, ("parameters are name=value, got '%s'"):format(pair) end
    local is_known = false
    for _, other in ipairs(known) do is_known = is_known or other == name end
    if not is_known then
      return nil, ("unknown parameter '%s'; did you mean '%s'?"):format(name, errors.nearest(name, known))
    end
    if given[name] then return nil, name .. " is given twice" end
    local message
    given[name], message = READ[name](value, files)
    if not given[name] then return nil, ("%s=%s: %s"):format(name, value, message) end
  end
  return given
end

--- @param files table|nil  columns: of files of lengths (see trace/lengths.lua)
-- @return a specification {kind, text, p}, or nil and a message
function M.parse(text, files)
  local kind, rest = text:match "^%s*([%a_]+)%s*:?(.*)$"
  if not kind or not NEEDED[kind] then
    return nil, ("--arrivals '%s': there is no '%s'; did you mean '%s'?"):format(text, kind or text,
      errors.nearest(kind or text, KINDS))
  end
  local p, message = read_parameters(kind, rest, files)
  if not p then return nil, ("--arrivals %s: %s"):format(kind, message) end
  if not p[NEEDED[kind]] then return nil, ("--arrivals %s needs %s=..."):format(kind, NEEDED[kind]) end
  return { kind = kind, text = text, p = p }
end

-- --- what every kind has in common --------------------------------------------------

local Source = {}
Source.__index = Source

-- Key k has the weight 1/k.
local function key_weights(n)
  if not n then return nil end
  local sums, names, total = {}, {}, 0
  for k = 1, n do
    total = total + 1 / k
    sums[k], names[k] = total, "key" .. k
  end
  return { sums = sums, names = names, total = total }
end

local function draw_key(keys, stream)
  local x, low, high = stream:uniform() * keys.total, 1, #keys.sums
  while low < high do
    local middle = floor((low + high) / 2)
    if keys.sums[middle] >= x then high = middle else low = middle + 1 end
  end
  return keys.names[low]
end

local function draw_record(self)
  local cost, output = self.tokens(self.stream)
  self.cost = min(MAX_COST, cost)
  self.output = self.output_tokens and floor(self.output_tokens(self.stream) + 0.5) or output or -1
  if self.keys then self.key = draw_key(self.keys, self.key_stream) end
  if self.timeout then self.timeout_us = max(1, floor(min(1e9, self.timeout(self.stream)) * 1e6 + 0.5)) end
end

local function one() return 1 end

local function new_source(spec, seed, records)
  return setmetatable({
    tokens = spec.p.tokens or one, output_tokens = spec.p.output, timeout = spec.p.timeout,
    keys = key_weights(spec.p.keys),
    stream = random.new(seed, "records"), key_stream = random.new(seed, "keys"), gaps = random.new(seed, "gaps"),
    left = records, at_us = 0, cost = 0, output = -1, turn = 0, key = nil, priority = 0, timeout_us = 0,
    batch_timeout_us = 0, is_done = false,
  }, Source)
end

-- --- open: arrivals that do not wait for answers ---------------------------------------

local GAPS = {
  poisson = function(self) return self.gaps:exponential() * self.mean_us end,
  constant = function(self) return self.mean_us end,
  gamma = function(self) return self.gaps:gamma(self.shape) / self.shape * self.mean_us end,
}

local function take_open(self)
  self.left = self.left - 1
  if self.left <= 0 then
    self.at_us, self.is_done = math.huge, true
    return
  end
  self.exact_us = self.exact_us + self.gap(self)
  self.at_us = floor(self.exact_us + 0.5)
  draw_record(self)
end

local function open(self, spec, speedup)
  self.mean_us, self.exact_us, self.gap = 1e6 / (spec.p.rate * speedup), 0, GAPS[spec.kind]
  local cv = spec.p.cv or 1
  self.shape = 1 / (cv * cv)
  self.take, self.answered = take_open, function() end
  draw_record(self)
  return self
end

-- --- closed: each client asks again when it is answered ----------------------------------

-- A binary heap of the times at which clients ask next.
local function push(self, at_us)
  local heap, i = self.heap, self.size
  self.size = i + 1
  while i > 0 do
    local up = floor((i - 1) / 2)
    if heap[up] <= at_us then break end
    heap[i], i = heap[up], up
  end
  heap[i] = at_us
  self.at_us = self.left > 0 and heap[0] or math.huge
end

local function pop(self)
  local heap, n, i = self.heap, self.size - 1, 0
  self.size = n
  local last = heap[n]
  while 2 * i + 1 < n do
    local down = 2 * i + 1
    if down + 1 < n and heap[down + 1] < heap[down] then down = down + 1 end
    if heap[down] >= last then break end
    heap[i], i = heap[down], down
  end
  heap[i] = last
  self.at_us = self.left > 0 and n > 0 and heap[0] or math.huge
end

local function take_closed(self)
  self.left = self.left - 1
  self.is_done = self.left <= 0
  pop(self)
  draw_record(self)
end

local function answered_closed(self, now_us)
  local think_s = self.think and self.think(self.gaps) or 0
  push(self, now_us + floor(min(1e9, think_s) * 1e6 + 0.5))
end

local function closed(self, spec)
  self.heap, self.size, self.think = tbffi.new("double[?]", spec.p.clients), 0, spec.p.think
  self.take, self.answered = take_closed, answered_closed
  for _ = 1, spec.p.clients do push(self, 0) end
  draw_record(self)
  return self
end

--- A run over it. @param records number  how many arrivals
function M.source(spec, seed, speedup, records)
  local self = new_source(spec, seed, records)
  if spec.kind == "closed" then return closed(self, spec) end
  return open(self, spec, speedup)
end

return M
