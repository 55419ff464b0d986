-- An inference function that blocks whoever calls it: 20 ms in usleep(), as a library would
-- that computes. Worker threads may run it: see examples/threads.lua.
--     seq 10 | tokenbatcher run examples/blocking.lua

local ffi = require "ffi"

ffi.cdef "int usleep(unsigned microseconds);"

return {
  inference_fn = function(records)
    ffi.C.usleep(20000)
    local results = {}
    for i, record in ipairs(records) do results[i] = "seen " .. tostring(record) end
    return results
  end,
  max_batch_size = 4,
}
