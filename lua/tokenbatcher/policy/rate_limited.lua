--- Keeps to a provider's limits: in no minute, wherever it begins, more requests or tokens
-- than given. A batch is one request, plus what the backend reports in info.requests.
-- `inner` decides who goes; it is asked when there is room, with what is left as its budget.

local sliding_minute = require "tokenbatcher.policy.support.sliding_minute"

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
  new = function(p, policies, report, former)
    local max_tokens, max_requests = p.tokens_per_minute or math.huge, p.requests_per_minute or math.huge
    local inner = policies.inner(p.inner, former and former.inner, report)
    local sent = former and former.sent or sliding_minute.new() -- new limits are no fresh minute

    -- When a record of this cost has room. One above the limit, queued before this policy
    -- came, goes in a minute of its own.
    local function room_at(cost)
      return sent:free_at(math.max(0, max_tokens - cost), max_requests - 1)
    end

    local function form(queue, batch, now, most)
      local step, from, start = queue:by_cost()
      local oldest, least = queue:cost(1), queue:cost(step(from, start))
      if oldest > max_tokens then least = oldest end
      local tokens = math.max(max_tokens, least) - sent.tokens
      if sent.requests + 1 > max_requests or tokens < least then return room_at(least) end
      tokens = math.min(tokens, most) -- as the inner policy of another one
      if oldest > max_tokens then return inner.choose_fifo(queue, batch, tokens) end
      local at = inner.form(queue, batch, now, tokens)
      if batch.size > 0 or at or not (queue.full or queue.due) then return at end
      -- What inner wants may not fit: it is asked when anything is free again. If all is free
      -- already, fifo chooses: liveness is ours to keep, since F3 knows no limits.
      at = sent:free_at(math.huge, math.huge)
      if at or not queue.due then return at end
      inner.choose_fifo(queue, batch, tokens)
      return batch.size == 0 and room_at(oldest) or nil
    end

    return {
      sent = sent, inner = inner,
      max_record_cost = math.min(math.floor(max_tokens), inner.max_record_cost or math.huge),
      form = function(queue, batch, now, most)
        sent:advance(now)
        local at = form(queue, batch, now, most or math.huge)
        if batch.size > 0 then sent:note(now, batch.cost, 1) end
        return at
      end,
      on_complete = function(completed)
        local more = (tonumber(completed.requests) or 1) - 1
        if more > 0 and more < math.huge then sent:note(completed.now, 0, more) end
        inner.on_complete(completed)
      end,
    }
  end,
}
