--- The FFI of the HTTP client's library, which needs libcurl: loaded on first use, found as
-- ffi.lua finds the main one.

local ffi = require "ffi"
local tbffi = require "tokenbatcher.core.ffi"

local LIBRARY, ABI = "libtokenbatcher_http.so", 2

local lib, path = tbffi.load_library(LIBRARY,
  "HTTP needs libcurl 4, Debian's package libcurl4, and the library that make builds where libcurl4-openssl-dev is")
if not pcall(ffi.typeof, "tb_http") then
  ffi.cdef "const char *tb_http_cdef(void);"
  ffi.cdef(ffi.string(lib.tb_http_cdef()))
end
if lib.tb_http_abi() ~= ABI then
  error(("tokenbatcher: %s has ABI %d, these Lua modules need %d: they are of different versions")
    :format(path, lib.tb_http_abi(), ABI), 0)
end

local M = { lib = lib, path = path }

--- A client, freed with its last reference or by close().
function M.client()
  local http = lib.tb_http_new()
  if http == nil then error("tokenbatcher: cannot make an HTTP client (out of file descriptors?)", 0) end
  return ffi.gc(http, lib.tb_http_free)
end

--- Free a client now; the reference is dead afterwards.
function M.close(http)
  ffi.gc(http, nil)
  lib.tb_http_free(http)
end

--- The bytes at a pointer, or "" for none.
function M.bytes(pointer, size)
  if pointer == nil then return "" end
  return ffi.string(pointer, size)
end

return M
