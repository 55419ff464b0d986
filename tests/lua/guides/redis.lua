-- luacheck: ignore
-- A Redis of its own in the place of redis://host:6379, and a worker in the same process.
local redis = require "tests.lua.redis_helper"
local tb = require "tokenbatcher"
local server = redis.server()
local made = { queue = {}, source = {} }
for kind, list in pairs(made) do
  local make = tb[kind].redis
  rawset(tb[kind], "redis", function(given)
    given.url = server.url
    list[#list + 1] = make(given)
    return list[#list]
  end)
end
local batcher = tb.TokenBatcher { inference_fn = function(records) return records end, inference_timeout_s = 5 }
local printed
tb.run(function()
  batcher:start()
  local worker = tb.source.redis { stream = "prompts" }
  tb.spawn(function() worker:feed(batcher) end)
  tb.spawn(function()
    while not (printed and made.source[2]) do tb.sleep(0.01) end
    for _, source in ipairs(made.source) do source:stop() end
    for _, queue in ipairs(made.queue) do queue:close() end
  end)
  local print = function(answer) printed = assert(answer) end
-- here
  batcher:stop()
end)
server:stop()
assert(printed.text == "What is 2+2?")
