--- The clock and the bell of an nginx worker (OpenResty): its event loop is the one that waits.
--
-- Who wakes the pump (a submit, a batch that ended) rings its bell; it answers when all events of
-- this turn of nginx's loop have been handled, so that one decision sees all that was submitted
-- in it (F7).
--
-- THE PUMP is a timer: a loop of turns that lives while there is something to do, and only then.
-- Nothing is started at `require`, an idle worker has no timer of ours, and with lua_code_cache
-- off, where each request has a Lua state of its own, that state can go.
--
-- THE SPECIAL PROBLEM OF NGX.EXIT. A policy can end the pump itself with it. Its turns are never
-- far apart, so whoever waits and finds the last one too long ago starts another; if the old one
-- lives after all, it sees that it has been replaced.
--
-- THE SPECIAL PROBLEM OF LEAVING. An exiting worker tells pending timers only. While the pump
-- lives, one is pending for that (`sentinel`). From then on all that is queued is due at once,
-- records still come in (a handler may be reading its body), and when the exit timeout has
-- passed the batchers stop: what is left fails as `stopped`, and who still sleeps is woken by
-- an error, or the worker would never end.

local errors = require "tokenbatcher.base.errors"
local worker = require "tokenbatcher.runtime.host.nginx_worker"

local semaphore = require "ngx.semaphore"

local timer_at, is_exiting = worker.timer_at, worker.is_exiting
local real_now, WATCH_S = worker.now, worker.WATCH_S
local WATCH_US = WATCH_S * 1e6

local EXIT_TIMEOUT_S = 30
local SENTINEL_S = 10
-- A turn that is longer ago than this will not come: a pump idles for WATCH_S at most.
local LOST_US = 1.5 * WATCH_US

-- A table, so that a test may put another clock into it.
local pump = { now = real_now }

local port -- of the loop: turn(is_leaving), is_busy(), next_us(), abandon()
local exit_timeout_s = EXIT_TIMEOUT_S
local leave_by -- when an exiting worker gives up, microseconds

local rest -- called when the pump ends
local bell -- of the loop that is in charge
local is_alive, is_asleep, is_rung = false, false, false
local turned_at, suspected_at = 0, nil
local has_sentinel = false

local function keep_sentinel()
  if has_sentinel or leave_by then return end
  has_sentinel = timer_at(SENTINEL_S, function()
    has_sentinel = false
    if is_alive then pump.wake() end
  end)
end

--- Wait until `at` (microseconds; nil: no time) or until the bell is rung.
function pump.idle(at)
  local ms = at and math.ceil((at - real_now()) / 1000) or WATCH_S * 1000
  local own_bell = bell
  is_asleep = true
  own_bell:wait((math.min(math.max(ms, 1), WATCH_S * 1000) + 0.1) / 1000)
  if bell == own_bell then is_asleep = false end
end

local step

local is_letting = false

local function go_on()
  if is_letting then step:post(1) end
end

--- Return when those that were woken have had their go: a turn of nginx's loop later.
-- (Without a patch that Debian's nginx has not, ngx.sleep(0) does the same and complains.)
function pump.let_run()
  step = step or semaphore.new(0)
  is_letting = true
  timer_at(0, go_on)
  step:wait(0.001)
  is_letting = false
end

-- The worker exits: false when its time is up.
local function leave()
  if not leave_by then
    leave_by = real_now() + exit_timeout_s * 1e6
    rest()
  end
  if real_now() < leave_by then return true end
  local ok, err = pcall(port.abandon)
  if not ok then worker.log("error", errors.text(err)) end
  return false
end

local function next_time()
  local at = port.next_us()
  if leave_by and not (at and at < leave_by) then return leave_by end
  return at
end

local late_us = 0 -- how much too late the last wait ended

local function turn()
  is_rung = false
  local ok, err = pcall(port.turn, leave_by ~= nil, late_us)
  late_us = 0
  if ok then return end
  worker.log("error", "a turn raised: " .. errors.text(err))
  bell:wait(0.1) -- not a thousand lines a second
end

local function loop()
  local own_bell = semaphore.new(0)
  bell, turned_at = own_bell, real_now()
  while true do
    if is_exiting() and not leave() then break end
    turn()
    if bell ~= own_bell then return end
    turned_at = real_now()
    if not is_rung then
      if not port.is_busy() and not worker.has_unstarted() then break end
      keep_sentinel()
      worker.watch()
      local at = next_time()
      pump.idle(at)
      late_us = at and math.max(0, pump.now() - at) or 0
      if bell ~= own_bell then return end
      turned_at = real_now()
    end
  end
  is_alive = false
  rest()
end

local pump_job = { job = loop }

-- Seen twice: after something that has blocked the worker, the pump may only be late.
local function replace_lost_pump(now)
  if not is_alive or worker.is_unstarted(pump_job) or now - turned_at < LOST_US then return end
  if suspected_at ~= turned_at then
    suspected_at = turned_at
    return
  end
  worker.log("error", "the pump's light thread is gone (has a policy called ngx.exit?): another one takes over")
  bell, is_asleep, turned_at = nil, false, now
  worker.begin_soon(pump_job)
end

worker.also_watch(replace_lost_pump)

--- Something happened that a turn must see. Cheap when it was called already.
function pump.wake()
  is_rung = true
  if is_asleep then
    is_asleep = false
    bell:post(1)
  elseif not is_alive then
    is_alive = true
    worker.begin_soon(pump_job)
  end
end

function pump.close() end

--- Has an exiting worker waited for long enough?
function pump.has_given_up()
  return leave_by ~= nil and real_now() >= leave_by + WATCH_US
end

--- Call fn() whenever there is nothing left to drive, and when the worker begins to exit.
function pump.at_rest(fn) rest = fn end

--- How long an exiting worker waits. @param s number  seconds
function pump.set_exit_timeout(s) exit_timeout_s = s end

--- @param given table  turn(is_leaving), is_busy(), next_us(), abandon(): what it drives
function pump.drive(given) port = given end

return pump
