--- Keeps to a provider's limits: in no minute, wherever it begins, more requests or tokens
-- than given, and no more than the provider itself says is left (info.limits). A batch is one request, plus
-- what the backend reports in info.requests; it counts what it was estimated at, and once it is over what it has really
-- used (info.usage). `inner` decides who goes; it is asked when there is room, with what is left as its budget.
-- With on_error = "bisect" each half is asked for before it is sent.

local provider = require "tokenbatcher.policy.support.provider"
local sliding_minute = require "tokenbatcher.policy.support.sliding_minute"

local function later(a, b)
  return a and b and math.max(a, b) or a or b
end

local function sooner(a, b)
  return a and b and math.min(a, b) or a or b
end

-- --- calls under way -----------------------------------------------------------------------------

local Flying = {}
Flying.__index = Flying

local function new_flying() return setmetatable({ requests = 0, tokens = 0, calls = {} }, Flying) end

function Flying:add(entry, cost)
  self.calls[#self.calls + 1] = { entry = entry, cost = cost }
  self.requests, self.tokens = self.requests + 1, self.tokens + cost
end

-- The oldest call of that cost is over. @return table  what was noted of it, or nil
function Flying:remove(cost)
  for i, call in ipairs(self.calls) do
    if call.cost == cost then
      table.remove(self.calls, i)
      self.requests, self.tokens = self.requests - 1, self.tokens - cost
      return call.entry
    end
  end
end

-- Tokens as the server has counted them, or nil.
local function tokens_of(usage)
  if type(usage) ~= "table" then return nil end
  local total = tonumber(usage.total_tokens)
  if not total then
    local read = tonumber(usage.prompt_tokens or usage.input_tokens)
    total = read and read + (tonumber(usage.completion_tokens or usage.output_tokens) or 0)
  end
  return total and total >= 0 and total < math.huge and total or nil
end

-- A batch is over: what it was estimated at gives way to what it was. A call that cost more is counted from now on,
-- one that cost less from when it was sent: both are on the safe side.
local function settle(sent, flying, completed)
  local calls, now = tonumber(completed.calls) or 1, completed.now
  local entry = flying:remove(completed.cost)
  local used, more = tokens_of(completed.usage), (tonumber(completed.requests) or calls) - calls
  if not (more > 0 and more < math.huge) then more = 0 end
  local extra = 0
  if used and entry and calls == 1 then
    if used < entry.tokens then sent:correct(entry, used) else extra = used - entry.tokens end
  end
  if more > 0 or extra > 0 then sent:note(now, extra, more) end
end

return {
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
    local said = former and former.said or provider.new()
    local flying = former and former.flying or new_flying()

    -- When a record of this cost has room; nil: now. One above the limit, queued before this policy
    -- came, goes in a minute of its own.
    local function room_at(cost, now)
      local own = sent:free_at(math.max(0, max_tokens - cost), max_requests - 1)
      return later(own, said:free_at(cost, 1, now))
    end

    -- How many tokens there are now for a batch whose least record costs so much, or nil
    local function tokens_now(least, now)
      if sent.requests + 1 > max_requests or said:room("requests", now) < 1 then return nil end
      local tokens = math.min(math.max(max_tokens, least) - sent.tokens, said:room("tokens", now))
      return tokens >= least and tokens or nil
    end

    local function form(queue, batch, now, most)
      local step, from, start = queue:by_cost()
      local oldest, least = queue:cost(1), queue:cost(step(from, start))
      if oldest > max_tokens then least = oldest end
      local tokens = tokens_now(least, now)
      if not tokens then return room_at(least, now) end
      tokens = math.min(tokens, most) -- as the inner policy of another one
      if oldest > max_tokens then return inner.choose_fifo(queue, batch, tokens) end
      local at = inner.form(queue, batch, now, tokens)
      if batch.size > 0 or at or not (queue.full or queue.due) then return at end
      -- What inner wants may not fit: it is asked when anything is free again. If all is free
      -- already, fifo chooses: liveness is ours to keep, since F3 knows no limits.
      at = sooner(sent:next_at(), said:over_at(now))
      if at or not queue.due then return at end
      inner.choose_fifo(queue, batch, tokens)
      return batch.size == 0 and room_at(oldest, now) or nil
    end

    local function note(now, cost)
      said:spend(cost, 1)
      return sent:note(now, cost, 1)
    end

    return {
      sent = sent, said = said, flying = flying, inner = inner,
      max_record_cost = math.min(math.floor(max_tokens), inner.max_record_cost or math.huge),
      form = function(queue, batch, now, most)
        sent:advance(now)
        local at = form(queue, batch, now, most or math.huge)
        if batch.size > 0 then flying:add(note(now, batch.cost), batch.cost) end
        return at
      end,
      -- May a further call of a batch go, of so many tokens? @return a time at which to ask again, or nil: it is noted
      admit = function(cost, now)
        sent:advance(now)
        local at = not tokens_now(cost, now) and room_at(cost, now)
          or inner.admit and inner.admit(cost, now) or nil
        if not at then note(now, cost) end
        return at
      end,
      on_complete = function(completed)
        sent:advance(completed.now)
        settle(sent, flying, completed)
        if type(completed.limits) == "table" then said:observe(completed.limits, completed.now, flying) end
        inner.on_complete(completed)
      end,
    }
  end,
}
