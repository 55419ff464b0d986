--- What the specs of HTTP share: the fault server (tests/http/fault_server.lua), and runs
-- on the real clock with a guard.

local ffi = require "ffi"
local H = require "tests.lua.helper"
local tb = require "tokenbatcher"

local M = {}

local GUARD_S = 120

ffi.cdef "int setenv(const char *name, const char *value, int overwrite); int unsetenv(const char *name);"

--- Change the environment. @param value string|nil  nil: the variable goes
function M.setenv(name, value)
  if value then ffi.C.setenv(name, value, 1) else ffi.C.unsetenv(name) end
end

--- Why HTTP cannot be tested here, or nil.
function M.missing()
  if not pcall(require, "socket") then return "no Lua module socket (Debian: lua-socket)" end
  if not pcall(require, "tokenbatcher.backend.http.http_ffi") then return "no libtokenbatcher_http.so" end
end

--- Start the server, killed after guard_s (120). @return table {url, port, socket, stop()}
function M.server(guard_s)
  local folder_pipe = io.popen "mktemp -d"
  local folder = folder_pipe:read "*l"
  folder_pipe:close()
  local path = folder .. "/http.sock"
  local command = "unset LD_PRELOAD; exec timeout %d luajit tests/http/fault_server.lua %s"
  local pipe = io.popen(command:format(guard_s or GUARD_S, path))
  local port, pid = pipe:read("*n", "*n")
  assert(port and pid, "the fault server did not start")
  local server = { port = port, socket = path, url = "http://127.0.0.1:" .. port }
  function server.stop()
    os.execute(("kill %d; rm -rf %s"):format(pid, folder))
    pipe:close()
  end
  return server
end

--- A spec whose body runs on the real clock.
function M.really(fn)
  return function() H.run(fn, "real") end
end

--- An HTTPS server for localhost with a certificate of its own, or nil where openssl is
-- missing. @return table {url, other_url (a name that the certificate lacks), ca_file, stop()}
function M.tls_server()
  if os.execute "command -v openssl >/dev/null" ~= 0 then return nil end
  local pipe = io.popen([[unset LD_PRELOAD; dir=$(mktemp -d); cd "$dir"; echo "$dir"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out cert.pem -days 2 \
      -subj /CN=localhost -addext subjectAltName=DNS:localhost 2>/dev/null
    sh -c 'echo $$; exec timeout ]] .. GUARD_S .. [[ openssl s_server -accept 127.0.0.1:0 -www -cert cert.pem \
      -key key.pem' 2>&1]])
  local folder, pid = pipe:read "*l", pipe:read "*n"
  local port
  repeat
    local line = assert(pipe:read "*l", "openssl s_server did not start")
    port = line:match "^ACCEPT .*:(%d+)$"
  until port
  local server = { ca_file = folder .. "/cert.pem", url = "https://localhost:" .. port,
    other_url = "https://127.0.0.1:" .. port }
  function server.stop()
    os.execute(("kill %d; rm -rf %s"):format(pid, folder))
    pipe:close()
  end
  return server
end

local function decoded(response)
  return require("cjson").decode(response.body)
end

--- {stats = {requests, connections, aborted, open}, log = {...}} of a server.
function M.stats(server)
  return decoded(assert(tb.http.get(server.url .. "/stats")))
end

--- The same, once a counter has reached a number: for what the server learns a little later.
function M.stats_once(server, counter, least)
  return decoded(assert(tb.http.get(("%s/wait/%d/%s"):format(server.url, least, counter))))
end

--- How many of the requests that the server has seen had this path.
function M.count(server, path)
  local n = 0
  for _, entry in ipairs(M.stats(server).log) do
    if entry.path == path then n = n + 1 end
  end
  return n
end

return M
