--- How many workers are too many? Batches dilute where many half-idle workers share a stream: each takes what is there,
-- and nobody's batch fills. Real batchers on the virtual clock, a modelled stream: whoever waits longest gets the next
-- records, as Redis serves blocked readers.
--
--     luajit tests/bench/fleet.lua [SECONDS]
--
-- A device takes 20 ms + 50 us a token; batches of up to 32,000 tokens and 256 records; lengths are log-normal, 500
-- tokens on average; arrivals are random (Poisson). Every record costs Redis 16 us of its one thread.

local tb = require "tokenbatcher"

local SECONDS = tonumber(arg[1] or 4)
local BASE_S, PER_TOKEN_S, TARGET, MOST, MEAN = 0.02, 0.00005, 32000, 256, 500
local REDIS_S = 16e-6
local FULL = TARGET / MEAN -- records of a full batch
local CAPACITY = FULL / (BASE_S + PER_TOKEN_S * TARGET) -- records/s of a worker whose batches are full

local state

local function random()
  state = (state * 1103515245 + 12345) % 2 ^ 31
  return (state + 0.5) / 2 ^ 31
end

local SPREAD = 0.8

local function tokens()
  local normal = math.sqrt(-2 * math.log(random())) * math.cos(2 * math.pi * random())
  return math.floor(math.max(10, math.min(4000, math.exp(SPREAD * normal - SPREAD * SPREAD / 2) * MEAN)))
end

-- --- the stream: records in order, and workers that wait for some -----------------------

local function new_stream()
  return { first = 1, last = 0, waiting = {}, waiting_first = 1, waiting_last = 0 }
end

local function serve(stream)
  while stream.first <= stream.last and stream.waiting_first <= stream.waiting_last do
    local wake = stream.waiting[stream.waiting_first]
    stream.waiting[stream.waiting_first] = nil
    stream.waiting_first = stream.waiting_first + 1
    wake()
  end
end

local function put(stream, record)
  stream.last = stream.last + 1
  stream[stream.last] = record
  serve(stream)
end

-- --- a worker: what its intake does, see backend/redis/intake.lua ---------------------------

local function wanted(worker)
  local slots = worker.batcher:idle_slots()
  local credit = slots * TARGET - worker.queued
  if credit <= 0 then return 0 end
  return math.max(1, math.min(math.floor(credit / MEAN), slots * MOST - worker.count, MOST))
end

local function settle(model, worker, record)
  model.latencies[#model.latencies + 1] = tb.now() - record.at
  worker.done(worker)
end

local function take(model, worker)
  local stream, n = model.stream, wanted(worker)
  worker.is_waiting = false
  while n > 0 and stream.first <= stream.last do
    local record = stream[stream.first]
    stream[stream.first] = nil
    stream.first, n = stream.first + 1, n - 1
    worker.queued, worker.count = worker.queued + record.tokens, worker.count + 1
    record.worker = worker
    worker.batcher:submit(record, { estimated_tokens = record.tokens })
  end
  worker.done(worker)
end

local function new_worker(model, policy)
  local worker = { queued = 0, count = 0, is_waiting = false }
  worker.batcher = tb.TokenBatcher {
    target_batch_tokens = TARGET, max_batch_size = MOST, batch_timeout_s = 0.05, policy = policy,
    inference_fn = function(records, info)
      local s = BASE_S + PER_TOKEN_S * info.cost
      model.batches, model.records, model.busy = model.batches + 1, model.records + #records, model.busy + s
      worker.queued, worker.count = worker.queued - info.cost, worker.count - #records
      tb.sleep(s)
      tb.spawn(function()
        for _, record in ipairs(records) do settle(model, worker, record) end
      end)
      return records
    end,
  }
  -- Wants more: stands in line, unless it does.
  function worker.done()
    local stream = model.stream
    if worker.is_waiting or wanted(worker) == 0 then return end
    worker.is_waiting = true
    stream.waiting_last = stream.waiting_last + 1
    stream.waiting[stream.waiting_last] = function() take(model, worker) end
  end
  worker.batcher:start()
  worker.done()
  return worker
end

-- --- an experiment ------------------------------------------------------------------------------

--- @return mean batch, share of time that devices are busy, p50 and p99 of latency in s, device time for 1,000 records
local function experiment(workers, rate, policy)
  local seconds = math.min(SECONDS, SECONDS * 64 / workers + 0.5) -- as many records as can be waited for
  state = 1
  local model = { stream = new_stream(), latencies = {}, batches = 0, records = 0, busy = 0 }
  local took = tb.run(function()
    local list = {}
    for i = 1, workers do list[i] = new_worker(model, policy) end
    while tb.now() < seconds do
      tb.sleep(-math.log(random()) / rate)
      put(model.stream, { at = tb.now(), tokens = tokens() })
    end
    while model.stream.first <= model.stream.last do
      tb.sleep(0.01)
      serve(model.stream)
    end
    for i = 1, workers do list[i].batcher:stop() end
    return tb.now()
  end, { clock = "virtual" })
  table.sort(model.latencies)
  local n = #model.latencies
  return model.records / model.batches, model.busy / (workers * took), model.latencies[math.ceil(n / 2)],
    model.latencies[math.ceil(0.99 * n)], 1000 * model.busy / model.records
end

io.stdout:setvbuf "line"

local function row(workers, rate, policy)
  local batch, busy, p50, p99, device = experiment(workers, rate, policy)
  print(("%7d  %9.0f/s  %-5s  %7.1f  %5.0f %%  %7.3f s  %7.3f s  %10.1f s  %6.0f %%"):format(workers, rate, policy,
    batch, 100 * busy, p50, p99, device, 100 * rate * REDIS_S))
end

local HEAD = "workers      offered  goes    batch     busy       p50        p99  device/1000   Redis"

print(("%g s of arrivals; a full batch has %.0f records, a worker then does %.1f records/s"):format(SECONDS, FULL,
  CAPACITY))
for _, load in ipairs { 0.1, 0.5, 0.95 } do
  print(("\n%d %% of what the workers could do with full batches\n%s"):format(100 * load, HEAD))
  for _, workers in ipairs { 1, 4, 16, 64, 256, 1000 } do
    for _, policy in ipairs { "fifo", "eager" } do row(workers, load * workers * CAPACITY, policy) end
  end
end
print("\nThe same load, what 16 workers could do with full batches, on more and more of them\n" .. HEAD)
for _, workers in ipairs { 17, 20, 24, 32, 64, 128, 256 } do row(workers, 16 * CAPACITY, "fifo") end
