--- A file that one at a time writes to, by whatever name: made with mode 0600, locked as long
-- as it is open (flock: the kernel's, so that it ends with the process), and written in blocks.

local ffi = require "ffi"
local tbffi = require "tokenbatcher.core.ffi"

local C = ffi.C

ffi.cdef [[
int flock(int fd, int operation);
int fchmod(int fd, unsigned mode);
int ftruncate(int fd, int64_t length);
int64_t lseek(int fd, int64_t offset, int whence);
ssize_t write(int fd, const char *bytes, size_t size);
]]

local O_WRONLY, O_CREAT, O_APPEND, O_CLOEXEC = 1, 64, 1024, 524288
local OURS_ALONE = 384 -- 0600
local LOCK_EXCLUSIVE, LOCK_AT_ONCE, SEEK_END = 2, 4, 2
local EINTR, EWOULDBLOCK = 4, 11
local BLOCK_BYTES = 65536

local M = {}
local File = {}
File.__index = File

local open = setmetatable({}, { __mode = "k" }) -- for file systems that know no locks

local function reason() return ffi.string(C.strerror(ffi.errno())) end

local function is_open_here(fd)
  for file in pairs(open) do
    if tbffi.is_same_file(fd, file.path) then return true end
  end
  return false
end

--- Open a file for writing at its end; what is in it stays.
-- @return a file; nil and a message; or nil, nil where somebody writes to it already
function M.open(path)
  local fd = C.open(path, O_WRONLY + O_CREAT + O_APPEND + O_CLOEXEC, ffi.cast("int", OURS_ALONE))
  if fd < 0 then return nil, path .. ": " .. reason() end
  local is_plain = tbffi.is_same_file(fd, path)
  local is_locked = is_plain and C.flock(fd, LOCK_EXCLUSIVE + LOCK_AT_ONCE) ~= 0 and ffi.errno() == EWOULDBLOCK
  if is_plain and (is_locked or is_open_here(fd)) then
    C.close(fd)
    return nil
  end
  local self = setmetatable({ path = path, fd = fd, is_plain = is_plain, parts = {}, n = 0, bytes = 0 }, File)
  self.guard = newproxy(true)
  getmetatable(self.guard).__gc = function() self:close() end
  if is_plain then open[self] = true end
  return self
end

--- How long it is; nil for what is no plain file.
function File:size()
  return self.is_plain and tonumber(C.lseek(self.fd, 0, SEEK_END)) or nil
end

--- Is this one of its names?
function File:is_named(path) return self.is_plain and tbffi.is_same_file(self.fd, path) end

--- Begin anew: nobody else may read it from now on.
function File:clear()
  if not self.is_plain then return true end
  C.fchmod(self.fd, OURS_ALONE) -- fails where the file is another user's; that is for him to say
  if C.ftruncate(self.fd, 0) ~= 0 then return nil, reason() end
  return true
end

--- @return true, or nil and a message
function File:write(text)
  self.n = self.n + 1
  self.parts[self.n] = text
  self.bytes = self.bytes + #text
  if self.bytes < BLOCK_BYTES then return true end
  return self:flush()
end

--- What is in memory goes to the file. @return true, or nil and a message
function File:flush()
  local text, at = table.concat(self.parts, "", 1, self.n), 0
  self.parts, self.n, self.bytes = {}, 0, 0
  while at < #text do
    local pointer = ffi.cast("const char *", text)
    local n = tonumber(C.write(self.fd, pointer + at, #text - at))
    if n < 0 and ffi.errno() ~= EINTR then return nil, reason() end
    at = at + math.max(0, n)
  end
  return true
end

--- @return true, or nil and a message
function File:close()
  if not self.guard then return true end
  local ok, message = self:flush()
  open[self] = nil
  getmetatable(self.guard).__gc = nil
  self.guard = nil
  C.close(self.fd)
  return ok, message
end

return M
