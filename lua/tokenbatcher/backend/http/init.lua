--- HTTP from any coroutine, suspending only it.
--
--     local response, err = http.post("http://127.0.0.1:8081/v1/embeddings", {
--       body = text, headers = { ["Content-Type"] = "application/json" }, timeout_s = 5,
--     })
--     if response then print(response.status, response.headers["content-type"], #response.body) end
--
-- A response is returned whatever its status, unless fail_on_status is set. Failure is
-- nil, err with err.code: http_timeout (timeout_s passed), http_connect (no connection: the
-- name, a refusal, TLS, connect_timeout_s), http_too_large, http_broken (the connection ended
-- half-way, or what came is not HTTP), http_full (4,096 requests are in flight), and with
-- fail_on_status http_status. err.was_sent tells whether any of the request went out,
-- err.status the status where one came, err.response the response behind http_status.
--
-- With retry = {...} (backend/retry: attempts, statuses, backoff_s, ...) it is tried again; then timeout_s
-- is that of each attempt, and response.attempts or err.attempts tells how many there were.
--
-- Raised: wrong arguments, a call outside of a coroutine of ours or under the virtual clock,
-- and `cancelled` in an inference call that has timed out or whose records are all settled.

local clock = require "tokenbatcher.runtime.clock"
local errors = require "tokenbatcher.base.errors"
local head = require "tokenbatcher.backend.http.head"
local parameters = require "tokenbatcher.base.parameters"
local tasks = require "tokenbatcher.runtime.tasks"

local M = {}

local YEAR_S = 31536000

--- What a request may be given, beside the URL.
M.options = {
  { name = "body", kind = "string" }, -- http.post only
  { name = "headers", kind = "table" }, -- name -> a string or a number
  { name = "timeout_s", kind = "number", default = 60, above = 0, max = YEAR_S, unit = "seconds" },
  { name = "connect_timeout_s", kind = "number", default = 10, above = 0, max = YEAR_S, unit = "seconds" },
  { name = "max_response_bytes", kind = "number", default = 64 * 2 ^ 20, min = 0, max = 2 ^ 40, unit = "bytes" },
  { name = "unix_socket", kind = "string" }, -- a path to connect to, instead of the URL's host
  { name = "fail_on_status", kind = "boolean", default = false }, -- nil, err unless the status is 2xx
  { name = "tls_verify", kind = "boolean", default = true },
  { name = "ca_file", kind = "string" }, -- PEM, instead of the system's certificates
  { name = "retry", kind = "table" }, -- parameters of backend/retry; a GET is safe to repeat
}
local GET_OPTIONS = { unpack(M.options, 2) }

-- Set by the client itself: a second one would make the request ambiguous.
local OURS = { ["content-length"] = true, ["transfer-encoding"] = true, expect = true }

--- A URL for messages: without credentials and query.
local function shown(url)
  return (url:gsub("^(%w+:/*)[^/]*@", "%1"):gsub("[?#].*", ""))
end
M.shown = shown

-- The same for what is no URL: its credentials may be anywhere before the last "@".
local function shown_bad(text)
  if not text:find("@", 1, true) then return errors.show(shown(text)) end
  return "a text with credentials (not shown)"
end

--- Raise unless it is an http or https URL, as far as can be seen here.
function M.check_url(who, url)
  if type(url) ~= "string" then errors.misuse(("%s: the URL must be a string, got a %s"):format(who, type(url))) end
  if url:find "[%c ]" then
    errors.misuse(("%s: the URL holds a space or a control character: %s"):format(who, shown_bad(url)))
  end
  if not url:lower():find "^https?://" then
    errors.misuse(("%s: the URL must begin with http:// or https://, got %s"):format(who, shown_bad(url)))
  end
end

-- Values stay out of messages: they may be secret.
local function header_line(who, name, value)
  if not head.is_name(name) then
    errors.misuse(("%s: %s is not a header's name"):format(who, errors.show(name)))
  end
  if OURS[name:lower()] then errors.misuse(("%s: the header '%s' is set by the client itself"):format(who, name)) end
  if type(value) == "number" then value = ("%.14g"):format(value) end
  if type(value) ~= "string" then
    errors.misuse(("%s: the header '%s' must be a string or a number, got a %s"):format(who, name, type(value)))
  end
  if not head.is_value(value) then
    errors.misuse(("%s: the header '%s' holds a line break or another control character"):format(who, name))
  end
  return name .. ": " .. (value:find "%S" and value or "")
end

local function header_lines(who, headers)
  local lines, seen = {}, {}
  for name, value in pairs(headers or {}) do
    lines[#lines + 1] = header_line(who, name, value)
    if seen[name:lower()] then errors.misuse(("%s: the header '%s' is given twice"):format(who, name:lower())) end
    seen[name:lower()] = true
  end
  if not seen["user-agent"] then lines[#lines + 1] = "User-Agent: tokenbatcher" end
  table.sort(lines)
  return lines
end

--- Raise unless they are headers that a request may have.
function M.check_headers(who, headers)
  header_lines(who, headers)
end

local function check_place(who)
  if clock.pump and clock.pump.is_virtual then
    errors.misuse(who .. " needs the real clock: nothing can be sent under the virtual one")
  end
  tasks.require_suspend(who)
end

local function is_good(response) return response.status >= 200 and response.status < 300 end

-- The same, again while there is use in it. Failures that are not tried again are answers like any other.
local function send_again(who, method, retry, send_once)
  local calls = require "tokenbatcher.backend.retry.calls"
  local given = { safe_to_repeat = method == "GET" }
  for name, value in pairs(retry) do given[name] = value end
  local attempts, response, err = 0, nil, nil
  calls.new(require("tokenbatcher.backend.retry").new(who .. ": retry", given)):run(function()
    attempts = attempts + 1
    response, err = send_once()
    if response and is_good(response) then return response end
    return nil, { response = response, err = err }
  end)
  local outcome = response or err
  outcome.attempts = attempts
  return response, err
end

local function perform(who, method, url, opts)
  M.check_url(who, url)
  local p = parameters.read(who, method == "GET" and GET_OPTIONS or M.options, opts)
  check_place(who)
  local what = method .. " " .. shown(url) .. ": "
  local transport = clock.pump.attach and require "tokenbatcher.backend.http.curl"
    or require "tokenbatcher.backend.http.nginx"
  local given = { who = who, method = method, url = url, shown_bad = shown_bad, what = what, p = p,
    lines = header_lines(who, p.headers) }
  local send_once = transport.sender(given)
  local response, err
  if p.retry then response, err = send_again(who, method, p.retry, send_once) else response, err = send_once() end
  if not response or not p.fail_on_status or is_good(response) then return response, err end
  err = errors.new("http_status", what .. "status " .. response.status)
  err.was_sent, err.status, err.response, err.attempts = true, response.status, response, response.attempts
  return nil, err
end

--- GET. @param url string  http:// or https://  @param opts table|nil  see M.options
-- @return response {status, headers, body}, or nil and an err. Redirects are not followed.
-- response.retry_after_s is there where a Retry-After header asks for more than 0 seconds.
function M.get(url, opts)
  return perform("http.get", "GET", url, opts)
end

--- POST. The same, with a body ("" by default), sent without a Content-Type unless given.
function M.post(url, opts)
  return perform("http.post", "POST", url, opts)
end

--- Load the library now, to learn early that libcurl is missing, where it is needed. Raises.
function M.load()
  if not rawget(_G, "ngx") then require "tokenbatcher.backend.http.client" end
end

return M
