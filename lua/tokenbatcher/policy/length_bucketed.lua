--- Batches records of like length: the oldest record and its nearest neighbours in cost,
-- until one does not fit. Saves padding; nobody starves, since the oldest is always in. Those of
-- another group, or that must run alone, are passed over.

local MOST_PASSED = 512 -- then the batch is closed

return {
  about = "the oldest record and its nearest neighbours in cost, until one does not fit",
  parameters = {},
  new = function()
    return {
      form = function(queue, batch)
        if not (queue.full or queue.due) then return end
        local passed = 0
        for i in queue:near(1) do
          local is_in, why = batch:add(i)
          if not is_in then passed = passed + 1 end
          if why == "budget" or passed > MOST_PASSED then break end
        end
      end,
    }
  end,
}
