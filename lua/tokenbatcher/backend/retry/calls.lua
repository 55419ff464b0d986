--- A call with its attempts: the policy decides (init.lua), the circuit holds back, this waits.
--
-- What is counted of a backend's calls is in a Calls: {requests, retries, unsent, usage}, and its circuit. Retries are
-- requests; of an attempt that came to no server nothing was sent.

local circuit = require "tokenbatcher.backend.retry.circuit"
local clock = require "tokenbatcher.runtime.clock"
local retry = require "tokenbatcher.backend.retry"
local tasks = require "tokenbatcher.runtime.tasks"

local M = {}
local Calls = {}
Calls.__index = Calls

--- @param policy table  of retry.new  @param p table|nil  the circuit's parameters; nil: no circuit
function M.new(policy, p)
  return setmetatable({ policy = policy, circuit = p and circuit.new(p) or nil, requests = 0, retries = 0,
    unsent = 0 }, Calls)
end

-- One attempt. What it raises (cancelled, say) goes on, and the circuit's probe is another's.
local function attempt(self, try, role)
  local ok, value, failed = pcall(try)
  if ok then return value, failed end
  if self.circuit then self.circuit:give_back(role) end
  error(value, 0)
end

-- When nobody waits any more, and what then ends.
local function limit_of(self, until_us)
  local total_s = self.policy.total_s
  local end_us = total_s and clock.now_us() + total_s * 1e6
  if end_us and not (until_us and until_us <= end_us) then return end_us, "the end of total_s" end
  return until_us, "the deadline"
end

-- What the circuit makes of a failure. @param own number  how many failures were the call's own
-- @return boolean  does the call go on?
local function tell_circuit(self, role, failed, own)
  local held = self.circuit
  if not held then return false end
  if not failed.is_callers and self.policy:may_repeat(failed) then
    return held:failed(role, { is_away = retry.is_away(failed), is_final = own >= self.policy.attempts,
      why = retry.in_short(failed), asked_s = retry.asked_s(failed) })
  end
  if failed.response then held:is_there() else held:give_back(role) end
  return false
end

-- Is it the call that is at fault, as far as one can tell? @param since_us number  when it had failed before
local function is_own(self, failed, since_us)
  if retry.is_away(failed) then return false end
  return not (self.circuit and retry.is_silent(failed) and self.circuit:is_silent_since(since_us))
end

-- After a failed attempt: wait. @return true, or nil and why there is no other one
local function wait(self, role, failed, n, until_us, limit)
  if role == "probe" then return nil, "the calls before it failed, too" end
  local left_s = until_us and (until_us - clock.now_us()) / 1e6
  local wait_s, why = self.policy:wait_s(failed, n, left_s, limit)
  if not wait_s then return nil, why end
  tasks.sleep_until(clock.now_us() + wait_s * 1e6)
  return true
end

--- Call try() until it succeeds, or there is no use in it.
-- @param try function  () -> a value, or nil and a failure (see init.lua); may suspend
-- @param until_us number|nil  when nobody waits any more, on the clock
-- @return value; or nil, the last failure (nil: there was no attempt) and why it was the last, or nil
function Calls:run(try, until_us)
  local limit
  until_us, limit = limit_of(self, until_us)
  local held, n, sent, own, last, since_us = self.circuit, 0, 0, 0, nil, nil
  while true do
    local role, refused = "call", nil
    if held then role, refused = held:enter(until_us) end
    if not role then return nil, last, refused or limit .. " came before the server was back" end
    n = n + 1
    if n == 1 then since_us = clock.now_us() end
    local value, failed = attempt(self, try, role)
    if failed and failed.err and not failed.err.was_sent then
      self.unsent = self.unsent + 1
    else
      sent = sent + 1
      if sent > 1 then self.retries = self.retries + 1 end
    end
    if not failed then
      if held then held:succeeded() end
      return value
    end
    last = failed
    if is_own(self, failed, since_us) then own = own + 1 end
    since_us = clock.now_us()
    local goes_on, why = wait(self, role, failed, n, until_us, limit)
    if not goes_on then
      if not tell_circuit(self, role, failed, own) then return nil, failed, why end
      n = 0
    end
  end
end

--- Do calls go out as they come? (Always, where there is no circuit.)
function Calls:is_closed() return not self.circuit or self.circuit.state == "closed" end

--- The server has answered before, in another process: if it is away, it is away for now.
function Calls:was_there()
  if self.circuit then self.circuit:was_there() end
end

--- What it is about, for progress and summaries: a new table.
function Calls:status()
  local out = { requests = self.requests, retries = self.retries, unsent = self.unsent, state = "off", opened = 0,
    waiting = 0 }
  if self.usage then
    out.usage = {}
    for name, value in pairs(self.usage) do out.usage[name] = value end
  end
  return self.circuit and self.circuit:describe(out) or out
end

--- Add up what a server has counted. @return table  `sum`, made where it was nil
function M.add_usage(sum, usage)
  for name, value in pairs(usage) do
    if type(value) == "number" then
      sum = sum or {}
      sum[name] = (sum[name] or 0) + value
    end
  end
  return sum
end

return M
