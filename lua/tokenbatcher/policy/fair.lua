--- Deficit round robin by cost over `key`: each key in turn may send what it has been given,
-- `quantum` at a visit; what it could not use it keeps while it has records queued. Two
-- backlogged keys stay within two largest records and a quantum. The batch ends at the first
-- record that does not fit for its size, and the next one goes on there. A record of another group
-- than the batch's, or that must run alone, is passed over; its key keeps turn and credit. One
-- that ran alone ends its key's turn.

local round_robin = require "tokenbatcher.policy.support.round_robin"

return {
  about = "deficit round robin by cost over key",
  parameters = {
    { name = "quantum", kind = "number", above = 0, unit = "tokens", shown = "target/8",
      text = "what a key may send at each visit; by default an eighth of the budget" },
  },
  new = function(p)
    local ring, budget = round_robin.new(), 0
    return {
      ring = ring,
      form = function(queue, batch)
        if not (queue.full or queue.due) then return end
        budget = math.max(budget, batch.budget) -- which one around it may have lowered
        local quantum, passed = p.quantum or math.max(1, budget / 8), 0
        ring:refresh(queue, quantum)
        while ring:size() > 0 do
          local sent = ring:visit(queue, batch, quantum)
          if not sent then return end
          passed = sent > 0 and 0 or passed + 1
          if passed >= ring:size() then
            ring:skip_rounds(queue, quantum)
            passed = 0
          end
        end
      end,
    }
  end,
}
