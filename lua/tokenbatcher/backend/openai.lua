--- tb.backend.openai{base_url, model, endpoint, ...}: an inference function that asks an OpenAI-compatible
-- server (OpenAI, vLLM, TEI, llama.cpp, Infinity, ...). Where the endpoint takes lists (embeddings,
-- completions, moderations) a batch is one request; where it does not (chat, responses, rerank) a record is.
-- A result is the embedding as a list of numbers, the text of a completion or a message, the scores of the
-- documents; `raw` gives the answer's item instead. What it does with a batch: server/init.lua.

local endpoints = require "tokenbatcher.backend.server.endpoints"
local json = require "tokenbatcher.base.json"
local options = require "tokenbatcher.backend.server.options"
local server = require "tokenbatcher.backend.server"

local WHO = "backend 'openai'"

local DECLARED = {
  { name = "model", kind = "string", required = true },
  { name = "endpoint", kind = "string", default = "embeddings", choices = endpoints.names },
  { name = "system", kind = "string" }, -- of a chat: what stands before a record that is a text
}

-- What `extra` cannot hold.
local OURS = { model = true, input = true, prompt = true, messages = true, documents = true, query = true,
  stream = true, background = true, n = true }

--- @param given table  see DECLARED and server/options.lua
-- @return table  for inference_fn
return function(given)
  local p = options.read(WHO, given, DECLARED, options.records)
  local endpoint = endpoints[p.endpoint]
  local base = options.encoded(WHO, "extra", p.extra, OURS)
  base.model = json.quote(p.model)
  return server.new(("%s (endpoint '%s')"):format(WHO, p.endpoint), p, {
    url = options.url(WHO, p.base_url, endpoint.path), endpoint = endpoint, base = base,
  })
end
