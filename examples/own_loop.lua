-- A program that owns the loop: step() does one turn and never blocks, next_deadline()
-- says when it is needed again, fd() polls readable when there is work (give it to your
-- poll, epoll, luv or cqueues). Here the "loop" only spins until the work is done.
--     LUA_PATH="lua/?.lua;lua/?/init.lua;;" luajit examples/own_loop.lua

local tb = require "tokenbatcher"

local batcher = tb.TokenBatcher {
  inference_fn = function(records)
    local results = {}
    for i, record in ipairs(records) do results[i] = record:upper() end
    return results
  end,
  batch_timeout_s = 0.005,
}

local main = tb.spawn(function()
  batcher:start()
  local futures = batcher:submit_batch { "hello", "from", "my", "own", "loop" }
  local answers = tb.gather(futures)
  batcher:stop()
  return table.concat(answers, " ")
end)

print("descriptor to poll:", tb.fd() >= 0)
local turns = 0
while not main:done() do
  tb.step()
  turns = turns + 1
end
print("answer:", main:await())
print("next deadline:", tb.next_deadline())
assert(turns > 1)
