--- The gateway as a plugin, in an nginx with what stands for its host there (tests/nginx/fakes), named Host.

local nginx = dofile "tests/nginx/server.lua"

local M = { nginx = nginx }

--- For nginx.start{own_path = true, http = ...}: where the modules are, the host's too.
M.path = 'lua_package_path "$ROOT/lua/?.lua;$ROOT/lua/?/init.lua;$ROOT/tests/nginx/fakes/?.lua;;";'

--- A Lua literal of a configuration.
function M.literal(value)
  if type(value) ~= "table" then return type(value) == "string" and ("%q"):format(value) or tostring(value) end
  local parts = {}
  for name, item in pairs(value) do parts[#parts + 1] = ("[%s]=%s"):format(M.literal(name), M.literal(item)) end
  return "{" .. table.concat(parts, ",") .. "}"
end

-- --- YAML -----------------------------------------------------------------------------------------

local WORDS = { ["true"] = true, ["false"] = false }

local function scalar_of(text)
  local list = text:match "^%[(.*)%]$"
  if list then
    local out = {}
    for item in list:gmatch "[^,]+" do out[#out + 1] = scalar_of(item:match "^%s*(.-)%s*$") end
    return out
  end
  local quoted = text:match '^"(.*)"$'
  if quoted then return quoted end
  if WORDS[text] ~= nil then return WORDS[text] end
  return tonumber(text) or text
end

-- Lines as {indent, text}; a "- key: value" is an item of its own, and its key one step further in.
local function yaml_lines(text)
  local out = {}
  for line in text:gmatch "[^\n]+" do
    local indent, rest = line:gsub(" #.*", ""):match "^( *)(.-)%s*$"
    if rest ~= "" and rest:sub(1, 1) ~= "#" then
      local item = rest:match "^%- (.*)$"
      if item then out[#out + 1] = { #indent, "-" } end
      out[#out + 1] = item and { #indent + 2, item } or { #indent, rest }
    end
  end
  return out
end

local function read_yaml(lines, at)
  local indent, out = lines[at][1], {}
  while lines[at] and lines[at][1] == indent do
    local key, value = lines[at][2]:match '^"([^"]*)": ?(.*)$'
    if not key then key, value = lines[at][2]:match "^([^:]+): ?(.*)$" end
    if lines[at][2] == "-" then
      out[#out + 1], at = read_yaml(lines, at + 1)
    elseif not key then
      return scalar_of(lines[at][2]), at + 1
    elseif value ~= "" then
      out[key], at = scalar_of(value), at + 1
    else
      out[key], at = read_yaml(lines, at + 1)
    end
  end
  return out, at
end

--- The YAML that the examples are written in: maps, lists, scalars and [lists, of, them].
function M.yaml(text)
  local lines = yaml_lines(text)
  local out, at = read_yaml(lines, 1)
  assert(at > #lines, "line " .. at .. " is not understood")
  return out
end

-- --- servers --------------------------------------------------------------------------------------

--- The made-up upstream, whose calls are counted.
local Upstream = {}
Upstream.__index = Upstream

function M.upstream() return setmetatable({ server = nginx.upstream() }, Upstream) end
function Upstream:url() return self.server.url end
function Upstream:behave(as) self.server:get("/behave?as=" .. as) end
function Upstream:calls() return tonumber(self.server:get("/stats"):match '"requests":(%d+)') end
function Upstream:release(calls) self.server:get("/release?calls=" .. calls) end
function Upstream:wait_for_calls(n)
  nginx.wait_until(n .. " calls are upstream", function() return self:calls() == n end)
end
function Upstream:stop() self.server:stop() end

--- A host that runs.
local Running = {}
Running.__index = Running

-- What is inside the plugin: its fleet, and all(read): a sum over its gateways.
local INSIDE = [[
  local fleet = Host.inside("tokenbatcher", "fleet")
  local function all(read)
    local n = 0
    for _, entry in pairs(fleet.entries) do n = n + (entry.gateway and read(entry) or 0) end
    return n
  end
]]

--- Lua in a request of the host's nginx. @return what it returned, as text
function Running:look(code) return self.server:eval(INSIDE .. code) end

--- The same with a driver: ask(text, headers, path) -> status, body. @param begins boolean|nil  beside what the spec
-- does: a function is returned then that waits for it
function Running:drive(code, begins)
  local text = ([[
    local driver, port = dofile "%s/tests/nginx/driver.lua", %d
    local function ask(text, headers, path)
      return driver.ask(port, path or "/v1/embeddings", { model = "m", input = text }, headers)
    end
    local function at_once(n, fn)
      local threads = {}
      for i = 1, n do threads[i] = ngx.thread.spawn(fn, i) end
      for i = 1, n do assert(ngx.thread.wait(threads[i])) end
    end
  ]]):format(nginx.root, self.server.port) .. INSIDE .. code
  if begins then return self.server:begin(text) end
  return self.server:eval(text)
end

function Running:gateways() return tonumber(self:look "return all(function() return 1 end)") end

function Running:wait_for_queued(n)
  nginx.wait_until(n .. " wait", function()
    local code = "return all(function(entry) return entry.gateway.lines[1].batcher.stats.queue_size end)"
    return tonumber(self:look(code)) == n
  end)
end

--- Nobody is being served, and nothing is being stopped.
function Running:wait_for_rest()
  nginx.wait_until("all are answered", function()
    return self:look "return all(function(entry) return entry.users end) .. tostring(next(fleet.stopping))" == "0nil"
  end)
end

--- A figure of the fleet's page /status.
function Running:status(name)
  return tonumber((self:look "local _, _, body = fleet:page '/status' return body"):match('"' .. name .. '":(%d+)'))
end

--- fn(running) beside a server that is stopped behind it; what it raises has the log with it.
function M.with(server, fn)
  local ok, err = xpcall(fn, function(value)
    return type(value) == "string" and debug.traceback(value) .. server:log() or value
  end, setmetatable({ server = server }, Running))
  server:stop()
  if not ok then error(err, 0) end
end

--- Many clients that ask, wait in the queue and leave, all at once, while the upstream holds its only call.
function M.leave_all(running, upstream, n)
  upstream:behave "held"
  local first = running:drive("return (ask 'first')", true)
  upstream:wait_for_calls(1)
  running:drive(([[
    local body, sockets = '{"model":"m","input":"x"}', {}
    for i = 1, %d do
      sockets[i] = ngx.socket.tcp()
      assert(sockets[i]:connect("127.0.0.1", port))
      sockets[i]:send("POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body)
    end
    while all(function(entry) return entry.gateway.lines[1].batcher.stats.queue_size end) < #sockets do
      ngx.sleep(0.005)
    end
    for _, socket in ipairs(sockets) do socket:close() end
  ]]):format(n))
  running:wait_for_queued(0)
  upstream:release(n)
  local status = first()
  assert(not running.server:log():find("exited on signal", 1, true), "a worker has crashed")
  return status
end

--- Requests for chat of a client, all at once, beside what the spec does.
-- @return function that waits for their statuses
function M.chat(running, who, n)
  return running:drive(([[
    local out = {}
    at_once(%d, function(i)
      out[i] = driver.ask(port, "/ai/v1/chat/completions", { messages = { { content = "x" } } },
        "x-consumer: %s\r\nauthorization: Bearer %s\r\n")
    end)
    return table.concat(out, " ")
  ]]):format(n, who, who), true)
end

--- Waits until so many requests wait for a slot, and so many hold one.
function M.wait_for_slots(running, waiting, held)
  nginx.wait_until(("%d wait for a slot, and %d have one"):format(waiting, held), function()
    return running:look [[
      local queue
      for _, entry in pairs(fleet.entries) do queue = entry.gateway.lines[1].queue end
      return queue and queue.batcher.stats.queue_size .. " " .. queue.book.held or "none yet"
    ]] == waiting .. " " .. held
  end)
end

--- A flood of chat, and one that comes later, before a server of one place. @return the statuses of both, and in which
-- order they came upstream
function M.flood(running, places)
  local flood = M.chat(running, "flood", 4)
  M.wait_for_slots(running, 3, 1)
  local quiet = M.chat(running, "quiet", 1)
  M.wait_for_slots(running, 4, 1)
  places:get "/release?streams=100"
  local statuses = { flood(), quiet() }
  M.wait_for_slots(running, 0, 0)
  return statuses[1], statuses[2], (places:get "/order")
end

--- Clients that ask beside what the spec does, and outlive the server's last connection.
-- @return function  that waits for their statuses, and returns them: "200 200"
function M.clients(running, path, n)
  local files = {}
  for i = 1, n do
    local file = running.server.folder .. "/answer" .. i
    local command = ("curl -s -m 60 -o %s -w '%%{http_code}' -d '{\"model\":\"m\",\"input\":\"text %d\"}' %s%s")
      :format(file, i, running.server.url, path)
    os.execute(("{ %s >%s.code; } 2>/dev/null &"):format(command, file))
    files[i] = file .. ".code"
  end
  return function()
    local codes = {}
    for i, file in ipairs(files) do
      codes[i] = nginx.wait_until("an answer", function()
        local text = nginx.read(file)
        return text ~= "" and text
      end, 60)
    end
    return table.concat(codes, " ")
  end
end

return M
