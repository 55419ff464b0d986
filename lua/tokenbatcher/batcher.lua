--- TokenBatcher and DynamicBatcher: the face of one core batcher in Lua.
--
-- The core knows ids, costs and times; this module keeps, by slot, the record and the
-- future of every record that is not dispatched yet (_records, _futures), and by batch
-- the runs (_runs, see inference.lua). What the core decides is pulled in turn().

local Decision = require "tokenbatcher.decision"
local Keys = require "tokenbatcher.keys"
local policies = require "tokenbatcher.policies"
local cost = require "tokenbatcher.cost"
local errors = require "tokenbatcher.errors"
local Future = require "tokenbatcher.future"
local inference = require "tokenbatcher.inference"
local options = require "tokenbatcher.options"
local scheduler = require "tokenbatcher.scheduler"
local stats = require "tokenbatcher.stats"
local tbffi = require "tokenbatcher.ffi"

local C, SLOTS = tbffi.lib, tbffi.SLOTS
local settle_future = Future.settle

local M = {}

local EVENTS = 64
local events = tbffi.new("tb_event[?]", EVENTS)
local batch = tbffi.new "tb_batch"
local submission = tbffi.new "tb_submission"
local culprit = tbffi.new "uint32_t[1]"
local capacity, ids, costs = 0, nil, nil -- where a batch is read into

local SUBMIT_OPTIONS = {
  TokenBatcher = { "estimated_tokens", "estimated_cost", "priority", "timeout_s", "key" },
  DynamicBatcher = { "estimated_cost", "priority", "timeout_s", "key" },
}
local IS_SUBMIT_OPTION = {}
for class, names in pairs(SUBMIT_OPTIONS) do
  IS_SUBMIT_OPTION[class] = {}
  for _, name in ipairs(names) do IS_SUBMIT_OPTION[class][name] = true end
end

local function reserve(n)
  if n <= capacity then return end
  capacity = math.max(n, 2 * capacity)
  ids, costs = tbffi.new("double[?]", capacity), tbffi.new("double[?]", capacity)
end

--- @class tokenbatcher.Batcher
--- @field is_running boolean
--- @field stats table  a snapshot
local Batcher = {}

local meta = {}
meta.__index = function(self, key)
  local method = Batcher[key]
  if method ~= nil then return method end
  if key == "is_running" then return C.tb_state(self._handle) ~= C.TB_STOPPED end
  if key == "stats" then return stats.read(self, self:_now()) end
  return nil
end
meta.__tostring = function(self)
  return self._class .. (self._values.name and " '" .. self._values.name .. "'" or "")
end

function Batcher:_now()
  return self._attached and scheduler.now_us() or 0
end

-- Functions and the like, in fields of their own for the hot paths.
local function apply(self, config, values, estimator_name)
  self._config, self._values = config, values
  self._fn = values.inference_fn or values.process_fn
  self._estimator, self._estimator_name = values.cost_estimator, estimator_name
  self._default_cost = values.default_cost
  self._observe = type(self._estimator) == "table" and self._estimator.observe or nil
  self._may_wait = config.on_full == C.TB_FULL_WAIT
  self._log = values.log
end

local function estimator_name(self, given)
  if given.token_estimator ~= nil and self._class == "TokenBatcher" then return "token_estimator" end
  if given.cost_estimator ~= nil then return "cost_estimator" end
  return self._estimator_name
end

-- What is wrong between options that the core does not see, or nil.
local function conflict(class, values)
  if values.on_error == "bisect" and policies.resolve(values.policy).forbids_bisect then
    return class .. ": policy 'rate_limited' cannot keep its limits with on_error = 'bisect'"
  end
end

local function new(class, given)
  local config, values = options.defaults()
  local _, message = options.merge(class, given, config, values)
  message = message or conflict(class, values)
  if message then errors.misuse(message) end
  if not (values.inference_fn or values.process_fn) then
    errors.misuse(class .. " requires either 'inference_fn' or 'process_fn'")
  end
  local handle = tbffi.batcher(config)
  if not handle then errors.misuse(class .. ": out of memory") end
  local self = setmetatable({
    _class = class, _is_submit_option = IS_SUBMIT_OPTION[class], _handle = handle,
    _attached = false, _accepting = false, _records = {}, _futures = {}, _runs = {}, _drained = false, unsettled = 0,
    _keys = Keys.new(), _policy_errors = 0, _policy_overruled = 0,
  }, meta)
  apply(self, config, values, estimator_name(self, given))
  return self
end

--- @param given table  the options of DESIGN section 4; see the README's table
function M.TokenBatcher(given) return new("TokenBatcher", given) end

--- The same without the token names.
function M.DynamicBatcher(given) return new("DynamicBatcher", given) end

function M.is_batcher(value)
  return getmetatable(value) == meta
end

--- Warn; a log function that raises is ignored.
function Batcher:_warn(text)
  if self._log then
    pcall(self._log, "warn", text)
  else
    io.stderr:write(tostring(self), ": ", text, "\n")
  end
end

local function forbid_in_estimator(self, name)
  if scheduler.context then
    errors.misuse(("%s: %s cannot be called inside a %s"):format(tostring(self), name, scheduler.context))
  end
end

-- Make the policy of `values` for this batcher: its state is its own.
local function new_decision(self, values)
  local resolved = policies.resolve(values.policy)
  if resolved.in_core then return false end
  return Decision.new(self, resolved)
end

-- From now on this decides; views that only the former one used are forgotten.
local function adopt_decision(self, decision)
  self._decision = decision
  self._max_record_cost = decision and decision.policy.max_record_cost or math.huge
  C.tb_views_close(self._handle)
end

-- --- life ---------------------------------------------------------------

--- Begin to accept records. Within run() only (or a coroutine driven by step()).
-- @return the batcher
function Batcher:start()
  forbid_in_estimator(self, "start")
  if C.tb_state(self._handle) ~= C.TB_STOPPED then errors.misuse(tostring(self) .. " is already running") end
  if not scheduler.is_driven() then
    errors.misuse(tostring(self) .. ": start must be called within tokenbatcher.run")
  end
  if self._decision == nil then adopt_decision(self, new_decision(self, self._values)) end
  C.tb_start(self._handle, scheduler.now_us())
  self._accepting, self._attached, self._drained = true, true, Future.new(false, false)
  scheduler.attach(self)
  return self
end

local function stop_timeout_us(opts)
  if opts == nil then return C.TB_NO_TIMEOUT end
  if type(opts) ~= "table" then errors.misuse("stop: options must be a table, got a " .. type(opts)) end
  for key in pairs(opts) do
    if key ~= "timeout_s" then
      errors.misuse(("stop: unknown option '%s'; did you mean 'timeout_s'?"):format(errors.text(key)))
    end
  end
  local t = opts.timeout_s
  if t == nil or t == math.huge then return C.TB_NO_TIMEOUT end
  if type(t) ~= "number" or t ~= t or t < 0 then
    errors.misuse("stop: timeout_s must be a number of seconds >= 0, got " .. errors.show(t))
  end
  return math.min(math.floor(t * 1e6 + 0.5), 2 ^ 52)
end

--- Graceful: refuses new records, dispatches what is queued without lingering, returns when
-- every future has settled. With {timeout_s}, what is left after that time fails (stopped).
-- When not running: returns at once. Called twice: both wait.
function Batcher:stop(opts)
  local timeout_us = stop_timeout_us(opts)
  forbid_in_estimator(self, "stop")
  if not self._attached then return end
  if scheduler.task and scheduler.task.owner == self then
    errors.misuse(tostring(self) .. ": stop called from its own inference function would wait for itself")
  end
  local can, reason = scheduler.can_suspend()
  if not can and self.unsettled > 0 then errors.misuse("stop cannot wait here: " .. reason) end
  self._accepting = false
  local drained = self._drained
  C.tb_stop(self._handle, timeout_us, scheduler.now_us())
  scheduler.notify()
  if can then drained:await() else self:turn(scheduler.now_us()) end
end

--- Everything queued now is due at once.
function Batcher:flush()
  forbid_in_estimator(self, "flush")
  if not self._attached then return end
  C.tb_flush(self._handle, scheduler.now_us())
  scheduler.notify()
end

--- Change any options while running, all or none. For an option whose default is none,
-- `false` means none again. Running batches keep theirs.
function Batcher:set(given)
  forbid_in_estimator(self, "set")
  local config = tbffi.copy("tb_config", self._config)
  local values = {}
  for name, value in pairs(self._values) do values[name] = value end
  local _, message = options.merge(self._class, given, config, values)
  message = message or conflict(self._class, values)
  if message then errors.misuse(message) end
  local decision = given.policy ~= nil and new_decision(self, values)
  if given.process_fn and given.inference_fn == nil then values.inference_fn = given.process_fn end
  if C.tb_set(self._handle, config, self:_now()) ~= 0 then errors.misuse(tostring(self) .. ": out of memory") end
  apply(self, config, values, estimator_name(self, given))
  if given.policy ~= nil then adopt_decision(self, decision) end
  scheduler.notify()
end

-- --- submission ---------------------------------------------------------

local function bad_submit_option(self, name)
  local known = SUBMIT_OPTIONS[self._class]
  errors.misuse(("submit: unknown option '%s'; did you mean '%s'?"):format(errors.text(name),
    errors.nearest(errors.text(name), known)))
end

-- Priority, timeout and key of a call, checked, into `submission`.
local function read_submit_options(self, opts)
  if type(opts) ~= "table" then errors.misuse("submit: options must be a table, got a " .. type(opts)) end
  local is_known = self._is_submit_option
  for name in pairs(opts) do
    if not is_known[name] then bad_submit_option(self, name) end
  end
  local priority, timeout_s, key = opts.priority, opts.timeout_s, opts.key
  if priority ~= nil and (type(priority) ~= "number" or priority ~= priority) then
    errors.misuse("submit: priority must be a number, got " .. errors.show(priority))
  end
  if key ~= nil and type(key) ~= "string" then
    errors.misuse("submit: key must be a string, got " .. errors.show(key))
  end
  if timeout_s ~= nil and not (type(timeout_s) == "number" and timeout_s > 0) then
    errors.misuse("submit: timeout_s must be a number of seconds above 0, got " .. errors.show(timeout_s))
  end
end

local function timeout_us_of(opts)
  local timeout_s = opts and opts.timeout_s
  if not timeout_s or timeout_s >= 1e9 then return timeout_s and 1e15 or 0 end
  return math.max(1, math.floor(timeout_s * 1e6 + 0.5))
end

local function cost_of(self, record, opts)
  if opts then
    local tokens = opts.estimated_tokens
    if tokens ~= nil then return cost.checked(tokens, "estimated_tokens") end
    local given = opts.estimated_cost
    if given ~= nil then return cost.checked(given, "estimated_cost") end
  end
  return cost.estimate(self, record)
end

-- The same for the i-th record of a list, whose costs may be lists.
local function cost_in_list(self, record, opts, i)
  local list = opts and opts.estimated_tokens
  if list and list[i] ~= nil then return cost.checked(list[i], "estimated_tokens", i) end
  list = opts and opts.estimated_cost
  if list and list[i] ~= nil then return cost.checked(list[i], "estimated_cost", i) end
  return cost.estimate(self, record, i)
end

local function require_accepting(self)
  if scheduler.context == "policy" then errors.misuse(tostring(self) .. ": submit cannot be called inside a policy") end
  if self._accepting then return end
  local state = C.tb_state(self._handle) == C.TB_DRAINING and "stopping" or "stopped"
  errors.raise("not_running", ("%s is %s: call start() before submit()"):format(tostring(self), state))
end

-- What the caller is told when the core refused; `i`: which record of a list is at fault.
local function refusal(self, code, i)
  local record = i and ("record %d"):format(i) or "the record"
  if code == C.TB_EFULL then
    return errors.new("queue_full", ("%s: the queue is full (max_queue_size = %d%s)"):format(tostring(self),
      self._config.max_queue_size, self._config.max_queue_cost > 0
        and (", max_queue_cost = %.0f"):format(self._config.max_queue_cost) or ""))
  elseif code == C.TB_EOVERSIZE then
    local limit = math.min(self._config.target_batch_cost, self._max_record_cost)
    return errors.new("oversize", ("%s: %s alone costs more than %s = %.0f"):format(tostring(self), record,
      limit == self._max_record_cost and "the policy allows" or "target_batch_cost", limit))
  end
  error(("%s: %s"):format(tostring(self), tbffi.text(C.tb_error_text(code))), 0)
end

local function enlist(self, record, id, now, timeout_us)
  local future = Future.new(self, id)
  local slot = id % SLOTS
  if timeout_us > 0 then future._deadline_us = now + timeout_us end
  self._records[slot], self._futures[slot] = record, future
  self.unsettled = self.unsettled + 1
  return future
end

-- Hand one record to the core; `flags` may let it wait in line.
local function hand_in(self, record, cost_value, opts, flags, now)
  if cost_value > self._max_record_cost then
    C.tb_refuse(self._handle, 1)
    return nil, C.TB_EOVERSIZE
  end
  local timeout_us = timeout_us_of(opts)
  local key = opts and opts.key
  submission.key = key and self._keys:take(key) or 0
  submission.cost, submission.timeout_us, submission.flags = cost_value, timeout_us, flags
  submission.priority = opts and opts.priority or 0
  local id = C.tb_submit(self._handle, submission, now)
  if id < 0 then
    if key then self._keys:give(submission.key) end
    return nil, id
  end
  local future = enlist(self, record, id, now, timeout_us)
  if key then future._key, self._is_keyed = submission.key, true end
  return future
end

-- Suspend until the record, which waits in line, is queued or settled.
local function wait_in_line(future)
  future._admission = scheduler.task
  scheduler.suspend "submit"
  future._admission = nil
  if future._refused then return Future.outcome(future) end
  return future
end

-- A submit may wait for room if the option says so and the code may suspend; the
-- batcher's own inference function never waits for itself.
local function may_wait(self)
  return self._may_wait and scheduler.can_suspend() and scheduler.task.owner ~= self
end

local function check_record(record)
  if record == nil then errors.misuse("submit: the record is nil") end
end

--- Hand in a record.
-- @param record any  any value but nil
-- @param opts table|nil  estimated_tokens, estimated_cost, priority, timeout_s, key
-- @return future, or nil and an err (queue_full, oversize, stopped). Raises bad_cost, not_running.
function Batcher:submit(record, opts)
  if record == nil then check_record(record) end
  if not self._accepting or scheduler.context then require_accepting(self) end
  if opts ~= nil then read_submit_options(self, opts) end
  local value = cost_of(self, record, opts)
  local waits = C.tb_has_room(self._handle, value) == 0 and may_wait(self)
  local now = scheduler.now_us()
  if not scheduler.task then scheduler.notify() end
  local future, code = hand_in(self, record, value, opts, waits and C.TB_MAY_WAIT or 0, now)
  if not future then return nil, refusal(self, code) end
  if waits and C.tb_waiting(self._handle) > 0 then return wait_in_line(future) end
  return future
end

--- Like submit, but never suspends and never overtakes those who wait.
function Batcher:try_submit(record, opts)
  check_record(record)
  require_accepting(self)
  if opts ~= nil then read_submit_options(self, opts) end
  local value = cost_of(self, record, opts)
  scheduler.notify()
  local future, code = hand_in(self, record, value, opts, 0, scheduler.now_us())
  if not future then return nil, refusal(self, code) end
  return future
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

-- All are accepted: hand them in one after the other; the last one ends the call.
local function hand_in_all(self, records, values, n, opts, flags)
  local futures, now = {}, scheduler.now_us()
  for i = 1, n do
    local more = i < n and C.TB_MORE or 0
    local future, code = hand_in(self, records[i], values[i - 1], opts, flags + more, now)
    if not future then -- memory ran out half-way: take back what is in
      for j = 1, i - 1 do futures[j]:cancel() end
      return nil, code
    end
    futures[i] = future
  end
  return futures
end

-- May these be handed in as one call? 0, or what refuses all of them, and which one is at fault.
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
function Batcher:submit_batch(records, opts)
  check_records(records)
  require_accepting(self)
  if opts ~= nil then read_submit_options(self, opts) end
  local values, n = batch_costs(self, records, opts)
  if n == 0 then return {} end
  local flags = may_wait(self) and tonumber(C.TB_MAY_WAIT) or 0
  local code, at_fault = check_batch(self, values, n, flags)
  if code ~= 0 then return nil, refusal(self, code, at_fault) end
  scheduler.notify()
  local futures, failed = hand_in_all(self, records, values, n, opts, flags)
  if not futures then return nil, refusal(self, failed) end
  if C.tb_waiting(self._handle) > 0 then
    wait_in_line(futures[n])
    if futures[1]._refused then return Future.outcome(futures[1]) end -- none has entered
  end
  return futures
end

-- --- settling -----------------------------------------------------------

--- Settle a future of ours; counts it.
function Batcher:settle(future, value, err)
  if settle_future(future, value, err) then
    self.unsettled = self.unsettled - 1
    if future._admission then scheduler.wake(future._admission, true) end
  end
end

local function forget(self, id)
  local slot = id % SLOTS
  local future = self._futures[slot]
  self._records[slot], self._futures[slot] = nil, nil
  if future._key then self._keys:give(future._key) end
  return future
end

--- Called by future:cancel().
function Batcher:cancel_record(future)
  forbid_in_estimator(self, "cancel")
  local id = future._id
  local slot = id % SLOTS
  C.tb_cancel(self._handle, id, scheduler.now_us())
  if self._futures[slot] == future then forget(self, id) end
  self:settle(future, nil, errors.new("cancelled", "the record was cancelled"))
  scheduler.notify()
  return true
end

--- Cancel every record that is not dispatched yet, in the order of their ids.
function Batcher:cancel_queued()
  local list = {}
  for _, future in pairs(self._futures) do list[#list + 1] = future end
  table.sort(list, function(a, b) return a._id < b._id end)
  for _, future in ipairs(list) do future:cancel() end
end

-- --- the turn -----------------------------------------------------------

local REASONS = {}
for i = 0, C.TB_REASONS - 1 do REASONS[i] = tbffi.text(C.tb_reason_name(i)) end

-- Tell the policy and the estimator how a batch went.
local function report(self, run, now)
  local usage, requests = inference.totals(run)
  if self._decision and self._decision.on_complete then
    self._decision:complete {
      size = run.size, cost = run.cost, padded = run.padded, failed = run.failed, usage = usage,
      requests = requests, service_s = (now - run.started_us) / 1e6, now = now / 1e6,
    }
  end
  -- what a bisected batch used counts some records several times
  if self._observe and usage ~= nil and not run.earlier_requests then
    local ok, err = pcall(self._observe, self._estimator, run.costs, usage, run.records)
    if not ok then self:_warn("the estimator's observe raised: " .. errors.message_of(err)) end
  end
end

local function call_ended(task, ok, err)
  local run = task.run
  local self = run.batcher
  if run.over then
    if not ok then self:_warn("an abandoned inference call raised: " .. errors.message_of(err)) end
    return
  end
  if not ok then -- memory ran out, at the least: nothing of the batch may be left unsettled
    for i = 1, run.size do
      self:settle(run.futures[i], nil, errors.new("inference_failed", errors.message_of(err), err, task.traceback))
    end
  end
  self._runs[run.id] = nil
  run.over = true
  local now = scheduler.now_us()
  C.tb_batch_finish(self._handle, run.id, ok and C.TB_COMPLETED or C.TB_FAILED, now)
  report(self, run, now)
end

-- Read a batch that the core has formed into a run.
local function read_run(self, id)
  C.tb_batch_read(self._handle, id, batch, nil, nil, 0)
  local n = batch.size
  reserve(n)
  C.tb_batch_read(self._handle, id, batch, ids, costs, n)
  local all_records, all_futures = self._records, self._futures
  local run_records, run_futures, run_ids, run_costs = {}, {}, {}, {}
  for i = 1, n do
    local record_id = ids[i - 1]
    local slot = record_id % SLOTS
    run_records[i], run_futures[i] = all_records[slot], all_futures[slot]
    run_ids[i], run_costs[i] = record_id, costs[i - 1]
    all_records[slot], all_futures[slot] = nil, nil
  end
  if self._is_keyed then
    for i = 1, n do
      local key = run_futures[i]._key
      if key then self._keys:give(key) end
    end
  end
  local deadline = tonumber(batch.deadline_us)
  return {
    batcher = self, id = id, size = n, cost = batch.cost, reason = REASONS[batch.reason],
    deadline = deadline >= 0 and deadline / 1e6 or nil,
    padded = n * batch.largest, started_us = tonumber(batch.started_us), failed = 0,
    records = run_records, futures = run_futures, ids = run_ids, costs = run_costs,
    info = {}, over = false, fn = self._fn, on_error = self._values.on_error,
    is_padded = self._config.cost_model == C.TB_COST_PADDED,
    timeout_s = tonumber(self._config.inference_timeout_us) / 1e6,
  }
end

local function dispatch(self, id)
  local run = read_run(self, id)
  self._runs[id] = run
  local task = scheduler.start_call(self, inference.body, run, call_ended)
  task.run = run
end

local function close_run(self, id, code, message)
  local run = self._runs[id]
  self._runs[id] = nil
  inference.close(run, code, message)
  if self._attached then report(self, run, scheduler.now_us()) end
end

local handlers = {
  [tonumber(C.TB_EVENT_ADMITTED)] = function(self, id)
    local future = self._futures[id % SLOTS]
    if future._admission then scheduler.wake(future._admission, true) end
  end,
  [tonumber(C.TB_EVENT_EXPIRED)] = function(self, id)
    self:settle(forget(self, id), nil,
      errors.new("deadline", "the record's deadline passed before it was handed to inference_fn"))
  end,
  [tonumber(C.TB_EVENT_STOPPED)] = function(self, id)
    self:settle(forget(self, id), nil, errors.new("stopped", tostring(self) .. " was stopped"))
  end,
  [tonumber(C.TB_EVENT_REFUSED)] = function(self, id)
    local future = forget(self, id)
    future._refused = true
    self:settle(future, nil, errors.new("stopped", tostring(self) .. " was stopped"))
  end,
  [tonumber(C.TB_EVENT_BATCH_TIMED_OUT)] = function(self, id)
    close_run(self, id, "inference_timeout",
      ("inference_fn did not answer within inference_timeout_s = %.14g s"):format(self._runs[id].timeout_s))
  end,
  [tonumber(C.TB_EVENT_BATCH_STOPPED)] = function(self, id)
    close_run(self, id, "stopped", tostring(self) .. " was stopped")
  end,
  [tonumber(C.TB_EVENT_DRAINED)] = function(self)
    self._attached = false
    scheduler.detach(self)
    settle_future(self._drained, true)
  end,
}

local function pull_events(self, now)
  repeat
    local n = C.tb_poll(self._handle, events, EVENTS, now)
    for i = 0, n - 1 do handlers[events[i].kind](self, events[i].id) end
  until n < EVENTS
end

-- The next batch, as the policy or the core decides; 0: none goes now.
local function next_batch(self, now)
  if self._decision then return self._decision:form(now) end
  return C.tb_form(self._handle, now)
end

--- Pull what the core has to say at `now`. Runs no user code: inference calls begin as
-- coroutines, in the next turn.
function Batcher:turn(now)
  pull_events(self, now)
  local id = next_batch(self, now)
  while id ~= 0 do
    dispatch(self, id)
    pull_events(self, now)
    id = next_batch(self, now)
  end
end

--- When turn() is needed next, microseconds, or nil.
function Batcher:next_us()
  local at = tonumber(C.tb_next(self._handle))
  return at >= 0 and at or nil
end

--- The run ended: what is left fails now.
function Batcher:abandon(now)
  self._accepting = false
  C.tb_stop(self._handle, 0, now)
  pull_events(self, now)
end

return M
