-- Batch files, as OpenAI's Batch API takes and gives them, against any server:
--
--     tokenbatcher run examples/jobs/openai_batch.lua --base-url http://127.0.0.1:8081/v1 \
--       --input in.jsonl --output out.jsonl
--
-- A line is {"custom_id": ..., "method": "POST", "url": "/v1/chat/completions", "body": {...}}, of embeddings, chats,
-- completions or anything else; its answer {"id", "custom_id", "response": {"status_code", "request_id", "body"},
-- "error"}. Of a line that failed `error` says why, and `response` is null unless the server answered.

local tb = require "tokenbatcher"

local null = tb.json.null

-- A server's refusal as it would have sent it, without what is not for everybody's eyes.
local function refusal(cause)
  return { status_code = cause.status, request_id = cause.request_id or null, body = { error = {
    message = cause.said, type = cause.said_type or null, code = cause.said_code or null } } }
end

local function answer(record, result, err)
  local custom_id = type(record) == "table" and record.custom_id or null
  local line = { custom_id = custom_id, response = null, error = null, id = null }
  if result then
    line.response = { status_code = result.status_code, request_id = result.request_id or null, body = result.body }
  else
    local cause = type(err.cause) == "table" and err.cause or err
    if cause.status and cause.said then line.response = refusal(cause) end
    line.error = { code = cause.code or err.code, message = err.message }
  end
  if line.response ~= null and line.response.request_id ~= null then
    line.id = "batch_" .. line.response.request_id
  end
  return line
end

return {
  options = {
    base_url = { "where the server's API begins", "http://127.0.0.1:8081/v1" },
    api_key_env = { "the environment variable with the key; empty: none", "" },
    timeout_s = { "seconds for one request", 600 },
    retries = { "how often a request is tried again", 5 },
  },
  setup = function(opt)
    return {
      inference_fn = tb.backend.requests {
        base_url = opt.base_url, timeout_s = opt.timeout_s, retries = opt.retries, pause_after = 1,
        api_key_env = opt.api_key_env ~= "" and opt.api_key_env or nil,
      },
      -- What it will cost at most: its own text, and as many tokens as it may answer.
      token_estimator = function(record)
        local body = type(record) == "table" and type(record.body) == "table" and record.body or {}
        local most = body.max_completion_tokens or body.max_tokens or body.max_output_tokens
        if type(most) ~= "number" or not (most >= 0 and most < 1e9) then most = 0 end
        return #(tb.json.encode(body) or "") / 4 + 1 + most
      end,
      encode = answer,
    }
  end,
}
