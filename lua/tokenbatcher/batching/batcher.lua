--- TokenBatcher and DynamicBatcher: the face of one core batcher in Lua.
--
-- The core knows ids, costs and times; this module keeps, by slot, the record and the
-- future of every record that is not dispatched yet (_records, _futures), and by batch
-- the runs (_runs, see inference.lua). What the core decides is pulled in turn().

local clock = require "tokenbatcher.runtime.clock"
local Decision = require "tokenbatcher.batching.decision"
local errors = require "tokenbatcher.base.errors"
local Future = require "tokenbatcher.runtime.future"
local host = require "tokenbatcher.runtime.host"
local inference = require "tokenbatcher.batching.run"
local Keys = require "tokenbatcher.core.keys"
local loop = require "tokenbatcher.runtime.loop"
local options = require "tokenbatcher.core.options"
local Recording = require "tokenbatcher.batching.recording"
local stats = require "tokenbatcher.core.stats"
local submission = require "tokenbatcher.batching.submission"
local tasks = require "tokenbatcher.runtime.tasks"
local tbffi = require "tokenbatcher.core.ffi"

local C, SLOTS = tbffi.lib, tbffi.SLOTS
local settle_future = Future.settle

local M = {}

local EVENTS = 64
local events = tbffi.new("tb_event[?]", EVENTS)
local batch = tbffi.new "tb_batch"
local capacity, ids, costs = 0, nil, nil -- where a batch is read into

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
  return self._attached and clock.now_us() or 0
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
  if values.on_error == "bisect" and values.resolved_policy.forbids_bisect then
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
    _class = class, _handle = handle,
    _attached = false, _accepting = false, _records = {}, _futures = {}, _runs = {}, _drained = false, unsettled = 0,
    _keys = Keys.new(), _policy_errors = 0, _policy_overruled = 0, _recording = false,
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
    host.call(self._log, "warn", text)
  elseif not host.log("warn", tostring(self) .. ": " .. text) then
    io.stderr:write(tostring(self), ": ", text, "\n")
  end
end

local function forbid_in_estimator(self, name)
  if host.context then
    errors.misuse(("%s: %s cannot be called inside a %s"):format(tostring(self), name, host.context))
  end
end

-- Make the policy of `values` for this batcher: its state is its own.
local function new_decision(self, values)
  if values.resolved_policy.in_core then return false end
  local decision = Decision.new(self, values.resolved_policy, self._decision)
  values.resolved_policy = decision.resolved
  local message = conflict(self._class, values)
  if message then errors.misuse(message) end
  return decision
end

-- An inference function that is a callable table may want to know that it rests.
local function tell_rest(self, fn)
  if type(fn) ~= "table" or not errors.is_callable(fn.on_stop) then return end
  local ok, err = pcall(fn.on_stop, fn)
  if not ok then self:_warn("inference_fn's on_stop raised: " .. errors.message_of(err)) end
end

-- From now on this decides; views that only the former one used are forgotten.
local function adopt_decision(self, decision)
  self._decision = decision
  self._max_record_cost = decision and decision.resolved.module and decision.policy.max_record_cost or math.huge
  C.tb_views_close(self._handle)
end

-- The recording that `values` ask for: the one in use, a new one, or false. A file that cannot
-- be written raises.
local function new_recording(self, values)
  local now, current = clock.now_us(), self._recording
  if not values.record then return false end
  if current and current.name == values.record then
    current:resume(now)
    return current
  end
  local recording, message = Recording.new(values.record, self, now)
  if not recording then errors.misuse(tostring(self) .. ": option 'record': " .. message) end
  return recording
end

local function adopt_recording(self, recording)
  local former = self._recording
  self._recording = recording
  if former and former ~= recording then former:close() end
end

-- --- life ---------------------------------------------------------------

--- Begin to accept records. Within run() only (or a coroutine driven by step()).
-- @return the batcher
function Batcher:start()
  forbid_in_estimator(self, "start")
  if C.tb_state(self._handle) ~= C.TB_STOPPED then errors.misuse(tostring(self) .. " is already running") end
  local is_driven, reason = loop.can_start()
  if not is_driven then errors.misuse(tostring(self) .. ": start " .. reason) end
  if self._decision == nil then adopt_decision(self, new_decision(self, self._values)) end
  self._recording = new_recording(self, self._values)
  C.tb_start(self._handle, clock.now_us())
  self._accepting, self._attached, self._drained = true, true, Future.new(false, false)
  loop.attach(self)
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
  if tasks.owner() == self then
    errors.misuse(tostring(self) .. ": stop called from its own inference function would wait for itself")
  end
  local can, reason = tasks.can_suspend()
  if not can and self.unsettled > 0 then errors.misuse("stop cannot wait here: " .. reason) end
  self._accepting = false
  local drained = self._drained
  C.tb_stop(self._handle, timeout_us, clock.now_us())
  clock.notify()
  if can then drained:await() else self:turn(clock.now_us()) end
end

--- Everything queued now is due at once.
function Batcher:flush()
  forbid_in_estimator(self, "flush")
  if not self._attached then return end
  C.tb_flush(self._handle, clock.now_us())
  clock.notify()
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
  local recording = self._recording
  if self._attached then recording = new_recording(self, values) end
  if C.tb_set(self._handle, config, self:_now()) ~= 0 then errors.misuse(tostring(self) .. ": out of memory") end
  local former = self._fn
  apply(self, config, values, estimator_name(self, given))
  if self._fn ~= former then tell_rest(self, former) end
  adopt_recording(self, recording)
  if given.policy ~= nil then adopt_decision(self, decision) end
  clock.notify()
end

Batcher.submit, Batcher.try_submit = submission.submit, submission.try_submit
Batcher.submit_batch = submission.submit_batch

-- --- settling -----------------------------------------------------------

--- Settle a future of ours; counts it.
function Batcher:settle(future, value, err)
  if settle_future(future, value, err) then
    self.unsettled = self.unsettled - 1
    if future._admission then tasks.wake(future._admission, true) end
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
  C.tb_cancel(self._handle, id, clock.now_us())
  if self._futures[slot] == future then forget(self, id) else self._may_have_unwanted = true end
  self:settle(future, nil, errors.new("cancelled", "the record was cancelled"))
  clock.notify()
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

-- Tell the recording, and the policy and the estimator of then, how a batch went (X4).
local function report(self, run, now)
  if self._recording then self._recording:ended(run, now) end
  local usage, requests = inference.totals(run)
  local decision, estimator = run.decision, run.estimator
  if decision and decision.on_complete then
    decision:complete {
      size = run.size, cost = run.cost, padded = run.padded, failed = run.failed, usage = usage,
      requests = requests, service_s = (now - run.started_us) / 1e6, now = now / 1e6,
    }
  end
  -- what a bisected batch used counts some records several times
  if run.observe and usage ~= nil and not run.earlier_requests then
    local ok, err = tasks.guarded("token_estimator", run.observe, estimator, run.costs, usage, run.records)
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
  local now = clock.now_us()
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
    tokens = batch.sum, padded = n * batch.largest, started_us = tonumber(batch.started_us), failed = 0,
    records = run_records, futures = run_futures, ids = run_ids, costs = run_costs,
    info = {}, over = false, fn = self._fn, on_error = self._values.on_error,
    decision = self._decision, estimator = self._estimator, observe = self._observe,
    is_padded = self._config.cost_model == C.TB_COST_PADDED,
    timeout_s = tonumber(self._config.inference_timeout_us) / 1e6,
  }
end

local function dispatch(self, id)
  local run = read_run(self, id)
  self._runs[id] = run
  local task = tasks.start(inference.body, { n = 1, run }, call_ended, self)
  task.run, run.task = run, task
end

-- Call off what runs for records that have all been cancelled.
local function abandon_unwanted(self)
  self._may_have_unwanted = false
  local unwanted = {}
  for id, run in pairs(self._runs) do
    if inference.is_unwanted(run) then unwanted[#unwanted + 1] = id end
  end
  table.sort(unwanted)
  for _, id in ipairs(unwanted) do tasks.call_off(self._runs[id].task) end
end

local function close_run(self, id, code, message)
  local run = self._runs[id]
  self._runs[id] = nil
  inference.close(run, code, message)
  tasks.abandon(run.task)
  if self._attached then report(self, run, clock.now_us()) end
end

local handlers = {
  [tonumber(C.TB_EVENT_ADMITTED)] = function(self, id)
    local future = self._futures[id % SLOTS]
    if future._admission then tasks.wake(future._admission, true) end
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
    if self._recording then self._recording:close() end
    loop.detach(self)
    tell_rest(self, self._fn)
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
  if self._may_have_unwanted then abandon_unwanted(self) end
  pull_events(self, now)
  local id = next_batch(self, now)
  while id ~= 0 do
    dispatch(self, id)
    pull_events(self, now)
    id = next_batch(self, now)
  end
  if self._decision then self._decision:end_turn() end
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
