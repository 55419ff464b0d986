--- Writes one line for each line of input: in input order, or as they come.
--
-- An entry (see entry.lua) is settled when its answer is there. In input order it may have to wait for earlier
-- ones. Of an output that is a file, it waits in the journal, from the very turn in which it was answered:
-- memory keeps the place alone. `held` counts those that wait, so that the reader can stop while they are too many.

local encoder = require "tokenbatcher.cli.entry"
local errors = require "tokenbatcher.base.errors"
local journal = require "tokenbatcher.cli.journal"
local tasks = require "tokenbatcher.runtime.tasks"

local M = {}
local Answers = {}
Answers.__index = Answers

local BLOCK = 262144 -- bytes of lines that are put together

--- @param is_ordered boolean  @param script table  with encode, or nil
function M.new(is_ordered, script)
  return setmetatable({
    is_ordered = is_ordered, script = script, sink = nil, journal = nil, restored = {}, left = 0, replaced = {},
    first = 1, last = 0, fresh = {}, held = 0, closing = false, gives_up = false, next_index = 1, limit = 0,
    written = 0, failed = 0, failures = {}, first_failure = nil, -- error code -> count; {index, code, message}
    parts = {}, parts_n = 0, bytes = 0, on_kept = nil, unkept = {},
  }, Answers)
end

--- Where to write. @param sink table  @param job table|nil  journal and, of a run that goes on, state
function Answers:attach(sink, job)
  self.sink = sink
  self.journal = job and job.journal
  if job and job.state then
    self.restored, self.replaced, self.left = job.state.restored, job.state.replaced, job.state.restored_count
    self.has_replaced = job.state.has_replaced
    self.next_index = self.is_ordered and not job.state.encoded and job.state.last_index + 1 or 1
  end
end

--- The entry takes its place in the output.
function Answers:add(entry)
  if not self.is_ordered or entry.again then return end
  self.last = self.last + 1
  self[self.last] = entry
end

local function wake(self)
  if self.task then tasks.wake(self.task) end
end

--- The entry has its answer.
function Answers:settle(entry, result, err)
  if self.gives_up and err and (err.code == "cancelled" or err.code == "stopped") then return self:pass_over(entry) end
  entry.result, entry.err = result, err
  self.held = self.held + 1
  self.fresh[#self.fresh + 1] = entry
  wake(self)
end

--- The entry gets no answer in this run.
function Answers:pass_over(entry)
  entry.is_passed_over = true
  wake(self)
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
  wake(self)
end

-- --- writing -------------------------------------------------------------------

local function require_written(ok, message)
  if not ok then error(errors.new("cannot_write", "cannot write the output: " .. tostring(message)), 0) end
end

-- A journal says itself what is wrong.
local function require_journal(ok, message)
  if not ok then error(errors.new("cannot_write", message), 0) end
end

-- Suspends while too much waits for a reader.
local function flush(self)
  if self.parts_n == 0 then return end
  local n = self.parts_n
  self.parts[n + 1] = "" -- a newline behind the last, too
  local text = table.concat(self.parts, "\n", 1, n + 1)
  self.parts, self.parts_n, self.bytes = {}, 0, 0
  require_written(self.sink:put(text, n))
  while self.sink:is_full() do tasks.suspend(self.task, "output") end
  require_written(not self.sink.problem, self.sink.problem)
end

local function put(self, line)
  local n = self.parts_n + 1
  self.parts[n], self.parts_n, self.bytes = line, n, self.bytes + #line
  if self.bytes >= BLOCK then flush(self) end
end

local function in_journal(self, item)
  require_journal(self.journal:append(journal.entry(item)))
end

local function count(self, entry, code, message)
  self.written = self.written + 1
  if not code then return end
  self.failed = self.failed + 1
  self.failures[code] = (self.failures[code] or 0) + 1
  self.first_failure = self.first_failure or { index = entry.index, code = code, message = message }
  if self.on_failure then self.on_failure(self) end
end

-- From now on the entry is its line; what it was made of may go.
local function make_line(self, entry)
  local message
  entry.line, entry.code, message = encoder.line(entry, self.script.encode)
  entry.record, entry.result, entry.err = nil, nil, nil
  count(self, entry, entry.code, message)
end

-- A line by the script's own encode does not say whose it is, nor whether it failed.
local function note_line(self, entry)
  if not self.journal or not self.journal.facts.encoded or not (entry.code or not self.is_ordered) then return end
  if not self.is_ordered then entry.at = self.sink.lines + self.parts_n + 1 end
  in_journal(self, { at = entry.at, index = entry.index, code = entry.code })
end

local function put_again(self, entry)
  local offset = self.journal.size
  in_journal(self, { at = entry.at, index = entry.index, again = true, code = entry.code, line = entry.line })
  self.replaced[entry.at], self.has_replaced = offset, true
end

-- What the journal has of lines before this one.
local function put_restored(self, index)
  for i = self.next_index, self.left > 0 and index - 1 or 0 do
    local offset = self.restored[i]
    if offset then
      self.restored[i], self.left = nil, self.left - 1
      put(self, self.journal:line_at(offset))
    end
  end
  self.next_index = math.max(self.next_index, index)
end

-- The first ones that have their answers.
local function put_first(self)
  while self.first <= self.last do
    local entry = self[self.first]
    if not entry.line and not entry.offset then break end
    put_restored(self, entry.index)
    if entry.line then note_line(self, entry) end
    put(self, entry.line or self.journal:line_at(entry.offset, entry.size))
    entry.is_written = true
    self[self.first] = nil
    self.first, self.held = self.first + 1, self.held - 1
  end
  local head = self[self.first]
  put_restored(self, head and head.index or self.limit + 1)
end

-- The others. What cost nothing can be had again.
local function keep_in_journal(self, entries)
  if not self.journal then return end
  local encoded, lines, offset = self.journal.facts.encoded, {}, self.journal.size
  for _, entry in ipairs(entries) do
    if not entry.is_written and entry.accepted and not entry.again then
      local text = encoded
        and journal.entry { at = entry.at, index = entry.index, code = entry.code, line = entry.line }
        or entry.line .. "\n"
      lines[#lines + 1] = text
      entry.offset, entry.size, entry.line = offset, #text, nil
      offset = offset + #text
    end
  end
  if #lines > 0 then require_journal(self.journal:append(table.concat(lines))) end
end

-- Those in it move; what is in the output already goes.
local function renew_journal(self)
  local waiting, before = {}, self.journal
  for i = self.first, self.last do
    if self[i].offset then waiting[self[i].index] = self[i] end
  end
  local made, message = journal.rewrite(before.path, before.path, before.facts, before.input,
    function(item, text, offset)
      local entry = waiting[item.index]
      if item.again then
        self.replaced[item.at] = offset
      elseif entry and item.has_line then
        entry.offset = offset
      elseif self.restored[item.index] and item.has_line then
        self.restored[item.index] = offset
      elseif item.is_plain or not (item.code or not self.is_ordered) then
        return nil
      else
        return journal.entry { at = item.at, index = item.index, code = item.code }
      end
      return text .. "\n"
    end)
  require_journal(made, message)
  before:close()
  self.journal = made
end

-- What is in the output or in its journal now: whoever keeps the answer elsewhere need not, any more.
local function tell_of_kept(self, entries)
  local kept, left = {}, {}
  for _, list in ipairs { self.unkept, entries } do
    for _, entry in ipairs(list) do
      local is_kept = entry.is_written or entry.offset or entry.again or not self.is_ordered
      local to = is_kept and kept or left
      to[#to + 1] = entry
    end
  end
  self.unkept = left
  if #kept > 0 then self.on_kept(kept) end
end

local function take(self, entries)
  if self.journal then require_journal(self.journal:fill_in_later()) end
  for _, entry in ipairs(entries) do
    make_line(self, entry)
    if entry.again then
      put_again(self, entry)
    elseif not self.is_ordered then
      note_line(self, entry)
      put(self, entry.line)
    end
    if entry.again or not self.is_ordered then self.held = self.held - 1 end
  end
  if self.is_ordered then
    put_first(self)
    keep_in_journal(self, entries)
  end
  flush(self)
  if self.on_kept then tell_of_kept(self, entries) end
  if self.journal and self.journal:is_large() then renew_journal(self) end
end

-- Is there nothing left to wait for?
local function is_done(self)
  if not self.closing or #self.fresh > 0 then return false end
  return not self.is_ordered or self.gives_up or self.first > self.last
end

-- Of a run that ends early, to an output that has no journal: what is answered, without what is not.
local function put_rest(self)
  for i = self.first, self.last do
    if self[i].line then put(self, self[i].line) end
  end
  flush(self)
end

--- The body of the writing coroutine: returns after close(), when all is written. Raises
-- when the output cannot be written.
function Answers:run()
  self.task = tasks.waiter()
  while true do
    local entries = self.fresh
    self.fresh = {}
    take(self, entries)
    require_written(not self.sink.problem, self.sink.problem)
    if self.on_written then self.on_written(self) end
    if self.reader then tasks.wake(self.reader) end
    if is_done(self) then break end
    if #self.fresh == 0 then tasks.suspend(self.task, "output") end
  end
  if self.first <= self.last and not self.journal then put_rest(self) end
  while self.sink:is_waiting() do tasks.suspend(self.task, "output") end
  require_written(not self.sink.problem, self.sink.problem)
end

--- Something has changed for who writes: room, or an end.
function Answers:stir() wake(self) end

return M
