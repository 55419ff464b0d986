--- One decision of a scripted policy: ask the core whether it is time, show the policy the
-- queue, let it name records, and guard against everything it may do wrong.
--
-- A batcher with a scripted policy owns one Decision: {batcher, policy, queue, batch}. The
-- queue and the batch are valid during form() only; afterwards they raise.

local errors = require "tokenbatcher.base.errors"
local host = require "tokenbatcher.runtime.host"
local no_suspend = require "tokenbatcher.base.no_suspend"
local tbffi = require "tokenbatcher.core.ffi"

local C, SLOTS = tbffi.lib, tbffi.SLOTS
local COST, DEADLINE, PRIORITY = C.TB_VIEW_COST, C.TB_VIEW_DEADLINE, C.TB_VIEW_PRIORITY
local KEYS = C.TB_VIEW_KEYS

local M = {}

local ERRORS_IN_A_ROW = 10
local SLOW_US = 500000

local raw = tbffi.new "tb_queue"
local looked = tbffi.new "tb_look_at"
local chosen = tbffi.new "tb_batch"

-- --- what the policy sees ---------------------------------------------------

--- @class tokenbatcher.Queue
local Queue = {}
--- @class tokenbatcher.Batch
local Batch = {}

local function refuse_use()
  errors.misuse "queue and batch are valid only during the call of form, and their methods need a colon"
end

-- A queue or batch object is an empty userdata: there is nothing in it that a policy could
-- reach or overwrite. Its decision is looked up here; both live as long as the batcher's.
local decision_of = setmetatable({}, { __mode = "kv" })

local function open_decision(object)
  local decision = decision_of[object]
  if not (decision and decision.is_open) then refuse_use() end
  return decision
end

local function new_object(decision, meta)
  local object = newproxy(true)
  for name, value in pairs(meta) do getmetatable(object)[name] = value end
  getmetatable(object).__metatable = meta.name
  decision_of[object] = decision
  return object
end

local FIELDS = {
  size = function(d) return d.size end,
  total_cost = function(d) return d.total_cost end,
  full = function(d) return d.full end,
  due = function(d) return d.due end,
  draining = function(d) return d.draining end,
  idle_slots = function(d) return d.idle_slots end,
}

local queue_meta = { name = "queue" }
queue_meta.__index = function(self, name)
  local method = Queue[name]
  if method then return method end
  local field = FIELDS[name]
  if field then return field(open_decision(self)) end
end
queue_meta.__newindex = function() errors.misuse "a policy cannot change the queue" end

local function look(self, i)
  local decision = open_decision(self)
  if type(i) ~= "number" or C.tb_look(decision.handle, i, looked) ~= 0 then
    errors.misuse(("queue: there is no position %s (size is %d)"):format(errors.show(i), decision.size))
  end
  return looked, decision
end

--- @return number  the cost of the record at position i
function Queue:cost(i)
  local decision = open_decision(self)
  local value = type(i) == "number" and C.tb_look_cost(decision.handle, i) or -1
  if value < 0 then look(self, i) end
  return value
end

--- @return number  seconds since the call of submit
function Queue:age(i) return look(self, i).age_us / 1e6 end

--- @return number
function Queue:priority(i) return look(self, i).priority end

--- @return number|nil  on now's clock
function Queue:deadline(i)
  local at = look(self, i).deadline_us
  return at >= 0 and at / 1e6 or nil
end

--- @return string  "" for a record without one
function Queue:key(i)
  local at, decision = look(self, i)
  return decision.batcher._keys:name(at.key)
end

--- @return any  what was submitted
function Queue:record(i)
  local at, decision = look(self, i)
  return decision.batcher._records[at.id % SLOTS]
end

local function open_view(self, view, aging_us)
  local decision = open_decision(self)
  if C.tb_view_open(decision.handle, view, aging_us or 0) ~= 0 then errors.misuse "queue: out of memory" end
  return decision
end

-- Stateless iterators, one for each view: next(queue, position) -> position. Position 0 is
-- before the first.
local function next_by_cost(self, position)
  local to = C.tb_view_next(open_decision(self).handle, COST, position)
  if to > 0 then return to end
end

local function next_by_deadline(self, position)
  local to = C.tb_view_next(open_decision(self).handle, DEADLINE, position)
  if to > 0 then return to end
end

local function next_by_priority(self, position)
  local to = C.tb_view_next(open_decision(self).handle, PRIORITY, position)
  if to > 0 then return to end
end

--- Positions, smallest cost first.
function Queue:by_cost()
  open_view(self, COST)
  return next_by_cost, self, 0
end

--- Positions, earliest deadline first; those without one last.
function Queue:by_deadline()
  open_view(self, DEADLINE)
  return next_by_deadline, self, 0
end

--- Positions, highest priority + age / aging_s first. Without aging_s, age does not count.
-- There is one such order: asking with another aging_s sorts it anew, O(n log n).
-- @param aging_s number|nil  seconds above 0
function Queue:by_priority(aging_s)
  if aging_s ~= nil and (type(aging_s) ~= "number" or aging_s ~= aging_s or aging_s <= 0) then
    errors.misuse("queue:by_priority: aging_s must be a number of seconds above 0, got " .. errors.show(aging_s))
  end
  local aging_us = aging_s and math.min(math.max(1, aging_s * 1e6), 2 ^ 52) or 0
  open_view(self, PRIORITY, aging_us)
  return next_by_priority, self, 0
end

-- Steps out from the middle to the nearer side. Upwards that is the order of the view;
-- downwards it goes from one group of equal costs to the next, and through each by arrival.
local function step_below(state, handle)
  local to = C.tb_view_next(handle, COST, state.below)
  if to > 0 and C.tb_look_cost(handle, to) == state.below_cost then
    state.below = to
    return
  end
  to = C.tb_view_previous(handle, COST, state.group)
  state.below = to > 0 and C.tb_view_alike(handle, to) or 0
  state.group = state.below
  state.below_cost = to > 0 and C.tb_look_cost(handle, to) or -math.huge
end

local function step_above(state, handle)
  local to = C.tb_view_next(handle, COST, state.above)
  if to == state.middle then to = C.tb_view_next(handle, COST, to) end
  state.above = to
  state.above_cost = to > 0 and C.tb_look_cost(handle, to) or math.huge
end

-- An iterator with a state of its own ends with the decision in which it was made.
local function handle_of(state)
  local decision = open_decision(state.queue)
  if state.serial ~= decision.serial then refuse_use() end
  return decision.handle
end

local function next_near(state, position)
  local handle = handle_of(state)
  if position == 0 then return state.middle end
  local above, below = state.above, state.below
  if above == 0 and below == 0 then return end
  local farther = (state.above_cost - state.cost) - (state.cost - state.below_cost)
  if farther > 0 or (farther == 0 and below < above) then
    step_below(state, handle)
    return below
  end
  step_above(state, handle)
  return above
end

--- Positions by distance in cost from i, i itself first; of equal distances the earlier
-- arrival.
function Queue:near(i)
  local cost = self:cost(i)
  local decision = open_view(self, COST)
  local handle = decision.handle
  local first = C.tb_view_alike(handle, i)
  local state = {
    queue = self, serial = decision.serial, middle = i, cost = cost, group = first,
    below = 0, below_cost = -math.huge, above = first, above_cost = cost,
  }
  if first == i then step_above(state, handle) end
  local under = C.tb_view_previous(handle, COST, first)
  if under > 0 then
    state.below = C.tb_view_alike(handle, under)
    state.group, state.below_cost = state.below, C.tb_look_cost(handle, under)
  end
  return next_near, state, 0
end

local NO_KEY = 0xFFFFFFFF -- the core knows none of this number

local function next_key(self, previous)
  local decision = open_decision(self)
  local keys = decision.batcher._keys
  local key
  if previous == nil then
    key = C.tb_keys_first(decision.handle)
  else
    key = C.tb_keys_next(decision.handle, keys:id(previous) or NO_KEY)
  end
  if key >= 0 then return keys:name(key) end
end

--- Keys that have queued records, in the order in which they got their first one.
function Queue:keys()
  open_view(self, KEYS)
  return next_key, self, nil
end

local function next_of(state, position)
  local handle = handle_of(state)
  local to = position == 0 and C.tb_key_first(handle, state.key) or C.tb_key_next(handle, position)
  if to > 0 then return to end
end

--- Positions of a key's records, by arrival.
function Queue:of(key)
  local decision = open_view(self, KEYS)
  return next_of, { queue = self, serial = decision.serial, key = decision.batcher._keys:id(key) or NO_KEY }, 0
end

local batch_meta = { name = "batch" }
batch_meta.__index = function(self, name)
  local method = Batch[name]
  if method then return method end
  if name ~= "budget" and name ~= "cost" and name ~= "size" then return nil end
  local decision = open_decision(self)
  if name == "budget" then return C.tb_choose_budget(decision.handle) end
  C.tb_choose_read(decision.handle, chosen)
  return name == "cost" and chosen.cost or chosen.size
end
batch_meta.__newindex = function() errors.misuse "a policy cannot change the batch but by add and limit" end

--- Name the record at position i. @return boolean  is it in the batch?
function Batch:add(i)
  local decision = open_decision(self)
  local answer = type(i) == "number" and C.tb_choose_add(decision.handle, i) or -1
  if answer < 0 then
    errors.misuse(("batch:add: there is no position %s (the queue has %d)"):format(errors.show(i), decision.size))
  end
  return answer == 1
end

--- Lower the budget for this decision.
function Batch:limit(tokens)
  local decision = open_decision(self)
  if type(tokens) ~= "number" or tokens ~= tokens then
    errors.misuse("batch:limit: a number of tokens is needed, got " .. errors.show(tokens))
  end
  C.tb_choose_limit(decision.handle, tokens)
end

--- For a policy that has another one choose: what the other has named and limited is undone.
-- @param batch tokenbatcher.Batch  of the decision in progress
function M.reset(batch)
  C.tb_choose_reset(open_decision(batch).handle)
end

-- --- the decision -------------------------------------------------------------

local Decision = {}
Decision.__index = Decision

local function say(self, text)
  self.unsaid[#self.unsaid + 1] = text
end

local function count_error(self)
  self.batcher._policy_errors = self.batcher._policy_errors + 1
end

-- A hook that raises costs one policy_errors; ten in a row disable the policy.
local function failed(self, what, err)
  count_error(self)
  local in_a_row = self.errors_in_a_row
  in_a_row[what] = in_a_row[what] + 1
  if self.is_disabled or in_a_row.form + in_a_row.on_complete < ERRORS_IN_A_ROW then return end
  self.is_disabled = true
  say(self, ("policy '%s' failed %d times in a row and is disabled until the next set{policy}; %s raised: %s")
    :format(self.name, ERRORS_IN_A_ROW, what, errors.message_of(err)))
end

-- A policy's code may read, and no more: see tasks.context().
local function as_policy(fn, ...)
  local context = host.context
  host.context = "policy"
  local ok, value = no_suspend(fn, ...)
  host.context = context
  return ok, value
end

local function guarded(self, what, fn, ...)
  local started = C.tb_ev_now()
  local ok, value = as_policy(fn, ...)
  local spent = tonumber(C.tb_ev_now() - started)
  if spent > SLOW_US and not self.told_slow then
    self.told_slow = true
    say(self, ("policy '%s': %s took %.2f s, and nothing else could run meanwhile (said once)")
      :format(self.name, what, spent / 1e6))
  end
  if ok then self.errors_in_a_row[what] = 0 end
  return ok, value
end

-- Its hooks are read here, once: a table may raise when it is read.
local function make(resolved, former, report)
  local policy, made = resolved:make(former, report)
  return { policy = policy, resolved = made, form = policy.form, on_complete = policy.on_complete }
end

--- Makes the policy, which may raise what a user's function raises.
-- @param resolved table  see policies.resolve
-- @param former Decision|nil  the one it takes the place of: see Resolved:make
function M.new(batcher, resolved, former)
  local self = setmetatable({
    batcher = batcher, handle = batcher._handle, name = resolved.name,
    is_open = false, has_failed = false, serial = 0, is_disabled = false, told_slow = false,
    errors_in_a_row = { form = 0, on_complete = 0 }, unsaid = {},
  }, Decision)
  local ok, made = as_policy(make, resolved, former, function(err, is_last)
    count_error(self)
    if is_last then
      say(self, ("policy '%s': its inner policy failed too often; fifo chooses in its place; it raised: %s")
        :format(self.name, errors.message_of(err)))
    end
  end)
  if not ok then error(made, 0) end
  self.policy, self.resolved = made.policy, made.resolved
  self.form_batch, self.on_complete = made.form, made.on_complete
  self.queue, self.batch = new_object(self, queue_meta), new_object(self, batch_meta)
  return self
end

local function open(self, now)
  if C.tb_choose(self.handle, raw, now) ~= 0 then return false end
  self.size, self.total_cost = raw.size, raw.total_cost
  self.full, self.due, self.draining = raw.is_full ~= 0, raw.is_due ~= 0, raw.is_draining ~= 0
  self.idle_slots = raw.idle_slots
  self.is_open, self.serial = true, self.serial + 1
  return true
end

-- The time at which a policy asks to be asked again, at least a microsecond from now, or
-- nil. Compared with the very number that it was given for now.
local function later_us(at_s, now)
  if type(at_s) ~= "number" or not (at_s > now / 1e6 and at_s < math.huge) then return nil end
  return math.min(math.max(now + 1, math.ceil(at_s * 1e6)), 2 ^ 52)
end

-- The policy named nobody: ask it again when it wants, or let fifo decide what is due.
local function not_now(self, at_s, now)
  local at_us = later_us(at_s, now)
  if at_us then
    C.tb_ask_again(self.handle, at_us)
    return 0
  end
  if not self.due then return 0 end
  local id = C.tb_form_default(self.handle, now)
  if id ~= 0 then self.batcher._policy_overruled = self.batcher._policy_overruled + 1 end
  return id
end

local function decide(self, now)
  local ok, value = guarded(self, "form", self.form_batch, self.queue, self.batch, now / 1e6)
  self.is_open = false
  if ok then
    local id = C.tb_choose_end(self.handle)
    return id ~= 0 and id or not_now(self, value, now)
  end
  C.tb_choose_abandon(self.handle)
  self.has_failed = true
  failed(self, "form", value)
  return C.tb_form_default(self.handle, now)
end

--- @return number  the id of a batch that goes now, 0 if none does
function Decision:form(now)
  if C.tb_ask(self.handle, now) == 0 then return 0 end
  -- one that has raised is not asked again in this turn: one fault is one error
  if self.is_disabled or self.has_failed or not open(self, now) then return C.tb_form_default(self.handle, now) end
  return decide(self, now)
end

--- To be called when the batches that form() returned in this turn have been taken over. Says
-- what is to be logged: a log function may do anything.
function Decision:end_turn()
  self.has_failed = false
  for i, text in ipairs(self.unsaid) do
    self.unsaid[i] = nil
    self.batcher:_warn(text)
  end
end

--- A batch is over. @param report table  size, cost, padded, service_s, failed, usage, requests
function Decision:complete(report)
  if self.is_disabled then return end
  local ok, err = guarded(self, "on_complete", self.on_complete, report)
  if not ok then failed(self, "on_complete", err) end
  self:end_turn()
end

return M
