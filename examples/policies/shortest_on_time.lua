-- As many answers within slo_s as can be: of the records that can still be on time, the shortest
-- first; who cannot waits until nobody else does. Long prompts pay for it.
return function(given)
  local slo_s, base_s, per_token_s = given.slo_s or 1, given.base_s or 0.05, given.per_token_s or 0.00004
  return {
    form = function(queue, batch, now)
      local ends_by = math.huge -- the batch must be over by then
      for i in queue:by_cost() do
        local due = now - queue:age(i) + slo_s
        local takes_s = base_s + per_token_s * (batch.cost + queue:cost(i))
        if now + takes_s <= math.min(ends_by, due) and batch:add(i) then ends_by = math.min(ends_by, due) end
      end
      if batch.size > 0 then return end
      batch:limit(math.max(queue:cost(1), (0.3 * slo_s - base_s) / per_token_s))
      for i = 1, queue.size do
        if not batch:add(i) then return end
      end
    end,
  }
end
