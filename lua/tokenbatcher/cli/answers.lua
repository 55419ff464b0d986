--- Writes one line for each line of input: in input order, or as they come.
--
-- Entries are {index, record, result, err, settled, accepted}. In input order, a settled
-- entry waits for earlier ones; `held` counts those, so that the reader can stop while
-- they are too many.

local errors = require "tokenbatcher.base.errors"
local json = require "tokenbatcher.base.json"
local tasks = require "tokenbatcher.runtime.tasks"

local M = {}
local Answers = {}
Answers.__index = Answers

--- @param file file*  @param is_ordered boolean  @param script table  with encode, or nil
function M.new(file, is_ordered, script)
  return setmetatable({
    file = file, is_ordered = is_ordered, script = script,
    first = 1, last = 0, held = 0, written = 0, failed = 0, closing = false,
    failures = {}, first_failure = nil, -- error code -> count; {index, code, message}
  }, Answers)
end

--- The entry takes its place in the output.
function Answers:add(entry)
  if not self.is_ordered then return end
  self.last = self.last + 1
  self[self.last] = entry
end

--- The entry has its answer.
function Answers:settle(entry, result, err)
  entry.result, entry.err, entry.settled = result, err, true
  self.held = self.held + 1
  if not self.is_ordered then
    self.last = self.last + 1
    self[self.last] = entry
  end
  local head = self[self.first]
  if self.task and head and head.settled then tasks.wake(self.task) end
end

--- The reader suspends here while `limit` answers or more wait for an earlier one.
function Answers:wait_below(limit)
  while self.held >= limit do
    self.reader = tasks.waiter()
    tasks.suspend(self.reader, "output")
    self.reader = nil
  end
end

--- No more entries come; run() returns when all are written.
function Answers:close()
  self.closing = true
  if self.task then tasks.wake(self.task) end
end

-- --- an entry as a line -------------------------------------------------------

-- Each returns the line and, when the record counts as failed, the code and message.

local function failure_line(entry, code, message)
  return ('{"index":%d,"error":{"code":%s,"message":%s}}'):format(entry.index, json.quote(code),
    json.quote(message)), code, message
end

local function plain_line(entry)
  if entry.err then return failure_line(entry, entry.err.code, entry.err.message) end
  local text, message = json.encode(entry.result)
  if text then return ('{"index":%d,"result":%s}'):format(entry.index, text) end
  return failure_line(entry, "bad_output", "the result cannot be written: " .. message)
end

-- The script's own encode: a string is the line, whatever is in it (see json.one_line); any
-- other value is written as JSON.
local function scripted_line(entry, encode)
  local ok, line = tasks.guarded("encode function", encode, entry.record, entry.result, entry.err)
  if not ok then return failure_line(entry, "bad_output", "encode raised: " .. errors.message_of(line)) end
  if line == nil then return failure_line(entry, "bad_output", "encode returned nil") end
  if type(line) ~= "string" then
    local text, message = json.encode(line)
    if not text then
      return failure_line(entry, "bad_output", "what encode returned cannot be written: " .. message)
    end
    line = text
  end
  line = json.one_line(line)
  if entry.err then return line, entry.err.code, entry.err.message end
  return line
end

-- --- writing -------------------------------------------------------------------

local function count_failure(self, entry, code, message)
  self.failed = self.failed + 1
  self.failures[code] = (self.failures[code] or 0) + 1
  self.first_failure = self.first_failure or { index = entry.index, code = code, message = message }
end

local function require_written(ok, message)
  if not ok then error(errors.new("cannot_write", "cannot write the output: " .. tostring(message)), 0) end
end

local function write(self, entry)
  local encode = self.script.encode
  local line, code, message
  if encode and entry.accepted then
    line, code, message = scripted_line(entry, encode)
  else
    line, code, message = plain_line(entry)
  end
  require_written(self.file:write(line, "\n"))
  self.written = self.written + 1
  if code then count_failure(self, entry, code, message) end
end

local function write_settled(self)
  local before = self.written
  while self.first <= self.last and self[self.first].settled do
    local entry = self[self.first]
    self[self.first] = nil
    self.first = self.first + 1
    self.held = self.held - 1
    write(self, entry)
    if self.on_written then self.on_written(self) end
  end
  if self.written > before then require_written(self.file:flush()) end
end

--- The body of the writing coroutine: returns after close(), when all is written. Raises
-- when the output cannot be written.
function Answers:run()
  self.task = tasks.waiter()
  while true do
    write_settled(self)
    if self.reader then tasks.wake(self.reader) end
    if self.closing and self.first > self.last then return end
    tasks.suspend(self.task, "output")
  end
end

return M
