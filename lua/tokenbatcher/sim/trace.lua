--- A trace: a file of arrivals, read line by line, in memory that does not grow with it. What
-- fits into one block of rows is kept for the next run over it, longer ones are read anew.
--
-- A source of arrivals, here and in arrivals.lua, shows the next one in its fields: at_us (its
-- time since the first one, or math.huge when there is none left), cost, output (-1: not known), key, group,
-- priority, timeout_us, batch_timeout_us, slo_us, record (nil: none is known), turn (those of one number, above
-- 0, that follow each other were submitted in one turn: one decision saw them all). take() goes on to the one after it;
-- answered(now_us) hears of every record that has its answer, or will have none; is_done: there will be
-- no more.

local formats = require "tokenbatcher.sim.formats"
local tbffi = require "tokenbatcher.core.ffi"

local floor = math.floor

local M = {}
local Trace = {}
Trace.__index = Trace

local BLOCK_ROWS = 65536
local CHUNK_BYTES = 65536
local LINE_BYTES = 16 * 1024 * 1024 -- at the most; what has no line ends is no trace
local GARBAGE_STEP = 200
local NAMED_BAD_ROWS = 5 -- more are only counted
local SHOWN_BYTES = 160
local BYTE_ORDER_MARK = "\239\187\191"

-- --- lines ----------------------------------------------------------------------

local Lines = {}
Lines.__index = Lines

local function open_lines(path)
  local file, message = io.open(path, "rb")
  if not file then return nil, message end
  if not file:seek "set" then
    file:close()
    return nil, path .. ": a plain file is needed, since each run reads it anew"
  end
  local first, problem = file:read(CHUNK_BYTES)
  if not first and problem then return nil, ("%s: %s"):format(path, problem) end
  first = first or ""
  if first:sub(1, 3) == BYTE_ORDER_MARK then first = first:sub(4) end
  return setmetatable({ path = path, file = file, chunk = first, at = 1, number = 0 }, Lines)
end

--- Read no more. Twice is fine.
function Lines:close()
  if self.file then self.file:close() end
  self.file = nil
end

-- Read on to where a line ends, or to the end of the file. A long line is put together once.
local function fill(self)
  local parts, bytes = { self.chunk:sub(self.at) }, 0
  repeat
    local more, message = self.file:read(CHUNK_BYTES)
    if not more then
      self:close()
      if message then error(("cannot read %s: %s"):format(self.path, message), 0) end
      break
    end
    parts[#parts + 1], bytes = more, bytes + #more
    if bytes > LINE_BYTES then
      error(("%s:%d: the line is longer than 16 MiB"):format(self.path, self.number + 1), 0)
    end
  until more:find("\n", 1, true)
  self.chunk, self.at = table.concat(parts), 1
  collectgarbage("step", GARBAGE_STEP) -- compiled code makes little else that would drive the collector
end

--- Where the next line is in self.chunk, without its end: from, to; nil after the last.
function Lines:next()
  local stop = self.chunk:find("\n", self.at, true)
  if not stop and self.file then
    fill(self)
    stop = self.chunk:find("\n", self.at, true)
  end
  local from = self.at
  if not stop then
    if from > #self.chunk then return nil end
    stop = #self.chunk + 1
  end
  self.at, self.number = stop + 1, self.number + 1
  local has_return = stop > from and self.chunk:byte(stop - 1) == 13
  return from, has_return and stop - 2 or stop - 1
end

-- The next line that is not blank, as a string.
local function next_text(lines)
  repeat
    local from, to = lines:next()
    local text = from and lines.chunk:sub(from, to)
    if not from or text:find "%S" then return text end
  until false
end

-- --- the trace --------------------------------------------------------------------

local function new_block()
  local function column() return tbffi.new("double[?]", BLOCK_ROWS) end
  return {
    n = 0, at_us = column(), cost = column(), output = column(), priority = column(), timeout_us = column(),
    batch_timeout_us = column(), slo_us = column(), turn = column(), key = {}, group = {}, record = {},
  }
end

--- @param options table  limit (rows, or nil), strict (a bad row is an error), note (function(text), told of bad rows),
-- estimate (function(record), for rows without a cost: see formats.lua)
-- @return a trace, or nil and a message
function M.open(path, options)
  local lines, message = open_lines(path)
  if not lines then return nil, "cannot open the trace: " .. message end
  local ok, first = pcall(next_text, lines)
  if not ok then return nil, first end
  if not first then return nil, ("the trace %s is empty"):format(path) end
  local format
  format, message = formats.detect(first)
  if not format then return nil, ("%s %s"):format(path, message) end
  local self = setmetatable({
    path = path, format = format, limit = options.limit or math.huge, strict = options.strict, note = options.note,
    estimate = options.estimate, rows = 0, bad = 0, is_known = false, block = nil,
  }, Trace)
  lines:close()
  return self
end

-- What a row says may be any bytes, and long.
local function printable(text)
  text = text:gsub("[%c\127-\255]", "?")
  return #text > SHOWN_BYTES and text:sub(1, SHOWN_BYTES) .. "..." or text
end

local function bad_row(reader, what)
  local trace = reader.trace
  local text = ("%s:%d: %s"):format(trace.path, reader.lines.number, printable(what))
  if trace.strict then error(text .. " (--strict)", 0) end
  if trace.is_known then return end
  trace.bad = trace.bad + 1
  if trace.note and trace.bad <= NAMED_BAD_ROWS then trace.note(text .. "; the row is left out") end
end

-- With a place for every field: a table that is full is made anew for one that is set to nil, in each row.
local function new_row()
  return { at_s = 0, cost = 0, output = 0, record = false, key = false, group = false, priority = 0, timeout_us = 0,
    batch_timeout_us = 0, slo_us = 0, turn = 0 }
end

local function new_reader(trace)
  local lines, message = open_lines(trace.path)
  if not lines then error("cannot open the trace: " .. message, 0) end
  if trace.format.has_header then next_text(lines) end
  local parse = trace.format.new(trace.estimate)
  return { trace = trace, lines = lines, parse = parse, row = new_row(), rows = 0, first_s = nil, last_s = 0 }
end

-- The next good row into reader.row; false at the end.
local function read_row(reader)
  local row = reader.row
  while reader.rows < reader.trace.limit do
    local lines = reader.lines
    local from, to = lines:next()
    if not from then return false end
    row.record = nil
    row.key, row.group, row.priority, row.timeout_us, row.batch_timeout_us, row.slo_us = nil, nil, 0, 0, 0, 0
    row.turn = 0
    local is_row, message = reader.parse(lines.chunk, from, to, row)
    if is_row and reader.first_s and row.at_s < reader.last_s then
      is_row, message = nil, ("its time is %.6f s before the row above"):format(reader.last_s - row.at_s)
    end
    if is_row then
      reader.first_s, reader.last_s = reader.first_s or row.at_s, row.at_s
      reader.rows = reader.rows + 1
      return true
    elseif is_row == nil and lines.chunk:find("%S", from) and lines.chunk:find("%S", from) <= to then
      bad_row(reader, message)
    end
  end
  return false
end

-- Fill a block. @return boolean  is the trace at its end?
local function read_block(reader, block)
  local row, n = reader.row, 0
  block.key, block.group, block.record = {}, {}, {}
  while n < BLOCK_ROWS do
    if not read_row(reader) then
      block.n = n
      return true
    end
    block.at_us[n], block.cost[n], block.output[n] = (row.at_s - reader.first_s) * 1e6, row.cost, row.output
    block.priority[n], block.timeout_us[n] = row.priority, row.timeout_us
    block.batch_timeout_us[n], block.slo_us[n] = row.batch_timeout_us, row.slo_us
    block.turn[n] = row.turn
    if row.key then block.key[n] = row.key end
    if row.group then block.group[n] = row.group end
    if row.record ~= nil then block.record[n] = row.record end
    n = n + 1
  end
  block.n = n
  return false
end

-- --- the source ---------------------------------------------------------------------

local Source = {}
Source.__index = Source

local function next_block(self)
  if self.is_last then return false end
  self.i = 0
  self.is_last = read_block(self.reader, self.block)
  if not self.is_last then return true end
  local trace, reader = self.trace, self.reader
  trace.rows, trace.is_known = reader.rows, true
  reader.lines:close()
  if self.is_first then trace.block = self.block end
  return self.block.n > 0
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
  if self.reader then self.reader.lines:close() end
end

function Source:show(i)
  local block = self.block
  self.at_us = floor((block.at_us[i] - self.origin_us) / self.speedup + 0.5)
  self.cost, self.output, self.key = block.cost[i], block.output[i], block.key[i]
  self.priority, self.timeout_us, self.group = block.priority[i], block.timeout_us[i], block.group[i]
  self.batch_timeout_us, self.slo_us, self.record = block.batch_timeout_us[i], block.slo_us[i], block.record[i]
  self.turn = block.turn[i]
end

--- Nothing to do: a trace does not wait for answers.
function Source.answered() end

--- A run over it. Raises what cannot be read, and a bad row if strict.
-- @param speedup number  times are divided by it
-- @param first number|nil  rows to leave out at the beginning; the row after them is at time 0
-- @param count number|nil  rows to use
function Trace:source(speedup, first, count)
  local known = self.block
  local source = setmetatable({
    trace = self, speedup = speedup, i = 0, block = known or new_block(), is_first = true, is_last = known ~= nil,
    at_us = math.huge, is_done = false, left = count or math.huge, origin_us = 0,
  }, Source)
  if not known then
    source.reader = new_reader(self)
    if not next_block(source) then error(("the trace %s has no rows%s"):format(self.path, self.bad > 0
      and (" (%d bad ones)"):format(self.bad) or ""), 0) end
  end
  for _ = 1, first or 0 do
    if not step(source) then error(("the trace %s ends before row %d"):format(self.path, first + 1), 0) end
  end
  if first then source.origin_us = source.block.at_us[source.i] end
  source:show(source.i)
  return source
end

return M
