--- Highest priority first; a record gains one level for each aging_s it has waited, so that
-- none waits for ever. The batch ends at the first record that does not fit: a large one is
-- not overtaken for its size.
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
        for i in queue:by_priority(p.aging_s) do
          if not batch:add(i) then break end
        end
      end,
    }
  end,
}
