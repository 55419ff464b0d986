--- Gathers by group, for dense batches where only records of one group may share a call: the group
-- that fills a batch goes at once, otherwise that of the oldest due; of several, the one whose
-- oldest record came first, so that none starves. When the queue can take no more and no group
-- is full, the group of the oldest record goes.

local LOOK = 64 -- positions looked at before all groups are

-- The group to go: the first by the arrival of its oldest record that is full or due.
local function next_group(queue)
  local seen = {}
  local function may_go(group)
    if seen[group] == nil then seen[group] = queue:full_of_group(group) or queue:due_of_group(group) end
    return seen[group]
  end
  for i = 1, math.min(LOOK, queue.size) do
    local group = queue:group(i)
    if may_go(group) then return group end
  end
  local best, first
  for group in queue:groups() do
    if may_go(group) then
      local step, from, start = queue:of_group(group)
      local oldest = step(from, start)
      if not best or oldest < first then best, first = group, oldest end
    end
  end
  return best or queue.bounded and queue:group(1) or nil
end

return {
  about = "gathers by group: the group that fills a batch at once, otherwise that of the oldest due",
  parameters = {},
  new = function()
    return {
      form = function(queue, batch)
        if not (queue.full or queue.due) then return end
        local group = next_group(queue)
        if not group then return end
        for i in queue:of_group(group) do
          local _, why = batch:add(i)
          if why == "budget" then break end
        end
      end,
    }
  end,
}
