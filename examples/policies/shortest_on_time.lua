-- As many answers within slo_s as can be: of the records that can still be on time, the shortest
-- first; who cannot waits until nobody else does. Long prompts pay for it.
local PARAMETERS = {
  { name = "slo_s", default = 1, above = 0, unit = "seconds" },
  { name = "base_s", default = 0.05, unit = "seconds" }, -- what any batch takes
  { name = "per_token_s", default = 0.00004, above = 0, unit = "seconds" },
}

return { parameters = PARAMETERS, new = function(p)
  local slo_s, base_s, per_token_s = p.slo_s, p.base_s, p.per_token_s
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
end }
