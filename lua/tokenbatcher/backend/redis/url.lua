--- Where a Redis is, from a URL:
--
--     redis://[user[:password]@]host[:port][/database]
--     redis+unix:///path/of/the/socket[?db=number]
--
-- What is special in user or password is written as %XX. A password may be in the environment instead:
-- TOKENBATCHER_REDIS_PASSWORD. Messages never quote a URL that may hold one.

local M = {}

local NO_TLS = "rediss:// (TLS) is not spoken: the Debian package of hiredis has none; run stunnel (or another TLS "
  .. "proxy) beside this program and give its redis:// address"
local NO_SENTINEL = "redis+sentinel:// is not supported: give the address of the master, or of a proxy that follows it"

M.DEFAULT = "redis://127.0.0.1:6379"

local function decoded(text)
  if text == nil or text == "" then return nil end
  return (text:gsub("%%(%x%x)", function(digits) return string.char(tonumber(digits, 16)) end))
end

local function database(text)
  if text == nil or text == "" then return 0 end
  local number = text:match "^%d+$" and tonumber(text)
  return number and number <= 65535 and number or nil
end

local function of_unix(rest)
  local path, query = rest:match "^(/[^?]*)%??(.*)$"
  if not path then return nil, "redis+unix:// needs a path, as in redis+unix:///run/redis.sock" end
  local db = database(query:match "^db=(%d+)$" or query)
  if not db then return nil, "after the path only ?db=NUMBER may follow" end
  path = decoded(path)
  if #path > 107 then return nil, "the socket's path is longer than 107 bytes" end
  return { unix_socket = path, db = db, shown = "redis+unix://" .. path }
end

local function of_host(rest)
  local place, db_text = rest:match "^([^/?]*)/?(.*)$"
  local credentials, host_port = place:match "^(.*)@([^@]*)$"
  host_port = host_port or place
  local host, port = host_port:match "^%[([%x:.]+)%]:?(%d*)$"
  if not host then host, port = host_port:match "^([^:]*):?(%d*)$" end
  if not host or host == "" or host:find "[^%w%.%-_:]" then return nil, "it names no host" end
  port = port == "" and 6379 or tonumber(port)
  if port < 1 or port > 65535 then return nil, "a port is a number from 1 to 65535" end
  local db = database(db_text)
  if not db then return nil, "a database is a number from 0 to 65535" end
  local out = { host = host, port = port, db = db, shown = ("redis://%s:%d"):format(host, port) }
  if credentials then
    local user, password = credentials:match "^([^:]*):?(.*)$"
    out.user, out.password = decoded(user), decoded(password)
  end
  return out
end

--- @return table {unix_socket or host and port, db, user, password, shown}, or nil and a message
function M.parse(text)
  if type(text) ~= "string" then return nil, "a Redis URL must be a string, got a " .. type(text) end
  local scheme, rest = text:match "^([%w+]+)://(.*)$"
  scheme = scheme and scheme:lower()
  local out, message
  if scheme == "rediss" then return nil, NO_TLS end
  if scheme == "redis+sentinel" then return nil, NO_SENTINEL end
  if text:find "[%c ]" then return nil, "a Redis URL has no spaces nor control characters" end
  if scheme == "redis" then
    out, message = of_host(rest)
  elseif scheme == "redis+unix" or scheme == "unix" then
    out, message = of_unix(rest)
  else
    message = "it must begin with redis:// or redis+unix://"
  end
  if not out then return nil, "not a Redis URL: " .. message end
  out.password = out.password or os.getenv "TOKENBATCHER_REDIS_PASSWORD"
  if out.password == "" then out.password = nil end
  if out.user and not out.password then
    return nil, "not a Redis URL: there is a user, and no password (nor TOKENBATCHER_REDIS_PASSWORD)"
  end
  return out
end

return M
