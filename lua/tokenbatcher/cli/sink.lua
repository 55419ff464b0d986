--- Where answers go: a plain file, which takes all at once; or a pipe, a socket, a terminal, to which as much is
-- written as it takes. The rest waits here, and is written when the loop finds that it takes bytes again.
--
-- A file ends with a whole line, whatever happens: what a full disk has torn is cut.

local clock = require "tokenbatcher.runtime.clock"
local output = require "tokenbatcher.cli.output_ffi"

local M = {}
local Sink = {}
Sink.__index = Sink

local MOST_WAITING = 1048576 -- bytes: above it, nothing more should be put

--- @param fd number  open for writing; of a job's file, at its end
-- @param lines number|nil  of a plain file: how many lines are in it already
-- @param on_room function|nil  called when waiting bytes were written, or cannot be
function M.new(fd, lines, on_room)
  local self = setmetatable({
    to = output.way_to(fd), parts = {}, first = 1, last = 0, waiting = 0, done = 0, lines = lines or 0,
    on_room = on_room, is_watched = false, problem = nil,
  }, Sink)
  self.is_plain = self.to.way == "file" and output.is_plain(fd)
  if self.is_plain and lines then self.size = output.size(fd) end
  return self
end

local function count_lines(text, size)
  local n, at = 0, 0
  repeat
    at = text:find("\n", at + 1, true)
    if at and at <= size then n = n + 1 end
  until not at or at > size
  return n
end

-- The last newline among the first `size` bytes, or 0.
local function end_of_lines(text, size)
  while size > 0 and text:byte(size) ~= 10 do size = size - 1 end
  return size
end

-- A file did not take all of a text. Only a job's own is cut: another's may have other writers.
local function torn(self, text, done, message)
  local whole = end_of_lines(text, done)
  self.lines = self.lines + count_lines(text, whole)
  if self.size then
    self.size = self.size + whole
    output.truncate(self.to.fd, self.size)
  end
  self.problem = message
  return nil, message
end

local function put_into_file(self, text, count)
  local done = 0
  while done < #text do
    local n, message = output.write_some(self.to, text, done)
    if not n then return torn(self, text, done, message) end
    done = done + n
  end
  self.lines = self.lines + count
  if self.size then self.size = self.size + #text end
  return true
end

local watch

-- Write what waits, as far as it goes. @return true, or nil and a message
local function write_waiting(self)
  while self.first <= self.last do
    local text = self.parts[self.first]
    local n, message = output.write_some(self.to, text, self.done)
    if not n then
      self.problem = message
      return nil, message
    end
    if n == 0 then return watch(self) end
    self.waiting, self.done = self.waiting - n, self.done + n
    if self.done == #text then
      self.parts[self.first] = nil
      self.first, self.done = self.first + 1, 0
    end
  end
  return true
end

function watch(self)
  if self.is_watched then return true end
  self.is_watched = true
  local ok, message = clock.pump.watch_write(self.to.fd, function()
    self.is_watched = false
    write_waiting(self)
    if self.on_room then self.on_room() end
  end)
  if not ok then self.problem = message end
  return ok, message
end

--- Write a text that ends a line, or keep what of it is not taken now. @param count number  of its lines
-- @return true, or nil and a message
function Sink:put(text, count)
  if self.problem then return nil, self.problem end
  if self.to.way == "file" then return put_into_file(self, text, count) end
  self.last = self.last + 1
  self.parts[self.last] = text
  self.waiting = self.waiting + #text
  self.lines = self.lines + count
  if self.is_watched then return true end
  return write_waiting(self)
end

--- Does so much wait that nothing more should be put?
function Sink:is_full() return self.waiting > MOST_WAITING and not self.problem end

--- Does anything wait?
function Sink:is_waiting() return self.waiting > 0 and not self.problem end

return M
