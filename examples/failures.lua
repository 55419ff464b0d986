-- One record that cannot be answered fails alone: tb.failure in the place of its result.
-- The others of its batch get theirs.
--
--     printf '4\n-1\n9\n' | tokenbatcher run examples/failures.lua

local tb = require "tokenbatcher"

return {
  inference_fn = function(records)
    local roots = {}
    for i, x in ipairs(records) do
      roots[i] = x >= 0 and math.sqrt(x) or tb.failure("no real root of " .. x)
    end
    return roots
  end,
}
