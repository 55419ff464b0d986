-- A provider for jobs: OpenAI's chat completions and embeddings, with what providers do to a long job, and a ledger of
-- what was paid for.
--
--     luajit tests/http/job_server.lua LEDGER [OPTION=VALUE ...]
--
-- prints "PORT CONTROL_PORT PID" and serves on 127.0.0.1 until it is killed. The options, and what they are if not
-- given, are in `option` below. What befalls a request depends on the seed, on its first input and on how often that
-- was tried, never on the order in which requests come: two runs meet the same trouble.
--
-- An input is known by the first number in its text. It is paid for once it is computed, right before its answer is
-- sent: then its number is a line of the file LEDGER, whatever becomes of the answer. An answer is "re:" and the
-- number, an embedding {number, 0.5}.
--
-- The control port takes part in no outage: GET /ledger tells what was paid, /stats what was seen, /wait/N/NAME the
-- same once the statistic NAME is at least N, /pay settles the bill (see quota_every), /outage begins
-- one, /kill/PID/N kills that process with -9 once N inputs are paid for, before the answer to the last is sent.

local cjson = require "cjson"
local uv = require "luv"

local option = {
  seed = 1,
  delay_ms = 0, -- from a request to its answer
  outage_every = 0, -- an outage each so many paid inputs
  outage_every_s = 0, -- or each so many seconds, from the first request on
  outage_s = 1, -- by turns nothing listens, and what is accepted is reset; what was under way is reset and not paid
  requests = 0, -- what the bucket of requests holds; 0: there is none
  requests_per_s = 0, -- how fast it fills
  tokens = 0, -- the same of tokens, one for four bytes of input begun
  tokens_per_s = 0,
  busy = 0, -- the share of requests that is answered 529, 503 or 500
  reset = 0, -- the share whose connection is reset before anything is paid
  cut = 0, -- the share whose answer is paid for, and reset after any of its bytes
  drip = 0, -- the share whose answer comes in pieces
  drip_ms = 2, -- from piece to piece
  quota_every = 0, -- requests with a number divisible by this one: insufficient_quota, until /pay
}

for i = 2, #arg do
  local name, value = arg[i]:match "^([%w_]+)=(%d+%.?%d*)$"
  assert(option[name or ""], "no such option: " .. arg[i])
  option[name] = tonumber(value)
end

-- --- the ledger ---------------------------------------------------------------------------

local ledger = { paid = 0, distinct = 0, most = 0, times = {} } -- most: how often one input was paid for at most
local stats = { requests = 0, answered = 0, limited = 0, busy = 0, resets = 0, cut = 0, unpaid = 0, dripped = 0,
  outages = 0, quota = 0, connections = 0, flying = 0, most_at_once = 0, paid = 0 }
local is_settled = false

local function count_paid(id)
  local times = (ledger.times[id] or 0) + 1
  ledger.times[id], ledger.paid = times, ledger.paid + 1
  if times == 1 then ledger.distinct = ledger.distinct + 1 end
  ledger.most = math.max(ledger.most, times)
  stats.paid = ledger.paid
end

-- A server that was started anew knows what it was paid for.
local former = io.open(arg[1], "rb")
for line in former and former:lines() or function() end do count_paid(tonumber(line)) end
if former then former:close() end
local file = assert(uv.fs_open(arg[1], "a", 420))

local victim -- {pid, at}

local function pay(ids)
  assert(uv.fs_write(file, table.concat(ids, "\n") .. "\n", -1))
  for _, id in ipairs(ids) do count_paid(id) end
  if victim and ledger.paid >= victim.at then
    uv.kill(victim.pid, "sigkill")
    victim = nil
  end
end

-- --- chance ---------------------------------------------------------------------------------

local MERSENNE = 2147483647
local tries = {}

-- From 0 to below 1, by seed, input, attempt and what for.
local function chance(request, salt)
  local x = (option.seed * 7919 + request.ids[1] * 104729 + request.try * 1299709 + salt * 15485863) % MERSENNE + 1
  for _ = 1, 4 do x = x * 16807 % MERSENNE end
  return x / MERSENNE
end

-- --- limits -----------------------------------------------------------------------------------

local Bucket = {}
Bucket.__index = Bucket

local function new_bucket(name, size, per_s)
  if size == 0 then return nil end
  return setmetatable({ name = name, size = size, per_s = per_s, left = size, at = uv.hrtime() }, Bucket)
end

local buckets = {}
buckets[1] = new_bucket("requests", option.requests, option.requests_per_s)
buckets[#buckets + 1] = new_bucket("tokens", option.tokens, option.tokens_per_s)

function Bucket:fill()
  local now = uv.hrtime()
  self.left = math.min(self.size, self.left + (now - self.at) / 1e9 * self.per_s)
  self.at = now
end

function Bucket:headers(lines)
  lines[#lines + 1] = ("x-ratelimit-limit-%s: %d"):format(self.name, self.size)
  lines[#lines + 1] = ("x-ratelimit-remaining-%s: %d"):format(self.name, math.max(0, math.floor(self.left)))
  lines[#lines + 1] = ("x-ratelimit-reset-%s: %.3fs"):format(self.name, (self.size - self.left) / self.per_s)
end

-- @return seconds until there is room, or nil: it is taken
local function take(request)
  local wait_s
  for _, bucket in ipairs(buckets) do
    bucket:fill()
    local missing = request[bucket.name] - bucket.left
    if missing > 0 then wait_s = math.max(wait_s or 0, missing / bucket.per_s) end
  end
  if wait_s then return wait_s end
  for _, bucket in ipairs(buckets) do bucket.left = bucket.left - request[bucket.name] end
end

-- --- connections ------------------------------------------------------------------------------

local open = {} -- connections of clients

local function drop(connection)
  if not open[connection] then return end
  open[connection] = nil
  if connection.is_busy then stats.flying = stats.flying - 1 end
  connection.sock:close_reset()
end

local function after(ms, fn)
  local timer = uv.new_timer()
  timer:start(ms, 0, function()
    timer:close()
    fn()
  end)
end

local function response(status, body, headers)
  local lines = { ("HTTP/1.1 %d Status"):format(status), "Content-Type: application/json", "Content-Length: " .. #body }
  for _, line in ipairs(headers or {}) do lines[#lines + 1] = line end
  return table.concat(lines, "\r\n") .. "\r\n\r\n" .. body
end

local serve -- what is in a connection's input

local function finish(connection, text)
  connection.is_busy, stats.flying = false, stats.flying - 1
  connection.sock:write(text)
  serve(connection)
end

local function refuse(connection, status, message, code, headers)
  local body = cjson.encode { error = { message = message, type = code, code = code } }
  finish(connection, response(status, body, headers))
end

-- In pieces, as long as the client stays.
local function drip(connection, text, at, step)
  if not open[connection] then return end
  if at + step > #text then return finish(connection, text:sub(at)) end
  connection.sock:write(text:sub(at, at + step - 1))
  after(option.drip_ms, function() drip(connection, text, at + step, step) end)
end

-- --- the model ----------------------------------------------------------------------------------

local function body_of(request)
  local tokens, ids = request.tokens, request.ids
  if request.is_chat then
    return cjson.encode { id = "chat-" .. ids[1], object = "chat.completion", choices = { { index = 0,
      finish_reason = "stop", message = { role = "assistant", content = "re:" .. ids[1] } } },
      usage = { prompt_tokens = tokens, completion_tokens = 2, total_tokens = tokens + 2 } }
  end
  local data = {}
  for i, id in ipairs(ids) do data[i] = ('{"object":"embedding","index":%d,"embedding":[%d,0.5]}'):format(i - 1, id) end
  return ('{"object":"list","data":[%s],"usage":{"prompt_tokens":%d,"total_tokens":%d}}')
    :format(table.concat(data, ","), tokens, tokens)
end

local outage -- begins

-- Compute, pay, send; or what befalls it on the way.
local function answer(connection, request)
  if not open[connection] then
    stats.unpaid = stats.unpaid + 1
    return
  end
  local every = option.outage_every
  if every > 0 and ledger.paid + #request.ids > every * (stats.outages + 1) then outage() end
  if not open[connection] then return end
  pay(request.ids)
  local lines = { "x-request-id: req-" .. stats.requests }
  for _, bucket in ipairs(buckets) do bucket:headers(lines) end
  local text = response(200, body_of(request), lines)
  if chance(request, 1) < option.cut then
    stats.cut = stats.cut + #request.ids
    local bytes = 1 + math.floor(chance(request, 2) * (#text - 1))
    connection.sock:write(text:sub(1, bytes), function() drop(connection) end)
    return
  end
  stats.answered = stats.answered + #request.ids
  if chance(request, 3) < option.drip then
    stats.dripped = stats.dripped + 1
    return drip(connection, text, 1, math.ceil(#text / 8))
  end
  finish(connection, text)
end

local BUSY = { 529, 503, 500 }

-- Is it refused, or its connection reset?
local function is_refused(connection, request)
  local is_unpaid = false
  for _, id in ipairs(request.ids) do
    is_unpaid = is_unpaid or option.quota_every > 0 and id % option.quota_every == 0
  end
  if is_unpaid and not is_settled then
    stats.quota = stats.quota + 1
    refuse(connection, 429, "You exceeded your current quota", "insufficient_quota")
  elseif chance(request, 4) < option.reset then
    stats.resets = stats.resets + 1
    drop(connection)
  elseif chance(request, 5) < option.busy then
    stats.busy = stats.busy + 1
    refuse(connection, BUSY[1 + math.floor(chance(request, 6) * #BUSY)], "Overloaded", "overloaded_error")
  else
    local wait_s = take(request)
    if not wait_s then return false end
    stats.limited = stats.limited + 1
    local lines = { "retry-after: " .. math.ceil(wait_s), ("retry-after-ms: %d"):format(math.ceil(1e3 * wait_s)) }
    for _, bucket in ipairs(buckets) do bucket:headers(lines) end
    refuse(connection, 429, "Rate limit reached", "rate_limit_exceeded", lines)
  end
  return true
end

local function request_of(path, body)
  local values = cjson.decode(body)
  local request = { ids = {}, requests = 1, tokens = 0, is_chat = path:find "chat/completions$" ~= nil }
  local inputs = request.is_chat and { values.messages[#values.messages].content } or values.input
  for i, text in ipairs(type(inputs) == "table" and inputs or { inputs }) do
    request.ids[i] = tonumber(text:match "%d+")
    request.tokens = request.tokens + math.ceil(#text / 4)
  end
  request.try = (tries[request.ids[1]] or 0) + 1
  tries[request.ids[1]] = request.try
  return request
end

local function handle(connection, path, body)
  stats.requests, stats.flying = stats.requests + 1, stats.flying + 1
  stats.most_at_once = math.max(stats.most_at_once, stats.flying)
  connection.is_busy = true
  local request = request_of(path, body)
  if is_refused(connection, request) then return end
  after(option.delay_ms, function() answer(connection, request) end)
end

-- --- HTTP -----------------------------------------------------------------------------------------

-- The first request in a text: its path, body, and what follows it; or nil.
local function read_request(input)
  local _, head_end = input:find("\r\n\r\n", 1, true)
  if not head_end then return nil end
  local head = input:sub(1, head_end)
  local size = tonumber(head:lower():match "\r\ncontent%-length: *(%d+)" or 0)
  if #input < head_end + size then return nil end
  return head:match "^%S+ (%S+)", input:sub(head_end + 1, head_end + size), input:sub(head_end + size + 1)
end

serve = function(connection)
  if connection.is_busy or not open[connection] then return end
  local path, body, rest = read_request(connection.input)
  if not path then return end
  connection.input = rest
  connection.handle(connection, path, body)
end

local function accept(server, handler)
  local connection = { sock = uv.new_tcp(), input = "", handle = handler }
  server:accept(connection.sock)
  open[connection] = true
  connection.sock:nodelay(true)
  connection.sock:read_start(function(_, data)
    if not data then return drop(connection) end
    connection.input = connection.input .. data
    serve(connection)
  end)
  return connection
end

-- --- outages -----------------------------------------------------------------------------------------

local port, listener
local is_away, is_resetting = false, false

local function bind()
  local server = uv.new_tcp()
  assert(server:bind("127.0.0.1", port or 0))
  port = server:getsockname().port
  return server
end

local function schedule()
  if option.outage_every_s > 0 then after(1e3 * option.outage_every_s, outage) end
end

local is_first = true

local function listen()
  assert(listener:listen(1024, function()
    local connection = accept(listener, handle)
    stats.connections = stats.connections + 1
    if is_resetting then return drop(connection) end
    if is_first then schedule() end
    is_first = false
  end))
end

-- Bound and not listening, the port is nobody else's, and refuses.
outage = function()
  if is_away then return end
  is_away, stats.outages = true, stats.outages + 1
  for connection in pairs(open) do
    if connection.handle == handle then drop(connection) end
  end
  if stats.outages % 2 == 1 then
    listener:close()
    listener = bind()
  else
    is_resetting = true
  end
  after(1e3 * option.outage_s, function()
    if not is_resetting then listen() end
    is_away, is_resetting = false, false
    schedule()
  end)
end

-- --- control -------------------------------------------------------------------------------------------

local function control(connection, path)
  local least, name = path:match "^/wait/(%d+)/([%w_]+)$"
  if name and stats[name] < tonumber(least) then
    return after(2, function() if open[connection] then control(connection, path) end end)
  end
  local pid, at = path:match "^/kill/(%d+)/(%d+)$"
  if pid then victim = { pid = tonumber(pid), at = tonumber(at) } end
  if path == "/pay" then is_settled = true end
  if path == "/outage" then outage() end
  stats.now_s = uv.hrtime() / 1e9
  local body = path == "/ledger" and { paid = ledger.paid, distinct = ledger.distinct, most = ledger.most,
    twice = ledger.paid - ledger.distinct } or stats
  connection.sock:write(response(200, cjson.encode(body)))
  serve(connection)
end

local controls = uv.new_tcp()
assert(controls:bind("127.0.0.1", 0))
assert(controls:listen(16, function() accept(controls, control) end))
listener = bind()
listen()
io.stdout:write(port, " ", controls:getsockname().port, " ", uv.os_getpid(), "\n")
io.stdout:flush()
uv.run()
