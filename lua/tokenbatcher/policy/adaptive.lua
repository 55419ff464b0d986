--- Picks the size of batches and how long to gather for a latency target. It learns service
-- time = a + b x cost, and the load. A batch takes no longer than the oldest record in it can
-- wait, but no less than most of the target, or than the load needs: with small batches a would
-- eat the device's time, and all who come later would pay for the oldest. Where the target is
-- lost already, only throughput helps. Gathering pays off by the busy
-- share of the device: as long as a when it is always busy, not at all when it is idle.

local service_model = require "tokenbatcher.policy.support.service_model"

local SMOOTH, SPARE = 0.9, 2
local LEAST_SHARE = 0.85 -- of the target, for a batch (found with tokenbatcher simulate)

-- How long batches must take, at the least, for the device to keep up: of each second the
-- load takes b x tokens, and what is left must pay for a.
local function needed_s(model, load)
  local left = load.time > 0 and 1 - model.b * load.cost / load.time or 1
  return left > 0 and SPARE * model.a / left or math.huge
end

-- Tokens and busy seconds in the time since the batch before, smoothed.
local function observe_load(load, report)
  local cycle_s = load.last_end and math.max(report.service_s, report.now - load.last_end) or report.service_s
  load.cost = SMOOTH * load.cost + report.cost
  load.busy = SMOOTH * load.busy + report.service_s
  load.time = SMOOTH * load.time + cycle_s
  load.last_end = report.now
end

return {
  about = "learns service time, picks size and wait for a latency target",
  parameters = {
    { name = "latency_target_s", default = 0.5, kind = "number", above = 0, unit = "seconds",
      text = "what the latency should stay below" },
  },
  new = function(p)
    local model, load = service_model.new(0, 0), { cost = 0, busy = 0, time = 0 }
    return {
      model = model,
      form = function(queue, batch, now)
        local age = queue:age(1)
        local busy_share = load.time > 0 and load.busy / load.time or 0
        local gather_s = math.min(model.a * busy_share, p.latency_target_s / 4)
        if not (queue.full or queue.due) and age < gather_s then return now - age + gather_s end
        if age < p.latency_target_s then
          local longest_s = math.max(p.latency_target_s - age, LEAST_SHARE * p.latency_target_s,
            needed_s(model, load))
          batch:limit(math.max(queue:cost(1), model:cost_within(longest_s)))
        end
        for i = 1, queue.size do
          if not batch:add(i) then return end
        end
      end,
      on_complete = function(report)
        model:learn(report)
        observe_load(load, report)
      end,
    }
  end,
}
