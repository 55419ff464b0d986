-- A batcher to be looked at: a simulated device with two slots, clients that come in bursts, a record that fails now
-- and then, options that change; its names are of somebody who would like the page to run them.
-- usage: luajit live.lua ADDRESS SECONDS [CHANGE_EVERY_S]

local tb = require "tokenbatcher"

local address, seconds, change_s = arg[1], tonumber(arg[2]), tonumber(arg[3] or 2)
local EVIL = [[<img src=x onerror="document.title='owned'">]]

local function infer(records)
  local tokens = 0
  for _, record in ipairs(records) do tokens = tokens + record.tokens end
  tb.sleep(0.12 + 0.0006 * tokens)
  for _, record in ipairs(records) do
    if record.is_bad then error("cannot read " .. record.text) end
  end
  return records
end

local function client(batcher, k, until_s)
  local seed = k
  local function random(n)
    seed = (seed * 16807) % 2147483647
    return seed % n
  end
  while tb.now() < until_s do
    for _ = 1, 1 + random(4) do
      local tokens = 4 + random(60) + (random(9) == 0 and 150 or 0)
      tb.spawn(function()
        local future = batcher:submit({ tokens = tokens, text = EVIL, is_bad = random(400) == 0 },
          { estimated_tokens = tokens, key = k % 4 == 0 and EVIL or "client-" .. k % 7, group = "model-" .. k % 2 })
        if future then future:await() end
      end)
    end
    tb.sleep(0.05 + random(900) / 1000 * (0.3 + math.abs(math.sin(tb.now() / 4))))
  end
end

tb.run(function()
  local batcher = tb.TokenBatcher { name = EVIL, inference_fn = infer, target_batch_tokens = 600, max_batch_size = 16,
    batch_timeout_s = 0.15, max_concurrent_batches = 2, on_error = "bisect", record_keys = true, on_full = "reject",
    max_queue_size = 60 }
  batcher:start()
  assert(tb.listen { address = address, batchers = batcher })
  print("ready")
  io.stdout:flush()
  local until_s = tb.now() + seconds
  for k = 1, 12 do tb.spawn(client, batcher, k * 7919, until_s) end
  local n = 0
  while tb.now() < until_s do
    tb.sleep(change_s)
    n = n + 1
    batcher:set { max_batch_size = n % 2 == 0 and 16 or 24, batch_timeout_s = n % 2 == 0 and 0.15 or 0.3 }
  end
  batcher:stop()
end)
