--- How long one iteration of a continuous-batching server takes. Two kinds of model:
--
--   coefficients: a + b x prompt tokens + c x sequences decoding + d x their KV tokens, and optional
--   terms: over x max(0, tokens - knee), tokens being all of the iteration; head x sequences; decode, if any
--   decodes; context x (prompt tokens x the tokens before each, on average). Seconds.
--
--   a table: an iteration with prompt tokens takes what was measured for so many, between measurements
--   by a straight line, times `mixed` if anything decodes in it; one without takes a + c x sequences + d x KV.
--
-- A model is {iteration_us(prefill, context, decoding, kv, sequences), kv_us}: microseconds, and what one
-- more KV token costs an iteration that only decodes.

local max = math.max

local M = {}

--- The terms of a model of coefficients, in the order in which they are written. Seconds, and knee: tokens.
M.TERMS = { "a", "b", "c", "d", "knee", "over", "head", "decode", "context" }

--- @param terms table  a, b, c, d, knee, over, head, decode, context  @param factor number  on all that it takes
function M.linear(terms, factor)
  local us = 1e6 * factor
  local a, b, c, d = terms.a * us, terms.b * us, terms.c * us, terms.d * us
  local over, knee, head = (terms.over or 0) * us, terms.knee or 0, (terms.head or 0) * us
  local decode, per_context = (terms.decode or 0) * us, (terms.context or 0) * us
  return {
    kv_us = d,
    iteration_us = function(prefill, context, decoding, kv, sequences)
      local took = a + b * prefill + c * decoding + d * kv + over * max(0, prefill + decoding - knee)
        + head * sequences + per_context * context
      return decoding > 0 and took + decode or took
    end,
  }
end

-- On the straight line between two measurements; beyond the last, on that of the last two.
local function between(tokens, seconds, x)
  local i = 2
  while i < #tokens and x > tokens[i] do i = i + 1 end
  if x <= tokens[1] then return seconds[1] end
  return seconds[i - 1] + (seconds[i] - seconds[i - 1]) * (x - tokens[i - 1]) / (tokens[i] - tokens[i - 1])
end

--- @param measured table  tokens, seconds (lists), mixed, a, c, d  @param factor number
function M.table(measured, factor)
  local us = 1e6 * factor
  local tokens, seconds, mixed = measured.tokens, measured.seconds, measured.mixed
  local a, c, d = measured.a * us, measured.c * us, measured.d * us
  return {
    kv_us = d,
    iteration_us = function(prefill, _, decoding, kv)
      if prefill == 0 then return a + c * decoding + d * kv end
      local took = us * between(tokens, seconds, prefill)
      return decoding > 0 and took * mixed or took
    end,
  }
end

return M
