--- From a request to what is asked of an upstream: {protocol, line, inputs, costs, head, credential, key, id, ...};
-- or a problem, or that the request is to be passed on as it is.

local clock = require "tokenbatcher.runtime.clock"
local json = require "tokenbatcher.base.json"
local problems = require "tokenbatcher.gateway.problems"
local protocols = require "tokenbatcher.gateway.protocols"
local support = require "tokenbatcher.gateway.protocols.support"
local traceparent = require "tokenbatcher.base.traceparent"

local M = {}

--- What may be asked of a path that is batched.
M.METHODS = "POST, OPTIONS"

-- --- lines ------------------------------------------------------------------------------------

local function speaks(line, protocol)
  return not protocol.presets or protocol.presets[line.upstream.preset] == true
end

--- The protocols that an upstream speaks, by path. What has none is passed on.
function M.protocols_of(lines)
  local out = {}
  for _, protocol in ipairs(protocols.list) do
    for _, line in ipairs(lines) do
      if speaks(line, protocol) then
        for _, path in ipairs(protocol.paths) do out[path] = protocol end
      end
    end
  end
  return out
end

--- What is taken at all, by the largest of the lines: refused before it is made anything of.
function M.limits_of(gateway)
  local given = gateway.config.limits
  local out = { body_bytes = given.body_bytes, inputs = given.inputs, input_cost = 0, list_cost = 0 }
  for _, line in ipairs(gateway.lines) do
    local takes_any = line.batcher:option "on_oversize" == "alone"
    out.input_cost = math.max(out.input_cost, takes_any and math.huge or line.batcher:option "target_batch_cost")
    out.list_cost = math.max(out.list_cost, line.batcher:option "max_queue_cost" or math.huge)
  end
  return out
end

--- The line for a model: one that names it, else the first that takes any.
-- @param protocol table|nil  that it must speak  @return line, or nil and a problem
function M.line_of(gateway, model, protocol)
  local only = gateway.only_line
  if only then return only end
  local any
  local is_allowed = not gateway.config.models or model == nil or gateway.config.models[model]
  for _, line in ipairs(is_allowed and gateway.lines or {}) do
    if not protocol or speaks(line, protocol) then
      if model ~= nil and line.models and line.models[model] then return line end
      if not line.models or model == nil then any = any or line end
    end
  end
  if any then return any end
  return nil, problems.new(404, "model_not_found", "the model does not exist here", "model")
end

-- --- bodies -----------------------------------------------------------------------------------

local function too_large(limits)
  return problems.new(413, "body_too_large", ("the body is larger than %d bytes"):format(limits.body_bytes))
end

--- Wait for the body. @return its bytes; or nil and a problem
function M.receive(request, limits)
  local announced = request:announced()
  if announced and announced > limits.body_bytes then return nil, too_large(limits) end
  local bytes = request:receive()
  if bytes > limits.body_bytes then return nil, too_large(limits) end
  return bytes
end

--- The body, which has come, as a table. @return table; or nil and a problem
local function decoded(request)
  local text = request:text()
  local body, message = json.decode(text or "")
  if body == nil then return nil, problems.new(400, "invalid_json", "the body must be a JSON object: " .. message) end
  if type(body) ~= "table" or support.is_list(body) then
    return nil, problems.new(400, "invalid_json", "the body must be a JSON object")
  end
  return body
end

--- The model that a body names which is to be passed on. @return string or nil: none; or nil and a problem
function M.model_of(request, limits)
  local bytes, problem = M.receive(request, limits)
  if not bytes or bytes == 0 then return nil, problem end
  local body, message = json.decode(request:text())
  if body == nil then return nil, problems.new(400, "invalid_json", "the body must be JSON: " .. message) end
  return type(body) == "table" and type(body.model) == "string" and body.model or nil
end

--- May a path stand behind the upstream's own? One that goes upwards would leave it.
function M.is_below(target)
  local path = target:match "^[^?]*":gsub("%%2[eE]", "."):gsub("%%2[fF]", "/"):gsub("\\", "/")
  return path:sub(1, 1) == "/" and not (path .. "/"):find("/../", 1, true)
end

--- May the body of a request that is passed on name a model?
function M.names_model(gateway, request)
  return request.method == "POST" and (gateway.protocols[request.path] ~= nil
    or (request.headers["content-type"] or ""):lower():find("json", 1, true) ~= nil)
end

-- --- headers ----------------------------------------------------------------------------------

--- How long a client wants to wait for its call to begin. @return seconds or nil; or nil and a problem
function M.max_wait_of(headers)
  local text = headers["x-max-wait-ms"]
  if not text then return nil end
  local ms = text:find "^%d*%.?%d+$" and tonumber(text)
  if ms and ms > 0 and ms < 1e12 then return ms / 1000 end
  return nil, problems.new(400, "invalid_max_wait", "x-max-wait-ms must be a number of milliseconds above 0")
end

local function method_problem()
  local problem = problems.new(405, "method_not_allowed", "use POST")
  problem.headers = { allow = M.METHODS }
  return problem
end

--- What the headers ask for.
-- @return {id, protocol, credential, max_wait_s, trace}; or nil and a problem or support.PASS
function M.head(gateway, request, protocol, id)
  if request.method ~= "POST" then return nil, method_problem() end
  local headers = request.headers
  local wish = headers["x-tokenbatcher"]
  if wish == "bypass" then return nil, support.PASS end
  if wish then return nil, problems.new(400, "invalid_wish", "x-tokenbatcher may be 'bypass', and nothing else") end
  local credential, problem = gateway.credentials:of(headers)
  if not credential then return nil, problem end
  local max_wait_s
  max_wait_s, problem = M.max_wait_of(headers)
  if problem then return nil, problem end
  return { id = id, protocol = protocol, credential = credential, max_wait_s = max_wait_s,
    trace = traceparent.of_header(headers.traceparent) }
end

--- What the body asks for, put into what head() has returned.
-- @return true; or nil and a problem; or nil, support.PASS and the model
function M.body(gateway, asked, request)
  local protocol, credential = asked.protocol, asked.credential
  local body, problem = decoded(request)
  if not body then return nil, problem end
  local is_fine
  is_fine, problem = protocol.read(asked, body, gateway.limits)
  if not is_fine then return nil, problem, body.model end
  local line
  line, problem = M.line_of(gateway, asked.model, protocol)
  if not line then return nil, problem end
  asked.line, asked.key = line, gateway.fairness:of(request)
  asked.group = protocol.name .. "\n" .. asked.head .. "\n" .. (credential.id or "")
  if asked.max_wait_s then
    asked.timeout_s = line:timeout_s(asked.max_wait_s)
    asked.until_s = clock.now_us() / 1e6 + asked.timeout_s
  end
  return true
end

return M
