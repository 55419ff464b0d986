--- What a request that is passed on will cost its upstream, in tokens: its prompt (bytes of text / 4 + 1, as
-- everywhere) and what may be made of it (max_tokens). Whoever understates it is cut off by the upstream all the same;
-- what is overstated counts up to a bound, since no model makes more.

local json = require "tokenbatcher.base.json"
local support = require "tokenbatcher.gateway.protocols.support"

local M = {}

local MOST_COST, MOST_CHOICES = 1e9, 128
local MOST_DEPTH = 8

-- Fields in which texts are, of chat (OpenAI, Anthropic), completions and responses.
local TEXTS = { "messages", "prompt", "input", "system", "instructions" }
local OF_PART = { "content", "text", "parts" }

local MADE = { "max_completion_tokens", "max_tokens", "max_output_tokens" }
local CHOICES = { "n", "best_of" }

-- The bytes of all texts in a value: a string; a list of values; an object with some of `names`. Images, sound and
-- tools are no text: what they cost is not known here.
local function bytes_of(value, names, depth)
  if type(value) == "string" then return #value end
  if type(value) ~= "table" or depth > MOST_DEPTH then return 0 end
  local sum = 0
  if support.is_list(value) then
    if type(value[1]) == "number" then return 4 * #value end -- tokens
    for i = 1, #value do sum = sum + bytes_of(value[i], OF_PART, depth + 1) end
    return sum
  end
  for _, name in ipairs(names) do sum = sum + bytes_of(value[name], OF_PART, depth + 1) end
  return sum
end

-- Also of text: there are upstreams that take "100" for 100.
local function count_of(value, most)
  if type(value) == "string" then value = tonumber(value, 10) end
  return type(value) == "number" and value >= 1 and math.min(math.floor(value), most) or nil
end

-- The largest of those that are given: which of them counts is known by the upstream alone.
local function largest_of(body, names, most)
  local out
  for _, name in ipairs(names) do
    local count = count_of(body[name], most)
    if count and count > (out or 0) then out = count end
  end
  return out
end

-- Tokens that may be made. A value that is none is for the upstream to refuse.
local function made_of(body, default, most)
  return (largest_of(body, MADE, most) or math.min(default, most)) * (largest_of(body, CHOICES, MOST_CHOICES) or 1)
end

--- @param text string|nil  the body  @param default number  tokens that are made where it does not say how many
-- @param most number  tokens that a choice has at most, whatever it says
-- @return number  tokens, at least 1; and the body as a table, if it is a JSON object
function M.cost(text, default, most)
  text = text or ""
  local body = json.decode(text)
  if type(body) ~= "table" or support.is_list(body) then
    return math.ceil(support.cost_of_text(text)) + math.min(default, most)
  end
  local bytes = bytes_of(body, TEXTS, 0)
  return math.min(math.ceil(bytes / 4 + 1) + made_of(body, default, most), MOST_COST), body
end

return M
