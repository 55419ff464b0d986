--- The real clock: CLOCK_MONOTONIC, and a libev loop to wait on.

local tbffi = require "tokenbatcher.core.ffi"
local C = tbffi.lib

local M = {}

local INBOX = 1024
local EVENTS = 16

local function add_attach(pump, ev)
  --- End waits while the descriptor is readable; its owner looks into it after each wait.
  -- @return true, or nil and a message
  function pump.attach(fd)
    local code = C.tb_ev_attach(ev, fd)
    if code ~= 0 then return nil, tbffi.text(C.tb_error_text(code)) end
    return true
  end

  function pump.detach(fd) C.tb_ev_detach(ev, fd) end
end

-- note(fd, fn, code): the driver has answered with this code.
local function add_watches(pump, ev, note)
  --- Call fn(fd) once, when fd is readable. @return true, or nil and a message
  -- @param is_wanted function|nil  may that still wake anyone who waits? (always)
  function pump.watch(fd, fn, is_wanted) return note(fd, fn, C.tb_ev_watch(ev, fd), is_wanted) end

  --- Call fn(fd) once, when fd takes bytes: not one that is watched for reading.
  function pump.watch_write(fd, fn) return note(fd, fn, C.tb_ev_watch_write(ev, fd)) end
end

local function real_now() return tonumber(C.tb_ev_now()) end

-- wait, arm, wake and the like: what the driver does in one call each.
local function add_waiting(pump, ev, dispatch)
  local is_poking = false

  function pump.now() return C.tb_ev_clock(ev) end

  -- Fractions of a microsecond are rounded up: never early.
  function pump.wait(deadline)
    is_poking = false
    C.tb_ev_wait(ev, deadline and math.ceil(deadline) or tbffi.NEVER)
    dispatch()
  end

  function pump.wake()
    if is_poking then return end
    is_poking = true
    C.tb_ev_wake(ev)
  end

  function pump.arm(deadline)
    C.tb_ev_arm(ev, deadline and math.ceil(deadline) or tbffi.NEVER)
  end

  function pump.fd() return C.tb_ev_fd(ev) end

  --- Gives the descriptors back; nothing may be called any more.
  function pump.close()
    pump.ev, pump.now = nil, real_now
    tbffi.close_driver(ev)
  end
end

--- @return table  now() microseconds; ev, the driver, for calls into C that read the clock there; wait(deadline);
-- wake(); arm(deadline); fd();
-- external() whether something but time may still happen; watch(fd, fn), watch_write(fd, fn); signal(n, fn);
-- attach(fd), detach(fd); close()
function M.new()
  local ev = tbffi.driver(INBOX)
  local events = tbffi.new("tb_ev_event[?]", EVENTS)
  local ready, wanted, on_signal = {}, {}, {} -- fd -> fn, fd -> fn or nil, signal number -> fn
  local watching = 0

  local function dispatch()
    if watching == 0 and not next(on_signal) then return end
    repeat
      local n = C.tb_ev_poll(ev, events, EVENTS)
      for i = 0, n - 1 do
        local kind, value = events[i].kind, events[i].value
        if kind == C.TB_EV_SIGNAL then
          on_signal[value](value)
        else
          local fn = ready[value]
          ready[value], watching = nil, watching - 1
          fn(value)
        end
      end
    until n < EVENTS
  end

  local function note_watch(fd, fn, code, is_wanted)
    if code ~= 0 then return nil, tbffi.text(C.tb_error_text(code)) end
    ready[fd], wanted[fd], watching = fn, is_wanted, watching + 1
    return true
  end

  local pump = { ev = ev }
  add_attach(pump, ev)
  add_waiting(pump, ev, dispatch)
  add_watches(pump, ev, note_watch)

  function pump.external()
    for fd in pairs(ready) do
      if not wanted[fd] or wanted[fd]() then return true end
    end
    return false
  end

  --- Call fn(signum) at each such signal from now on.
  function pump.signal(signum, fn)
    local known = on_signal[signum]
    on_signal[signum] = fn
    return known or C.tb_ev_signal(ev, signum) == 0
  end

  return pump
end

return M
