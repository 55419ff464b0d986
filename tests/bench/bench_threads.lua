-- Blocking inference (20 ms in usleep) in worker threads: batches a second, and how late a
-- timer of 1 ms is meanwhile. Prints plain lines "name value unit".
local tb = require "tokenbatcher"

local WORKER = "examples/blocking.lua"
local BATCHES = 40

local function run(batcher, batches)
  local futures = {}
  for i = 1, batches do futures[i] = batcher:submit(i) end
  local _, errs = tb.gather(futures)
  if next(errs) then error(select(2, next(errs)), 0) end
end

-- Batches a second; prints the lateness.
local function measure(name, inference_fn, concurrent)
  return tb.run(function()
    local batcher = tb.TokenBatcher {
      inference_fn = inference_fn, max_batch_size = 1, max_concurrent_batches = concurrent,
    }
    batcher:start()
    run(batcher, concurrent) -- threads start, and load the script
    local over, late_us = false, {}
    tb.spawn(function()
      while not over do
        local due = tb.now() + 0.001
        tb.sleep(0.001)
        late_us[#late_us + 1] = (tb.now() - due) * 1e6
      end
    end)
    local started = tb.now()
    run(batcher, BATCHES)
    local spent = tb.now() - started
    over = true
    batcher:stop()
    table.sort(late_us)
    print(("timer_beside_%s p50 %.0f us p99 %.0f us"):format(name, late_us[math.ceil(#late_us / 2)],
      late_us[math.ceil(#late_us * 0.99)]))
    return BATCHES / spent
  end)
end

measure("waiting", tb.backend.simulated { base_s = 0.02, per_token_s = 0 }, 1)
local one = measure("one_thread", tb.backend.threads { script = WORKER, threads = 1 }, 1)
local four = measure("four_threads", tb.backend.threads { script = WORKER, threads = 4 }, 4)
print(("threads_one_batches_per_s %.0f"):format(one))
print(("threads_four_batches_per_s %.0f"):format(four))
print(("threads_four_to_one %.2f"):format(four / one))

-- What the way to a thread and back costs, with nothing to do there.
local path = os.tmpname()
local file = assert(io.open(path, "w"))
file:write "return { inference_fn = function(records) return records end }"
file:close()
tb.run(function()
  local batcher = tb.TokenBatcher { inference_fn = tb.backend.threads { script = path, threads = 1 }, policy = "eager" }
  batcher:start()
  run(batcher, 100)
  local took_us = {}
  for i = 1, 2000 do
    local started = tb.now()
    batcher:submit("What is 2+2?"):await()
    took_us[i] = (tb.now() - started) * 1e6
  end
  batcher:stop()
  table.sort(took_us)
  print(("thread_round_trip p50 %.0f us p99 %.0f us"):format(took_us[1000], took_us[1980]))
end)
os.remove(path)
