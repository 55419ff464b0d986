--- A trace: a file of arrivals, read line by line, in memory that does not grow with it. What
-- fits into one block of rows is kept for the next run over it, longer ones are read anew.
--
-- A source of arrivals, here and in ../arrivals.lua, shows the next one in its fields: at_us (its
-- time since the first one, or math.huge when there is none left), cost, output (-1: not known), key, group,
-- class, priority, timeout_us, batch_timeout_us, slo_us, record (nil: none is known), turn (those of one number,
-- above 0, that follow each other were submitted in one turn: one decision saw them all). take() goes on to
-- the one after it; answered(now_us) hears of every record that has its answer, or will have none; is_done: there
-- will be no more. Of a part of a trace, from_s says how long after the trace it begins.

local blocks = require "tokenbatcher.sim.trace.blocks"
local columns = require "tokenbatcher.sim.trace.columns"
local formats = require "tokenbatcher.sim.trace.formats"
local lines_of = require "tokenbatcher.sim.trace.lines"

local floor = math.floor

local M = {}
local Trace = {}
Trace.__index = Trace

local NAMED_BAD_ROWS = 5 -- more are only counted

-- --- the trace --------------------------------------------------------------------

local function describe(path) return path == "-" and "standard input" or path end

-- @return format, or nil and a message
local function detect(lines, given)
  local first = lines:next_text()
  if not first then return nil, ("the trace %s is empty"):format(describe(lines.path)) end
  local is_read = false
  local format, message = formats.detect(first, given, function()
    is_read = true
    return first .. "\n" .. lines:rest()
  end)
  if not format then
    return nil, ("%s%s %s"):format(describe(lines.path), message:find "^%-%-" and ":" or "", message)
  end
  if not (format.rows or is_read or format.has_header) then lines:unread() end
  return format
end

local function is_pipe_too_long(trace)
  local ok, problem = pcall(trace.source, trace, 1)
  if not ok then return problem end
  if trace.block then return nil end
  return ("%s is a pipe of more than %d rows, and would have to be read more than once: save it as a file")
    :format(describe(trace.path), blocks.ROWS)
end

-- Four digits, and all of a large number.
local function short(value) return (math.abs(value) >= 1000 and "%.0f" or "%.4g"):format(value) end

--- How many rows in which time, and how many a second, for people. @param span_s number|nil
function M.rate_text(rows, span_s)
  if not span_s or span_s <= 0 then return ("%d rows"):format(rows) end
  return ("%d rows in %s s, %s a second"):format(rows, short(span_s), short(rows / span_s))
end

--- What it is, for people, after a run over it.
function Trace:about(speedup)
  local unit = self.format.unit
  local parts = { ("%s, %s"):format(self.format.name, M.rate_text(self.rows, self.span_s)),
    unit == "date" and "times are dates" or "times in " .. unit }
  for _, what in ipairs { { self.sorted, "out of order" }, { self.bad, "bad, left out" },
    { self.failed, "failed at the source, left out" } } do
    if what[1] > 0 then parts[#parts + 1] = ("%d %s"):format(what[1], what[2]) end
  end
  local text = ("%s (%s)"):format(describe(self.path), table.concat(parts, "; "))
  if speedup == 1 then return text end
  return ("%s, %.14g times as fast%s"):format(text, speedup, self.span_s > 0
    and (": %s a second"):format(short(speedup * self.rows / self.span_s)) or "")
end

--- @param path string  a file, or "-": standard input
-- @param options table  limit (rows, or nil), strict (a bad row is an error), note (function(text), told of bad rows),
-- estimate (function(record), for rows without a cost: see formats.lua), columns and unit (see formats.detect),
-- passes (how many runs over it there will be at the most; nil: any number)
-- @return a trace; or nil and a message. After the first run over it it has rows, span_s (from the first to the last),
-- sorted (rows that were out of order), bad (rows left out) and failed (those that were no arrivals)
function M.open(path, options)
  local lines, message = lines_of.open(path)
  if not lines then return nil, "cannot open the trace: " .. message end
  local ok, format, problem = pcall(detect, lines, { columns = options.columns, unit = options.unit })
  if not ok or not format then
    lines:close()
    return nil, ok and problem or format
  end
  local self = setmetatable({
    path = path, format = format, limit = options.limit or math.huge, strict = options.strict, note = options.note,
    estimate = options.estimate, rows = 0, bad = 0, failed = 0, sorted = 0, span_s = 0, is_known = false, block = nil,
    noted = {}, lines = nil,
  }, Trace)
  if lines.can_rewind or format.rows then
    lines:close()
    return self
  end
  self.lines = lines
  problem = options.passes ~= 1 and is_pipe_too_long(self)
  if problem then return nil, problem end
  return self
end

local function bad_row(reader, what)
  local trace = reader.trace
  local text = ("%s:%d: %s"):format(describe(trace.path), reader.lines.number, columns.printable(what))
  if trace.strict then error(text .. " (--strict)", 0) end
  if trace.is_known then return end
  trace.bad = trace.bad + 1
  if trace.note and trace.bad <= NAMED_BAD_ROWS then trace.note(text .. "; the row is left out") end
end

-- The lines of a run: a pipe's are there already, and are read once.
local function run_lines(trace)
  if trace.lines then
    local lines = trace.lines
    trace.lines, trace.is_gone = nil, true
    return lines
  end
  if trace.is_gone then error(("%s can be read only once"):format(describe(trace.path)), 0) end
  local lines, message = lines_of.open(trace.path)
  if not lines then error("cannot open the trace: " .. message, 0) end
  if trace.format.has_header then lines:next_text() end
  return lines
end

local function new_reader(trace)
  local reader = { trace = trace, row = blocks.new_row(), rows = 0, read = 0, failed = 0, sorted = 0,
    newest_s = -math.huge }
  if trace.format.rows then
    reader.values = trace.format.rows
    return reader
  end
  reader.lines = run_lines(trace)
  reader.parse, reader.finish = trace.format.new(trace.estimate, function(text)
    if trace.note and not trace.noted[text] then trace.note(describe(trace.path) .. ": " .. text) end
    trace.noted[text] = true
  end)
  return reader
end

local function is_blank(text, from, to)
  local at = text:find("%S", from)
  return not at or at > to
end

-- The next good row of a file that is one value; false at the end.
local function read_value(reader)
  local values, i, row = reader.values, reader.read, reader.row
  if i >= values.n then return false end
  reader.read = i + 1
  row.at_s, row.cost, row.output = values.at_s[i], values.cost[i], values.output[i]
  return true
end

-- The next good row into reader.row; false at the end.
local function read_row(reader)
  local row, trace, lines = reader.row, reader.trace, reader.lines
  local has_quotes = trace.format.has_quotes
  while reader.rows < trace.limit do
    blocks.clear_row(row)
    if reader.values then return read_value(reader) end
    local text, from, to = lines:take(has_quotes)
    if not text then return false end
    local is_row, message = reader.parse(text, from, to, row)
    if is_row then return true end
    if is_row == false then
      if message then reader.failed = reader.failed + 1 end
    elseif not is_blank(text, from, to) then
      bad_row(reader, message)
    end
  end
  return false
end

local function out_of_order(reader, block, n)
  local s = reader.newest_s - block.at_s[n]
  blocks.remove(block, n)
  bad_row(reader, ("its time is %.6f s before that of a row above, and more than %d rows are between them"):format(s,
    blocks.WINDOW))
end

-- A row that is earlier than one above. @return boolean  is it in its place?
local function sort_in(reader, block, n)
  if n <= blocks.WINDOW and reader.shown_s and block.at_s[n] < reader.shown_s then return false end
  return blocks.sort_in(block, n)
end

-- Fill a block. @return boolean  is the trace at its end?
local function read_block(reader, block)
  local row, n, is_end = reader.row, blocks.begin(block), false
  while n < blocks.ROWS + blocks.WINDOW do
    if not read_row(reader) then
      is_end = true
      break
    end
    blocks.put(block, n, row)
    if row.at_s >= reader.newest_s then
      reader.newest_s, n, reader.rows = row.at_s, n + 1, reader.rows + 1
    elseif sort_in(reader, block, n) then
      n, reader.rows, reader.sorted = n + 1, reader.rows + 1, reader.sorted + 1
    else
      out_of_order(reader, block, n)
    end
  end
  block.held = is_end and 0 or math.min(blocks.WINDOW, n)
  block.n = n - block.held
  if block.n > 0 then reader.shown_s = block.at_s[block.n - 1] end
  return is_end
end

-- --- the source ---------------------------------------------------------------------

local Source = {}
Source.__index = Source

-- More than half of the rows are none: whatever comes out of the rest is no answer.
local function check_dropped(trace, reader)
  if trace.bad <= reader.rows then return end
  error(("%s: %d of %d rows are bad: it is no trace of this kind (%s)"):format(describe(trace.path), trace.bad,
    trace.bad + reader.rows, trace.format.name), 0)
end

-- The whole of it was read: what is known of it now.
local function close_reader(self)
  local trace, reader = self.trace, self.reader
  if reader.lines then reader.lines:close() end
  if not trace.is_known then
    check_dropped(trace, reader)
    local problem = reader.finish and reader.rows > 0 and reader.finish()
    if problem then error(("%s: %s"):format(describe(trace.path), problem), 0) end
  end
  trace.rows, trace.failed, trace.sorted, trace.is_known = reader.rows, reader.failed, reader.sorted, true
  if reader.values then trace.failed = reader.values.failed end
  trace.span_s = reader.rows > 0 and reader.newest_s - reader.first_s or 0
  if self.is_first then trace.block = self.block end
end

local function next_block(self)
  if self.is_last then return false end
  self.i = 0
  local reader, block = self.reader, self.block
  self.is_last = read_block(reader, block)
  if not reader.first_s and block.n > 0 then reader.first_s = block.at_s[0] end
  if self.is_last then close_reader(self) end
  return block.n > 0
end

-- One row on; false at the end.
local function step(self)
  self.i = self.i + 1
  if self.i < self.block.n then return true end
  self.is_first = false
  return next_block(self)
end

--- Go on to the next arrival.
function Source:take()
  self.left = self.left - 1
  if self.left > 0 and step(self) then return self:show(self.i) end
  self.at_us, self.is_done = math.huge, true
  if self.reader and self.reader.lines then self.reader.lines:close() end
end

function Source:show(i)
  local block = self.block
  self.at_us = floor((block.at_s[i] - self.origin_s) * 1e6 / self.speedup + 0.5)
  self.cost, self.output, self.key = block.cost[i], block.output[i], block.key[i]
  self.priority, self.timeout_us, self.group = block.priority[i], block.timeout_us[i], block.group[i]
  self.batch_timeout_us, self.slo_us, self.record = block.batch_timeout_us[i], block.slo_us[i], block.record[i]
  self.turn, self.class = block.turn[i], block.class[i]
end

--- Nothing to do: a trace does not wait for answers.
function Source.answered() end

local function no_rows(trace)
  local parts = {}
  if trace.bad > 0 then parts[1] = ("%d bad ones"):format(trace.bad) end
  if trace.failed > 0 then parts[#parts + 1] = ("%d that failed at the source"):format(trace.failed) end
  return ("the trace %s has no rows%s"):format(describe(trace.path),
    parts[1] and " (" .. table.concat(parts, ", ") .. ")" or "")
end

--- A run over it. Raises what cannot be read, and a bad row if strict.
-- @param speedup number  times are divided by it
-- @param first number|nil  rows to leave out at the beginning; the row after them is at time 0
-- @param count number|nil  rows to use
function Trace:source(speedup, first, count)
  local known = self.block
  local source = setmetatable({
    trace = self, speedup = speedup, i = 0, block = known or blocks.new(), is_first = true, is_last = known ~= nil,
    at_us = math.huge, is_done = false, left = count or math.huge, origin_s = 0, from_s = 0,
  }, Source)
  if not known then
    source.reader = new_reader(self)
    if not next_block(source) then error(no_rows(self), 0) end
  end
  for _ = 1, first or 0 do
    if not step(source) then error(("the trace %s ends before row %d"):format(describe(self.path), first + 1), 0) end
  end
  source.origin_s = source.block.at_s[source.i]
  source.from_s = (source.origin_s - (known and known.at_s[0] or source.reader.first_s)) / speedup
  source:show(source.i)
  return source
end

return M
