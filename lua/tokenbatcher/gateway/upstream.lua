--- One upstream of a gateway: where it is, how it is asked (presets.lua), what is tried again, when it is left alone,
-- and how many inputs it takes. Nothing here knows what is asked: bodies go out and come back as they are.
--
--     local up = upstream.new("gateway: upstream 1", { url = "http://tei:8080", preset = "tei" })
--     local response, err = up:call { path = "/v1/embeddings", body = text, inputs = 32 }
--
-- A complete answer is a response, whatever its status. Otherwise err.code is upstream_unreachable, upstream_timeout,
-- upstream_broken, upstream_too_large or upstream_open (the circuit), err.status what to tell a client. Messages say
-- what the upstream did ("no answer in time"), and hold neither the URL nor a key.

local address = require "tokenbatcher.backend.cosocket.address"
local asked = require "tokenbatcher.backend.retry.asked"
local calls = require "tokenbatcher.backend.retry.calls"
local clock = require "tokenbatcher.runtime.clock"
local cosocket = require "tokenbatcher.backend.cosocket"
local errors = require "tokenbatcher.base.errors"
local limits = require "tokenbatcher.gateway.limits"
local options = require "tokenbatcher.gateway.upstream_options"
local presets = require "tokenbatcher.gateway.presets"
local quarantine = require "tokenbatcher.gateway.quarantine"
local retry = require "tokenbatcher.backend.retry"

local M = {}
local Upstream = {}
Upstream.__index = Upstream

--- @param who string  for messages: "gateway: upstream 1"  @param given table  see upstream_options.lua
-- @return Upstream, with `shown` (scheme, host and port), `preset` (a name), `secrets` (a list: what no client may
-- see), `has_key`. Raises, naming the culprit, and never a secret.
function M.new(who, given)
  local p = options.read(who, given)
  local place = p.place
  local self = { p = p, place = place, shown = place.shown, preset = p.preset, secrets = p.secrets,
    has_key = p.key ~= nil, calls = calls.new(p.policy, p.circuit), quarantine = quarantine.new(p.circuit),
    known = limits.new { name = p.name or place.shown, most = p.max_inputs, shm = p.shm },
    counts = { ["2xx"] = 0, ["3xx"] = 0, ["4xx"] = 0, ["5xx"] = 0, error = 0 }, seconds = 0 }
  return setmetatable(self, Upstream)
end

-- --- requests ---------------------------------------------------------------------------------

-- Those that are about the connection, or that the client sets itself.
local OURS = { host = true, connection = true, ["content-length"] = true, ["transfer-encoding"] = true, expect = true,
  te = true, trailer = true, upgrade = true, ["keep-alive"] = true, ["proxy-connection"] = true,
  ["accept-encoding"] = true }

-- Lines for the headers; a value that would be two lines is none.
local function header_lines(self, request)
  local lines, given = { self.p.header_text }, request.headers or {}
  for name, value in pairs(given) do
    name = name:lower()
    local is_sent = not OURS[name] and (request.credential or name ~= self.p.auth_name)
    if is_sent and not value:find "[%c]" then lines[#lines + 1] = name .. ": " .. value .. "\r\n" end
  end
  if not request.credential and self.p.key then lines[#lines + 1] = self.p.auth_name .. ": " .. self.p.key .. "\r\n" end
  if request.body and not given["content-type"] then lines[#lines + 1] = "content-type: application/json\r\n" end
  return table.concat(lines)
end

local CODES = { http_connect = "upstream_unreachable", http_timeout = "upstream_timeout",
  http_broken = "upstream_broken", http_too_large = "upstream_too_large" }
local STATUSES = { http_timeout = 504 }

local function count(self, what, began_us)
  self.counts[what] = self.counts[what] + 1
  self.seconds = self.seconds + (clock.now_us() - began_us) / 1e6
end

-- One attempt. @return response, or nil and an err
local function ask(self, request, headers)
  local p = self.p
  local until_us = cosocket.until_us(p.timeout_s)
  if request.deadline then until_us = math.min(until_us, request.deadline * 1e6) end
  local began_us = clock.now_us()
  local response, code, message, was_sent, is_cut = cosocket.request(self.place, {
    method = request.method or "POST", target = presets.target(self.preset, self.place, request.path),
    headers = headers, body = request.body, until_us = until_us, connect_timeout_s = p.connect_timeout_s,
    max_response_bytes = request.max_response_bytes or p.max_response_bytes, tls_verify = p.tls_verify,
    pool = request.credential, pool_size = p.pool_size, idle_s = p.idle_s })
  count(self, response and ("%dxx"):format(math.floor(response.status / 100)) or "error", began_us)
  if response then return response end
  local err = errors.new(CODES[code], message)
  err.status, err.was_sent, err.http, err.is_cut = STATUSES[code] or 502, was_sent, code, is_cut
  return nil, err
end

-- An answer for the retry room: without what it says of when to come again, where that is not heeded.
local function heeded(self, response)
  if self.p.heeds_retry_after then return response end
  local headers = {}
  for name, value in pairs(response.headers) do
    if not name:find "^retry%-after" and not name:find "^x%-ratelimit" then headers[name] = value end
  end
  return { status = response.status, headers = headers, body = response.body }
end

-- A failure as the retry room takes it: an answer that is none of success, or an err with the codes of tb.http.
local function attempt(self, request, headers)
  local response, err = ask(self, request, headers)
  if response and response.status < 300 then return response end
  if response then
    -- Of many clients' credentials, one that has used up what it may closes the upstream for no other.
    local is_callers = request.credential ~= nil and response.status == 429
    return nil, { response = heeded(self, response), answer = response, is_callers = is_callers }
  end
  local failed = { err = { code = err.http, was_sent = err.was_sent }, told = err }
  failed.is_silent = retry.is_silent(failed) and err.was_sent
  -- Its group answers for that: see quarantine.lua. (A probe is the upstream's own.)
  failed.is_callers = failed.is_silent and request.group ~= nil and self.calls:is_closed()
  return nil, failed
end

-- The circuit is open.
local function open_err(self, why)
  local state = self.calls:status()
  local err = errors.new("upstream_open", why)
  err.status = state.why == "status 429" and 429 or 503
  err.retry_after_s = math.max(1, math.ceil(state.next_probe_s or self.p.circuit.probe_s))
  return err
end

-- The group's own circuit is open.
local function quarantine_err(wait_s)
  local err = errors.new("upstream_open",
    "calls of this kind were not answered again and again, and are not sent for a while")
  err.status, err.retry_after_s = 503, math.max(1, math.ceil(wait_s))
  return err
end

-- When no other attempt may begin, on the clock.
local function retry_until_us(request)
  local at = request.deadline
  if request.retry_until and (not at or request.retry_until < at) then at = request.retry_until end
  return at and at * 1e6
end

local function finished(self, request, response)
  response.retry_after_s = asked.wait_s(response)
  if request.inputs then self.known:learn(request, response) end
  return response
end

local function tell_quarantine(self, request, role, response, failed)
  local group, held = request.group, self.quarantine
  if response or failed and failed.answer then return held:answered(group) end
  if not (failed and failed.is_callers) then return held:give_back(group, role) end
  held:failed(group, role, { is_cut = failed.told.is_cut, inputs = request.inputs or 1, body = request.body or "",
    why = failed.told.code })
  failed.told.may_be_input = failed.told.is_cut
end

--- Ask.
-- @param request table  path (OpenAI's, such as /v1/embeddings, or TEI's, such as /embed), method ("POST"), headers
-- (lower-case name -> value), body, credential (who asks, where `headers` hold his own key: connections are not shared
-- with others, and the configured key stays at home), deadline (seconds of the clock: no attempt lasts longer),
-- retry_until (the same: no other attempt begins later), max_response_bytes, attempts (1: this one alone, and the
-- circuit is not asked); inputs (how many are in the body) and batch (the same for all parts of one): see limits.lua;
-- group (a string: see quarantine.lua)
-- @return response {status, headers, body, retry_after_s}; or nil, err {code, message, status, retry_after_s,
-- may_be_input (the upstream ended the connection: it may be for one of the inputs)}
function Upstream:call(request)
  local headers = header_lines(self, request)
  if request.attempts == 1 then
    local response, err = ask(self, request, headers)
    return response and finished(self, request, response), err
  end
  local group = request.group
  local role, wait_s = "call", nil
  if group then role, wait_s = self.quarantine:enter(group) end
  if not role then return nil, quarantine_err(wait_s) end
  local response, failed, why = self.calls:run(function() return attempt(self, request, headers) end,
    retry_until_us(request))
  if group then tell_quarantine(self, request, role, response, failed) end
  if response then return finished(self, request, response) end
  if not failed then return nil, open_err(self, why) end
  if failed.answer then return finished(self, request, failed.answer) end
  return nil, failed.told
end

--- Is it uncertain whether a call of this group is answered? Then the next one shows it: let it be small.
function Upstream:is_doubtful(group)
  return not self.calls:is_closed() or self.quarantine:is_doubtful(group)
end

-- --- what is known of it ----------------------------------------------------------------------------

--- @return table {max_inputs (in one request), learned (boolean)}
function Upstream:limits()
  return self.known:describe()
end

--- Where a request goes that nginx is to pass on itself. @param path string  with its query
-- @return table {url (for proxy_pass), host (for Host), tls_name, headers (name -> value: the key, if any)}
function Upstream:pass(path)
  local place = self.place
  local target = presets.target(self.preset, place, path)
  local where = place.unix and "unix:" .. place.unix .. ":" or address.addresses(place.host)[1] .. ":" .. place.port
  return { url = place.scheme .. "://" .. where .. target, host = place.authority, tls_name = place.name,
    headers = self.p.key and { [self.p.auth_name] = self.p.key } or {} }
end

local PROBE_S, PROBE_BYTES = 5, 2 ^ 20

--- Is it there? One request, for the log. @return boolean, and a sentence that holds no secret
function Upstream:probe()
  local path = presets.probe_path(self.preset)
  local response, err = self:call { method = "GET", path = path, attempts = 1, max_response_bytes = PROBE_BYTES,
    deadline = clock.now_us() / 1e6 + PROBE_S }
  if not response then return false, ("%s does not answer: %s"):format(self.shown, err.message) end
  local status = response.status
  local advice = (status == 401 or status == 403) and ": is the key right?" or status == 404 and
    ": is the preset right, and does the url end with /v1 where the server's paths begin so?" or ""
  return status < 400, ("%s answers GET %s with status %d%s"):format(self.shown, path, status, advice)
end

--- @return table {state = "closed" | "open" | "probing" | "off", why, opened, retries, max_inputs, requests (by "2xx",
-- "3xx", "4xx", "5xx", "error"), seconds (that requests took, in all)}
function Upstream:status()
  local out = self.calls:status()
  out.requests, out.seconds, out.max_inputs = {}, self.seconds, self.known:describe().max_inputs
  for name, n in pairs(self.counts) do out.requests[name] = n end
  return out
end

return M
