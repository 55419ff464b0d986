--- Batches records of like length: the oldest record and its nearest neighbours in cost,
-- until one does not fit. Saves padding; nobody starves, since the oldest is always in.
return {
  about = "the oldest record and its nearest neighbours in cost, until one does not fit",
  parameters = {},
  new = function()
    return {
      form = function(queue, batch)
        if not (queue.full or queue.due) then return end
        for i in queue:near(1) do
          if not batch:add(i) then break end
        end
      end,
    }
  end,
}
