--- What time it is, for those outside: the clock that people set. Nothing here is decided by it.

local ffi = require "ffi"

ffi.cdef [[
typedef struct { long s; long ns; } tb_wall_time;
int tb_wall_clock(int id, tb_wall_time *time) __asm__("clock_gettime");
]]

local REALTIME = 0
local time = ffi.new "tb_wall_time"

local M = {}

--- Microseconds since 1970, whole.
function M.now_us()
  ffi.C.tb_wall_clock(REALTIME, time)
  return tonumber(time.s) * 1e6 + math.floor(tonumber(time.ns) / 1000)
end

return M
