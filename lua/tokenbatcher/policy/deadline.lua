--- Earliest deadline first among what can still be met together, with the arrivals of the last moments expected
-- once more: where that is too much, the longest go later. What can still be on time goes ahead of what cannot, a
-- batch never grows past the earliest deadline in it, and who is late goes when nobody else is left. It learns
-- service time = a + b x cost + c x padded. Records without a deadline have slo_s, or their own slo, in place of one;
-- those without any gather as under fifo, and ride along where there is room.

local punctual = require "tokenbatcher.policy.support.punctual"

return {
  about = "learns service time; earliest deadline first, what can still be on time ahead of the rest",
  parameters = {
    { name = "slo_s", kind = "number", above = 0, unit = "seconds",
      text = "orders records without a deadline, as if they had this one; it expires none; none: the option slo" },
    { name = "base_s", default = 0, kind = "number", unit = "seconds", text = "first guess of what any batch takes" },
    { name = "per_token_s", default = 0, kind = "number", unit = "seconds",
      text = "first guess of what each token adds" },
  },
  new = function(p)
    local machine = punctual.new(p, { by_rate = false, trusts_deadlines = true })
    return {
      model = machine.model,
      form = function(queue, batch, now) machine:form(queue, batch, now) end,
      on_complete = function(report) machine:complete(report) end,
    }
  end,
}
