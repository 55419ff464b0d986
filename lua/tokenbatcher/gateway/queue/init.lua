--- A queue before an upstream, for what cannot be batched (chat, streams): who may go upstream, and who waits for it.
--
-- It is a batcher whose batches are of one record, in as many slots as the upstream serves at once. A record is a
-- ticket; the inference function lets its holder go upstream and holds the slot until the ticket is given back. So
-- order, deadlines, bounds, statistics and draining are the engine's, and the policy (turns.lua) is like any other.
--
--     local ticket, problem = queue:enter { key = "...", cost = 700 }
--     local ok, problem = queue:wait(ticket)     -- suspends; ok: go upstream
--     queue:leave(ticket)                        -- always, and from anywhere: it is over
--
-- THE SPECIAL PROBLEM OF THE LOG PHASE. There nothing may wait. So leave() settles a future or cancels a record, which
-- post to who waits, and no more; the slot is free when the light thread that holds it has gone on.

local batcher = require "tokenbatcher.batching.batcher"
local clock = require "tokenbatcher.runtime.clock"
local counts = require "tokenbatcher.gateway.counts"
local errors = require "tokenbatcher.base.errors"
local Future = require "tokenbatcher.runtime.future"
local Gate = require "tokenbatcher.gateway.queue.gate"
local metrics = require "tokenbatcher.batching.metrics"
local options = require "tokenbatcher.gateway.queue.options"
local problems = require "tokenbatcher.gateway.problems"
local turns = require "tokenbatcher.gateway.queue.turns"

local M = {}
local Queue = {}
Queue.__index = Queue

local KEEP = 0.95 -- the weight of the past at each slot that is given back: about the last 20 count
local MOST_RETRY_S = 600
local CLOSE_S = 1e-3 -- what sums of fractions are off by
local BUDGET = 32000 -- what "budget" is to a policy: any request runs alone

-- --- who waits and who holds, by key -----------------------------------------------------------

-- `weight` is the sum over the keys that have anything here.
local Book = {}
Book.__index = Book

local function entry_of(self, ticket)
  local entry = self.keys[ticket.key]
  if not entry then
    entry = { queued = 0, held = 0, queued_cost = 0, weight = ticket.weight }
    self.keys[ticket.key], self.weight, self.n = entry, self.weight + ticket.weight, self.n + 1
  end
  return entry
end

local function forget_if_idle(self, key, entry)
  if entry.queued + entry.held > 0 then return end
  self.keys[key], self.weight, self.n = nil, self.weight - entry.weight, self.n - 1
  if self.n == 0 then
    self.weight = 0
    self.on_idle()
  end
end

function Book:enter(ticket)
  local entry = entry_of(self, ticket)
  ticket.state, ticket.before = "waiting", entry.last
  if entry.last then entry.last.behind = ticket end
  entry.last = ticket
  self.queued = self.queued + 1
  entry.queued, entry.queued_cost = entry.queued + 1, entry.queued_cost + ticket.cost
end

-- It waits no more.
local function take(self, ticket, entry)
  local before, behind = ticket.before, ticket.behind
  if before then before.behind = behind end
  if behind then behind.before = before else entry.last = before end
  ticket.before, ticket.behind = nil, nil
  self.queued = self.queued - 1
  entry.queued, entry.queued_cost = entry.queued - 1, entry.queued_cost - ticket.cost
end

--- It holds a slot. (Once: the policy says so when it chooses, the inference function when it begins.)
function Book:admit(ticket)
  if ticket.state ~= "waiting" then return end
  local entry = self.keys[ticket.key]
  ticket.state = "holding"
  take(self, ticket, entry)
  entry.held, self.held = entry.held + 1, self.held + 1
end

--- It is over. @return what it was: "waiting", "holding" or "over"
function Book:over(ticket)
  local state, entry = ticket.state, self.keys[ticket.key]
  ticket.state = "over"
  if state == "waiting" then
    take(self, ticket, entry)
  elseif state == "holding" then
    entry.held, self.held = entry.held - 1, self.held - 1
  end
  if entry then forget_if_idle(self, ticket.key, entry) end
  return state
end

--- Of the key that has most waiting for its weight, and more than one: the last that has come, and how many by weight.
function Book:last_of_the_longest()
  local last, most = nil, 0
  for _, entry in pairs(self.keys) do
    local queued = entry.queued / entry.weight
    if entry.queued > 1 and queued > most then last, most = entry.last, queued end
  end
  return last, most
end

--- What a key holds, by its weight.
function Book:load(key)
  local entry = self.keys[key]
  return entry and entry.held / entry.weight or 0
end

-- --- making one -------------------------------------------------------------------------------

-- The inference function: who has waited goes, and the slot is taken until it has come back.
local function hold(records)
  local ticket = records[1]
  if ticket.state ~= "over" then
    ticket.queue.book:admit(ticket)
    ticket.queue:begin_hold(ticket)
    Future.settle(ticket.entrance, true)
    ticket.exit:await()
  end
  return { true }
end

local function batcher_options(self, p)
  local given = {
    name = self.label, inference_fn = hold, on_full = "reject", on_oversize = "alone", max_batch_size = 1,
    max_concurrent_batches = p.slots, prefetch_batches = 0, batch_timeout_s = 0, max_queue_size = p.max_queue,
    target_batch_cost = BUDGET, inference_timeout_s = p.max_hold_s, policy = self.policy,
  }
  for name, value in pairs(p.options) do given[name] = value end
  return given
end

--- @param given table  name (of the upstream), config (of options.lua), upstream, log, on_change() (a slot is free)
function M.new(given)
  local p = given.config
  local self = setmetatable({ config = p, name = given.name, label = given.name .. " queue", slots = p.slots,
    reserve = p.reserve, rate_s = 0, rate_n = 0, n_held = 0, sum_since_us = 0, refused = {},
    left = 0, log = given.log, on_change = given.on_change }, Queue)
  self.book = setmetatable({ keys = {}, n = 0, weight = 0, queued = 0, held = 0, on_idle = function()
    if self.shares then self.shares:reset() end
  end }, Book)
  self.gate = p.gate and Gate.new(p.gate, { upstream = given.upstream, name = given.name, log = given.log,
    is_needed = function() return self.book.n > 0 end })
  self.parts = { book = self.book, slots = p.slots, reserve = p.reserve, gate = self.gate, policy = p.policy }
  self.policy, self.shares = turns.policy(self.parts)
  self.batcher = batcher.TokenBatcher(batcher_options(self, p))
  return self
end

--- In each worker. @param place table|nil  {workers, worker (from 0)}: the slots are divided among them
function Queue:start(place)
  local slots, reserve = options.share(self.config, place)
  if not slots then errors.misuse(("queue of %s: %s"):format(self.name, reserve)) end
  self.slots, self.reserve = slots, reserve
  self.parts.slots, self.parts.reserve = slots, reserve
  self.batcher:set { max_concurrent_batches = slots }
  self.batcher:start()
end

--- Does a request of this path wait here?
function Queue:takes(method, path)
  if method ~= "POST" then return false end
  if self.config.exact[options.plain(path)] then return true end
  for _, beginning in ipairs(self.config.beginnings) do
    if path:sub(1, #beginning) == beginning then return true end
  end
  return false
end

-- --- Retry-After ------------------------------------------------------------------------------

-- A slot is held from now on.
function Queue:begin_hold(ticket)
  ticket.since_us = clock.now_us()
  self.n_held, self.sum_since_us = self.n_held + 1, self.sum_since_us + ticket.since_us
end

-- A slot was held for so long.
local function learn(self, ticket, now_us)
  if not ticket.since_us then return end
  self.n_held, self.sum_since_us = self.n_held - 1, self.sum_since_us - ticket.since_us
  self.rate_s = self.rate_s * KEEP + (now_us - ticket.since_us) / 1e6
  self.rate_n = self.rate_n * KEEP + 1
end

-- How long a slot is held: as it was lately, or as long as those that are held now have been, if that is longer.
local function hold_s(self)
  local age_s = self.n_held > 0 and (clock.now_us() - self.sum_since_us / self.n_held) / 1e6 or 0
  return math.max(self.rate_n > 0 and self.rate_s / self.rate_n or 0, age_s)
end

--- When a new request of a key would find a slot, as things have gone lately: whole seconds, for Retry-After. What goes
-- before it, and half of what is being served. It goes by how many, and not by what they say that they cost: who says
-- too much must not be believed at the others' expense.
function Queue:seconds(key, weight)
  local book, entry = self.book, self.book.keys[key]
  local ahead = self.shares and self.shares:ahead(book.keys, key, weight) or book.queued
  local slots = self.slots - (entry and entry.queued > 0 and self.reserve or 0)
  local wait_s = (ahead + book.held / 2) * hold_s(self) / slots
  return math.min(math.max(1, math.ceil(wait_s - CLOSE_S)), MOST_RETRY_S)
end

-- --- a request --------------------------------------------------------------------------------

local function problem_of(self, status, code, message, ticket)
  local problem = problems.new(status, code, message)
  problem.retry_after_s = status == 503 and 1 or self:seconds(ticket.key, ticket.weight)
  counts.count(self.refused, code)
  return problem
end

local function full(self, ticket)
  return problem_of(self, 429, "queue_full", "too many of your requests wait for their turn: try again later", ticket)
end

local function stopped(self, ticket)
  return problem_of(self, 503, "stopped", "the gateway is shutting down", ticket)
end

-- What became of a record before its turn. @return problem
local function problem_of_err(self, ticket, err)
  if err.code == "deadline" then
    return problem_of(self, 429, "queue_timeout",
      ("no place became free within %.3g s: try again later"):format(ticket.timeout_s), ticket)
  end
  if err.code == "stopped" then return stopped(self, ticket) end
  if ticket.is_put_out then return full(self, ticket) end
  if err.code == "cancelled" then return problems.new(503, "cancelled", "the request was cancelled") end
  return problem_of(self, 503, err.code, "the gateway could not queue this request", ticket)
end

-- Its record has ended, whatever the way.
local function settled(ticket, place)
  local self = ticket.queue
  local _, err = Future.outcome(place)
  if self.book:over(ticket) == "holding" then learn(self, ticket, clock.now_us()) end
  Future.settle(ticket.entrance, nil, err or errors.new("cancelled", "it was given back"))
  Future.settle(ticket.exit, true)
  self.on_change() -- only now its slot is free
end

-- Nobody fills the queue: a key may have as many waiting as there are places left. And many keys together do not fill
-- it for another: who has fewer waiting for his weight than some other takes the place of the last of that one. (An
-- only one is nobody else's.)
local function make_room(self, asked)
  local book, most = self.book, self.config.max_queue
  local entry = book.keys[asked.key]
  local queued = entry and entry.queued or 0
  if queued < most - book.queued then return true end
  local last, longest = book:last_of_the_longest()
  if not last or last.key == asked.key or (queued + 1) / asked.weight >= longest then return false end
  if book.queued < most then return true end
  last.is_put_out = true
  last.place:cancel()
  return true
end

--- A request comes.
-- @param asked table  key (who), cost (tokens), weight (1), priority, max_wait_s (of its own, shorter ones count)
-- @return ticket; or nil and a problem
function Queue:enter(asked)
  local p = self.config
  local ticket = { queue = self, key = asked.key, cost = asked.cost, weight = asked.weight or 1,
    timeout_s = math.min(p.max_wait_s, asked.max_wait_s or math.huge),
    entrance = Future.new(false, false), exit = Future.new(false, false) }
  if not self.batcher.is_running then return nil, stopped(self, ticket) end
  if not make_room(self, ticket) then return nil, full(self, ticket) end
  local ok, place, err = pcall(self.batcher.submit, self.batcher, ticket, { key = ticket.key,
    estimated_cost = ticket.cost, priority = asked.priority, timeout_s = ticket.timeout_s })
  if not ok then
    if errors.is_err(place) and place.code == "not_running" then return nil, stopped(self, ticket) end
    error(place, 0)
  end
  if not place then
    if err.code == "queue_full" then return nil, full(self, ticket) end
    return nil, problem_of_err(self, ticket, err)
  end
  ticket.place = place
  self.book:enter(ticket)
  Future.on_settled(place, function(future) settled(ticket, future) end)
  if self.gate then self.gate:watch() end
  return ticket
end

--- Wait for the turn; suspends. @return true: go upstream, and leave() afterwards; or nil and a problem
function Queue:wait(ticket)
  local ok, err = ticket.entrance:await()
  if ok then return true end
  return nil, problem_of_err(self, ticket, err)
end

--- It is over, or its client gone: the slot, or the place in the queue, is free. Posts only; more often does no harm.
function Queue:leave(ticket)
  if ticket.is_left then return end
  ticket.is_left = true
  if ticket.since_us then
    Future.settle(ticket.exit, true)
  elseif ticket.place:cancel() then
    self.left = self.left + 1
  end
end

-- --- what it says of itself -------------------------------------------------------------------

local GATES = { [true] = 1, [false] = 0 }

--- @return {batcher, slots, reserve, held, refused (code -> how many), left, gate (1 open, 0 closed; nil: none)}
function Queue:snapshot()
  return { batcher = metrics.snapshot(self.batcher), slots = self.slots, reserve = self.reserve, held = self.book.held,
    refused = self.refused, left = self.left,
    gate = self.gate and GATES[self.gate:is_open(clock.now_us() / 1e6)] or nil }
end

--- Add a snapshot to another, or to an empty table. @param is_over boolean  its worker is gone
function M.add(into, from, is_over)
  into.batcher, into.refused = into.batcher or {}, into.refused or {}
  metrics.add(into.batcher, from.batcher, is_over)
  counts.add_numbers(into.refused, from.refused)
  into.left = (into.left or 0) + from.left
  if is_over then return end
  for _, name in ipairs { "slots", "reserve", "held" } do into[name] = (into[name] or 0) + from[name] end
  if from.gate then into.gate = math.min(into.gate or 1, from.gate) end
end

return M
