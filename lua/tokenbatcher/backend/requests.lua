--- tb.backend.requests{base_url, ...}: a record is a whole request, as lines of batch files are, {custom_id, method,
-- url, body}; its result is {status_code, request_id, body}, the body as the server sent it. One record a request:
-- chats, completions, embeddings, whatever has a POST with JSON in it.
--
-- The url is a path at base_url's server, and goes nowhere else: the key is the server's. Where base_url has a path
-- of its own, such as /v1 or /v1beta/openai, that stands for the line's /v1.

local answers = require "tokenbatcher.backend.server.answer"
local errors = require "tokenbatcher.base.errors"
local failure = require("tokenbatcher.batching.run").failure
local json = require "tokenbatcher.base.json"
local options = require "tokenbatcher.backend.server.options"
local requests = require "tokenbatcher.backend.server.requests"

local WHO = "backend 'requests'"
local CONCURRENCY = 16

local function url_of(self, record)
  local path = record.url
  if type(path) ~= "string" then return nil, "the record has no 'url' that is a text" end
  if path:sub(1, 1) ~= "/" or path:sub(1, 2) == "//" or path:find "[%c %?#]" then
    return nil, ("the record's url must be a path such as /v1/embeddings, got %s"):format(errors.show(path))
  end
  if self.has_path then path = path:gsub("^/v%d+/", "/") end
  return options.url(WHO, self.requests.p.base_url, path)
end

-- @return url, body (JSON), or nil and what is wrong
local function request_of(self, record)
  if type(record) ~= "table" then return nil, "the record is no {method, url, body}" end
  if record.method ~= nil and record.method ~= "POST" then
    return nil, ("the record's method is %s, not POST"):format(errors.show(record.method))
  end
  local body = record.body
  if type(body) ~= "table" then return nil, "the record has no 'body' that is an object" end
  if body.stream == true then return nil, "the body's 'stream' is true, and answers come in one piece here" end
  local url, problem = url_of(self, record)
  if not url then return nil, problem end
  local text, why = json.encode(body)
  if not text then return nil, "the record's body cannot be sent: " .. why end
  return url, text
end

local function ask(self, record, info)
  local url, text = request_of(self, record)
  if not url then return failure(errors.new("bad_input", text)) end
  local response, err = self.requests:post(url, text, { text }, info)
  if not response then return failure(err) end
  local body, problem = answers.decode(response.body)
  if problem then
    return failure(self.requests:err(url, "bad_response", ("the answer %s; it begins: %s"):format(problem,
      self.requests.words:excerpt(response.body, { text }))))
  end
  if type(body) == "table" and type(body.usage) == "table" then self.requests:add_usage(info, body.usage) end
  return { status_code = response.status, request_id = response.headers["x-request-id"], body = body }
end

local function run(self, records, info)
  info.requests = 0
  local results = {}
  for i = 1, #records do results[i] = ask(self, records[i], info) end
  return results
end

--- @param given table  see server/options.lua
-- @return table  for inference_fn
return function(given)
  local p = options.read(WHO, given)
  local self = { requests = requests.new(WHO, p), has_path = p.base_url:find "^%w+://[^/?#]*/+[^/?#]" ~= nil }
  local backend = { name = WHO, max_records = 1, status = function() return self.requests.calls:status() end,
    was_there = function() self.requests.calls:was_there() end,
    problem = function(_, record)
      local url, problem = request_of(self, record)
      return not url and problem or nil
    end,
    defaults = { max_batch_size = 1, max_concurrent_batches = CONCURRENCY } }
  return setmetatable(backend, { __call = function(_, records, info) return run(self, records, info) end })
end
