--- The link of a connection (connection.lua) in an nginx worker: a cosocket of its own, which no pool of nginx's has.
--
-- A cosocket belongs to the request in which it was made, so each session (from open() to shut()) is a task in a
-- timer's request: its own light thread writes what others have left for it, a second one reads.

local address = require "tokenbatcher.backend.cosocket.address"
local clock = require "tokenbatcher.runtime.clock"
local errors = require "tokenbatcher.base.errors"
local pause = require "tokenbatcher.backend.redis.pause"
local resp = require "tokenbatcher.backend.redis.resp"
local tasks = require "tokenbatcher.runtime.tasks"

local ngx = rawget(_G, "ngx")

local M = {}
local Link = {}
Link.__index = Link

local WAITING_BYTES = 268435456 -- of commands, before a write is refused: as the C library's
local SEND_S = 5

--- @param owner table  the connection
function M.new(owner)
  return setmetatable({ owner = owner, bell = pause.bell() }, Link)
end

-- --- a session ------------------------------------------------------------------------------

local function lose(session, why)
  if not session.is_over then session.link.owner:lose(why) end
end

local function complain(session, err, traceback)
  ngx.log(ngx.ERR, "tokenbatcher: a connection to Redis: ", errors.text(err), "\n", traceback or "")
  lose(session, "a fault of ours")
end

-- Nothing is read while nothing is owed: what times out is silence (and a line in nginx's log).
local function read(session, socket)
  local reader, owner = resp.reader(socket, session.address.silence_s), session.link.owner
  while not session.is_over do
    if owner:is_owed() then
      local value, why = reader:read()
      if session.is_over then return end
      if value == nil then return lose(session, why) end
      owner:take(value)
    else
      session.asked:wait()
    end
  end
end

local function read_guarded(session, socket)
  local ok, err = pcall(read, session, socket)
  if not ok then complain(session, err) end
end

local function write(session, socket)
  while not session.is_over do
    if session.n == 0 then session.bell:wait() end
    if session.n > 0 and not session.is_over then
      local out = session.out
      session.out, session.n, session.bytes = {}, 0, 0
      local sent, err = socket:send(out)
      if not sent then return lose(session, err == "timeout" and "it takes nothing" or err) end
    end
  end
end

local function connect_to(to, host)
  local socket = ngx.socket.tcp()
  socket:settimeouts(to.connect_timeout_s * 1000, SEND_S * 1000, to.silence_s * 1000)
  local options = { pool = "tokenbatcher redis", pool_size = 1 } -- nothing is ever put into it
  local ok, err
  if host then
    ok, err = socket:connect(host, to.port, options)
  else
    ok, err = socket:connect("unix:" .. to.unix_socket, options)
  end
  return ok and socket, err
end

-- What nginx says of a connection that there is not.
local function connect_message(err)
  if err == "timeout" then return "not connected within the time for it" end
  if err:find "no resolver defined" then return "nginx has no `resolver` to ask for its name" end
  return err
end

-- @return socket, or nil and what is wrong
local function connect(to)
  local hosts = to.unix_socket and { false } or to.host:find ":" and { "[" .. to.host .. "]" }
    or address.addresses(to.host)
  local socket, err
  for _, host in ipairs(hosts) do
    socket, err = connect_to(to, host)
    if socket then return socket end
  end
  return nil, connect_message(err)
end

-- The body of a task.
local function run(session)
  local socket, why = connect(session.address)
  if not socket then return lose(session, why) end
  local thread = ngx.thread.spawn(read_guarded, session, socket)
  write(session, socket)
  ngx.thread.kill(thread)
  socket:close()
end

local function ended(task, ok, err)
  if not ok then complain(task.arguments[1], err, task.traceback) end
end

-- --- for the connection -----------------------------------------------------------------------

--- @param to table  unix_socket, or host and port; connect_timeout_s, silence_s
function Link:open(to)
  self.session = { link = self, address = to, bell = pause.bell(), asked = pause.bell(), out = {}, n = 0, bytes = 0,
    is_over = false }
  tasks.start(run, { n = 1, self.session }, ended)
end

local function put(session, text)
  session.n = session.n + 1
  session.out[session.n] = text
  session.bytes = session.bytes + #text
end

--- @param words table  strings and numbers  @return boolean  false: it cannot be written now
function Link:write(words, n)
  local session = self.session
  if not session or session.bytes > WAITING_BYTES then return false end
  put(session, "*" .. n .. "\r\n")
  for i = 1, n do
    local word = words[i]
    if type(word) ~= "string" then word = ("%.14g"):format(word) end
    put(session, "$" .. #word .. "\r\n")
    put(session, word)
    put(session, "\r\n")
  end
  session.bell:ring()
  session.asked:ring()
  return true
end

function Link:shut()
  local session = self.session
  self.session = nil
  if not session then return end
  session.is_over = true
  session.bell:ring()
  session.asked:ring()
end

local function wait_and_open(link, at_us)
  link.bell:wait(math.max(0, (at_us - clock.now_us()) / 1e6))
  if link.owner.retry_at == at_us then link.owner:open() end
end

--- Open it at that time.
function Link:again(at_us)
  tasks.start(wait_and_open, { n = 2, self, at_us }, function(task, ok, err)
    if not ok then ngx.log(ngx.ERR, "tokenbatcher: ", errors.text(err), "\n", task.traceback or "") end
  end)
end

function Link:free()
  self:shut()
  self.bell:ring()
end

return M
