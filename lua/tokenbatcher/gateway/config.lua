--- What a gateway may be given, checked at the start: a wrong name, kind or range is an error that names the culprit.
-- Keys and URLs are never quoted, since they may hold secrets.

local errors = require "tokenbatcher.base.errors"
local fairness = require "tokenbatcher.gateway.fairness"
local otel = require "tokenbatcher.listen.otel"
local parameters = require "tokenbatcher.base.parameters"
local policies = require "tokenbatcher.policy"
local queues = require "tokenbatcher.gateway.queue.options"

local M = {}

local WHO = "gateway"

local QUEUED_BATCHES = 16 -- what may be queued, in batches
local TURNS = 64 -- a key may send a batch in so many turns

local TOP = {
  { name = "upstreams", kind = "table", required = true }, -- a list, see UPSTREAM
  { name = "batch", kind = "table", default = {} }, -- see BATCH
  { name = "limits", kind = "table", default = {} }, -- see LIMITS
  { name = "health", kind = "table", default = {} }, -- see HEALTH
  { name = "models", kind = "table" }, -- a list of names: all others are refused
  { name = "join", kind = "boolean", default = false }, -- identical inputs in flight go once
  { name = "shm", kind = "string", default = "tokenbatcher" }, -- the shared dict of the workers (nginx)
}
-- Read by hand: auth, fairness_key, cors; queue: see queue/options.lua; otel: see listen/otel.lua.
local BY_HAND = { auth = true, fairness_key = true, cors = true, retry = true, breaker = true, queue = true,
  otel = true }

local BATCH = {
  { name = "max_wait_ms", kind = "number", default = 5, min = 0, max = 3.6e6, unit = "milliseconds" },
  { name = "max_inputs", kind = "count", default = 256, min = 1, max = 1e6 }, -- of one call
  { name = "max_cost", kind = "count", default = 32000, min = 1, max = 1e12 }, -- estimated tokens of one call
  { name = "max_in_flight", kind = "count", default = 8, min = 1, max = 1024 }, -- calls at once
  { name = "max_queue", kind = "count", default = 20000, min = 1, max = 1e7 }, -- inputs that wait
  { name = "max_queue_cost", kind = "count", min = 1, max = 1e15 }, -- their tokens; by default 16 x max_cost
  { name = "timeout_s", kind = "number", default = 30, above = 0, max = 86400, unit = "seconds" }, -- of a batch
  { name = "policy", kind = "policy" }, -- fair
  { name = "record", kind = "string" }, -- a file, for simulate
  { name = "options", kind = "table", default = {} }, -- of the batcher: they win
}

local LIMITS = {
  { name = "body_bytes", kind = "count", default = 8e6, min = 1, max = 2 ^ 31 }, -- of one request
  { name = "held_bytes", kind = "count", default = 256e6, min = 1, max = 2 ^ 40 }, -- of a worker's, answers too
  { name = "inputs", kind = "count", default = 2048, min = 1, max = 1e6 }, -- of one request
  { name = "keys_per_address", kind = "count", default = 16, min = 0, max = 1e6 }, -- that nobody checks; 0: no limit
}

local HEALTH = {
  { name = "oldest_queued_s", kind = "number", above = 0, max = 1e9, unit = "seconds" },
  { name = "oldest_running_s", kind = "number", above = 0, max = 1e9, unit = "seconds" },
  { name = "oldest_waiting_s", kind = "number", above = 0, max = 1e9, unit = "seconds" }, -- for a slot of a queue
  { name = "oldest_held_s", kind = "number", above = 0, max = 1e9, unit = "seconds" }, -- a slot
}

local CORS = {
  { name = "origins", kind = "table", required = true }, -- a list; "*": any
  { name = "max_age_s", kind = "count", default = 600, min = 0, max = 86400 },
}

--- Those that hosts declare, too.
M.batch, M.limits = BATCH, LIMITS

local function fail(text) errors.misuse(WHO .. ": " .. text) end

local function read(part, declared, given)
  local out, message = parameters.check(part, declared, given)
  if not out then errors.misuse(message) end
  return out
end

local function is_list_of_strings(value)
  if type(value) ~= "table" then return false end
  local n = 0
  for _, item in pairs(value) do
    n = n + 1
    if type(item) ~= "string" then return false end
  end
  return n == #value
end

local function set_of(what, list)
  if list == nil then return nil end
  if not is_list_of_strings(list) then fail(what .. " must be a list of names") end
  local set = {}
  for _, name in ipairs(list) do set[name] = true end
  return set
end

-- "config" where an upstream has a key of its own, else what the client sends.
local function auth_of(auth, has_key)
  if auth == nil then return has_key and "config" or "passthrough" end
  if auth == "config" or auth == "passthrough" then return auth end
  if type(auth) ~= "table" then
    fail '"auth" must be "config", "passthrough", or a table of keys'
  end
  for key, to_send in pairs(auth) do
    local is_fine = type(key) == "string" and key ~= "" and (to_send == true or type(to_send) == "string")
    if not is_fine or type(to_send) == "string" and to_send:find "[%c]" then
      fail '"auth": a table must map each client\'s key, a string, to the key that is sent for it, or to true'
    end
  end
  return auth
end

local function fairness_key_of(key)
  if key == nil or errors.is_callable(key) then return key end
  if fairness.is_name(key) then return key end
  fail(('"fairness_key" must be one of %s, or a function, got %s'):format(table.concat(fairness.names, ", "),
    errors.show(key)))
end

local function cors_of(cors)
  if cors == nil or cors == false then return nil end
  if type(cors) ~= "table" then fail '"cors" must be false or a table {origins = {...}}' end
  local out = read(WHO .. ': "cors"', CORS, cors)
  out.origins = set_of('"cors": origins', out.origins)
  return out
end

local function otel_of(given)
  if type(given) ~= "table" then fail '"otel" must be false or a table {endpoint = ...}' end
  return otel.check(WHO .. ": otel", otel.COMMON, given)
end

local function batch_of(who, given, common)
  local merged = {}
  for name, value in pairs(common or {}) do merged[name] = value end
  for name, value in pairs(given or {}) do merged[name] = value end
  local batch = read(who, BATCH, merged)
  local target = batch.options.target_batch_tokens or batch.options.target_batch_cost
  if type(target) == "number" then batch.max_cost = target end
  batch.max_queue_cost = batch.max_queue_cost or QUEUED_BATCHES * batch.max_cost
  batch.policy = batch.policy or policies.shipped("fair", { quantum = math.max(1, batch.max_cost / TURNS) })
  return batch
end

-- One upstream: {name, models (set), batch, queue, given (what upstream.lua reads)}.
local function upstream_of(i, given, config, workers)
  local who = ("%s: upstream %d"):format(WHO, i)
  if type(given) ~= "table" then fail(("upstream %d must be a table {url = ...}"):format(i)) end
  local rest = {}
  for name, value in pairs(given) do rest[name] = value end
  local name, models, batch, queue = rest.name, rest.models, rest.batch, rest.queue
  rest.models, rest.batch, rest.queue, rest.shm = nil, nil, nil, config.shm
  if rest.retry == nil then rest.retry = config.retry end
  if rest.breaker == nil then rest.breaker = config.breaker end
  if name ~= nil and not (type(name) == "string" and name:find "^[%w_.:-]+$" and #name <= 64) then
    fail(("upstream %d: name must be 1 to 64 letters, digits or _.:-"):format(i))
  end
  if batch ~= nil and type(batch) ~= "table" then fail(("upstream %d: batch must be a table"):format(i)) end
  return { who = who, name = name, models = set_of(("upstream %d: models"):format(i), models),
    batch = batch_of(who .. ": batch", batch, config.batch), given = rest,
    queue = queues.read(who .. ": queue", queue, config.queue, workers) }
end

-- Addresses have no names that could have weights.
local function check_weights(config)
  if config.fairness_key ~= "ip" then return end
  for i, upstream in ipairs(config.upstreams) do
    if upstream.queue and next(upstream.queue.weights) then
      fail(('upstream %d: queue: weights would do nothing: with "fairness_key" = "ip" there are no names'):format(i))
    end
  end
end

--- @param given table  see TOP, and README of this folder  @param workers number|nil  that a host will run
-- @return table  everything by name, defaults included; auth is settled by settle_auth()
function M.read(given, workers)
  if type(given) ~= "table" then fail("a table is needed, got a " .. type(given)) end
  local plain, own = {}, {}
  for name, value in pairs(given) do
    if BY_HAND[name] then own[name] = value else plain[name] = value end
  end
  local config = read(WHO, TOP, plain)
  config.retry, config.breaker, config.queue = own.retry, own.breaker, own.queue
  config.limits = read(WHO .. ": limits", LIMITS, config.limits)
  config.health = read(WHO .. ": health", HEALTH, config.health)
  config.models = set_of('"models"', config.models)
  config.cors, config.auth = cors_of(own.cors), own.auth
  config.otel = own.otel and otel_of(own.otel) or nil
  config.fairness_key = fairness_key_of(own.fairness_key)
  if #config.upstreams == 0 then fail '"upstreams" must be a list of at least one {url = ...}' end
  local list = {}
  for i, upstream in ipairs(config.upstreams) do list[i] = upstream_of(i, upstream, config, workers) end
  config.upstreams = list
  check_weights(config)
  return config
end

--- How clients pay, where nothing was said. @param has_key boolean  has an upstream a key of its own?
function M.settle_auth(config, has_key) config.auth = auth_of(config.auth, has_key) end

return M
