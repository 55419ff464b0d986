--- Earliest deadline first, with foresight. It learns service time = a + b x cost; a record
-- that can still be on time goes ahead of one that no longer can; a batch never grows past
-- the earliest deadline in it; records that would make it are passed over. What is hopeless
-- goes when nothing else is left, in batches that take 0.3 x slo_s at most: whoever comes
-- meanwhile can still be on time.

local service_model = require "tokenbatcher.policy.support.service_model"

local MISFITS = 32 -- so many are passed over, then the batch is closed
local HOPELESS_SHARE = 0.3

-- An iterator of positions and deadlines, earliest first. Records without a deadline have
-- submit + slo_s, in the order of arrival, or none and are last.
local function by_deadline(queue, now, slo_s)
  local step, from, timed = queue:by_deadline()
  timed = step(from, timed)
  local timed_due, plain, size = timed and queue:deadline(timed), 1, queue.size
  return function()
    while slo_s and plain <= size do
      local i, due = plain, now - queue:age(plain) + slo_s
      if timed_due and due > timed_due then break end
      plain = plain + 1
      if not queue:deadline(i) then return i, due end
    end
    local i, due = timed, timed_due
    if not i or (slo_s and not due) then return nil end
    timed = step(from, i)
    timed_due = timed and queue:deadline(timed)
    return i, due or math.huge
  end
end

return {
  about = "learns service time; earliest deadline first, what can still be on time ahead of the rest",
  parameters = {
    { name = "slo_s", kind = "number", above = 0, unit = "seconds",
      text = "orders records without a deadline, as if they had this one; it expires none" },
    { name = "base_s", default = 0, kind = "number", unit = "seconds", text = "first guess of what any batch takes" },
    { name = "per_token_s", default = 0, kind = "number", unit = "seconds",
      text = "first guess of what each token adds" },
  },
  new = function(p)
    local model = service_model.new(p.base_s, p.per_token_s)
    return {
      model = model,
      form = function(queue, batch, now)
        local misfits = 0
        for i, due in by_deadline(queue, now, p.slo_s) do
          local cost = queue:cost(i)
          if now + model:service(cost) <= due then
            if batch.size == 0 then batch:limit(math.max(cost, model:cost_within(due - now))) end
            if not batch:add(i) then misfits = misfits + 1 end
            if misfits == MISFITS then return end
          end
        end
        if batch.size > 0 then return end
        for i in by_deadline(queue, now, p.slo_s) do
          if p.slo_s and batch.size == 0 then
            batch:limit(math.max(queue:cost(i), model:cost_within(HOPELESS_SHARE * p.slo_s)))
          end
          local is_in, why = batch:add(i)
          if not is_in then misfits = misfits + 1 end
          if why == "budget" or misfits > MISFITS then return end
        end
      end,
      on_complete = function(report) model:learn(report) end,
    }
  end,
}
