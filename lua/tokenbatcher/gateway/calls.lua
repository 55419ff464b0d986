--- The inference function of an upstream's batcher: a batch is one call upstream, or as many as the upstream's
-- limit on inputs asks for; what the upstream refuses (400, 413, 422) is halved until the culprit is alone
-- (backend/server/halving.lua).
--
-- A record is {input (JSON text), asked}; asked is its request's {protocol, head, credential, id, ...}. All records of
-- a batch are of one group: their protocol, head and credential are the same. A result is {item, prompt, completion,
-- about}: its share of what the upstream counted, and what else the answer said.
--
-- THE SPECIAL PROBLEM OF WORDS. What an upstream says of a call may quote any input of it, and the key it was
-- asked with. So its words go to a request only if all of the call was that request's own, and never where they
-- hold a secret.

local clock = require "tokenbatcher.runtime.clock"
local counts = require "tokenbatcher.gateway.counts"
local halving = require "tokenbatcher.backend.server.halving"
local problems = require "tokenbatcher.gateway.problems"

local M = {}

local REFUSALS = { [400] = true, [413] = true, [422] = true } -- as halving has them
local OWN_KEY = { [401] = true, [403] = true }

-- Are all inputs of the call one request's?
local function is_of_one(inputs)
  local asked = inputs[1].record.asked
  for i = 2, #inputs do
    if inputs[i].record.asked ~= asked then return false end
  end
  return true
end

-- What the clients of a call may know of an answer that is none.
local function problem_of(self, response, inputs)
  local problem = problems.of_answer(response)
  local is_about_the_key = OWN_KEY[response.status] and not self.shows_key_words
  if not is_of_one(inputs) or is_about_the_key or problems.tells(problem, self.secrets) then
    problem = problems.without_words(problem)
  end
  problem.retry_after_s = response.retry_after_s
  if problem.status < 400 then problem.status, problem.type = 502, "server_error" end
  if problem.status >= 500 and problem.status ~= 503 and problem.status ~= 504 then problem.status = 502 end
  return problem
end

local function headers_of(self, inputs, info)
  local asked = inputs[1].record.asked
  local headers = { ["content-type"] = "application/json", accept = "application/json" }
  for name, value in pairs(asked.credential.headers) do headers[name] = value end
  headers.traceparent = info.traceparent
  headers["x-request-id"] = is_of_one(inputs) and asked.id or self.new_id()
  return headers
end

-- What each is answered with. What the upstream has counted is shared by cost, in whole numbers that add up.
local function results_of(inputs, items, usage, about)
  local n, cost = #inputs, 0
  for i = 1, n do cost = cost + inputs[i].cost end
  local prompt, completion = usage and usage.prompt or math.ceil(cost), usage and usage.completion or 0
  local results, sum, prompt_given, completion_given = {}, 0, 0, 0
  for i = 1, n do
    sum = sum + inputs[i].cost
    local share = cost > 0 and sum / cost or i / n
    local upto, completion_upto = math.floor(prompt * share + 0.5), math.floor(completion * share + 0.5)
    results[i] = { item = items[i], prompt = upto - prompt_given, completion = completion_upto - completion_given,
      about = about }
    prompt_given, completion_given = upto, completion_upto
  end
  return results
end

-- Until when a call is worth another attempt: the last of its clients has given up then. nil: no limit
local function retry_until(inputs)
  local latest = 0
  for i = 1, #inputs do
    local until_s = inputs[i].record.asked.until_s
    if not until_s then return nil end
    latest = math.max(latest, until_s)
  end
  return latest
end

-- @param became number|string  a status, or the code of an err
local function count_call(self, n, became, since_us)
  counts.count(self.counts.codes, tostring(became))
  counts.observe(self.counts.seconds, counts.SECONDS, (clock.now_us() - since_us) / 1e6)
  if n > 1 and REFUSALS[became] then self.counts.bisections = self.counts.bisections + 1 end
end

-- One call. @return results; or nil and a problem
local function ask(self, inputs, info)
  local n, texts = #inputs, {}
  for i = 1, n do texts[i] = inputs[i].record.input end
  local asked = inputs[1].record.asked
  local protocol = asked.protocol
  info.requests = (info.requests or 0) + 1
  local since_us = clock.now_us()
  local response, err = self.upstream:call { method = "POST", path = protocol.upstream_path,
    body = protocol.request(asked.head, texts), headers = headers_of(self, inputs, info),
    credential = asked.credential.id, inputs = n, batch = info.id, group = info.group or "",
    deadline = info.timeout_at, retry_until = retry_until(inputs) }
  count_call(self, n, response and response.status or err.code, since_us)
  if err and err.may_be_input and n > 1 then self.counts.bisections = self.counts.bisections + 1 end
  if not response then
    local problem = problems.new(err.status or 502, err.code, err.message)
    problem.retry_after_s, problem.may_be_input = err.retry_after_s, err.may_be_input
    return nil, problem
  end
  if response.status ~= 200 then return nil, problem_of(self, response, inputs) end
  local items, usage, about = protocol.cut(response.body, n)
  if not items then
    return nil, problems.new(502, "bad_response", ("upstream: not an answer to %d input%s (%s)"):format(n,
      n == 1 and "" or "s", usage))
  end
  if usage then
    info.usage = info.usage or { total_tokens = 0 }
    info.usage.total_tokens = info.usage.total_tokens + usage.prompt + usage.completion
  end
  return results_of(inputs, items, usage, about)
end

local function run(self, records, info)
  local inputs = {}
  for i = 1, #records do
    inputs[i] = { place = i, record = records[i], cost = info.costs[i], key = info.keys[i] or "" }
  end
  local work = { inputs = inputs, results = {}, answered = self.answered, group = info.group or "" }
  function work.ask(some) return ask(self, some, info) end
  halving.solve(work, function(_, first)
    if self.upstream:is_doubtful(work.group) then return first end -- the call that shows it risks one input
    return math.min(#inputs, first + self.upstream:limits().max_inputs - 1)
  end)
  self.on_batch(info, clock.now_us())
  return work.results
end

--- @param given table  upstream, secrets (texts that no client may see), shows_key_words (what the upstream says of a
-- credential is for the client), new_id (function), counts (of counts.of_line), on_batch (function(info, now_us): a
-- batch is over)
-- @return function  for inference_fn
function M.new(given)
  local self = { upstream = given.upstream, secrets = given.secrets, shows_key_words = given.shows_key_words,
    new_id = given.new_id, on_batch = given.on_batch, counts = given.counts,
    answered = { groups = {}, n = 0 } }
  return function(records, info) return run(self, records, info) end
end

return M
