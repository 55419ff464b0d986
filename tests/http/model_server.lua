--- Starts the real embedding model of ../shared/tools/embeddings-server (a copy of it, since
-- npm installs into its folder), for the tests that run on it.

local M = {}

local function output_of(command)
  local pipe = io.popen(command)
  local text = pipe:read "*a"
  pipe:close()
  return (text:gsub("\n$", ""))
end

local function exists(path)
  local file = io.open(path)
  if file then file:close() end
  return file ~= nil
end

--- The folder `shared`: beside the checkout, or where TB_SHARED says.
function M.shared()
  return os.getenv "TB_SHARED" or "../shared"
end

--- Why it cannot run here, or nil.
function M.missing()
  if not exists(M.shared() .. "/tools/embeddings-server/server.js") then return "no ../shared/tools" end
  if not exists(M.shared() .. "/data/prompts/gsm8k_test.jsonl") then return "no ../shared/data" end
  if output_of "command -v node && command -v npm" == "" then return "no node with npm" end
  if not pcall(require, "socket") then return "no Lua module socket (Debian: lua-socket)" end
end

local function free_port()
  local listener = assert(require("socket").bind("127.0.0.1", 0))
  local _, port = listener:getsockname()
  listener:close()
  return port
end

local SCRIPT = [[
unset LD_PRELOAD
cp %s/tools/embeddings-server/* %s && cd %s && chmod u+w * &&
npm install --no-audit --no-fund >npm.log 2>&1 || { echo failed; exit 1; }
echo installed
exec sh -c 'echo $$; exec timeout %d node server.js --port %s' 2>&1
]]

--- @param guard_s number  it is killed after that
-- @return table {url (with /v1), stop()}, or nil and why it did not start
function M.start(guard_s)
  local missing = M.missing()
  if missing then return nil, missing end
  local folder, port = output_of "mktemp -d", free_port()
  local pipe = io.popen(SCRIPT:format(M.shared(), folder, folder, guard_s, port))
  local function clean()
    pipe:close()
    os.execute("rm -rf " .. folder)
  end
  if pipe:read "*l" ~= "installed" then
    clean()
    return nil, "npm install failed (is a registry reachable?)"
  end
  local pid = pipe:read "*n"
  repeat
    local line = pipe:read "*l"
    if not line then
      clean()
      return nil, "the model did not start"
    end
  until line:find "model ready"
  local server = { url = ("http://127.0.0.1:%s/v1"):format(port) }
  function server.stop()
    os.execute("kill " .. pid)
    clean()
  end
  return server
end

--- The GSM8K questions, in order. @param n number|nil  only the first n
function M.questions(n)
  local cjson = require "cjson"
  local list = {}
  for line in io.lines(M.shared() .. "/data/prompts/gsm8k_test.jsonl") do
    if n and #list == n then break end
    list[#list + 1] = cjson.decode(line).question
  end
  return list
end

--- The largest difference of two vectors' elements; math.huge if they are not alike.
function M.difference(a, b)
  if type(a) ~= "table" or type(b) ~= "table" or #a ~= #b or #a == 0 then return math.huge end
  local largest = 0
  for i = 1, #a do largest = math.max(largest, math.abs(a[i] - b[i])) end
  return largest
end

return M
