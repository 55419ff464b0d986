-- What the endpoints of other servers answer: chat, responses, rerank, moderations, TEI, Ollama, Cohere. By the end of
-- a path: a function of the request's decoded body that returns an answer. A text answers "re:" .. text.

local cjson = require "cjson"

local M = {}

local USAGE = { prompt_tokens = 3, completion_tokens = 2, total_tokens = 5 }

local function vector(text)
  local sum = 0
  for i = 1, #text do sum = sum + text:byte(i) end
  return { #text, sum, 0.5 }
end

M["/chat/completions"] = function(body)
  local last = body.messages[#body.messages].content
  local message = { role = "assistant", content = "re:" .. tostring(last) }
  if body.tools then message = { role = "assistant", content = cjson.null, tool_calls = { { id = "call_1" } } } end
  return { id = "chat-1", object = "chat.completion", model = body.model, usage = USAGE, choices = {
    { index = 0, message = message, finish_reason = "stop" } } }
end

M["/responses"] = function(body)
  local said = type(body.input) == "string" and body.input or body.input[#body.input].content
  return { id = "resp-1", status = said == "fail" and "failed" or "completed", usage = { input_tokens = 4,
    output_tokens = 6, total_tokens = 10 }, output = { { type = "reasoning" }, { type = "message", content = {
    { type = "output_text", text = "re:" }, { type = "output_text", text = said } } } } }
end

-- Scores are the documents' lengths; the best comes first.
local function ranked(documents, name)
  local list = {}
  for i, text in ipairs(documents) do list[i] = { index = i - 1, [name] = #text } end
  table.sort(list, function(a, b) return a[name] > b[name] end)
  return list
end

M["/v1/rerank"] = function(body)
  local list = ranked(body.documents, "relevance_score")
  while body.top_n and #list > body.top_n do list[#list] = nil end
  return { results = list, usage = { total_tokens = #list } }
end

M["/rerank"] = function(body) return ranked(body.texts, "score") end -- TEI

M["/moderations"] = function(body)
  local results = {}
  for i, text in ipairs(body.input) do results[i] = { flagged = text == "bad" } end
  return { id = "modr-1", results = results }
end

local function vectors(texts)
  local out = {}
  for i, text in ipairs(texts) do out[i] = vector(text) end
  return out
end

M["/embed"] = function(body) return vectors(body.inputs) end -- TEI
M["/api/embed"] = function(body) return { embeddings = vectors(body.input), prompt_eval_count = 7 } end -- Ollama
M["/v2/embed"] = function(body) return { id = "1", embeddings = { float = vectors(body.texts) } } end -- Cohere

M["/predict"] = function(body) -- TEI: each input is a list of its own
  local out = {}
  for i, input in ipairs(body.inputs) do out[i] = { { label = input[1], score = #input[1] } } end
  return out
end

--- The answer for a request, or nil: it is for none of these.
function M.answer(path, body)
  local longest
  for ending in pairs(M) do
    local is_ours = ending:sub(1, 1) == "/" and path:sub(-#ending) == ending
    if is_ours and (not longest or #ending > #longest) then longest = ending end
  end
  return longest and M[longest](body)
end

return M
