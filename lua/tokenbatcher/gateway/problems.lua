--- What a client is told when something is wrong: a problem is {status, message, type, code, param,
-- retry_after_s}, and its body the `error` object that OpenAI's clients understand.
--
-- An upstream's words are read here, whatever shape they have: OpenAI's {error = {message, type, code, param}},
-- vLLM's {object = "error", message, ...}, TEI's {error = "...", error_type = "..."} and FastAPI's {detail = ...}.

local errors = require "tokenbatcher.base.errors"
local json = require "tokenbatcher.base.json"
local utf8 = require "tokenbatcher.base.utf8"

local M = {}

local MOST_SAID, MOST_NAMED = 500, 100 -- bytes of an upstream's message, and of its type, code and param

local TYPES = { [401] = "authentication_error", [403] = "permission_error", [429] = "rate_limit_error" }

local function type_of(status)
  return TYPES[status] or (status < 500 and "invalid_request_error" or "server_error")
end

--- @param param string|nil  the field at fault
function M.new(status, code, message, param)
  return { status = status, code = code, message = message, param = param, type = type_of(status) }
end

-- --- what became of a record ------------------------------------------------------------------

local STATUS = { queue_full = 429, batch_too_large = 413, oversize = 400, deadline = 504, inference_timeout = 504,
  stopped = 503, cancelled = 503, not_running = 503 }

-- The batcher's own words name options, which are no business of a client's.
local WORDS = {
  queue_full = "the queue is full: try again later",
  batch_too_large = "the list is larger than the gateway's queue: send it in parts",
  oversize = "an input is larger than the gateway takes",
  deadline = "x-max-wait-ms has passed before the call could begin",
  inference_timeout = "the upstream did not answer in time",
  stopped = "the gateway is shutting down", not_running = "the gateway is shutting down",
  cancelled = "the request was cancelled",
}

--- A problem of an err of the batcher, whose cause may be one.
function M.of_err(err)
  local cause = err.cause
  if type(cause) == "table" and cause.status and cause.message then
    return cause.type and cause or M.new(cause.status, cause.code, cause.message)
  end
  return M.new(STATUS[err.code] or 500, err.code, WORDS[err.code] or "the gateway failed this request")
end

-- --- an upstream's words ----------------------------------------------------------------------

local function short(value, most)
  if type(value) == "number" then return ("%.14g"):format(value) end
  if type(value) ~= "string" or value == "" then return nil end
  value = utf8.clean(value):gsub("%c", " ")
  if #value <= most then return value end
  return value:sub(1, most):gsub("[\192-\255]?[\128-\191]*$", "") .. "..."
end

-- {detail = {{loc = {"body", "input"}, msg, type}, ...}}
local function of_detail(detail)
  local first = type(detail) == "table" and detail[1]
  if type(first) ~= "table" then return { message = detail } end
  local place = {}
  for i, part in ipairs(type(first.loc) == "table" and first.loc or {}) do place[i] = short(part, MOST_NAMED) end
  local where = table.concat(place, ".")
  return { message = type(first.msg) == "string" and (where ~= "" and where .. ": " or "") .. first.msg or nil,
    type = first.type, param = place[#place] }
end

local function said_in(answer)
  if type(answer) ~= "table" then return {} end
  if type(answer.error) == "table" then return answer.error end
  if type(answer.error) == "string" then return { message = answer.error, type = answer.error_type } end
  if answer.detail ~= nil then return of_detail(answer.detail) end
  return answer
end

--- What an upstream said. @param response table  {status, body}
-- @return problem  with the upstream's status and, where it has them, its words
function M.of_answer(response)
  local said = said_in(json.decode(response.body))
  local message = short(said.message, MOST_SAID)
  local out = M.new(response.status, nil, message or "upstream: status " .. response.status)
  out.type = short(said.type, MOST_NAMED) or out.type
  out.code, out.param = short(said.code, MOST_NAMED), short(said.param, MOST_NAMED)
  return out
end

--- The same without a word of the upstream's.
function M.without_words(problem)
  local out = M.new(problem.status, nil, "upstream: status " .. problem.status)
  out.retry_after_s = problem.retry_after_s
  return out
end

local PIECE = 12 -- bytes of a secret that are no chance

--- Does the problem hold a secret, or a good piece of one? @param secrets string[]
function M.tells(problem, secrets)
  local words = table.concat({ problem.message, problem.type, problem.code or "", problem.param or "" }, "\n")
  for _, secret in ipairs(secrets) do
    for at = 1, math.max(1, #secret - PIECE + 1) do
      if words:find(secret:sub(at, at + PIECE - 1), 1, true) then return true end
    end
  end
  return false
end

-- --- as an answer -----------------------------------------------------------------------------

local function quoted(value) return value and json.quote(value) or "null" end

--- The body: one line of JSON.
function M.body(problem)
  return ('{"error":{"message":%s,"type":%s,"param":%s,"code":%s}}\n'):format(quoted(problem.message),
    quoted(problem.type), quoted(problem.param), quoted(problem.code))
end

local OF_HOST = {
  [400] = { "bad_request", "the request is no HTTP that is understood here" },
  [403] = { "forbidden", "not from where you are" },
  [404] = { "not_found", "there is nothing here" },
  [405] = { "method_not_allowed", "this method is not for this path" },
  [408] = { "timeout", "the request did not come in time" },
  [413] = { "body_too_large", "the body is too large" },
  [414] = { "uri_too_long", "the path is too long" },
  [431] = { "headers_too_large", "the headers are too large" },
  [429] = { "too_many_connections", "too many requests at once from your address" },
  [501] = { "not_implemented", "the request's Transfer-Encoding is not understood here" },
  [505] = { "http_version", "HTTP/1.1 is spoken here" },
  [502] = { "upstream_unreachable", "upstream: it cannot be reached, or broke off" },
  [503] = { "unavailable", "the gateway cannot serve this now" },
  [504] = { "upstream_timeout", "upstream: it did not answer in time" },
}

--- What a host refuses by itself.
function M.of_host(status)
  local said = OF_HOST[status] or { nil, "the gateway cannot serve this" }
  return M.new(status, said[1], said[2])
end

--- What raised in the gateway itself, for its log: never for a client.
function M.of_bug(raised)
  return M.new(500, "internal_error", "the gateway failed this request"), errors.text(raised)
end

return M
