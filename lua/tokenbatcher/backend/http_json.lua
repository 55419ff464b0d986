--- tb.backend.http{base_url, path, input_field, ...}: an inference function that asks a server which speaks JSON in
-- words of its own. Where its answers are lists, a batch is one request:
--
--     tb.backend.http{ base_url = "http://127.0.0.1:8080", path = "/embed", input_field = "inputs" }           TEI
--     tb.backend.http{ base_url = "http://127.0.0.1:11434", path = "/api/embed", model = "all-minilm",
--       input_field = "input", list_field = "embeddings", usage_field = "prompt_eval_count" }                Ollama
--
-- With lists = false a record is one request, and its result what is at list_field (the README here has more of them).

local answers = require "tokenbatcher.backend.server.answer"
local json = require "tokenbatcher.base.json"
local options = require "tokenbatcher.backend.server.options"
local server = require "tokenbatcher.backend.server"

local WHO = "backend 'http'"

local DECLARED = {
  { name = "path", kind = "string", required = true }, -- behind base_url
  { name = "input_field", kind = "string", required = true }, -- of the request: where the inputs are
  { name = "list_field", kind = "string", default = "" }, -- of the answer, as a.b: where its list is; "": it is one
  { name = "index_field", kind = "string" }, -- of an item: which input it is of, from 0; none: they are in order
  { name = "result_field", kind = "string", default = "" }, -- of an item, as a.b: the result; "": the item
  { name = "usage_field", kind = "string", default = "usage" }, -- of the answer: numbers by name, or one of tokens
  { name = "lists", kind = "boolean", default = true }, -- false: one record a request
  { name = "wrap", kind = "boolean", default = false }, -- send each text as a list of its own
  { name = "model", kind = "string" },
}

local function path_of(text)
  local path = {}
  for name in text:gmatch "[^.]+" do path[#path + 1] = name end
  return path
end

-- A list of numbers holds nothing else.
local function checked(value)
  if type(value) == "table" and type(value[1]) == "number" then
    for i = 1, #value do
      if not answers.is_finite(value[i]) then return nil, ("has a list whose element %d is no number"):format(i) end
    end
  end
  return value
end

local function endpoint_of(p)
  local list, result = path_of(p.list_field), path_of(p.result_field)
  local endpoint = { path = p.path:gsub("^/+", ""), input = p.input_field, has_lists = p.lists, known = {}, list = list,
    index = p.index_field, usage = path_of(p.usage_field), takes_tokens = true, is_text = true }
  function endpoint.value_of(item)
    local value = answers.at(item, result)
    if value == nil then return nil, result[1] and ("has no '%s'"):format(p.result_field) or "is null" end
    return checked(value)
  end
  -- Of one record: what is there; or where its input is a list and items have an index, their results in its order.
  function endpoint.read(answer, input, raw)
    local value = answers.at(answer, list)
    if value == nil then return nil, ("has no '%s'"):format(p.list_field) end
    if raw then return value end
    if p.index_field and type(value) == "table" and type(input.value) == "table" then
      return answers.pair(value, #input.value, p.index_field, endpoint.value_of)
    end
    return endpoint.value_of(value)
  end
  return endpoint
end

--- @param given table  see DECLARED and server/options.lua
-- @return table  for inference_fn
return function(given)
  local p = options.read(WHO, given, DECLARED, options.records)
  local ours = { [p.input_field] = true, model = p.model and true, stream = true }
  local base = options.encoded(WHO, "extra", p.extra, ours)
  if p.model then base.model = json.quote(p.model) end
  return server.new(("%s (path '%s')"):format(WHO, p.path), p, {
    url = options.url(WHO, p.base_url, p.path), endpoint = endpoint_of(p), base = base,
  })
end
