-- Worker threads under load: batches that fail, that are cancelled, and that outlive their
-- timeout. Every answer is checked, memory must not grow, and of the threads that were
-- abandoned none may be left.
-- usage: luajit threads.lua [batches]     (default 200,000)

local ffi = require "ffi"
local tb = require "tokenbatcher"

local BATCHES = tonumber(arg and arg[1]) or 200000
local PRODUCERS = 32

ffi.cdef "int getpid(void);"

local function status(name)
  for line in io.lines "/proc/self/status" do
    local value = line:match("^" .. name .. ":%s+(%d+)")
    if value then return tonumber(value) end
  end
end

local path = os.tmpname()
local file = assert(io.open(path, "w"))
file:write [[
local ffi = require "ffi"
ffi.cdef "int usleep(unsigned us);"
return { inference_fn = function(records)
  local results = {}
  for i, r in ipairs(records) do
    if r % 101 == 0 then error "unlucky" end
    if r % 2003 == 0 then ffi.C.usleep(60000) end
    results[i] = { twice = 2 * r }
  end
  return results
end }]]
file:close()

local threads_before, outcomes, done, early_kb = status "Threads", {}, 0, nil
local backend = tb.backend.threads { script = path, threads = 4 }

local function producer(batcher, first)
  for record = first, BATCHES, PRODUCERS do
    local future = batcher:submit(record)
    if record % 97 == 0 then future:cancel() end
    local answer, err = future:await()
    if answer then assert(answer.twice == 2 * record, "a record got another's answer") end
    local name = err and err.code or "completed"
    outcomes[name] = (outcomes[name] or 0) + 1
    done = done + 1
    if done == math.floor(BATCHES / 3) then
      collectgarbage()
      early_kb = status "VmRSS"
    end
  end
end

tb.run(function()
  local batcher = tb.TokenBatcher {
    inference_fn = backend, max_batch_size = 1, policy = "eager", max_concurrent_batches = 4,
    inference_timeout_s = 0.02,
  }
  batcher:start()
  local all = {}
  for i = 1, PRODUCERS do all[i] = tb.spawn(producer, batcher, i) end
  local _, errs = tb.gather(all)
  if next(errs) then error(select(2, next(errs)), 0) end
  batcher:stop()
  while status "Threads" > threads_before do tb.sleep(0.01) end
end)
os.remove(path)

collectgarbage()
local late_kb, names, total = status "VmRSS", {}, 0
for name, n in pairs(outcomes) do
  names[#names + 1], total = name .. " " .. n, total + n
end
table.sort(names)
print(("%d batches: %s; %d threads abandoned; %d KB resident at a third, %d KB at the end"):format(BATCHES,
  table.concat(names, ", "), backend:stats().abandoned, early_kb, late_kb))
assert(total == BATCHES, "records are missing")
assert(backend:stats().abandoned > 0 and outcomes.inference_timeout > 0)
assert(late_kb < early_kb * 1.3 + 4096, "memory grows")
