-- The simulator: nanoseconds for each record of a million made-up arrivals, and of a trace of Azure's
-- form that is read from a file.

local experiment = require "tokenbatcher.sim.experiment"
local policies = require "tokenbatcher.policy"

local RECORDS, ROWS = 1000000, 400000
local SERVICE, ARRIVALS = "0.005 + 0.000001*tokens", "poisson:rate=1000,tokens=lognormal(6,1)"

local function run(args, policy)
  args.set, args.given, args.service, args.slo = {}, {}, SERVICE, 1
  local job = assert(experiment.new(nil, args))
  local started = os.clock()
  local row = assert(experiment.run(job, { settings = {}, policy = assert(policies.parse(policy)) }))
  return 1e9 * (os.clock() - started) / row.records
end

local function made_up(policy)
  return run({ arrivals = ARRIVALS, limit = RECORDS }, policy)
end

local function write_trace(path)
  local file = assert(io.open(path, "wb"))
  file:write "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
  for i = 0, ROWS - 1 do
    local ms = i * 2
    file:write(("2023-11-16 %02d:%02d:%02d.%03d0000,%d,10\r\n"):format(ms / 3600000, ms / 60000 % 60, ms / 1000 % 60,
      ms % 1000, i * 7919 % 1000))
  end
  file:close()
end

local path = os.tmpname()
write_trace(path)
print(("sim_fifo_ns_per_record %.1f"):format(made_up "fifo"))
print(("sim_trace_ns_per_record %.1f"):format(run({ trace = path }, "fifo")))
for _, policy in ipairs { "length_bucketed", "deadline:slo_s=1", "adaptive" } do
  print(("sim_%s_ns_per_record %.1f"):format(policy:match "^[%w_]+", made_up(policy)))
end
os.remove(path)
