--- The output of a run as a file of its own, and what is kept beside it: opened, gone on with, finished.
--
-- THE SPECIAL PROBLEM OF KILL -9. Whatever moment it comes at, F and F.journal together say what was answered:
-- what waits is in the journal before it is in F, and stays there until F has it; a journal, and F where error lines
-- were answered after all, is written anew beside the old one and then takes its name.

local errors = require "tokenbatcher.base.errors"
local fingerprint = require "tokenbatcher.cli.fingerprint"
local journal = require "tokenbatcher.cli.journal"
local output = require "tokenbatcher.cli.output_ffi"
local resume = require "tokenbatcher.cli.resume"
local tbffi = require "tokenbatcher.core.ffi"

local M = {}
local Job = {}
Job.__index = Job

local BLOCK = 262144
local MERGED = ".journal.merged" -- F written anew, before it has the name

-- --- what must not be written over --------------------------------------------------

-- The names of files that a run with this output writes.
local function written_names(real)
  return { real, real .. ".journal", real .. ".job", real .. ".journal.new", real .. MERGED }
end

--- @param path string  the output  @param others table  a list of {what, path, fd, is_output}
-- @return true, or nil and a message
function M.check(path, others)
  local real = output.real_path(path)
  for _, other in ipairs(others) do
    local same = other.path and real and output.real_path(other.path)
    for i, name in ipairs(real and written_names(real) or {}) do
      if name == same or output.are_same(other.fd or other.path, name) then
        local shown = i == 1 and path or name
        if other.is_output then return nil, ("the output cannot be the %s (%s), too"):format(other.what, shown) end
        return nil, ("the %s (%s) cannot be the output (%s), too"):format(other.what, other.shown or other.path, shown)
      end
    end
  end
  return true
end

-- --- opening --------------------------------------------------------------------------

local function open_locked(real)
  local fd, message = output.open_file(real)
  if not fd then return nil, "cannot open the output: " .. message end
  if not output.lock(fd) or not output.are_same(fd, real) then
    tbffi.close(fd)
    return nil, ("another run is writing to the output (%s)"):format(real)
  end
  return fd
end

-- Does the journal hold more than its first line?
local function has_entries(path)
  local fd = tbffi.open(path)
  if not fd then return false end
  local n = 0
  for _ in journal.lines_of(fd) do
    n = n + 1
    if n == 2 then break end
  end
  tbffi.close(fd)
  return n == 2
end

-- Old answers go before anything says that they are of this input.
local function begin(self)
  output.remove(self.journal_path)
  output.remove(self.done_path)
  local ok, message = output.truncate(self.fd, 0)
  if not ok then return nil, "cannot write the output: " .. message end
  self.journal, message = journal.create(self.journal_path, self.facts)
  if not self.journal then return nil, message end
  self.lines = 0
  return self
end

local function refuse_to_begin(self, path)
  if output.size(self.fd) > 0 then
    return ("the output (%s) is not empty: --resume goes on with it, --overwrite begins anew"):format(path)
  end
  for _, name in ipairs { self.journal_path, self.done_path } do
    local _, message = journal.read_header(name)
    if message then return ("%s, and would be written over: --overwrite says that it may"):format(message) end
  end
  if output.exists(self.journal_path) and has_entries(self.journal_path) then
    return ("%s holds answers of a run that did not end: --resume goes on with them, --overwrite begins anew")
      :format(self.journal_path)
  end
end

local function mode_of(facts)
  return facts.unordered and "--unordered" or "in the order of the input"
end

local function mismatch(header, facts, path)
  if header.unordered ~= facts.unordered then
    return ("%s was written %s: go on %s"):format(path, mode_of(header),
      header.unordered and "with --unordered, too" or "without --unordered")
  end
  if header.encoded ~= facts.encoded then
    return ("%s was written by a script %s"):format(path, header.encoded and "with an encode, and this one has none"
      or "without an encode, and this one has one")
  end
end

-- What is to be gone on with: the header of the journal, and its path; or nil, nil and a message.
local function look(self, path)
  local from = output.exists(self.journal_path) and self.journal_path
    or output.exists(self.done_path) and self.done_path
  local header, message
  if from then header, message = journal.read_header(from) end
  message = message or header and mismatch(header, self.facts, path)
  if not header and not message and self.facts.encoded then
    message = ("%s is gone: nobody can say which lines of the input %s answers, whose lines the script's encode has "
      .. "written"):format(self.journal_path, path)
  end
  if message then return nil, nil, message end
  return header or { input = fingerprint.new() }, from
end

local function go_on(self, path, args, check_input)
  if output.size(self.fd) == 0 and not has_entries(self.journal_path) then return begin(self) end
  local header, from, message = look(self, path)
  if not header then return nil, message end
  local ok
  ok, message = check_input(header.input)
  if not ok then return nil, message end
  self.state, message = resume.read(self.path, self.facts, from, args.retry_codes)
  if not self.state then return nil, message end
  if self.state.is_torn then
    ok, message = output.truncate(self.fd, self.state.size)
    if not ok then return nil, "cannot cut the output: " .. message end
  end
  self.journal, message = self.state:take_journal(self.journal_path, from, self.facts, header.input)
  if not self.journal then return nil, message end
  if from == self.done_path then output.remove(from) end
  self.lines = self.state.lines
  return self
end

--- Open a file for the answers of a run.
-- @param args table  resume, overwrite, retry_codes, unordered, sync
-- @param is_encoded boolean  by the script's own encode
-- @param check_input function(fingerprint) -> true, or nil and a message: is it that input?
-- @return job {fd, journal, state, lines}; nil and a message
function M.open(path, args, is_encoded, check_input)
  local real = output.real_path(path)
  if not real then return nil, ("cannot open the output: %s: No such file or directory"):format(path) end
  local fd, message = open_locked(real)
  if not fd then return nil, message end
  real = output.real_path(path) -- a link may have led nowhere
  output.remove(real .. MERGED) -- of a run that was killed
  local self = setmetatable({
    fd = fd, path = real, journal_path = real .. ".journal", done_path = real .. ".job",
    facts = { unordered = args.unordered or false, encoded = is_encoded, like = fd,
      is_synced = args.sync > 0 },
  }, Job)
  local made
  if args.resume then
    made, message = go_on(self, path, args, check_input)
  else
    message = not args.overwrite and refuse_to_begin(self, path) or nil
    if not message then made, message = begin(self) end
  end
  if made then
    output.seek(fd, output.size(fd))
    return self
  end
  tbffi.close(fd)
  return nil, message
end

-- --- the end --------------------------------------------------------------------------

local function copy_with(self, to, replaced)
  local parts, n, bytes, offset, at = {}, 0, 0, 0, 0
  local function flush()
    local written, message = output.write_at(to, table.concat(parts, "", 1, n), offset)
    offset, n, bytes = offset + written, 0, 0
    if message then error(errors.new("cannot_write", "cannot write the output: " .. message), 0) end
  end
  for line in journal.lines_of(self.fd) do
    at = at + 1
    if replaced[at] then line = self.journal:line_at(replaced[at]) end
    n = n + 1
    parts[n], bytes = line .. "\n", bytes + #line
    if bytes > BLOCK then flush() end
  end
  flush()
end

--- Error lines that were answered after all get their answers: F is written anew, and takes its name when it is
-- whole. @param replaced table  number of a line of F -> offset in the journal
-- @return true, or nil and a message: then F is as it was
function Job:merge(replaced)
  local temporary = self.path .. MERGED
  local fd, message = output.open_file(temporary)
  if not fd then return nil, message end
  output.lock(fd) -- before it has the name
  output.truncate(fd, 0)
  output.copy_mode(self.fd, fd)
  local ok, err = pcall(copy_with, self, fd, replaced)
  if ok and self.facts.is_synced then ok, err = output.sync(fd) end
  if ok then ok, err = output.rename(temporary, self.path) end
  if not ok then
    tbffi.close(fd)
    output.remove(temporary)
    return nil, errors.message_of(err)
  end
  tbffi.close(self.fd)
  self.fd, self.facts.like = fd, fd
  return true
end

-- What a journal keeps of an answer that is in F: of a line that says it itself, nothing.
local function clean(self, replaced)
  local facts = self.facts
  local path = self.journal_path
  local made, message = journal.rewrite(path, path, facts, self.journal.input, function(item)
    if item.is_plain or not facts.encoded then return nil end
    if replaced[item.at] and not item.again then return nil end
    if not item.code and not facts.unordered then return nil end
    return journal.entry { at = item.at, index = item.index, code = item.code }
  end)
  if not made then return nil, message end
  self.journal:close()
  self.journal = made
  return true
end

--- Every line has its answer in F. @return true, or nil and a message
function Job:finish(replaced)
  local ok, message = clean(self, replaced)
  if ok then ok, message = output.rename(self.journal_path, self.done_path) end
  return ok, message
end

function Job:close()
  if self.journal then self.journal:close() end
  tbffi.close(self.fd)
end

return M
