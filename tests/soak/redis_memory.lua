--- A million records through Redis and two workers: then Redis's memory is what it was, a worker has one thread and no
-- more descriptors than at its beginning.
-- usage: luajit tests/soak/redis_memory.lua [RECORDS]

local R = require "tests.lua.redis_helper"
local C = require "tests.lua.cli_helper"

local RECORDS = tonumber(arg[1] or 1e6)
local ROUNDS = 4
local SLACK = 1e6 -- bytes: the heap of Redis's own Lua comes and goes

local function file(path, text, times)
  local handle = assert(io.open(path, "wb"))
  for _ = 1, times do handle:write(text) end
  handle:close()
  return path
end

local server = R.server()
local workers = {}

local function memory() return tonumber(server:cli("INFO", "memory"):match "used_memory:(%d+)") end

local function count(pid, what)
  return tonumber((R.output_of(("ls /proc/%d/%s | wc -l"):format(pid, what))))
end

local function main()
  local script = file(server.folder .. "/script.lua", [[return { inference_timeout_s = 20, max_batch_size = 100,
    batch_timeout_s = 0.005, inference_fn = function(records) return records end }]], 1)
  local per_round = math.ceil(RECORDS / ROUNDS)
  local input = file(server.folder .. "/input.jsonl", ('{"text":"%s"}\n'):format(("y"):rep(200)), per_round)
  for i = 1, 2 do
    workers[i] = R.program(server, "w" .. i, { "work", script, "--redis", server.url, "--stream", "S" })
  end
  local base, descriptors
  for round = 1, ROUNDS do
    local report = R.output_of(("%s send --redis %s --stream S --window 4000 --input %s --output /dev/null 2>&1")
      :format(C.exe, server.url, input))
    assert(report:find(("%d answered, 0 failed"):format(per_round), 1, true), report)
    assert(server:cli("XLEN", "S") == "0", "the stream is not empty")
    base, descriptors = base or memory(), descriptors or count(workers[1].pid, "fd")
    print(("round %d: %d records, Redis has %.2f MB, worker: %d descriptors, %d thread"):format(round, per_round,
      memory() / 1e6, count(workers[1].pid, "fd"), count(workers[1].pid, "task")))
  end
  for _, worker in ipairs(workers) do
    assert(count(worker.pid, "task") == 1, "a worker has more than one thread")
    worker:kill "TERM"
  end
  assert(count(workers[1].pid, "fd") <= descriptors, "descriptors are left open")
  assert(memory() <= base + SLACK, "Redis keeps more memory than after the first round")
end

local ok, message = pcall(main)
for _, worker in ipairs(workers) do worker:kill() end
server:stop()
if not ok then
  print(message)
  os.exit(1)
end
