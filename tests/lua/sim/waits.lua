-- A policy for decisions_spec: it waits for a third record, then until a time, and takes all; then it waits for two.
local has_waited = false

return {
  form = function(queue, batch, now)
    if not has_waited and queue.size < 3 then return end
    if not has_waited and queue:age(1) < 0.4 + 0.05 - 1e-9 then return now - queue:age(1) + 0.45 end
    if queue.size < 2 then return end
    has_waited = true
    for i = 1, queue.size do batch:add(i) end
  end,
}
