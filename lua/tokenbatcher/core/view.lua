--- What a policy sees of the core during a decision: `queue` and `batch`, valid only while the
-- view is open; afterwards they raise.
--
-- A view reaches its batcher through a port of a few functions:
--   record(slot) -> what was submitted
--   slo(slot) -> seconds, or nil (the option slo)
--   is_suspect(number) -> must the records of this key run alone?
--   key_name(number), group_name(number) -> string
--   key_number(string), group_number(string) -> number, or nil if no queued record has it

local errors = require "tokenbatcher.base.errors"
local tbffi = require "tokenbatcher.core.ffi"

local C, SLOTS = tbffi.lib, tbffi.SLOTS
local COST, DEADLINE, PRIORITY = C.TB_VIEW_COST, C.TB_VIEW_DEADLINE, C.TB_VIEW_PRIORITY
local KEYS, GROUPS = C.TB_VIEW_KEYS, C.TB_VIEW_GROUPS

local M = {}

local NOWHERE = 0 / 0 -- is no position, nor equal to what a policy may name
local raw = tbffi.new "tb_queue"
local chosen = tbffi.new "tb_batch"

--- @class tokenbatcher.Queue
local Queue = {}
--- @class tokenbatcher.Batch
local Batch = {}

local function refuse_use()
  errors.misuse "queue and batch are valid only during the call of form, and their methods need a colon"
end

-- A queue or batch object is an empty userdata: there is nothing in it that a policy could
-- reach or overwrite. Its view is looked up here; both live as long as the batcher's.
local view_of = setmetatable({}, { __mode = "kv" })

local function view_in_use(object)
  local view = view_of[object]
  if not (view and view.is_open) then refuse_use() end
  return view
end

local function new_object(view, meta)
  local object = newproxy(true)
  for name, value in pairs(meta) do getmetatable(object)[name] = value end
  getmetatable(object).__metatable = meta.name
  view_of[object] = view
  return object
end

local FIELDS = {
  size = function(d) return d.size end,
  total_cost = function(d) return d.total_cost end,
  full = function(d) return d.full end,
  due = function(d) return d.due end,
  bounded = function(d) return d.bounded end,
  draining = function(d) return d.draining end,
  idle_slots = function(d) return d.idle_slots end,
}

local queue_meta = { name = "queue" }
queue_meta.__index = function(self, name)
  local method = Queue[name]
  if method then return method end
  local field = FIELDS[name]
  if field then return field(view_in_use(self)) end
end
queue_meta.__newindex = function() errors.misuse "a policy cannot change the queue" end

-- What stands at a position does not change while the view is open: a policy asks for age and deadline of the same.
local function look(self, i)
  local view = view_in_use(self)
  local looked = view.looked
  if type(i) == "number" and i == view.looked_at then return looked, view end
  if type(i) ~= "number" or C.tb_look(view.handle, i, looked) ~= 0 then
    errors.misuse(("queue: there is no position %s (size is %d)"):format(errors.show(i), view.size))
  end
  view.looked_at = i
  return looked, view
end

--- @return number  the cost of the record at position i
function Queue:cost(i)
  local view = view_in_use(self)
  local value = type(i) == "number" and C.tb_look_cost(view.handle, i) or -1
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

--- @return number|nil  seconds from its submission within which an answer is of use (the option slo)
function Queue:slo(i)
  local at, view = look(self, i)
  return view.port.slo(at.id % SLOTS)
end

--- @return string  "" for a record without one
function Queue:key(i)
  local at, view = look(self, i)
  return view.port.key_name(at.key)
end

--- @return boolean  must it run in a batch of one? (its key is suspect)
function Queue:alone(i)
  local at, view = look(self, i)
  return view.port.is_suspect(at.key)
end

--- @return any  what was submitted
function Queue:record(i)
  local at, view = look(self, i)
  return view.port.record(at.id % SLOTS)
end

local function open_order(self, order, aging_us)
  local view = view_in_use(self)
  if C.tb_view_open(view.handle, order, aging_us or 0) ~= 0 then errors.misuse "queue: out of memory" end
  return view
end

-- Stateless iterators, one for each view: next(queue, position) -> position. Position 0 is
-- before the first.
local function next_by_cost(self, position)
  local to = C.tb_view_next(view_in_use(self).handle, COST, position)
  if to > 0 then return to end
end

local function next_by_deadline(self, position)
  local to = C.tb_view_next(view_in_use(self).handle, DEADLINE, position)
  if to > 0 then return to end
end

local function next_by_priority(self, position)
  local to = C.tb_view_next(view_in_use(self).handle, PRIORITY, position)
  if to > 0 then return to end
end

--- Positions, smallest cost first.
function Queue:by_cost()
  open_order(self, COST)
  return next_by_cost, self, 0
end

--- Positions, earliest deadline first; those without one last.
function Queue:by_deadline()
  open_order(self, DEADLINE)
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
  open_order(self, PRIORITY, aging_us)
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
  local view = view_in_use(state.queue)
  if state.serial ~= view.serial then refuse_use() end
  return view.handle
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
  local cost = Queue.cost(self, i)
  local view = open_order(self, COST)
  local handle = view.handle
  local first = C.tb_view_alike(handle, i)
  local state = {
    queue = self, serial = view.serial, middle = i, cost = cost, group = first,
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
  local view = view_in_use(self)
  local port = view.port
  local key
  if previous == nil then
    key = C.tb_keys_first(view.handle)
  else
    key = C.tb_keys_next(view.handle, port.key_number(previous) or NO_KEY)
  end
  if key >= 0 then return port.key_name(key) end
end

--- Keys that have queued records, in the order in which they got their first one.
function Queue:keys()
  open_order(self, KEYS)
  return next_key, self, nil
end

local function next_of(state, position)
  local handle = handle_of(state)
  local to = position == 0 and C.tb_key_first(handle, state.key) or C.tb_key_next(handle, position)
  if to > 0 then return to end
end

--- Positions of a key's records, by arrival.
function Queue:of(key)
  local view = open_order(self, KEYS)
  return next_of, { queue = self, serial = view.serial, key = view.port.key_number(key) or NO_KEY }, 0
end

--- @return string  "" for a record without one
function Queue:group(i)
  local at, view = look(self, i)
  return view.port.group_name(at.group)
end

local function next_group(self, previous)
  local view = view_in_use(self)
  local port, group = view.port
  if previous == nil then
    group = C.tb_groups_first(view.handle)
  else
    group = C.tb_groups_next(view.handle, port.group_number(previous) or NO_KEY)
  end
  if group >= 0 then return port.group_name(group) end
end

--- Groups that have queued records, in the order in which they got their first one.
function Queue:groups()
  open_order(self, GROUPS)
  return next_group, self, nil
end

local function next_of_group(state, position)
  local handle = handle_of(state)
  local to = position == 0 and C.tb_group_first(handle, state.group) or C.tb_group_next(handle, position)
  if to > 0 then return to end
end

-- The number of a group that a policy names. @param what string  the method
local function group_number(view, group, what)
  if type(group) ~= "string" then
    errors.misuse(("queue:%s: a group is a string, got %s"):format(what, errors.show(group)))
  end
  return view.port.group_number(group) or NO_KEY
end

--- Positions of a group's records, by arrival.
function Queue:of_group(group)
  local view = open_order(self, GROUPS)
  return next_of_group, { queue = self, serial = view.serial, group = group_number(view, group, "of_group") }, 0
end

--- @return boolean  do the group's records fill a batch? (`full` for one group)
function Queue:full_of_group(group)
  local view = open_order(self, GROUPS)
  return C.tb_group_full(view.handle, group_number(view, group, "full_of_group")) == 1
end

--- @return boolean  is one of the group's records due? (`due` for one group)
function Queue:due_of_group(group)
  local view = open_order(self, GROUPS)
  return C.tb_group_due(view.handle, group_number(view, group, "due_of_group")) == 1
end

local batch_meta = { name = "batch" }
batch_meta.__index = function(self, name)
  local method = Batch[name]
  if method then return method end
  if name ~= "budget" and name ~= "cost" and name ~= "size" then return nil end
  local view = view_in_use(self)
  if name == "budget" then return C.tb_choose_budget(view.handle) end
  C.tb_choose_read(view.handle, chosen)
  return name == "cost" and chosen.cost or chosen.size
end
batch_meta.__newindex = function() errors.misuse "a policy cannot change the batch but by add and limit" end

local WHY_NOT = {
  [tonumber(C.TB_ADD_BUDGET)] = "budget", [tonumber(C.TB_ADD_GROUP)] = "group", [tonumber(C.TB_ADD_ALONE)] = "alone",
}

--- Name the record at position i. @return boolean  is it in the batch? If not, a string: it does
-- not fit for its cost or the batch is full ("budget"), is of another group, or must run alone.
function Batch:add(i)
  local view = view_in_use(self)
  local answer = type(i) == "number" and C.tb_choose_add(view.handle, i) or -1
  if answer < 0 then
    errors.misuse(("batch:add: there is no position %s (the queue has %d)"):format(errors.show(i), view.size))
  end
  if answer == 1 then return true end
  return false, WHY_NOT[answer]
end

--- Lower the budget for this decision.
function Batch:limit(tokens)
  local view = view_in_use(self)
  if type(tokens) ~= "number" or tokens ~= tokens then
    errors.misuse("batch:limit: a number of tokens is needed, got " .. errors.show(tokens))
  end
  C.tb_choose_limit(view.handle, tokens)
end

--- For a policy that has another one choose: what the other has named and limited is undone.
-- @param batch tokenbatcher.Batch  of the decision in progress
function M.reset(batch)
  C.tb_choose_reset(view_in_use(batch).handle)
end

-- --- opening and closing ------------------------------------------------------------

local View = {}
View.__index = View

--- @param handle cdata  the core's batcher
-- @param port table  see above
-- @return table  with queue, batch; open(now), close()
function M.new(handle, port)
  local self = setmetatable({
    handle = handle, port = port, is_open = false, serial = 0, looked = tbffi.new "tb_look_at", looked_at = NOWHERE,
  }, View)
  self.queue, self.batch = new_object(self, queue_meta), new_object(self, batch_meta)
  return self
end

--- Begin a choice of the core's. @return boolean  false: no memory for it
function View:open(now)
  if C.tb_choose(self.handle, raw, now) ~= 0 then return false end
  self.size, self.total_cost = raw.size, raw.total_cost
  self.full, self.due, self.draining = raw.is_full ~= 0, raw.is_due ~= 0, raw.is_draining ~= 0
  self.bounded = raw.is_bounded ~= 0
  self.idle_slots = raw.idle_slots
  self.is_open, self.serial, self.looked_at = true, self.serial + 1, NOWHERE
  return true
end

--- The policy has had its say: from now on queue and batch raise.
function View:close()
  self.is_open = false
end

return M
