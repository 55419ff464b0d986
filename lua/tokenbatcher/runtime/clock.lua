--- runtime: how code waits. Tasks (tasks.lua), their answers (future.lua), coroutines that
-- people start (spawn.lua) and the loop that drives them (loop.lua), on one clock, this file's.
-- It knows base and core, and no batcher: what takes part in its turns joins loop.lua.
--
-- A pump supplies the clock: now() in microseconds and wait(deadline). See pump/.

local M = {}

--- The longest time that people may name, seconds: more would leave what a clock of ours can hold.
M.LONGEST_S = 1e9

--- The pump in use; nil before the first run() or step().
M.pump = nil
--- A turn of the loop is under way: it will see what is new by itself.
M.is_turning = false
--- Something has changed since batchers began to decide in this turn: those that have, look again.
M.is_stale = false

local outside

--- The pump for a program that owns the loop, made on first use.
function M.outside()
  if not outside then outside = require("tokenbatcher.runtime.pump.libev").new() end
  if not M.pump then M.pump = outside end
  return outside
end

--- From now on this one counts. @param pump table|nil  nil: that of a program that owns the loop
function M.use(pump)
  M.pump = pump or outside
end

--- The clock, microseconds. Outside of run it is the real one.
function M.now_us()
  local pump = M.pump
  if not pump then
    M.outside()
    pump = M.pump
  end
  return pump.now()
end

--- Something has changed. Whoever owns the loop learns of work that came from outside a turn;
-- within one, another turn follows (a log function may change any batcher).
function M.notify()
  if M.is_turning then
    M.is_stale = true
  elseif M.pump and M.pump.wake then
    M.pump.wake()
  end
end

return M
