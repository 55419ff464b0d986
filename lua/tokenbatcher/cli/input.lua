--- The input of a run: lines, and whether they are those that an output was begun for.

local fingerprint = require "tokenbatcher.cli.fingerprint"
local lines = require "tokenbatcher.cli.lines"
local output = require "tokenbatcher.cli.output_ffi"
local tbffi = require "tokenbatcher.core.ffi"

local M = {}
local Input = {}
Input.__index = Input

--- @param path string|nil  nil and -: standard input  @return input {fd, path, name}, or nil and a message
function M.open(path)
  local self = setmetatable({ fd = 0, name = "standard input", number = 0, ahead = {}, ended = false,
    proof = nil }, Input) -- proof: what lines are compared with, behind the first 1,000
  if path and path ~= "-" then
    local message
    self.path, self.name = path, path
    self.fd, message = tbffi.open(path)
    if not self.fd then return nil, "cannot open the input: " .. message end
  end
  self.lines = lines.new(self.fd)
  return self
end

--- Read no more: next() still returns the lines that were read whole, then nil.
function Input:interrupt()
  self.ended = true
  self.lines:interrupt()
end

local function next_line(self)
  local line = self.ahead[self.number + 1]
  if line then
    self.number = self.number + 1
    self.ahead[self.number] = nil
    return line
  end
  local message
  line, message = self.lines:next()
  if line then self.number = self.lines.number end
  return line, message and ("cannot read %s: %s"):format(self.name, message)
end

local function other_input(self, what, ...)
  self.is_other = true
  return ("the input (%s) is not that of the output (%s): " .. what):format(self.name, self.output, ...)
end

-- Lines behind the first 1,000 are compared as they come.
local function prove(self, line)
  if line then
    if self.number <= fingerprint.HASHED then return line end
    local ok, from, to = self.proof:add(line)
    if ok then return line end
    return nil, other_input(self, "one of its lines %d to %d differs", from, to)
  end
  if self.ended or self.proof:is_over() then return nil end
  return nil, other_input(self, "it has no line %d", self.number + 1)
end

--- @return string the line; nil at the end; or nil and a message. `number` is its number
function Input:next()
  local line, message = next_line(self)
  if message or not self.proof then return line, message end
  return prove(self, line)
end

--- Are all lines that next() has returned known to be those that the output was begun for?
function Input:is_proven()
  local proof = self.proof
  return not proof or self.number <= proof.proven or proof:is_over()
end

-- A file is read twice; what cannot be is kept.
local function first_lines(self)
  if not output.is_plain(self.fd) then return self.lines, nil end
  local fd = self.path and tbffi.open(self.path)
  if not fd then return self.lines, nil end
  return lines.new(fd), fd
end

-- Compare the next line with the hash of the i-th. @return true, or nil and what is wrong
local function check_line(self, reader, i, hash)
  local line, message = reader:next()
  if message then return nil, ("cannot read %s: %s"):format(self.name, message) end
  if not line then return nil, not self.ended and other_input(self, "it has no line %d", i) or nil end
  if fingerprint.hash(line) ~= hash then return nil, other_input(self, "line %d differs", i) end
  if reader == self.lines then self.ahead[i] = line end
  return true
end

--- Is this the input that was read so far? Of its first 1,000 lines it is seen at once, of others as they come.
-- @param noted table  a fingerprint  @param path string  the output's
-- @return true, or nil and a message that names the first line that differs
function Input:check(noted, path)
  self.output = path
  local reader, fd = first_lines(self)
  local problem
  for i, hash in ipairs(noted.hashes) do
    local ok, message = check_line(self, reader, i, hash)
    if not ok then
      problem = message
      break
    end
  end
  if fd then tbffi.close(fd) end
  if problem then return nil, problem end
  self.proof = noted:proof()
  return true
end

return M
