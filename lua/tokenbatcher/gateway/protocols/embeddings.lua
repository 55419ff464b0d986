--- OpenAI's /v1/embeddings. A vector is never made numbers of: its bytes are cut out of the upstream's answer.

local support = require "tokenbatcher.gateway.protocols.support"
local vectors = require "tokenbatcher.gateway.vectors"

local M = { name = "embeddings", paths = { "/v1/embeddings", "/embeddings" }, upstream_path = "/v1/embeddings" }

local APART = { input = true, user = true } -- a client's own name for its user is no matter of the vector's

function M.read(asked, body, limits)
  local model, problem = support.model(body, true)
  if not model then return nil, problem end
  support.drop_null(body, "dimensions")
  support.drop_null(body, "encoding_format")
  local dimensions, format = body.dimensions, body.encoding_format
  if dimensions ~= nil and not (type(dimensions) == "number" and dimensions >= 1 and dimensions % 1 == 0) then
    return support.refuse("invalid_dimensions", "'dimensions' must be a whole number above 0", "dimensions")
  end
  if format ~= nil and format ~= "float" and format ~= "base64" then
    return support.refuse("invalid_encoding_format", "'encoding_format' must be float or base64", "encoding_format")
  end
  local is_fine
  is_fine, problem = support.inputs(asked, body.input, "input", limits)
  if not is_fine then return nil, problem end
  if format == "float" then body.encoding_format = nil end -- which it is without
  asked.head, problem = support.head(body, APART)
  if not asked.head then return nil, problem end
  asked.model, asked.wants_base64 = model, format == "base64"
  return true
end

M.request = support.request_of "input"

function M.cut(body, n)
  local list, usage, model = vectors.cut(body, n)
  if not list then return nil, usage end
  return list, support.usage(usage), { model = model }
end

-- An upstream that knows one of the two formats only.
local function in_format(raw, wants_base64)
  local is_base64 = raw:byte() == 34 -- a quote
  if is_base64 == wants_base64 then return raw end
  if wants_base64 then return vectors.to_base64(raw) end
  return vectors.to_floats(raw)
end

local FIRST, OTHER = '{"object":"embedding","index":', ',{"object":"embedding","index":'

local END = '],"model":%s,"usage":{"prompt_tokens":%d,"total_tokens":%d}}\n'

local function ending(asked, result, prompt, sum)
  return END:format(result.about.model or support.quoted(asked.model), prompt, sum)
end

local function answer_list(asked, results)
  local parts, n, prompt, sum = { '{"object":"list","data":[' }, 1, 0, 0
  for i = 1, #results do
    local result = results[i]
    local raw, problem = in_format(result.item, asked.wants_base64)
    if not raw then return nil, problem end
    parts[n + 1], parts[n + 2], parts[n + 3] = i > 1 and OTHER or FIRST, i - 1, ',"embedding":'
    parts[n + 4], parts[n + 5] = raw, "}"
    n, prompt, sum = n + 5, prompt + result.prompt, sum + result.prompt + result.completion
  end
  parts[n + 1] = ending(asked, results[1], prompt, sum)
  return table.concat(parts)
end

function M.answer(asked, results)
  if results[2] then return answer_list(asked, results) end
  local first = results[1]
  local raw, problem = in_format(first.item, asked.wants_base64)
  if not raw then return nil, problem end
  return '{"object":"list","data":[{"object":"embedding","index":0,"embedding":' .. raw .. "}"
    .. ending(asked, first, first.prompt, first.prompt + first.completion)
end

return M
