--- What belongs to an output F beside its lines, in F.journal (F.job when all is answered): JSON lines.
--
--   {"tokenbatcher_job":1,"unordered":false,"encoded":false,"input":["9c1d...",...],"later":[2345,"07ab...",...]}
--       the first one: a hash of each of the first 1,000 lines of the input, and marks of those behind them (see
--       fingerprint.lua), filled in as they are read, padded with spaces
--   {"index":7,"result":...}         an answer that waits for an earlier one, as it will stand in F
--   {"at":6,"index":7,"again":true,"code":"deadline","line":"..."}     where that does not do: `at` is the
--       number of its line in F; `line` what stands there, or will; `again`: it takes the place of the error line
--       that stands there; `code`: it is an error line. A line by the script's own encode says neither index
--       nor code, so that each has an entry, the unordered and the failed ones in F, too (without `line`).
--
-- What is in F already is left in the journal until that is written anew: at a resume, when it has grown, and
-- at the end.

local errors = require "tokenbatcher.base.errors"
local fingerprint = require "tokenbatcher.cli.fingerprint"
local json = require "tokenbatcher.base.json"
local output = require "tokenbatcher.cli.output_ffi"
local tbffi = require "tokenbatcher.core.ffi"

local M = {}
local Journal = {}
Journal.__index = Journal

local GROWS_TO = 16777216 -- bytes, before it is written anew

-- --- lines of a file ------------------------------------------------------------------

--- Iterate over the lines of a file, blocking: line, offset, is_whole (ends with a newline). Raises an err
-- where it cannot be read.
function M.lines_of(fd)
  local offset, chunk, at, ended = 0, "", 1, false
  local read_offset = 0
  return function()
    local parts = {}
    while true do
      local stop = not ended and chunk:find("\n", at, true)
      if stop then
        parts[#parts + 1] = chunk:sub(at, stop - 1)
        at = stop + 1
        local line = #parts == 1 and parts[1] or table.concat(parts)
        local from = offset
        offset = offset + #line + 1
        return line, from, true
      end
      if at <= #chunk then parts[#parts + 1] = chunk:sub(at) end
      local message
      chunk, message = output.read_at(fd, read_offset)
      if not chunk then error(errors.new("cannot_read", message), 0) end
      read_offset, at = read_offset + #chunk, 1
      if chunk == "" then
        if #parts == 0 then return nil end
        ended = true
        return table.concat(parts), offset, false
      end
    end
  end
end

-- --- entries --------------------------------------------------------------------------

local ESCAPES = { ['"'] = '\\"', ["\\"] = "\\\\" }
for code = 0, 31 do ESCAPES[string.char(code)] = ("\\u%04x"):format(code) end

-- Whatever bytes are in a line, they come back.
local function escaped(line) return '"' .. line:gsub('[%z\1-\31"\\]', ESCAPES) .. '"' end

local function unescaped(text)
  return (text:gsub('\\(["\\u])(%x?%x?%x?%x?)', function(kind, digits)
    return kind == "u" and string.char(tonumber(digits, 16)) or kind .. digits
  end))
end

--- An entry as a line. @param item table  at, index, again, code, line
function M.entry(item)
  return ('{"at":%d,"index":%d%s%s%s}\n'):format(item.at, item.index, item.again and ',"again":true' or "",
    item.code and ',"code":' .. json.quote(item.code) or "", item.line and ',"line":' .. escaped(item.line) or "")
end

--- Which answer is on this line? @return table {index, at, again, code, has_line, is_plain}, or nil: none
function M.parse(text)
  local at, index, from = text:match '^{"at":(%d+),"index":(%d+)()'
  if not at then
    index = text:match '^{"index":(%d+),'
    return index and { index = tonumber(index), has_line = true, is_plain = true } or nil
  end
  local item = { at = tonumber(at), index = tonumber(index) }
  local rest = text:match('^,"again":true()', from)
  item.again, from = rest ~= nil, rest or from
  local code, behind = text:match('^,"code":"([^"]*)"()', from)
  item.code, from = code, behind or from
  item.has_line = text:find('^,"line":"', from) ~= nil
  item.from = item.has_line and from + #',"line":"' or nil
  return item
end

--- The line of F that is meant by a line of the journal.
function M.line_in(text)
  local item = M.parse(text)
  if item.is_plain then return text end
  return unescaped(text:sub(item.from, -3))
end

-- --- the first line -------------------------------------------------------------------

local function header_start(facts)
  return ('{"tokenbatcher_job":1,"unordered":%s,"encoded":%s,'):format(tostring(facts.unordered),
    tostring(facts.encoded))
end

--- Read the first line: it may have been torn while something was filled in.
-- @return table {unordered, encoded, input (a fingerprint)}; nil: there is no such file, or it is none of ours (then a
-- message, too)
function M.read_header(path)
  local fd = tbffi.open(path)
  if not fd then return nil end
  local text = output.read_at(fd, 0) or ""
  tbffi.close(fd)
  local unordered, encoded, at = text:match '^{"tokenbatcher_job":1,"unordered":(%a+),"encoded":(%a+),()'
  if not at then return nil, path .. " is no journal of a run" end
  return { unordered = unordered == "true", encoded = encoded == "true", input = fingerprint.parse(text, at) }
end

-- --- writing --------------------------------------------------------------------------

local function cannot_write(self, message)
  return nil, ("cannot write %s: %s"):format(self.path, message)
end

-- A file of this header, and nothing else: it takes its name when it is whole.
local function new_file(path, facts, input)
  local self = setmetatable({ path = path, facts = facts, input = input, temporary = path .. ".new" }, Journal)
  local message
  self.fd, message = output.open_file(self.temporary)
  if not self.fd then return nil, message end
  output.truncate(self.fd, 0)
  output.copy_mode(facts.like, self.fd)
  self.size = 0
  local ok
  ok, message = self:append(header_start(facts) .. input:text() .. "}\n")
  if not ok then
    self:drop()
    return nil, message
  end
  self.room = self.size + GROWS_TO
  return self
end

function Journal:drop()
  tbffi.close(self.fd)
  output.remove(self.temporary)
end

-- On its disk before it has the name: what waits in the other one must not be lost with the machine.
function Journal:take_name()
  local ok, message = true, nil
  if self.facts.is_synced then ok, message = output.sync(self.fd) end
  if not ok then return cannot_write(self, message) end
  return output.rename(self.temporary, self.path)
end

--- Add whole lines. @return true, or nil and a message: then none of them is there
function Journal:append(text)
  local n, message = output.write_at(self.fd, text, self.size)
  if message then
    output.truncate(self.fd, self.size)
    return cannot_write(self, message)
  end
  self.size = self.size + n
  return true
end

-- Fill something in on the first line, where it has its place.
local function fill_in(self, offset, text)
  local _, message = output.write_at(self.fd, text, #header_start(self.facts) + offset)
  if message then return cannot_write(self, message) end
  return true
end

--- Note the next line of the input, before anything is done for it. @return true, or nil and a message
function Journal:note_input(line)
  local input = self.input
  input:add(line)
  if input.lines <= fingerprint.HASHED then return fill_in(self, input:hash_text(input.lines)) end
  self.has_later = true
  return true
end

--- What was noted of lines behind the first 1,000, before any answer to them is written.
-- @return true, or nil and a message
function Journal:fill_in_later()
  if not self.has_later then return true end
  self.has_later = false
  return fill_in(self, self.input:marks_text())
end

local SHORT = 1024 -- bytes

--- The line of F that is at this offset. Raises an err where it cannot be read.
-- @param size number|nil  of the journal's line
function Journal:line_at(offset, size)
  local parts, from = {}, offset
  while true do
    local chunk, message = output.read_at(self.fd, from, from == offset and (size or SHORT) or nil)
    if not chunk or chunk == "" then
      error(errors.new("cannot_read", ("cannot read %s: %s"):format(self.path, message or "it ends too early")), 0)
    end
    local stop = chunk:find("\n", 1, true)
    parts[#parts + 1] = stop and chunk:sub(1, stop - 1) or chunk
    if stop then return M.line_in(table.concat(parts)) end
    from = from + #chunk
  end
end

--- Has it grown so much that it should be written anew?
function Journal:is_large() return self.size > self.room end

local BLOCK = 262144

local function copy_lines(self, from_fd, keep)
  local parts, n, bytes = {}, 0, 0
  local function flush()
    local ok, message = self:append(table.concat(parts, "", 1, n))
    n, bytes = 0, 0
    return ok, message
  end
  local is_first = true
  for text, _, is_whole in M.lines_of(from_fd) do
    local item = is_whole and not is_first and M.parse(text) or nil
    local kept = item and keep(item, text, self.size + bytes)
    is_first = false
    if kept then
      n = n + 1
      parts[n], bytes = kept, bytes + #kept
      if bytes > BLOCK then
        local ok, message = flush()
        if not ok then return nil, message end
      end
    end
  end
  return flush()
end

--- A journal, with the mode of the file that is open as facts.like, in the place of one that there is,
-- with what keep(item, text, offset) wants of it: the line to write,
-- which will be at that offset, or nil. @param from string|nil  the file to take it from
-- @param input table  the fingerprint of what was read
-- @return journal, or nil and a message: then all is as it was
function M.rewrite(path, from, facts, input, keep)
  local self, message = new_file(path, facts, input)
  if not self then return nil, message end
  local fd = from and tbffi.open(from)
  local ok = true
  if fd then
    local was_read
    was_read, ok, message = pcall(copy_lines, self, fd, keep)
    tbffi.close(fd)
    if not was_read then ok, message = nil, errors.message_of(ok) end
  end
  if ok then ok, message = self:take_name() end
  if ok then
    self.room = self.size + GROWS_TO
    return self
  end
  self:drop()
  return nil, message
end

--- A new one. @return journal, or nil and a message
function M.create(path, facts)
  return M.rewrite(path, nil, facts, fingerprint.new(), function() end)
end

function Journal:close() tbffi.close(self.fd) end

return M
