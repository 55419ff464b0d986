--- A simulated run's own device: the records of each batch go to it as sequences, a batch is over with
-- its last one, and what a streaming client would have seen is kept. Times at this border are those of the
-- run's clock, whole microseconds; inside they are not.

local Histogram = require "tokenbatcher.sim.histogram"
local tbffi = require "tokenbatcher.core.ffi"

local ceil, huge, max = math.ceil, math.huge, math.max

local M = {}
local Serving = {}
Serving.__index = Serving

--- @param device table  see device/init.lua
function M.new(device)
  return setmetatable({
    device = device, server = device:new(), run_of = {}, place_of = {}, over = {}, over_count = 0,
    too_long = 0, without_output = 0, ttft = Histogram.new(), tpot = Histogram.new(), e2e = Histogram.new(),
  }, Serving)
end

local function reserve(run)
  if run.device_capacity == run.capacity then return end
  run.device_capacity, run.sequences = run.capacity, tbffi.new("int32_t[?]", run.capacity)
  run.output = tbffi.new("double[?]", run.capacity)
  run.ttft_us, run.tpot_us = tbffi.new("double[?]", run.capacity), tbffi.new("double[?]", run.capacity)
  run.e2e_us = tbffi.new("double[?]", run.capacity)
end

--- A batch is handed over: its records follow.
function Serving.open(_, run)
  reserve(run)
  run.left, run.is_refused = 0, false
end

--- Record i of the batch. One that could never fit into the KV cache fails the batch, as a server refuses it.
-- A record with no output has one token, which ends it.
function Serving:take(run, i, prompt, output, now_us)
  if output < 1 then self.without_output, output = self.without_output + 1, 1 end
  prompt = max(1, prompt)
  run.output[i], run.sequences[i] = output, -1
  if not self.server:fits(prompt, output) then
    self.too_long, run.is_refused = self.too_long + 1, true
    return
  end
  local seq = self.server:admit(prompt, output, now_us)
  run.sequences[i], run.left = seq, run.left + 1
  self.run_of[seq], self.place_of[seq] = run, i
end

local function is_over(self, run)
  self.over_count = self.over_count + 1
  self.over[self.over_count] = run
end

--- All records of it have come. @return boolean  is it over already, since nothing of it was taken?
function Serving:close(run)
  if run.left == 0 then is_over(self, run) end
  return run.left == 0
end

local function ended(self, seq)
  local run, i = self.run_of[seq], self.place_of[seq]
  local server = self.server
  local arrived, first, last = run.arrived_us[i], server.first_us[seq], server.last_us[seq]
  local output = run.output[i]
  run.sequences[i], run.left = -1, run.left - 1
  run.ttft_us[i], run.e2e_us[i] = first - arrived, last - arrived
  run.tpot_us[i] = output > 1 and (last - first) / (output - 1) or 0
  return run.left == 0 and run or nil
end

--- Let it work until a batch is over, or until `limit_us`. @return the time, or huge: none is over before.
-- over[1 .. over_count] are those that are, until their owner sets over_count to 0
function Serving:run_to(limit_us)
  local server, at_us = self.server, huge
  while at_us == huge and server:run_to(limit_us) do
    for k = 1, server.ended_count do
      local run = ended(self, server.ended[k])
      if run then
        at_us = ceil(server.now_us)
        is_over(self, run)
      end
    end
    server:take_ended()
  end
  return at_us
end

--- The core has given up on a batch: nobody waits for its records.
function Serving:abandon(run, now_us)
  for i = 0, run.n - 1 do
    local seq = run.sequences[i]
    if seq >= 0 then self.server:abort(seq, now_us) end
    run.sequences[i] = -1
  end
end

--- A batch was answered: count what its clients saw, of those that came at from_us or later.
function Serving:completed(run, from_us)
  for i = 0, run.n - 1 do
    if run.arrived_us[i] >= from_us then
      self.ttft:add(run.ttft_us[i])
      self.e2e:add(run.e2e_us[i])
      if run.output[i] > 1 then self.tpot:add(run.tpot_us[i]) end
    end
  end
end

--- What was odd about the records, as a list of sentences.
function Serving:remarks()
  local out = {}
  if self.too_long > 0 then
    out[1] = ("%d records do not fit the KV cache of the device (kv=%.0f tokens); their batches failed")
      :format(self.too_long, self.device.limits.kv)
  end
  if self.without_output > 0 then
    out[#out + 1] = ("%d records have no output tokens; one is taken for each"):format(self.without_output)
  end
  return out
end

return M
