--- tb.backend.retrying{fn, attempts = 5, ...}: an inference function that calls another one again when it
-- raises. `retry_if(err)` says which errors are worth it (any, by default). What the other one says of itself
-- (defaults, group, ...) it hands on; info.requests and info.usage add up over the attempts.
--
--     inference_fn = tb.backend.retrying{ ask_my_server, attempts = 5, backoff_s = 0.5 }

local calls = require "tokenbatcher.backend.retry.calls"
local circuit = require "tokenbatcher.backend.retry.circuit"
local errors = require "tokenbatcher.base.errors"
local parameters = require "tokenbatcher.base.parameters"
local retry = require "tokenbatcher.backend.retry"
local tasks = require "tokenbatcher.runtime.tasks"

local WHO = "backend 'retrying'"
local OURS = { statuses = true, safe_to_repeat = true, retry_after_max_s = true } -- retry_if decides instead

local DECLARED = { { name = "retry_if", kind = "function" } }
for _, list in ipairs { retry.options, circuit.options } do
  for _, p in ipairs(list) do
    if not OURS[p.name] then DECLARED[#DECLARED + 1] = p end
  end
end

local function copy(list)
  local out = setmetatable({}, getmetatable(list)) -- info.keys may answer through one
  for i = 1, #list do out[i] = list[i] end
  return out
end

-- An info for one attempt: what the function adds up in it starts from nothing, and its lists are its own.
local function info_of_attempt(info)
  local own = {}
  for name, value in pairs(info) do own[name] = value end
  own.costs, own.requests, own.usage = info.costs and copy(info.costs), nil, nil
  return own
end

local function is_for_nobody(err) return errors.is_err(err) and err.code == "cancelled" end

-- The failure as the policy sees it.
local function failure_of(self, raised)
  local value, is_final = raised.value, false
  if is_for_nobody(value) then error(value, 0) end
  if self.retry_if then
    local ok, answer = tasks.guarded("retry_if function", self.retry_if, value)
    if not ok then error(answer, 0) end
    is_final = not answer
  end
  local was_sent = not (errors.is_err(value) and value.was_sent == false)
  return { err = { code = "raised", was_sent = was_sent }, is_final = is_final, raised = raised }
end

-- Like xpcall's: what was raised, and where.
local function remember(value)
  return { value = value, traceback = debug.traceback(errors.text(value), 2) }
end

local function attempt(self, records, info)
  local own = info_of_attempt(info)
  local ok, results, second = xpcall(self.fn, remember, copy(records), own)
  self.calls.requests = self.calls.requests + (tonumber(own.requests) or 1)
  info.requests = (info.requests or 0) + (tonumber(own.requests) or 1)
  info.limits = own.limits
  if type(own.usage) == "table" then
    info.usage = calls.add_usage(info.usage, own.usage)
    self.calls.usage = calls.add_usage(self.calls.usage, own.usage)
  end
  if ok then return { results, second } end
  return nil, failure_of(self, type(results) == "table" and results or { value = results })
end

local function call(self, records, info)
  tasks.require_suspend "retrying"
  local until_s = info.deadline
  if info.timeout_at and not (until_s and until_s <= info.timeout_at) then until_s = info.timeout_at end
  local value, failed, why = self.calls:run(function() return attempt(self, records, info) end,
    until_s and until_s * 1e6)
  if value then return unpack(value, 1, 2) end
  if not failed then error(errors.new("server_away", why), 0) end
  local raised = failed.raised
  local err = errors.new("inference_failed", errors.message_of(raised.value)
    .. (why and " (not tried again: " .. why .. ")" or ""), raised.value, raised.traceback)
  if errors.is_err(raised.value) then err.code, err.status = raised.value.code, raised.value.status end
  error(err, 0)
end

local ASKED = { "group", "problem", "set_aside" } -- methods
local HANDED_ON = { "defaults", "max_records", "name", "on_stop" }

--- @param given table  the function first, and parameters: those of backend/retry and its circuit, retry_if
-- @return table  for inference_fn
return function(given)
  local own, fn = {}, nil
  if type(given) == "table" then
    for name, value in pairs(given) do
      if name == 1 then fn = value else own[name] = value end
    end
  end
  if not errors.is_callable(fn) then
    errors.misuse(WHO .. ": its first value must be the inference function, as in retrying{fn, attempts = 5}")
  end
  if own.pause_after == nil then own.pause_after = 0 end -- what raises may be wrong, not away
  local p = parameters.read(WHO, DECLARED, own)
  local policy = {}
  for _, option in ipairs(retry.options) do policy[option.name] = p[option.name] end
  policy.safe_to_repeat = true
  local self = { fn = fn, retry_if = p.retry_if, calls = calls.new(retry.new(WHO, policy), p) }
  local backend = { status = function() return self.calls:status() end }
  function backend.was_there()
    self.calls:was_there()
    if type(fn) == "table" and fn.was_there then fn:was_there() end
  end
  if type(fn) == "table" then
    for _, name in ipairs(HANDED_ON) do backend[name] = fn[name] end
    if fn.on_stop then backend.on_stop = function() return fn:on_stop() end end
    for _, name in ipairs(ASKED) do
      if fn[name] then backend[name] = function(_, ...) return fn[name](fn, ...) end end
    end
  end
  return setmetatable(backend, { __call = function(_, records, info) return call(self, records, info) end })
end
