--- Three producers, four workers and a Redis, of which something dies, stops or forgets all the time: every record
-- is answered once, or reported dead, and nothing is left.
--
--     luajit tests/soak/chaos_redis.lua KIND [SECONDS [SEED]]
--
-- Workers are killed (kill -9) or stopped beyond their lease every 0.6 s. KIND is what happens to Redis, three times:
--   everysec  killed, its AOF written once a second    always    killed, its AOF written at once
--   flushall  emptied                                  cut       killed, the last 120 kB of its AOF lost
--   proxy     nothing: all connections are cut at random bytes
-- One worker's wall clock is an hour slow, another's an hour fast, where libfaketime is there. Exit status 0: all
-- is well.

local R = require "tests.lua.redis_helper"
local tb = require "tokenbatcher"

local KIND, SECONDS, SEED = arg[1] or "everysec", tonumber(arg[2] or 10), tonumber(arg[3] or 1)
local PRODUCERS, RECORDS, WORKERS, LEASE_S, POISON = 3, 400, 4, 1, 77
local CLOCKS = { "-1h", "+1h" } -- of the first workers
local EVERY_S, STOPPED_S, CUT_BYTES = 0.6, 1.8 * LEASE_S, 120000

local SCRIPT = [[
local ffi = require "ffi"
ffi.cdef "int kill(int pid, int signal); int getpid(void);"
return { inference_timeout_s = 20, max_batch_size = 8, batch_timeout_s = 0.005, inference_fn = function(records)
  local results, names = {}, {}
  for i, record in ipairs(records) do names[i] = record.n .. "\n" end
  local log = io.open("%s", "ab")
  log:write(table.concat(names))
  log:close()
  require("tokenbatcher").sleep(0.02 + 0.004 * #records)
  for i, record in ipairs(records) do
    if record.poison then ffi.C.kill(ffi.C.getpid(), 9) end
    results[i] = 2 * record.n
  end
  return results
end }
]]

local state = SEED
local function random()
  state = (state * 1103515245 + 12345) % 2 ^ 31
  return state / 2 ^ 31
end

local function say(...) io.stdout:write(("%-9s "):format(KIND), string.format(...), "\n") end

-- --- the parts ----------------------------------------------------------------------------

local server, url, proxy_pid, proxy_pipe
local counts = { kills = 0, stops = 0, redis = 0 }
local workers, started = {}, 0

local function open_server()
  local port = R.free_port()
  local options = { "--appendonly", "yes", "--appendfsync", KIND == "always" and "always" or "everysec" }
  if KIND == "proxy" then options = { "--port", port, "--bind", "127.0.0.1" } end
  server = R.server(options)
  url = server.url
  if KIND ~= "proxy" then return end
  proxy_pipe = io.popen(("echo $$; exec luajit tests/redis/cutting_proxy.lua %d %d 2>/dev/null"):format(port, SEED))
  proxy_pid, port = proxy_pipe:read("*n", "*n") -- kept: collected, it would wait for the proxy's end
  url = ("redis://127.0.0.1:%d"):format(port)
end

local FAKETIME = R.output_of "ls /usr/lib/*/faketime/libfaketime.so.1 2>/dev/null"

local function start_worker(i)
  started = started + 1
  local name = "w" .. started
  local environment = CLOCKS[i] and FAKETIME ~= "" and ("LD_PRELOAD=%s FAKETIME=%s FAKETIME_DONT_FAKE_MONOTONIC=1")
    :format(FAKETIME, CLOCKS[i]) or nil
  workers[i] = R.program(server, name, { "work", server.folder .. "/script.lua", "--redis", url, "--stream", "S",
    "--lease", LEASE_S, "--consumer", name }, nil, environment)
  workers[i].resume_at = nil
end

local function tend_workers(now)
  for i = 1, WORKERS do
    local worker = workers[i]
    if worker and worker.resume_at and now >= worker.resume_at then
      worker:kill "CONT"
      worker.resume_at = nil
    end
    if not worker or not worker:is_alive() then start_worker(i) end
  end
end

local function hurt_a_worker(now)
  local worker = workers[math.floor(random() * WORKERS) + 1]
  if worker.resume_at then return end
  if random() < 0.6 then
    worker:kill()
    counts.kills = counts.kills + 1
  else
    worker:kill "STOP"
    worker.resume_at = now + STOPPED_S
    counts.stops = counts.stops + 1
  end
end

local function cut_tail()
  local file = R.output_of(("ls '%s'/appendonlydir/*.incr.aof | tail -n 1"):format(server.folder))
  local size = tonumber(R.output_of(("stat -c %%s '%s'"):format(file)))
  os.execute(("truncate -s %d '%s'"):format(math.max(0, size - CUT_BYTES), file))
end

local function hurt_redis()
  counts.redis = counts.redis + 1
  if KIND == "flushall" then return server:flush() end
  server:kill()
  if KIND == "cut" then cut_tail() end
  server:start()
end

-- --- producers ------------------------------------------------------------------------------

local outcomes = {} -- n -> {result, code, times}
local latencies = {}

local function note(n, began, future)
  local result, err = future:await()
  local outcome = outcomes[n] or { times = 0 }
  outcome.times, outcome.result, outcome.code = outcome.times + 1, result, err and err.code
  outcomes[n] = outcome
  latencies[#latencies + 1] = tb.now() - began
end

local function produce(queue, p)
  local notes = {}
  for i = 1, RECORDS do
    local n = p * 1000 + i
    local future = assert(queue:submit({ n = n, poison = i == POISON or nil }, { timeout_s = 600 }))
    notes[i] = tb.spawn(note, n, tb.now(), future)
    tb.sleep(SECONDS / RECORDS)
  end
  for i = 1, RECORDS do notes[i]:await() end
end

-- --- the end ----------------------------------------------------------------------------------

local function inferences()
  local n, seen, distinct = 0, {}, 0
  for line in io.lines(server.folder .. "/inferred") do
    n = n + 1
    if not seen[line] then seen[line], distinct = true, distinct + 1 end
  end
  return n, n - distinct
end

local function judge(queues)
  local answered, dead, wrong = 0, 0, 0
  for p = 1, PRODUCERS do
    for i = 1, RECORDS do
      local n = p * 1000 + i
      local outcome = outcomes[n] or { times = 0 }
      if outcome.times == 1 and outcome.result == 2 * n and i ~= POISON then
        answered = answered + 1
      elseif outcome.times == 1 and outcome.code == "dead_letter" and i == POISON then
        dead = dead + 1
      else
        wrong = wrong + 1
        say("wrong: record %d: %d outcomes, %s", n, outcome.times, tostring(outcome.result or outcome.code))
      end
    end
  end
  local again, seconds = 0, 0
  for _, queue in ipairs(queues) do
    again, seconds = again + queue.counts.again, seconds + queue.counts.seconds
  end
  table.sort(latencies)
  local all, twice = inferences()
  say("%d answered once, %d reported dead, %d wrong or lost; kill -9 %d, SIGSTOP %d, Redis %d times", answered, dead,
    wrong, counts.kills, counts.stops, counts.redis)
  say("%d inferences, %d of them duplicates; %d sent again, %d second answers ignored; latency p50 %.2f s, max %.2f s",
    all, twice, again, seconds, latencies[math.ceil(#latencies / 2)], latencies[#latencies])
  return wrong == 0 and dead == PRODUCERS
end

-- What was sent twice is answered, too; then nothing is left.
local function drained()
  return server:try("XLEN", "S") == 0 and server:pending "S" == 0
end

local function run_it()
  local queues, producers = {}, {}
  for i = 1, WORKERS do start_worker(i) end
  for p = 1, PRODUCERS do
    queues[p] = tb.queue.redis { url = url, stream = "S", window = 60, reconcile_s = 1, log = function() end }
    producers[p] = tb.spawn(produce, queues[p], p)
  end
  local began, hurt_at, redis_hurt = tb.now(), tb.now() + EVERY_S, 0
  local function all_done()
    for _, producer in ipairs(producers) do
      if not producer:done() then return false end
    end
    return true
  end
  while not all_done() do
    local now = tb.now()
    assert(now - began < SECONDS + 90, "producers wait for ever")
    tend_workers(now)
    if now - began < SECONDS and now >= hurt_at then
      hurt_a_worker(now)
      hurt_at = math.max(hurt_at + EVERY_S, now + 0.1)
    end
    if KIND ~= "proxy" and redis_hurt < 3 and now - began > SECONDS * (redis_hurt + 1) / 4 then
      hurt_redis()
      redis_hurt = redis_hurt + 1
    end
    tb.sleep(0.05)
  end
  for p = 1, PRODUCERS do producers[p]:await() end
  local is_well = judge(queues)
  local until_s = tb.now() + 30
  while not drained() and tb.now() < until_s do
    tend_workers(tb.now())
    tb.sleep(0.1)
  end
  if not drained() then
    say("left: %d in the stream, %d pending", server:call("XLEN", "S"), server:pending "S")
    is_well = false
  end
  for _, queue in ipairs(queues) do queue:stop() end
  return is_well
end

open_server()
local file = assert(io.open(server.folder .. "/script.lua", "wb"))
file:write(SCRIPT:format(server.folder .. "/inferred"))
file:close()
local ok, is_well = pcall(tb.run, run_it)
for _, worker in pairs(workers) do
  worker:kill "CONT"
  worker:kill()
end
if proxy_pid then
  os.execute("kill " .. proxy_pid)
  proxy_pipe:close()
end
server:stop()
if not ok then say("%s", tostring(is_well)) end
os.exit(ok and is_well and 0 or 1)
