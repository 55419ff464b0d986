--- OpenAI's older /v1/completions, which takes a list of prompts and answers a choice for each. What streams, or
-- wants several choices of a prompt, is passed on.

local json = require "tokenbatcher.base.json"
local support = require "tokenbatcher.gateway.protocols.support"

local M = { name = "completions", paths = { "/v1/completions", "/completions" }, upstream_path = "/v1/completions" }

local APART = { prompt = true, user = true }
local DEFAULT_MAX_TOKENS = 16 -- as OpenAI has it

local function is_one(value) return value == nil or value == json.null or value == 1 end

function M.read(asked, body, limits)
  local is_streamed = body.stream ~= nil and body.stream ~= json.null and body.stream ~= false
  if is_streamed or not is_one(body.n) or not is_one(body.best_of) or body.prompt == nil then
    return nil, support.PASS
  end
  local model, problem = support.model(body, true)
  if not model then return nil, problem end
  body.stream, body.n, body.best_of = nil, nil, nil -- are as they are without
  support.drop_null(body, "max_tokens")
  local is_fine
  is_fine, problem = support.inputs(asked, body.prompt, "prompt", limits)
  if not is_fine then return nil, problem end
  asked.head, problem = support.head(body, APART)
  if not asked.head then return nil, problem end
  local most = type(body.max_tokens) == "number" and body.max_tokens or DEFAULT_MAX_TOKENS
  if not (most >= 0 and most < 2 ^ 31) then
    return support.refuse("invalid_max_tokens", "'max_tokens' must be a whole number from 0", "max_tokens")
  end
  for i = 1, #asked.costs do asked.costs[i] = asked.costs[i] + most end
  asked.model = model
  return true
end

M.request = support.request_of "prompt"

function M.cut(body, n)
  local items, usage, about = support.cut_object(body, n, "choices", "index")
  if not items then return nil, usage end
  for i = 1, n do
    if type(items[i].text) ~= "string" then return nil, "a choice without a text" end
  end
  return items, usage, about
end

function M.answer(asked, results)
  local choices, prompt, completion, about = {}, 0, 0, results[1].about
  for i, result in ipairs(results) do
    local own = setmetatable({}, getmetatable(result.item)) -- the item may be another's, too
    for name, value in pairs(result.item) do own[name] = value end
    own.index = i - 1
    choices[i] = json.encode(own)
    prompt, completion = prompt + result.prompt, completion + result.completion
  end
  return ('{"id":%s,"object":"text_completion","created":%d,"model":%s,"choices":[%s],"usage":{"prompt_tokens":%d,'
    .. '"completion_tokens":%d,"total_tokens":%d}}\n'):format(support.quoted("cmpl-" .. asked.id), about.created or 0,
    about.model or support.quoted(asked.model), table.concat(choices, ","), prompt, completion, prompt + completion)
end

return M
