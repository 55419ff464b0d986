--- HTTP inside an nginx worker (OpenResty), by its cosockets: what tb.http is there, and what a gateway asks upstreams
-- with. It needs nothing that nginx has not: no lua-resty-http.
--
-- Connections are kept alive in pools of nginx's, one for each place, way of TLS and `pool` of the caller, who may keep
-- apart what must not share one. A connection that was kept and that the server has closed meanwhile is no failure: the
-- request goes out on another.
--
-- TLS: nginx's certificates (lua_ssl_trusted_certificate) are those of the server block in which the code runs; a
-- cosocket cannot be given others.

local address = require "tokenbatcher.backend.cosocket.address"
local answer = require "tokenbatcher.backend.cosocket.answer"
local clock = require "tokenbatcher.runtime.clock"
require "tokenbatcher.runtime.loop" -- gives the clock its pump

local ngx = rawget(_G, "ngx")

local M = {}

local IDLE_S, POOL_SIZE = 30, 64
-- nginx takes a kept connection that the server has closed out of its pool as soon as it hears of it, so hardly a
-- second one is met; and what ends each of them may be the request.
local TRIES = 3

-- --- connecting --------------------------------------------------------------------------------

local function pool_name(place, given)
  local tls = not place.is_tls and "plain" or given.tls_verify == false and "unverified" or "verified"
  local where = place.unix or place.host .. ":" .. place.port
  return ("tokenbatcher %s %s %s %s"):format(tls, place.name, where, given.pool or "")
end

-- What nginx says, as a sentence; it may hold the name, which the caller has given.
local function connect_message(place, err)
  if err:find "no resolver defined" then
    return ("nginx has no `resolver` to ask for the name %s, which is not in /etc/hosts"):format(place.host)
  end
  if err == "timeout" then return "no connection in time" end
  return "no connection (" .. err .. ")"
end

local function connect_to(socket, place, host, options)
  if place.unix then return socket:connect("unix:" .. place.unix, options) end
  return socket:connect(host, place.port, options)
end

local function shake_hands(socket, place, given)
  local verify = given.tls_verify ~= false
  local ok, err = socket:sslhandshake(false, place.name, verify)
  -- Where the handshake needed no waiting, ngx_lua 0.10.23 answers true to a failure: it has closed the
  -- connection, so that nothing goes out on it, and forgotten why.
  local is_open = ok and socket:getreusedtimes()
  if is_open then return true end
  err = err or "the server's certificate was refused, or the handshake failed"
  local is_untrusted = err:find "issuer" or err:find "self.signed"
  local advice = is_untrusted and ": is lua_ssl_trusted_certificate set?" or ""
  return nil, ("no TLS (%s%s)"):format(err, advice)
end

-- One after the other of a name's addresses. @return socket, is it one that was kept; or nil, code, message
local function connect(place, given, until_us)
  local options = { pool = pool_name(place, given), pool_size = given.pool_size or POOL_SIZE }
  local last = "no address"
  for _, host in ipairs(place.unix and { "" } or address.addresses(place.host)) do
    local left_ms = answer.left_ms(until_us)
    if not left_ms then return nil, "http_timeout", "no connection in time" end
    local socket = ngx.socket.tcp()
    socket:settimeouts(math.min(math.ceil((given.connect_timeout_s or 10) * 1000), left_ms), left_ms, left_ms)
    local ok, err = connect_to(socket, place, host, options)
    local is_kept = ok and socket:getreusedtimes() > 0
    if ok and place.is_tls and not is_kept then
      ok, err = shake_hands(socket, place, given)
      if not ok then socket:close() end
      last = err
    elseif not ok then
      last = connect_message(place, err)
    end
    if ok then return socket, is_kept end
  end
  return nil, "http_connect", last
end

-- --- one request --------------------------------------------------------------------------------

local function send(socket, place, given)
  local body = given.body
  return socket:send { given.method, " ", given.target, " HTTP/1.1\r\nHost: ", place.authority, "\r\n", given.headers,
    (body or given.method ~= "GET" and given.method ~= "HEAD") and "Content-Length: " .. #(body or "") .. "\r\n\r\n"
      or "\r\n", body or "" }
end

-- @return response; or nil, code, message, was it sent, may it go out again on another connection, has the server
-- ended this one
local function exchange(place, given, until_us)
  local socket, is_kept, message = connect(place, given, until_us)
  if not socket then return nil, is_kept, message, false, false end
  local sent, err = send(socket, place, given)
  if not sent and err == "timeout" then
    socket:close()
    return nil, "http_timeout", "the request was not taken in time", true, false
  end
  local reader = answer.reader(socket, until_us) -- who refuses a request may answer before he has all of it
  local response, goes_on, why = reader:read(given.method, given.max_response_bytes)
  if response and goes_on and sent then
    socket:setkeepalive((given.idle_s or IDLE_S) * 1000)
  else
    socket:close()
  end
  if response then return response end
  return nil, goes_on, why, true, is_kept and reader.is_closed and not reader.has_begun, reader.is_closed
end

--- Send a request and read the answer, suspending the light thread.
-- @param place table  of address.parse()
-- @param given table  method, target (path and query), headers (lines, each with its \r\n, without Host and
-- Content-Length), body (string or nil), until_us (on the clock: when it ends at the latest), connect_timeout_s (10),
-- max_response_bytes; pool (string: not shared with other pools), pool_size (64), idle_s (30), tls_verify (true)
-- @return response {status, headers (by lower-case name), body}; or nil, a code (http_connect, http_timeout,
-- http_broken, http_too_large), a sentence, whether any of the request went out, and whether the server has ended the
-- connection then
function M.request(place, given)
  local tries = TRIES
  local response, code, message, was_sent, may_again, is_cut
  repeat
    response, code, message, was_sent, may_again, is_cut = exchange(place, given, given.until_us)
    tries = tries - 1
  until response or not may_again or tries == 0
  return response, code, message, was_sent, is_cut
end

--- When something that lasts so long is over, on the clock.
function M.until_us(timeout_s)
  return clock.now_us() + timeout_s * 1e6
end

return M
