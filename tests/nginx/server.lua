--- A real nginx for a spec: in a folder of its own, on a free port of the loopback, with
-- the modules of this checkout. Stop every one that you start.

local json = require "tokenbatcher.base.json"

local M = {}

local MODULES = os.getenv "NGINX_MODULES" or "/usr/lib/nginx/modules"
local GUARD_S = 30

local function output_of(command)
  local pipe = assert(io.popen(command))
  local text = pipe:read "*a"
  pipe:close()
  return (text:gsub("\n$", ""))
end
M.output_of = output_of

M.root = output_of "pwd"

function M.quote(text)
  return "'" .. text:gsub("'", [['\'']]) .. "'"
end

local function succeeds(command) return os.execute(command .. " >/dev/null 2>&1") == 0 end
M.succeeds = succeeds

--- What is missing to run one, or nil.
function M.missing()
  if not succeeds "command -v nginx" then return "no nginx (make deps test installs it)" end
  if not succeeds("test -r " .. MODULES .. "/ngx_http_lua_module.so") then
    return "no Lua module for nginx (make deps test installs libnginx-mod-http-lua)"
  end
  if not succeeds "command -v curl" then return "no curl" end
end

--- Wait until `is_true()`, for `most_s` (GUARD_S) at most. @return what it returned, or raises `what`
function M.wait_until(what, is_true, most_s)
  local until_s = os.time() + (most_s or GUARD_S)
  repeat
    local value = is_true()
    if value then return value end
    os.execute "sleep 0.02"
  until os.time() > until_s
  error("waited in vain: " .. what, 2)
end

local function write(path, text)
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
end

local function read(path)
  local file = io.open(path)
  if not file then return "" end
  local text = file:read "*a" or "" -- of a process that has ended meanwhile
  file:close()
  return text
end
M.read = read

local MAIN = [[
load_module $MODULES/ndk_http_module.so;
load_module $MODULES/ngx_http_lua_module.so;
$USER
worker_processes $WORKERS;
pid nginx.pid;
error_log error.log notice;
$MAIN
events { worker_connections 4096; }
http {
  access_log off;
  client_body_temp_path body; proxy_temp_path proxy;
  fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  $PATH
  $HTTP
  server {
    listen 127.0.0.1:$PORT backlog=4096;
    client_body_buffer_size 1m;
    # Runs the Lua that is posted, and answers what it returns.
    location = /eval {
      lua_need_request_body on;
      lua_check_client_abort on;
      content_by_lua_block {
        local fn = assert(loadstring(ngx.req.get_body_data(), "=eval"))
        local value = fn()
        ngx.print(tostring(value))
      }
    }
    $SERVER
  }
}
]]

local Server = {}
Server.__index = Server
local running = {} -- every server that has not been stopped

local function new_server()
  local self = setmetatable({ folder = output_of "mktemp -d" }, Server)
  running[self] = true
  return self
end

--- Stop those that are left, after an error.
function M.stop_all()
  for server in pairs(running) do
    if server.pid then server:stop() end
  end
end

local function fill(text, values)
  return (text:gsub("%$(%u+)", values))
end

--- @param given table  workers (1), main, http, server: blocks of configuration; own_path: http
-- says where modules are
function M.start(given)
  local self = new_server()
  local values = {
    MODULES = MODULES, ROOT = M.root, WORKERS = tostring(given.workers or 1),
    USER = output_of "id -u" == "0" and "user root;" or "", MAIN = given.main or "",
    PATH = given.own_path and "" or 'lua_package_path "$ROOT/lua/?.lua;$ROOT/lua/?/init.lua;;";',
    HTTP = given.http or "", SERVER = given.server or "", FOLDER = self.folder,
  }
  math.randomseed(os.time() + tonumber(output_of "echo $$"))
  for _ = 1, 20 do
    self.port = math.random(20000, 32000)
    values.PORT = tostring(self.port)
    write(self.folder .. "/nginx.conf", fill(fill(MAIN, values), values))
    if succeeds(("timeout 20 nginx -p %s/ -c nginx.conf 2>%s/start.log"):format(self.folder, self.folder)) then
      self.url = "http://127.0.0.1:" .. self.port
      self.pid = M.wait_until("the pid of nginx", function() return tonumber(read(self.folder .. "/nginx.pid")) end)
      return self
    end
    if not read(self.folder .. "/error.log"):find "Address already in use" then break end
  end
  error("nginx does not start: " .. read(self.folder .. "/error.log") .. output_of("cat " .. self.folder .. "/*.log"))
end

function Server:log() return read(self.folder .. "/error.log") .. read(self.folder .. "/out") end

function Server:signal(name) os.execute(("kill -%s %d 2>/dev/null"):format(name, self.pid)) end

--- The pids of its workers.
function Server:workers()
  local list = {}
  for pid in output_of("pgrep -P " .. self.pid):gmatch "%d+" do list[#list + 1] = tonumber(pid) end
  return list
end

local function is_alive(pid)
  local stat = read("/proc/" .. pid .. "/stat")
  return stat ~= "" and not stat:find "%) Z "
end
M.is_alive = is_alive

function Server:is_alive() return is_alive(self.pid) end

--- Has this worker been told to leave? It takes no new connection then.
function M.is_leaving(pid)
  return read("/proc/" .. pid .. "/cmdline"):find("shutting down", 1, true) ~= nil
end

--- Wait for its end. @return boolean  did it end within `s` seconds?
function Server:ends_within(s)
  local until_s = os.time() + s
  while is_alive(self.pid) do
    if os.time() > until_s then return false end
    os.execute "sleep 0.02"
  end
  return true
end

function Server:stop()
  running[self] = nil
  self:signal "TERM"
  if not self:ends_within(5) then
    os.execute(("kill -KILL %d $(pgrep -P %d) 2>/dev/null"):format(self.pid, self.pid))
  end
  os.execute("rm -rf " .. self.folder)
end

--- A request. @param more string|nil  arguments of curl
-- @return body, status
function Server:get(path, more)
  local text = output_of(("curl -s -m 300 -w '\\n%%{http_code}' %s %s"):format(more or "",
    M.quote(self.url .. path)))
  local body, status = text:match "^(.*)\n(%d+)$"
  return body, tonumber(status)
end

--- A client that stays until it is told to leave. @param arguments string  of curl
-- @return function  that ends it
function M.client(arguments)
  local pid = output_of(("curl -s -m %d %s >/dev/null 2>&1 & echo $!"):format(GUARD_S, arguments))
  return function() os.execute("kill " .. pid .. " 2>/dev/null") end
end

--- Run Lua in a request of this nginx. @return what it returned, as text
function Server:eval(code)
  local path = self.folder .. "/eval.lua"
  write(path, code)
  local body, status = self:get("/eval", "--data-binary @" .. path)
  if status ~= 200 then error(("eval: status %s, %s\n%s"):format(tostring(status), body, self:log()), 2) end
  return body
end

--- The same, beside what this spec does. @return function  that waits for its answer
-- @param most_s number|nil  how long that may take
function Server:begin(code, most_s)
  self.begun = (self.begun or 0) + 1
  local path = ("%s/begin%d"):format(self.folder, self.begun)
  write(path .. ".lua", code)
  os.execute(("{ curl -s -m %d --data-binary @%s.lua %s/eval >%s.out; echo >%s.done; } >/dev/null 2>&1 &")
    :format(most_s or GUARD_S, path, self.url, path, path))
  return function()
    M.wait_until("the answer of a request that runs beside", function() return read(path .. ".done") ~= "" end, most_s)
    return read(path .. ".out")
  end
end

--- The made-up upstream (upstream.lua) as a server of its own.
function M.upstream()
  return M.start {
    http = ([[
      lua_shared_dict upstream 1m;
      client_max_body_size 16m;
      keepalive_requests 1000000;
      init_by_lua_block { upstream = dofile "%s/tests/nginx/upstream.lua" }
    ]]):format(M.root),
    server = [[
      location / { content_by_lua_block { upstream.anything() } }
      location = /v1/embeddings { content_by_lua_block { upstream.embeddings() } }
      location = /behave { content_by_lua_block { upstream.behave() } }
      location = /release { content_by_lua_block { upstream.release() } }
      location = /stats { content_by_lua_block { upstream.stats() } }
    ]],
  }
end

--- The made-up server of streams (places.lua) as a server of its own.
function M.places()
  return M.start {
    http = ([[
      lua_shared_dict places 4m;
      keepalive_requests 1000000;
      init_by_lua_block { places = dofile "%s/tests/nginx/places.lua" }
    ]]):format(M.root),
    server = [[
      location / { lua_check_client_abort on; content_by_lua_block { places.chat() } }
      location = /set { content_by_lua_block { places.set() } }
      location = /behave { return 204; } # it does as /set says
      location = /v1/models { return 200 "{}"; } # what a gateway asks for when it starts
      location = /waiting { content_by_lua_block { places.waiting() } }
      location = /release { content_by_lua_block { places.release() } }
      location = /order { content_by_lua_block { places.order() } }
      location = /stats { content_by_lua_block { places.stats() } }
      location = /metrics { content_by_lua_block { places.metrics() } }
    ]],
  }
end

--- The example gateway, by its own start.sh.
-- @param given table  upstream: its URL; workers, options, ...: as start.sh takes them; health_url: where /health is;
-- root: another checkout
function M.gateway(given)
  local self = new_server()
  local words = ""
  for _, name in ipairs { "upstream", "workers", "options", "health", "shared", "config", "preset", "status-listen",
    "per-address" } do
    if given[name] then words = words .. " --" .. name .. " " .. M.quote(tostring(given[name])) end
  end
  for _ = 1, 20 do
    self.port = math.random(20000, 32000)
    self.url = "http://127.0.0.1:" .. self.port
    os.execute(("rm -f %s/out; sh %s/examples/openresty/start.sh --listen 127.0.0.1:%d --prefix %s %s >%s/out 2>&1 &")
      :format(self.folder, given.root or ".", self.port, self.folder, words, self.folder))
    local is_up = M.wait_until("the gateway", function()
      if succeeds("curl -sf -m 5 " .. (given.health_url or self.url) .. "/health") then return "yes" end
      return read(self.folder .. "/out"):find "emerg" and "no"
    end)
    if is_up == "yes" then
      self.pid = M.wait_until("its pid", function() return tonumber(read(self.folder .. "/nginx.pid")) end)
      return self
    end
    if not read(self.folder .. "/out"):find "Address already in use" then break end
  end
  error("the gateway does not start: " .. read(self.folder .. "/out"))
end

--- Of a gateway's only queue: {slots, used, waiting}, all workers together.
function M.queue_of(gateway)
  local out = { slots = 0, used = 0, waiting = 0 }
  for _, worker in ipairs(json.decode((gateway:get "/status")).workers) do
    for _, upstream in pairs(worker.upstreams) do
      for name, n in pairs(upstream.queue or {}) do out[name] = out[name] + n end
    end
  end
  return out
end

--- A spec's body beside a gateway of its own; what it raises has the gateway's log with it.
-- @param upstream table  of M.upstream(), made to behave well  @param given table  as M.gateway takes it; upstream: by
-- default that one's URL  @param fn function  (gateway)
function M.with_gateway(upstream, given, fn)
  upstream:get "/behave?as=well"
  given.upstream = given.upstream or upstream.url
  local gateway = M.gateway(given)
  local ok, err = xpcall(fn, function(value)
    return type(value) == "string" and debug.traceback(value) .. gateway:log() or value
  end, gateway)
  gateway:stop()
  if not ok then error(err, 0) end
end

return M
