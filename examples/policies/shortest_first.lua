-- Short prompts first: most people wait less, at the price of the long ones; with the option
-- max_wait_s none of those starves.
return {
  form = function(queue, batch)
    if not (queue.full or queue.due) then return end -- keep gathering
    for i in queue:by_cost() do
      if not batch:add(i) then break end
    end
  end,
}
