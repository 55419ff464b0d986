-- An inference server that can be made to fail: OpenAI's embeddings and completions, with a
-- fault for each request, chosen by the path.
--
--     luajit tests/http/fault_server.lua [SOCKET_PATH]
--
-- prints "PORT PID" and serves on 127.0.0.1 (and on the unix socket) until it is killed.
--
-- The first part of a path is a plan: /429@1,ok/v1/embeddings answers the first request to
-- that path with 429 and Retry-After: 1, each later one as it should. The steps are in
-- `steps` below; NUMBER is that status, and what follows a ~ makes it another path. GET
-- /stats tells what was seen, /wait/N/NAME answers once the counter NAME of the statistics
-- is at least N.
--
-- The embedding of a text is {bytes, sum of its bytes, 0.5}, a completion "re:" .. text.

local cjson = require "cjson"
local collector = dofile "tests/http/collector.lua"
local models = dofile "tests/http/models.lua"
local socket = require "socket"

local stats = { requests = 0, connections = 0, aborted = 0, spans = 0 } -- aborted: the client left before its answer
local log, seen = {}, {} -- requests in order; path -> how many came
local threads = {} -- connections: {co, sock, wants = "read" | "write" | "time", at}

-- --- connections ----------------------------------------------------------------

local Connection = {}
Connection.__index = Connection

function Connection:wait(wants, at)
  self.wants, self.at = wants, at
  coroutine.yield()
end

function Connection:write(text)
  local from = 1
  while from <= #text do
    local last, problem, partial = self.sock:send(text, from)
    if problem and problem ~= "timeout" then return nil, problem end
    from = (last or partial) + 1
    if from <= #text then self:wait "write" end
  end
  return true
end

--- More input into self.input. @return false at its end
function Connection:fill()
  while true do
    local data, problem, partial = self.sock:receive(65536)
    data = data or partial
    if data and #data > 0 then
      self.input = self.input .. data
      return true
    end
    if problem ~= "timeout" then return false end
    self:wait "read"
  end
end

--- Sleep, but notice a client that leaves.
function Connection:sleep(s)
  local at = socket.gettime() + s
  while socket.gettime() < at do
    self:wait("time", at)
    local data, problem, partial = self.sock:receive(65536)
    self.input = self.input .. (data or partial or "")
    if problem == "closed" then
      stats.aborted = stats.aborted + 1
      return false
    end
  end
  return true
end

function Connection:read_request()
  while not self.input:find("\r\n\r\n", 1, true) do
    if not self:fill() then return nil end
  end
  local head, rest = self.input:match "^(.-\r\n)\r\n(.*)$"
  local method, path = head:match "^(%S+) (%S+)"
  local request = { method = method, path = path, headers = {} }
  for name, value in head:gmatch "\r\n([^:\r\n]+): *([^\r\n]*)" do request.headers[name:lower()] = value end
  local size = tonumber(request.headers["content-length"] or 0)
  self.input = rest
  while #self.input < size do
    if not self:fill() then return nil end
  end
  request.body, self.input = self.input:sub(1, size), self.input:sub(size + 1)
  return request
end

function Connection:respond(status, body, headers)
  if type(body) == "table" then body = cjson.encode(body) end
  local lines = { ("HTTP/1.1 %d Status"):format(status), "Content-Length: " .. #body }
  for _, line in ipairs(headers or {}) do lines[#lines + 1] = line end
  return self:write(table.concat(lines, "\r\n") .. "\r\n\r\n" .. body)
end

-- --- the model --------------------------------------------------------------------

local function embedding(text)
  local sum = 0
  for i = 1, #text do sum = sum + (type(text) == "table" and text[i] or text:byte(i)) end
  return { #text, sum, 0.5 }
end

local function inputs_of(request)
  local body = #request.body > 0 and cjson.decode(request.body) or { input = {} }
  local inputs = body.input or body.prompt or body.messages or body.documents or body.texts or body.inputs
  return type(inputs) == "string" and { inputs } or inputs
end

local function answer_for(request)
  local list, tokens, is_completion = {}, 0, request.path:find "completions$"
  for i, text in ipairs(inputs_of(request)) do
    list[i] = is_completion and { index = i - 1, text = "re:" .. tostring(text) }
      or { index = i - 1, object = "embedding", embedding = embedding(text) }
    tokens = tokens + #text
  end
  return { object = "list", [is_completion and "choices" or "data"] = list,
    usage = { prompt_tokens = tokens, total_tokens = tokens } }, list
end

local function refusal(message)
  return { error = { message = message, type = "invalid_request_error" } }
end

-- --- what can go wrong: steps[name](connection, request, argument); false closes ---------

local steps = {}

function steps.ok(c, request)
  local path = request.path:gsub("%?.*", "")
  local answer = #request.body > 0 and models.answer(path, cjson.decode(request.body))
  return c:respond(200, answer or (answer_for(request)), { "x-request-id: req-" .. stats.requests })
end

function steps.echo(c, request)
  return c:respond(200, { method = request.method, path = request.path, headers = request.headers,
    bytes = #request.body, body = #request.body < 1000 and request.body or nil },
    { "Content-Type: application/json", "X-Twice: a", "X-Twice: b", "X-Empty:" })
end

local met = 0

function steps.meet(c, request, n) -- answers once there are n of them
  met = met + 1
  while met < n do
    if not c:sleep(0.002) then return false end
  end
  return steps.ok(c, request)
end

function steps.hang(c) return c:sleep(60) end

function steps.slow(c, request, ms)
  return c:sleep(ms / 1000) and steps.ok(c, request)
end

function steps.die() return false end

function steps.diebody(c)
  c:write "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{\"data\": ["
  return false
end

function steps.garbage(c)
  c:write "this is no HTTP\r\n\r\n"
  return false
end

function steps.unended(c, request) -- the body ends with the connection
  c:write("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" .. cjson.encode((answer_for(request))))
  return false
end

function steps.chunked(c, request)
  c:write "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
  for piece in cjson.encode((answer_for(request))):gmatch "..?.?.?.?.?.?" do
    c:write(("%x\r\n%s\r\n"):format(#piece, piece))
  end
  return c:write "0\r\n\r\n"
end

function steps.goodbye(c, request) -- closes the kept-alive connection without saying so
  steps.ok(c, request)
  return false
end

function steps.huge(c, _, bytes) return c:respond(200, ("x"):rep(bytes)) end

function steps.endless(c) -- no Content-Length to warn of it
  c:write "HTTP/1.1 200 OK\r\n\r\n"
  while c:write(("x"):rep(65536)) do c:wait "write" end
  return false
end

function steps.longhead(c) return c:respond(200, "", { "X-Long: " .. ("x"):rep(300000) }) end

function steps.bighead(c) return c:respond(200, "", { "X-Big: " .. ("x"):rep(70000) }) end

function steps.html(c) return c:respond(200, "<html>" .. ("gateway "):rep(200) .. "\n</html>") end

function steps.longwords(c) return c:respond(500, refusal(("words "):rep(10000))) end

function steps.cut(c, request) -- JSON that ends too early, of the length that was announced
  local text = cjson.encode((answer_for(request)))
  return c:respond(200, text:sub(1, -20))
end

local function changed(change)
  return function(c, request)
    local answer, list = answer_for(request)
    change(list, answer)
    return c:respond(200, answer)
  end
end

steps.dup = changed(function(list) list[#list].index = 0 end)
steps.range = changed(function(list) list[#list].index = #list end)
steps.negative = changed(function(list) list[#list].index = -1 end)
steps.fraction = changed(function(list) list[#list].index = 0.5 end)
steps.noindex = changed(function(list) list[#list].index = nil end)
steps.missing = changed(function(list) list[1] = table.remove(list) end)
steps.extra = changed(function(list) list[#list + 1] = list[1] end)
steps.empty = changed(function(list) for i = #list, 1, -1 do list[i] = nil end end)
steps.nolist = changed(function(_, answer) answer.data, answer.choices = nil, nil end)
steps.nonumbers = changed(function(list) list[#list].embedding, list[#list].text = "AAAA", 7 end)
steps.mixed = changed(function(list) list[#list].embedding[2] = "x" end)
steps.shorter = changed(function(list) list[#list].embedding[3] = nil end)
steps.oddusage = changed(function(_, answer) answer.usage = { total_tokens = -5, prompt_tokens = 1e300 } end)
steps.scalar = changed(function(list) list[#list] = 7 end)

function steps.reverse(c, request)
  local answer, list = answer_for(request)
  for i = 1, math.floor(#list / 2) do list[i], list[#list + 1 - i] = list[#list + 1 - i], list[i] end
  return c:respond(200, answer)
end

function steps.reversenoindex(c, request)
  local answer, list = answer_for(request)
  list[1], list[#list] = list[#list], list[1]
  list[1].index = nil
  return c:respond(200, answer)
end

steps.unindexed = changed(function(list) for i = 1, #list do list[i].index = nil end end)
steps.nullindex = changed(function(list) for i = 1, #list do list[i].index = cjson.null end end)
steps.based = changed(function(list) -- 1.5, -2.25 and pi
  for i = 1, #list do list[i].embedding = "AADAPwAAEMDbD0lA" end
end)
steps.illbased = changed(function(list) list[1].embedding = "AADAPw=" end)
steps.notfinite = changed(function(list) list[1].embedding = "AACAfw==" end)

local function with_body(alter, headers)
  return function(c, request) return c:respond(200, alter(cjson.encode((answer_for(request)))), headers) end
end

steps.bom = with_body(function(text) return "\239\187\191" .. text end)

local function packed(text)
  local name = os.tmpname()
  local pipe = io.popen("gzip -c > " .. name, "w")
  pipe:write(text)
  pipe:close()
  local file = io.open(name, "rb")
  local bytes = file:read "*a"
  file:close()
  os.remove(name)
  return bytes
end

local GZIP = { "Content-Encoding: gzip" }
steps.gzip = with_body(packed, GZIP)
steps.gzipbomb = with_body(function(text) return packed((" "):rep(1e6) .. text) end, GZIP)
steps.gzipcut = with_body(function(text) return packed(text):sub(1, -12) end, GZIP)
steps.gzipbad = with_body(function(text) return "\31\139\8\0" .. text end, GZIP)
steps.brotli = with_body(function(text) return text end, { "Content-Encoding: br" })

function steps.hints(c, request) -- answers that are none yet
  c:write "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\nRetry-After: 30\r\n\r\n"
  return steps.ok(c, request)
end

function steps.moved(c) return c:respond(307, "", { "Location: http://ann:secret@elsewhere/v1/x?key=secret" }) end

function steps.reset(c) -- not an end, but a RST
  c.sock:setoption("linger", { on = true, timeout = 0 })
  return false
end

-- Refusals that say when to come again: limited-300 (retry-after-ms), bucket-300 (x-ratelimit-*), in ms.
function steps.dated(c, _, s) -- Retry-After as a date, and no Date
  local date = os.date("!%a, %d %b %Y %H:%M:%S GMT", os.time() + tonumber(s))
  return c:respond(429, refusal "slow down", { "Retry-After: " .. date })
end
function steps.limited(c, _, ms) return c:respond(429, refusal "slow down", { "retry-after-ms: " .. ms }) end

function steps.bucket(c, _, ms)
  return c:respond(429, refusal "slow down", { "x-ratelimit-limit-requests: 10", "x-ratelimit-remaining-requests: 0",
    ("x-ratelimit-reset-requests: %dms"):format(ms), "x-ratelimit-remaining-tokens: 90",
    "x-ratelimit-reset-tokens: 6m0s" })
end

function steps.quota(c)
  return c:respond(429, { error = { message = "You exceeded your current quota", type = "insufficient_quota",
    code = "insufficient_quota" } })
end

function steps.noretry(c) return c:respond(503, refusal "no use", { "x-should-retry: false" }) end

function steps.infinite(c, request) -- a number that is JSON, and more than a double holds
  local answer, list = answer_for(request)
  list[#list].embedding[2] = "much"
  return c:respond(200, (cjson.encode(answer):gsub('"much"', "1e999")))
end

function steps.array(c) return c:respond(200, "[1, 2]") end

function steps.poison(c, request) -- refuses a request that holds a poisonous text
  for i, text in ipairs(inputs_of(request)) do
    if text:find "poison" then return c:respond(400, refusal(("input %d is poisonous"):format(i - 1))) end
  end
  return steps.ok(c, request)
end

local function texts_in(request) return table.concat(inputs_of(request), " and ") end

function steps.quote(c, request) -- refuses a poisonous text, and repeats all that it got
  if texts_in(request):find "poison" then return c:respond(400, refusal("cannot take " .. texts_in(request))) end
  return steps.ok(c, request)
end

function steps.blab(c, request) -- fails, and repeats all that it got
  return c:respond(500, refusal("crashed over " .. texts_in(request)))
end

function steps.codes(c, request) -- the same, where a word for the kind of failure stands
  local problem = refusal "crashed"
  problem.error.code = table.concat(inputs_of(request), ":")
  return c:respond(500, problem)
end

function steps.escape(c, request) -- fails, and repeats all that it got as JSON of its own kind, ASCII alone
  local text = cjson.encode { detail = { { input = inputs_of(request) } } }
  return c:respond(500, (text:gsub("[\194-\244][\128-\191]+", "\\u00e9")))
end

function steps.tale(c, request) -- an answer that is a text, and of which one is missing
  local answer, list = answer_for(request)
  list[#list] = nil
  return c:respond(200, answer)
end

function steps.login(c, request) -- an error that repeats the caller's login and the query of the URL
  return c:respond(401, refusal("bad login " .. tostring(request.headers.authorization) .. " for " .. request.path))
end

function steps.limit(c, request, most) -- refuses more inputs than that
  local n = #inputs_of(request)
  if n > most then return c:respond(413, refusal(("batch size %d > %d"):format(n, most))) end
  return steps.ok(c, request)
end

function steps.terse(c, request, most) -- the same, without a word
  if #inputs_of(request) > most then return c:respond(413, "") end
  return steps.ok(c, request)
end

function steps.tell(c, request) -- an error that repeats the caller's key
  return c:respond(401, refusal("bad key " .. tostring(request.headers.authorization)))
end

function steps.drip(c) -- a body whose end never comes
  c:write "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
  while c:sleep(0.01) do
    if not c:write "x" then break end
  end
  return false
end

function steps.collect(c, request) -- a collector of traces; what it has taken: GET /spans
  local problem = collector.take(request)
  stats.spans = #collector.spans
  return c:respond(problem and 400 or 200, problem and refusal(problem) or "{}")
end

function steps.partial(c, _, n) -- takes all but n of them
  return c:respond(200, ('{"partialSuccess":{"rejectedSpans":"%d","errorMessage":"no"}}'):format(n))
end

-- "429", "429@1", "503@date2": a status, with Retry-After in seconds or as a date.
local function status_step(c, step)
  local status, kind, s = step:match "^(%d%d%d)@?(%a*)([%d.]*)$"
  if not status then error("no such step: " .. step) end
  local headers = {}
  if s ~= "" then
    local value = kind == "date" and os.date("!%a, %d %b %Y %H:%M:%S GMT", os.time() + tonumber(s)) or s
    headers[1] = "Retry-After: " .. value
  end
  return c:respond(tonumber(status), refusal("come back later"), headers)
end

-- --- serving ------------------------------------------------------------------------

local function tell_stats(c)
  stats.open = -1 -- without this one
  for _ in pairs(threads) do stats.open = stats.open + 1 end
  return c:respond(200, { stats = stats, log = #log > 0 and log or cjson.empty_array })
end

local function serve(c, request)
  if request.path == "/stats" then return tell_stats(c) end
  if request.path == "/spans" then
    return c:respond(200, { spans = collector.spans, bodies = collector.bodies, problems = collector.problems })
  end
  local least, counter = request.path:match "^/wait/(%d+)/(%w+)"
  if least then
    while stats[counter] < tonumber(least) do
      if not c:sleep(0.002) then return false end
    end
    return tell_stats(c)
  end
  stats.requests = stats.requests + 1
  seen[request.path] = (seen[request.path] or 0) + 1
  local ok, inputs = pcall(inputs_of, request)
  log[#log + 1] = { path = request.path, inputs = ok and inputs and #inputs or nil,
    authorization = request.headers.authorization, traceparent = request.headers.traceparent, connection = c.number,
    body = #request.body < 1000 and request.body or nil, at = socket.gettime() }
  if #log > 1000 then table.remove(log, 1) end
  local plan = {}
  for step in request.path:match "^/([^/?~]*)":gmatch "[^,]+" do plan[#plan + 1] = step end
  local step = plan[math.min(seen[request.path], #plan)] or "ok"
  local name, argument = step:match "^(%a+)%-?(%d*)$"
  if name and steps[name] then return steps[name](c, request, tonumber(argument)) end
  return status_step(c, step)
end

local function converse(c)
  stats.connections = stats.connections + 1
  c.number = stats.connections
  local request = c:read_request()
  while request and serve(c, request) ~= false do request = c:read_request() end
end

local function resume(c)
  local ok, problem = coroutine.resume(c.co, c)
  if not ok then io.stderr:write("fault server: ", tostring(problem), "\n") end
  if coroutine.status(c.co) == "dead" then
    c.sock:close()
    threads[c.sock] = nil
  end
end

local listeners = { assert(socket.bind("127.0.0.1", 0, 1024)) }
if arg[1] then
  local unix = require("socket.unix").stream and require("socket.unix").stream() or require("socket.unix")()
  assert(unix:bind(arg[1]))
  assert(unix:listen(64))
  listeners[2] = unix
end
local _, port = listeners[1]:getsockname()
local stat = io.open "/proc/self/stat"
print(port .. " " .. stat:read "*n")
stat:close()
io.stdout:flush()

local function accept(listener)
  listener:settimeout(0)
  local sock = listener:accept()
  while sock do
    sock:settimeout(0)
    if listener == listeners[1] then sock:setoption("tcp-nodelay", true) end
    local c = setmetatable({ sock = sock, input = "", co = coroutine.create(converse) }, Connection)
    threads[sock] = c
    resume(c)
    sock = listener:accept()
  end
end

while true do
  local reading, writing, at = { unpack(listeners) }, {}, nil
  for sock, c in pairs(threads) do
    local list = c.wants == "write" and writing or reading -- a sleeper watches for its client's end
    list[#list + 1] = sock
    if c.wants == "time" and (not at or c.at < at) then at = c.at end
  end
  local ready_to_read, ready_to_write = socket.select(reading, writing, at and math.max(0, at - socket.gettime()))
  local now = socket.gettime()
  local due = {}
  for _, sock in ipairs(ready_to_read) do due[#due + 1] = sock end
  for _, sock in ipairs(ready_to_write) do due[#due + 1] = sock end
  for sock, c in pairs(threads) do
    if c.wants == "time" and c.at <= now then due[#due + 1] = sock end
  end
  for _, sock in ipairs(due) do
    if threads[sock] then
      resume(threads[sock])
    elseif sock == listeners[1] or sock == listeners[2] then
      accept(sock)
    end
  end
end
