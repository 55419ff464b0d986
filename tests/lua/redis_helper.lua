--- What the specs of Redis share: a redis-server of their own on a unix socket, which is stopped by its pid, and
-- runs on the real clock. Nothing else that runs here is touched.

local H = require "tests.lua.helper"
local clock = require "tokenbatcher.runtime.clock"
local connection = require "tokenbatcher.backend.redis.connection"
local pause = require "tokenbatcher.backend.redis.pause"
local tb = require "tokenbatcher"
local urls = require "tokenbatcher.backend.redis.url"

local M = {}

local GUARD_S = 30

local CLEAN = "unset LD_PRELOAD; " -- a sanitizer's library is for this process alone

local function output_of(command)
  local pipe = io.popen(CLEAN .. command)
  local text = pipe:read "*a"
  pipe:close()
  return (text:gsub("\n$", ""))
end
M.output_of = output_of

local function quoted(words)
  local out = {}
  for i, word in ipairs(words) do out[i] = "'" .. tostring(word):gsub("'", [['\'']]) .. "'" end
  return table.concat(out, " ")
end

--- Why Redis cannot be tested here, or nil.
function M.missing()
  if os.execute "command -v redis-server >/dev/null" ~= 0 then return "no redis-server (Debian: redis-server)" end
  if not pcall(require, "tokenbatcher.backend.redis.redis_ffi") then return "no libtokenbatcher_redis.so" end
end

--- A port of the loopback that nobody has at present.
function M.free_port()
  local socket = require "socket"
  local listener = assert(socket.bind("127.0.0.1", 0))
  local _, port = listener:getsockname()
  listener:close()
  return tonumber(port)
end

local Server = {}
Server.__index = Server

--- Start it, and wait until it answers. @param options string[]|nil  more words of its command line
function Server:start(options)
  if options then self.options = options end
  local words = { "redis-server", "--port", "0", "--unixsocket", self.socket, "--dir", self.folder, "--save", "",
    "--daemonize", "yes", "--pidfile", self.folder .. "/pid", "--logfile", self.folder .. "/log",
    unpack(self.options or {}) }
  assert(os.execute(CLEAN .. quoted(words) .. " >/dev/null 2>&1 </dev/null") == 0, "redis-server did not start")
  local ask = ("redis-cli -s '%s' ping 2>&1"):format(self.socket)
  repeat
    local answer = output_of(ask)
  until answer == "PONG" or answer:find "NOAUTH" or self.may_load and answer:find "LOADING"
  self.pid = tonumber(output_of(("cat '%s/pid'"):format(self.folder)))
end

--- A server in a folder of its own.
function M.server(options)
  local folder = output_of "mktemp -d"
  local self = setmetatable({ folder = folder, socket = folder .. "/redis.sock" }, Server)
  self.url = "redis+unix://" .. self.socket
  self:start(options)
  return self
end

--- @param signal string|nil  KILL by default; waits for its end, unless it only stops
function Server:kill(signal)
  os.execute(("kill -%s %d"):format(signal or "KILL", self.pid))
  if signal == "STOP" or signal == "CONT" then return end
  repeat until os.execute(("kill -0 %d 2>/dev/null"):format(self.pid)) ~= 0
end

--- Stop it, and remove what it has written.
function Server:stop()
  os.execute(("kill -CONT %d 2>/dev/null; kill -KILL %d 2>/dev/null; rm -rf '%s'"):format(self.pid, self.pid,
    self.folder))
end

--- redis-cli with these words. @return string
function Server:cli(...)
  return output_of(("redis-cli -s '%s' %s 2>&1"):format(self.socket, quoted { ... }))
end

--- Within a run: a command by a connection of ours. @return its reply; an error raises
function Server:call(...)
  local pump = clock.pump
  local redis = pump["connection to " .. self.socket]
  if not redis then
    redis = connection.new(assert(urls.parse(self.url)), { name = "spec" })
    pump["connection to " .. self.socket] = redis
  end
  assert(redis:wait_ready(GUARD_S), "Redis is away")
  return assert(redis:call(...))
end

--- The same, with the words in a list.
function Server:call_list(words)
  self:call "PING"
  return assert(clock.pump["connection to " .. self.socket]:call_list(words))
end

--- The same, false for an error.
function Server:try(...)
  local ok, value = pcall(self.call, self, ...)
  return ok and value
end

function Server:flush() self:cli "FLUSHALL" end

--- Add a record. @param fields table  a list {name, value, ...}  @return its id in the stream
function Server:add(stream, fields)
  return self:call("XADD", stream, "*", unpack(fields))
end

--- A stream as a list of tables {sid, name = value, ...}.
function Server:entries(stream)
  local out = {}
  for _, item in ipairs(self:call("XRANGE", stream, "-", "+")) do
    local entry = { sid = item[1] }
    for i = 1, #item[2], 2 do entry[item[2][i]] = item[2][i + 1] end
    out[#out + 1] = entry
  end
  return out
end

--- By their ids.
function Server:answers(stream)
  local out = {}
  for _, entry in ipairs(self:entries(stream)) do
    assert(not out[entry.id], "two answers for " .. tostring(entry.id))
    out[entry.id] = entry
  end
  return out
end

--- How many records of the group have no acknowledgement.
function Server:pending(stream)
  return self:call("XPENDING", stream, "tb")[1]
end

--- A spec whose body runs on the real clock.
function M.really(fn)
  return function() H.run(fn, "real") end
end

--- Within a run: wait until fn() is true; an error after a guard.
function M.wait_for(fn, what)
  local until_s = tb.now() + GUARD_S
  while not fn() do
    assert(tb.now() < until_s, "waited in vain for " .. (what or "something"))
    pause.bell():wait(0.02)
  end
end

--- A batcher that is running. @param options table  its options; inference_fn: default: the record, doubled
function M.batcher(options)
  local given = { inference_timeout_s = 20, batch_timeout_s = 0.005, max_batch_size = 16,
    inference_fn = function(records)
      local results = {}
      for i, record in ipairs(records) do results[i] = { n = record.n * 2 } end
      return results
    end }
  for name, value in pairs(options or {}) do given[name] = value end
  return tb.TokenBatcher(given):start()
end

--- A source that feeds a batcher. @return source, future of feed, batcher
function M.worker(server, options, batcher_options)
  local given = { url = server.url, stream = "S", lease_s = 1, log = function() end }
  for name, value in pairs(options or {}) do given[name] = value end
  local batcher = M.batcher(batcher_options)
  local source = tb.source.redis(given)
  assert(source:connect())
  local fed = tb.spawn(function() return source:feed(batcher) end)
  return source, fed, batcher
end

--- Call fn(source, batcher) while a worker works; then stop it.
function M.with_worker(server, options, batcher_options, fn)
  local source, fed, batcher = M.worker(server, options, batcher_options)
  local ok, err = pcall(fn, source, batcher)
  source:stop()
  local fed_ok, fed_err = fed:await()
  batcher:stop()
  if not ok then error(err, 0) end
  assert(fed_ok, fed_err)
end

--- A queue that sends. @param options table|nil
function M.queue(server, options)
  local given = { url = server.url, stream = "S", reconcile_s = 0.2, log = function() end }
  for name, value in pairs(options or {}) do given[name] = value end
  return tb.queue.redis(given)
end

-- --- programs -----------------------------------------------------------------------------

local Program = {}
Program.__index = Program

--- Start the command line as a process of its own, which is killed after a guard. @param words string[]
-- @param input string|nil  a file  @param environment string|nil  NAME=value ...  @return table {pid, log}
function M.program(server, name, words, input, environment)
  local cli = require "tests.lua.cli_helper"
  local self = setmetatable({ log = server.folder .. "/" .. name .. ".log" }, Program)
  local line = ("ulimit -c 0; %s exec '%s' %s >'%s' 2>&1 <'%s' & echo $!"):format(environment or "", cli.exe,
    quoted(words), self.log, input or "/dev/null")
  self.pid = tonumber(output_of(line))
  return self
end

function Program:kill(signal) os.execute(("kill -%s %d 2>/dev/null"):format(signal or "KILL", self.pid)) end

function Program:is_alive() return os.execute(("kill -0 %d 2>/dev/null"):format(self.pid)) == 0 end

function Program:output()
  local file = io.open(self.log, "rb")
  local text = file and file:read "*a" or ""
  if file then file:close() end
  return text
end

--- Within a run: wait until its output has this.
function Program:says(text)
  M.wait_for(function() return self:output():find(text, 1, true) end, ("'%s' in: %s"):format(text, self:output()))
end

--- Within a run: wait until it has ended. @return its output
function Program:ended()
  M.wait_for(function() return not self:is_alive() end, "its end: " .. self:output())
  return self:output()
end

return M
