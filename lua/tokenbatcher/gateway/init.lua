--- gateway: requests of many clients go upstream in few calls, and each client gets its own answer. OpenAI's
-- /v1/embeddings, /v1/moderations and /v1/completions, TEI's /embed, /embed_sparse and /predict are batched (a file
-- each in protocols/); all else is passed on. It knows all rooms from base to backend.
--
-- This file is the gateway as a thing: what it is given (config.lua), a request and its answer. Nothing here nor in
-- what it is made of knows nginx: a host (nginx.lua) hands requests in and writes answers out.
--
--     local gateway = require("tokenbatcher.gateway").new { upstreams = { { url = "http://127.0.0.1:8081" } } }
--     gateway:start()                                     -- in each worker
--     local status, headers, body = gateway:handle(request)
--
-- A request is {method, path, headers (by lower-case name; nil or false: there is none), address, consumer (who a host
-- knows the client to be, or nil)} with the methods receive() (suspends until all of the body has come; its bytes),
-- text() (the body), announced() (its bytes as the client has announced them, or nil), target() (path and query as they
-- came, for what is passed on) and, if the host can, on_abort(fn): call fn when the client leaves; where the code goes
-- on then, its answer is 499. When it is answered it has model (or nil), prompt_tokens and completion_tokens: its share
-- of what the upstream counted.
--
-- THE SPECIAL PROBLEM OF CLIENTS THAT LEAVE. A host ends the code that serves a client which has left, wherever it
-- waits, and nothing behind that runs. So what a request holds is given back by over(request), which the host calls
-- when all is over, whatever has become of it: also when an answer that nobody reads has been given up.
-- Of a request that was passed on, that is when the host has passed on all of its answer: it may hold a slot of a queue
-- (queue/init.lua) until then.

local complaints = require "tokenbatcher.gateway.complaints"
local config = require "tokenbatcher.gateway.config"
local Credentials = require "tokenbatcher.gateway.credentials"
local Fairness = require "tokenbatcher.gateway.fairness"
local ids = require "tokenbatcher.gateway.ids"
local Line = require "tokenbatcher.gateway.line"
local passing = require "tokenbatcher.gateway.passing"
local problems = require "tokenbatcher.gateway.problems"
local pseudonym = require "tokenbatcher.base.pseudonym"
local Queue = require "tokenbatcher.gateway.queue"
local reading = require "tokenbatcher.gateway.reading"
local replies = require "tokenbatcher.gateway.replies"
local support = require "tokenbatcher.gateway.protocols.support"
local upstreams = require "tokenbatcher.gateway.upstream"
local waiting = require "tokenbatcher.gateway.queue.waiting"

local M = {}

--- @class tokenbatcher.Gateway
local Gateway = {}
Gateway.__index = Gateway

-- --- making one -------------------------------------------------------------------------------

local function new_lines(self, list)
  local secrets = {}
  for _, it in ipairs(list) do
    for _, secret in ipairs(it.upstream.secrets) do secrets[#secrets + 1] = secret end
  end
  self.credentials:add_secrets(secrets)
  for i, it in ipairs(list) do
    if it.batch.record and #list > 1 then it.batch.record = it.batch.record .. "." .. i end -- a file each
    self.lines[i] = Line.new { name = it.name, upstream = it.upstream, models = it.models, batch = it.batch,
      join = self.config.join, secrets = secrets, shows_key_words = self.credentials:are_the_clients(),
      new_id = function() return self.ids:new() end }
    self.lines[i].queue = it.queue and Queue.new { name = it.name, config = it.queue, upstream = it.upstream,
      log = self.complaints.log, on_change = function() self.on_change() end } or nil
  end
end

--- @param given table  see config.lua and README.md
-- @param parts table|nil  for tests and hosts: log(level, text); new_upstream(who, given); workers (that there will be)
function M.new(given, parts)
  parts = parts or {}
  local self = setmetatable({ config = config.read(given, parts.workers), lines = {}, held = 0, active = 0,
    ids = ids.new(), complaints = complaints.new(parts.log), on_change = function() end }, Gateway)
  local has_key, list = false, self.config.upstreams
  for _, it in ipairs(list) do
    it.upstream = (parts.new_upstream or upstreams.new)(it.who, it.given)
    has_key = has_key or it.upstream.has_key
  end
  Line.name_all(list)
  config.settle_auth(self.config, has_key)
  local secret = assert(pseudonym.secret())
  self.secret = secret
  self.credentials = Credentials.new(self.config.auth, secret)
  self.fairness = Fairness.new(secret, { key = self.config.fairness_key,
    most_keys = self.config.limits.keys_per_address, is_verified = self.credentials:are_verified(),
    knows = waiting.knows(list) })
  self.requests, self.names = {}, {} -- "route status" -> how many; those names by route and status
  new_lines(self, list)
  self.protocols, self.limits = reading.protocols_of(self.lines), reading.limits_of(self)
  if #self.lines == 1 and not self.lines[1].models and not self.config.models then self.only_line = self.lines[1] end
  return self
end

--- In each worker, before the first request. @param place table|nil  {workers, worker (from 0)}: where there are
-- several, each has its part of a queue's slots
function Gateway:start(place)
  self.ids = ids.new()
  for _, line in ipairs(self.lines) do
    line:start()
    if line.queue then line.queue:start(place) end
  end
end

-- --- one request ------------------------------------------------------------------------------

-- What a request holds in memory until over(). @return true, or nil and a problem: too much is held
local function hold(self, request, bytes)
  if self.active > 0 and self.held + bytes > self.config.limits.held_bytes then
    local problem = problems.new(503, "busy", "the gateway holds as many bytes of requests as it may: try again later")
    problem.retry_after_s = 1
    return nil, problem
  end
  request.holds = bytes
  self.held, self.active = self.held + bytes, self.active + 1
  self.on_change()
  return true
end

-- What it holds in memory, it holds no more.
local function let_go(self, request)
  local bytes = request.holds
  if not bytes then return end
  request.holds = nil
  self.held, self.active = self.held - bytes, self.active - 1
  self.on_change()
end

--- The answer of a request is out, or its client gone. To be called for each request once handle() or admit() was
-- called, also where it has not returned; more often does no harm. Nothing in it waits.
function Gateway:over(request)
  let_go(self, request)
  if waiting.over(request) then self.on_change() end
end

--- Does anything go on?
function Gateway:is_busy()
  for _, line in ipairs(self.lines) do
    if line.queue and line.queue.book.n > 0 then return true end
  end
  return self.active > 0
end

-- From now on it holds its answer instead of its body.
local function hold_answer(self, request, body)
  local bytes = request.holds
  if not bytes then return end
  request.holds = #body
  self.held = self.held - bytes + #body
end

-- Records go in, or the request is refused. @return futures; or nil and a problem
local function submit(asked)
  local batcher, inputs = asked.line.batcher, asked.inputs
  if not batcher.is_running then return nil, problems.new(503, "stopped", "the gateway is shutting down") end
  local options = { key = asked.key, group = asked.group, timeout_s = asked.timeout_s, trace = asked.trace }
  asked.line:count_inputs(asked.costs)
  local futures, err
  if #inputs == 1 then
    local future
    options.estimated_cost = asked.costs[1]
    future, err = batcher:submit({ input = inputs[1], asked = asked }, options)
    futures = future and { future }
  else
    local records = {}
    for i = 1, #inputs do records[i] = { input = inputs[i], asked = asked } end
    options.estimated_cost = asked.costs
    futures, err = batcher:submit_batch(records, options)
  end
  asked.inputs, asked.costs = nil, nil -- what waits is the batcher's
  if futures then return futures end
  local problem = problems.of_err(err)
  if problem.status == 429 then problem.retry_after_s = asked.line:seconds() end
  return nil, problem
end

local function cancel_all(futures)
  for i = 1, #futures do futures[i]:cancel() end
end

-- The larger of the upstream's wish and what the queue here takes.
local function with_retry_after(problem, line)
  if problem.status ~= 429 and problem.status ~= 503 then return problem end
  local out = {}
  for name, value in pairs(problem) do out[name] = value end
  out.retry_after_s = math.max(problem.retry_after_s or 0, line:seconds())
  return out
end

-- @return result, or nil and a problem
local function await_one(self, asked, futures, i)
  local result, err = futures[i]:await()
  if not err then return result end
  cancel_all(futures)
  local problem = problems.of_err(err)
  if problem.status == 500 then self.complaints:add("error", asked.id, err.traceback or err.message) end
  return nil, with_retry_after(problem, asked.line)
end

-- @return status, headers, body
local function refuse(self, problem, id)
  if problem.status >= 500 then
    self.complaints:add("warn", id, ("%d %s: %s"):format(problem.status, problem.code or "-", problem.message))
  end
  return replies.problem(problem)
end

-- (A closure for each request is made here and nowhere else: no trace of the JIT compiler goes through that.)
local function cancel_when_it_leaves(self, asked, request, futures)
  request:on_abort(function()
    if request.is_over then return end
    request.is_over = true
    cancel_all(futures)
    self:count(asked.protocol.name, 499)
  end)
end

local function body_of(self, asked, results)
  local body, reason = asked.protocol.answer(asked, results)
  if body then return 200, replies.headers(), body end
  local problem = problems.new(502, "bad_response", "upstream: not what was asked for (" .. reason .. ")")
  return refuse(self, problem, asked.id)
end

-- What it cost, for hosts that say so.
local function tell_cost(request, asked, results)
  local prompt, completion = 0, 0
  for i = 1, #results do
    prompt, completion = prompt + results[i].prompt, completion + results[i].completion
  end
  request.model, request.prompt_tokens, request.completion_tokens = asked.model, prompt, completion
end

-- Wait for all answers. @return status, headers, body
local function finish(self, request, asked, futures)
  local results = {}
  for i = 1, #futures do
    local result, problem = await_one(self, asked, futures, i)
    results[i] = result
    if problem and request.is_over then return replies.problem(problem) end -- nobody reads it
    if problem then return refuse(self, problem, asked.id) end
  end
  tell_cost(request, asked, results)
  return body_of(self, asked, results)
end

-- A request is passed on. @return nil, {url, host, headers}; or status, headers, body
local function pass(self, request, id, model)
  local way, problem = passing.way(self, request, model)
  if not way and request.is_over then return replies.problem(problem) end -- nobody reads it
  if not way then return refuse(self, problem, id) end
  way.headers["x-request-id"] = id
  return nil, way
end

-- Up to where it is known what is asked for. @return nil, nil, asked; or as handle()
local function begin(self, request, protocol, id)
  if not protocol then return pass(self, request, id) end
  if request.method == "OPTIONS" then return 204, { allow = reading.METHODS }, "" end
  local asked, problem = reading.head(self, request, protocol, id)
  if not asked and problem == support.PASS then return pass(self, request, id) end
  if not asked then return refuse(self, problem, id) end
  local bytes, is_held
  bytes, problem = reading.receive(request, self.limits)
  if not bytes then return refuse(self, problem, id) end
  is_held, problem = hold(self, request, bytes)
  if not is_held then return refuse(self, problem, id) end
  local is_read, model
  is_read, problem, model = reading.body(self, asked, request)
  if not is_read and problem == support.PASS then return pass(self, request, id, model) end
  if not is_read then return refuse(self, problem, id) end
  return nil, nil, asked
end

-- @return status, headers, body
local function serve(self, request, asked)
  local futures, problem = submit(asked)
  if not futures then return refuse(self, problem, asked.id) end
  if request.on_abort then cancel_when_it_leaves(self, asked, request, futures) end
  return finish(self, request, asked, futures)
end

-- @return as step(self, request, ...); what raises is a bug of ours
local function guarded(self, id, step, request, ...)
  local ok, status, headers, rest = pcall(step, self, request, ...)
  if ok then return status, headers, rest end
  local problem, said = problems.of_bug(status)
  self.complaints:add("error", id, said)
  return replies.problem(problem)
end

-- What handle() returns, once it is known.
local function conclude(self, request, route, id, status, headers, body)
  if not status then -- passed() counts it
    let_go(self, request)
    return nil, headers
  end
  hold_answer(self, request, body)
  if request.is_over then status = 499 else self:count(route, status) end -- 499: its client has left
  request.is_over = true
  return replies.finish(self.config.cors, request, id, status, headers, body)
end

--- Read a request, and understand it; suspends until its body has come and, if it is to be passed on, until there is a
-- slot in the queue for it. Nothing has been asked of anybody then.
-- @return what answer() takes; or nil and what handle() returns
function Gateway:accept(request)
  local id, cors = self.ids:of(request.headers["x-request-id"]), self.config.cors
  local preflight = cors and replies.preflight(cors, request)
  if preflight then return nil, replies.finish(cors, request, id, 204, preflight, "") end
  local protocol = self.protocols[request.path]
  local status, headers, rest = guarded(self, id, begin, request, protocol, id)
  if not status and not headers then return rest end
  return nil, conclude(self, request, protocol and protocol.name or "pass", id, status, headers, rest)
end

--- Answer a request that was accepted; suspends. @return status, headers, body
function Gateway:answer(request, asked)
  return conclude(self, request, asked.protocol.name, asked.id, guarded(self, asked.id, serve, request, asked))
end

--- Serve a request; suspends.
-- @return status, headers (name -> value), body; or nil and where to pass it on: {url, host, tls_name, headers (to
-- send instead of the client's; false: none)}
function Gateway:handle(request)
  local asked, status, headers, body = self:accept(request)
  if asked then return self:answer(request, asked) end
  return status, headers, body
end

local function admit(self, request, id)
  local is_in, problem = passing.admit(self, request)
  if not is_in then return refuse(self, problem, id) end
end

--- For a host that passes requests on by itself: wait until this one may go upstream; suspends. Its place is given
-- back by over().
-- @return nil: it may go; or status, headers, body: it may not
function Gateway:admit(request)
  local id = self.ids:of(request.headers["x-request-id"])
  local status, headers, body = guarded(self, id, admit, request, id)
  if not status then return nil end
  return conclude(self, request, "pass", id, status, headers, body)
end

--- A request of a route has ended so.
function Gateway:count(route, status)
  local by_status = self.names[route]
  if not by_status then
    by_status = {}
    self.names[route] = by_status
  end
  local name = by_status[status]
  if not name then
    name = route .. " " .. status
    by_status[status] = name
  end
  self.requests[name] = (self.requests[name] or 0) + 1
  self.on_change()
end

--- What was passed on is being answered. @param headers table  of the request, as it went upstream
-- @return headers to add to the answer
function Gateway:passed(status, headers)
  self:count("pass", status)
  local id = headers["x-request-id"]
  if status >= 500 then self.complaints:add("warn", id, ("passed on, and answered with status %d"):format(status)) end
  local _, added = replies.finish(self.config.cors, { headers = headers }, id, status, {})
  return added
end

--- Ask every upstream once whether it is there, and say so in the log; suspends.
function Gateway:probe()
  for _, line in ipairs(self.lines) do
    local is_there, said = line.upstream:probe()
    self.complaints.log(is_there and "warn" or "error", ("upstream %s: %s"):format(line.name, said))
  end
end

--- How clients pay, in a word.
function Gateway:auth_mode()
  return type(self.config.auth) == "table" and "table" or self.config.auth
end

--- The answer to what the host itself has refused (a header or a body that is too large, no such page, ...).
-- @return status, headers, body
function Gateway:refusal(status, request)
  local id = self.ids:of(request.headers["x-request-id"])
  self:count("host", status)
  if status >= 500 then self.complaints:add("warn", id, ("nginx has answered it with status %d"):format(status)) end
  return replies.finish(self.config.cors, request, id, replies.problem(problems.of_host(status)))
end

return M
