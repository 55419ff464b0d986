--- A file, or standard input, line by line, in memory that does not grow with it. What begins as a gzip file is
-- decompressed.

local csv = require "tokenbatcher.sim.trace.csv"
local gzip = require "tokenbatcher.base.gzip_ffi"

local M = {}
local Lines = {}
Lines.__index = Lines

local CHUNK_BYTES = 65536
local LINE_BYTES = 16 * 1024 * 1024 -- at the most; what has no line ends is no trace
local WHOLE_BYTES = 256 * 1024 * 1024 -- of a file that is one value
local GARBAGE_STEP = 200
local BYTE_ORDER_MARK = "\239\187\191"

-- A file that is decompressed as it is read, or nil and a message.
local Compressed = {}
Compressed.__index = Compressed

local function compressed(file, first)
  local inflater, message = gzip.new()
  if not inflater then return nil, message end
  inflater:feed(first)
  return setmetatable({ file = file, inflater = inflater }, Compressed)
end

-- As file:read of a number of bytes; how many come is zlib's to say.
function Compressed:read()
  while true do
    local bytes, message = self.inflater:read()
    if not bytes then return nil, message end
    if bytes ~= "" then return bytes end
    bytes, message = self.file:read(CHUNK_BYTES)
    if message then return nil, message end
    if not bytes then return nil, not self.inflater:is_whole() and "the gzip data ends too early" or nil end
    self.inflater:feed(bytes)
  end
end

function Compressed:close() return self.file:close() end

--- @param path string  "-": standard input
-- @return lines (can_rewind: can it be opened once more?), or nil and a message
function M.open(path)
  local file, message
  if path == "-" then file = io.stdin else file, message = io.open(path, "rb") end
  if not file then return nil, message end
  local can_rewind = path ~= "-" and file:seek "set" ~= nil
  local first, problem = file:read(CHUNK_BYTES)
  if not first and problem then return nil, ("%s: %s"):format(path, problem) end
  if first and gzip.begins(first) then
    local raw = file
    file, problem = compressed(raw, first)
    if file then first, problem = file:read() end
    if problem then
      if path ~= "-" then raw:close() end
      return nil, ("%s: %s"):format(path, problem)
    end
  end
  first = first or ""
  if first:sub(1, 3) == BYTE_ORDER_MARK then first = first:sub(4) end
  return setmetatable({ path = path, file = file, chunk = first, at = 1, number = 0, can_rewind = can_rewind }, Lines)
end

--- Read no more. Twice is fine.
function Lines:close()
  if self.file and self.path ~= "-" then self.file:close() end
  self.file = nil
end

-- More of the file, or nil at its end.
local function read_chunk(self)
  local more, message = self.file:read(CHUNK_BYTES)
  if more then return more end
  self:close()
  if message then error(("cannot read %s: %s"):format(self.path, message), 0) end
end

-- Read on to where a line ends, or to the end of the file. A long line is put together once.
local function fill(self)
  local parts, bytes = { self.chunk:sub(self.at) }, 0
  repeat
    local more = read_chunk(self)
    if not more then break end
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

-- A line of CSV of which a quoted field has ends of lines in it. It begins at self.chunk[from].
local function close_quote(self, from, to)
  local parts, bytes, first, is_open = { self.chunk:sub(from, to) }, 0, self.number, true
  while is_open do
    local next_from, next_to = self:next()
    if not next_from then error(("%s:%d: a quote begins that does not end"):format(self.path, first), 0) end
    parts[#parts + 1], bytes = self.chunk:sub(next_from, next_to), bytes + next_to - next_from
    if bytes > LINE_BYTES then
      error(("%s:%d: a quoted field is longer than 16 MiB"):format(self.path, first), 0)
    end
    is_open = csv.is_open(self.chunk, next_from, next_to, true)
  end
  local text = table.concat(parts, "\n")
  return text, 1, #text
end

--- The next line: text, from, to; nil after the last. @param quotes boolean  a quoted field of CSV goes on in the lines
-- behind it; self.number is the last of them
function Lines:take(quotes)
  local from, to = self:next()
  if not from then return nil end
  if quotes and csv.is_open(self.chunk, from, to, false) then return close_quote(self, from, to) end
  return self.chunk, from, to
end

--- The next line that is not blank, as a string; nil after the last.
function Lines:next_text()
  repeat
    local from, to = self:next()
    local text = from and self.chunk:sub(from, to)
    if not from or text:find "%S" then
      self.taken_from = from
      return text
    end
  until false
end

--- The line that next_text gave is read again.
function Lines:unread()
  self.at, self.number = self.taken_from, self.number - 1
end

--- All that is left, as one string.
function Lines:rest()
  local parts, bytes = { self.chunk:sub(self.at) }, 0
  while self.file do
    local more = read_chunk(self)
    parts[#parts + 1], bytes = more, bytes + #(more or "")
    if bytes > WHOLE_BYTES then
      error(("%s: its first line is no whole value of JSON, and all of it more than 256 MiB"):format(self.path), 0)
    end
  end
  self.chunk, self.at = "", 1
  return table.concat(parts)
end

return M
