--- What a gateway may be given that lives in the plugin of another one: declared once, for the schema of each such host
-- (schemas.lua) and for what is made of it here. Names, kinds and ranges are those of config.lua and
-- upstream_options.lua. Left out is what would let who may only configure read or write files, or run code:
-- policies that are files, recordings, environment variables.

local config = require "tokenbatcher.gateway.config"
local errors = require "tokenbatcher.base.errors"
local json = require "tokenbatcher.base.json"
local protocols = require "tokenbatcher.gateway.protocols"
local queues = require "tokenbatcher.gateway.queue.options"
local upstream_options = require "tokenbatcher.gateway.upstream_options"

local M = {}

-- Of a list of declarations, those that are named; some of their fields are others. Kinds are those of parameters.lua,
-- and "record" (fields; is_optional: it says something that it is there), "list" (of: a declaration, least, most) and
-- "map" (of: a declaration; or strings).
local function pick(declared, names, others)
  local by_name, out = {}, {}
  for _, p in ipairs(declared) do by_name[p.name] = p end
  for i, name in ipairs(names) do
    local p = {}
    for field, value in pairs(assert(by_name[name], name)) do p[field] = value end
    for field, value in pairs(others and others[name] or {}) do p[field] = value end
    out[i] = p
  end
  return out
end

local NAME = { kind = "string" }
local STATUS = { kind = "count", min = 100, max = 599 }
local MS = { kind = "number", above = 0, max = 86400e3 }

local PATHS = {}
for _, protocol in ipairs(protocols.list) do PATHS[#PATHS + 1] = protocol.paths[1] end

local POLICIES = { "eager", "fair", "fifo", "length_bucketed", "one_group", "priority" }

local UPSTREAM = pick(upstream_options.options, { "url", "preset", "name", "api_key", "auth_header", "headers",
  "tls_verify", "timeout_s", "connect_timeout_s", "max_inputs", "max_response_bytes", "pool" }, {
  api_key = { is_secret = true }, headers = { kind = "map", is_secret = true },
  pool = { kind = "record", fields = upstream_options.pool },
})
local RETRY = pick(upstream_options.retry, { "attempts", "on", "backoff_ms", "respect_retry_after", "budget_ms" }, {
  on = { kind = "list", of = STATUS, least = 0, most = 100 },
  backoff_ms = { kind = "list", of = MS, least = 2, most = 2 },
})
local QUEUE = pick(queues.queue, { "slots", "reserve", "max_wait_s", "max_queue", "max_hold_s", "default_tokens",
  "most_tokens", "paths", "weights", "gate" }, {
  paths = { kind = "list", of = { kind = "string", pattern = "^/", regex = "^/" }, least = 1, most = 1000 },
  weights = { kind = "map", of = { kind = "number", above = 0, max = 1000 } },
  gate = { kind = "record", is_optional = true, fields = queues.gate },
})
local BATCH = pick(config.batch, { "max_wait_ms", "max_inputs", "max_cost", "max_in_flight", "max_queue",
  "max_queue_cost", "timeout_s", "policy" }, { policy = { kind = "string", choices = POLICIES, default = "fair" } })

--- The fields, in their order.
M.fields = {
  { name = "upstream", kind = "record", required = true, fields = UPSTREAM },
  -- Clients' credentials are for the host, and never go upstream unless it says so.
  { name = "auth", kind = "string", choices = { "config", "passthrough" }, default = "config" },
  { name = "fairness_key", kind = "string", default = "consumer",
    choices = { "consumer", "credential", "authorization", "x-api-key", "header", "ip" } },
  { name = "fairness_header", kind = "string", pattern = "^[%w_-]+$", regex = "^[A-Za-z0-9_-]+$" },
  { name = "path", kind = "string", choices = PATHS }, -- what every request of the route is; else the end of its path
  { name = "models", kind = "list", of = NAME, least = 1, most = 10000 },
  { name = "join", kind = "boolean", default = false },
  { name = "batch", kind = "record", fields = BATCH },
  { name = "queue", kind = "record", is_optional = true, fields = QUEUE }, -- for chat and streams
  { name = "limits", kind = "record", fields = config.limits },
  { name = "retry", kind = "record", fields = RETRY },
  { name = "breaker", kind = "record", fields = upstream_options.breaker },
}

--- Fields that are needed if another has a value: {field, value, needed}.
M.conditions = { { field = "fairness_key", value = "header", needed = "fairness_header" } }

-- --- from the host's table ------------------------------------------------------------------------

-- A host has null where a field is not set; what it adds of its own is left behind.
local function read_value(p, value)
  if value == nil or type(value) == "userdata" then return nil end
  if type(value) ~= "table" then return value end
  local out = {}
  if p.kind == "record" then
    for _, field in ipairs(p.fields) do out[field.name] = read_value(field, value[field.name]) end
  elseif p.kind == "list" then
    for i, item in ipairs(value) do out[i] = item end
  else
    for name, item in pairs(value) do out[name] = item end
  end
  return out
end

local KEYS = { credential = "consumer" } -- the host says who that is

--- What gateway.new() takes. @param conf table  the plugin's configuration, as its host has checked it
function M.given(conf)
  local out = read_value({ kind = "record", fields = M.fields }, conf)
  local key, header = out.fairness_key or "consumer", out.fairness_header
  out.fairness_key = key == "header" and header and "header:" .. header:lower() or KEYS[key] or key
  out.upstreams, out.auth = { out.upstream }, out.auth or "config"
  out.upstream, out.fairness_header, out.path = nil, nil, nil
  return out
end

--- Equal for configurations that are, and for no others. It holds their secrets.
function M.digest(conf)
  return assert(json.encode(read_value({ kind = "record", fields = M.fields }, conf)))
end

-- A key that is somewhere else, as Kong and APISIX write it.
local function is_reference(key)
  return type(key) == "string" and (key:find "^{vault://" or key:find "^%$env://" or key:find "^%$secret://") ~= nil
end

--- Which of its secrets is still the place where that is kept? @return string  its name; or nil: none
function M.unresolved(conf)
  local upstream = conf.upstream
  if is_reference(upstream.api_key) then return "upstream.api_key" end
  for name, value in pairs(type(upstream.headers) == "table" and upstream.headers or {}) do
    if is_reference(value) then return "upstream.headers." .. name end
  end
end

local function check(conf)
  local given = M.given(conf)
  for _, it in ipairs(M.conditions) do
    if conf[it.field] == it.value and not read_value({}, conf[it.needed]) then
      errors.misuse(("%s = '%s' needs %s"):format(it.field, it.value, it.needed))
    end
  end
  if given.auth == "passthrough" and given.upstreams[1] and given.upstreams[1].api_key then
    errors.misuse "auth = 'passthrough' sends what the client has sent: upstream.api_key would never be used"
  end
  local it = config.read(given).upstreams[1]
  upstream_options.read(it.who, it.given)
end

--- What a host's schema does not find. @return true; or nil and a sentence that names the culprit, and shows no secret
function M.check(conf)
  local ok, raised = pcall(check, conf)
  if ok then return true end
  local text = errors.text(raised):gsub("^[^\n]-%.lua:%d+: ", ""):gsub("^tokenbatcher: ", "")
  return nil, (text:gsub("^gateway: ", ""):gsub("upstream 1", "upstream"))
end

return M
