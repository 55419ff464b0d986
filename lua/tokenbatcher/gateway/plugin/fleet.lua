--- Gateways that come and go while requests are under way, for hosts whose configuration changes as they run. Each
-- configuration has one gateway in each worker. One whose configuration is gone takes what still comes of requests
-- that knew it, and stops when its last one is over: nothing in flight is lost.
--
--     local entry = fleet:of(conf)                      -- the one that runs, or a new one
--     local request = fleet:enter(entry, conf, who)     -- in access; then entry.gateway:handle(request)
--     fleets.leave(request)                             -- in log, whatever has become of it
--
-- A configuration that is no good has an entry without a gateway, so that the log says why once; its requests get
-- refusal().

local Board = require "tokenbatcher.gateway.board"
local clock = require "tokenbatcher.runtime.clock"
local complaints = require "tokenbatcher.gateway.complaints"
local errors = require "tokenbatcher.base.errors"
local gateways = require "tokenbatcher.gateway"
local host = require "tokenbatcher.runtime.host"
local options = require "tokenbatcher.gateway.plugin.options"
local pages = require "tokenbatcher.gateway.pages"
local problems = require "tokenbatcher.gateway.problems"
local replies = require "tokenbatcher.gateway.replies"
local requests = require "tokenbatcher.gateway.request"
local snapshots = require "tokenbatcher.gateway.snapshot"
local spawn = require "tokenbatcher.runtime.spawn"

local ngx = ngx -- luacheck: ignore

local M = {}
local Fleet = {}
Fleet.__index = Fleet

local SHM = "tokenbatcher" -- the shared dict of the workers, if there is one
local IDLE_US = 600e6 -- of one that nobody says is configured

--- A fleet, in each worker one.
function M.new()
  return setmetatable({ entries = {}, by_conf = setmetatable({}, { __mode = "k" }), past = {}, stopping = {},
    on_change = function() end }, Fleet)
end

-- --- starting and stopping ------------------------------------------------------------------------

local EXIT_S = 30 -- that an exiting worker waits; who waits for a slot then may wait as long as it would have

local function start(self, conf)
  local unresolved = options.unresolved(conf)
  if unresolved then errors.misuse(unresolved .. ": its reference could not be resolved") end
  local place = { workers = ngx.worker.count(), worker = ngx.worker.id() or 0 }
  local gateway = gateways.new(options.given(conf), { workers = place.workers })
  gateway:start(place)
  local queue = gateway.lines[1].queue
  if queue and queue.config.max_wait_s + 2 > EXIT_S then host.set_exit_timeout(queue.config.max_wait_s + 2) end
  gateway.on_change = function() self.on_change() end
  return gateway
end

local function new_entry(self, conf)
  local ok, gateway = pcall(start, self, conf)
  if ok then return { gateway = gateway, users = 0 } end
  complaints.log("error", "a plugin's configuration cannot be used: " .. errors.text(gateway))
  return { users = 0 }
end

-- What it has counted stays counted.
local function stop(self, entry)
  if entry.is_stopped then return end
  entry.is_stopped = true
  local gateway = entry.gateway
  if not gateway then return end
  self.stopping[gateway] = true
  spawn.spawn(function()
    for _, line in ipairs(gateway.lines) do
      line.batcher:stop()
      if line.queue then line.queue.batcher:stop() end
    end
    self.stopping[gateway] = nil
    snapshots.add(self.past, snapshots.take(gateway), true)
    self.on_change()
  end)
end

local function retire(self, name)
  local entry = self.entries[name]
  self.entries[name], entry.fleet = nil, self
  if entry.users == 0 then stop(self, entry) end
end

local function forget_idle(self, now_us)
  for name, entry in pairs(self.entries) do
    if entry.users == 0 and now_us - entry.used_us > IDLE_US then retire(self, name) end
  end
end

--- The gateway of a configuration, started if there is none of this name: who calls it says keep().
-- @return entry {gateway (nil: the configuration is no good), ...}
function Fleet:use(name, conf)
  self.entries[name] = self.entries[name] or new_entry(self, conf)
  return self.entries[name]
end

--- The same, by what the configuration says; one that was not used for ten minutes is forgotten.
function Fleet:of(conf)
  local name, now_us = self.by_conf[conf], clock.now_us()
  if not name then
    name = options.digest(conf)
    self.by_conf[conf] = name
  end
  if not self.entries[name] then forget_idle(self, now_us) end
  local entry = self:use(name, conf)
  entry.used_us = now_us
  return entry
end

--- Those are configured, and no others. @param names table  a set; empty: none
function Fleet:keep(names)
  for name in pairs(self.entries) do
    if not names[name] then retire(self, name) end
  end
end

-- --- requests -------------------------------------------------------------------------------------

-- Is it a path that is batched, or whose requests wait in the queue?
local function is_ours(gateway, path)
  local queue = gateway.lines[1].queue
  return path ~= nil and (gateway.protocols[path] ~= nil or queue ~= nil and queue:takes("POST", path))
end

-- Which of those a route's path stands for: "/ai/v1/embeddings" is "/v1/embeddings".
local function path_of(gateway, path)
  if is_ours(gateway, path) then return path end
  for _, ending in ipairs { "(/[^/]+/[^/]+/[^/]+)$", "(/[^/]+/[^/]+)$", "(/[^/]+)$" } do
    local found = path:match(ending)
    if is_ours(gateway, found) then return found end
  end
  return path
end

-- nginx crashes when a request is ended (ngx.exit) whose coroutine, which Kong has around a plugin, waits for a
-- semaphore. So who has left is answered, too: what it waited for is cancelled, and its code goes on.
local function on_abort(_, fn) ngx.on_abort(function() fn() end) end

--- The request that is being served, on its way to entry.gateway. @param consumer string|nil  whom the host knows
function Fleet.enter(_, entry, conf, consumer)
  local request = requests.new()
  local path = conf.path
  request.path = type(path) == "string" and path or path_of(entry.gateway, request.path)
  request.consumer, request.entry, request.on_abort = consumer, entry, on_abort
  entry.users = entry.users + 1
  return request
end

--- What a request gets whose configuration is no good. @return status, headers, body
function M.refusal()
  return replies.problem(problems.new(503, "misconfigured", "the gateway cannot serve this: its log says why"))
end

--- A request is over; more often does no harm. @param request table|nil
function M.leave(request)
  local entry = request and request.entry
  if not entry then return end
  request.entry = nil
  entry.gateway:over(request)
  entry.users = entry.users - 1
  if entry.fleet and entry.users == 0 then stop(entry.fleet, entry) end
end

-- --- what it says of itself -----------------------------------------------------------------------

--- As snapshot.lua has it, of all gateways that this worker has had; those of one upstream are one line.
function Fleet:snapshot()
  local out = {}
  snapshots.add(out, self.past, true)
  for _, entry in pairs(self.entries) do
    if entry.gateway then snapshots.add(out, snapshots.take(entry.gateway)) end
  end
  for gateway in pairs(self.stopping) do snapshots.add(out, snapshots.take(gateway)) end
  out.at_us, out.active, out.held = clock.now_us(), out.active or 0, out.held or 0
  return out
end

--- Is anything under way?
function Fleet:is_busy()
  for _, entry in pairs(self.entries) do
    if entry.users > 0 then return true end
  end
  return next(self.stopping) ~= nil
end

--- In each worker: what is counted is put where other workers see it, if there is a lua_shared_dict tokenbatcher.
function Fleet:join()
  local dict, id = ngx.shared[SHM], ngx.worker.id()
  if not dict or not id then return end
  self.board = Board.new { dict = dict, id = id, pid = ngx.worker.pid(),
    later = function(s, fn) return ngx.timer.at(s, fn) end, add = snapshots.add, complain = complaints.log,
    snapshot = function() return self:snapshot() end, is_busy = function() return self:is_busy() end }
  self.board:join()
  self.on_change = function() self.board:touch() end
end

--- A page of pages.lua ("/status", "/metrics"), of all workers, or without a shared dict of the one that is asked.
-- @return status, headers, body
function Fleet:page(path)
  local workers = self.board and self.board:read()
  if not workers then
    local snapshot = self:snapshot()
    snapshot.pid = ngx.worker.pid()
    workers = { { id = ngx.worker.id(), sum = snapshot, live = { snapshot } } }
  end
  local lines, seen = {}, {}
  for _, worker in ipairs(workers) do
    for name in pairs(worker.sum.lines or {}) do
      if not seen[name] then lines[#lines + 1] = { name = name } end
      seen[name] = true
    end
  end
  table.sort(lines, function(a, b) return a.name < b.name end)
  return pages.page({ lines = lines, auth_mode = function() return "plugin" end }, workers, { path = path })
end

return M
