--- tb.backend.openai{base_url, model, ...}: an inference function that sends a batch as one
-- request with an array input to an OpenAI-compatible server (OpenAI, vLLM, TEI, llama.cpp,
-- Infinity, ...). A result is the embedding as a list of numbers, or the completion's text.
--
-- One record's fault is its own: a text that the server refuses (status 400, 413 or 422) is
-- found by halving the request, and fails alone (openai_batch.lua). All else that is wrong with an
-- answer fails every record of that request, since nothing of it can be trusted. 429 and 503 are
-- retried, see backoff.lua. What people see of a server's words: openai_words.lua.
--
-- info.requests counts what went out, retries and halves included; info.usage adds up what
-- the server reports.

local answers = require "tokenbatcher.backend.openai_answer"
local backoff = require "tokenbatcher.base.backoff"
local batch = require "tokenbatcher.backend.openai_batch"
local clock = require "tokenbatcher.runtime.clock"
local errors = require "tokenbatcher.base.errors"
local failure = require("tokenbatcher.batching.run").failure
local http = require "tokenbatcher.backend.http"
local json = require "tokenbatcher.base.json"
local parameters = require "tokenbatcher.base.parameters"
local tasks = require "tokenbatcher.runtime.tasks"
local utf8 = require "tokenbatcher.base.utf8"
local words = require "tokenbatcher.backend.openai_words"

-- Raises where the value has no JSON form.
local function encode(value)
  local text, message = json.encode(value)
  return text or error(message, 0)
end

local WHO = "backend 'openai'"
local DAY_S, MOST_TOKENS = 86400, 1e15

local DECLARED = {
  { name = "base_url", kind = "string", required = true }, -- such as http://127.0.0.1:8081/v1
  { name = "model", kind = "string", required = true },
  { name = "endpoint", kind = "string", default = "embeddings", choices = { "embeddings", "completions" } },
  { name = "field", kind = "string", default = "text" }, -- of a record that is a table
  { name = "raw", kind = "boolean", default = false }, -- give the answer's items as they are
  { name = "extra", kind = "table", default = {} }, -- more fields of the request's body
  { name = "api_key_env", kind = "string" }, -- the environment variable that holds the key
  { name = "headers", kind = "table", default = {} },
  { name = "max_inputs", kind = "count", default = 2048, min = 1, max = 1e6 }, -- texts in one request
  { name = "max_tokens_per_request", kind = "number", default = MOST_TOKENS, min = 1, max = MOST_TOKENS },
  { name = "timeout_s", kind = "number", default = 60, above = 0, max = DAY_S, unit = "seconds" },
  { name = "connect_timeout_s", kind = "number", default = 10, above = 0, max = DAY_S, unit = "seconds" },
  { name = "retries", kind = "count", default = 5, min = 0, max = 1000 }, -- of one request
  { name = "backoff_s", kind = "number", default = 0.5, above = 0, max = DAY_S, unit = "seconds" },
  { name = "backoff_max_s", kind = "number", default = 30, above = 0, max = DAY_S, unit = "seconds" },
  { name = "retry_after_max_s", kind = "number", default = 60, min = 0, max = DAY_S, unit = "seconds" },
  -- by default a MiB and 256 KiB for each text of the request
  { name = "max_response_bytes", kind = "number", min = 1, max = 2 ^ 40, unit = "bytes" },
  { name = "unix_socket", kind = "string" },
  { name = "tls_verify", kind = "boolean", default = true },
  { name = "ca_file", kind = "string" },
}

local LATER = { [429] = true, [503] = true }
local RESPONSE_BYTES, RESPONSE_BYTES_EACH = 2 ^ 20, 256 * 2 ^ 10

local function read_key(name)
  if not name then return nil end
  local key = os.getenv(name)
  if not key or key == "" then errors.misuse(("%s: the environment variable %s is not set"):format(WHO, name)) end
  if key:find "[%c ]" then
    errors.misuse(("%s: the key in the environment variable %s holds a space or a control character"):format(WHO, name))
  end
  return key
end

-- --- errors -------------------------------------------------------------------------------

local function new_err(self, code, message)
  return errors.new(code, ("POST %s: %s"):format(http.shown(self.url), self.words:redact(message)))
end

-- The sentence of an error body {"error": {"message": ...}}, or its beginning.
local function complaint(self, body, texts)
  local answer = answers.decode(body)
  local problem = type(answer) == "table" and (answer.error or answer.message)
  if type(problem) == "table" then problem = problem.message end
  return self.words:excerpt(type(problem) == "string" and problem or body, texts)
end

local function status_err(self, response, texts, why)
  local said = complaint(self, response.body, texts)
  local err = new_err(self, "http_status", ("status %d%s%s"):format(response.status,
    said ~= "" and ": " .. said or "", why and " (not tried again: " .. why .. ")" or ""))
  err.status = response.status
  return err
end

-- An answer that cannot be trusted. Completions of several texts are other people's answers.
local function bad_response(self, problem, body, texts)
  local is_private = #texts > 1 and self.endpoint.is_text and answers.decode(body) ~= nil
  return new_err(self, "bad_response", is_private and "the answer " .. problem
    or ("the answer %s; it begins: %s"):format(problem, self.words:excerpt(body, texts)))
end

-- --- one request --------------------------------------------------------------------------

local function request_of(self, body, n)
  local p = self.p
  return { body = body, headers = self.headers, timeout_s = p.timeout_s, connect_timeout_s = p.connect_timeout_s,
    max_response_bytes = p.max_response_bytes or RESPONSE_BYTES + n * RESPONSE_BYTES_EACH,
    unix_socket = p.unix_socket, tls_verify = p.tls_verify,
    ca_file = p.ca_file }
end

local function body_of(self, texts)
  return ('{"model":%s,"%s":%s%s}'):format(self.model, self.endpoint.input, encode(texts), self.extra)
end

local function limits_of(self, info)
  local limit = info.deadline
  if info.timeout_at and (not limit or info.timeout_at < limit) then limit = info.timeout_at end
  local p = self.p
  return { first_s = p.backoff_s, most_s = p.backoff_max_s, longest_asked_s = p.retry_after_max_s,
    left_s = limit and limit - clock.now_us() / 1e6 }
end

--- Send, and again while the server says later. @return response of status 2xx, or nil, err
local function send(self, texts, info)
  local attempt, body = 0, body_of(self, texts)
  while true do
    local response, err = http.post(self.url, request_of(self, body, #texts))
    if response or err.was_sent then info.requests = info.requests + 1 end
    if not response then return nil, new_err(self, err.code, (err.message:gsub("^POST %S+: ", ""))) end
    if response.status >= 200 and response.status < 300 then return response end
    if not LATER[response.status] then return nil, status_err(self, response, texts) end
    if attempt == self.p.retries then
      return nil, status_err(self, response, texts, ("tried %d times"):format(attempt + 1))
    end
    local wait_s, why = backoff.wait_s(attempt, backoff.asked_s(response), limits_of(self, info))
    if not wait_s then return nil, status_err(self, response, texts, why) end
    tasks.sleep_until(clock.now_us() + wait_s * 1e6)
    attempt = attempt + 1
  end
end

local function add_usage(info, usage)
  for name, value in pairs(usage or {}) do
    if type(value) == "number" and value >= 0 and value <= MOST_TOKENS then
      info.usage = info.usage or {}
      info.usage[name] = (info.usage[name] or 0) + value
    end
  end
end

--- @return values for the texts, or nil and an err
local function ask(self, texts, info)
  local response, err = send(self, texts, info)
  if not response then return nil, err end
  local values, usage, problem = answers.read(response.body, #texts, self.endpoint, self.p.raw)
  if values then
    add_usage(info, usage)
    return values
  end
  return nil, bad_response(self, problem, response.body, texts)
end

-- --- a batch ------------------------------------------------------------------------------

-- The last input of a request that begins with `first`.
local function last_of_request(self, inputs, first)
  local p, last, tokens = self.p, first, inputs[first].cost
  while inputs[last + 1] and last - first + 1 < p.max_inputs
    and tokens + inputs[last + 1].cost <= p.max_tokens_per_request do
    last = last + 1
    tokens = tokens + inputs[last].cost
  end
  return last
end

local function text_of(self, record)
  local text = record
  if type(record) == "table" then text = record[self.p.field] end
  if type(text) ~= "string" then return nil, ("the record has no text in its field '%s'"):format(self.p.field) end
  local at = utf8.first_error(text)
  if at then return nil, ("the record's text is not UTF-8 (byte %d)"):format(at) end
  return text
end

local function run(self, records, info)
  info.requests = 0
  local keys, work = info.keys, { inputs = {}, results = {}, answered = self.answered, group = info.group or "" }
  function work.ask(texts) return ask(self, texts, info) end
  local inputs = work.inputs
  for i = 1, #records do
    local text, problem = text_of(self, records[i])
    if text then
      inputs[#inputs + 1] = { place = i, text = text, cost = info.costs[i], key = keys and keys[i] or "" }
    else
      work.results[i] = failure(problem)
    end
  end
  batch.solve(work, function(list, first) return last_of_request(self, list, first) end)
  local nothing_else = not work.succeeded and work.refused == 0 and #inputs == #records
  if work.batch_err and nothing_else then error(work.batch_err, 0) end
  return work.results
end

-- --- making one -----------------------------------------------------------------------------

local OURS = { model = true, input = true, prompt = true, stream = true, n = true }

-- More fields of the body, as JSON that follows others, in a fixed order.
local function extra_json(extra)
  local parts = {}
  for name, value in pairs(extra) do
    if type(name) ~= "string" or OURS[name] then
      errors.misuse(("%s: extra cannot hold the field %s"):format(WHO, errors.show(name)))
    end
    local ok, text = pcall(encode, value)
    if not ok then errors.misuse(("%s: extra's field '%s' has no JSON form: %s"):format(WHO, name, text)) end
    parts[#parts + 1] = (",%s:%s"):format(encode(name), text)
  end
  table.sort(parts)
  return table.concat(parts)
end

local function headers_of(p, key)
  local headers = { ["Content-Type"] = "application/json", Authorization = key and "Bearer " .. key }
  for name, value in pairs(p.headers) do
    local known = type(name) == "string" and name:lower()
    if known == "authorization" and key then
      errors.misuse(WHO .. ": headers holds Authorization, which api_key_env sets")
    end
    if known == "content-type" then headers["Content-Type"] = nil end
    headers[name] = value
  end
  http.check_headers(WHO, headers)
  return headers
end

-- The endpoint's URL; a query, such as Azure's api-version, stays behind the path.
local function url_of(p)
  http.check_url(WHO, p.base_url)
  local base, query = p.base_url:match "^([^?#]*)(%??[^#]*)"
  return base:gsub("/+$", "") .. "/" .. p.endpoint .. query
end

--- @param given table  see DECLARED
-- @return function  for inference_fn
return function(given)
  local p = parameters.read(WHO, DECLARED, given)
  local key = read_key(p.api_key_env)
  local self = {
    p = p, url = url_of(p), headers = headers_of(p, key), endpoint = answers.endpoints[p.endpoint],
    model = encode(p.model), extra = extra_json(p.extra),
  }
  self.words = words.new(p.headers, p.base_url, key)
  self.answered = { groups = {}, n = 0 }
  http.load()
  return function(records, info) return run(self, records, info) end
end
