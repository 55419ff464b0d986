--- One call of the upstream's /v1/embeddings for many inputs, and the HTTP to make it: by
-- lua-resty-http where it is installed, else by the plain HTTP/1.1 of this file (no TLS):
-- kept-alive connections, bodies by length, by chunks, or to the end.
-- settings: url, timeout_s (s), api_key (optional)

local cjson = require "cjson.safe"
local tb = require "tokenbatcher"

local M = {}

-- With these an upstream says that an input is at fault; with others, none of them is taken.
local AT_FAULT = { [400] = true, [413] = true, [422] = true }
local MOST_SAID = 500 -- bytes of the upstream's words in an error
local POOL = { idle_ms = 30000, size = 64 }

local function read_chunks(socket)
  local parts = {}
  while true do
    local line, err = socket:receive "*l"
    local size = tonumber((line or ""):match "^%x+" or "", 16)
    if not size then return nil, err or "a chunk without a size" end
    if size == 0 then break end
    parts[#parts + 1], err = socket:receive(size)
    if err then return nil, err end
    socket:receive(2)
  end
  repeat local line, err = socket:receive "*l" until line == "" or err
  return table.concat(parts)
end

local function read_answer(socket)
  local line, err = socket:receive "*l"
  local status = line and tonumber(line:match "^HTTP/1%.%d (%d%d%d)")
  if not status then return nil, err or "not an answer of HTTP" end
  local headers = {}
  repeat
    line, err = socket:receive "*l"
    if not line then return nil, err end
    local name, value = line:match "^([^:]+):%s*(.-)%s*$"
    if name then headers[name:lower()] = value:lower() end
  until line == ""
  local is_chunked = headers["transfer-encoding"] == "chunked"
  local length = tonumber((headers["content-length"] or ""):match "^%d+$")
  if status == 204 or status == 304 then length = 0 end
  local body
  if is_chunked then
    body, err = read_chunks(socket)
  else
    body, err = socket:receive(length or "*a")
  end
  if not body then return nil, err end
  return status, body, headers.connection ~= "close" and (length or is_chunked)
end

local function exchange(settings, body, host, port, path)
  local socket = ngx.socket.tcp()
  socket:settimeout(settings.timeout_s * 1000)
  local ok, err
  if port then ok, err = socket:connect(host, port) else ok, err = socket:connect(host) end
  if not ok then return nil, err end
  local is_reused = socket:getreusedtimes() > 0
  local key = settings.api_key and "Authorization: Bearer " .. settings.api_key .. "\r\n" or ""
  ok, err = socket:send { "POST ", path, " HTTP/1.1\r\nHost: ", port and host or "localhost",
    "\r\nContent-Type: application/json\r\n", key,
    "Content-Length: ", #body, "\r\n\r\n", body }
  if not ok then return nil, err, is_reused end
  local status, answer, keeps = read_answer(socket)
  if not status then
    socket:close()
    return nil, answer, is_reused and answer == "closed"
  end
  if keeps then socket:setkeepalive(POOL.idle_ms, POOL.size) else socket:close() end
  return status, answer
end

-- "http://HOST[:PORT]/path", or "http://unix:/path/of/socket:/path"
local function plain_post(settings, body)
  local host, path = settings.url:match "^http://(unix:[^:]+):(/.*)$"
  local port
  if not host then host, port, path = settings.url:match "^http://([^/:]+):?(%d*)(/.*)$" end
  if not host then return nil, "no http:// URL (https needs lua-resty-http): " .. settings.url end
  port = port and (tonumber(port) or 80)
  local status, answer, is_stale = exchange(settings, body, host, port, path)
  for _ = 1, POOL.size do -- kept alive here, closed there meanwhile
    if not is_stale then break end
    status, answer, is_stale = exchange(settings, body, host, port, path)
  end
  return status, answer
end

local function resty_post(http, settings, body)
  local client = http.new()
  client:set_timeout(settings.timeout_s * 1000)
  local answer, err = client:request_uri(settings.url, { method = "POST", body = body,
    keepalive_timeout = POOL.idle_ms, keepalive_pool = POOL.size, headers = {
      ["Content-Type"] = "application/json", Authorization = settings.api_key and "Bearer " .. settings.api_key } })
  if not answer then return nil, err end
  return answer.status, answer.body
end

local has_resty, http = pcall(require, "resty.http")

local function post(settings, body)
  if has_resty then return resty_post(http, settings, body) end
  return plain_post(settings, body)
end

-- Every record of the batch fails with this, none is tried again.
local function all_failed(n, status, message)
  local results = {}
  for i = 1, n do results[i] = tb.failure { status = status, message = "upstream: " .. message } end
  return results
end

-- The vectors in the order of the inputs; nil if they are not n of them.
local function vectors_of(answer, n)
  if type(answer) ~= "table" or type(answer.data) ~= "table" or #answer.data ~= n then return nil end
  local vectors = {}
  for _, item in ipairs(answer.data) do
    if type(item) ~= "table" or type(item.index) ~= "number" then return nil end
    vectors[item.index + 1] = item.embedding
  end
  for i = 1, n do
    if type(vectors[i]) ~= "table" and type(vectors[i]) ~= "string" then return nil end
  end
  return vectors
end

--- @param fields table  model, dimensions, encoding_format
-- @return list  for each text {vector, tokens}: its share of what the upstream counted; or
-- failures. Raises {status, message} when an input is at fault: bisecting finds out whose.
function M.embed(settings, fields, texts, info)
  local n = #texts
  local status, body = post(settings, cjson.encode { model = fields.model, dimensions = fields.dimensions,
    encoding_format = fields.encoding_format, input = texts })
  if not status then return all_failed(n, 502, body) end
  local answer = cjson.decode(body)
  local said = type(answer) == "table" and type(answer.error) == "table" and answer.error.message
  if type(said) ~= "string" or n > 1 then said = "status " .. status end -- of several inputs it may quote another's
  if #said > MOST_SAID then said = said:sub(1, MOST_SAID) .. "..." end
  if AT_FAULT[status] then error { status = status, message = said } end
  if status ~= 200 then return all_failed(n, status >= 400 and status < 500 and status or 502, said) end
  local vectors = vectors_of(answer, n)
  if not vectors then return all_failed(n, 502, ("not an answer to %d inputs"):format(n)) end
  local tokens = type(answer.usage) == "table" and tonumber(answer.usage.total_tokens)
  if not (tokens and tokens >= 0 and tokens < math.huge) then tokens = info.cost end
  for i = 1, n do vectors[i] = { vectors[i], tokens * info.costs[i] / info.cost } end
  return vectors
end

return M
