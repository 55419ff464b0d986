--- What every backend that asks a server may be given, and what is read of it at once.

local circuit = require "tokenbatcher.backend.retry.circuit"
local errors = require "tokenbatcher.base.errors"
local http = require "tokenbatcher.backend.http"
local json = require "tokenbatcher.base.json"
local parameters = require "tokenbatcher.base.parameters"
local retry = require "tokenbatcher.backend.retry"

local M = {}

local DAY_S, MOST_TOKENS = 86400, 1e15
M.MOST_TOKENS = MOST_TOKENS

--- Where the server is, and how it is spoken to.
M.connection = {
  { name = "base_url", kind = "string", required = true }, -- such as http://127.0.0.1:8081/v1
  { name = "api_key_env", kind = "string" }, -- the environment variable that holds the key
  { name = "headers", kind = "table", default = {} },
  { name = "timeout_s", kind = "number", default = 60, above = 0, max = DAY_S, unit = "seconds" }, -- of one request
  { name = "connect_timeout_s", kind = "number", default = 10, above = 0, max = DAY_S, unit = "seconds" },
  -- by default a MiB and 256 KiB for each input of the request
  { name = "max_response_bytes", kind = "number", min = 1, max = 2 ^ 40, unit = "bytes" },
  { name = "unix_socket", kind = "string" },
  { name = "tls_verify", kind = "boolean", default = true },
  { name = "ca_file", kind = "string" },
  { name = "retries", kind = "count", default = 5, min = 0, max = 1000 }, -- of one request
}

--- What is in a record, and in a request.
M.records = {
  { name = "field", kind = "string", default = "text" }, -- of a record that is a table: its input
  { name = "fields", kind = "table" }, -- the same, a list of names: the first that the record has
  { name = "send", kind = "table", default = {} }, -- more names of a record's fields that go out with it
  { name = "ignore", kind = "table", default = {} }, -- names of those that do not
  { name = "raw", kind = "boolean", default = false }, -- give the answer's items as they are
  { name = "extra", kind = "table", default = {} }, -- more fields of the request's body
  { name = "max_inputs", kind = "count", default = 2048, min = 1, max = 1e6 }, -- in one request
  { name = "max_tokens_per_request", kind = "number", default = MOST_TOKENS, min = 1, max = MOST_TOKENS },
}

-- What is tried again: `retries` counts, and requests of inference are safe to repeat.
M.retry = {}
for _, p in ipairs(retry.options) do
  if p.name == "safe_to_repeat" then
    M.retry[#M.retry + 1] = { name = p.name, kind = p.kind, default = true }
  elseif p.name ~= "attempts" then
    M.retry[#M.retry + 1] = p
  end
end

--- The parameters of a backend. @param ... lists of them
function M.read(who, given, ...)
  local declared = {}
  for _, list in ipairs { M.connection, M.retry, circuit.options, ... } do
    for _, p in ipairs(list) do declared[#declared + 1] = p end
  end
  return parameters.read(who, declared, given)
end

--- The policy for trying again. @param p table  of read()
function M.policy(who, p)
  local own = { attempts = p.retries + 1 }
  for _, option in ipairs(M.retry) do own[option.name] = p[option.name] end
  return retry.new(who, own)
end

local function read_key(who, name)
  if not name then return nil end
  local key = os.getenv(name)
  if not key or key == "" then errors.misuse(("%s: the environment variable %s is not set"):format(who, name)) end
  if key:find "[%c ]" then
    errors.misuse(("%s: the key in the environment variable %s holds a space or a control character"):format(who, name))
  end
  return key
end

--- Headers of a request, and the key in them, or nil. Raises.
function M.headers(who, p)
  local key = read_key(who, p.api_key_env)
  local headers = { ["Content-Type"] = "application/json", Authorization = key and "Bearer " .. key }
  for name, value in pairs(p.headers) do
    local known = type(name) == "string" and name:lower()
    if known == "authorization" and key then
      errors.misuse(who .. ": headers holds Authorization, which api_key_env sets")
    end
    if known == "content-type" then headers["Content-Type"] = nil end
    headers[name] = value
  end
  http.check_headers(who, headers)
  return headers, key
end

--- A path behind base_url; a query, such as Azure's api-version, stays behind it. Raises.
function M.url(who, base_url, path)
  http.check_url(who, base_url)
  local base, query = base_url:match "^([^?#]*)(%??[^#]*)"
  return base:gsub("/+$", "") .. "/" .. path:gsub("^/+", "") .. query
end

--- Fields as JSON by name. @param what string  "extra", for messages  @param refused table  name -> true
function M.encoded(who, what, fields, refused)
  local out = {}
  for name, value in pairs(fields) do
    if type(name) ~= "string" or refused[name] then
      errors.misuse(("%s: %s cannot hold the field %s"):format(who, what, errors.show(name)))
    end
    local text, problem = json.encode(value)
    if not text then errors.misuse(("%s: %s's field '%s' has no JSON form: %s"):format(who, what, name, problem)) end
    out[name] = text
  end
  return out
end

return M
