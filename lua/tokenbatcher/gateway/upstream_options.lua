--- What an upstream may be given, and what is made of it once. Whatever is wrong is raised and named, without its value
-- where that may be a secret.

local address = require "tokenbatcher.backend.cosocket.address"
local errors = require "tokenbatcher.base.errors"
local head = require "tokenbatcher.backend.http.head"
local parameters = require "tokenbatcher.base.parameters"
local presets = require "tokenbatcher.gateway.presets"
local retry = require "tokenbatcher.backend.retry"

local M = {}

local DAY_S, MIB = 86400, 2 ^ 20
local MOST_ASKED_S = 60 -- a Retry-After, of one model say, keeps the upstream from all for so long

M.options = {
  { name = "url", kind = "string", required = true }, -- http://HOST[:PORT][/v1], https://..., http://unix:/path:/v1
  { name = "preset", kind = "string", default = "openai", choices = presets.names },
  { name = "name", kind = "string" }, -- what its learned limit is kept under; by default scheme, host and port
  { name = "api_key", kind = "string" },
  { name = "api_key_env", kind = "string" }, -- the environment variable that holds it (nginx: `env NAME;`)
  { name = "auth_header", kind = "string", default = "authorization" }, -- where the key goes; "api-key" for Azure
  { name = "headers", kind = "table", default = {} }, -- sent with every request
  { name = "tls_verify", kind = "boolean", default = true },
  { name = "ca_file", kind = "string" }, -- nginx has it elsewhere: see below
  { name = "timeout_s", kind = "number", default = 30, above = 0, max = DAY_S, unit = "seconds" }, -- of one attempt
  { name = "connect_timeout_s", kind = "number", default = 5, above = 0, max = DAY_S, unit = "seconds" },
  { name = "max_response_bytes", kind = "number", default = 64 * MIB, min = 1, max = 2 ^ 32 - 2, unit = "bytes" },
  { name = "max_inputs", kind = "count", min = 1, max = 1e6 }, -- in one request; by default the preset's
  { name = "shm", kind = "string", default = "tokenbatcher" }, -- lua_shared_dict that keeps what is learned
  { name = "retry", kind = "table", default = {} },
  { name = "breaker", kind = "table" }, -- or false: none
  { name = "pool", kind = "table", default = {} },
}

local RETRY = {
  { name = "attempts", kind = "count", default = 2, min = 1, max = 100 }, -- in all, the first included
  { name = "on", kind = "table", default = { 429, 502, 503, 504 } },
  { name = "backoff_ms", kind = "table", default = { 100, 2000 } }, -- the first, the longest
  { name = "respect_retry_after", kind = "boolean", default = true },
  { name = "budget_ms", kind = "number", default = 10000, above = 0, max = DAY_S * 1000, unit = "milliseconds" },
}

local BREAKER = {
  { name = "failures", kind = "count", default = 5, min = 0, max = 1e6 }, -- in a row; 0: no breaker
  { name = "open_s", kind = "number", default = 10, above = 0, max = DAY_S, unit = "seconds" },
}

local POOL = {
  { name = "size", kind = "count", default = 64, min = 1, max = 65535 }, -- idle connections of one credential
  { name = "idle_s", kind = "number", default = 30, above = 0, max = DAY_S, unit = "seconds" },
}

M.retry, M.breaker, M.pool = RETRY, BREAKER, POOL

local function is_ms(value)
  return type(value) == "number" and value > 0 and value <= DAY_S * 1000
end

local function read_policy(who, given)
  local p = parameters.read(who .. ": retry", RETRY, given)
  local first, most = p.backoff_ms[1], p.backoff_ms[2]
  if not (is_ms(first) and is_ms(most) and first <= most and p.backoff_ms[3] == nil) then
    errors.misuse(who .. ": retry: parameter 'backoff_ms' must be two numbers of milliseconds, the first and the "
      .. "longest")
  end
  return retry.new(who .. ": retry", { attempts = p.attempts, statuses = p.on, backoff_s = first / 1000,
    max_backoff_s = most / 1000, total_s = p.budget_ms / 1000, retry_after_max_s = p.budget_ms / 1000,
    safe_to_repeat = true }), p.respect_retry_after
end

local function read_circuit(who, given)
  local p = parameters.read(who .. ": breaker", BREAKER, given)
  return { pause_after = p.failures, probe_s = p.open_s, max_probe_s = p.open_s, outage_s = 0, is_hasty = true,
    max_asked_s = math.max(p.open_s, MOST_ASKED_S) }
end

local function check_secret(who, name, key)
  if key == "" or key:find "[%c\127-\255]" then
    errors.misuse(("%s: %s must be printable ASCII, without line breaks, and not empty (its value is not shown)")
      :format(who, name))
  end
end

local function read_key(who, p)
  if p.api_key and p.api_key_env then errors.misuse(who .. ": give api_key or api_key_env, not both") end
  local key, name = p.api_key, "parameter 'api_key'"
  if p.api_key_env then
    key, name = os.getenv(p.api_key_env), "the key in the environment variable " .. p.api_key_env
    if not key then
      errors.misuse(("%s: the environment variable %s is not set (nginx hands on only what `env` names)"):format(who,
        p.api_key_env))
    end
  end
  if not key then return nil end
  check_secret(who, name, key)
  return key
end

-- Headers of every request, and the values among them that may be secrets.
local function read_headers(who, headers, auth_name, secrets)
  local lines, names = {}, {}
  for name in pairs(headers) do
    if not head.is_name(name) then
      errors.misuse(("%s: headers: %s is not a header's name"):format(who, errors.show(name)))
    end
    names[#names + 1] = name
  end
  table.sort(names)
  for _, name in ipairs(names) do
    local value = headers[name]
    if name:lower() == auth_name then
      errors.misuse(("%s: headers holds '%s', which api_key sets"):format(who, name))
    end
    if type(value) ~= "string" then errors.misuse(("%s: headers: '%s' must be a string"):format(who, name)) end
    check_secret(who, "the header '" .. name .. "'", value)
    secrets[#secrets + 1] = value
    lines[#lines + 1] = name:lower() .. ": " .. value .. "\r\n"
  end
  return table.concat(lines)
end

local NO_CA_FILE = "%s: parameter 'ca_file': nginx has it elsewhere: name the certificates in "
  .. "lua_ssl_trusted_certificate"

-- The same with a table for `breaker = false`.
local function with_breaker(given)
  if type(given) ~= "table" or given.breaker ~= false then return given end
  local out = {}
  for name, value in pairs(given) do out[name] = value end
  out.breaker = { failures = 0 }
  return out
end

local SECRETS = { "key", "token", "secret", "passw", "signature" } -- in a parameter's name

-- nginx writes the whole of a URL into its log where it passes a request on and fails.
local function holds_secret(query)
  for name in query:lower():gmatch "[?&]([^=&]*)" do
    for _, word in ipairs(SECRETS) do
      if name:find(word, 1, true) then return true end
    end
  end
  return false
end

--- @return table  the parameters by name, and place, policy, heeds_retry_after, circuit, key (the auth header's value),
-- auth_name, header_text, secrets, pool_size, idle_s
function M.read(who, given)
  local p = parameters.read(who, M.options, with_breaker(given))
  local place, problem = address.parse(p.url)
  if place and holds_secret(place.query) then
    problem = "holds a key in its query, which logs show: give api_key, or headers"
  end
  if problem then errors.misuse(("%s: parameter 'url' %s"):format(who, problem)) end
  if p.ca_file then errors.misuse(NO_CA_FILE:format(who)) end
  if not head.is_name(p.auth_header) then errors.misuse(who .. ": parameter 'auth_header' is not a header's name") end
  local pool = parameters.read(who .. ": pool", POOL, p.pool)
  local key = read_key(who, p)
  p.policy, p.heeds_retry_after = read_policy(who, p.retry)
  p.place, p.circuit = place, read_circuit(who, p.breaker)
  p.pool_size, p.idle_s, p.auth_name = pool.size, pool.idle_s, p.auth_header:lower()
  p.secrets = { key }
  p.key = key and (p.auth_name == "authorization" and "Bearer " .. key or key)
  p.header_text = "user-agent: tokenbatcher\r\naccept-encoding: identity\r\n"
    .. read_headers(who, p.headers, p.auth_name, p.secrets)
  p.max_inputs = p.max_inputs or presets.max_inputs(p.preset)
  return p
end

return M
