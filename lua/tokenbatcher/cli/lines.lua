--- Lines of a file descriptor, read on the loop: waiting for input suspends only the
-- reading coroutine. Lines of any length; no more than one chunk is read ahead.

local scheduler = require "tokenbatcher.scheduler"
local tbffi = require "tokenbatcher.ffi"

local M = {}
local Lines = {}
Lines.__index = Lines

--- @param fd number
function M.new(fd)
  return setmetatable({ fd = fd, chunk = "", at = 1, ended = false, number = 0 }, Lines)
end

--- End the wait for input, from another coroutine or a signal: next() returns nil.
function Lines:interrupt()
  self.ended = true
  if self.task then scheduler.wake(self.task) end
end

local function fill(self)
  local task = scheduler.task
  self.task = task
  local ok, message = scheduler.pump.watch(self.fd, function()
    self.readable = true
    scheduler.wake(task)
  end)
  if not ok then return nil, message end
  scheduler.suspend "read"
  self.task = nil
  if not self.readable then return nil end
  self.readable = false
  return tbffi.read(self.fd)
end

-- What is left after the last newline is a line, too.
local function last_line(self, parts)
  self.ended = true
  if #parts == 0 then return nil end
  self.number = self.number + 1
  return table.concat(parts)
end

--- @return string the next line without its newline; nil at the end, or nil and a message
function Lines:next()
  local parts = {}
  while not self.ended do
    local stop = self.chunk:find("\n", self.at, true)
    if stop then
      parts[#parts + 1] = self.chunk:sub(self.at, stop - 1)
      self.at, self.number = stop + 1, self.number + 1
      return #parts == 1 and parts[1] or table.concat(parts)
    end
    if self.at <= #self.chunk then parts[#parts + 1] = self.chunk:sub(self.at) end
    self.chunk, self.at = "", 1
    local chunk, message = fill(self)
    if message then return nil, message end
    if self.ended then return nil end -- interrupted: half a line is no line
    if chunk == "" then return last_line(self, parts) end
    self.chunk = chunk
  end
  return nil
end

return M
