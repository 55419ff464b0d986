--- server: what the backends share that ask one (openai.lua, http_json.lua): what a request holds of a record
-- (records.lua), which endpoints there are (endpoints.lua), one request (requests.lua), what an answer says
-- (answer.lua), a batch of which some is refused (halving.lua), whose words people see (words.lua).
--
-- This file makes an inference function of them. One record's fault is its own: what the server refuses
-- (status 400, 413 or 422) is found by halving the request, and fails alone. All else that is wrong with an answer
-- fails every record of that request, since nothing of it can be trusted.
--
-- info.requests counts what went out, retries and halves included; info.usage adds up what the server counts;
-- info.limits is what its last answer said of its limits.

local answers = require "tokenbatcher.backend.server.answer"
local errors = require "tokenbatcher.base.errors"
local failure = require("tokenbatcher.batching.run").failure
local halving = require "tokenbatcher.backend.server.halving"
local json = require "tokenbatcher.base.json"
local records = require "tokenbatcher.backend.server.records"
local requests = require "tokenbatcher.backend.server.requests"

local M = {}

local CONCURRENCY = 16 -- of an endpoint that takes one record a request

local function texts_of(inputs)
  local texts = {}
  for i, input in ipairs(inputs) do texts[i] = input.text end
  return texts
end

local function body_of(self, inputs)
  local values = {}
  for i, input in ipairs(inputs) do values[i] = input.json end
  local value = table.concat(values, ",")
  if self.endpoint.has_lists then value = "[" .. value .. "]" end
  return ("{%s:%s%s}"):format(json.quote(self.endpoint.input), value, inputs[1].rest)
end

-- An answer that cannot be trusted. Texts that answer several records are other people's.
local function bad_response(self, problem, body, texts)
  local words = self.requests.words
  local is_private = #texts > 1 and self.endpoint.is_text and answers.decode(body) ~= nil
  return self.requests:err(self.url, "bad_response", is_private and "the answer " .. problem
    or ("the answer %s; it begins: %s"):format(problem, words:excerpt(body, texts)))
end

-- One request. @return values for the inputs, or nil and an err
local function ask(self, inputs, info)
  local texts = texts_of(inputs)
  local response, err = self.requests:post(self.url, body_of(self, inputs), texts, info)
  if not response then return nil, err end
  local values, usage, problem = answers.read(response.body, inputs, self.endpoint, self.raw)
  if not values then return nil, bad_response(self, problem, response.body, texts) end
  self.requests:add_usage(info, usage)
  return values
end

-- The last input of a request that begins with `first`.
local function last_of_request(self, inputs, first)
  if not self.endpoint.has_lists then return first end
  local p, last, tokens = self.p, first, inputs[first].cost
  while inputs[last + 1] and last - first + 1 < p.max_inputs
    and tokens + inputs[last + 1].cost <= p.max_tokens_per_request do
    last = last + 1
    tokens = tokens + inputs[last].cost
  end
  return last
end

-- The inputs by part, each part in order; what has none fails alone.
local function parts_of(self, list, info, results)
  local parts, by_name, n = {}, {}, 0
  for i = 1, #list do
    local input, problem = self.records:read(list[i])
    if input then
      input.place, input.cost, input.key = i, info.costs[i], info.keys and info.keys[i] or ""
      local part = by_name[input.part]
      if not part then
        part = {}
        parts[#parts + 1], by_name[input.part] = part, part
      end
      part[#part + 1], n = input, n + 1
    else
      results[i] = failure(errors.new("bad_input", problem))
    end
  end
  return parts, n
end

local function run(self, list, info)
  info.requests = 0
  local work = { results = {}, answered = self.answered }
  function work.ask(inputs) return ask(self, inputs, info) end
  local parts, n = parts_of(self, list, info, work.results)
  for _, part in ipairs(parts) do
    work.inputs, work.group = part, (info.group or "") .. "\n" .. part[1].part
    halving.solve(work, function(inputs, first) return last_of_request(self, inputs, first) end)
    if work.ended and work.ended.code == "not_tried" then work.ended = nil end -- that is the part's own matter
  end
  local nothing_else = not work.succeeded and work.refused == 0 and n == #list
  if work.batch_err and nothing_else then error(work.batch_err, 0) end
  return work.results
end

--- @param name string  such as "backend 'openai' (endpoint 'chat')"  @param p table  of options.read
-- @param given table  {url, endpoint (see endpoints.lua), base (name -> JSON: what each request holds)}
-- @return table  for inference_fn
function M.new(name, p, given)
  local endpoint = given.endpoint
  local self = { p = p, url = given.url, endpoint = endpoint, raw = p.raw,
    records = records.new(p, endpoint, given.base), requests = requests.new(name, p),
    answered = { groups = {}, n = 0 } }
  local backend = { name = name, status = function() return self.requests.calls:status() end,
    was_there = function() self.requests.calls:was_there() end,
    set_aside = function(_, names) self.records:set_aside(names) end,
    problem = function(_, record) return (select(2, self.records:read(record))) end }
  if endpoint.has_lists then
    backend.group = function(_, record) return self.records:group(record) end
  else
    backend.max_records = 1
    backend.defaults = { max_batch_size = 1, max_concurrent_batches = CONCURRENCY }
  end
  return setmetatable(backend, { __call = function(_, list, info) return run(self, list, info) end })
end

return M
