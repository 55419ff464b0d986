--- As many answers on time as can be: keeps what can still be met together, the longest goes first, with the
-- arrivals of the last moments expected once more. It learns service time = a + b x cost + c x padded. What it
-- weighs at a decision, and when the shortest go instead, is in support/punctual.lua.

local punctual = require "tokenbatcher.policy.support.punctual"

return {
  about = "as many answers on time as can be: keeps what can be met together, the longest goes first",
  parameters = {
    { name = "slo_s", kind = "number", above = 0, unit = "seconds",
      text = "within what time an answer counts; none: within a record's own (the option slo)" },
    { name = "base_s", default = 0, kind = "number", unit = "seconds", text = "first guess of what any batch takes" },
    { name = "per_token_s", default = 0, kind = "number", unit = "seconds",
      text = "first guess of what each token adds" },
  },
  new = function(p)
    local machine = punctual.new(p, { by_rate = true })
    return {
      model = machine.model,
      form = function(queue, batch, now) machine:form(queue, batch, now) end,
      on_complete = function(report) machine:complete(report) end,
    }
  end,
}
