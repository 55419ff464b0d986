-- Speed of the Lua face, on the real clock: prints plain lines "name value unit".
local tb = require "tokenbatcher"
local tbffi = require "tokenbatcher.core.ffi"

local function now() return tonumber(tbffi.lib.tb_ev_now()) / 1e6 end

local function median(values)
  table.sort(values)
  return values[math.floor(#values / 2) + 1]
end

local function echo(records)
  return records
end

-- One producer: submit n records, then read every answer.
local function submit_and_collect(n)
  return tb.run(function()
    local batcher = tb.TokenBatcher { inference_fn = echo, max_queue_size = 1e7, policy = "eager" }
    batcher:start()
    local record = { text = "What is 2+2?" }
    local opts = { estimated_tokens = 5 }
    local futures = {}
    for i = 1, 256 do futures[i] = false end
    local started = now()
    for _ = 1, n / 256 do
      for i = 1, 256 do futures[i] = batcher:submit(record, opts) end
      for i = 1, 256 do futures[i]:await() end
    end
    local spent = now() - started
    batcher:stop()
    return spent / n * 1e9
  end)
end

-- 256 coroutines, each awaiting its own record.
local function awaiting_coroutines(n)
  return tb.run(function()
    local batcher = tb.TokenBatcher { inference_fn = echo, max_queue_size = 1e7, policy = "eager" }
    batcher:start()
    local opts = { estimated_tokens = 5 }
    local record = { text = "What is 2+2?" }
    local started = now()
    local all = {}
    for i = 1, 256 do
      all[i] = tb.spawn(function()
        for _ = 1, n / 256 do batcher:submit(record, opts):await() end
      end)
    end
    tb.gather(all)
    local spent = now() - started
    batcher:stop()
    return spent / n * 1e9
  end)
end

-- A lone record on an eager batcher: from submit to the first line of inference_fn.
-- @param idle_s number|nil  how long it has slept before
local function lone_record(n, idle_s)
  local waits = {}
  tb.run(function()
    local called
    local batcher = tb.TokenBatcher {
      policy = "eager",
      inference_fn = function(records)
        called = now()
        return records
      end,
    }
    batcher:start()
    for i = 1, n do
      if idle_s then tb.sleep(idle_s) end
      local submitted = now()
      batcher:submit(i):await()
      waits[i] = (called - submitted) * 1e6
    end
    batcher:stop()
  end)
  table.sort(waits)
  return waits[math.floor(n * 0.5)], waits[math.floor(n * 0.99)]
end

-- Reading the statistics of a batcher with a past, and making a metrics page of them.
local function statistics(n)
  return tb.run(function()
    local batcher = tb.TokenBatcher { inference_fn = echo, name = "bench" }
    batcher:start()
    for i = 1, 50000 do batcher:submit(i, { estimated_tokens = 1 + i % 2000 }) end
    batcher:stop()
    local function us(fn)
      local started = now()
      for _ = 1, n do fn() end
      return (now() - started) / n * 1e6
    end
    return us(function() return batcher.stats end), us(function() return tb.metrics.prometheus(batcher) end)
  end)
end

local function several(fn, n)
  local values = {}
  for i = 1, 5 do values[i] = fn(n) end
  return median(values)
end

local n = tonumber(arg and arg[1]) or 512000
print(("lua_submit_ns_per_record %.0f ns"):format(several(submit_and_collect, n)))
print(("lua_coroutines_ns_per_record %.0f ns"):format(several(awaiting_coroutines, n)))
print(("lone_record_us p50 %.1f us p99 %.1f us"):format(lone_record(2000, 0.0005)))
print(("lone_record_never_idle_us p50 %.1f us p99 %.1f us"):format(lone_record(2000)))
collectgarbage "stop"
print(("lone_record_no_collector_us p50 %.1f us p99 %.1f us"):format(lone_record(2000, 0.0005)))
collectgarbage "restart"
local read_us, page_us = statistics(2000)
print(("stats_read_us %.1f us"):format(read_us))
print(("prometheus_page_us %.1f us"):format(page_us))
