--- apisix: the gateway as a plugin of APISIX. Requests of a route that can be batched are read and understood in the
-- access phase, and answered in before_proxy, when rate limits and what else is of the access phase have had their say;
-- all others go to the route's upstream as if there were no plugin, once a queue, if there is one, has let them.
-- Nothing of a protocol is here. It knows all rooms that the gateway knows.
--
-- APISIX hands a new table in when a configuration has changed, and does not say when one is gone: a gateway is found
-- by what its configuration says (routes that say the same share one), and is forgotten when it is not used.

local core = require "apisix.core"
local fleets = require "tokenbatcher.gateway.plugin.fleet"
local options = require "tokenbatcher.gateway.plugin.options"
local schemas = require "tokenbatcher.gateway.plugin.schemas"

local schema = schemas.json()
schema.encrypt_fields = schemas.secrets()

-- Below ai-proxy (1040), above ai-rate-limiting (1030) and limit-count (1002).
local M = { version = 0.1, priority = 1039, name = "tokenbatcher", schema = schema }

local fleet = fleets.new()

--- @return true; or false and what is wrong
function M.check_schema(conf, schema_type)
  if schema_type == core.schema.TYPE_METADATA then return core.schema.check({ type = "object" }, conf) end
  local ok, message = core.schema.check(schema, conf)
  if ok then ok, message = options.check(conf) end
  return ok or false, message
end

--- In each worker, also when plugins are loaded again.
function M.init() fleet:join() end

--- The plugin is unloaded: what is in flight is answered.
function M.destroy() fleet:keep {} end

-- APISIX resolves references itself since 3.16; before that, plugins do.
local function resolved(conf)
  if not options.unresolved(conf) then return conf end
  return require("apisix.secret").fetch_secrets(conf, true) or conf
end

-- Who asks, as APISIX has checked it.
local function consumer_of(conf, ctx)
  local credential = ctx.consumer and ctx.consumer.credential_id
  if conf.fairness_key == "credential" then return credential or ctx.consumer_name end
  return ctx.consumer_name
end

local function exit(status, headers, body)
  for name, value in pairs(headers) do core.response.set_header(name, value) end
  return status, body
end

local function accept(request)
  local asked, status, headers, body = request.entry.gateway:accept(request)
  request.asked, request.is_accepted = asked, true
  if status then return exit(status, headers, body) end
end

function M.access(conf, ctx)
  conf = resolved(conf)
  local entry = fleet:of(conf)
  if not entry.gateway then return exit(fleets.refusal()) end
  local request = fleet:enter(entry, conf, consumer_of(conf, ctx))
  ctx.tokenbatcher = request
  -- What is passed on may wait for a slot: behind the rate limits, in before_proxy.
  if not entry.gateway.protocols[request.path] then return end
  local status, body = accept(request)
  local asked = request.asked
  if not asked then return status, body end
  ctx.picked_ai_instance_name, ctx.picked_ai_instance = asked.line.name, conf -- for ai-rate-limiting
  ctx.balancer_ip, ctx.bypass_nginx_upstream = asked.line.name, true
end

-- Variables that an older APISIX has not declared cannot be written.
local function set_variable(ctx, name, value)
  pcall(function() ctx.var[name] = value end)
end

local function tell(ctx, request)
  local prompt, completion = request.prompt_tokens, request.completion_tokens
  ctx.ai_token_usage = { prompt_tokens = prompt, completion_tokens = completion, total_tokens = prompt + completion }
  set_variable(ctx, "llm_model", request.model)
  set_variable(ctx, "llm_prompt_tokens", prompt)
  set_variable(ctx, "llm_completion_tokens", completion)
end

function M.before_proxy(_, ctx)
  local request = ctx.tokenbatcher
  if request and not request.is_accepted then return accept(request) end
  if not (request and request.asked) then return end
  local status, headers, body = request.entry.gateway:answer(request, request.asked)
  if request.prompt_tokens then tell(ctx, request) end
  return exit(status, headers, body)
end

function M.log(_, ctx) fleets.leave(ctx.tokenbatcher) end

local function page(path)
  return { methods = { "GET" }, uris = { "/v1/plugin/tokenbatcher" .. path }, handler = function()
    return exit(fleet:page(path))
  end }
end

function M.control_api() return { page "/status", page "/metrics" } end

return M
