--- make bench-redis: what a record costs workers, producers and Redis, beside redis-benchmark's XADD in the same run;
-- and how far workers scale, with a simulated device of 20 ms + 0.1 ms a record.
-- usage: luajit tests/bench/bench_redis.lua [RECORDS]      (quiet: nice -n -15, as root)

local R = require "tests.lua.redis_helper"
local C = require "tests.lua.cli_helper"

local RECORDS = tonumber(arg[1] or 60000)
local RUNS, WINDOW = 3, 4000
local RECORD_BYTES, ANSWER_BYTES = 1024, 256
local BASE_S, PER_RECORD_S, BATCH = 0.02, 0.0001, 64

local ANSWER = [[
local answer = { text = ("x"):rep(%d) }
return { inference_timeout_s = 20, max_batch_size = 100, batch_timeout_s = 0.005, target_batch_tokens = 1e9,
  inference_fn = function(records)
    local results = {}
    for i = 1, #records do results[i] = answer end
    return results
  end }
]]

local DEVICE = [[
return { inference_timeout_s = 20, max_batch_size = %d, batch_timeout_s = 0.005, target_batch_tokens = 1e9,
  inference_fn = function(records)
    require("tokenbatcher").sleep(%g + %g * #records)
    return records
  end }
]]

local function file(path, text)
  local handle = assert(io.open(path, "wb"))
  handle:write(text)
  handle:close()
  return path
end

-- --- processor time ---------------------------------------------------------------------

local TICKS = tonumber(R.output_of "getconf CLK_TCK")

-- Of a process and its threads, seconds.
local function seconds_of(pid)
  local stat = io.open(("/proc/%d/stat"):format(pid))
  local user, system = stat:read("*a"):match "^.*%) %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ (%d+) (%d+)"
  stat:close()
  return (tonumber(user) + tonumber(system)) / TICKS
end

local function now() return tonumber((R.output_of "date +%s.%N")) end

-- --- one run ------------------------------------------------------------------------------

local server = R.server()
-- It has a session of its own, whose share of the processor Linux counts apart: it gets our priority there, too.
os.execute(("cat /proc/%d/autogroup >/dev/null 2>&1 && echo -15 >/proc/%d/autogroup 2>/dev/null"):format(server.pid,
  server.pid))
local answer_script = file(server.folder .. "/answer.lua", ANSWER:format(ANSWER_BYTES - 12))
local device_script = file(server.folder .. "/device.lua", DEVICE:format(BATCH, BASE_S, PER_RECORD_S))

local function input_of(n, bytes)
  local line = ('{"text":"%s"}\n'):format(("y"):rep(bytes - 12))
  return file(server.folder .. "/input.jsonl", line:rep(n))
end

local function bare_xadd()
  local before = seconds_of(server.pid)
  R.output_of(("redis-benchmark -s '%s' -n %d -P 32 -q XADD bench '*' record %s"):format(server.socket, RECORDS,
    ("y"):rep(RECORD_BYTES)))
  local us = (seconds_of(server.pid) - before) / RECORDS * 1e6
  server:cli("DEL", "bench")
  return us
end

local function start_workers(n, script, ahead)
  local list = {}
  for i = 1, n do
    list[i] = R.program(server, "w" .. i, { "work", script, "--redis", server.url, "--stream", "S", "--consumer",
      "w" .. i, "--ahead", ahead })
  end
  for _, worker in ipairs(list) do
    repeat until worker:output():find("worker ", 1, true)
  end
  return list
end

local function stop(list)
  for _, worker in ipairs(list) do worker:kill "TERM" end
  for _, worker in ipairs(list) do
    repeat until not worker:is_alive()
  end
end

-- @return microseconds a record: Redis, worker, producer; records/s
local function through(input, n)
  local workers = start_workers(1, answer_script, 0)
  local redis, worker, began = seconds_of(server.pid), seconds_of(workers[1].pid), now()
  local sender = C.exe .. (" send --redis %s --stream S --window %d --input %s --output %s/out.jsonl --overwrite")
    :format(server.url, WINDOW, input, server.folder)
  local used = R.output_of(("bash -c 'TIMEFORMAT=\"%%U %%S\"; time %s 2>/dev/null' 2>&1"):format(sender))
  local user, system = used:match "([%d.]+) ([%d.]+)%s*$"
  local s = now() - began
  redis, worker = seconds_of(server.pid) - redis, seconds_of(workers[1].pid) - worker
  stop(workers)
  server:flush()
  local scale = 1e6 / n
  return redis * scale, worker * scale, (tonumber(user) + tonumber(system)) * scale, n / s
end

-- The same records through run: what of a worker's time has nothing to do with Redis.
local function by_run(input, n)
  local command = ("%s run %s --input %s --output /dev/null"):format(C.exe, answer_script, input)
  local used = R.output_of(("bash -c 'TIMEFORMAT=\"%%U %%S\"; time %s 2>/dev/null' 2>&1"):format(command))
  local user, system = used:match "([%d.]+) ([%d.]+)%s*$"
  return (tonumber(user) + tonumber(system)) * 1e6 / n
end

local function median(list)
  table.sort(list)
  return list[math.floor((#list + 1) / 2)]
end

-- --- scaling --------------------------------------------------------------------------------

local function rate_of(n, ahead)
  local records = 8000 * n
  local input = input_of(records, 64)
  local workers = start_workers(n, device_script, ahead)
  local report = R.output_of(("%s send --redis %s --stream S --window %d --input %s --output %s/out.jsonl "
    .. "--overwrite 2>&1"):format(C.exe, server.url, 8 * BATCH * n, input, server.folder))
  stop(workers)
  server:flush()
  return records / tonumber(report:match "in ([%d.]+) s")
end

local function main()
  local xadd, redis, worker, producer, rate, run = {}, {}, {}, {}, {}, {}
  local input = input_of(RECORDS, RECORD_BYTES)
  for i = 1, RUNS do
    xadd[i] = bare_xadd()
    redis[i], worker[i], producer[i], rate[i] = through(input, RECORDS)
    run[i] = by_run(input, RECORDS)
  end
  local bare = median(xadd)
  local function row(what, us, budget)
    print(("%-46s %6.1f us  %5.2f x%s"):format(what, us, us / bare,
      budget and ("   (at most %g)"):format(budget) or ""))
  end
  print(("%d records of %d bytes, answers of %d, one worker, batches of 100; processor time a record, medians of %d")
    :format(RECORDS, RECORD_BYTES, ANSWER_BYTES, RUNS))
  row("Redis: redis-benchmark XADD -P 32", bare)
  row("Redis: all of a record", median(redis), 6)
  row("worker: all of a record", median(worker))
  row("worker: without what `run` takes for the same", median(worker) - median(run), 2)
  row("producer (send)", median(producer))
  print(("%-46s %6.0f /s"):format("records through one worker", median(rate)))
  local ideal = BATCH / (BASE_S + PER_RECORD_S * BATCH)
  print(("\nsimulated device, %g ms + %g ms a record, batches of %d: %.0f records/s a worker at the most"):format(
    BASE_S * 1e3, PER_RECORD_S * 1e3, BATCH, ideal))
  for _, ahead in ipairs { 0, 1 } do
    for _, n in ipairs { 1, 2, 4, 8 } do
      local r = rate_of(n, ahead)
      print(("%d workers, --ahead %d %24s %6.0f /s  %5.1f %% of ideal%s"):format(n, ahead, "", r, 100 * r / (n * ideal),
        n == 8 and "   (at least 85)" or ""))
    end
  end
end

local ok, message = pcall(main)
server:stop()
if not ok then error(message, 0) end
