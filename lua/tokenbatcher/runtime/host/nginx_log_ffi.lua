--- Lines in nginx's error log that say nothing of the request in which they were written. ngx.log adds each client's
-- address and request line, and that holds what is in its query, keys included.

local ffi = require "ffi"

local ngx = rawget(_G, "ngx")

local M = {}

local write -- nil: this nginx has none

local function find()
  return ffi.C.ngx_http_lua_ffi_raw_log
end

-- lua-resty-core declares it too, where somebody uses its ngx.errlog.
local function declared()
  local ok, fn = pcall(find)
  if ok then return fn end
  ffi.cdef "int ngx_http_lua_ffi_raw_log(void *request, int level, const unsigned char *text, size_t size);"
  ok, fn = pcall(find)
  return ok and fn or nil
end

if ngx and ngx.log then write = declared() end

--- @param level number  ngx.WARN, ngx.ERR, ...; the line goes to the main error_log
function M.log(level, text)
  if write then write(nil, level, text, #text) else ngx.log(level, text) end
end

return M
