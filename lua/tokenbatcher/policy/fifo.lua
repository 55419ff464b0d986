--- First in, first out: a full batch at once, and one that is not full when the queue is
-- due. (A batcher with this policy decides it in the core; this is the same for `inner`.)
return {
  about = "first in, first out: a full batch at once, another when the queue is due",
  parameters = {},
  new = function()
    return {
      form = function(queue, batch)
        if not (queue.full or queue.due) then return end
        for i = 1, queue.size do
          if not batch:add(i) then break end
        end
      end,
    }
  end,
}
