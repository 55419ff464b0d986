--- sim: what would policies and settings have done to this traffic? Arrivals (trace/, arrivals.lua)
-- meet a device (service.lua) in runs (experiment.lua, search.lua), and are shown (compare.lua, plot.lua,
-- html.lua and others). It knows base, core, what ships, scripts and, of batching, decisions and costs;
-- it has no batcher, no loop and no clock. The command line knows it.
--
-- One simulated run: arrivals through the real core and the real policy, on a clock that jumps
-- from event to event. What batcher.lua, the loop and a device are to a program, this loop
-- is to a simulation; who goes when is decided by the same code.
--
-- The line of producers that wait for room (on_full = "wait") is the rest of the trace: only its
-- first is handed to the core, so that memory does not grow with the line. There is no table,
-- closure or future per record: what is known of one is in arrays by its slot.

local Decision = require "tokenbatcher.batching.decision"
local Fairness = require "tokenbatcher.sim.fairness"
local Histogram = require "tokenbatcher.sim.histogram"
local intake = require "tokenbatcher.sim.intake"
local Keys = require "tokenbatcher.core.keys"
local known = require "tokenbatcher.sim.known"
local Serving = require "tokenbatcher.sim.device.serving"
local random = require "tokenbatcher.sim.random"
local warm_up = require "tokenbatcher.sim.warm_up"
local tbffi = require "tokenbatcher.core.ffi"

local C, SLOTS = tbffi.lib, tbffi.SLOTS
local ceil, huge, min = math.ceil, math.huge, math.min

local M = {}
local Replay = {}
Replay.__index = Replay

local ORIGIN_US, feed = intake.ORIGIN_US, intake.feed
local EVENTS, BATCH_SLOTS = 64, tonumber(C.TB_MAX_BATCHES)
local COMPLETED, FAILED = tonumber(C.TB_COMPLETED), tonumber(C.TB_FAILED)
local ADMITTED, DRAINED = tonumber(C.TB_EVENT_ADMITTED), tonumber(C.TB_EVENT_DRAINED)
local EXPIRED, TIMED_OUT = tonumber(C.TB_EVENT_EXPIRED), tonumber(C.TB_EVENT_BATCH_TIMED_OUT)
local MAY_WAIT = tonumber(C.TB_MAY_WAIT)
local NO_TIMEOUT = tonumber(C.TB_NO_TIMEOUT)
local SECONDS_MAX = 1e9

local events = tbffi.new("tb_event[?]", EVENTS)
local batch = tbffi.new "tb_batch"

-- --- what a decision may know of it -----------------------------------------------------

local function port_of(self)
  local keys, groups, counts, records = self.keys, self.groups, self.policy, self.record_of
  local decisions = self.decisions
  return {
    not_now = decisions and function(view, at_us)
      decisions:not_now(self.now - ORIGIN_US, at_us and at_us - ORIGIN_US, view)
    end or nil,
    record = function(slot) return records[slot] end,
    slo = function(slot)
      local slo_us = self.slo_of[slot]
      return slo_us > 0 and slo_us < huge and slo_us / 1e6 or nil
    end,
    key_name = function(number) return keys:name(number) end,
    key_number = function(name) return keys:id(name) end,
    group_name = function(number) return groups:name(number) end,
    group_number = function(name) return groups:id(name) end,
    is_suspect = function() return false end,
    count = function(what) counts[what] = counts[what] + 1 end,
    warn = self.warn,
  }
end

--- @param spec table  config (tb_config), policy (as resolved: see policies.resolve), source, service {text,
-- seconds} or device (see device/init.lua), slo (see slo.lua), seed, fail_rate, straggle {p, factor} (or nil), noise (a
-- walk, or nil: see noise.lua), timeline and decisions (or nil: see there), warn (function(text), of what the policy
-- did wrong), warm_up_s (what arrives before that is not counted; or nil)
function M.new(spec)
  local handle = tbffi.batcher(spec.config)
  if not handle then error("out of memory", 0) end
  local self = setmetatable({
    handle = handle, source = spec.source, service = spec.service,
    seconds = spec.service and spec.service.seconds,
    serving = spec.device and Serving.new(spec.device),
    slo = spec.slo, keys = Keys.new(), groups = Keys.new(), warn = spec.warn,
    policy = { errors = 0, overruled = 0, disabled = 0 }, timeline = spec.timeline,
    decisions = spec.decisions,
    noise = spec.noise, fail_rate = spec.fail_rate or 0, straggle = spec.straggle,
    luck = random.new(spec.seed, "failures"),
    max_cost = huge, flags = spec.config.on_full == C.TB_FULL_WAIT and MAY_WAIT or 0, now = ORIGIN_US,
    slots = 0, arrived_us = nil, cost_of = nil, slo_of = nil, output_of = nil, key_of = nil, group_of = nil,
    record_of = {},
    runs = {}, next_end_us = huge, is_blocked = false, is_ended = false, is_draining = false, turn_fed = 0,
    records = 0, newest_us = ORIGIN_US, queued = 0, good = 0, last_us = ORIGIN_US, latency = Histogram.new(),
    wait = Histogram.new(),
    fairness = Fairness.new(), from_us = ORIGIN_US + (spec.warm_up_s or 0) * 1e6,
  }, Replay)
  self.warm_up = spec.warm_up_s and warm_up.new(self.from_us)
  for at = 0, BATCH_SLOTS - 1 do self.runs[at] = false end
  self.slot_count, self.running, self.core_us, self.formed = spec.config.max_concurrent_batches, 0, -1, 0
  self.room = spec.config.max_queue_cost > 0 and 0 or spec.config.max_queue_size
  if spec.policy.in_core then return self end
  self.decision = Decision.new(handle, port_of(self), spec.policy)
  self.max_cost = self.decision.resolved.module and self.decision.policy.max_record_cost or huge
  return self
end

-- --- batches ------------------------------------------------------------------------

-- When a batch that starts now is over: like the virtual clock, at the first whole microsecond.
local function end_of_service(self, output, largest_output, kv_steps)
  local seconds = self.seconds(batch.sum, batch.padded, batch.size, batch.largest, output, largest_output, kv_steps)
  if type(seconds) ~= "number" or not (seconds >= 0 and seconds <= SECONDS_MAX) then
    error(("the service time of a batch must be a number of seconds from 0 to 1e9; %s gave %s for %d records, "
      .. "%.0f tokens"):format(self.service.text, tostring(seconds), batch.size, batch.sum), 0)
  end
  local straggle = self.straggle
  if straggle and self.luck:uniform() < straggle.p then seconds = min(SECONDS_MAX, seconds * straggle.factor) end
  if self.noise then seconds = min(SECONDS_MAX, self.noise:stretch((self.now - ORIGIN_US) / 1e6, seconds)) end
  return ceil(self.now + seconds * 1e6)
end

local function leave_queue(self, slot, cost)
  if self.has_records then self.record_of[slot] = nil end
  local group = self.group_of[slot]
  if group ~= 0 then self.groups:give(group) end
  local key = self.key_of[slot]
  if key == 0 then return end
  self.keys:give(key)
  self.fairness:left(key, cost)
end

-- The outputs of a batch that has a record of which none is known.
local function no_outputs(self)
  if self.serving or self.service.asks_outputs then
    local who = self.serving and "--device" or "--service " .. self.service.text
    error(who .. " asks for outputs, and there are arrivals without: a trace that has them is needed, or output=... of "
      .. "--arrivals", 0)
  end
  return -1, -1, -1
end

-- Hand a batch to the device; it says later when it is over.
local function serve(self, run, array)
  local serving, now = self.serving, self.now
  serving:open(run)
  for i = 0, run.n - 1 do
    local slot = array[i] % SLOTS
    serving:take(run, i, ceil(self.cost_of[slot]), self.output_of[slot], now)
  end
  run.failed = run.failed or run.is_refused
  if serving:close(run) then self.next_end_us = now end
end

-- What a rule over answers asks of a record.
local function remember(self, run, i, slot)
  run.cost_of[i], run.output[i], run.priority[i] = self.cost_of[slot], self.output_of[slot], self.priority_of[slot]
end

local function dispatch(self, id)
  C.tb_batch_read(self.handle, id, batch, nil, nil, 0)
  local n, now = batch.size, self.now
  local array = known.ids(n)
  C.tb_batch_read(self.handle, id, batch, array, nil, n)
  local run = known.run(self.runs, id % BATCH_SLOTS, n)
  local arrived, run_arrived, output_of, wait = self.arrived_us, run.arrived_us, self.output_of, self.wait
  local slo_of, run_slo, decisions, from_us = self.slo_of, run.slo_us, self.decisions, self.from_us
  local output, largest_output, kv_steps, outputs_known = 0, 0, 0, true
  for i = 0, n - 1 do
    local slot = array[i] % SLOTS
    local at, out = arrived[slot], output_of[slot]
    run_arrived[i], run_slo[i] = at, slo_of[slot]
    if slo_of[slot] < 0 then remember(self, run, i, slot) end
    if decisions then decisions:pick(i, self.number_of[slot], now - at) end
    if at >= from_us then wait:add(now - at) end
    if out < 0 then outputs_known = false end
    output = output + out
    if out > largest_output then largest_output = out end
    if out > 1 then kv_steps = kv_steps + (out - 1) * (ceil(self.cost_of[slot]) + out / 2) end
    leave_queue(self, slot, self.cost_of[slot])
  end
  if not outputs_known then output, largest_output, kv_steps = no_outputs(self) end
  if decisions then decisions:batch(now - ORIGIN_US, self.queued, n, batch.cost, batch.reason) end
  self.fairness:dispatched()
  self.queued, self.running = self.queued - n, self.running + 1
  run.id, run.n, run.sum, run.padded, run.cost = id, n, batch.sum, batch.padded, batch.cost
  run.started_us, run.reason = now, batch.reason
  if self.warm_up then self.warm_up:started(run) end
  run.failed = self.fail_rate > 0 and self.luck:uniform() < self.fail_rate
  if self.serving then return serve(self, run, array) end
  run.end_us = end_of_service(self, output, largest_output, kv_steps)
  if run.end_us < self.next_end_us then self.next_end_us = run.end_us end
end

local function next_end(self)
  if self.serving then return end -- it says itself which batch is over next
  local at_us, runs = huge, self.runs
  for at = 0, self.slot_count - 1 do
    local run = runs[at]
    if run and run.end_us < at_us then at_us = run.end_us end
  end
  self.next_end_us = at_us
end

-- A batch is over; tell the policy.
local function close(self, run, failed)
  run.end_us, self.running = huge, self.running - 1
  next_end(self)
  self.last_us = self.now
  local source = self.source
  for _ = 1, run.n do source:answered(self.now - ORIGIN_US) end
  if self.warm_up then self.warm_up:ended(run, failed) end
  if self.timeline then
    self.timeline:batch(run.started_us - ORIGIN_US, self.now - ORIGIN_US, run.n, run.reason, run.cost)
  end
  local decision = self.decision
  if decision and decision.on_complete then
    decision:complete {
      size = run.n, cost = run.cost, padded = run.padded, failed = failed and run.n or 0, requests = nil, usage = nil,
      service_s = (self.now - run.started_us) / 1e6, now = self.now / 1e6,
    }
  end
end

local function is_met(self, run, i)
  return self.slo:is_met(-run.slo_us[i], run.ttft_us[i] / 1e6, run.tpot_us[i] / 1e6, run.e2e_us[i] / 1e6,
    run.cost_of[i], run.output[i], run.priority[i])
end

local function finish(self, run)
  local now = self.now
  C.tb_batch_finish(self.handle, run.id, run.failed and FAILED or COMPLETED, now)
  if not run.failed then
    local arrived, latency, slo_us, good, from_us = run.arrived_us, self.latency, run.slo_us, 0, self.from_us
    for i = 0, run.n - 1 do
      local took_us = now - arrived[i]
      if arrived[i] >= from_us then
        latency:add(took_us)
        if took_us <= slo_us[i] or slo_us[i] < 0 and is_met(self, run, i) then good = good + 1 end
      end
    end
    self.good = self.good + good
    if self.serving then self.serving:completed(run, from_us) end
  end
  close(self, run, run.failed)
end

-- Those that the device has said are over.
local function finish_served(self)
  if self.next_end_us > self.now then return end
  local serving = self.serving
  self.next_end_us = huge
  for i = 1, serving.over_count do finish(self, serving.over[i]) end
  serving.over_count = 0
end

local function finish_due(self)
  if self.serving then return finish_served(self) end
  while self.next_end_us <= self.now do
    local runs = self.runs
    for at = 0, self.slot_count - 1 do
      local run = runs[at]
      if run and run.end_us <= self.now then finish(self, run) end
    end
  end
end

-- --- the turn -------------------------------------------------------------------------

local function take_event(self, kind, id)
  if kind == EXPIRED then
    if self.warm_up then self.warm_up:count("expired", self.arrived_us[id % SLOTS]) end
    leave_queue(self, id % SLOTS, 0)
    self.queued = self.queued - 1
    self.source:answered(self.now - ORIGIN_US)
    self.is_blocked = C.tb_waiting(self.handle) > 0
  elseif kind == ADMITTED then
    self.is_blocked = false
    feed(self)
  elseif kind == TIMED_OUT then
    local run = self.runs[id % BATCH_SLOTS]
    if self.serving then self.serving:abandon(run, self.now) end
    close(self, run, true)
  elseif kind == DRAINED then
    self.is_ended = true
  end
end

local function pull_events(self)
  local handle = self.handle
  repeat
    local n = C.tb_poll(handle, events, EVENTS, self.now)
    for i = 0, n - 1 do take_event(self, events[i].kind, events[i].id) end
  until n == 0 or self.is_ended
end

local function next_batch(self)
  if self.decision then return self.decision:form(self.now) end
  return C.tb_form(self.handle, self.now)
end

local function turn(self)
  pull_events(self)
  local id = self.formed ~= 0 and self.formed or next_batch(self)
  self.formed = 0
  while id ~= 0 do
    dispatch(self, id)
    pull_events(self)
    id = next_batch(self)
  end
  if self.decision then self.decision:end_turn() end
  if self.timeline then self.timeline:queued(self.now - ORIGIN_US, self.queued) end
end

-- All has arrived: what is queued goes without lingering, as at the end of a run.
local function drain(self)
  self.is_draining = true
  C.tb_stop(self.handle, NO_TIMEOUT, self.now)
end

-- Has the core something to say, or may it have something to send?
local function needs_turn(self)
  if self.formed ~= 0 or self.timeline or not intake.is_busy(self) then return true end
  self.core_us = tonumber(C.tb_next(self.handle))
  return self.core_us >= 0 and self.core_us <= self.now
end

-- When something happens next: an arrival, the end of a batch, or what the core asks for.
local function next_time(self)
  local at, core = self.next_end_us, self.core_us
  if not self.is_blocked then at = min(at, self.source.at_us + ORIGIN_US) end
  if core >= 0 and core < at then at = core <= self.now and self.now + 1 or core end
  if not self.serving then return at end
  self.next_end_us = min(self.next_end_us, self.serving:run_to(at))
  return min(at, self.next_end_us)
end

--- The whole run. Raises what the source raises, and a bad service time.
-- @param progress function|nil  (records so far), told now and then
function Replay:run(progress)
  C.tb_start(self.handle, self.now)
  local tell_at = progress and 0 or huge
  while not self.is_ended do
    finish_due(self)
    feed(self)
    finish_due(self) -- what has ended while a turn's arrivals came in
    if self.source.is_done and not self.is_draining and not self.is_blocked then drain(self) end
    if needs_turn(self) then
      turn(self)
      self.core_us = tonumber(C.tb_next(self.handle))
    end
    if not self.is_ended then self.now = math.max(next_time(self), self.now) end
    local warming = self.warm_up
    if warming and not warming.is_over and self.now >= self.from_us then
      warming:begin(self.handle, self.fairness, self.now)
    end
    if self.records >= tell_at then
      progress(self.records)
      tell_at = self.records + 20000
    end
  end
  return self
end

--- Seconds from the first arrival to the last one.
function Replay:arrivals_span_s()
  return (self.newest_us - ORIGIN_US) / 1e6
end

--- Seconds from the first arrival (or the end of the warm-up) to the last answer.
function Replay:span_s()
  return math.max(0, self.last_us - self.from_us) / 1e6
end

return M
