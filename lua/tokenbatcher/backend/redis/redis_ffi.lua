--- The FFI of the Redis client's library, which needs hiredis: loaded on first use, found as
-- ffi.lua finds the main one.

local ffi = require "ffi"
local tbffi = require "tokenbatcher.core.ffi"

local LIBRARY, ABI = "libtokenbatcher_redis.so", 1

local C, path = tbffi.load_library(LIBRARY,
  "Redis needs hiredis, Debian's package libhiredis0.14, and the library that make builds where libhiredis-dev is")
if not pcall(ffi.typeof, "tb_redis") then
  ffi.cdef "const char *tb_redis_cdef(void);"
  ffi.cdef(ffi.string(C.tb_redis_cdef()))
end
if C.tb_redis_abi() ~= ABI then
  error(("tokenbatcher: %s has ABI %d, these Lua modules need %d: they are of different versions")
    :format(path, C.tb_redis_abi(), ABI), 0)
end

local M = { lib = C, path = path }

--- A closed connection, freed with its last reference or by close().
function M.connection()
  local redis = C.tb_redis_new()
  if redis == nil then error("tokenbatcher: cannot make a Redis client (out of file descriptors?)", 0) end
  return ffi.gc(redis, C.tb_redis_free)
end

--- Free a connection now; the reference is dead afterwards.
function M.close(redis)
  ffi.gc(redis, nil)
  C.tb_redis_free(redis)
end

--- Begin to connect. @param to table  unix_socket, or host and port; connect_timeout_s, silence_s
-- @return number  0, or of tb_redis_refusal
function M.open(redis, to)
  local address = ffi.new "tb_redis_address"
  address.unix_socket, address.host, address.port = to.unix_socket, to.host, to.port or 0
  address.connect_timeout_us, address.silence_us = to.connect_timeout_s * 1e6, to.silence_s * 1e6
  return C.tb_redis_open(redis, address)
end

local counted = ffi.new "uint32_t[1]"
local INTEGER, ARRAY, ERROR, NIL = C.TB_REDIS_INTEGER, C.TB_REDIS_ARRAY, C.TB_REDIS_ERROR, C.TB_REDIS_NIL
local string_of = ffi.string

local node, at -- of the reply that is being read

-- The part at `at`, and those in it: nil is false, an error {err = text}.
local function read_part()
  local part = node + at
  local kind = part.kind
  at = at + 1
  if kind == ARRAY then
    local list = {}
    for i = 1, part.size do list[i] = read_part() end
    return list
  end
  if kind == INTEGER then return part.number end
  if kind == NIL then return false end
  local text = string_of(part.text, part.size)
  if kind == ERROR then return { err = text } end
  return text
end

--- Take the next reply. @return any a value (see above); nil: there is none
function M.take(redis)
  node, at = C.tb_redis_reply(redis, counted), 0
  if node == nil then return nil end
  return read_part()
end

return M
