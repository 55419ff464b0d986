--- The FFI of the HTTP server's library, which needs libmicrohttpd: loaded on first use, found as ffi.lua finds the
-- main one.

local ffi = require "ffi"
local tbffi = require "tokenbatcher.core.ffi"

local LIBRARY, ABI = "libtokenbatcher_listen.so", 1

local lib, path = tbffi.load_library(LIBRARY, "listening needs libmicrohttpd, Debian's package libmicrohttpd12, and "
  .. "the library that make builds where libmicrohttpd-dev is")
if not pcall(ffi.typeof, "tb_listen") then
  ffi.cdef "const char *tb_listen_cdef(void);"
  ffi.cdef(ffi.string(lib.tb_listen_cdef()))
end
if lib.tb_listen_abi() ~= ABI then
  error(("tokenbatcher: %s has ABI %d, these Lua modules need %d: they are of different versions")
    :format(path, lib.tb_listen_abi(), ABI), 0)
end

local M = { lib = lib, path = path }

local ERROR_SIZE = 256

--- Open a listener, which is freed with its last reference or by close().
-- @param given table  host and port, or path; is_remote
-- @return the listener; or nil, one of tb_listen_refusal and a sentence
function M.open(given)
  local options, out = ffi.new "tb_listen_options", ffi.new "tb_listen *[1]"
  local err = ffi.new("char[?]", ERROR_SIZE)
  options.host, options.port, options.path = given.host, given.port or 0, given.path
  options.flags = given.is_remote and lib.TB_LISTEN_REMOTE or 0
  local refusal = lib.tb_listen_open(out, options, err, ERROR_SIZE)
  if refusal ~= 0 then return nil, refusal, ffi.string(err) end
  return ffi.gc(out[0], lib.tb_listen_free)
end

--- Free a listener now; the reference is dead afterwards.
function M.close(listener)
  ffi.gc(listener, nil)
  lib.tb_listen_free(listener)
end

local asked = ffi.new "tb_listen_request"

--- What is asked: method, path, host, local_host, body (or nil), is_too_large; nil: nothing (any more).
function M.read(listener, id)
  if lib.tb_listen_read(listener, id, asked) == 0 then return nil end
  return {
    id = id, method = ffi.string(asked.method), path = ffi.string(asked.path), host = ffi.string(asked.host),
    local_host = ffi.string(asked["local"]), is_too_large = asked.is_too_large == 1,
    body = asked.body ~= nil and ffi.string(asked.body, asked.body_size) or nil,
  }
end

--- An argument of the query, or nil.
function M.argument(listener, id, name)
  local text = lib.tb_listen_argument(listener, id, name)
  return text ~= nil and ffi.string(text) or nil
end

local answer = ffi.new "tb_listen_response"

--- @param headers string  "Name: value" lines  @param is_stream boolean  the body is the beginning of a stream
-- @return boolean
function M.answer(listener, id, status, headers, body, is_stream)
  answer.status, answer.headers, answer.body, answer.body_size = status, headers, body, #body
  answer.flags = is_stream and lib.TB_LISTEN_STREAM or 0
  return lib.tb_listen_answer(listener, id, answer) == 0
end

return M
