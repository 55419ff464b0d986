--- Dispatches as soon as a slot is idle; min_batch_size and the timeout only matter below it.
-- (A batcher with this policy decides it in the core; this is the same for `inner`.)
return {
  about = "as soon as a slot is idle and min_batch_size is met",
  parameters = {},
  new = function()
    return {
      form = function(queue, batch)
        for i = 1, queue.size do
          if not batch:add(i) then break end
        end
      end,
    }
  end,
}
