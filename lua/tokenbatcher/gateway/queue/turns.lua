--- Who goes next of those that wait for a slot: the policy of a queue's batcher. It is made of three parts.
--
-- SHARES, unless another policy is given: fair queueing by virtual start (Goyal, Vin and Cheng, 1996) by cost over key.
-- Each key has a virtual time at which its next request starts: when the one before has been paid for, or now. The
-- earliest start goes, of equal ones who was served longest ago. Virtual time is the start of who went last; but it
-- goes on by what is served, divided among the keys that are there and one more, so that no stream of newcomers stops
-- it; never beyond where the next request of one who waits ends, so that who comes after one of any cost is behind
-- one request of each other key at most. A key that comes new is thus next in line, before whoever has been
-- served beyond his share; a key that was served lately keeps its debt, but nobody keeps credit. A weight divides what
-- a request costs its key.
--
-- THE RESERVE. While no more slots are idle than are reserved, only a key that holds less than its share may take
-- one: the slots by weight, as if one more key of weight 1 were there, for whom the reserve is kept. Of several such
-- keys the one that holds the least by weight goes first, whatever the policy.
--
-- THE GATE. While it is closed (gate.lua) nobody goes.

local policies = require "tokenbatcher.batching.policies"

local M = {}

local AGAIN_S = 1 -- who is held back is looked at again after so long, if nothing happens before
local SWEEP = 64 -- lanes beyond those in use, after which the idle are forgotten
local EQUAL = 1e-6 -- tokens: what sums of fractions are off by

-- --- shares -----------------------------------------------------------------------------------

local Shares = {}
Shares.__index = Shares

function M.shares()
  return setmetatable({ now = 0, round = 0, turn = 0, lanes = {}, n = 0 }, Shares)
end

--- Nobody waits and nobody is served: all begins anew.
function Shares:reset() self.now, self.lanes, self.n = 0, {}, 0 end

local function lane_of(self, key)
  local lane = self.lanes[key]
  if not lane then
    lane = { start = self.now, round = 0, turn = 0 }
    self.lanes[key], self.n = lane, self.n + 1
  end
  return lane
end

-- The keys that wait have been looked at in this round. Who has not, and owes nothing, is forgotten.
local function sweep(self, present)
  if self.n <= 2 * present + SWEEP then return end
  for key, lane in pairs(self.lanes) do
    if lane.round ~= self.round and lane.start <= self.now then
      self.lanes[key], self.n = nil, self.n - 1
    end
  end
end

-- The first of a key's records.
local function first_of(queue, key)
  local step, from, start = queue:of(key)
  return step(from, start)
end

-- When the first of those that wait will have been paid for, but for a key.
local function earliest_end(self, queue, but)
  local least = math.huge
  for key in queue:keys() do
    local lane = key ~= but and self.lanes[key]
    if lane and lane.round == self.round then
      local ticket = queue:record(first_of(queue, key))
      least = math.min(least, lane.start + ticket.cost / ticket.weight)
    end
  end
  return least
end

--- A request of a key goes. @param weights number  of all keys that are there
function Shares:charge(queue, ticket, weights)
  local lane, weight = lane_of(self, ticket.key), ticket.weight
  self.turn = self.turn + 1
  local now = math.max(self.now + ticket.cost / (weights + 1), lane.start)
  self.now = math.max(self.now, math.min(now, earliest_end(self, queue, ticket.key)))
  lane.start, lane.turn = lane.start + ticket.cost / weight, self.turn
end

--- @return number  the position that goes next, or nil: nobody waits
function Shares:next(queue)
  self.round = self.round + 1
  local best, best_lane, present = nil, nil, 0
  for key in queue:keys() do
    local lane = lane_of(self, key)
    if lane.round ~= self.round - 1 then lane.start = math.max(lane.start, self.now) end
    lane.round, present = self.round, present + 1
    local at = first_of(queue, key)
    local later = best and lane.start - best_lane.start or -math.huge
    local is_earlier = later < -EQUAL or later <= EQUAL
      and (lane.turn < best_lane.turn or lane.turn == best_lane.turn and at < best)
    if is_earlier then best, best_lane = at, lane end
  end
  sweep(self, present)
  return best
end

-- Where a key stands that has something waiting, or would stand.
local function start_of(self, key, entry)
  local lane = self.lanes[key]
  if not lane then return self.now end
  return entry and entry.queued > 0 and lane.start or math.max(lane.start, self.now)
end

--- How many of those that wait go before a new request of a key: its own, and of each other key what that may have
-- until the key has paid for its own. @param keys table  of the book  @return number
function Shares:ahead(keys, key, weight)
  local own = keys[key]
  local n, at = own and own.queued or 0, start_of(self, key, own) + (own and own.queued_cost or 0) / weight
  for other, entry in pairs(keys) do
    local room = other ~= key and entry.queued > 0 and at - start_of(self, other, entry) or 0
    local cost = room > EQUAL and entry.queued_cost / entry.queued / entry.weight -- of one of its requests
    if cost then n = n + math.min(entry.queued, math.max(1, math.ceil(room / cost - EQUAL))) end
  end
  return n
end

-- --- the reserve ------------------------------------------------------------------------------

-- The position that may take a reserved slot, or nil.
local function below_its_share(queue, book, slots)
  local best, best_load
  for key in queue:keys() do
    local load = book:load(key)
    if load < slots / (book.weight + 1) then -- held / weight < slots / all weights
      local at = first_of(queue, key)
      if not best or load < best_load or load == best_load and at < best then best, best_load = at, load end
    end
  end
  return best
end

-- --- the policy -------------------------------------------------------------------------------

-- Another policy, guarded: it is shown the queue and a batch that notes whom it has named. Where it raises, `report`
-- is told, and the oldest goes.
local function chosen_by(policy, made, report)
  local noted = {}
  local batch = setmetatable({}, { __index = function(_, name) return noted.batch[name] end })
  function batch:add(i) -- luacheck: ignore self
    local is_in, why = noted.batch:add(i)
    if is_in then noted.at = i end
    return is_in, why
  end
  function batch:limit(tokens) return noted.batch:limit(tokens) end -- luacheck: ignore self
  return function(queue, real, now)
    noted.batch, noted.at = real, nil
    local ok, at = pcall(policy.form, queue, batch, now, made.module and math.huge)
    noted.batch = nil
    if ok then return noted.at, at end
    report(at, false)
    if not noted.at and real:add(1) then noted.at = 1 end
    return noted.at
  end
end

-- @return function(queue, batch, now) -> the position that went, or when to ask again; and function(report) or nil
local function chooser(self, library, report)
  local resolved = self.policy and assert(library.resolve(self.policy))
  if not resolved then
    local shares = self.shares
    return function(queue, batch)
      local at = shares:next(queue)
      if at then batch:add(at) end
      return at
    end
  end
  local policy, made = resolved:make(nil, report)
  return chosen_by(policy, made, report), policy.on_complete
end

-- What was chosen holds a slot from now on.
local function took(self, queue, at)
  local ticket = queue:record(at)
  if self.shares then self.shares:charge(queue, ticket, self.book.weight) end
  self.book:admit(ticket)
end

local function form(self, choose, queue, batch, now)
  if queue.draining then -- whoever is left
    local at = choose(queue, batch, now)
    if at then took(self, queue, at) end
    return
  end
  if self.gate and not self.gate:is_open(now) then return now + self.gate.every_s end
  local at, again
  if queue.idle_slots > self.reserve then
    at, again = choose(queue, batch, now)
  else
    at = below_its_share(queue, self.book, self.slots)
    if at then batch:add(at) end
  end
  if not at then return again or now + AGAIN_S end
  took(self, queue, at)
end

--- A value for the option `policy` of a batcher of one record a batch.
-- @param given table  book (who waits and who holds: load(key), weight, admit(ticket)), slots, reserve, gate or nil,
-- policy (as policies.resolve takes it; nil: shares). A record is {key, cost, weight, ...}. Its `slots` and `reserve`
-- may be changed.
-- @return function, and Shares or nil
function M.policy(given)
  local shares = not given.policy and M.shares() or nil
  given.shares = shares
  return function(_, library, report)
    local choose, on_complete = chooser(given, library or policies, report)
    return {
      form = function(queue, batch, now) return form(given, choose, queue, batch, now) end,
      on_complete = on_complete,
    }
  end, shares
end

return M
