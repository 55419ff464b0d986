--- An OpenAI-compatible /v1/embeddings: inputs of many clients travel in one call upstream.
-- nginx.conf says where it is used; settings come from there, too.

local cjson = require "cjson.safe"
local tb = require "tokenbatcher"
local upstream = require "upstream"

local M = {}

--- What nginx.conf may change: `url` and `api_key` of the upstream, the options of every batcher, and the
-- ages beyond which /health says 503: health = { oldest_queued_s = 30, oldest_running_s = 60 } (none is set).
M.settings = { url = "http://127.0.0.1:8081/v1/embeddings", timeout_s = 30, max_batchers = 32, batcher = {},
  health = {} }

local STATUS = { queue_full = 429, oversize = 400, deadline = 504, inference_timeout = 504, stopped = 503 }
local MOST_INPUTS = 2048
local FIELDS = { model = true, input = true, dimensions = true, encoding_format = true, user = true }

local function reply(status, body)
  local text = cjson.encode(body)
  if not text then -- NaN and Infinity come from upstream only
    status, text = 502, '{"error":{"message":"upstream: a vector that is not of numbers","type":"server_error"}}'
  end
  ngx.status = status
  ngx.header.content_type = "application/json"
  ngx.header.content_length = #text
  ngx.print(text)
  return ngx.exit(ngx.OK)
end

-- @param it table|nil  the batcher that refused
local function refuse(status, message, code, it)
  if status == 429 then ngx.header.retry_after = it.load:seconds_for(it.batcher.stats.queue_cost) end
  local kind = status < 500 and "invalid_request_error" or "server_error"
  return reply(status, { error = { message = message, type = kind, code = code or cjson.null } })
end

-- Cost answered in the last seconds, for Retry-After.
local Load = {}
Load.__index = Load
function Load:add(cost)
  local now = tb.now()
  if now - self.since > 10 then self.since, self.cost = now - 5, self.cost / (now - self.since) * 5 end
  self.cost = self.cost + cost
end
function Load:seconds_for(cost)
  local per_s = self.cost / math.max(tb.now() - self.since, 1)
  return math.min(math.max(1, math.ceil(per_s > 0 and cost / per_s or 1)), 60)
end

-- --- batchers, made on first use ----------------------------------------------------

local batchers, names = {}, {}

local function batcher_for(request)
  local name = ("%s %s %s"):format(request.model, request.dimensions or "-", request.encoding_format or "-")
  if batchers[name] then return batchers[name] end
  if #names >= M.settings.max_batchers then return nil end
  local load = setmetatable({ since = tb.now(), cost = 0 }, Load)
  local fields = { model = request.model, dimensions = request.dimensions, encoding_format = request.encoding_format }
  local function infer(texts, info)
    local items = upstream.embed(M.settings, fields, texts, info)
    load:add(info.cost)
    return items
  end
  local options = { name = name, inference_fn = infer, policy = tb.policy.fair { quantum = 32 },
    token_estimator = function(text) return #text / 4 + 1 end, on_full = "reject", on_error = "bisect",
    inference_timeout_s = M.settings.timeout_s }
  for option, value in pairs(M.settings.batcher) do options[option] = value end
  batchers[name] = { batcher = tb.TokenBatcher(options):start(), load = load }
  names[#names + 1] = name
  return batchers[name]
end

-- @return request, inputs; or nil and what is wrong with the body
local function read_request(body)
  local request = cjson.decode(body or "")
  if type(request) ~= "table" then return nil, "the body must be a JSON object" end
  for field, value in pairs(request) do
    if value == cjson.null then request[field] = nil end
    if not FIELDS[field] then return nil, "unknown field '" .. tostring(field) .. "'" end
  end
  local model, input, dimensions, format = request.model, request.input, request.dimensions, request.encoding_format
  if type(model) ~= "string" or #model < 1 or #model > 256 then
    return nil, "'model' must be a string of 1 to 256 bytes"
  end
  if dimensions ~= nil and not (type(dimensions) == "number" and dimensions >= 1 and dimensions % 1 == 0) then
    return nil, "'dimensions' must be a whole number above 0"
  end
  if format ~= nil and format ~= "float" and format ~= "base64" then
    return nil, "'encoding_format' must be float or base64"
  end
  local inputs = type(input) == "string" and { input } or input
  local is_list = type(inputs) == "table" and #inputs > 0 and #inputs <= MOST_INPUTS
  for i = 1, is_list and #inputs or 0 do is_list = is_list and type(inputs[i]) == "string" end
  if not is_list then return nil, "'input' must be a string or a list of 1 to " .. MOST_INPUTS .. " strings" end
  return request, inputs
end

local function answer_all(it, futures, model)
  local data, tokens = {}, 0
  for i, future in ipairs(futures) do
    local item, err = future:await()
    if err then
      for _, other in ipairs(futures) do other:cancel() end
      local cause = type(err.cause) == "table" and err.cause or {}
      return refuse(cause.status or STATUS[err.code] or 500, cause.message or err.message, err.code, it)
    end
    data[i], tokens = { object = "embedding", index = i - 1, embedding = item[1] }, tokens + item[2]
  end
  tokens = math.ceil(tokens)
  return reply(200, { object = "list", data = data, model = model,
    usage = { prompt_tokens = tokens, total_tokens = tokens } })
end

--- POST /v1/embeddings
function M.embeddings()
  if ngx.req.get_method() ~= "POST" then
    ngx.header.allow = "POST"
    return refuse(405, "use POST")
  end
  ngx.req.read_body()
  local request, inputs = read_request(ngx.req.get_body_data())
  if not request then return refuse(400, inputs) end
  local max_wait = ngx.var.http_x_max_wait_ms
  local max_wait_s = max_wait and (tonumber(max_wait) or 0) / 1000
  local is_fine = not max_wait or max_wait_s > 0 -- NaN is not
  if not is_fine then return refuse(400, "x-max-wait-ms must be a number above 0") end
  local it = batcher_for(request)
  if not it then return refuse(400, "too many combinations of model, dimensions and encoding_format") end
  if not it.batcher.is_running then return refuse(503, "shutting down") end
  local futures, err = it.batcher:submit_batch(inputs, { key = ngx.var.http_x_api_key, timeout_s = max_wait_s })
  if err then return refuse(STATUS[err.code] or 500, err.message, err.code, it) end
  ngx.on_abort(function()
    for _, future in ipairs(futures) do future:cancel() end
    ngx.exit(499)
  end)
  return answer_all(it, futures, request.model)
end

--- GET /health: 503 once the oldest record queued, or the oldest call running, in any batcher of this worker is
-- older than its limit. A queue that is stuck answers nobody, and no other figure shows it.
function M.health()
  local status, oldest = 200, { oldest_queued_s = 0, oldest_running_s = 0 }
  for _, name in ipairs(names) do
    local stats = batchers[name].batcher.stats
    for age in pairs(oldest) do oldest[age] = math.max(oldest[age], stats[age]) end
  end
  for age, limit in pairs(M.settings.health) do
    if oldest[age] > limit then status = 503 end
  end
  ngx.status = status
  ngx.header.content_type = "application/json"
  ngx.say(('{"status":"%s","oldest_queued_s":%.3f,"oldest_running_s":%.3f}'):format(status == 200 and "ok" or "stuck",
    oldest.oldest_queued_s, oldest.oldest_running_s))
end

--- GET /metrics: the batchers of this worker.
function M.metrics()
  local list = {}
  for i, name in ipairs(names) do list[i] = batchers[name].batcher end
  ngx.header.content_type = "text/plain; version=0.0.4"
  ngx.print(#list > 0 and tb.metrics.prometheus(unpack(list)) or "")
end

return M
