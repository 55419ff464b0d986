--- core: the C core as Lua sees it: its functions, options, stats,
-- keys and views. It knows base and the library; every other room knows it. Only here, and in
-- the *_ffi.lua of the libraries beside it (HTTP, threads), is LuaJIT's ffi touched: nobody
-- else handles a pointer or declares a C type. FFI calls are leaf calls: no C function called
-- from here calls Lua.
--
-- This file finds the library, declares its functions from the library's own copy of the
-- public headers, and checks the version. It is looked for where base/library says, or is the
-- program itself. On failure the error lists every path tried.

local ffi = require "ffi"
local library_files = require "tokenbatcher.base.library"

local ABI = 3
local LIBRARY = "libtokenbatcher.so"

ffi.cdef "ssize_t readlink(const char *path, char *buffer, size_t size);"

-- The folder of the command-line host, which is in build/ or in PREFIX/bin/.
local function program_folder()
  local buffer = ffi.new("char[?]", 4096)
  local size = tonumber(ffi.C.readlink("/proc/self/exe", buffer, 4096))
  return size > 0 and ffi.string(buffer, size):match "^(.*)/[^/]*$" or "."
end

--- Load one of our libraries. @return library, path; raises, listing every path tried
-- @param advice string  what to do about it
local function load_library(library, advice)
  local tried = {}
  local folder = package.loaded["tokenbatcher.linked"] and program_folder() or nil
  for _, path in ipairs(library_files.candidates(library, LIBRARY, folder)) do
    local ok, lib = pcall(ffi.load, path)
    if ok then return lib, path end
    tried[#tried + 1] = "\n  " .. path .. ": " .. tostring(lib)
  end
  error("tokenbatcher: cannot load " .. library .. "; tried:" .. table.concat(tried) .. "\n(" .. advice .. ")", 0)
end

local function load_main_library()
  if package.loaded["tokenbatcher.linked"] then return ffi.C, "the program itself" end
  return load_library(LIBRARY, "run make, or set TOKENBATCHER_LIB to the file")
end

local function declare(lib)
  if pcall(ffi.typeof, "tb_batcher") then return end -- loaded before in this Lua state
  ffi.cdef(ffi.string(lib.tb_cdef()))
end

ffi.cdef "const char *tb_cdef(void); int tb_abi(void);"
local lib, path = load_main_library()
if lib.tb_abi() ~= ABI then
  error(("tokenbatcher: %s has ABI %d, these Lua modules need %d: they are of different versions")
    :format(path, lib.tb_abi(), ABI), 0)
end
declare(lib)

local M = {
  lib = lib,
  path = path,
  NEVER = -1,
  SLOTS = 2 ^ lib.TB_SLOT_BITS,
  string = ffi.string,
  load_library = load_library,
}

--- A C array or struct; zeroed, owned by Lua. `declaration` like "tb_event[?]".
-- @param declaration string  @param n number|nil  its length
function M.new(declaration, n)
  if n then return ffi.new(declaration, n) end
  return ffi.new(declaration)
end

--- A string or nil from a C string.
function M.text(pointer)
  if pointer == nil then return nil end
  return ffi.string(pointer)
end

--- A new batcher of the core, freed with its last reference. nil: no memory.
function M.batcher(config)
  local handle = lib.tb_new(config)
  if handle == nil then return nil end
  return ffi.gc(handle, lib.tb_free)
end

--- A new libev driver, freed with its last reference.
function M.driver(inbox_capacity)
  local ev = lib.tb_ev_new(inbox_capacity)
  if ev == nil then error("tokenbatcher: cannot make an event loop (out of memory or file descriptors?)", 0) end
  return ffi.gc(ev, lib.tb_ev_free)
end

ffi.cdef [[
int open(const char *path, int flags, ...);
ssize_t read(int fd, void *buffer, size_t size);
int close(int fd);
int isatty(int fd);
char *strerror(int error);
]]

local O_RDONLY, O_CLOEXEC, EINTR = 0, 524288, 4
local READ_SIZE = 65536
local read_buffer

--- Open a file for reading. @return number fd, or nil and a message
function M.open(file)
  local fd = ffi.C.open(file, O_RDONLY + O_CLOEXEC)
  if fd >= 0 and ffi.C.read(fd, nil, 0) >= 0 then return fd end -- a folder can be opened, but not read
  return nil, file .. ": " .. ffi.string(ffi.C.strerror(ffi.errno()))
end

--- Read what there is, up to 64 KiB. @return string ("" at the end), or nil and a message
function M.read(fd)
  read_buffer = read_buffer or ffi.new("char[?]", READ_SIZE)
  local n
  repeat
    n = tonumber(ffi.C.read(fd, read_buffer, READ_SIZE))
  until n >= 0 or ffi.errno() ~= EINTR
  if n < 0 then return nil, ffi.string(ffi.C.strerror(ffi.errno())) end
  return ffi.string(read_buffer, n)
end

--- Does `file` name the plain file that is open as `fd`, by whatever name?
function M.is_same_file(fd, file)
  return lib.tb_ev_same_file(fd, file) == 1
end

--- Are both names of one plain file?
function M.are_same_file(file, other)
  local fd = M.open(file)
  if not fd then return false end
  local is_same = M.is_same_file(fd, other)
  M.close(fd)
  return is_same
end

function M.close(fd)
  ffi.C.close(fd)
end

function M.is_terminal(fd)
  return ffi.C.isatty(fd) == 1
end

--- Free a driver now; the reference is dead afterwards.
function M.close_driver(ev)
  ffi.gc(ev, nil)
  lib.tb_ev_free(ev)
end

--- A pointer to what a C program has at this address (a lightuserdata), for the call that it is in.
function M.at(pointer_type, address)
  return ffi.cast(pointer_type, address)
end

--- Copy a C struct of type `name`.
function M.copy(name, source)
  local out = ffi.new(name)
  ffi.copy(out, source, ffi.sizeof(name))
  return out
end

return M
