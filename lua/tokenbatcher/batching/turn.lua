--- A turn of a batcher: pull what the core has to say, hand over the batches that it forms, settle
-- what has ended. The core knows ids; here they become records and futures again.
--
-- THE SPECIAL PROBLEM OF USER CODE. A log function, an estimator's observe, a policy's on_complete
-- may do anything, stop this batcher or turn another one included. While the core is being read
-- none of it runs: it is put off until the pull is over (later, below).

local clock = require "tokenbatcher.runtime.clock"
local errors = require "tokenbatcher.base.errors"
local Future = require "tokenbatcher.runtime.future"
local grouping = require "tokenbatcher.batching.grouping"
local host = require "tokenbatcher.runtime.host"
local runs = require "tokenbatcher.batching.run"
local joining = require "tokenbatcher.batching.joining"
local loop = require "tokenbatcher.runtime.loop"
local REASONS = require("tokenbatcher.core.stats").REASONS
local tasks = require "tokenbatcher.runtime.tasks"
local tbffi = require "tokenbatcher.core.ffi"
local tracing = require "tokenbatcher.batching.tracing"

local new_table = require "table.new"

local C, SLOTS = tbffi.lib, tbffi.SLOTS
local settle_future = Future.settle
local STATE, ID = Future.STATE, Future.ID

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

-- An inference function that is a callable table may want to know that it rests.
function M.tell_rest(self, fn)
  if type(fn) ~= "table" or not errors.is_callable(fn.on_stop) then return end
  local ok, err = pcall(fn.on_stop, fn)
  if not ok then self:_warn("inference_fn's on_stop raised: " .. errors.message_of(err)) end
end

--- Raise inside an estimator and the like. @param name string  of the call
function M.forbid_in_estimator(self, name)
  if host.context then
    errors.misuse(("%s: %s cannot be called inside a %s"):format(tostring(self), name, host.context))
  end
end

-- Call fn(self, a, b) when nothing is being pulled.
local function later(self, fn, a, b)
  local list = self._later
  list[#list + 1] = { fn, a, b }
end
M.later = later

local function tell_drained(self)
  if self._tracer then self._tracer:drained() end
end

-- What was put off; it may put off more.
local function do_later(self)
  while self._later[1] do
    local list = self._later
    self._later = {}
    for _, call in ipairs(list) do call[1](self, call[2], call[3]) end
  end
end

--- Settle a future of ours; counts it.
local function settle(self, future, value, err)
  if settle_future(future, value, err) then
    self.unsettled = self.unsettled - 1
    if future.admission then tasks.wake(future.admission, true) end
  end
end

M.settle = settle

local function forget(self, id)
  local slot = id % SLOTS
  local future = self._futures[slot]
  self._records[slot], self._futures[slot] = nil, nil
  if future.key_number then self._keys:give(future.key_number) end
  if future.group_number then self._groups:give(future.group_number) end
  return future
end

--- Called by future:cancel().
function M.cancel_record(self, future)
  M.forbid_in_estimator(self, "cancel")
  if future.joined_to then return joining.cancel(self, future) end
  local id = future[ID]
  local slot = id % SLOTS
  C.tb_cancel(self._handle, id, clock.now_us())
  if self._futures[slot] == future then forget(self, id) else self._may_have_unwanted = true end
  settle(self, future, nil, errors.new("cancelled", "the record was cancelled"))
  clock.notify()
  return true
end

--- Cancel every record that is not dispatched yet, in the order of their ids.
function M.cancel_queued(self)
  local list = {}
  for _, future in pairs(self._futures) do list[#list + 1] = future end
  table.sort(list, function(a, b) return a[ID] < b[ID] end)
  for _, future in ipairs(list) do future:cancel() end
end

-- --- the turn -----------------------------------------------------------

local function was_inference(future)
  local _, err = Future.outcome(future)
  return err.code == "inference_failed" or err.code == "inference_timeout"
end

-- Whose records are to run alone for a while (R7): those that were refused by themselves in a batch
-- of which another was answered. A suspect's own batches of one count on.
local function settle_blame(self, run, now)
  local suspects = self._suspects
  if not self._is_keyed or self._suspect_us == 0 or not run.blamed and suspects.count == 0 then return end
  for i = 1, run.size do
    local key, state = run.keys[i], run.futures[i][STATE]
    if key ~= "" and state == "failed" then
      local is_blamed = run.blamed and run.blamed[i] and run.answered > 0
        or suspects:has(key) and was_inference(run.futures[i])
      if is_blamed then suspects:blame(key, now) end
    elseif key ~= "" and state == "done" then
      suspects:answered(key, now)
    end
  end
end

-- Tell the recording, who watches, and the policy and the estimator of then, how a batch went (X4).
local function report(self, run, now)
  if self._recording then self._recording:ended(run, now) end
  if self._watcher then self._watcher:ended(run, now) end
  if self._tracer then self._tracer:ended(run, now) end
  local usage, requests, limits = runs.totals(run)
  local decision, estimator = run.decision, run.estimator
  if decision and decision.on_complete then
    decision:complete {
      id = run.id, size = run.size, cost = run.cost, padded = run.padded, failed = run.failed, usage = usage,
      requests = requests, calls = run.attempt or 1, limits = limits,
      service_s = (now - run.started_us) / 1e6, now = now / 1e6,
    }
  end
  -- what a bisected batch used counts some records several times
  if run.observe and usage ~= nil and not run.earlier_requests then
    local ok, err = tasks.guarded("token_estimator", run.observe, estimator, run.costs, usage, run.records)
    if not ok then self:_warn("the estimator's observe raised: " .. errors.message_of(err)) end
  end
end

local function abandoned_call_ended(self, run, ok, err)
  self._adrift[run.id] = nil
  C.tb_call_ended(self._handle, run.id, clock.now_us())
  clock.notify()
  if ok or errors.is_err(err) and err.code == "cancelled" then return end
  self:_warn("an abandoned inference call raised: " .. errors.message_of(err))
end

--- The run ended: calls that were abandoned in it, and go on, never end by themselves.
function M.forget_calls(self)
  for id in pairs(self._adrift) do C.tb_call_ended(self._handle, id, clock.now_us()) end
  self._adrift = {}
end

local function call_ended(task, ok, err)
  local run = task.run
  local self = run.batcher
  if run.over then return abandoned_call_ended(self, run, ok, err) end
  if not ok then -- memory ran out, at the least: nothing of the batch may be left unsettled
    run.failed, run.err = run.size, errors.new("inference_failed", errors.message_of(err), err, task.traceback)
    for i = 1, run.size do settle(self, run.futures[i], nil, run.err) end
  end
  self._runs[run.id] = nil
  run.over = true
  local now = clock.now_us()
  C.tb_batch_finish(self._handle, run.id, ok and C.TB_COMPLETED or C.TB_FAILED, now)
  settle_blame(self, run, now)
  report(self, run, now)
end

-- What info.keys is where no record ever had a key: "" at every position.
local NO_KEYS = setmetatable({}, { __index = function() return "" end })

local NO_INFO = {} -- of a run that has not been called

-- The keys of records that go, which are queued no more.
local function names_of_keys(self, futures, n)
  local names = {}
  for i = 1, n do
    local number = futures[i].key_number or 0
    names[i] = self._keys:name(number)
    self._keys:give(number)
  end
  return names
end

local function give_groups(self, futures, n)
  for i = 1, n do self._groups:give(futures[i].group_number or 0) end
end

-- Read a batch that the core has formed into a run.
local function read_run(self, id)
  C.tb_batch_read(self._handle, id, batch, nil, nil, 0)
  local n = batch.size
  reserve(n)
  C.tb_batch_read(self._handle, id, batch, ids, costs, n)
  local all_records, all_futures = self._records, self._futures
  local run_records, run_futures, run_costs = new_table(n, 0), new_table(n, 0), new_table(n, 0)
  for i = 1, n do
    local slot = ids[i - 1] % SLOTS
    run_records[i], run_futures[i], run_costs[i] = all_records[slot], all_futures[slot], costs[i - 1]
    all_records[slot], all_futures[slot] = nil, nil
  end
  local group = self._is_grouped and grouping.given(self._groups:name(batch.group)) or self._groups:name(batch.group)
  local keys = self._is_keyed and names_of_keys(self, run_futures, n) or NO_KEYS
  if self._is_grouped then give_groups(self, run_futures, n) end
  local deadline = tonumber(batch.deadline_us)
  return {
    batcher = self, id = id, size = n, cost = batch.cost, reason = REASONS[batch.reason + 1],
    deadline = deadline >= 0 and deadline / 1e6 or nil,
    tokens = batch.sum, padded = batch.padded, started_us = tonumber(batch.started_us), failed = 0,
    records = run_records, futures = run_futures, costs = run_costs, keys = keys, group = group,
    info = NO_INFO, over = false, answered = 0, fn = self._fn, on_error = self._values.on_error,
    decision = self._decision, estimator = self._cost_source.estimator, observe = self._observe,
    timeout_s = self._call_timeout_s, gate = self._gate,
  }
end

local function dispatch(self, id)
  local run = read_run(self, id)
  self._runs[id] = run
  if self._is_traced then tracing.begin(self, run) end
  if run.timeout_s > 0 then self._is_timed = true end
  local task = tasks.start(runs.body, { n = 1, run }, call_ended, self)
  task.run, run.task = run, task
end

-- Call off what runs for records that have all been cancelled.
local function abandon_unwanted(self)
  self._may_have_unwanted = false
  local unwanted = {}
  for id, run in pairs(self._runs) do
    if runs.is_unwanted(run) then unwanted[#unwanted + 1] = id end
  end
  table.sort(unwanted)
  for _, id in ipairs(unwanted) do tasks.call_off(self._runs[id].task) end
end

local function close_run(self, id, code, message)
  local run = self._runs[id]
  self._runs[id] = nil
  runs.close(run, code, message)
  self._adrift[id] = true
  tasks.abandon(run.task)
  local now = clock.now_us()
  settle_blame(self, run, now)
  if C.tb_state(self._handle) ~= C.TB_STOPPED then later(self, report, run, now) end
end

local handlers = {
  [tonumber(C.TB_EVENT_ADMITTED)] = function(self, id)
    local future = self._futures[id % SLOTS]
    if future.admission then tasks.wake(future.admission, true) end
  end,
  [tonumber(C.TB_EVENT_EXPIRED)] = function(self, id)
    settle(self, forget(self, id), nil, runs.expired())
  end,
  [tonumber(C.TB_EVENT_STOPPED)] = function(self, id)
    settle(self, forget(self, id), nil, errors.new("stopped", tostring(self) .. " was stopped"))
  end,
  [tonumber(C.TB_EVENT_REFUSED)] = function(self, id)
    local future = forget(self, id)
    future.refused = true
    settle(self, future, nil, errors.new("stopped", tostring(self) .. " was stopped"))
  end,
  [tonumber(C.TB_EVENT_BATCH_TIMED_OUT)] = function(self, id)
    close_run(self, id, "inference_timeout",
      ("inference_fn did not answer within inference_timeout_s = %.14g s"):format(self._runs[id].timeout_s))
  end,
  [tonumber(C.TB_EVENT_BATCH_STOPPED)] = function(self, id)
    close_run(self, id, "stopped", tostring(self) .. " was stopped")
  end,
  [tonumber(C.TB_EVENT_DRAINED)] = function(self)
    if self._recording then self._recording:close() end
    loop.detach(self)
    later(self, M.tell_rest, self._fn)
    if self._tracer then later(self, tell_drained) end
    settle_future(self._drained, true)
  end,
}

local function pull_events(self, now)
  self._is_pulling = true
  repeat
    local n = C.tb_poll(self._handle, events, EVENTS, now)
    for i = 0, n - 1 do handlers[events[i].kind](self, events[i].id) end
  until n < EVENTS
  self._is_pulling = false
end

-- The next batch, as the policy or the core decides; 0: none goes now.
local function next_batch(self, now)
  if self._decision then return self._decision:form(now) end
  return C.tb_form(self._handle, now)
end

--- Pull what the core has to say at `now`. Runs no user code: inference calls begin as
-- coroutines, in the next turn.
function M.turn(self, now)
  if self._may_have_unwanted then abandon_unwanted(self) end
  self._suspects:expire(self._suspect_us, now)
  self._joining:expire(self, now)
  pull_events(self, now)
  if self._recording then self._recording:turn_over() end
  if self._watcher then self._watcher:turned(now) end
  local id = next_batch(self, now)
  while id ~= 0 do
    dispatch(self, id)
    pull_events(self, now)
    id = next_batch(self, now)
  end
  do_later(self)
  if self._decision then self._decision:end_turn() end
end

--- The run ended: what is left fails now.
function M.abandon(self, now)
  if C.tb_state(self._handle) == C.TB_STOPPED then return end
  C.tb_stop(self._handle, 0, now)
  pull_events(self, now)
  do_later(self)
end

return M
