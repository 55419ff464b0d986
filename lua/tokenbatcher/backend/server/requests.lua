--- One request to a server and its answer: tried again while there is use in it, counted, and when it fails an
-- err that shows nobody what is not theirs.

local asked = require "tokenbatcher.backend.retry.asked"
local answers = require "tokenbatcher.backend.server.answer"
local calls = require "tokenbatcher.backend.retry.calls"
local errors = require "tokenbatcher.base.errors"
local http = require "tokenbatcher.backend.http"
local options = require "tokenbatcher.backend.server.options"
local words = require "tokenbatcher.backend.server.words"

local M = {}
local Requests = {}
Requests.__index = Requests

local RESPONSE_BYTES, RESPONSE_BYTES_EACH = 2 ^ 20, 256 * 2 ^ 10

--- @param p table  of options.read
function M.new(who, p)
  local headers, key = options.headers(who, p)
  http.check_url(who, p.base_url)
  http.load()
  local has_context = false
  for name in pairs(headers) do has_context = has_context or name:lower() == "traceparent" end
  return setmetatable({ p = p, headers = headers, has_context = has_context,
    words = words.new(p.headers, p.base_url, key),
    calls = calls.new(options.policy(who, p), p) }, Requests)
end

-- --- errors -----------------------------------------------------------------------------------

--- An err of a request to this URL, without secrets.
function Requests:err(url, code, message)
  return errors.new(code, ("POST %s: %s"):format(http.shown(url), self.words:redact(message)))
end

local SHORT = 100 -- bytes of a server's code or type

-- A code is a word, and nobody's: neither a secret nor a part of one of several texts.
local function code_of(self, value, texts)
  if type(value) ~= "string" or #value > SHORT or not value:find "^[%w_.:/+=-]+$" then return nil end
  return self.words:excerpt(value, texts) == value and value or nil
end

-- The sentence of an error body {"error": {"message": ...}}, or its beginning; its code and type.
local function complaint(self, body, texts)
  local answer = answers.decode(body)
  local problem = type(answer) == "table" and (answer.error or answer.message or answer.detail)
  local code, kind
  if type(problem) == "table" then
    code, kind = code_of(self, problem.code, texts), code_of(self, problem.type, texts)
    problem = problem.message
  end
  return self.words:excerpt(type(problem) == "string" and problem or body, texts), code, kind
end

-- Where a redirect leads to, without its query.
local function redirect(self, response)
  local to = response.headers.location
  if response.status < 300 or response.status > 399 or not to then return nil end
  return ("a redirect to %s, and redirects are not followed: is that the base_url?")
    :format(self.words:redact(answers.excerpt(http.shown(to))))
end

local function status_err(self, url, response, texts, why)
  local said, code, kind = complaint(self, response.body, texts)
  local text = redirect(self, response) or said
  local err = self:err(url, "http_status", ("status %d%s%s"):format(response.status,
    text ~= "" and ": " .. text or "", why and " (not tried again: " .. why .. ")" or ""))
  err.status, err.said, err.said_code, err.said_type = response.status, said, code, kind
  err.request_id = code_of(self, response.headers["x-request-id"], texts)
  return err
end

local function failure_err(self, url, failed, texts, why)
  if not failed then return self:err(url, "server_away", why) end
  if failed.response then return status_err(self, url, failed.response, texts, why) end
  local err = failed.err
  local own = self:err(url, err.code, err.message:gsub("^POST %S+: ", "")
    .. (why and " (not tried again: " .. why .. ")" or ""))
  own.was_sent, own.status = err.was_sent, err.status
  return own
end

-- --- requests -----------------------------------------------------------------------------------

-- With the batch's own trace context, but where the user has set another.
local function headers_of(self, context)
  if not context or self.has_context then return self.headers end
  local headers = { traceparent = context }
  for name, value in pairs(self.headers) do headers[name] = value end
  return headers
end

local function request_of(self, body, n, context)
  local p = self.p
  return { body = body, headers = headers_of(self, context), timeout_s = p.timeout_s,
    connect_timeout_s = p.connect_timeout_s,
    max_response_bytes = p.max_response_bytes or RESPONSE_BYTES + n * RESPONSE_BYTES_EACH,
    unix_socket = p.unix_socket, tls_verify = p.tls_verify, ca_file = p.ca_file }
end

-- When nobody waits any more, on the clock: microseconds, or nil.
local function until_us(info)
  local limit = info.deadline
  if info.timeout_at and (not limit or info.timeout_at < limit) then limit = info.timeout_at end
  return limit and limit * 1e6
end

--- POST a body; what is counted goes into info.
-- @param texts table  what the request holds of records  @return response of status 2xx, or nil, err
function Requests:post(url, body, texts, info)
  local request = request_of(self, body, #texts, info.traceparent)
  local response, failed, why = self.calls:run(function()
    local answer, err = http.post(url, request)
    if answer or err.was_sent then
      info.requests, self.calls.requests = info.requests + 1, self.calls.requests + 1
    end
    if not answer then return nil, { err = err } end
    info.limits = asked.limits(answer.headers) or info.limits
    if answer.status >= 200 and answer.status < 300 then return answer end
    return nil, { response = answer }
  end, until_us(info))
  if response then return response end
  return nil, failure_err(self, url, failed, texts, why)
end

--- Add up what the server has counted.
function Requests:add_usage(info, usage)
  local good = {}
  for name, value in pairs(usage or {}) do
    if type(value) == "number" and value >= 0 and value <= options.MOST_TOKENS then good[name] = value end
  end
  info.usage = calls.add_usage(info.usage, good)
  self.calls.usage = calls.add_usage(self.calls.usage, good)
end

return M
