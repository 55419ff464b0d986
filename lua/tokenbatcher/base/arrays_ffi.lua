--- Arrays of C for numbers: where hundreds of them are read and written at every step, they take half the time of
-- tables. Zeroed; nothing checks an index.

local ffi = require "ffi"

local M = {}

local doubles, ints = ffi.typeof "double[?]", ffi.typeof "int32_t[?]"

--- @param n number  @return cdata  numbers 0 to n - 1
function M.doubles(n) return doubles(n) end

--- The same of whole numbers from -2^31 to 2^31 - 1; what is assigned is cut to one.
function M.ints(n) return ints(n) end

return M
