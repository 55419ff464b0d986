--- What a queue before an upstream may be given (`queue` of a gateway, or of one of its upstreams), checked at the
-- start. Keys of clients are never quoted, since they are secrets.

local errors = require "tokenbatcher.base.errors"
local parameters = require "tokenbatcher.base.parameters"

local M = {}

local MOST_WEIGHT = 1000

local QUEUE = {
  { name = "slots", kind = "count", required = true, min = 1, max = 1024 }, -- requests upstream at once
  { name = "reserve", kind = "count", default = 0, min = 0, max = 1023 }, -- of them, for keys below their share
  { name = "max_wait_s", kind = "number", default = 30, above = 0, unit = "seconds" }, -- then 429
  { name = "max_queue", kind = "count", default = 1000, min = 2, max = 1e6 }, -- requests that wait
  { name = "max_hold_s", kind = "number", default = 3600, above = 0, unit = "seconds" }, -- a slot, at the longest
  { name = "default_tokens", kind = "count", default = 256, min = 1, max = 1e9 }, -- where no max_tokens was said
  { name = "most_tokens", kind = "count", default = 131072, min = 1, max = 1e9 }, -- of max_tokens; more counts as that
  { name = "paths", kind = "table" }, -- a list; what ends with * is a beginning
  { name = "policy", kind = "policy" }, -- by default that of turns.lua
  { name = "weights", kind = "table", default = {} }, -- {[what fairness_key sees] = shares}; others have 1
  { name = "priority", kind = "function" }, -- of a request, for the policy `priority`
  { name = "gate", kind = "table" }, -- see GATE; none: the slots alone decide
  { name = "options", kind = "table", default = {} }, -- of the batcher: they win
}

local GATE = {
  { name = "path", kind = "string", default = "/metrics" }, -- of the upstream
  { name = "metric", kind = "string", default = "vllm:num_requests_waiting" },
  { name = "most", kind = "number", default = 0, min = 0, max = 1e9, unit = "requests" }, -- above it the gate is closed
  { name = "every_s", kind = "number", default = 0.5, min = 0.05, max = 10, unit = "seconds" }, -- between two looks
  { name = "stale_s", kind = "number", default = 5, min = 0.1, max = 3600, unit = "seconds" }, -- then it is open
}

M.queue, M.gate = QUEUE, GATE

--- What waits, unless `paths` says otherwise.
M.PATHS = { "/v1/chat/completions", "/chat/completions", "/v1/completions", "/completions", "/v1/responses",
  "/responses", "/v1/messages" }

local OURS = { "max_batch_size", "min_batch_size", "max_concurrent_batches", "prefetch_batches", "inference_fn",
  "process_fn", "policy", "on_full", "max_queue_size", "inference_timeout_s", "join", "batch_timeout_s" }

--- A path without slashes at its end: there are upstreams to which they say nothing.
function M.plain(path) return path:match "^(.-)/*$" end

local function paths_of(who, list)
  local exact, beginnings, n = {}, {}, 0
  for i, path in pairs(list or M.PATHS) do
    n = n + 1
    if type(i) ~= "number" or type(path) ~= "string" or path:sub(1, 1) ~= "/" then
      errors.misuse(who .. ": paths must be a list of paths that begin with /")
    end
    if path:sub(-1) == "*" then beginnings[#beginnings + 1] = path:sub(1, -2) else exact[M.plain(path)] = true end
  end
  if n == 0 then errors.misuse(who .. ": paths must name at least one path (queue = false: nothing waits)") end
  return exact, beginnings
end

local function check_weights(who, weights)
  for key, weight in pairs(weights) do
    if not (type(key) == "string" and key ~= "" and type(weight) == "number" and weight > 0 and weight <= MOST_WEIGHT)
    then
      errors.misuse(("%s: weights must map keys, strings, to numbers above 0 and up to %d (its keys are not shown)")
        :format(who, MOST_WEIGHT))
    end
  end
end

local function check_options(who, given)
  for _, name in ipairs(OURS) do
    if given[name] ~= nil then
      errors.misuse(("%s: options: '%s' is the queue's own: it follows from slots, max_queue, max_wait_s, max_hold_s "
        .. "and policy"):format(who, name))
    end
  end
end

local function gate_of(who, given)
  local gate = parameters.read(who, GATE, given)
  if not gate.path:find "^/[%g]*$" then errors.misuse(who .. ": path must begin with /, and have no spaces") end
  if not gate.metric:find "^[%a_:][%w_:]*$" then
    errors.misuse(who .. ": metric must be the name of one, without labels: the sum of all its series counts")
  end
  if gate.stale_s < 2 * gate.every_s then
    errors.misuse(("%s: stale_s = %g is below twice every_s = %g: between two looks the gate would be open"):format(who,
      gate.stale_s, gate.every_s))
  end
  return gate
end

-- What would be taken, and do nothing.
local function check_use(who, p)
  if p.priority and not p.policy then
    errors.misuse(who .. ": priority is for a policy that goes by it (policy = 'priority'): shares do not")
  end
  if next(p.weights) and p.policy and p.reserve == 0 then
    errors.misuse(who .. ": weights are for shares (no policy) and for reserve: with this policy they would do nothing")
  end
end

--- The slots of a worker, and those of them that are reserved. @param place table|nil  {workers, worker (from 0)}
-- @return slots, reserve; or nil and what is wrong
function M.share(p, place)
  local workers, worker = place and place.workers or 1, place and place.worker or 0
  local slots = math.floor(p.slots / workers) + (worker < p.slots % workers and 1 or 0)
  local reserve = math.ceil(p.reserve / workers)
  local least = math.floor(p.slots / workers)
  if least < 1 then
    return nil, ("slots = %d are fewer than the %d workers, of which each has a queue of its own"):format(p.slots,
      workers)
  end
  if reserve >= least then
    return nil, ("reserve = %d leaves no slot for others: %s"):format(p.reserve, workers == 1
      and ("slots = %d"):format(p.slots)
      or ("each of the %d workers has %d of the %d slots, and reserves %d"):format(workers, least, p.slots, reserve))
  end
  return slots, reserve
end

--- @param who string  for messages  @param given any  table; nil or false: there is none
-- @param common any  what it is laid over: the gateway's own
-- @param workers number|nil  that there will be, each with its share of the slots
-- @return table or nil
function M.read(who, given, common, workers)
  if given == nil then given = common end
  if given == nil or given == false then return nil end
  if type(given) ~= "table" then errors.misuse(who .. " must be false or a table {slots = ...}") end
  local merged = {}
  for name, value in pairs(type(common) == "table" and common or {}) do merged[name] = value end
  for name, value in pairs(given) do merged[name] = value end
  local p = parameters.read(who, QUEUE, merged)
  p.exact, p.beginnings = paths_of(who, p.paths)
  check_weights(who, p.weights)
  check_options(who, p.options)
  check_use(who, p)
  local slots, problem = M.share(p, { workers = workers or 1, worker = 0 })
  if not slots then errors.misuse(who .. ": " .. problem) end
  if p.gate then p.gate = gate_of(who .. ": gate", p.gate) end
  return p
end

return M
