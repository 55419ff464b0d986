--- Where to listen, as people write it: "127.0.0.1:9464", "[::1]:0", "localhost:9464", "unix:PATH". No name but
-- localhost is looked up: that would have to wait.

local errors = require "tokenbatcher.base.errors"

local M = {}

local function port_of(text)
  local port = tonumber(text)
  return port and port <= 65535 and port or nil
end

--- @return table {host, port} or {path}, or nil and a message
function M.parse(text)
  local path = text:match "^unix:(.+)$"
  if path and not path:find "%z" then return { path = path } end
  local host, port = text:match "^%[([%x:.]+)%]:(%d+)$"
  if not host then host, port = text:match "^([%d.]+):(%d+)$" end
  if not host and text:lower():match "^localhost:%d+$" then host, port = "127.0.0.1", text:match "%d+$" end
  port = host and port_of(port)
  if port then return { host = host, port = port } end
  return nil, ("an address looks like 127.0.0.1:9464, [::1]:9464 (port 0: any that is free) or unix:PATH, got %s")
    :format(errors.show(text))
end

--- The host of a Host header, lower case, without port and brackets; nil: it is none.
function M.host_of(header)
  local host = header:match "^%[([%x:.]+)%]$" or header:match "^%[([%x:.]+)%]:%d*$"
    or header:match "^([%w._-]+)$" or header:match "^([%w._-]+):%d*$"
  return host and host:lower()
end

return M
