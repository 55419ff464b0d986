--- A place where one task waits until something happens, or for some time: a bell. Rung while nobody waits, it
-- is heard by who comes next.

local clock = require "tokenbatcher.runtime.clock"
local tasks = require "tokenbatcher.runtime.tasks"

local M = {}
local Bell = {}
Bell.__index = Bell

function M.bell()
  return setmetatable({ task = nil, is_rung = false }, Bell)
end

--- Whoever waits goes on. From anywhere.
function Bell:ring()
  self.is_rung = true
  if self.task then tasks.wake(self.task) end
end

--- Suspend until it rings, or for at most so many seconds (nil: however long).
function Bell:wait(most_s)
  if not self.is_rung then
    local task = tasks.waiter()
    local timer = most_s and tasks.await_timer(task, clock.now_us() + most_s * 1e6)
    self.task = task
    tasks.suspend(task, "redis")
    self.task = nil
    if timer then tasks.cancel_timer(timer) end
  end
  self.is_rung = false
end

return M
