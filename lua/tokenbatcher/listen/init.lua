--- tb.listen{...}: a page, metrics and health of batchers over HTTP, on the loop that they run in, and (asked for) a
-- unix socket through which their options are changed. See README.md here.
--
--     tb.run(function()
--       local batcher = tb.TokenBatcher{ ... }
--       local listener = assert(tb.listen{ address = "127.0.0.1:9464", batchers = { batcher } })
--       print(listener.address)
--       ...
--       listener:close()                 -- or the end of the run does it
--     end)
--
-- It keeps no run going: when all else has ended, it is closed.

local address = require "tokenbatcher.listen.address"
local batcher_class = require "tokenbatcher.batching.batcher"
local clock = require "tokenbatcher.runtime.clock"
local errors = require "tokenbatcher.base.errors"
local loop = require "tokenbatcher.runtime.loop"
local parameters = require "tokenbatcher.base.parameters"

local M = {}

M.parameters = {
  { name = "address", kind = "string" }, -- see address.lua
  { name = "batchers", kind = "table", required = true }, -- a list, or one
  { name = "remote", kind = "boolean", default = false }, -- may address be one that other machines reach?
  { name = "hosts", kind = "table", default = {} }, -- names, beside localhost and the address, that a Host may be
  { name = "health", kind = "table", default = {} }, -- limits of /health
  { name = "control", kind = "string" }, -- "unix:PATH"; without it nothing can be changed
  { name = "metrics", kind = "function" }, -- returns more lines of /metrics, each ended
  { name = "complete", kind = "function" }, -- may change what control is to set
  { name = "log", kind = "function" }, -- log(level, text); without it: standard error
}

M.HEALTH = {
  { name = "oldest_queued_s", kind = "number", above = 0, max = 1e9, unit = "seconds" },
  { name = "oldest_running_s", kind = "number", above = 0, max = 1e9, unit = "seconds" },
}

local REMOTE = "%s: %s can be reached from other machines, and nobody is asked who he is: whoever reaches it reads "
  .. "the figures. %s if that is meant"

-- --- what is given ------------------------------------------------------------------------

local function batchers_of(given)
  local list, by_name = batcher_class.is_batcher(given) and { given } or given, {}
  for i, it in ipairs(list) do
    if not batcher_class.is_batcher(it) then errors.misuse(("listen: batchers[%d] is no batcher"):format(i)) end
    local name = it:option "name" or ""
    if by_name[name] then
      errors.misuse(("listen: batchers[%d] and [%d] are both named '%s'; give each a name of its own (option name)")
        :format(by_name[name], i, errors.text(name)))
    end
    by_name[name] = i
  end
  if #list == 0 then errors.misuse "listen: batchers must be a batcher or a list of them" end
  return list
end

local function hosts_of(list)
  local set = {}
  for _, host in ipairs(list) do
    local name = type(host) == "string" and address.host_of(host)
    if not name or name ~= host:lower() then
      errors.misuse("listen: hosts must be names without a port, got " .. errors.show(host))
    end
    set[name] = true
  end
  return set
end

local function place_of(what, text)
  local place, message = address.parse(text)
  if not place then errors.misuse(("listen: %s: %s"):format(what, message)) end
  return place
end

local function check_pump()
  if not clock.pump then loop.outside() end
  if clock.pump.is_virtual then errors.misuse "listen needs the real clock: nobody can come under the virtual one" end
  if not clock.pump.attach then errors.misuse "listen is for libev's loop; in nginx the gateway has its own pages" end
end

local function log_to_stderr(_, text) io.stderr:write("tokenbatcher: ", text, "\n") end

-- --- listening ------------------------------------------------------------------------------

-- @param words table  how this is called: who; remote: what to do where other machines could reach it
local function open(place, text, is_remote, opts, words)
  local server_module = require "tokenbatcher.listen.server"
  local C = require("tokenbatcher.listen.listen_ffi").lib
  place.is_remote = is_remote
  local server, refusal, message = server_module.open(place, opts)
  if server then return server end
  if refusal == C.TB_LISTEN_EREMOTE then errors.misuse(REMOTE:format(words.who, text, words.remote)) end
  return nil, errors.new("listen_failed", ("cannot listen at %s: %s"):format(text, message))
end

-- A batcher has one watcher, whoever listens: batcher -> {watch, users}.
local watching = {}

local function watch(batcher)
  local it = watching[batcher] or { watch = require("tokenbatcher.listen.watch").new(batcher), users = 0 }
  watching[batcher], it.users = it, it.users + 1
  return it.watch
end

local function unwatch(batcher)
  local it = watching[batcher]
  it.users = it.users - 1
  if it.users > 0 then return end
  it.watch:close()
  watching[batcher] = nil
end

local function close_all(batchers)
  return function()
    for _, batcher in ipairs(batchers) do unwatch(batcher) end
  end
end

local function open_routes(p, place, batchers, log, words)
  local watches = {}
  for i, batcher in ipairs(batchers) do watches[i] = watch(batcher) end
  local routes = require("tokenbatcher.listen.routes").new {
    batchers = batchers, watches = watches, health = p.health, hosts = hosts_of(p.hosts),
    more = p.metrics or function() return "" end,
  }
  routes.events = require("tokenbatcher.listen.events").new(function(after) return routes:state(after) end)
  local forget = close_all(batchers)
  local ok, server, err = pcall(open, place, p.address, p.remote, { log = log, streams = routes.events,
    on_close = forget, serve = function(request, server) return routes:serve(request, server) end }, words)
  if not (ok and server) then forget() end
  if not ok then error(server, 0) end
  return server, err
end

local function open_control(p, place, batchers, log)
  local control = require("tokenbatcher.listen.control").new { batchers = batchers, log = log, complete = p.complete }
  return open(place, p.control, false, { log = log,
    serve = function(request) return control:serve(request) end })
end

local function check(given)
  local p = parameters.read("listen", M.parameters, given)
  p.health = parameters.read("listen: health", M.HEALTH, p.health)
  if not (p.address or p.control) then errors.misuse "listen: an address is needed, or control" end
  if p.control and not p.control:find "^unix:." then
    errors.misuse("listen: control must be unix:PATH (who may change options is who may open the file), got "
      .. errors.show(p.control))
  end
  return p
end

--- @class tokenbatcher.Listener
--- @field address string|nil  where it listens, with the port that it got
--- @field control string|nil  "unix:PATH"
local Listener = {}
Listener.__index = Listener

--- Nobody listens any more; connections end. Twice is fine.
function Listener:close()
  local servers = self.servers
  self.servers = {}
  for _, server in ipairs(servers) do server:stop() end
end

--- The same for who calls it otherwise. @param words table  see open()
function M.open(given, words)
  local p = check(given)
  local batchers, at = batchers_of(p.batchers), p.address and place_of("address", p.address)
  local control_at = p.control and place_of("control", p.control)
  hosts_of(p.hosts)
  check_pump()
  local self, log, err = setmetatable({ servers = {} }, Listener), p.log or log_to_stderr, nil
  local function keep(server)
    self.servers[#self.servers + 1] = server
    return server and server.address
  end
  if at then
    local server
    server, err = open_routes(p, at, batchers, log, words)
    self.address = keep(server)
  end
  if control_at and not err then
    local server
    server, err = open_control(p, control_at, batchers, log)
    self.control = keep(server)
  end
  if not err then return self end
  self:close()
  return nil, err
end

--- A page, metrics and health of batchers over HTTP, on their loop; it keeps no run going. Misuse raises.
-- @return a listener; or nil and an err (listen_failed: somebody listens there, say)
function M.listen(given)
  return M.open(given, { who = "listen", remote = "Say remote = true" })
end

return M
