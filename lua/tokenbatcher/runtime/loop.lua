--- The loop: turns, until nothing is left. In a turn those that are due are woken and run, then
-- every batcher decides once. So all that is submitted in one turn is seen by one decision, and
-- no decision runs a user's code.
--
-- Two kinds take part in its turns. A source wakes tasks from outside, such as the HTTP
-- client; see add_source(). A member is a batcher, from attach to detach: turn(now_us), next_us(),
-- unsettled (how many records have no answer yet), flush(), abandon(now_us), excuse(us): nobody
-- could look for so long, has_timed_calls().

local clock = require "tokenbatcher.runtime.clock"
local errors = require "tokenbatcher.base.errors"
local host = require "tokenbatcher.runtime.host"
local spawn = require "tokenbatcher.runtime.spawn"
local tasks = require "tokenbatcher.runtime.tasks"

local NO_SOURCES = {}

local M = {}

local members = {}
local is_running = false -- within run()
local is_driven_on = false -- coroutines or batchers that step() drives are not done

--- A source belongs to the clock in use and takes part in its turns, before anything else:
-- turn(now_us) wakes tasks; next_us() is when it must be called, microseconds, or nil;
-- is_busy() whether it may still wake anyone; excuse(us) as of a member; close() at the end of the run. With
-- `is_onlooker` it wakes nobody, ever: it keeps no run going, and no deadlock from being seen.
function M.add_source(source)
  local pump = clock.pump
  pump.sources = pump.sources or {}
  pump.sources[#pump.sources + 1] = source
end

--- It takes part no longer, and is not closed. Not within its own turn.
function M.remove_source(source)
  local sources = clock.pump and clock.pump.sources or {}
  for i = #sources, 1, -1 do
    if sources[i] == source then table.remove(sources, i) end
  end
end

function M.attach(member)
  members[#members + 1] = member
end

function M.detach(member)
  for i = 1, #members do
    if members[i] == member then
      table.remove(members, i)
      return
    end
  end
end

--- Records of all members that have no answer yet.
function M.unsettled()
  local n = 0
  for i = 1, #members do n = n + members[i].unsettled end
  return n
end

--- Batchers stop, what they still hold fails.
function M.abandon()
  local now = clock.pump.now()
  for i = #members, 1, -1 do members[i]:abandon(now) end
end

-- Less is no blocking, but a turn's work and the delays of any machine.
local BLOCKED_US = 50000

local armed_us -- when step() asked to be called again

-- Nobody could look for so long: that does not count against calls, nor against their requests (R5).
local function excuse(us)
  if us < BLOCKED_US then return end
  for i = 1, #members do members[i]:excuse(us) end
  local sources = clock.pump.sources or NO_SOURCES
  for i = 1, #sources do sources[i]:excuse(us) end
end

-- --- a turn ---------------------------------------------------------------------

-- The parts of a turn; host.turn puts them into order.
local steps = {
  timers = tasks.fire_sleepers, awaits = tasks.fire_awaits, again = tasks.again,
  first_timer = tasks.first_sleeper_us,
}

--- What ran in this turn has taken so long.
function steps.away(us) excuse(us) end

function steps.wake(task) tasks.wake(task, false) end

--- @return number  the clock, read anew if there were any
function steps.sources(now)
  local sources = clock.pump.sources
  if not sources then return now end
  for i = 1, #sources do sources[i]:turn(now) end
  return clock.pump.now()
end

function steps.flush()
  for i = 1, #members do members[i]:flush() end
end

function steps.decide(now)
  clock.is_stale = false
  local i = 1
  while members[i] do
    local member = members[i]
    member:turn(now)
    if members[i] == member then i = i + 1 end -- one that has drained detaches itself
  end
end

--- A turn begins. A wait has just ended, at `now`, that began at `began` and should have ended at `due`
-- (nil: no time).
function steps.waited(now, began, due)
  if due then excuse(now - math.max(due, began)) end
end

-- May something but time still wake a task?
local function can_be_woken()
  if clock.pump.external() then return true end
  local sources = clock.pump.sources or NO_SOURCES
  for i = 1, #sources do
    if sources[i]:is_busy() then return true end
  end
  return false
end

-- The earliest time at which something is to be done, by onlookers too or not.
local function earliest_us(has_onlookers)
  if clock.is_stale or host.has_ready() then return clock.pump.now() end
  local at = tasks.next_us()
  for i = 1, #members do
    local due = members[i]:next_us()
    if due and (not at or due < at) then at = due end
  end
  local sources = clock.pump.sources or NO_SOURCES
  for i = 1, #sources do
    local source = sources[i]
    local due = (has_onlookers or not source.is_onlooker) and source:next_us()
    if due and (not at or due < at) then at = due end
  end
  return at
end

--- The earliest time at which something is to be done, microseconds, or nil.
function M.next_us() return earliest_us(true) end

-- Does anything run that has a timeout which excuse() moves?
local function is_timed()
  for i = 1, #members do
    if members[i]:has_timed_calls() then return true end
  end
  local sources = clock.pump.sources or NO_SOURCES
  for i = 1, #sources do
    if sources[i]:is_busy() then return true end
  end
  return false
end

-- Until when to wait. While a call or a request runs that has a timeout, a wait is short: should the
-- process be stopped in it, it is seen when, to so much, and the rest does not count (R5).
local WAIT_US = 250000

local function wait_until()
  local at = M.next_us()
  if clock.pump.is_virtual or not is_timed() then return at end
  local soon = clock.pump.now() + WAIT_US
  return at and at < soon and at or soon
end

--- Is there anything that a turn may still have to do?
function M.is_busy()
  return M.unsettled() > 0 or tasks.timed() > 0 or host.has_resting() or M.next_us() ~= nil
end

--- Is a batcher allowed to start here? nil and where it is, if not.
function M.can_start()
  return host.can_start(is_running or clock.is_turning)
end

-- --- run ------------------------------------------------------------------------

--- Raise what a coroutine raised, with the traceback of there.
local function reraise(value, traceback)
  if type(value) == "string" then error(traceback or value, 0) end
  if errors.is_err(value) then
    value.traceback = value.traceback or traceback
    error(value, 0)
  end
  error(errors.new("coroutine_failed", errors.text(value), value, traceback), 0)
end

local function raise_unawaited()
  local failure = spawn.unawaited_failure()
  if failure then reraise(failure.cause, failure.traceback) end
end

local function raise_deadlock()
  error(errors.new("deadlock", ("coroutines wait and nothing can wake them (%s; %d records unsettled)")
    :format(host.describe_waiting(), M.unsettled())), 0)
end

local function has_onlookers()
  local sources = clock.pump.sources or NO_SOURCES
  for i = 1, #sources do
    if sources[i].is_onlooker then return true end
  end
  return false
end

-- Is there something to wait for? @param deadline number|nil  see wait_until()
local function can_go_on(deadline)
  if deadline and (not has_onlookers() or earliest_us(false)) then return true end
  return can_be_woken()
end

local function run_loop(main)
  while true do
    if spawn.too_many_failures() then return end
    if main.failed then reraise(main.failed.value, main.failed.traceback) end
    if spawn.live() == 0 and not host.has_ready() and M.unsettled() == 0 then return end
    local deadline = wait_until()
    if not can_go_on(deadline) then raise_deadlock() end
    host.turn(steps, deadline)
  end
end

--- Leave nothing behind: batchers and what they hold; coroutines are dropped.
local function clean_up()
  clock.is_turning = true -- settling must not wake a host
  M.abandon()
  spawn.clear()
  tasks.clear() -- last: settling has woken some
  for _, source in ipairs(clock.pump.sources or NO_SOURCES) do source:close() end
  clock.pump.close()
  clock.use(nil)
  is_running, is_driven_on, clock.is_turning = false, false, false
end

local function pack(...) return { n = select("#", ...), ... } end

--- Run fn as a coroutine until it and all it spawned are done and every record has
-- settled. @param pump table  @return what fn returns
function M.run(fn, pump)
  host.refuse "run"
  if is_running then errors.misuse("run cannot be nested: it is running already") end
  if clock.is_turning then errors.misuse("run cannot be called from within step") end
  if is_driven_on then
    errors.misuse("run cannot begin while coroutines or batchers that step drives are not done: end or stop them first")
  end
  is_running = true
  clock.use(pump)
  spawn.unawaited_failure()
  local results
  local main = spawn.start(function() results = pack(fn()) end, nil, function(task, ok, value)
    if not ok then task.failed = { value = value, traceback = task.traceback } end
  end)
  local ok, err = pcall(run_loop, main)
  clean_up()
  if not ok then error(err, 0) end
  raise_unawaited()
  return unpack(results or {}, 1, results and results.n or 0)
end

-- --- step -----------------------------------------------------------------------

--- The pump of a program that owns the loop, made on first use.
function M.outside()
  host.refuse "fd, next_deadline and step"
  return clock.outside()
end

--- One turn that never blocks, or up to `most` as long as coroutines are ready. Raises what
-- a spawned coroutine raised and nobody awaited, once all are done or very many have failed.
-- @param most number|nil
function M.step(most)
  if is_running or clock.is_turning then errors.misuse("step cannot be called from within run or step") end
  local pump, left = M.outside(), most or 1
  if armed_us then excuse(pump.now() - armed_us) end
  repeat
    host.turn(steps, 0)
    left = left - 1
  until left < 1 or not host.has_ready()
  armed_us = wait_until()
  pump.arm(armed_us)
  is_driven_on = spawn.live() > 0 or #members > 0 or tasks.timed() > 0
  if spawn.live() > 0 and not spawn.too_many_failures() then return end
  raise_unawaited()
end

host.drive {
  turn = function(is_leaving, late_us) host.turn(steps, late_us, is_leaving) end,
  is_busy = M.is_busy, next_us = wait_until, abandon = M.abandon,
}

return M
