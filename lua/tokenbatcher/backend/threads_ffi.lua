--- The FFI of libtokenbatcher_script, which has the worker threads: loaded on first use. It
-- lies beside the main library, or is part of the program as that is.

local ffi = require "ffi"
local tbffi = require "tokenbatcher.core.ffi"

local LIBRARY, ABI = "libtokenbatcher_script.so", 2

local function load_library()
  if tbffi.lib == ffi.C then return ffi.C, tbffi.path end
  local path = (tbffi.path:match "^.*/" or "") .. LIBRARY
  local reasons = {}
  for _, name in ipairs { path, path .. ".0" } do -- see base/library
    local ok, lib = pcall(ffi.load, name)
    if ok then return lib, name end
    reasons[#reasons + 1] = tostring(lib)
  end
  error(("tokenbatcher: cannot load %s, which must lie beside %s: %s\n(run make)"):format(path, tbffi.path,
    table.concat(reasons, "; ")), 0)
end

ffi.cdef "const char *tb_script_cdef(void); int tb_script_abi(void);"
local lib, path = load_library()
if lib.tb_script_abi() ~= ABI then
  error(("tokenbatcher: %s has ABI %d, these Lua modules need %d: they are of different versions")
    :format(path, lib.tb_script_abi(), ABI), 0)
end
if not pcall(ffi.typeof, "tb_threads") then ffi.cdef(ffi.string(lib.tb_script_cdef())) end

local M = { lib = lib, path = path }

--- Worker threads, freed with the last reference. nil: they cannot be made.
function M.threads(setup, count, memory_bytes)
  local handle = lib.tb_threads_new(setup, #setup, count, memory_bytes)
  if handle == nil then return nil end
  return ffi.gc(handle, lib.tb_threads_free)
end

--- The bytes of a tb_answer, which are released. nil: there was no memory for them.
function M.take_bytes(answer)
  if answer.bytes == nil then return nil end
  local bytes = ffi.string(answer.bytes, answer.size)
  lib.tb_threads_release(answer.bytes)
  return bytes
end

return M
