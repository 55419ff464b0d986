--- What the command line writes to: files that must not lose a line, and pipes, sockets and
-- terminals, to which nobody may wait in write(2), since the loop would.
--
-- A descriptor that was inherited is shared with other programs, and so are its flags: a pipe or a terminal is
-- opened once more, as one of ours that does not block; a socket is asked not to with each call. Where neither is
-- possible, no more is written than what a descriptor takes that is ready.

local bit = require "bit"
local ffi = require "ffi"

local C = ffi.C

ffi.cdef [[
int flock(int fd, int operation);
int ftruncate(int fd, int64_t length);
int64_t lseek(int fd, int64_t offset, int whence);
ssize_t write(int fd, const char *bytes, size_t size);
ssize_t send(int fd, const char *bytes, size_t size, int flags);
ssize_t pread(int fd, void *bytes, size_t size, int64_t offset);
ssize_t pwrite(int fd, const char *bytes, size_t size, int64_t offset);
int fsync(int fd);
int rename(const char *from, const char *to);
int unlink(const char *path);
int statx(int folder, const char *path, int flags, unsigned mask, void *result);
int fchmod(int fd, unsigned mode);
int fchown(int fd, unsigned user, unsigned group);
int ioctl(int fd, unsigned long request, ...);
char *realpath(const char *path, char *resolved);
void free(void *memory);
typedef struct tb_cli_pollfd { int fd; short events, revents; } tb_cli_pollfd;
int poll(tb_cli_pollfd *fds, unsigned long n, int timeout_ms);
typedef struct tb_cli_itimerspec { long interval_s, interval_ns, first_s, first_ns; } tb_cli_itimerspec;
int timerfd_create(int clock, int flags);
int timerfd_settime(int fd, int flags, const tb_cli_itimerspec *value, tb_cli_itimerspec *old);
]]

local O_WRONLY, O_RDWR, O_CREAT, O_NOCTTY, O_APPEND, O_NONBLOCK, O_CLOEXEC = 1, 2, 64, 256, 1024, 2048, 524288
local MODE = 438 -- 0666, less what the umask takes
local LOCK_EXCLUSIVE, LOCK_AT_ONCE = 2, 4
local SEEK_SET, SEEK_CUR, SEEK_END = 0, 1, 2
local ENOENT, EINTR, EAGAIN, ENOTSOCK = 2, 4, 11, 88
local MSG_DONTWAIT, POLLOUT = 64, 4
local SMALL = 512 -- what a descriptor takes that says it is ready, at the least
local CLOCK_MONOTONIC = 1
local BLOCK = 65536

local M = {}

local function reason() return ffi.string(C.strerror(ffi.errno())) end

local function number(value) return tonumber(value) end

-- --- what a file is -------------------------------------------------------------

local AT_FDCWD, AT_EMPTY_PATH, WANTED, PERMISSIONS = -100, 4096, 795, 4095 -- kind, mode, owner, inode, size
local KIND, PLAIN = 61440, 32768
-- Where they are: as 32-bit numbers, as a 16-bit and as 64-bit ones.
local UID, GID, MAJOR, MINOR, STATX_MODE, INODE, SIZE = 5, 6, 34, 35, 14, 4, 5

-- What is known of an open file, or of a name, in 32-bit words, or nil.
local function status_of(file)
  local words, is_name = ffi.new "uint32_t[64]", type(file) == "string"
  local result = C.statx(is_name and AT_FDCWD or file, is_name and file or "", is_name and 0 or AT_EMPTY_PATH, WANTED,
    words)
  return result == 0 and words or nil
end

local function mode_of(words) return ffi.cast("uint16_t *", words)[STATX_MODE] end

--- Are both, names or descriptors, one plain file? Nothing is opened, which may wait, if it is a named pipe.
function M.are_same(file, other)
  local a, b = status_of(file), status_of(other)
  return a ~= nil and b ~= nil and bit.band(mode_of(a), KIND) == PLAIN and a[MAJOR] == b[MAJOR] and a[MINOR] == b[MINOR]
    and ffi.cast("uint64_t *", a)[INODE] == ffi.cast("uint64_t *", b)[INODE]
end

--- Is it there, and no plain file?
function M.is_other(path)
  local words = status_of(path)
  return words ~= nil and bit.band(mode_of(words), KIND) ~= PLAIN
end

--- Is it a plain file that is open?
function M.is_plain(fd) return not M.is_other(fd) end

--- The size of a file that is being read: its place in it stays.
function M.size_of(fd)
  local words = status_of(fd)
  return words and number(ffi.cast("uint64_t *", words)[SIZE])
end

-- --- by name --------------------------------------------------------------------

--- The one name of a file: without links; where there is none yet, of the folder it would be in.
-- @return string, or nil where not even that is there
function M.real_path(path)
  local found = C.realpath(path, nil)
  if found ~= nil then
    local text = ffi.string(found)
    C.free(found)
    return text
  end
  if ffi.errno() ~= ENOENT then return nil end
  local folder, name = path:match "^(.*/)([^/]+)$"
  local real = C.realpath(folder or ".", nil)
  if real == nil then return nil end
  local text = ffi.string(real):gsub("/$", "") .. "/" .. (name or path)
  C.free(real)
  return text
end

--- @return true, or nil and a message
function M.rename(from, to)
  if C.rename(from, to) == 0 then return true end
  return nil, to .. ": " .. reason()
end

function M.remove(path) C.unlink(path) end

function M.exists(path)
  local found = C.realpath(path, nil)
  if found == nil then return false end
  C.free(found)
  return true
end

-- --- files ----------------------------------------------------------------------

--- Open for writing at its end, and for reading; made where it is not. @return fd, or nil and a message
function M.open_file(path)
  local fd = C.open(path, bit.bor(O_RDWR, O_CREAT, O_CLOEXEC), ffi.cast("int", MODE))
  if fd < 0 then return nil, path .. ": " .. reason() end
  return fd
end

--- Of one file (not of all its names in turn) there is one writer. @return false where another has it
function M.lock(fd)
  return C.flock(fd, LOCK_EXCLUSIVE + LOCK_AT_ONCE) == 0 or ffi.errno() ~= EAGAIN
end

--- @return number bytes
function M.size(fd) return number(C.lseek(fd, 0, SEEK_END)) end

function M.seek(fd, offset) C.lseek(fd, offset, SEEK_SET) end

--- @return true, or nil and a message
function M.truncate(fd, size)
  if C.ftruncate(fd, size) == 0 then return true end
  return nil, reason()
end

--- @return true, or nil and a message
function M.sync(fd)
  if C.fsync(fd) == 0 then return true end
  return nil, reason()
end

local function pwrite(fd, text, offset)
  local at, pointer = 0, ffi.cast("const char *", text)
  while at < #text do
    local n = number(C.pwrite(fd, pointer + at, #text - at, offset + at))
    if n < 0 and ffi.errno() ~= EINTR then return at, reason() end
    at = at + math.max(0, n)
  end
  return at
end

--- Give a file that takes another's place its owner and mode, as far as we may.
function M.copy_mode(from_fd, to_fd)
  local words = status_of(from_fd)
  if not words then return end
  C.fchown(to_fd, words[UID], words[GID])
  C.fchmod(to_fd, bit.band(mode_of(words), PERMISSIONS))
end

--- Write at a place. @return number of bytes written, and a message where it is not all of them
M.write_at = pwrite

local read_buffer

--- @param most number|nil  of bytes: up to 64 KiB, which is the default
-- @return string, from that place; "" at the end; or nil and a message
function M.read_at(fd, offset, most)
  read_buffer = read_buffer or ffi.new("char[?]", BLOCK)
  local n
  repeat
    n = number(C.pread(fd, read_buffer, math.min(most or BLOCK, BLOCK), offset))
  until n >= 0 or ffi.errno() ~= EINTR
  if n < 0 then return nil, reason() end
  return ffi.string(read_buffer, n)
end

-- --- descriptors ------------------------------------------------------------------

local function is_stream(fd)
  return number(C.lseek(fd, 0, SEEK_CUR)) < 0
end

--- Open what is no plain file, such as a named pipe (which waits for its reader). @return fd, or nil and a message
function M.open_other(path)
  local fd = C.open(path, bit.bor(O_WRONLY, O_CREAT, O_NOCTTY, O_CLOEXEC), ffi.cast("int", MODE))
  if fd < 0 then return nil, path .. ": " .. reason() end
  return fd
end

--- How to write to an open descriptor: {fd, way}. `way`: "file" (it takes all, or fails), "own" (ours, and does
-- not block), "socket", "shared".
function M.way_to(fd)
  if not is_stream(fd) then return { fd = fd, way = "file" } end
  local own = C.open("/proc/self/fd/" .. fd, bit.bor(O_WRONLY, O_APPEND, O_NONBLOCK, O_NOCTTY, O_CLOEXEC))
  if own >= 0 then return { fd = own, way = "own" } end
  if C.send(fd, "", 0, MSG_DONTWAIT) >= 0 or ffi.errno() ~= ENOTSOCK then return { fd = fd, way = "socket" } end
  return { fd = fd, way = "shared" }
end

local pollfd

local function is_ready(fd)
  pollfd = pollfd or ffi.new "tb_cli_pollfd[1]"
  pollfd[0].fd, pollfd[0].events = fd, POLLOUT
  return C.poll(pollfd, 1, 0) == 1
end

--- Write what it takes of `text` behind its first `done` bytes. @return number of bytes, 0: none now; or nil and
-- a message
function M.write_some(to, text, done)
  local pointer, size = ffi.cast("const char *", text) + done, #text - done
  while true do
    local n
    if to.way == "socket" then
      n = number(C.send(to.fd, pointer, size, MSG_DONTWAIT))
    elseif to.way == "shared" then
      if not is_ready(to.fd) then return 0 end
      n = number(C.write(to.fd, pointer, math.min(size, SMALL)))
    else
      n = number(C.write(to.fd, pointer, size))
    end
    if n >= 0 then return n end
    if ffi.errno() == EAGAIN then return 0 end
    if ffi.errno() ~= EINTR then return nil, reason() end
  end
end

local TIOCGWINSZ, USUAL_WIDTH = 0x5413, 80

--- How many columns a terminal has.
function M.width(fd)
  local size = ffi.new "uint16_t[4]"
  return C.ioctl(fd, TIOCGWINSZ, size) == 0 and size[1] > 0 and size[1] or USUAL_WIDTH
end

--- How far a file has been read; nil of what is none.
function M.position(fd)
  local at = number(C.lseek(fd, 0, SEEK_CUR))
  return at >= 0 and at or nil
end

-- --- ticks ----------------------------------------------------------------------

--- A descriptor that is readable every so many seconds; take_tick() makes it wait for the next.
-- @return fd, or nil
function M.new_ticks(every_s)
  local fd = C.timerfd_create(CLOCK_MONOTONIC, bit.bor(O_NONBLOCK, O_CLOEXEC))
  if fd < 0 then return nil end
  local s = math.floor(every_s)
  local value = ffi.new("tb_cli_itimerspec", s, (every_s - s) * 1e9, s, (every_s - s) * 1e9)
  C.timerfd_settime(fd, 0, value, nil)
  return fd
end

local ticked

--- @return boolean  has a tick come since it was asked last?
function M.take_tick(fd)
  ticked = ticked or ffi.new "uint64_t[1]"
  return number(C.read(fd, ticked, 8)) == 8
end

return M
