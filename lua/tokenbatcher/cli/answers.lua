--- Writes one JSON line for each input line: in input order, or as they come.
--
-- Entries are {index, record, result, err, settled}. In input order, a settled entry
-- waits for earlier ones; `held` counts those, so that the reader can stop while they
-- are too many.

local errors = require "tokenbatcher.errors"
local json = require "tokenbatcher.cli.json"
local scheduler = require "tokenbatcher.scheduler"

local M = {}
local Answers = {}
Answers.__index = Answers

--- @param file file*  @param is_ordered boolean  @param script table  with encode, or nil
function M.new(file, is_ordered, script)
  return setmetatable({
    file = file, is_ordered = is_ordered, script = script,
    first = 1, last = 0, held = 0, written = 0, failed = 0, closing = false,
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
  if self.task and head and head.settled then scheduler.wake(self.task) end
end

--- The reader suspends here while more than `limit` answers wait for an earlier one.
function Answers:wait_below(limit)
  while self.held >= limit do
    self.reader = scheduler.task
    scheduler.suspend "output"
    self.reader = nil
  end
end

--- No more entries come; run() returns when all are written.
function Answers:close()
  self.closing = true
  if self.task then scheduler.wake(self.task) end
end

local function failure_line(entry, code, message)
  return ('{"index":%d,"error":{"code":%s,"message":%s}}'):format(entry.index, json.encode(code),
    json.encode(message) or '"(a message that is no text)"')
end

local function plain_line(entry)
  if entry.err then return failure_line(entry, entry.err.code, entry.err.message), true end
  local text, message = json.encode(entry.result)
  if text then return ('{"index":%d,"result":%s}'):format(entry.index, text), false end
  return failure_line(entry, "bad_output", "the result cannot be written: " .. message), true
end

-- The script's own encode: a string is the line; any other value is written as JSON.
local function scripted_line(entry, encode)
  local ok, line = pcall(encode, entry.record, entry.result, entry.err)
  if ok and type(line) == "string" then return line, entry.err ~= nil end
  local message = ok and "encode returned nil" or "encode raised: " .. errors.message_of(line)
  if ok and line ~= nil then
    line, message = json.encode(line)
    if line then return line, entry.err ~= nil end
    message = "what encode returned cannot be written: " .. message
  end
  return failure_line(entry, "bad_output", message), true
end

local function write(self, entry)
  local encode = self.script.encode
  local line, failed
  if encode and entry.accepted then
    scheduler.context = "encode function"
    line, failed = scripted_line(entry, encode)
    scheduler.context = nil
  else
    line, failed = plain_line(entry)
  end
  local ok, message = self.file:write(line, "\n")
  if not ok then error("cannot write the output: " .. tostring(message), 0) end
  self.written = self.written + 1
  if failed then self.failed = self.failed + 1 end
end

local function write_settled(self)
  while self.first <= self.last and self[self.first].settled do
    local entry = self[self.first]
    self[self.first] = nil
    self.first = self.first + 1
    self.held = self.held - 1
    write(self, entry)
    if self.on_written then self.on_written(self) end
  end
  local ok, message = self.file:flush()
  if not ok then error("cannot write the output: " .. tostring(message), 0) end
end

--- The writing coroutine.
function Answers:run()
  self.task = scheduler.task
  while true do
    write_settled(self)
    if self.reader then scheduler.wake(self.reader) end
    if self.closing and self.first > self.last then return end
    scheduler.suspend "output"
  end
end

return M
