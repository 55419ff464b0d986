-- A job: a question a line, an answer from any OpenAI-compatible server a line.
--
--     export OPENAI_API_KEY=...
--     tokenbatcher run examples/jobs/chat.lua --base-url https://api.openai.com/v1 --model gpt-4o-mini \
--       --api-key-env OPENAI_API_KEY --input examples/prompts.jsonl --output answers.jsonl
--
-- A line is {"messages": [...]}, or has its text in `text`, `prompt` or `question`; what else it has (temperature,
-- tools, model, ...) goes out with it. 16 requests run at once; what the server puts off is asked again.

local tb = require "tokenbatcher"

return {
  options = {
    base_url = { "where the server's API begins", "http://127.0.0.1:8081/v1" },
    model = { "the model's name, as the server knows it", "default" },
    endpoint = { "chat, or responses", "chat" },
    system = { "what stands before a question; empty: nothing", "" },
    max_tokens = { "the most tokens of an answer; 0: as the server has it", 0 },
    ignore = { "fields of a line that are not sent, as a,b", "answer" },
    api_key_env = { "the environment variable with the key; empty: none", "" },
    timeout_s = { "seconds for one request", 300 },
    retries = { "how often a request is tried again", 5 },
  },
  setup = function(opt)
    local ignore = {}
    for name in opt.ignore:gmatch "[^,%s]+" do ignore[#ignore + 1] = name end
    return {
      inference_fn = tb.backend.openai {
        base_url = opt.base_url, model = opt.model, endpoint = opt.endpoint, timeout_s = opt.timeout_s,
        retries = opt.retries, pause_after = 1, fields = { "text", "prompt", "question" }, ignore = ignore,
        system = opt.system ~= "" and opt.system or nil,
        extra = { max_tokens = opt.max_tokens > 0 and opt.max_tokens or nil },
        api_key_env = opt.api_key_env ~= "" and opt.api_key_env or nil,
      },
      token_estimator = function(record)
        local text = type(record) == "table" and (record.text or record.prompt or record.question) or record
        if type(text) ~= "string" then text = tb.json.encode(text) or "" end
        return #text / 4 + 1 + opt.max_tokens
      end,
    }
  end,
}
