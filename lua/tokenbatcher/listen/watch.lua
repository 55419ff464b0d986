--- listen: a batcher looked at while it runs. What has happened lately (this file), as one table (state.lua), on a
-- page (page.lua), over HTTP. It knows all rooms from base to backend.
--
-- This file notes what a batcher does: the last batches, two minutes of the queue, failures, changes of options. A
-- batcher that nobody watches pays nothing. One that is watched pays for a batch a few numbers in a ring, and twice a
-- second, while it has work, a reading of its statistics. Of batches that come faster than anybody could see them, as
-- of records to be counted by key, so many a second are noted and the others left out (but not those that fail).
-- Whatever is dear, pseudonyms for example, is made when somebody looks.
--
-- THE SPECIAL PROBLEM OF WORDS. What is shown goes to whoever opens the page, and is kept by nobody who thought of it
-- as a record. So a failure is told by a sentence of ours (failures.lua), never by its message, which may quote a
-- record or a server; and keys and groups by pseudonyms, unless the option record_keys says otherwise.

local clock = require "tokenbatcher.runtime.clock"
local failures = require "tokenbatcher.listen.failures"
local pseudonym = require "tokenbatcher.base.pseudonym"
local shown = require "tokenbatcher.listen.shown"
local Tally = require "tokenbatcher.listen.tally"
local tbffi = require "tokenbatcher.core.ffi"

local floor, max, min = math.floor, math.max, math.min

local M = {}
local Watch = {}
Watch.__index = Watch

--- Batches that are remembered.
M.RING = 256
--- A history has so many steps of so many microseconds: two minutes.
M.STEPS, M.STEP_US = 240, 500000
--- Failures and changes that are remembered.
M.FAILURES, M.CHANGES = 20, 20

local SLOTS = M.STEPS + 1 -- of totals the one before, too
local WINDOW_US = 60 * 1e6 -- distributions are of one to two of these
local PERIOD_US = 50000 -- in so long so many batches are noted, and so many records counted by key:
local NOTED, TALLIED = M.RING, 500

-- Upper bounds of what is counted in distributions: ten a decade, and powers of two.
local TIMES_US, SIZES, COSTS = {}, {}, {}
for i = 0, 80 do TIMES_US[i + 1] = 10 ^ (1 + i / 10) end
for i = 0, 16 do SIZES[i + 1] = 2 ^ i end
for i = 0, 24 do COSTS[i + 1] = 2 ^ i end
M.BOUNDS = { wait = TIMES_US, service = TIMES_US, latency = TIMES_US, size = SIZES, cost = COSTS }

-- --- a history --------------------------------------------------------------------------------

-- What is sampled: field of tb_stats, and is it a total that only grows?
local SAMPLED = {
  queue = { "queue_size" }, cost = { "queue_cost" }, oldest_us = { "oldest_queued_us" },
  submitted = { "total_submitted", true }, completed = { "total_completed", true }, failed = { "total_failed", true },
  rejected = { "total_rejected", true }, expired = { "total_expired", true },
}

-- Steps of which nothing is known are as the last one, or empty where the batcher rested.
local function fill_gap(self, from, to)
  for name, of in pairs(SAMPLED) do
    local list = self.history[name]
    local value = (of[2] or not self.is_idle) and list[self.last_step % SLOTS] or 0
    for step = from, to do list[step % SLOTS] = value end
  end
end

local function sample(self, now_us)
  local step = floor(now_us / M.STEP_US)
  local last = self.last_step
  if step - last > 1 then fill_gap(self, max(last + 1, step - M.STEPS), step - 1) end
  local raw, is_new = self.raw, step > last
  self.policy_errors, self.policy_overruled = self.batcher:fill_stats(raw)
  for name, of in pairs(SAMPLED) do
    local list, value, at = self.history[name], raw[of[1]], step % SLOTS
    list[at] = (is_new or of[2]) and value or max(list[at] or 0, value)
  end
  self.last_step, self.is_idle = step, self.batcher.unsettled == 0
  self.next_us = (step + 1) * M.STEP_US
end

local function distributions_of(batcher)
  local out = {}
  for what, bounds in pairs(M.BOUNDS) do out[what] = batcher:distribution(what, bounds) end
  return out
end

-- --- what the batcher tells: see batching/watching.lua ----------------------------------------

function Watch:turned(now_us)
  if now_us < self.next_us then return end
  sample(self, now_us)
  if now_us - self.since_us < WINDOW_US then return end
  self.before, self.before_us = self.since, self.since_us
  self.since, self.since_us = distributions_of(self.batcher), now_us
end

local function note_failure(self, entry, run, now_us)
  local list = self.failures
  if #list >= M.FAILURES then table.remove(list, 1) end
  local text, code, status = failures.sentence(run.err)
  list[#list + 1] = { at_us = now_us, n = entry.n, code = code, status = status, text = text, failed = run.failed,
    size = run.size }
end

-- Count a batch by key, as far as there is time for it. @return how many keys it has; nil: not all was counted
local function tally_keys(self, run)
  local n = min(run.size, self.tally_left)
  self.tally_left = self.tally_left - n
  local different = self.keys:add_batch(run.keys, run.costs, n)
  if n == run.size then return different end
  self.keys.is_partial = true
end

-- The name of the policy that made a decision, as it may be shown.
local function name_of(self, decision)
  local name = decision.name
  if name ~= self.named then self.named, self.named_text = name, shown.policy(name) end
  return self.named_text
end

-- Write a batch down.
local function note(self, run, now_us)
  local n, decision = self.n, run.decision
  self.noted = self.noted + 1
  local entry = self.ring[self.noted % M.RING]
  entry.n, entry.id, entry.at_us, entry.us = n, run.id, run.started_us, now_us - run.started_us
  entry.size, entry.cost, entry.tokens, entry.padded = run.size, run.cost, run.tokens, run.padded
  entry.reason, entry.calls, entry.depth = run.reason, run.attempt or 1, run.depth or 0
  entry.failed, entry.group = run.failed, run.group
  entry.policy = decision and name_of(self, decision)
    or run.started_us < self.policy_us and self.former_policy or self.policy
  entry.code, entry.keys = nil, nil
  if run.failed > 0 then
    note_failure(self, entry, run, now_us)
    entry.code = self.failures[#self.failures].code
  end
  if getmetatable(run.keys) == nil then entry.keys = tally_keys(self, run) end
  if run.group ~= "" then self.groups:add(run.group, run.cost, run.size) end
end

function Watch:ended(run, now_us)
  self.n = self.n + 1
  if now_us >= self.until_us then
    self.until_us, self.left, self.tally_left = now_us + PERIOD_US, NOTED, TALLIED
  elseif self.left == 0 and run.failed == 0 then
    self.groups.is_partial, self.keys.is_partial = true, true
    return
  end
  self.left = self.left > 0 and self.left - 1 or 0
  note(self, run, now_us)
end

function Watch:changed(given)
  local now_us, former = clock.now_us(), self.shown
  self.shown = shown.options(self.batcher)
  local policy = shown.policy_name(self.batcher)
  if policy ~= self.policy then self.former_policy, self.policy, self.policy_us = self.policy, policy, now_us end
  for _, text in ipairs(shown.changes(former, self.shown, given)) do
    if #self.changes >= M.CHANGES then table.remove(self.changes, 1) end
    self.changes[#self.changes + 1] = { at_us = now_us, text = text }
  end
end

-- --- making one -------------------------------------------------------------------------------

local function new_ring()
  local out = {}
  for i = 0, M.RING - 1 do
    out[i] = { n = 0, id = 0, at_us = 0, us = 0, size = 0, cost = 0, tokens = 0, padded = 0, reason = "", calls = 0,
      depth = 0, failed = 0, group = "", policy = "", code = "", keys = 0 }
  end
  return out
end

--- Watch a batcher, from now on and until close(). One that is watched already has another watcher then.
-- @param batcher table
-- @param secret string|nil  16 bytes with which pseudonyms are made, where several processes need the same
function M.new(batcher, secret)
  local now_us = clock.now_us()
  local self = setmetatable({ batcher = batcher, secret = secret or assert(pseudonym.secret()),
    ring = new_ring(), n = 0, noted = 0, until_us = 0, left = 0, tally_left = 0, history = {},
    raw = tbffi.new "tb_stats",
    failures = {}, changes = {}, keys = Tally.new(), groups = Tally.new(),
    begun_us = now_us, since_us = now_us, before_us = now_us, policy_us = now_us, next_us = now_us,
    is_idle = true }, Watch)
  for name in pairs(SAMPLED) do self.history[name] = {} end
  self.since = distributions_of(batcher)
  self.before = self.since
  self.shown, self.policy = shown.options(batcher), shown.policy_name(batcher)
  batcher:fill_stats(self.raw)
  self.last_step = floor(now_us / M.STEP_US) - 1
  for name, of in pairs(SAMPLED) do self.history[name][self.last_step % SLOTS] = of[2] and self.raw[of[1]] or 0 end
  batcher:watch(self)
  sample(self, now_us)
  return self
end

function Watch:close()
  self.batcher:watch(false)
end

-- --- who looks --------------------------------------------------------------------------------

--- A key or a group as it may be shown.
function Watch:show(name)
  return shown.name(self.batcher, self.secret, name)
end

--- Bring it up to now. @return now_us
function Watch:look()
  local now_us = clock.now_us()
  sample(self, now_us)
  return now_us
end

--- The steps of a history, oldest first; those of totals as what was added in each step.
-- @return number[], the number of the last step on the clock
function Watch:steps(name)
  local list, out, last = self.history[name], {}, self.last_step
  local first = max(last - M.STEPS + 1, floor(self.begun_us / M.STEP_US))
  for step = first, last do
    local value = list[step % SLOTS] or 0
    if SAMPLED[name][2] then value = max(0, value - (list[(step - 1) % SLOTS] or 0)) end
    out[#out + 1] = value
  end
  return out, last
end

--- How many values of the last one or two minutes were at most each of M.BOUNDS[what], and of how many seconds.
function Watch:recent(what)
  local now, before = self.batcher:distribution(what, M.BOUNDS[what]), self.before[what]
  for i = 1, #now do now[i] = max(0, now[i] - before[i]) end
  return now, (clock.now_us() - self.before_us) / 1e6
end

--- Call fn(entry) for each of the last `most` batches noted that has ended after `after_us`, oldest first. An entry is
-- {n (1, 2, ... since the watch began, with those that were left out), id, at_us (when it began), us (how long it
-- took), size, cost, tokens (the sum of its costs), padded, reason, calls (of inference_fn), depth (how often it was
-- halved), failed, code, group, keys (how many different ones; nil: not counted), policy}.
function Watch:each_batch(after_us, most, fn)
  for i = max(1, self.noted - min(most, M.RING) + 1), self.noted do
    local entry = self.ring[i % M.RING]
    if entry.at_us + entry.us > after_us then fn(entry) end
  end
end

return M
