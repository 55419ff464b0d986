--- Names for processes on many machines.

local ffi = require "ffi"

ffi.cdef "int gethostname(char *name, size_t size); int getpid(void);"

local M = {}

--- A name for this process that no other has: HOST-PID-NONCE.
function M.name(nonce)
  local name = ffi.new "char[256]"
  local ok = ffi.C.gethostname(name, 255) == 0
  return ("%s-%d-%s"):format(ok and ffi.string(name):gsub("[^%w.-]", "_") or "host", ffi.C.getpid(), nonce)
end

return M
