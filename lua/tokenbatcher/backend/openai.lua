--- tb.backend.openai{base_url, model, ...}: an inference function that sends a batch as one
-- request with an array input to an OpenAI-compatible server (OpenAI, vLLM, TEI, llama.cpp,
-- Infinity, ...). A result is the embedding as a list of numbers, or the completion's text.
--
-- One record's fault is its own: a text that the server refuses (status 400, 413 or 422) is
-- found by halving the request, and fails alone. All else that is wrong with an answer
-- fails every record of that request, since nothing of it can be trusted. 429 and 503 are
-- retried, see backoff.lua.
--
-- info.requests counts what went out, retries and halves included; info.usage adds up what
-- the server reports.

local answers = require "tokenbatcher.backend.openai_answer"
local backoff = require "tokenbatcher.base.backoff"
local clock = require "tokenbatcher.runtime.clock"
local errors = require "tokenbatcher.base.errors"
local failure = require("tokenbatcher.batching.run").failure
local http = require "tokenbatcher.backend.http"
local json = require "tokenbatcher.base.json"
local parameters = require "tokenbatcher.base.parameters"
local tasks = require "tokenbatcher.runtime.tasks"
local utf8 = require "tokenbatcher.base.utf8"

-- What people wrote is sent as it is, and fast; loaded with the first backend.
local function encode(value) return json.library().encode(value) end

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
  { name = "max_response_bytes", kind = "number", default = 256 * 2 ^ 20, min = 1, max = 2 ^ 40, unit = "bytes" },
  { name = "unix_socket", kind = "string" },
  { name = "tls_verify", kind = "boolean", default = true },
  { name = "ca_file", kind = "string" },
}

local REFUSALS = { [400] = true, [413] = true, [422] = true } -- of what is in the request
local LATER = { [429] = true, [503] = true }
-- A server that cannot be reached, or has put us off for good, is not asked for the rest.
local ENDS_BATCH = { http_connect = true, http_timeout = true, http_full = true,
  [401] = true, [403] = true, [404] = true, [429] = true, [503] = true }

-- --- the key stays out of everything that people see ------------------------------------

local function read_key(name)
  if not name then return nil end
  local key = os.getenv(name)
  if not key or key == "" then errors.misuse(("%s: the environment variable %s is not set"):format(WHO, name)) end
  if key:find "[%c ]" then
    errors.misuse(("%s: the key in the environment variable %s holds a space or a control character"):format(WHO, name))
  end
  return key
end

local function replace(text, part)
  return (text:gsub(part:gsub("%p", "%%%0"), "(the key)"))
end

local SECRET_WORDS = { "auth", "key", "token", "secret", "cookie" } -- in a header's name

local function is_secret(name)
  for _, word in ipairs(SECRET_WORDS) do
    if name:lower():find(word, 1, true) then return true end
  end
  return false
end

-- Also where JSON escapes it, or where the text ends within it.
local function redact_one(text, key)
  text = replace(replace(text, key), (key:gsub("/", "\\/")))
  for n = #key - 1, 4, -1 do
    if text:sub(-n) == key:sub(1, n) then return text:sub(1, -n - 1) .. "(the key)" end
  end
  return text
end

local function redact(self, text)
  for _, key in ipairs(self.secrets) do text = redact_one(text, key) end
  return text
end

-- The key, and what headers such as Azure's api-key or a cookie hold.
local function secrets_of(headers, key)
  local secrets = { key }
  for name, value in pairs(headers) do
    local secret = tostring(value):gsub("^%a+ +", "") -- without a scheme, such as Bearer
    if is_secret(name) and #secret >= 4 then secrets[#secrets + 1] = secret end
  end
  return secrets
end

-- --- errors -------------------------------------------------------------------------------

local function new_err(self, code, message)
  return errors.new(code, ("POST %s: %s"):format(http.shown(self.url), redact(self, message)))
end

-- The sentence of an error body {"error": {"message": ...}}, or its beginning.
local function complaint(self, body)
  local answer = answers.decode(body)
  local problem = type(answer) == "table" and (answer.error or answer.message)
  if type(problem) == "table" then problem = problem.message end
  return answers.excerpt(redact(self, type(problem) == "string" and problem or body))
end

local function status_err(self, response, why)
  local words = complaint(self, response.body)
  local err = new_err(self, "http_status", ("status %d%s%s"):format(response.status,
    words ~= "" and ": " .. words or "", why and " (not tried again: " .. why .. ")" or ""))
  err.status = response.status
  return err
end

-- --- one request --------------------------------------------------------------------------

local function request_of(self, body)
  local p = self.p
  return { body = body, headers = self.headers, timeout_s = p.timeout_s, connect_timeout_s = p.connect_timeout_s,
    max_response_bytes = p.max_response_bytes, unix_socket = p.unix_socket, tls_verify = p.tls_verify,
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
local function send(self, body, info)
  local attempt = 0
  while true do
    local response, err = http.post(self.url, request_of(self, body))
    if response or err.was_sent then info.requests = info.requests + 1 end
    if not response then return nil, new_err(self, err.code, (err.message:gsub("^POST %S+: ", ""))) end
    if response.status >= 200 and response.status < 300 then return response end
    if not LATER[response.status] then return nil, status_err(self, response) end
    if attempt == self.p.retries then
      return nil, status_err(self, response, ("tried %d times"):format(attempt + 1))
    end
    local wait_s, why = backoff.wait_s(attempt, backoff.asked_s(response), limits_of(self, info))
    if not wait_s then return nil, status_err(self, response, why) end
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
  local response, err = send(self, body_of(self, texts), info)
  if not response then return nil, err end
  local values, usage, problem = answers.read(response.body, #texts, self.endpoint, self.p.raw)
  if values then
    add_usage(info, usage)
    return values
  end
  return nil, new_err(self, "bad_response", ("the answer %s; it begins: %s"):format(problem,
    answers.excerpt(redact(self, response.body))))
end

-- --- a batch ------------------------------------------------------------------------------

-- Work is {inputs = list of {place, text, cost}, results, info, refused, succeeded, ended}.

local function fail(work, first, last, err)
  for i = first, last do work.results[work.inputs[i].place] = failure(err) end
end

-- Where everything is refused, a wrong parameter is likelier than that all texts are bad.
local function is_hopeless(work)
  return not work.succeeded and work.refused >= 2 * math.ceil(math.log(#work.inputs) / math.log(2)) + 8
end

local function solve(self, work, first, last)
  if work.ended then return fail(work, first, last, work.ended) end
  local texts = {}
  for i = first, last do texts[#texts + 1] = work.inputs[i].text end
  local values, err = ask(self, texts, work.info)
  if values then
    work.succeeded = true
    for i = first, last do work.results[work.inputs[i].place] = values[i - first + 1] end
    return
  end
  local is_refusal = REFUSALS[err.status]
  if is_refusal then work.refused = work.refused + 1 else work.batch_err = err end
  if ENDS_BATCH[err.code] or ENDS_BATCH[err.status] or is_refusal and is_hopeless(work) then work.ended = err end
  if not is_refusal or first == last or work.ended then return fail(work, first, last, err) end
  local middle = math.floor((first + last) / 2)
  solve(self, work, first, middle)
  solve(self, work, middle + 1, last)
end

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
  local work = { inputs = {}, results = {}, info = info, refused = 0 }
  local inputs = work.inputs
  for i = 1, #records do
    local text, problem = text_of(self, records[i])
    if text then
      inputs[#inputs + 1] = { place = i, text = text, cost = info.costs[i] }
    else
      work.results[i] = failure(problem)
    end
  end
  local first = 1
  while first <= #inputs do
    local last = last_of_request(self, inputs, first)
    solve(self, work, first, last)
    first = last + 1
  end
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
  self.secrets = secrets_of(p.headers, key)
  http.load()
  return function(records, info) return run(self, records, info) end
end
