-- A producer in Lua: luajit examples/redis/producer.lua redis://127.0.0.1:6379

local tb = require "tokenbatcher"

tb.run(function()
  local queue = tb.queue.redis { url = arg[1], stream = "prompts" }
  local futures = {}
  for i, text in ipairs { "What is 2+2?", "Name a river.", "Explain a sewing machine." } do
    futures[i] = queue:submit({ text = text }, { estimated_tokens = math.floor(#text / 4) + 1, timeout_s = 60 })
  end
  for i, future in ipairs(futures) do
    local answer, err = future:await()
    print(i, answer and answer.text or err)
  end
  queue:stop()
end)
