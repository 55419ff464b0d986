--- Requests by libcurl, on the libev loop (client.lua, src/http): one of the two ways in which tb.http sends.

local errors = require "tokenbatcher.base.errors"
local head = require "tokenbatcher.backend.http.head"

local M = {}

-- libcurl quotes a proxy of the environment as it is, credentials included.
local function without_credentials(text)
  return (text:gsub("'[^']*@", "'...@"))
end

local function failed(code, message, raw)
  local err = errors.new(code, message)
  err.was_sent = raw ~= nil and raw.was_sent
  if raw and raw.status > 0 then err.status = raw.status end
  return nil, err
end

local function refused(request, refusal, C)
  local who = request.who
  if refusal == C.TB_HTTP_EURL then errors.misuse(("%s: not a URL: %s"):format(who, request.shown_bad(request.url))) end
  if refusal == C.TB_HTTP_EOPTION then
    errors.misuse(who .. ": libcurl does not take an option: is ca_file or unix_socket too long?")
  end
  if refusal == C.TB_HTTP_EFULL then
    return failed("http_full", ("%d requests are in flight already"):format(C.TB_HTTP_CAPACITY))
  end
  if refusal == C.TB_HTTP_EHEADERS then
    return failed("http_too_large", ("%s: the headers of the request are larger than %d KiB"):format(who,
      C.TB_HTTP_HEADERS_BYTES / 1024))
  end
  error(who .. ": out of memory", 0)
end

local CODES = { TB_HTTP_TIMEOUT = "http_timeout", TB_HTTP_CONNECT = "http_connect",
  TB_HTTP_TOO_LARGE = "http_too_large", TB_HTTP_BROKEN = "http_broken", TB_HTTP_NO_MEMORY = "http_broken" }
local code_of -- outcome -> code

local function codes(C)
  local list = {}
  for name, code in pairs(CODES) do list[tonumber(C[name])] = code end
  return list
end

-- "Name: value" lines as libcurl takes them, which has a way of its own to say "empty".
local function header_text(lines)
  local out = {}
  for i, line in ipairs(lines) do out[i] = line:gsub(": *$", ";") end
  return table.concat(out, "\n") .. "\n"
end

-- What the library is to do. @return its request, and what its pointers point into
local function request_of(given, C)
  local p = given.p
  local request, lines = require("tokenbatcher.core.ffi").new "tb_http_request", header_text(given.lines)
  request.url, request.headers, request.unix_socket, request.ca_file = given.url, lines, p.unix_socket, p.ca_file
  request.timeout_us, request.connect_timeout_ms = math.ceil(p.timeout_s * 1e6), math.ceil(p.connect_timeout_s * 1e3)
  request.max_response_bytes = p.max_response_bytes
  request.flags = (given.method == "POST" and C.TB_HTTP_POST_METHOD or 0) + (p.tls_verify and 0 or C.TB_HTTP_NO_VERIFY)
  if p.body then request.body, request.body_size = p.body, #p.body end
  return request, lines
end

--- @param given table  who (for messages), method, url, shown_bad (shows a URL that is none), what (what
-- messages begin with), p (the options of http/init.lua), lines (headers)
-- @return function  () -> response, or nil and an err; sends it, as often as it is called
function M.sender(given)
  local C = require("tokenbatcher.backend.http.http_ffi").lib
  code_of = code_of or codes(C)
  local request, lines = request_of(given, C)
  return function()
    given.kept = lines -- C reads them: they stay referenced with `given`, as do url, body and paths
    local raw, refusal = require("tokenbatcher.backend.http.client").current():perform(request)
    if not raw then return refused(given, refusal, C) end
    if raw.outcome ~= C.TB_HTTP_DONE then
      return failed(code_of[raw.outcome], given.what .. without_credentials(raw.error), raw)
    end
    local response = { status = raw.status, headers = head.parse(raw.headers), body = raw.body }
    if raw.retry_after_s > 0 then response.retry_after_s = raw.retry_after_s end
    return response
  end
end

return M
