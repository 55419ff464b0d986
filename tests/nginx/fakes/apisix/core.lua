--- Of apisix.core what the plugin meets. See runtime.lua.

local json_schema = require "apisix.json_schema"

local M = { schema = { TYPE_CONSUMER = 1, TYPE_METADATA = 2, check = json_schema.check }, response = {} }

function M.response.set_header(name, value)
  assert(not ngx.headers_sent and type(name) == "string" and value ~= nil)
  ngx.header[name] = value
end

--- It does not return.
function M.response.exit(code, body)
  assert(type(code) == "number", "code is no number")
  ngx.status = code
  if type(body) == "table" then
    body = require("cjson").encode(body)
    ngx.header["Content-Type"] = ngx.header["Content-Type"] or "application/json"
  end
  if body then ngx.print(body) end
  return ngx.exit(code)
end

return M
