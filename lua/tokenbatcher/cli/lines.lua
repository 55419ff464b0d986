--- Lines of a file descriptor, read on the loop: waiting for input suspends only the
-- reading coroutine. Lines of any length; no more than one chunk is read ahead. What begins
-- as a gzip file is decompressed.

local clock = require "tokenbatcher.runtime.clock"
local gzip = require "tokenbatcher.base.gzip_ffi"
local tasks = require "tokenbatcher.runtime.tasks"
local tbffi = require "tokenbatcher.core.ffi"

local M = {}
local Lines = {}
Lines.__index = Lines

local BYTE_ORDER_MARK = "\239\187\191"

--- @param fd number
function M.new(fd)
  return setmetatable({ fd = fd, chunk = "", at = 1, ended = false, number = 0, waiting = nil, is_begun = false,
    inflater = nil }, Lines)
end

--- Read no more: next() still returns the lines that were read whole, then nil.
function Lines:interrupt()
  self.ended = true
  if self.waiting then tasks.wake(self.waiting) end
end

-- The next chunk, "" at the end of the input or when interrupted; or nil and a message.
-- The descriptor may become readable long after an interruption: then nobody waits.
local function fill(self)
  if not clock.pump or not clock.pump.watch then return tbffi.read(self.fd) end -- nobody else is kept waiting
  self.waiting = tasks.waiter()
  local ok, message = clock.pump.watch(self.fd, function()
    if self.waiting then tasks.wake(self.waiting) end
  end)
  if not ok then return nil, message end
  tasks.suspend(self.waiting, "read")
  self.waiting = nil
  if self.ended then return "" end
  return tbffi.read(self.fd)
end

-- As fill(), of what was compressed.
local function chunk_of_gzip(self)
  while true do
    local chunk, message = self.inflater:read()
    if not chunk then return nil, ("%s (after line %d)"):format(message, self.number) end
    if chunk ~= "" then return chunk end
    chunk, message = fill(self)
    if not chunk then return nil, message end
    if chunk == "" then
      if self.ended or self.inflater:is_whole() then return "" end
      return nil, ("the gzip data ends too early (after line %d)"):format(self.number)
    end
    self.inflater:feed(chunk)
  end
end

-- The first chunk tells what it is.
local function begin(self)
  local chunk, message = fill(self)
  while chunk and gzip.begins(chunk) == nil and not self.ended do
    local more
    more, message = fill(self)
    if not more then return nil, message end
    if more == "" then break end
    chunk = chunk .. more
  end
  self.is_begun = true
  if not chunk or self.ended or not gzip.begins(chunk) then return chunk, message end
  self.inflater, message = gzip.new()
  if not self.inflater then return nil, message end
  self.inflater:feed(chunk)
  return chunk_of_gzip(self)
end

local function next_chunk(self)
  if not self.is_begun then return begin(self) end
  if self.inflater then return chunk_of_gzip(self) end
  return fill(self)
end

-- The line itself: without "\r" at its end, nor a byte order mark before the first.
local function line_of(self, parts)
  self.number = self.number + 1
  local line = #parts == 1 and parts[1] or table.concat(parts)
  if line:byte(-1) == 13 then line = line:sub(1, -2) end
  if self.number == 1 and line:sub(1, 3) == BYTE_ORDER_MARK then line = line:sub(4) end
  return line
end

--- @return string the next line; nil at the end, or nil and a message. `number` is its number.
function Lines:next()
  local parts = {}
  while true do
    local stop = self.chunk:find("\n", self.at, true)
    if stop then
      parts[#parts + 1] = self.chunk:sub(self.at, stop - 1)
      self.at = stop + 1
      return line_of(self, parts)
    end
    if self.ended then return nil end -- interrupted: half a line is no line
    if self.at <= #self.chunk then parts[#parts + 1] = self.chunk:sub(self.at) end
    self.chunk, self.at = "", 1
    local chunk, message = next_chunk(self)
    if not chunk then return nil, message end
    if self.ended then return nil end
    if chunk == "" then
      self.ended = true
      if #parts == 0 then return nil end
      return line_of(self, parts) -- what is left after the last newline is a line, too
    end
    self.chunk = chunk
  end
end

return M
