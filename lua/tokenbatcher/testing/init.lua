--- testing: a queue made by hand, and what a policy picks from it, for the specs of who writes policies. It knows
-- base, core and batching, and the policies that ship; no loop, no inference function. The same core and the same
-- decision code as in production, on a clock that moves when it is told to.
--
--     local testing = require "tokenbatcher.testing"
--     local queue = testing.queue({ { cost = 900, waited_s = 0.4 }, { cost = 100 } }, { policy = my_policy })
--     local batch = queue:pick()              -- {indexes = {2, 1}, reason = "policy", ...}, or nil: not now

local cost = require "tokenbatcher.batching.cost"
local Decision = require "tokenbatcher.batching.decision"
local errors = require "tokenbatcher.base.errors"
local Keys = require "tokenbatcher.core.keys"
local options = require "tokenbatcher.core.options"
local policies = require "tokenbatcher.policy"
local REASONS = require("tokenbatcher.core.stats").REASONS
local slos = require "tokenbatcher.batching.slo"
local submit_options = require "tokenbatcher.batching.submit_options"
local tbffi = require "tokenbatcher.core.ffi"

local C, SLOTS = tbffi.lib, tbffi.SLOTS
local EXPIRED, TIMED_OUT = tonumber(C.TB_EVENT_EXPIRED), tonumber(C.TB_EVENT_BATCH_TIMED_OUT)
local EVENTS, START_S = 64, 1e6
local LAST_S = 9e9 -- in microseconds still a whole number, and a time to the core

local M = {}

--- @class tokenbatcher.testing.Queue
--- @field now number  seconds, the policy's clock
--- @field size number  of records that are queued
--- @field warnings string[]  what the engine would log of the policy, beside errors, which are raised
local Queue = {}
Queue.__index = Queue

local FIELDS = { "cost", "key", "group", "priority", "waited_s", "timeout_s", "batch_timeout_s", "slo_s", "record" }
local IS_FIELD = {}
for _, name in ipairs(FIELDS) do IS_FIELD[name] = true end

local submission, chosen = tbffi.new "tb_submission", tbffi.new "tb_batch"
local events = tbffi.new("tb_event[?]", EVENTS)

-- Has a method been called with a dot?
local function require_queue(self, name)
  if getmetatable(self) == Queue then return end
  errors.misuse(("testing: %s needs a colon: queue:%s(...), not queue.%s(...)"):format(name, name, name))
end

local function fail(number, text)
  errors.misuse(("testing: record %d: %s"):format(number, text))
end

local function is_seconds(value, least)
  return type(value) == "number" and value >= least and value < math.huge
end

-- --- the policy -----------------------------------------------------------------

-- The policy as given, but what it raises is kept: an engine goes on without it, a spec must not.
local function watched(self, resolved)
  local function keep(err)
    if self.raised == nil then self.raised = err == nil and "the policy raised nil" or err end
  end
  local function note(ok, ...)
    if ok then return ... end
    keep((...))
    error((...), 0)
  end
  return policies.resolve(policies.watched(resolved, function(policy)
    local function form(...) return note(pcall(policy.form, ...)) end
    local on_complete = policy.on_complete and function(report) return note(pcall(policy.on_complete, report)) end
    return setmetatable({ form = form, on_complete = on_complete }, { __index = policy })
  end, keep))
end

-- What a decision may know: see decision.lua.
local function port_of(self)
  return {
    record = function(slot) return self.records[self.numbers[slot]].record end,
    slo = function(slot) return self.records[self.numbers[slot]].slo_s end,
    key_name = function(number) return self.keys:name(number) end,
    key_number = function(name) return self.keys:id(name) end,
    group_name = function(number) return self.groups:name(number) end,
    group_number = function(name) return self.groups:id(name) end,
    is_suspect = function() return false end,
    count = function(what) self.counts[what] = self.counts[what] + 1 end,
    warn = function(text) self.warnings[#self.warnings + 1] = text end,
  }
end

-- Raise what the policy has raised since this was asked last.
local function raise_kept(self)
  local err = self.raised
  if err == nil then return end
  self.raised = nil
  error(errors.is_err(err) and err or errors.message_of(err), 0)
end

-- --- records --------------------------------------------------------------------

local function cost_of(self, given, number)
  if given.cost ~= nil then return cost.checked(given.cost, ("record %d: cost"):format(number)) end
  if given.record == nil then fail(number, "a cost is needed, or a record that the batcher's estimator knows") end
  return cost.estimate(self.cost_source, given.record)
end

-- Raises unless the engine would have it so: fields, times, order of arrival.
local function check(self, given, number)
  if type(given) ~= "table" then fail(number, "a table is needed, got a " .. type(given)) end
  for name in pairs(given) do
    if not IS_FIELD[name] then
      fail(number, ("there is no field '%s'; did you mean '%s'?"):format(errors.text(name),
        errors.nearest(errors.text(name), FIELDS)))
    end
  end
  local waited_s, slo_s, timeout_s = given.waited_s or 0, given.slo_s, given.timeout_s
  if not (is_seconds(waited_s, 0) and waited_s < self.now) then
    fail(number, "waited_s must be a number of seconds >= 0, below the time, got " .. errors.show(waited_s))
  end
  if slo_s ~= nil and not (is_seconds(slo_s, 0) and slo_s > 0) then
    fail(number, "slo_s must be a number of seconds above 0, got " .. errors.show(slo_s))
  end
  local opts = { key = given.key, group = given.group, priority = given.priority, timeout_s = timeout_s,
    batch_timeout_s = given.batch_timeout_s }
  submit_options.check("TokenBatcher", opts)
  if timeout_s and timeout_s <= waited_s then
    fail(number, ("has waited %.14g s, which its timeout_s = %.14g does not let it"):format(waited_s, timeout_s))
  end
  local arrived_us = self.now_us - math.floor(waited_s * 1e6 + 0.5)
  if arrived_us < self.newest_us then
    fail(number, "has waited longer than one before it; records are given in the order of arrival")
  end
  return opts, arrived_us
end

local function hand_in(self, value, opts, arrived_us)
  submission.cost, submission.priority, submission.submitted_us = value, opts.priority or 0, arrived_us
  submission.timeout_us, submission.batch_timeout_us = submit_options.timeout_us(opts), submit_options.linger_us(opts)
  submission.key, submission.group = opts.key and self.keys:take(opts.key) or 0,
    opts.group and self.groups:take(opts.group) or 0
  submission.flags = 0
  return C.tb_submit(self.handle, submission, self.now_us)
end

--- One more record arrives. @param given table  see queue() @return number  its index
function Queue:add(given)
  require_queue(self, "add")
  local number = #self.records + 1
  local opts, arrived_us = check(self, given, number)
  local value = cost_of(self, given, number)
  if value > self.max_cost then fail(number, "costs more than the policy lets through") end
  local slo_s = given.slo_s or self.slo and slos.of(self.slo, given.record, value, opts)
  local id = hand_in(self, value, opts, arrived_us)
  if id < 0 then fail(number, tbffi.text(C.tb_error_text(id))) end
  self.records[number] = { record = given.record, slo_s = slo_s, key = opts.key, group = opts.group }
  self.numbers[id % SLOTS], self.newest_us, self.size = number, arrived_us, self.size + 1
  return number
end

-- A record is queued no more. @return number  its index
local function leave(self, id)
  local slot = id % SLOTS
  local number = self.numbers[slot]
  local record = self.records[number]
  if record.key then self.keys:give(self.keys:id(record.key)) end
  if record.group then self.groups:give(self.groups:id(record.group)) end
  self.numbers[slot], self.size = nil, self.size - 1
  return number
end

-- A batch is over: tell the policy. @param failed number  of its records
local function close(self, batch, failed)
  local run = self.running[batch]
  self.running[batch] = nil
  if not (self.decision and self.decision.on_complete) then return end
  self.decision:complete {
    id = run.id, size = run.size, cost = run.cost, padded = run.padded, failed = failed, calls = 1,
    service_s = (self.now_us - run.started_us) / 1e6, now = self.now,
  }
end

local function close_timed_out(self, id)
  for batch, run in pairs(self.running) do
    if run.id == id then return close(self, batch, run.size) end
  end
end

local function poll(self)
  repeat
    local n = C.tb_poll(self.handle, events, EVENTS, self.now_us)
    for i = 0, n - 1 do
      local kind, id = events[i].kind, events[i].id
      if kind == EXPIRED then leave(self, id) elseif kind == TIMED_OUT then close_timed_out(self, id) end
    end
  until n == 0
end

-- --- what happens ---------------------------------------------------------------

local function read_batch(self, id, was_overruled)
  C.tb_batch_read(self.handle, id, chosen, nil, nil, 0)
  local n = chosen.size
  local ids, indexes = tbffi.new("double[?]", n), {}
  C.tb_batch_read(self.handle, id, chosen, ids, nil, n)
  for i = 1, n do indexes[i] = leave(self, ids[i - 1]) end
  local batch = { indexes = indexes, cost = chosen.cost, padded = chosen.padded, reason = REASONS[chosen.reason + 1],
    overruled = was_overruled }
  self.running[batch] = { id = id, size = n, cost = chosen.cost, padded = chosen.padded, started_us = self.now_us }
  return batch
end

--- The decision that the engine would make now. Raises what the policy raises, which names its file and line.
-- @return table {indexes (in the order of the batch; 1 is the first record ever given), cost, padded, reason (as
--   info.reason), overruled (boolean: it named nobody though the queue was due, and fifo chose)}; or nil ("not now",
--   or not even asked: no slot is idle, nothing has happened since) and the time, on `now`, of the next question
function Queue:pick()
  require_queue(self, "pick")
  poll(self)
  local overruled = self.counts.overruled
  local id
  if self.decision then
    id = self.decision:form(self.now_us)
    self.decision:end_turn()
  else
    id = C.tb_form(self.handle, self.now_us)
  end
  local batch = id ~= 0 and read_batch(self, id, self.counts.overruled > overruled) or nil
  raise_kept(self)
  if batch then return batch end
  local at_us = tonumber(C.tb_next(self.handle))
  return nil, at_us >= 0 and at_us / 1e6 or nil
end

--- Time passes. Records whose timeout_s is over leave; a batch that has run for the option inference_timeout_s is over,
-- and has failed. Raises what on_complete raises.
function Queue:wait(seconds)
  require_queue(self, "wait")
  if not (is_seconds(seconds, 0) and self.now + seconds <= LAST_S) then
    errors.misuse(("testing: wait: a number of seconds >= 0 is needed, up to the time %.14g, got %s"):format(LAST_S,
      errors.show(seconds)))
  end
  self.now_us = self.now_us + math.floor(seconds * 1e6 + 0.5)
  self.now = self.now_us / 1e6
  poll(self)
  raise_kept(self)
end

--- A batch of pick() is over: its slot is free, and the policy hears how long it took, since pick(). Raises what its
-- on_complete raises.
function Queue:done(batch)
  require_queue(self, "done")
  local run = self.running[batch]
  if not run then errors.misuse "testing: done: a batch is needed that pick() returned, and that is not over yet" end
  C.tb_batch_finish(self.handle, run.id, C.TB_COMPLETED, self.now_us)
  close(self, batch, 0)
  raise_kept(self)
end

--- The batcher is stopped: what is queued goes without lingering (queue.draining).
function Queue:drain()
  require_queue(self, "drain")
  C.tb_stop(self.handle, C.TB_NO_TIMEOUT, self.now_us)
end

-- --- making one -----------------------------------------------------------------

-- The options of a batcher, which needs no inference function here.
local function configure(given)
  local config, values = options.defaults()
  local _, message = options.merge("TokenBatcher", given or {}, config, values)
  if message then errors.misuse("testing: " .. message) end
  local handle = tbffi.batcher(config)
  if not handle then errors.misuse "testing: out of memory" end
  return handle, values
end

local function check_list(records)
  if type(records) ~= "table" then errors.misuse("testing: a list of records is needed, got a " .. type(records)) end
  for key in pairs(records) do
    if type(key) ~= "number" or key < 1 or key > #records or key % 1 ~= 0 then
      errors.misuse("testing: the records must be a list without holes, but it has the key " .. errors.show(key))
    end
  end
end

--- A queue.
-- @param records table  in the order of arrival, each {cost, key, group, priority, waited_s (0), timeout_s,
--   batch_timeout_s, slo_s, record}: as for submit, but waited_s is how long ago that was, slo_s what queue:slo(i) is
--   (else as the option slo says); without a cost the record's is estimated
-- @param given table|nil  options of TokenBatcher: policy, target_batch_tokens, max_concurrent_batches, slo ... Those
--   about calls and what is around a batcher (on_error, join, record, log, suspect_s) change nothing here
-- @param now number|nil  seconds at which the policy's clock begins (1,000,000)
function M.queue(records, given, now)
  check_list(records)
  now = now == nil and START_S or now
  if not (is_seconds(now, 1e-6) and now <= 1e9) then
    errors.misuse("testing: the time must be a number of seconds above 0, at most 1e9, got " .. errors.show(now))
  end
  local handle, values = configure(given)
  local now_us = math.floor(now * 1e6 + 0.5)
  local self = setmetatable({
    handle = handle, now = now_us / 1e6, now_us = now_us, newest_us = 0, size = 0, records = {}, numbers = {},
    running = {}, keys = Keys.new(), groups = Keys.new(), warnings = {}, slo = values.resolved_slo,
    counts = { errors = 0, overruled = 0, disabled = 0 }, max_cost = math.huge, decision = nil, raised = nil,
    cost_source = { estimator = values.cost_estimator, name = "token_estimator", default = values.default_cost,
      knows_tokens = true },
  }, Queue)
  if not values.resolved_policy.in_core then
    self.decision = Decision.new(handle, port_of(self), watched(self, values.resolved_policy))
    self.max_cost = self.decision.resolved.module and self.decision.policy.max_record_cost or math.huge
  end
  C.tb_start(handle, now_us)
  for i = 1, #records do self:add(records[i]) end
  return self
end

return M
