-- luacheck: ignore
local tb = require "tokenbatcher"
local result
tb.run(function()
-- here
  if batcher and not batcher.is_running then batcher:start() end
  result = vector or response or batcher and batcher:submit("x", { estimated_tokens = 1 }):await()
  if batcher then batcher:stop() end
end)
assert(result, "no answer")
