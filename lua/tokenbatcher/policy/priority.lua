--- Highest priority first; a record gains one level for each aging_s it has waited, so that
-- none waits for ever. The batch ends at the first record that does not fit for its size: a large
-- one is not overtaken. One of another group, or that must run alone, is passed over and keeps
-- its place.

local MOST_PASSED = 512 -- then the batch is closed

return {
  about = "highest priority first; a record gains one level for each aging_s waited",
  parameters = {
    { name = "aging_s", default = 1, kind = "number", above = 0, unit = "seconds",
      text = "a record gains one level of priority for each of these it has waited" },
  },
  new = function(p)
    return {
      form = function(queue, batch)
        if not (queue.full or queue.due) then return end
        local passed = 0
        for i in queue:by_priority(p.aging_s) do
          local is_in, why = batch:add(i)
          if not is_in then passed = passed + 1 end
          if why == "budget" or passed > MOST_PASSED then break end
        end
      end,
    }
  end,
}
