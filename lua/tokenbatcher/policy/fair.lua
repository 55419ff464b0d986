--- Deficit round robin by cost over `key` (Shreedhar and Varghese, 1995): each key in turn
-- may send what it has been given, `quantum` at a visit; what it could not use it keeps while
-- it has records queued. Two backlogged keys stay within two largest records and a quantum.
-- The batch ends at the first record that does not fit, and the next one goes on there.

-- Keys take turns in s.order. One that has gone idle leaves with its credit, a new one joins
-- at the end, and all begin with their first record.
local function refresh(s, queue)
  s.round = s.round + 1
  for key in queue:keys() do
    local lane = s.lanes[key] or { key = key, deficit = 0, has_quantum = false }
    if not s.lanes[key] then s.lanes[key], s.order[#s.order + 1] = lane, lane end
    local step, from, start = queue:of(key)
    lane.step, lane.from, lane.position, lane.round = step, from, step(from, start), s.round
  end
  local order = {}
  for _, lane in ipairs(s.order) do
    if lane.round == s.round then order[#order + 1] = lane else s.lanes[lane.key] = nil end
  end
  s.order = order
end

-- One visit to the key whose turn it is. How many it sent; nil: the batch is closed.
local function visit(s, queue, batch, quantum)
  local lane, sent = s.order[1], 0
  if not lane.has_quantum then lane.deficit, lane.has_quantum = lane.deficit + quantum, true end
  while lane.position and queue:cost(lane.position) <= lane.deficit do
    if not batch:add(lane.position) then return nil end
    lane.deficit = lane.deficit - queue:cost(lane.position)
    lane.position = lane.step(lane.from, lane.position)
    sent = sent + 1
  end
  table.remove(s.order, 1)
  lane.has_quantum = false
  if lane.position then s.order[#s.order + 1] = lane else s.lanes[lane.key] = nil end
  return sent
end

-- No key could send in a whole round: pass over the rounds in which none could.
local function skip_rounds(s, queue, quantum)
  local rounds = math.huge
  for _, lane in ipairs(s.order) do
    rounds = math.min(rounds, math.ceil((queue:cost(lane.position) - lane.deficit) / quantum) - 1)
  end
  for _, lane in ipairs(s.order) do lane.deficit = lane.deficit + rounds * quantum end
end

return {
  about = "deficit round robin by cost over key",
  parameters = {
    { name = "quantum", kind = "number", above = 0, unit = "tokens", shown = "target/8",
      text = "what a key may send at each visit; by default an eighth of the budget" },
  },
  new = function(p)
    local s = { order = {}, lanes = {}, round = 0 }
    return {
      form = function(queue, batch)
        if not (queue.full or queue.due) then return end
        refresh(s, queue)
        local quantum, passed = p.quantum or math.max(1, batch.budget / 8), 0
        while s.order[1] do
          local sent = visit(s, queue, batch, quantum)
          if not sent then return end
          passed = sent > 0 and 0 or passed + 1
          if passed >= #s.order then
            skip_rounds(s, queue, quantum)
            passed = 0
          end
        end
      end,
    }
  end,
}
