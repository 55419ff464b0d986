--- batching: records come in (submission.lua, most by quick.lua), batches go out and come back (turn.lua, run.lua),
-- as a policy decides (decision.lua). It knows base, core and runtime; policies, estimators and
-- inference functions are handed to it.
--
-- This file is TokenBatcher and DynamicBatcher, the face of one core batcher in Lua.
--
-- The core knows ids, costs and times; a batcher keeps, by slot, the record and the future of
-- every record that is not dispatched yet (_records, _futures), and by batch the runs (_runs), and
-- which of those that are closed have a call that goes on (_adrift).

local bit = require "bit"
local clock = require "tokenbatcher.runtime.clock"
local cost = require "tokenbatcher.batching.cost"
local Decision = require "tokenbatcher.batching.decision"
local errors = require "tokenbatcher.base.errors"
local Future = require "tokenbatcher.runtime.future"
local grouping = require "tokenbatcher.batching.grouping"
local host = require "tokenbatcher.runtime.host"
local joining = require "tokenbatcher.batching.joining"
local Keys = require "tokenbatcher.core.keys"
local loop = require "tokenbatcher.runtime.loop"
local options = require "tokenbatcher.core.options"
local Recording = require "tokenbatcher.batching.recording"
local stats = require "tokenbatcher.core.stats"
local submission = require "tokenbatcher.batching.submission"
local suspects = require "tokenbatcher.batching.suspects"
local tasks = require "tokenbatcher.runtime.tasks"
local turn = require "tokenbatcher.batching.turn"
local tracing = require "tokenbatcher.batching.tracing"
local watching = require "tokenbatcher.batching.watching"
local tbffi = require "tokenbatcher.core.ffi"

local C = tbffi.lib
local M = {}

local function is_stopped(self)
  return C.tb_state(self._handle) == C.TB_STOPPED
end

-- Has a method been called with a dot?
local function require_batcher(self, name)
  if not M.is_batcher(self) then errors.needs_colon(name) end
end

--- @class tokenbatcher.Batcher
--- @field is_running boolean
--- @field stats table  a snapshot
local Batcher = {}

local meta = {}
meta.__index = function(self, key)
  local method = Batcher[key]
  if method ~= nil then return method end
  if key == "is_running" then return not is_stopped(self) end
  if key == "stats" then
    local out = stats.read(self._handle, self:_now())
    out.policy_errors, out.policy_overruled = self._policy.errors, self._policy.overruled
    out.total_joined = self._joined
    return out
  end
  return nil
end
meta.__tostring = function(self)
  return self._class .. (self._values.name and " '" .. self._values.name .. "'" or "")
end

function Batcher:_now()
  return is_stopped(self) and 0 or clock.now_us()
end

-- See quick.lua. To be called where any of these has changed.
local function note_plain(self)
  self._is_plain = not (self._recording or self._join or self._grouper or self._slo)
    and self._max_record_cost == math.huge
end

-- Functions and the like, in fields of their own for the hot paths; `false` where there is none, since a field
-- that is nil is asked of the metatable each time.
local function apply(self, config, values, estimator_name)
  self._config, self._values = config, values
  self._fn = values.inference_fn or values.process_fn
  local estimator = values.cost_estimator
  self._cost_source = { estimator = estimator, name = estimator_name, default = values.default_cost,
    knows_tokens = self._class == "TokenBatcher" }
  self._observe = type(estimator) == "table" and estimator.observe or false
  self._join = values.join or false
  self._slo = values.resolved_slo or false
  if not self._slo then self._slos = {} end -- seconds by slot
  self._grouper = grouping.grouper(self._fn) or false
  self._call_timeout_s = tonumber(config.inference_timeout_us) / 1e6
  self._suspect_us = (values.suspect_s or 0) * 1e6
  self._may_wait = config.on_full == C.TB_FULL_WAIT
  self._log = values.log
  note_plain(self)
end

local function estimator_name(self, given)
  if given.token_estimator ~= nil and self._class == "TokenBatcher" then return "token_estimator" end
  if given.cost_estimator ~= nil then return "cost_estimator" end
  return self._cost_source and self._cost_source.name
end

-- What is wrong between options that the core does not see, or nil.
local function conflict(class, values)
  local fn = values.inference_fn or values.process_fn
  local most, size = type(fn) == "table" and fn.max_records, values.max_batch_size
  if type(most) ~= "number" or size <= most then return nil end
  return ("%s: option 'max_batch_size' is %d, and %s takes %s: set max_batch_size = %d, and as many "
    .. "max_concurrent_batches as calls may run at once"):format(class, size, errors.text(fn.name or "inference_fn"),
    most == 1 and "one record a call" or ("at most %d records a call"):format(most), most)
end

-- What a decision may know of the batcher: see decision.lua.
local function port_of(self)
  local keys, groups, records, counts = self._keys, self._groups, self._records, self._policy
  return {
    record = function(slot) return records[slot] end,
    slo = function(slot) return self._slos[slot] end,
    key_name = function(number)
      self._has_asked_keys = true
      return keys:name(number)
    end,
    key_number = function(name) return keys:id(name) end,
    is_suspect = function(number) return self._suspects:has(keys:name(number)) end,
    group_name = function(number) return groups:name(number) end,
    group_number = function(name) return groups:id(name) end,
    count = function(what) counts[what] = counts[what] + 1 end,
    warn = function(text) self:_warn(text) end,
  }
end

local function new(class, given)
  local config, values = options.defaults()
  given = options.with_defaults(given)
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
    _records = {}, _futures = {}, _runs = {}, _adrift = {}, _later = {}, _is_pulling = false,
    _drained = false, unsettled = 0,
    _keys = Keys.new(), _groups = Keys.new(), _joining = joining.new(handle), _joined = 0,
    _policy = { errors = 0, overruled = 0, disabled = 0 }, _recording = false, _watcher = false, _is_timed = false,
    _tracer = false, _is_traced = false, _is_keyed = false, _is_grouped = false, _slos = {},
    _may_have_unwanted = false, _is_plain = false,
    _gate = false, _max_record_cost = math.huge,
    submit = submission.submit, ask = submission.ask, settle = turn.settle, -- found without a call of __index
  }, meta)
  self._port = port_of(self)
  self._suspects = suspects.new(handle, self._keys)
  apply(self, config, values, estimator_name(self, given))
  return self
end

--- A batcher. Raises on an option that it does not know, or a value out of range.
-- @param given table  see the table of options in lua/tokenbatcher/README.md
function M.TokenBatcher(given) return new("TokenBatcher", given) end

--- The same without the token names.
function M.DynamicBatcher(given) return new("DynamicBatcher", given) end

function M.is_batcher(value)
  return getmetatable(value) == meta
end

--- What an option is at present, by its name in the table; nil: none.
function Batcher:option(name)
  return self._values[name]
end

--- What a record costs that is submitted without a cost. Raises bad_cost.
function Batcher:estimate(record)
  return cost.estimate(self._cost_source, record)
end

--- How many records wait in line for room.
function Batcher:waiting()
  return C.tb_waiting(self._handle)
end

--- How many more batches could run now.
function Batcher:idle_slots()
  local n = self._values.max_concurrent_batches
  for _ in pairs(self._runs) do n = n - 1 end
  return math.max(0, n)
end

--- From now on fn(futures, n) is called in each batch's coroutine before its inference call, and may suspend and
-- cancel; nil: nobody is. Its time is the call's: inference_timeout_s counts from before it.
function Batcher:gate(fn)
  self._gate = fn or false
end

--- Has a policy asked for keys, and no record had one?
function Batcher:lacks_keys()
  return self._has_asked_keys and not self._is_keyed
end

--- Has a policy failed so often that it was disabled?
function Batcher:was_policy_disabled()
  return self._policy.disabled > 0
end

--- Warn; a log function that raises is ignored.
function Batcher:_warn(text)
  if self._is_pulling then return turn.later(self, self._warn, text) end
  if self._log then
    host.call(self._log, "warn", text)
  elseif not host.log("warn", tostring(self) .. ": " .. text) then
    io.stderr:write(tostring(self), ": ", text, "\n")
  end
end

-- Make the policy of `values` for this batcher: its state is its own.
local function new_decision(self, values)
  if values.resolved_policy.in_core then return false end
  local decision = Decision.new(self._handle, self._port, values.resolved_policy, self._decision)
  values.resolved_policy = decision.resolved
  return decision
end

-- From now on this decides; views that only the former one used are forgotten.
local function adopt_decision(self, decision)
  self._decision = decision
  self._max_record_cost = decision and decision.resolved.module and decision.policy.max_record_cost or math.huge
  C.tb_views_close(self._handle)
  note_plain(self)
end

-- The recording that `values` ask for: the one in use, a new one, or false. A file that cannot
-- be written raises.
local function new_recording(self, values)
  local now, current = clock.now_us(), self._recording
  if not values.record then return false end
  if current and current.name == values.record then
    local ok, message = current:resume(now)
    if not ok then errors.misuse(tostring(self) .. ": option 'record': " .. message) end
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
  note_plain(self)
end

-- Bounds of the queue that keep every batch from being full are hardly meant: said once for each.
local function warn_of_bounds(self)
  local bounds = C.tb_config_never_full(self._config)
  if bounds == self._warned_bounds then return end
  self._warned_bounds = bounds
  local config, parts = self._config, {}
  if bit.band(bounds, C.TB_BOUND_SIZE) ~= 0 then
    parts[1] = ("max_queue_size = %d is below max_batch_size = %d"):format(config.max_queue_size, config.max_batch_size)
  end
  if bit.band(bounds, C.TB_BOUND_COST) ~= 0 then
    parts[#parts + 1] = ("max_queue_cost = %.0f is below target_batch_cost = %.0f"):format(config.max_queue_cost,
      config.target_batch_cost)
  end
  if parts[1] then
    self:_warn(table.concat(parts, ", and ") .. ": no batch can ever be full; what the queue holds goes instead")
  end
end

-- --- life ---------------------------------------------------------------

--- Begin to accept records. Within run() only (or a coroutine driven by step()).
-- @return the batcher
function Batcher:start()
  require_batcher(self, "start")
  turn.forbid_in_estimator(self, "start")
  if not is_stopped(self) then errors.misuse(tostring(self) .. " is already running") end
  local is_driven, reason = loop.can_start()
  if not is_driven then errors.misuse(tostring(self) .. ": start " .. reason) end
  if self._decision == nil then adopt_decision(self, new_decision(self, self._values)) end
  adopt_recording(self, new_recording(self, self._values))
  C.tb_start(self._handle, clock.now_us())
  warn_of_bounds(self)
  self._drained = Future.new(false, false)
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
  require_batcher(self, "stop")
  local timeout_us = stop_timeout_us(opts)
  turn.forbid_in_estimator(self, "stop")
  if is_stopped(self) then return end
  if tasks.owner() == self then
    errors.misuse(tostring(self) .. ": stop called from its own inference function would wait for itself")
  end
  local can, reason = tasks.can_suspend()
  if not can and self.unsettled > 0 then errors.misuse("stop cannot wait here: " .. reason) end
  local drained = self._drained
  C.tb_stop(self._handle, timeout_us, clock.now_us())
  clock.notify()
  if can then drained:await() else self:turn(clock.now_us()) end
end

--- Everything queued now is due at once.
function Batcher:flush()
  require_batcher(self, "flush")
  turn.forbid_in_estimator(self, "flush")
  if is_stopped(self) then return end
  C.tb_flush(self._handle, clock.now_us())
  clock.notify()
end

--- Change any options while running, all or none. For an option whose default is none,
-- `false` means none again. Running batches keep theirs.
function Batcher:set(given)
  require_batcher(self, "set")
  turn.forbid_in_estimator(self, "set")
  local config = tbffi.copy("tb_config", self._config)
  local values = {}
  for name, value in pairs(self._values) do values[name] = value end
  local _, message = options.merge(self._class, given, config, values)
  if not message and given.process_fn and given.inference_fn == nil then values.inference_fn = given.process_fn end
  message = message or conflict(self._class, values)
  if message then errors.misuse(message) end
  local decision = given.policy ~= nil and new_decision(self, values)
  local recording = self._recording
  if not is_stopped(self) then recording = new_recording(self, values) end
  if C.tb_set(self._handle, config, self:_now()) ~= 0 then errors.misuse(tostring(self) .. ": out of memory") end
  local former = self._fn
  apply(self, config, values, estimator_name(self, given))
  if self._fn ~= former then turn.tell_rest(self, former) end
  adopt_recording(self, recording)
  if given.policy ~= nil then adopt_decision(self, decision) end
  if not is_stopped(self) then warn_of_bounds(self) end
  if self._watcher then self._watcher:changed(given) end
  clock.notify()
end

Batcher.submit, Batcher.try_submit = submission.submit, submission.try_submit
Batcher.submit_batch, Batcher.ask = submission.submit_batch, submission.ask
Batcher.settle, Batcher.cancel_record, Batcher.cancel_queued = turn.settle, turn.cancel_record, turn.cancel_queued
Batcher.turn, Batcher.abandon, Batcher.forget_calls = turn.turn, turn.abandon, turn.forget_calls
Batcher.trace = tracing.trace
Batcher.watch, Batcher.running, Batcher.state = watching.watch, watching.running, watching.state
Batcher.distribution, Batcher.fill_stats = watching.distribution, watching.fill_stats

--- Does a call run that has a timeout? (It may be that one did when one of those that run began: a running
-- batch keeps its timeout, whatever set() says.)
function Batcher:has_timed_calls()
  if self._is_timed and next(self._runs) == nil then self._is_timed = false end
  return self._is_timed
end

--- Nobody could look for `us` microseconds: that does not count against running calls.
function Batcher:excuse(us)
  C.tb_calls_excuse(self._handle, us)
end

--- When turn() is needed next, microseconds, or nil.
function Batcher:next_us()
  local at = tonumber(C.tb_next(self._handle))
  if at < 0 then at = nil end
  if self.unsettled == 0 then return at end
  local also = self._suspects:next_us(self._suspect_us)
  if also and not (at and at <= also) then at = also end
  if self._watcher then also = self._watcher.next_us end
  if also and not (at and at <= also) then at = also end
  also = self._joining:next_us()
  return also and not (at and at <= also) and also or at
end

return M
