--- Deficit round robin (Shreedhar and Varghese, 1995) over the keys of a policy's queue. Keys
-- take turns in a ring; a lane is {key, deficit, has_quantum, and its place in the queue}.

local M = {}

local MOST_PASSED = 512 -- of a key's records in one decision

local Ring = {}
Ring.__index = Ring

function M.new()
  return setmetatable({ ring = {}, first = 1, last = 0, lanes = {}, round = 0, held = {} }, Ring)
end

--- How many keys take turns.
function Ring:size() return self.last - self.first + 1 end

--- Before a decision: a key that has gone idle leaves with its credit, a new one joins at the
-- end, and all begin with their first record. O(keys).
function Ring:refresh(queue, quantum)
  self.round = self.round + 1
  self:release()
  for key in queue:keys() do
    local lane = self.lanes[key]
    if not lane then
      lane = { key = key, deficit = 0, has_quantum = false }
      self.lanes[key], self.last = lane, self.last + 1
      self.ring[self.last] = lane
    end
    local step, from, start = queue:of(key)
    lane.step, lane.from, lane.position, lane.round = step, from, step(from, start), self.round
    -- what was saved for a record that has been cancelled is no credit for others
    local most = queue:cost(lane.position) + (lane.has_quantum and quantum or 0)
    lane.deficit = math.min(lane.deficit, most)
  end
  local ring, last = {}, 0
  for i = self.first, self.last do
    local lane = self.ring[i]
    if lane.round == self.round then
      last = last + 1
      ring[last] = lane
    else
      self.lanes[lane.key] = nil
    end
  end
  self.ring, self.first, self.last = ring, 1, last
end

-- Keys that could not send for the sake of the batch's group come first again.
function Ring:release()
  local held = self.held
  if not held[1] then return end
  for i = self.first, self.last do held[#held + 1] = self.ring[i] end
  self.ring, self.first, self.last, self.held = held, 1, #held, {}
end

-- Send what the key may. @return how many; nil: the batch is closed; has a record been passed over,
-- has one run alone
local function send(lane, queue, batch)
  local sent, passed = 0, 0
  while lane.position and queue:cost(lane.position) <= lane.deficit and passed <= MOST_PASSED do
    local is_in, why = batch:add(lane.position)
    if is_in then
      lane.deficit = lane.deficit - queue:cost(lane.position)
      sent = sent + 1
      if queue:alone(lane.position) then return sent, false, true end
    elseif why == "budget" then
      return nil
    else
      passed = passed + 1
    end
    lane.position = lane.step(lane.from, lane.position)
  end
  return sent, passed > 0, false
end

--- One visit to the key whose turn it is. @return how many it sent; nil: the batch is closed
function Ring:visit(queue, batch, quantum)
  local lane = self.ring[self.first]
  if not lane.has_quantum then lane.deficit, lane.has_quantum = lane.deficit + quantum, true end
  local sent, has_passed, ran_alone = send(lane, queue, batch)
  if not sent then return nil end
  self.ring[self.first], self.first = nil, self.first + 1
  if has_passed then -- keeps turn and credit
    self.held[#self.held + 1] = lane
    return sent
  end
  if ran_alone then lane.position = lane.step(lane.from, lane.position) end
  lane.has_quantum = false
  if lane.position then
    self.last = self.last + 1
    self.ring[self.last] = lane
  else
    self.lanes[lane.key] = nil
  end
  return sent
end

--- No key could send in a whole round: pass over the rounds in which none could. O(keys).
function Ring:skip_rounds(queue, quantum)
  local rounds = math.huge
  for i = self.first, self.last do
    local lane = self.ring[i]
    rounds = math.min(rounds, math.ceil((queue:cost(lane.position) - lane.deficit) / quantum) - 1)
  end
  for i = self.first, self.last do self.ring[i].deficit = self.ring[i].deficit + rounds * quantum end
end

return M
