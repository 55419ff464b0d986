--- What an output F and its journal say is done: read once, when a run goes on with them.
--
-- In order, F holds the answers of the first lines of the input, and the journal those that wait. Unordered, F
-- holds any. What is kept of them here is a bit or a place in a file each, never an answer.

local bit = require "bit"

local errors = require "tokenbatcher.base.errors"
local journal = require "tokenbatcher.cli.journal"
local json = require "tokenbatcher.base.json"
local tbffi = require "tokenbatcher.core.ffi"

local M = {}
local State = {}
State.__index = State

-- --- a set of line numbers --------------------------------------------------------------

local function mark(set, index)
  local word = bit.rshift(index, 5)
  set[word] = bit.bor(set[word] or 0, bit.lshift(1, bit.band(index, 31)))
end

local function is_marked(set, index)
  local word = set[bit.rshift(index, 5)]
  return word ~= nil and bit.band(word, bit.lshift(1, bit.band(index, 31))) ~= 0
end

-- --- a line of F -----------------------------------------------------------------------

-- With an id before the answer: a plain string or a number, so that a long answer need not be decoded.
local IDS = { '^{"index":%d+,"[^"\\]*":"[^"\\]*","(%a+)":', '^{"index":%d+,"[^"\\]*":[%d.eE+-]+,"(%a+)":' }

--- @return number index, string|nil code of an error line; nil: it is no line of ours
function M.answer_on(line)
  local index = line:match '^{"index":(%d+),"'
  if not index or line:byte(-1) ~= 125 then return nil end
  local kind, at = line:match '^{"index":%d+,"(%a+)":()' -- an id's name may have other characters
  if kind == "result" then return tonumber(index) end
  if kind ~= "error" then
    for _, pattern in ipairs(IDS) do
      if line:match(pattern) == "result" then return tonumber(index) end
    end
  end
  local code = kind == "error" and line:match('^{"code":"([%w_]+)"', at)
  if code then return tonumber(index), code end
  local value = json.decode(line)
  if type(value) ~= "table" or value.result == nil and type(value.error) ~= "table" then return nil end
  return tonumber(index), value.result == nil and tostring(value.error.code) or nil
end

-- --- what to do with an error line ------------------------------------------------------

-- @param codes table|nil  --retry-failed: code -> true, or all = true
local function note_failure(self, index, at, code)
  local codes = self.retry_codes
  if codes and (codes.all or codes[code]) then
    self.retry[index], self.retries = at, self.retries + 1
    return
  end
  self.failed = self.failed + 1
  self.failures[code] = (self.failures[code] or 0) + 1
end

-- --- F ----------------------------------------------------------------------------------

local function not_ours(self, number)
  error(errors.new("not_ours", ("%s: line %d is no answer of a run: it is left as it is"):format(self.path, number)), 0)
end

local function note_plain_line(self, line, at)
  local index, code = M.answer_on(line)
  if not index then not_ours(self, at) end
  if self.unordered then
    mark(self.answered, index)
  elseif index <= self.last_index then
    error(errors.new("not_ours", ("%s is not in the order of the input (line %d): go on with --unordered if it was "
      .. "written so"):format(self.path, at)), 0)
  end
  self.last_index = math.max(self.last_index, index)
  local again = self.again[at]
  if again then code = again.code end
  if code then note_failure(self, index, at, code) end
end

-- Up to a torn last line, which is to be cut.
local function read_output(self, fd)
  for line, offset, is_whole in journal.lines_of(fd) do
    if not is_whole then
      self.is_torn = true
      break
    end
    self.lines, self.size = self.lines + 1, offset + #line + 1
    if not self.encoded then note_plain_line(self, line, self.lines) end
  end
end

-- --- the journal ------------------------------------------------------------------------

-- What takes the place of error lines is to be known before F is read.
local function read_again(self, path)
  local fd = tbffi.open(path)
  if not fd then return end
  for text, _, is_whole in journal.lines_of(fd) do
    local item = is_whole and journal.parse(text)
    if item and item.again then self.again[item.at] = { index = item.index, code = item.code } end
    if item and item.at then self.known = math.max(self.known, item.at) end
  end
  tbffi.close(fd)
end

-- An answer that waits: is it an error line that is wanted again?
local function is_dropped(self, item, text)
  local code = item.code
  if item.is_plain then
    local _
    _, code = M.answer_on(text)
  end
  if not code then return false end
  local codes = self.retry_codes
  if codes and (codes.all or codes[code]) then return true end
  note_failure(self, item.index, item.at, code)
  return false
end

local function keep_again(self, item, text, offset)
  if item.at > self.lines then return nil end
  self.replaced[item.at] = offset
  self.has_replaced = true
  if self.encoded then self.notes[item.at] = item end
  return text .. "\n"
end

-- The line of F that this is about is there: all that is to be known is whether it failed.
local function keep_note(self, item)
  if self.unordered then mark(self.answered, item.index) end
  if item.code then self.notes[item.at] = item end
  if not (self.unordered or item.code) then return nil end
  return journal.entry { at = item.at, index = item.index, code = item.code }
end

local function keep_waiting(self, item, text, offset)
  if self.unordered or self.restored[item.index] or is_dropped(self, item, text) then return nil end
  self.restored[item.index] = offset
  self.restored_count = self.restored_count + 1
  return text .. "\n"
end

local function keep(self, item, text, offset)
  if item.again then return keep_again(self, item, text, offset) end
  if item.is_plain and item.index <= self.last_index then return nil end
  if not item.is_plain and item.at <= self.lines then return keep_note(self, item) end
  if not item.has_line then return nil end -- of a line that F has lost
  return keep_waiting(self, item, text, offset)
end

-- --- all of it --------------------------------------------------------------------------

--- Read F. Changes nothing.
-- @param facts table  unordered, encoded: does F hold lines of the script's own encode?
-- @param from string|nil  the journal  @param retry_codes table|nil
-- @return state, or nil and a message
function M.read(path, facts, from, retry_codes)
  local self = setmetatable({
    path = path, unordered = facts.unordered, encoded = facts.encoded, retry_codes = retry_codes,
    lines = 0, size = 0, is_torn = false, last_index = 0, answered = {},
    failed = 0, failures = {}, retry = {}, retries = 0, again = {}, notes = {},
    known = 0, restored = {}, restored_count = 0, replaced = {}, has_replaced = false,
  }, State)
  local fd, message = tbffi.open(path)
  if not fd then return nil, message end
  local ok, err = pcall(function()
    if from then read_again(self, from) end
    read_output(self, fd)
  end)
  tbffi.close(fd)
  if not ok then return nil, errors.message_of(err) end
  if self.unordered and self.encoded and self.lines > self.known then -- a machine that went down, at the least
    return nil, ("%s has %d lines, and its journal knows of %d: which lines of the input the others answer, "
      .. "nobody can say"):format(path, self.lines, self.known)
  end
  return self
end

--- Write the journal anew, with what still matters of it. @return journal, or nil and a message
function State:take_journal(path, from, facts, input)
  local made, message = journal.rewrite(path, from, facts, input, function(item, text, offset)
    return keep(self, item, text, offset)
  end)
  if not made then return nil, message end
  for at, item in pairs(self.notes) do
    if item.code then note_failure(self, item.index, at, item.code) end
  end
  self.again, self.notes = nil, nil
  return made
end

--- What is to be done with a line of the input. @param at number  how many lines that are not blank it ends
-- @return "answered", "waiting" (its answer is in the journal), "again" and its line in F, or nil: it is new
function State:of(index, at)
  local line_in_output = self.retry[index]
  if line_in_output then return "again", line_in_output end
  local is_answered
  if self.unordered then
    is_answered = is_marked(self.answered, index)
  elseif self.encoded then
    is_answered = at <= self.lines
  else
    is_answered = index <= self.last_index
  end
  if is_answered then return "answered" end
  return self.restored[index] and "waiting" or nil
end

--- Does it hold answers of lines that an input of so many does not have?
function State:goes_beyond(index, at)
  if self.encoded and not self.unordered then return self.lines > at end
  return self.last_index > index
end

return M
