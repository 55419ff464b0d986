--- Requests that are passed on as they are: which upstream is theirs, whether they wait for a slot of its queue
-- (queue/), and with whose credential they go.

local problems = require "tokenbatcher.gateway.problems"
local reading = require "tokenbatcher.gateway.reading"
local waiting = require "tokenbatcher.gateway.queue.waiting"

local M = {}

-- @param model any  what its body names, if that was read  @return line, or nil and a problem
local function line_of(gateway, request, model)
  if model == nil and not gateway.only_line and reading.names_model(gateway, request) then
    local problem
    model, problem = reading.model_of(request, gateway.limits)
    if problem then return nil, problem end
  end
  return reading.line_of(gateway, type(model) == "string" and model or nil)
end

--- Where a request goes; suspends where it waits for a slot, which gateway:over() gives back.
-- @param model any  as its body has it, where that was read already
-- @return {url, host, tls_name, headers}; or nil and a problem
function M.way(gateway, request, model)
  local credential, problem = gateway.credentials:of(request.headers)
  if not credential then return nil, problem end
  local line
  line, problem = line_of(gateway, request, model)
  if not line then return nil, problem end
  if not reading.is_below(request:target()) then
    return nil, problems.new(400, "bad_path", "the path must not go upwards")
  end
  if line.queue and line.queue:takes(request.method, request.path) then
    local is_in
    is_in, problem = waiting.wait(gateway, line, request)
    if not is_in then return nil, problem end
  end
  local way = line.upstream:pass(request:target())
  way.headers = gateway.credentials:to_pass(credential, way.headers)
  return way
end

--- The same for a host that passes requests on by itself, whatever their paths.
-- @return true: it may go; or nil and a problem
function M.admit(gateway, request)
  local credential, problem = gateway.credentials:of(request.headers)
  if not credential then return nil, problem end
  local line
  line, problem = line_of(gateway, request)
  if not line then return nil, problem end
  if not line.queue then return true end
  return waiting.wait(gateway, line, request)
end

return M
