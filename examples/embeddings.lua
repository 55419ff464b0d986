-- Embeddings from an OpenAI-compatible server: each batch is one request. A record's text is
-- its field `text`, `prompt` or `question`, or it is a line of a batch file.
--
--     tokenbatcher run examples/embeddings.lua --base-url http://127.0.0.1:8081/v1 --input examples/prompts.jsonl
--
-- `--endpoint completions` asks for completions instead. A key is read from the environment
-- variable that --api-key-env names.

local tb = require "tokenbatcher"

local FIELDS = { "text", "prompt", "question" }

local function text_of(record)
  if type(record) ~= "table" then return record end
  if type(record.body) == "table" then record = record.body end
  local text = record.input or record.text or record.prompt or record.question
  return type(text) == "table" and text[1] or text
end

return {
  options = {
    base_url = { "where the server's API begins", "http://127.0.0.1:8081/v1" },
    model = { "the model's name, as the server knows it", "use-lite-512" },
    endpoint = { "embeddings or completions", "embeddings" },
    ignore = { "fields of a line that are not sent, as a,b", "answer" },
    api_key_env = { "the environment variable with the key; empty: none", "" },
    timeout_s = { "seconds for one request", 300 },
  },
  setup = function(opt)
    local ignore = {}
    for name in opt.ignore:gmatch "[^,%s]+" do ignore[#ignore + 1] = name end
    return {
      inference_fn = tb.backend.openai {
        base_url = opt.base_url, model = opt.model, endpoint = opt.endpoint, timeout_s = opt.timeout_s,
        fields = FIELDS, ignore = ignore, api_key_env = opt.api_key_env ~= "" and opt.api_key_env or nil,
      },
      token_estimator = function(record)
        local text = text_of(record)
        return type(text) == "string" and #text / 4 + 1 or 1
      end,
      target_batch_tokens = 2000,
      max_batch_size = 64,
      cost_model = "padded",
      policy = "length_bucketed",
    }
  end,
}
