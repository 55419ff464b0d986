-- Load on the real clock: 256 producers, several batches at once, slow, failing and
-- abandoned inference, cancels and deadlines. Every answer is checked, every record is
-- counted, memory must not grow.
-- usage: luajit load.lua [records]     (default 5,000,000)

local tb = require "tokenbatcher"
local tbffi = require "tokenbatcher.core.ffi"

local RECORDS = tonumber(arg and arg[1]) or 5000000
local PRODUCERS = 256

local resident_kb = dofile "tests/soak/resident.lua"

local batches = 0
local function inference(records)
  batches = batches + 1
  if batches % 50 == 0 then error "the device failed" end
  if batches % 333 == 0 then tb.sleep(0.2) else tb.sleep(0.0002) end
  local results = {}
  for i, record in ipairs(records) do
    results[i] = record % 1000 == 0 and tb.failure "unlucky" or record * 2
  end
  return results
end

local outcomes, submitted = {}, 0

local function count(record, answer, err)
  local name = err and err.code or "completed"
  if not err then assert(answer == record * 2, "a record got another's answer") end
  outcomes[name] = (outcomes[name] or 0) + 1
end

local function producer(batcher, first)
  for record = first, RECORDS, PRODUCERS do
    submitted = submitted + 1
    local future = batcher:submit(record, {
      estimated_tokens = record % 300,
      timeout_s = record % 7 == 0 and 0.05 or nil,
    })
    if record % 97 == 0 then future:cancel() end
    count(record, future:await())
  end
end

local early_kb
tb.run(function()
  local batcher = tb.TokenBatcher {
    inference_fn = inference, target_batch_tokens = 8000, max_batch_size = 64, max_queue_size = 128,
    max_concurrent_batches = 3, batch_timeout_s = 0.001, inference_timeout_s = 0.1, policy = "eager",
  }
  tb.with(batcher, function()
    local all = {}
    for i = 1, PRODUCERS do all[i] = tb.spawn(producer, batcher, i) end
    while submitted < RECORDS / 5 do tb.sleep(0.01) end
    collectgarbage()
    early_kb = resident_kb()
    tb.gather(all)
  end)
  local broken = tbffi.text(tbffi.lib.tb_verify(batcher._handle))
  assert(not broken, broken)
  local s = batcher.stats
  assert(s.total_submitted == RECORDS and s.total_submitted
    == s.total_completed + s.total_failed + s.total_cancelled + s.total_expired, "the counters do not add up")
end)
collectgarbage()

local total, names = 0, {}
for name, n in pairs(outcomes) do
  total = total + n
  names[#names + 1] = name
end
table.sort(names)
for i, name in ipairs(names) do names[i] = name .. " " .. outcomes[name] end
local late_kb = resident_kb()
print(("%d records: %s; resident %d KB at a fifth, %d KB at the end"):format(total, table.concat(names, ", "),
  early_kb, late_kb))
assert(total == RECORDS, "a record has no outcome")
assert(late_kb < early_kb * 1.25 + 4096, "memory grows")
