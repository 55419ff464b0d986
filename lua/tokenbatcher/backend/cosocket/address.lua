--- Where a URL leads: host, port or unix socket, and what goes into the request line and Host.
--
-- nginx asks its `resolver` for a name, and it alone: what the machine knows without asking (/etc/hosts: localhost,
-- names of containers) is looked up here, in the file as it was when the first name was asked for.

local M = {}

local HOSTS = "/etc/hosts"
local PORTS = { http = 80, https = 443 }

local hosts -- name -> addresses, as nginx takes them

local function add_line(line)
  local address, names = line:gsub("#.*", ""):match "^%s*([%x.:]+)%s+(.*)$"
  if not address then return end
  if address:find ":" then address = "[" .. address .. "]" end
  for name in names:gmatch "%S+" do
    name = name:lower()
    hosts[name] = hosts[name] or {}
    table.insert(hosts[name], address)
  end
end

-- IPv4 first: what listens on one address of localhost alone listens there.
local function is_before(a, b) return a:sub(1, 1) ~= "[" and b:sub(1, 1) == "[" end

local function load_hosts()
  hosts = {}
  local file = io.open(HOSTS)
  if not file then return end
  for line in file:lines() do add_line(line) end
  file:close()
  for _, addresses in pairs(hosts) do
    local ordered = {}
    for _, want_four in ipairs { true, false } do
      for _, address in ipairs(addresses) do
        if is_before(address, "[") == want_four then ordered[#ordered + 1] = address end
      end
    end
    for i, address in ipairs(ordered) do addresses[i] = address end
  end
end

--- The addresses of a name, as far as they are known here; otherwise the name: nginx's resolver may know.
function M.addresses(host)
  if not hosts then load_hosts() end
  return hosts[host:lower()] or { host }
end

local function is_host(host)
  return host:find "^%[[%x:.]+%]$" or host:find "^[%w_.-]+$"
end

-- "http://unix:/path/of/socket:/v1" (as in nginx), "http://HOST[:PORT]/v1". @return host or nil, port, unix path, rest
local function split(rest)
  local unix, after = rest:match "^unix:(/[^:?#]*):?(.*)$"
  if unix then return nil, nil, unix, after end
  local authority
  authority, after = rest:match "^([^/?#]*)(.*)$"
  local host, port = authority:match "^(%[.*%]):?(%d*)$"
  if not host then host, port = authority:match "^([^:]*):?(%d*)$" end
  if not host or not is_host(host) then return nil end
  return host, port, nil, after
end

--- @param url string
-- @return table {scheme, is_tls, host (nil: a unix socket), port, unix, name (without brackets, for TLS), path,
-- query, authority (for Host), shown (for people: scheme, host and port)}; or nil and what is wrong, without quotes
function M.parse(url)
  local scheme, rest = url:match "^(%a+)://(.*)$"
  scheme = scheme and scheme:lower()
  if not PORTS[scheme] then return nil, "must begin with http:// or https://" end
  if url:find "[%c \127-\255]" then return nil, "holds a space, a control character or one that is not ASCII" end
  if rest:match "^[^/?#]*@" then return nil, "holds a user or a password: give api_key, or headers" end
  local host, port, unix, after = split(rest)
  if not host and not unix then return nil, "names no host" end
  port = port and port ~= "" and tonumber(port) or PORTS[scheme]
  if port < 1 or port > 65535 then return nil, "has a port that is none of 1 to 65535" end
  local path, query = after:match "^([^?#]*)(%??[^#]*)"
  if path ~= "" and path:sub(1, 1) ~= "/" then return nil, "has a path that does not begin with /" end
  local default = port == PORTS[scheme] and "" or ":" .. port
  local authority = host and host .. default or "localhost"
  return { scheme = scheme, is_tls = scheme == "https", host = host, port = port, unix = unix,
    name = host and host:gsub("^%[(.*)%]$", "%1") or "localhost", path = path, query = query,
    authority = authority, shown = scheme .. "://" .. (unix and "unix:" .. unix or authority) }
end

return M
