-- Inside another loop: luv's (Debian: lua-luv). A poll handle on fd() calls step() when
-- there is work or a deadline has come; nothing polls, nothing blocks. Records come from
-- luv's timer, outside of coroutines of ours; answers are awaited in one.
--     LUA_PATH="lua/?.lua;lua/?/init.lua;;" luajit examples/luv_loop.lua

local tb = require "tokenbatcher"
local uv = require "luv"

local batcher = tb.TokenBatcher {
  inference_fn = function(records)
    tb.sleep(0.005) -- on luv's loop
    local results = {}
    for i, record in ipairs(records) do results[i] = record:upper() end
    return results
  end,
  batch_timeout_s = 0.01,
}

local poll = uv.new_poll(tb.fd())
poll:start("r", function() tb.step() end)
tb.spawn(function() batcher:start() end)
tb.step() -- it has started

local timer, ticks = uv.new_timer(), 0
timer:start(1, 2, function()
  ticks = ticks + 1
  local tick = ticks
  local future = assert(batcher:try_submit("tick " .. tick))
  tb.spawn(function() print(tick, (future:await())) end)
  if tick < 5 then return end
  timer:close()
  tb.spawn(function()
    batcher:stop()
    print(("%d records in %d batches"):format(batcher.stats.total_completed, batcher.stats.total_batches))
    poll:close() -- the last handle: uv.run() returns
  end)
end)

uv.run()
