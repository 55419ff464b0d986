--- kong: the gateway as a plugin of Kong. Requests of a route that can be batched are answered here, in the access
-- phase; all others go to the route's service as if there were no plugin, once a queue, if there is one, has let them.
-- Nothing of a protocol is here. It knows all rooms that the gateway knows.
--
-- Kong calls configure() with all configurations whenever one of them has changed, and, where it is too old for that
-- (before 3.5), not at all: then the first request that brings a configuration starts its gateway. A secret that is a
-- reference (a vault) changes in the configuration itself, without a call.

local fleets = require "tokenbatcher.gateway.plugin.fleet"
local options = require "tokenbatcher.gateway.plugin.options"
local version = require "tokenbatcher.base.version"

local kong, ngx = kong, ngx -- luacheck: ignore

-- Below authentication (1000 and more), rate limits (910) and ai-proxy (770).
local Plugin = { PRIORITY = 769, VERSION = version }

local fleet = fleets.new()
local current = {} -- by plugin id: {name (id and digest), entry, conf, api_key, headers}
local is_told = false -- has configure() been called?

local function id_of(conf) return conf.__plugin_id or "-" end

local function use(conf)
  local id = id_of(conf)
  local name = id .. "\n" .. options.digest(conf)
  local it = { name = name, entry = fleet:use(name, conf), conf = conf, api_key = conf.upstream.api_key, headers = {} }
  for header, value in pairs(conf.upstream.headers or {}) do it.headers[header] = value end
  current[id] = it
  return it
end

local function keep_current()
  local names = {}
  for _, it in pairs(current) do names[it.name] = true end
  fleet:keep(names)
end

--- In each worker, in init_worker or in a timer. @param configs table|nil  a list; nil: there are none
function Plugin.configure(_, configs)
  current, is_told = {}, true
  for _, conf in ipairs(configs or {}) do use(conf) end
  keep_current()
end

local function has_its_secrets(it, upstream)
  for header, value in pairs(it.headers) do
    if upstream.headers[header] ~= value then return false end
  end
  return it.api_key == upstream.api_key
end

-- The one that runs; where requests with the former configuration still come, that of the new one. A Kong that tells
-- of none brings it.
local function entry_of(conf)
  local it = current[id_of(conf)]
  if it and (is_told or it.conf == conf) and has_its_secrets(it, conf.upstream) then return it.entry end
  it = use(conf)
  keep_current()
  return it.entry
end

-- Who asks, as Kong has checked it.
local function consumer_of(conf)
  local consumer, credential = kong.client.get_consumer(), kong.client.get_credential()
  local consumer_id, credential_id = consumer and (consumer.username or consumer.id), credential and credential.id
  if conf.fairness_key == "credential" then return credential_id or consumer_id end
  return consumer_id or credential_id
end

-- As Kong's plugin prometheus reads it for its ai_llm_* metrics.
local function tell(conf, request, ms)
  local prompt, completion = request.prompt_tokens, request.completion_tokens
  kong.log.set_serialize_value("ai.tokenbatcher.meta", { plugin_id = conf.__plugin_id,
    provider_name = conf.upstream.name or conf.upstream.preset, request_model = request.model,
    response_model = request.model, llm_latency = ms })
  kong.log.set_serialize_value("ai.tokenbatcher.usage", { prompt_tokens = prompt, completion_tokens = completion,
    total_tokens = prompt + completion, time_per_token = 0, cost = 0 })
end

-- It does not return: Kong yields there, for good.
local function exit(status, headers, body) return kong.response.exit(status, body, headers) end

function Plugin.access(_, conf)
  local entry = entry_of(conf)
  if not entry.gateway then return exit(fleets.refusal()) end
  local request = fleet:enter(entry, conf, consumer_of(conf))
  kong.ctx.plugin.request = request -- before anything waits: it may be another plugin's then
  local since = ngx.now()
  local status, headers, body = entry.gateway:handle(request)
  if not status then return end -- to the service; log() gives back what it holds
  ngx.update_time()
  if request.prompt_tokens then tell(conf, request, (ngx.now() - since) * 1000) end
  return exit(status, headers, body)
end

function Plugin.log() fleets.leave(kong.ctx.plugin.request) end

return Plugin
