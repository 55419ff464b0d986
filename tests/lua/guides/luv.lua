-- luacheck: ignore
local uv = require "luv"
local tb = require "tokenbatcher"
local batcher = tb.TokenBatcher { inference_fn = function(records) return records end }
-- here
local answer
tb.spawn(function()
  answer = batcher:submit("x"):await()
  batcher:stop()
  uv.stop()
end)
tb.step()
uv.run()
assert(answer == "x")
