--- Who costs most? Costs and records by name over the last one to two minutes, in little memory whatever the names:
-- at most MOST of them a minute, of which those that cost least are thrown together when it is full. A name that
-- costs much stays, however many invent others.

local clock = require "tokenbatcher.runtime.clock"
local pseudonym = require "tokenbatcher.base.pseudonym"

local M = {}
local Tally = {}
Tally.__index = Tally

local MINUTE_US = 60 * 1e6
local MOST, KEPT = 1024, 256
local MOST_BYTES = 64 -- of a name; a longer one is kept as its beginning and a hash

local function new_part() return { by_name = {}, n = 0, cost = 0, records = 0 } end

function M.new()
  return setmetatable({ young = new_part(), old = new_part(), since_us = clock.now_us(), is_partial = false,
    secret = assert(pseudonym.secret()), seen = {}, round = 0 }, Tally)
end

-- Those of a part, dearest first.
local function sorted(by_name)
  local out = {}
  for _, it in pairs(by_name) do out[#out + 1] = it end
  table.sort(out, function(a, b) return a.cost > b.cost or a.cost == b.cost and a.name < b.name end)
  return out
end

local function compact(part)
  local list = sorted(part.by_name)
  part.by_name, part.n = {}, KEPT
  for i = 1, KEPT do part.by_name[list[i].name] = list[i] end
end

local function turn_over(self)
  local now_us = clock.now_us()
  local minutes = (now_us - self.since_us) / MINUTE_US
  if minutes < 1 then return end
  self.old, self.young = minutes < 2 and self.young or new_part(), new_part()
  self.since_us, self.is_partial = now_us, false
end

local function short(self, name)
  if #name <= MOST_BYTES then return name end
  return name:sub(1, MOST_BYTES - 20) .. "... " .. pseudonym.hash(self.secret, name)
end

local function entry_of(self, name)
  local part = self.young
  name = short(self, name)
  local it = part.by_name[name]
  if it then return it end
  if part.n >= MOST then compact(part) end
  it = { name = name, cost = 0, records = 0, round = 0 }
  part.by_name[name], part.n = it, part.n + 1
  return it
end

local function is_name(name) return type(name) == "string" and name ~= "" end
local function is_cost(cost) return type(cost) == "number" and cost >= 0 and cost < math.huge end

local function add(self, it, cost, records)
  it.cost, it.records = it.cost + cost, it.records + records
  local part = self.young
  part.cost, part.records = part.cost + cost, part.records + records
end

--- So many records of a name cost so much.
function Tally:add(name, cost, records)
  turn_over(self)
  if is_name(name) and is_cost(cost) then add(self, entry_of(self, name), cost, records) end
end

--- A batch of n records. @param names table, costs table  by position; user code has had them
-- @return how many different names it has
function Tally:add_batch(names, costs, n)
  turn_over(self)
  self.round = self.round + 1
  local round, different = self.round, 0
  for i = 1, n do
    local name, cost = names[i], costs[i]
    if is_name(name) and is_cost(cost) then
      local it = entry_of(self, name)
      if it.round ~= round then it.round, different = round, different + 1 end
      add(self, it, cost, 1)
    end
  end
  return different
end

--- @param most number  of names
-- @return list of {name, cost, records}, dearest first; cost of all; were some records not counted?
function Tally:top(most)
  turn_over(self)
  local sums = {}
  for _, part in ipairs { self.old, self.young } do
    for name, it in pairs(part.by_name) do
      local sum = sums[name] or { name = name, cost = 0, records = 0 }
      sum.cost, sum.records = sum.cost + it.cost, sum.records + it.records
      sums[name] = sum
    end
  end
  local list = sorted(sums)
  for i = #list, most + 1, -1 do list[i] = nil end
  return list, self.old.cost + self.young.cost, self.is_partial
end

return M
