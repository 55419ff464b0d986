-- Runs on the real clock, recorded, and what the simulator makes of the recordings: batches, their size and the
-- mean latency, with the model that fit finds, and with the recorded slowness on top of it. A quiet machine is
-- needed: on a busy one the device is late now and then, and only the second says when.
-- usage: luajit replay.lua [RECORDS]     (default 3000)

local experiment = require "tokenbatcher.sim.experiment"
local noise = require "tokenbatcher.sim.noise"
local policies = require "tokenbatcher.policy"
local random = require "tokenbatcher.sim.random"
local tb = require "tokenbatcher"

local RECORDS = tonumber(arg and arg[1]) or 3000
local OPTIONS = { target_batch_tokens = 4000, max_batch_size = 64, batch_timeout_s = 0.02, max_queue_size = 100000 }
local POLICIES = { "eager", "deadline:slo_s=0.5", "fifo", "one_group" }
-- Records submitted in one turn, and seconds between such turns.
local TRAFFIC = {
  { name = "bursts of 32", burst = 32, gap_s = 0.05 }, { name = "one by one", burst = 1, gap_s = 0.0015 },
}

local function record(path, policy, traffic)
  return tb.run(function()
    local stream, n, options = random.new(3, "traffic"), 0, {}
    for name, value in pairs(OPTIONS) do options[name] = value end
    options.record, options.policy = path, policies.parse(policy)
    options.inference_fn = tb.backend.simulated { base_s = 0.01, per_token_s = 0.00002 }
    local batcher = tb.TokenBatcher(options)
    batcher:start()
    while n < RECORDS do
      tb.sleep(traffic.gap_s * stream:exponential())
      for _ = 1, traffic.burst do
        n = n + 1
        batcher:submit({}, { estimated_tokens = math.ceil(60 * stream:exponential()),
          group = policy == "one_group" and "g" .. math.floor(4 * stream:uniform()) or nil })
      end
    end
    batcher:stop()
    return batcher.stats
  end)
end

local function replay(path, policy, kind)
  local set = {}
  for name, value in pairs(OPTIONS) do set[#set + 1] = { name, value } end
  local job = assert(experiment.new(nil, { trace = path, service = "@" .. path, given = {}, set = set,
    noise = kind and noise.parse(kind) }))
  return assert(experiment.run(job, { settings = {}, policy = policies.parse(policy) }))
end

local function off(got, expected) return ("%+6.2f %%"):format(100 * (got / expected - 1)) end

print(("%-19s %-13s %29s   %29s"):format("", "", "fitted: batches, size, mean", "and as slow as recorded"))
for _, policy in ipairs(POLICIES) do
  for _, traffic in ipairs(TRAFFIC) do
    local path = os.tmpname()
    local real, cells = record(path, policy, traffic), {}
    for i, row in ipairs { replay(path, policy), replay(path, policy, "replay") } do
      cells[i] = table.concat({ off(row.batches, real.total_batches), off(row.batch_size.mean, real.avg_batch_size),
        off(row.latency_s.mean, real.latency_s.mean) }, " ")
    end
    os.remove(path)
    print(("%-19s %-13s %s   %s"):format(policy, traffic.name, cells[1], cells[2]))
  end
end
