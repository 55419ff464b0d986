-- Blocking inference: on the loop it holds up everything else; in one thread it does not, no
-- more than waiting would; in four threads four batches run at once. Meanwhile a coroutine
-- sleeps 1 ms, over and over, and notes how late it wakes.
--     LUA_PATH="lua/?.lua;lua/?/init.lua;;" luajit examples/threads.lua

local tb = require "tokenbatcher"

local WORKER = "examples/blocking.lua"
local BATCHES, BATCH_SIZE = 40, 4

local function note_lateness(late_us, is_over)
  while not is_over() do
    local due = tb.now() + 0.001
    tb.sleep(0.001)
    late_us[#late_us + 1] = (tb.now() - due) * 1e6
  end
end

-- The answers of so many batches.
local function run(batcher, batches)
  local futures = {}
  for i = 1, batches * BATCH_SIZE do futures[i] = batcher:submit(i) end
  local _, errs = tb.gather(futures)
  if next(errs) then error(select(2, next(errs)), 0) end
end

local function measure(name, inference_fn, concurrent)
  return tb.run(function()
    local batcher = tb.TokenBatcher {
      inference_fn = inference_fn, max_batch_size = BATCH_SIZE, max_concurrent_batches = concurrent,
    }
    batcher:start()
    run(batcher, concurrent) -- threads start, and load the script
    local over, late_us = false, {}
    local started = tb.now()
    tb.spawn(note_lateness, late_us, function() return over end)
    run(batcher, BATCHES)
    local spent = tb.now() - started
    over = true
    batcher:stop()
    table.sort(late_us)
    print(("%-16s %8.0f %14.0f %14.0f"):format(name, BATCHES / spent,
      late_us[math.ceil(#late_us / 2)], late_us[math.ceil(#late_us * 0.99)]))
    return BATCHES / spent
  end)
end

print(("%-16s %8s %14s %14s"):format("inference", "batch/s", "late us, p50", "late us, p99"))
measure("only waits", tb.backend.simulated { base_s = 0.02, per_token_s = 0 }, 1)
measure("on the loop", dofile(WORKER).inference_fn, 1)
local one = measure("in 1 thread", tb.backend.threads { script = WORKER, threads = 1 }, 1)
local four = measure("in 4 threads", tb.backend.threads { script = WORKER, threads = 4 }, 4)
print(("4 threads do %.1f times as much as 1"):format(four / one))
