--- How records come in: batcher:submit, :try_submit and :submit_batch. Checks what the producer gave, asks for the
-- cost, hands id and cost to the core, keeps record and future by slot, and lets the producer wait in line.

local clock = require "tokenbatcher.runtime.clock"
local cost = require "tokenbatcher.batching.cost"
local errors = require "tokenbatcher.base.errors"
local Future = require "tokenbatcher.runtime.future"
local host = require "tokenbatcher.runtime.host"
local grouping = require "tokenbatcher.batching.grouping"
local joining = require "tokenbatcher.batching.joining"
local quick = require "tokenbatcher.batching.quick"
local refusals = require "tokenbatcher.batching.refusals"
local slos = require "tokenbatcher.batching.slo"
local submit_options = require "tokenbatcher.batching.submit_options"
local tasks = require "tokenbatcher.runtime.tasks"
local tbffi = require "tokenbatcher.core.ffi"
local mark = require("tokenbatcher.batching.tracing").mark

local C, SLOTS = tbffi.lib, tbffi.SLOTS
local RUNNING, MAY_WAIT, MORE = tonumber(C.TB_RUNNING), tonumber(C.TB_MAY_WAIT), tonumber(C.TB_MORE)
local here, is_open, plain_cost, hand_in_plain = tasks.here, quick.is_open, quick.cost_of, quick.hand_in

local M = {}
local submission, culprit = tbffi.new "tb_submission", tbffi.new "uint32_t[1]"

local function cost_of(self, record, opts)
  if opts then
    local tokens = opts.estimated_tokens
    if tokens ~= nil then return cost.checked(tokens, "estimated_tokens") end
    local given = opts.estimated_cost
    if given ~= nil then return cost.checked(given, "estimated_cost") end
  end
  return cost.estimate(self._cost_source, record)
end

-- The same for the i-th record of a list, whose costs may be lists.
local function cost_in_list(self, record, opts, i)
  local list = opts and opts.estimated_tokens
  if list and list[i] ~= nil then return cost.checked(list[i], "estimated_tokens", i) end
  list = opts and opts.estimated_cost
  if list and list[i] ~= nil then return cost.checked(list[i], "estimated_cost", i) end
  return cost.estimate(self._cost_source, record, i)
end

-- Has it been called with a dot?
local function require_batcher(self, name)
  if type(self) ~= "table" or not self._class then errors.needs_colon(name) end
end

local function require_accepting(self, name)
  require_batcher(self, name or "submit")
  host.check(name)
  if host.context == "policy" then errors.misuse(tostring(self) .. ": submit cannot be called inside a policy") end
  local state = C.tb_state(self._handle)
  if state == RUNNING then return end
  errors.raise("not_running", ("%s is %s: call start() before submit()"):format(tostring(self),
    state == C.TB_DRAINING and "stopping" or "stopped"))
end

local function enlist(self, record, id)
  local future = Future.new(self, id)
  local slot = id % SLOTS
  self._records[slot], self._futures[slot] = record, future
  self.unsettled = self.unsettled + 1
  return future
end

-- What most records leave at 0 is written into `submission` only where it is wanted, or was: where no trace runs,
-- each field costs as much as a call.
local was_plain, submitted_before = true, 0

local function is_plain(opts)
  return not (opts and (opts.key or opts.group or opts.priority or opts.timeout_s or opts.batch_timeout_s))
end

local function clear_options()
  if was_plain then return end
  was_plain = true
  submission.key, submission.group, submission.priority = 0, 0, 0
  submission.timeout_us, submission.batch_timeout_us = 0, 0
end

-- @return the numbers of the record's key and group; 0: none
local function fill_options(self, opts)
  if is_plain(opts) then
    clear_options()
    return 0, 0
  end
  -- All is read first, since opts may have a metatable that does anything: the struct is every batcher's.
  local key, group, priority = opts.key, opts.group, opts.priority or 0
  local timeout_us, linger_us = submit_options.timeout_us(opts), submit_options.linger_us(opts)
  key, group = key and self._keys:take(key) or 0, group and self._groups:take(group) or 0
  was_plain = false
  submission.key, submission.group, submission.priority = key, group, priority
  submission.timeout_us, submission.batch_timeout_us = timeout_us, linger_us
  return key, group
end

-- Hand one record to the core; `flags` may let it wait in line. @param submitted_us number  0: now
local function hand_to_core(self, record, cost_value, opts, flags, now, submitted_us)
  if cost_value > self._max_record_cost then
    C.tb_refuse(self._handle, 1)
    return nil, C.TB_EOVERSIZE
  end
  local key, group = fill_options(self, opts)
  submission.cost, submission.flags = cost_value, flags
  if submitted_us ~= submitted_before then
    submission.submitted_us, submitted_before = submitted_us, submitted_us
  end
  local id = C.tb_submit(self._handle, submission, now)
  if id < 0 then
    self._keys:give(key)
    self._groups:give(group)
    return nil, id
  end
  local future = enlist(self, record, id)
  if key ~= 0 then future.key_number, self._is_keyed = key, true end
  if group ~= 0 then future.group_number, self._is_grouped = group, true end
  return opts and mark(self, future, opts) or future
end

-- The same, recorded: last, since a recording that fails tells a user's log function.
local function hand_in(self, record, cost_value, opts, flags, now, submitted_us)
  local slo_s = self._slo and slos.of(self._slo, record, cost_value, opts)
  local future, code = hand_to_core(self, record, cost_value, opts, flags, now, submitted_us)
  if self._slo and future then self._slos[future[Future.ID] % SLOTS] = slo_s end
  if self._recording then self._recording:arrival(now, cost_value, opts, nil, slo_s) end
  return future, code
end

-- Suspend until the record in line is queued or settled. @return true, or nil and an err when it was turned away
local function wait_in_line(self, future)
  -- a log function that was called meanwhile may have waited itself, and let the line go on
  if C.tb_record_state(self._handle, future[Future.ID]) ~= C.TB_RECORD_WAITING then
    if future.refused then return Future.outcome(future) end
    return true
  end
  local waiter = tasks.waiter()
  future.admission = waiter
  tasks.suspend(waiter, "submit")
  future.admission = nil
  if future.refused then return Future.outcome(future) end
  return true
end

-- --- joining (R8) ---------------------------------------------------------------

-- How long the option lets a record linger.
local function option_us(self) return tonumber(self._config.batch_timeout_us) end

-- How long it lingers by its own options, or nil.
local function own_linger_us(opts)
  local linger_us = submit_options.linger_us(opts)
  return linger_us ~= 0 and math.max(0, linger_us) or nil
end

-- When a record with these options would be due at the latest.
local function due_us_of(self, opts, now)
  return joining.due_us(own_linger_us(opts) or option_us(self), submit_options.timeout_us(opts), now)
end

-- The future of one who joins a record that is on its way, or nil. @param text string  see joining.lua
local function join(self, text, opts, now)
  local record = self._joining:find(text, opts and opts.group, due_us_of(self, opts, now), option_us(self))
  if not record then return nil end
  self._joined = self._joined + 1
  local timeout_us = submit_options.timeout_us(opts)
  return mark(self, joining.join(record, self, timeout_us > 0 and now + timeout_us or nil), opts)
end

-- What its producer gets for a record that has entered: others may join it, unless it may expire.
local function shared(self, future, text, opts, now)
  if not text or submit_options.timeout_us(opts) > 0 then return future end
  return mark(self, self._joining:open(future, self, text, opts and opts.group, own_linger_us(opts), now), opts)
end

-- --- one record -----------------------------------------------------------------

-- A submit may wait for room if the option says so and the code may suspend; the
-- batcher's own inference function never waits for itself.
local function may_wait(self)
  return self._may_wait and tasks.can_suspend() and tasks.owner() ~= self
end

local function check_record(self, record, name)
  require_batcher(self, name)
  if record == nil then errors.misuse("submit: the record is nil") end
end

-- @param value number|nil  its cost, if that is known already
local function submit_with_care(self, record, opts, value)
  if not (host.task and C.tb_state(self._handle) == RUNNING) or host.context then require_accepting(self, "submit") end
  if opts ~= nil then submit_options.check(self._class, opts) end
  if self._grouper then opts = grouping.options_of(self._grouper, record, opts) end
  local text = self._join and joining.string_of(self._join, record)
  local joined = text and join(self, text, opts, clock.now_us())
  if joined then return joined end
  value = value or cost_of(self, record, opts)
  local waits = C.tb_has_room(self._handle, value) == 0 and may_wait(self)
  local now = clock.now_us()
  if not host.task then clock.notify() end
  local future, code = hand_in(self, record, value, opts, waits and MAY_WAIT or 0, now, 0)
  if not future then return nil, refusals.of(self, code) end
  local given = text and shared(self, future, text, opts, now) or future
  if waits then
    local ok, err = wait_in_line(self, future)
    if not ok then return nil, err end
  end
  return given
end

--- Hand in a record.
-- @param record any  any value but nil
-- @param opts table|nil  estimated_tokens, estimated_cost, priority, timeout_s, batch_timeout_s, key, group, trace
-- @return future, or nil and an err (queue_full, oversize, stopped). Raises bad_cost, bad_join, not_running.
function M.submit(self, record, opts)
  local value = nil
  if is_open(self, record) then
    value = plain_cost(self, record, opts)
    local future = value and hand_in_plain(self, record, value)
    if future then return future end
  else
    check_record(self, record, "submit")
  end
  return submit_with_care(self, record, opts, value)
end

--- submit and await in one. @return result, or nil and an err
function M.ask(self, record, opts)
  check_record(self, record, "ask")
  local task, value = here(), nil
  if task and is_open(self, record) then
    value = plain_cost(self, record, opts)
    if value then
      local is_in, result, err = quick.ask(self, task, record, value)
      if is_in then return result, err end
    end
  end
  local submit = task and submit_with_care or M.submit
  local future, err = submit(self, record, opts, value)
  if not future then return nil, err end
  return future:await()
end

-- @return future, or nil, err and the core's code
local function enter(self, record, opts, flags, submitted_us)
  local now = clock.now_us()
  if self._grouper then opts = grouping.options_of(self._grouper, record, opts) end
  local text = self._join and joining.string_of(self._join, record)
  local joined = text and join(self, text, opts, now)
  if joined then return joined end
  local value = cost_of(self, record, opts)
  clock.notify()
  local future, code = hand_in(self, record, value, opts, flags, now, submitted_us)
  if not future then return nil, refusals.of(self, code), code end
  return shared(self, future, text, opts, now)
end

--- Like submit, but never suspends and never overtakes those who wait.
function M.try_submit(self, record, opts)
  check_record(self, record, "try_submit")
  require_accepting(self, "try_submit")
  if opts ~= nil then submit_options.check(self._class, opts) end
  return enter(self, record, opts, 0, 0)
end

--- For a program that hands in records from outside of all coroutines (script/engine.lua): never
-- suspends, but a record that another thread has handed in may take a place in the line.
-- @param submitted_us number  when the producer called; 0: now
-- @return future, or nil, err and the core's code. Raises bad_cost, not_running.
function M.enter(self, record, opts, submitted_us)
  if C.tb_state(self._handle) ~= RUNNING or host.context then require_accepting(self) end
  local flags = submitted_us > 0 and self._may_wait and MAY_WAIT or 0
  return enter(self, record, opts, flags, submitted_us)
end

local BATCH_OPTIONS = { estimated_tokens = true, estimated_cost = true }

-- Every record's cost, in a C array.
local function batch_costs(self, records, opts)
  local n = #records
  for name in pairs(BATCH_OPTIONS) do
    local list = opts and opts[name]
    if list ~= nil and (type(list) ~= "table" or #list ~= n) then
      errors.misuse(("submit_batch: %s must be a list of %d costs, one for each record, got %s"):format(name, n,
        type(list) == "table" and #list .. " of them" or errors.show(list)))
    end
  end
  local out = tbffi.new("double[?]", math.max(1, n))
  for i = 1, n do out[i - 1] = cost_in_list(self, records[i], opts, i) end
  return out, n
end

local function check_records(records)
  if type(records) ~= "table" then
    errors.misuse("submit_batch: a list of records is needed, got a " .. type(records))
  end
  local n = #records
  for key in pairs(records) do
    if type(key) ~= "number" or key < 1 or key > n or key % 1 ~= 0 then
      errors.misuse(("submit_batch: records must be a list without holes, but it has the key %s")
        :format(errors.show(key)))
    end
  end
  for i = 1, n do
    if records[i] == nil then errors.misuse(("submit_batch: record %d is nil"):format(i)) end
  end
end

-- Which records of a list go in, in order, and which may join one of those or one that is on its
-- way. @return list of positions, list of positions, texts by position
local function split_by_join(self, records, n, opts)
  local entering, hoping, texts, seen = {}, {}, {}, {}
  local due_us = due_us_of(self, opts[1], clock.now_us())
  for i = 1, n do
    local text = self._join and joining.string_of(self._join, records[i])
    local group = opts[i] and opts[i].group
    local name = text and (group or "") .. "\0" .. text
    if text and (seen[name] or self._joining:find(text, group, due_us, option_us(self))) then
      hoping[#hoping + 1] = i
    else
      entering[#entering + 1] = i
    end
    if text then texts[i], seen[name] = text, true end
  end
  return entering, hoping, texts
end

-- All are accepted: hand them in one after the other; the last one ends the call.
-- @param opts table  of each, by position
-- @return futures by position, the record future of the last one that went in; or nil and a code
local function hand_in_all(self, records, values, n, opts, flags)
  local entering, hoping, texts = split_by_join(self, records, n, opts)
  local futures, now, last = {}, clock.now_us(), nil
  local function take(i, more)
    local future, code = hand_in(self, records[i], values[i - 1], opts[i], flags + more, now, 0)
    if not future then -- memory ran out half-way: take back what is in
      for _, given in pairs(futures) do given:cancel() end
      return code
    end
    futures[i], last = shared(self, future, texts[i], opts[i], now), future
  end
  for k, i in ipairs(entering) do
    local code = take(i, k < #entering and MORE or 0)
    if code then return nil, code end
  end
  for _, i in ipairs(hoping) do
    futures[i] = join(self, texts[i], opts[i], now)
    local code = not futures[i] and take(i, 0)
    if code then return nil, code end
  end
  return futures, last
end

-- May these be handed in as one call? 0, or what refuses all, and which is at fault.
local function check_batch(self, values, n, flags)
  for i = 0, n - 1 do
    if values[i] > self._max_record_cost then
      C.tb_refuse(self._handle, n)
      return C.TB_EOVERSIZE, i + 1
    end
  end
  local code = C.tb_submit_check(self._handle, values, n, flags, culprit)
  return code, culprit[0] + 1
end

--- Hand in many records as one call: all are checked first, and on a bad one nothing is
-- enqueued. When the queue is full they enter one by one as room appears (on_full = "wait"),
-- or none does (queue_full).
-- @param opts table|nil  as for submit; estimated_tokens and estimated_cost are lists
-- @return list of futures, or nil and an err when no record has entered. (stop{timeout_s} may
-- end the wait half-way: the futures of those that did not enter are settled as `stopped`.)
function M.submit_batch(self, records, opts)
  require_batcher(self, "submit_batch")
  check_records(records)
  require_accepting(self, "submit_batch")
  if opts ~= nil then submit_options.check(self._class, opts) end
  local values, n = batch_costs(self, records, opts)
  if n == 0 then return {} end
  local own = grouping.options_of_each(self._grouper, records, opts)
  if self._slo then slos.check_each(self._slo, records, values, n, own) end
  local flags = may_wait(self) and MAY_WAIT or 0
  local code, at_fault = check_batch(self, values, n, flags)
  if code ~= 0 then
    local err = code == C.TB_ETOOLARGE and refusals.too_large(self, values, n) or refusals.of(self, code, at_fault)
    if self._recording then self._recording:refused(clock.now_us(), values, n, opts) end
    return nil, err
  end
  clock.notify()
  local futures, last = hand_in_all(self, records, values, n, own, flags)
  if not futures then return nil, refusals.of(self, last) end
  if last then
    wait_in_line(self, last)
    local first = futures[1].joined_to or futures[1]
    if first.refused then return Future.outcome(first) end -- none has entered
  end
  return futures
end

return M
