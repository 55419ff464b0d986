--- The endpoints that OpenAI-compatible servers have. Of each:
--
--   path        behind base_url
--   input       the request's field that holds a record's input
--   has_lists   true: many inputs in one request; false: one record a request
--   known       a record's own fields that go out with it: name -> true
--   list, index, value_of, check_all     (has_lists) where the answer's list is, an item's index and its value, and
--                                        what is wrong with the values together
--   read(answer, input, raw)             (else) the result, or nil and what is wrong
--   make(text, p)                        the input made of a text
--   check(input)                         what is wrong with an input that is no text, or nil
--   refuses_text  an input is never a text
--   beside      names of fields that belong to the input: each request needs them
--   is_text     are answers texts, which are private?

local answers = require "tokenbatcher.backend.server.answer"
local base64 = require "tokenbatcher.backend.server.base64"

local at, is_finite = answers.at, answers.is_finite

local M = {}

local function names(text, others)
  local set = {}
  for name in text:gmatch "%S+" do set[name] = true end
  for name in pairs(others or {}) do set[name] = true end
  return set
end

-- --- embeddings ---------------------------------------------------------------------------------

local function vector_of(vector)
  if type(vector) == "string" then
    vector = base64.floats(vector)
    if not vector then return nil, "has no embedding that is a list of numbers, or the base64 of floats" end
  end
  if type(vector) ~= "table" or #vector == 0 then return nil, "has no embedding that is a list of numbers" end
  for i = 1, #vector do
    if not is_finite(vector[i]) then return nil, ("has an embedding whose element %d is no number"):format(i) end
  end
  return vector
end

-- A model's vectors are of one length.
local function check_lengths(vectors)
  for i = 2, #vectors do
    if #vectors[i] ~= #vectors[1] then
      return ("has embeddings of %d and of %d numbers"):format(#vectors[1], #vectors[i])
    end
  end
end

M.embeddings = {
  path = "embeddings", input = "input", has_lists = true, takes_tokens = true, list = { "data" }, index = "index",
  value_of = function(item) return vector_of(item.embedding) end, check_all = check_lengths,
  known = names "model dimensions encoding_format user input_type truncate_prompt_tokens add_special_tokens",
}

-- --- completions ----------------------------------------------------------------------------------

-- What several engines add to OpenAI's own.
local SAMPLING = names [[temperature top_p max_tokens stop seed presence_penalty frequency_penalty logit_bias logprobs n
  user stream top_k min_p repetition_penalty length_penalty min_tokens ignore_eos stop_token_ids skip_special_tokens
  add_special_tokens truncate_prompt_tokens guided_json guided_regex guided_choice guided_grammar response_format]]

M.completions = {
  path = "completions", input = "prompt", has_lists = true, takes_tokens = true, list = { "choices" }, index = "index",
  is_text = true, known = names("model echo suffix best_of", SAMPLING),
  value_of = function(item)
    if type(item.text) == "string" then return item.text end
    return nil, "has no text"
  end,
}

-- --- chat -----------------------------------------------------------------------------------------

local function list_of_objects(name)
  return function(value)
    if type(value) == "table" and type(value[1]) == "table" then return nil end
    return ("'%s' must be a list of objects"):format(name)
  end
end

-- The text of the first choice; its message where that has none (calls of tools, a refusal).
local function read_chat(answer, _, raw)
  local choice = at(answer, { "choices", 1 })
  if type(choice) ~= "table" then return nil, "has no list 'choices' with an item" end
  if raw then return choice end
  local message = at(choice, { "message" })
  if type(message) ~= "table" then return nil, "has a choice without a message" end
  return type(message.content) == "string" and message.content or message
end

M.chat = {
  path = "chat/completions", input = "messages", has_lists = false, is_text = true, read = read_chat,
  known = names([[model max_completion_tokens tools tool_choice parallel_tool_calls functions function_call top_logprobs
    metadata store reasoning_effort verbosity modalities audio prediction service_tier safety_identifier
    prompt_cache_key web_search_options chat_template chat_template_kwargs add_generation_prompt
    continue_final_message]], SAMPLING),
  check = list_of_objects "messages",
  make = function(text, p)
    local messages = { { role = "user", content = text } }
    if p.system then table.insert(messages, 1, { role = "system", content = p.system }) end
    return messages
  end,
}

-- All texts of the messages in the output; the whole answer where there is none.
local function read_responses(answer, _, raw)
  local output = at(answer, { "output" })
  if type(output) ~= "table" then return nil, "has no list 'output'" end
  if answer.status == "failed" or answer.status == "cancelled" then return nil, "has the status " .. answer.status end
  if raw then return answer end
  local texts = {}
  for _, item in ipairs(output) do
    for _, part in ipairs(at(item, { "content" }) or {}) do
      local text = at(part, { "text" })
      if part.type == "output_text" and type(text) == "string" then texts[#texts + 1] = text end
    end
  end
  return texts[1] and table.concat(texts) or answer
end

M.responses = {
  path = "responses", input = "input", has_lists = false, is_text = true, read = read_responses,
  known = names [[model instructions max_output_tokens temperature top_p tools tool_choice parallel_tool_calls text
    reasoning metadata previous_response_id include store user truncation service_tier prompt max_tool_calls
    safety_identifier prompt_cache_key conversation top_logprobs stream background]],
  check = list_of_objects "input",
}

-- --- rerank, moderations ----------------------------------------------------------------------------

local function score_of(item)
  local score = item.relevance_score
  if score == nil then score = item.score end
  if is_finite(score) then return score end
  return nil, "has no score that is a number"
end

-- The documents' scores, in the order of the documents; the items as they came where not all are asked for.
local function read_rerank(answer, input, raw)
  local list = at(answer, { "results" })
  if type(list) ~= "table" then return nil, "has no list 'results'" end
  if raw or #list < #input.value and (input.own.top_n or input.base.top_n) then return list end
  return answers.pair(list, #input.value, "index", score_of)
end

M.rerank = {
  path = "rerank", input = "documents", has_lists = false, refuses_text = true, beside = { "query" },
  read = read_rerank,
  known = names [[model query top_n return_documents max_chunks_per_doc max_tokens_per_doc truncate_prompt_tokens
    rank_fields instruction]],
  check = function(value)
    if type(value) == "table" and #value > 0 then return nil end
    return "'documents' must be a list"
  end,
}

M.moderations = {
  path = "moderations", input = "input", has_lists = true, list = { "results" }, index = nil, known = names "model",
  value_of = function(item)
    if type(item) == "table" then return item end
    return nil, "is not an object"
  end,
}

--- Their names, in the order of the documentation.
M.names = { "embeddings", "completions", "chat", "responses", "rerank", "moderations" }

return M
