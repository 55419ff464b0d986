-- What a record costs in the Lua face, by the shape of the calls; for peers.js's comparison, and for one with
-- another commit: this file needs no more of it than `tokenbatcher`.
-- usage: luajit tests/bench/shapes.lua ROUNDS [SHAPE ...]
-- Prints lines "SHAPE nanoseconds a record, the median round".

local ffi = require "ffi"
local tb = require "tokenbatcher"

ffi.cdef [[
typedef struct { long s, ns; } bench_time;
int clock_gettime(int clock, bench_time *out);
]]
local time = ffi.new "bench_time"
local function now_ns()
  ffi.C.clock_gettime(1, time)
  return tonumber(time.s) * 1e9 + tonumber(time.ns)
end

local BATCH = 256
local RECORDS = 200 * BATCH -- a round
local ROUNDS = tonumber(arg[1]) or 30

local record, opts = { text = "What is 2+2?" }, { estimated_tokens = 5 }
local keyed, timed = { estimated_tokens = 5, key = "k" }, { estimated_tokens = 5, timeout_s = 100 }

local function echo(records) return records end

-- Run round() in a batcher, again and again. @return the median round, nanoseconds a record
local function median(options, round)
  local given = { inference_fn = echo, max_queue_size = 1e7, policy = "eager" }
  for name, value in pairs(options) do given[name] = value end
  return tb.run(function()
    local batcher, took = tb.TokenBatcher(given), {}
    batcher:start()
    round(batcher) -- compile
    for i = 1, ROUNDS do
      local started = now_ns()
      round(batcher)
      took[i] = (now_ns() - started) / RECORDS
    end
    batcher:stop()
    table.sort(took)
    return took[math.ceil(ROUNDS / 2)]
  end)
end

-- One producer: hand in 256, then read every answer.
local function one(submit, options)
  local futures = {}
  for i = 1, BATCH do futures[i] = false end
  return median(options or {}, function(batcher)
    for _ = 1, RECORDS / BATCH do
      for i = 1, BATCH do futures[i] = submit(batcher) end
      for i = 1, BATCH do futures[i]:await() end
    end
  end)
end

-- 256 coroutines, each awaiting its own record.
local function awaiting(ask)
  return median({}, function(batcher)
    local all = {}
    for i = 1, BATCH do
      all[i] = tb.spawn(function()
        for _ = 1, RECORDS / BATCH do ask(batcher) end
      end)
    end
    tb.gather(all)
  end)
end

local function list()
  local records, costs = {}, {}
  for i = 1, BATCH do records[i], costs[i] = record, 5 end
  local given = { estimated_tokens = costs }
  return median({}, function(batcher)
    for _ = 1, RECORDS / BATCH do
      local futures = batcher:submit_batch(records, given)
      for i = 1, BATCH do futures[i]:await() end
    end
  end)
end

local SHAPES = {
  one = function() return one(function(batcher) return batcher:submit(record, opts) end) end,
  awaiting = function() return awaiting(function(batcher) return batcher:submit(record, opts):await() end) end,
  ask = function() return awaiting(function(batcher) return batcher:ask(record, opts) end) end,
  default = function() return one(function(batcher) return batcher:submit(record) end) end,
  fresh = function() return one(function(batcher) return batcher:submit(record, { estimated_tokens = 5 }) end) end,
  key = function() return one(function(batcher) return batcher:submit(record, keyed) end) end,
  timeout = function() return one(function(batcher) return batcher:submit(record, timed) end) end,
  estimator = function()
    return one(function(batcher) return batcher:submit(record) end,
      { token_estimator = function(given) return #given.text / 4 + 1 end })
  end,
  list = list,
}

local wanted = { unpack(arg, 2) }
if not wanted[1] then wanted = { "one", "awaiting", "ask" } end
for _, name in ipairs(wanted) do print(("%s %.1f ns"):format(name, SHAPES[name]())) end
