--- The gateway inside nginx (OpenResty): requests come from ngx, answers go to it, snapshots into a shared dict.
-- Nothing of a protocol is here. How it is used: examples/openresty/nginx.conf and gateway.conf.

local Board = require "tokenbatcher.gateway.board"
local errors = require "tokenbatcher.base.errors"
local host = require "tokenbatcher.runtime.host"
local gateways = require "tokenbatcher.gateway"
local nginx_traces = require "tokenbatcher.gateway.nginx_traces"
local nginx_view = require "tokenbatcher.gateway.nginx_view"
local pages = require "tokenbatcher.gateway.pages"
local passed = require "tokenbatcher.gateway.nginx_passed"
local requests = require "tokenbatcher.gateway.request"
local snapshots = require "tokenbatcher.gateway.snapshot"
local spawn = require "tokenbatcher.runtime.spawn"

local ngx = ngx -- luacheck: ignore

local M = {}
local Host = {}
Host.__index = Host

--- In init_by_lua. @param given table  see config.lua: what is wrong with it ends nginx's start
function M.new(given)
  local gateway = gateways.new(given, { workers = ngx.worker.count() })
  local name = gateway.config.shm
  local dict = ngx.shared[name] or errors.misuse("gateway: there is no lua_shared_dict " .. name)
  return setmetatable({ gateway = gateway, dict = dict, passed_on = passed.new() }, Host)
end

local EXIT_S = 30 -- that an exiting worker waits, see tb.exit_timeout

-- Who waits for a slot when the worker is told to leave may wait as long as it would have.
local function stay_for_the_queues(gateway)
  local longest_s = 0
  for _, line in ipairs(gateway.lines) do
    longest_s = math.max(longest_s, line.queue and line.queue.config.max_wait_s or 0)
  end
  if longest_s + 2 > EXIT_S then host.set_exit_timeout(longest_s + 2) end
end

--- In init_worker_by_lua.
function Host:init_worker()
  local gateway, id = self.gateway, ngx.worker.id()
  if not id then return end -- a cache manager, say
  stay_for_the_queues(gateway)
  gateway:start { workers = ngx.worker.count(), worker = id }
  local board = Board.new { dict = self.dict, id = id, pid = ngx.worker.pid(),
    later = function(s, fn) return ngx.timer.at(s, fn) end, add = snapshots.add, complain = gateway.complaints.log,
    snapshot = function() return snapshots.take(gateway) end, is_busy = function() return gateway:is_busy() end }
  self.board = board
  board:join()
  gateway.on_change = function() board:touch() end
  self.view = nginx_view.start(gateway, self.dict, board)
  nginx_traces.start(gateway)
  if id == 0 then spawn.spawn(gateway.probe, gateway) end
end

-- --- a request ---------------------------------------------------------------------------------

local function reply(status, headers, body)
  local header = ngx.header
  ngx.status = status
  header["content-type"], header["x-request-id"] = headers["content-type"], headers["x-request-id"]
  if status ~= 204 then header["content-length"] = #body end
  if status ~= 200 or headers.vary or headers["access-control-allow-origin"] then
    for name, value in pairs(headers) do header[name] = value end
  end
  if ngx.req.get_method() ~= "HEAD" then ngx.print(body) end
end

--- In content_by_lua: serve a request.
function Host:content()
  local request = requests.new()
  ngx.ctx.tokenbatcher = request
  local status, headers, body = self.gateway:handle(request)
  if status then return reply(status, headers, body) end
  self.passed_on:keep(request)
  ngx.var.pass_url, ngx.var.pass_host, ngx.var.pass_name = headers.url, headers.host, headers.tls_name or headers.host
  for name, value in pairs(headers.headers) do ngx.req.set_header(name, value or nil) end
  return ngx.exec "@pass"
end

--- In access_by_lua of a location that has a proxy_pass of its own: a request waits for a slot of its upstream's queue.
function Host:admit()
  local request = requests.new()
  ngx.ctx.tokenbatcher = request
  local status, headers, body = self.gateway:admit(request)
  if not status then return self.passed_on:keep(request) end
  reply(status, headers, body)
  return ngx.exit(ngx.HTTP_OK)
end

--- In log_by_lua of the server: a request is over, whatever has become of it.
function Host:over()
  local request = self.passed_on:take() or ngx.ctx.tokenbatcher
  if request then self.gateway:over(request) end
end

--- In header_filter_by_lua of @pass.
function Host:passed()
  local added = self.gateway:passed(ngx.status, requests.headers())
  for name, value in pairs(added) do ngx.header[name] = value end
end

--- In content_by_lua of where error_page leads: what nginx itself has refused.
function Host:refused() return reply(self.gateway:refusal(ngx.status, requests.new())) end

--- In content_by_lua: /metrics, /health, /ready and /status of all workers, and the live page below /tb/.
function Host:page()
  local request = requests.new()
  if request.path == "/tb" then return ngx.redirect "/tb/" end
  local path = request.path:match "^/tb/(.*)$"
  if not path then return reply(pages.page(self.gateway, self.board:read(), request)) end
  local refused = nginx_view.serve(self.view, path)
  if refused then return reply(self.gateway:refusal(refused, request)) end
end

return M
