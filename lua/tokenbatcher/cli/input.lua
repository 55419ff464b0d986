--- The input of a run: lines, and whether they are those that an output was begun for.

local journal = require "tokenbatcher.cli.journal"
local lines = require "tokenbatcher.cli.lines"
local output = require "tokenbatcher.cli.output_ffi"
local tbffi = require "tokenbatcher.core.ffi"

local M = {}
local Input = {}
Input.__index = Input

--- @param path string|nil  nil and -: standard input  @return input {fd, path, name}, or nil and a message
function M.open(path)
  local self = setmetatable({ fd = 0, name = "standard input", number = 0, ahead = {}, ended = false }, Input)
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

-- @return string the line; nil at the end; or nil and a message. `number` is its number
function Input:next()
  local line = self.ahead[self.number + 1]
  if line then
    self.number = self.number + 1
    self.ahead[self.number] = nil
    return line
  end
  local message
  line, message = self.lines:next()
  if line then self.number = self.lines.number end
  return line, message
end

-- A file is read twice; what cannot be is kept.
local function first_lines(self)
  if not output.is_plain(self.fd) then return self.lines, nil end
  local fd = self.path and tbffi.open(self.path)
  if not fd then return self.lines, nil end
  return lines.new(fd), fd
end

--- Is this the input of which these are the hashes of the first lines?
-- @return true, or nil and a message that names the first line that differs
function Input:check(hashes, path)
  local reader, fd = first_lines(self)
  local problem
  for i, hash in ipairs(hashes) do
    local line, message = reader:next()
    if message then
      problem = ("cannot read %s: %s"):format(self.name, message)
    elseif not line then
      problem = not self.ended and ("the input (%s) is not that of the output (%s): it has no line %d")
        :format(self.name, path, i) or nil
      break
    elseif journal.hash(line) ~= hash then
      problem = ("the input (%s) is not that of the output (%s): line %d differs"):format(self.name, path, i)
    elseif not fd then
      self.ahead[i] = line
    end
    if problem then break end
  end
  if fd then tbffi.close(fd) end
  return not problem or nil, problem
end

return M
