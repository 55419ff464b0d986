--- A request as OpenResty has it, for every host that is one (what a request is: see init.lua).

local ngx = ngx -- luacheck: ignore

local M = {}
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

--- The headers of the request that is being served.
function M.headers() return setmetatable({}, Headers) end

--- The request that is being served.
function M.new()
  return setmetatable({ method = ngx.req.get_method(), path = ngx.var.uri, address = ngx.var.remote_addr,
    headers = M.headers() }, Request)
end

function Request.target() return ngx.var.request_uri end
function Request.announced() return tonumber(ngx.var.http_content_length) end

-- A body that is larger than client_body_buffer_size is in a file.
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

-- Without `lua_check_client_abort on` nginx refuses this, and who has left is noticed when it is answered.
function Request.on_abort(_, fn) ngx.on_abort(function() fn() ngx.exit(499) end) end

return M
