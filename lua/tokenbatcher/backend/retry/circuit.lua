--- A circuit: when call after call fails, the rest is not sent into the void. It opens after so many
-- failures in a row, each of a whole call with its attempts; then calls wait, and one at a time probes. An
-- answer closes it, and all go on.
--
-- A call that probes in vain has failed, so that whoever counts failures, or waits for the end, sees some. But once the
-- circuit is open a call waits on, until outage_s after it opened, as long as it is not at fault: where a server that
-- was there before is merely away (it takes no connections, or says 429, 502, 503, 504, 529); and until as many of a
-- call's failures are its own as it has attempts. Not its own is an outage, and that the server took the request
-- and was not heard of again (reset, timed out), if nobody else was answered since that call had failed before:
-- so it waits SILENCE_S at most, since the call may be what the server fails of.
-- So an outage costs pause_after - 1 calls, and with pause_after = 1 none.
--
-- It is one of a server, shared by all calls to it. Waiting is bounded by each call's own deadline. Where people wait
-- for an answer (is_hasty) no call waits: it is refused, and told when the next one may probe.

local clock = require "tokenbatcher.runtime.clock"
local Future = require "tokenbatcher.runtime.future"

local M = {}
local Circuit = {}
Circuit.__index = Circuit

local DAY_S = 86400
local SILENCE_S = 600
local LEASE_US = 600 * 1e6 -- a probe that has not come back by then is another's to make

--- What a backend may be given for its circuit.
M.options = {
  { name = "pause_after", kind = "count", default = 3, min = 0, max = 1e6 }, -- failures in a row; 0: no circuit
  { name = "probe_s", kind = "number", default = 1, above = 0, max = DAY_S, unit = "seconds" }, -- doubles
  { name = "max_probe_s", kind = "number", default = 15, above = 0, max = DAY_S, unit = "seconds" },
  { name = "outage_s", kind = "number", default = 3600, min = 0, max = 366 * DAY_S, unit = "seconds" },
}

--- @param p table  pause_after, probe_s, max_probe_s, outage_s, is_hasty (nil: calls wait),
-- max_asked_s (a day: a server that asks for more is asked again by then)
-- @return Circuit, or nil where pause_after is 0
function M.new(p)
  if p.pause_after == 0 then return nil end
  return setmetatable({
    p = p, state = "closed", failures = 0, opened = 0, waiting = 0, has_answered = false,
    changed = Future.new(false, false), -- settled, and another, with each change of the state
  }, Circuit)
end

local function change(self, state)
  local former = self.changed
  self.state, self.changed = state, Future.new(false, false)
  Future.settle(former, true)
end

local function close(self)
  self.failures, self.waiting = 0, 0
  change(self, "closed")
end

-- When the next call may probe.
local function probe_at_us(self)
  return self.state == "probing" and self.probe_us + LEASE_US or self.probe_us
end

local function probe(self, now)
  change(self, "probing")
  self.probe_us = now
  return "probe"
end

local function wait(self, until_us)
  while self.state ~= "closed" do
    local now = clock.now_us()
    if now < self.opened_us then -- another clock, of another run
      close(self)
      break
    end
    if until_us and now >= until_us then return nil end
    local at = probe_at_us(self)
    if now >= at then return probe(self, now) end
    if self.p.is_hasty then return nil, "it has failed again and again, and is not asked for a while" end
    if until_us and until_us < at then at = until_us end
    self.changed:await((at - now + 0.5) / 1e6)
  end
  return "call"
end

--- Before an attempt: suspends while the circuit is open.
-- @param until_us number|nil  when nobody waits any more
-- @return "call", "probe" (the only attempt there is), or nil: its time has come, or a second value says why
function Circuit:enter(until_us)
  if self.state == "closed" then return "call" end
  self.waiting = self.waiting + 1
  local role, why = wait(self, until_us)
  self.waiting = math.max(0, self.waiting - 1)
  return role, why
end

--- An answer came, if only that the call itself is wrong.
function Circuit:is_there()
  self.failures, self.heard_us = 0, clock.now_us()
  if self.state ~= "closed" then close(self) end
end

--- It was there, as one knows from before.
function Circuit:was_there()
  self.has_answered, self.heard_us = true, self.heard_us or clock.now_us()
end

--- An attempt was answered.
function Circuit:succeeded()
  self.has_answered = true
  self:is_there()
end

local function open(self, why, now)
  self.opened, self.opened_us, self.why = self.opened + 1, now, why
  self.delay_s = self.p.probe_s
end

local function put_off(self, now, asked_s)
  self.probe_us = now + math.max(self.delay_s, math.min(asked_s or 0, self.p.max_asked_s or DAY_S)) * 1e6
  self.delay_s = math.min(2 * self.delay_s, self.p.max_probe_s)
  change(self, "open")
end

--- Was nobody answered since then?
function Circuit:is_silent_since(us)
  return self.has_answered and self.heard_us < us
end

-- How long calls that fail so wait for the server, in seconds from when the circuit opened; 0: not at all.
local function patience_s(self, failure)
  if self.p.is_hasty or not self.has_answered then return 0 end
  if failure.is_away then return self.p.outage_s end
  return failure.is_final and 0 or math.min(SILENCE_S, self.p.outage_s)
end

--- The attempts of a call are used up, or it was a probe.
-- @param role string  what enter() said before its last attempt
-- @param failure table  {is_away, is_final (it has failed for good), why, asked_s}
-- @return boolean  is it to go on all the same: wait for the circuit and try anew?
function Circuit:failed(role, failure)
  local now = clock.now_us()
  self.failures = self.failures + 1
  if role == "probe" then
    self.why = failure.why
    put_off(self, now, failure.asked_s)
  elseif self.state == "closed" and self.failures >= self.p.pause_after then
    open(self, failure.why, now)
    put_off(self, now, failure.asked_s)
  end
  return self.state ~= "closed" and now - self.opened_us < 1e6 * patience_s(self, failure)
end

--- An attempt has told nothing of the server: it was called off, say.
function Circuit:give_back(role)
  if role ~= "probe" or self.state ~= "probing" then return end
  self.probe_us = clock.now_us()
  change(self, "open")
end

--- For people: see backend/init. Fields are added to `out`.
function Circuit:describe(out)
  out.state, out.opened, out.waiting = self.state, self.opened, self.waiting
  if self.state == "closed" then return out end
  local now = clock.now_us()
  out.why, out.open_s = self.why, math.max(0, now - self.opened_us) / 1e6
  if self.state == "open" then out.next_probe_s = math.max(0, self.probe_us - now) / 1e6 end
  return out
end

return M
