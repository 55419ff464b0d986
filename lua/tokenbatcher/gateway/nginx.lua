--- The gateway inside nginx (OpenResty): requests come from ngx, answers go to it, snapshots into a shared dict.
-- Nothing of a protocol is here. How it is used: examples/openresty/nginx.conf and gateway.conf.

local Board = require "tokenbatcher.gateway.board"
local errors = require "tokenbatcher.base.errors"
local gateways = require "tokenbatcher.gateway"
local pages = require "tokenbatcher.gateway.pages"
local snapshots = require "tokenbatcher.gateway.snapshot"
local spawn = require "tokenbatcher.runtime.spawn"

local ngx = ngx -- luacheck: ignore

local M = {}
local Host = {}
Host.__index = Host

--- In init_by_lua. @param given table  see config.lua: what is wrong with it ends nginx's start
function M.new(given)
  local gateway = gateways.new(given)
  local name = gateway.config.shm
  local dict = ngx.shared[name] or errors.misuse("gateway: there is no lua_shared_dict " .. name)
  return setmetatable({ gateway = gateway, dict = dict }, Host)
end

--- In init_worker_by_lua.
function Host:init_worker()
  local gateway, id = self.gateway, ngx.worker.id()
  if not id then return end -- a cache manager, say
  gateway:start()
  local board = Board.new { dict = self.dict, id = id, pid = ngx.worker.pid(),
    later = function(s, fn) return ngx.timer.at(s, fn) end, add = snapshots.add, complain = gateway.complaints.log,
    snapshot = function() return snapshots.take(gateway) end, is_busy = function() return gateway.active > 0 end }
  self.board = board
  board:join()
  gateway.on_change = function() board:touch() end
  if id == 0 then spawn.spawn(gateway.probe, gateway) end
end

-- --- a request: see init.lua ------------------------------------------------------------------

local Request = {}
Request.__index = Request

-- A header is looked up when it is asked for; false: there is none. (That of each name of a variable is remembered.)
local variables = setmetatable({}, { __index = function(self, name)
  self[name] = "http_" .. name:gsub("-", "_")
  return self[name]
end })
local Headers = { __index = function(self, name)
  local value = ngx.var[variables[name]] or false
  self[name] = value
  return value
end }

local function new_request()
  return setmetatable({ method = ngx.req.get_method(), path = ngx.var.uri, address = ngx.var.remote_addr,
    headers = setmetatable({}, Headers) }, Request)
end

function Request.target() return ngx.var.request_uri end
function Request.announced() return tonumber(ngx.var.http_content_length) end

function Request:receive()
  ngx.req.read_body()
  self.data = ngx.req.get_body_data()
  self.file = not self.data and ngx.req.get_body_file() and assert(io.open(ngx.req.get_body_file(), "rb"))
  return self.data and #self.data or self.file and self.file:seek "end" or 0
end

function Request:text()
  if not self.file then return self.data end
  self.file:seek "set"
  return self.file:read "*a", self.file:close()
end

function Request.on_abort(_, fn) ngx.on_abort(function() fn() ngx.exit(499) end) end

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
  local request = new_request()
  ngx.ctx.tokenbatcher = request
  local status, headers, body = self.gateway:handle(request)
  if status then return reply(status, headers, body) end
  ngx.var.pass_url, ngx.var.pass_host, ngx.var.pass_name = headers.url, headers.host, headers.tls_name or headers.host
  for name, value in pairs(headers.headers) do ngx.req.set_header(name, value or nil) end
  return ngx.exec "@pass"
end

--- In log_by_lua of the same location: a request is over, whatever has become of it.
function Host:over()
  local request = ngx.ctx.tokenbatcher
  if request then self.gateway:over(request) end
end

--- In header_filter_by_lua of @pass.
function Host:passed()
  local added = self.gateway:passed(ngx.status, setmetatable({}, Headers))
  for name, value in pairs(added) do ngx.header[name] = value end
end

--- In content_by_lua of where error_page leads: what nginx itself has refused.
function Host:refused() return reply(self.gateway:refusal(ngx.status, new_request())) end

--- In content_by_lua: /metrics, /health, /ready and /status of all workers.
function Host:page()
  return reply(pages.page(self.gateway, self.board:read(), new_request()))
end

return M
