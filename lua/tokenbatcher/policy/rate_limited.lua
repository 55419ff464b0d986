--- Keeps to a provider's limits: in no minute, wherever it begins, more requests or tokens
-- than given. A batch is one request, plus what the backend reports in info.requests.
-- `inner` decides who goes; it is asked when there is room, with what is left as its budget.

local MINUTE_S, MOMENT_S = 60, 1e-6 -- sent a moment after the minute, nothing shares it

-- What was sent in the last minute, oldest first: {at, tokens, requests}.
local function forget_old(log, now)
  local sent = log[log.first]
  while sent and sent.at + MINUTE_S < now do
    log.tokens, log.requests = log.tokens - sent.tokens, log.requests - sent.requests
    log[log.first], log.first = nil, log.first + 1
    sent = log[log.first]
  end
end

local function note(log, at, tokens, requests)
  log.last = log.last + 1
  log[log.last] = { at = at, tokens = tokens, requests = requests }
  log.tokens, log.requests = log.tokens + tokens, log.requests + requests
end

-- When no more than so much of what was sent counts any longer; nil: that is so already.
local function free_at(log, tokens, requests)
  local left_tokens, left_requests = log.tokens, log.requests
  for i = log.first, log.last do
    left_tokens, left_requests = left_tokens - log[i].tokens, left_requests - log[i].requests
    if left_tokens <= tokens and left_requests <= requests then return log[i].at + MINUTE_S + MOMENT_S end
  end
end

return {
  forbids_bisect = true, -- a batch would become many requests
  about = "never more than so many requests and tokens in any minute; inner decides who goes",
  parameters = {
    { name = "requests_per_minute", kind = "number", min = 1, unit = "requests", shown = "",
      text = "the most in any minute" },
    { name = "tokens_per_minute", kind = "number", min = 1, unit = "tokens", shown = "",
      text = "the most in any minute; a record above it is refused (oversize)" },
    { name = "inner", default = "fifo", kind = "policy", text = "the policy that chooses" },
  },
  new = function(p, policies, report)
    local inner, fifo = policies.inner(p.inner, report), policies.inner "fifo"
    local log = { first = 1, last = 0, tokens = 0, requests = 0 }
    local max_tokens, max_requests = p.tokens_per_minute or math.huge, p.requests_per_minute or math.huge
    return {
      max_record_cost = p.tokens_per_minute and math.floor(p.tokens_per_minute),
      form = function(queue, batch, now)
        forget_old(log, now)
        local step, from, start = queue:by_cost()
        local chooser, least = inner, queue:cost(step(from, start))
        if queue:cost(1) > max_tokens then -- queued before this policy came: in a minute of its own
          chooser, least = fifo, queue:cost(1)
        end
        local tokens = math.max(max_tokens, least) - log.tokens
        if log.requests + 1 > max_requests or tokens < least then
          return free_at(log, math.max(0, max_tokens - least), max_requests - 1)
        end
        batch:limit(tokens)
        local at = chooser.form(queue, batch, now)
        if batch.size == 0 and not at and (queue.full or queue.due) then
          -- what it wants may not fit: when anything is free again; but liveness is ours to keep
          at = free_at(log, math.huge, math.huge) or queue.due and fifo.form(queue, batch, now)
        end
        if batch.size > 0 then return note(log, now, batch.cost, 1) end
        return at
      end,
      on_complete = function(completed)
        local more = (tonumber(completed.requests) or 1) - 1
        if more > 0 and more < math.huge then note(log, completed.now, 0, more) end
        inner.on_complete(completed)
      end,
    }
  end,
}
