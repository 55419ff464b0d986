-- Runs clients/clients.mjs for each client, against a gateway in front of an upstream that answers with numbers, and
-- one that answers with base64, whatever is asked for. usage: luajit tests/extra/clients.lua FOLDER

local cjson = require "cjson"
local nginx = dofile "tests/nginx/server.lua"

local FOLDER = arg[1]
local REQUESTS = 700
local CLOSED = 2 -- connections that nginx closes just when a client, which is not to try again, sends on them
local CLIENTS = { "openai", "@langchain/openai", "@ai-sdk/openai", "@ai-sdk/openai-compatible", "@chroma-core/openai" }

-- @return exit status, what it printed
local function run(client, gateway)
  local path = nginx.output_of "mktemp"
  local status = os.execute(("timeout 240 node %s/clients.mjs %s %s/v1 %d >%s 2>&1"):format(FOLDER, client,
    gateway.url, REQUESTS, path))
  local text = nginx.read(path)
  os.remove(path)
  return status / 256, text
end

-- @return boolean  is all as it should be?
local function check(client, gateway, upstream)
  local status, text = run(client, gateway)
  if status == 3 then
    print("   skipped: " .. text:gsub("\n$", ""))
    return true
  end
  local count = status == 0 and cjson.decode(text:match "{[^\n]*}%s*$")
  if not count then
    print(("   %s: exit status %d: %s"):format(client, status, text))
    return false
  end
  print(("   %s, upstream of %s: %d answered, %d left, %d closed, %d failed, %d wrong %s"):format(client, upstream,
    count.answered, count.left, count.closed, count.failed, count.wrong, count.example or ""))
  return count.wrong == 0 and count.failed == 0 and count.closed <= CLOSED and count.left > 0
    and count.answered > REQUESTS / 2 and count.answered + count.left + count.closed == REQUESTS
end

local function main()
  local upstream = nginx.upstream()
  local gateway = nginx.gateway { upstream = upstream.url, workers = 2 }
  local is_right = true
  for as, name in pairs { well = "numbers", based = "base64" } do
    upstream:get("/behave?as=" .. as)
    for _, client in ipairs(CLIENTS) do is_right = check(client, gateway, name) and is_right end
  end
  return is_right
end

local missing = nginx.missing()
if missing then
  print("   skipped: " .. missing)
  os.exit(77)
end
local ok, is_right = xpcall(main, debug.traceback)
nginx.stop_all()
if not ok then print(is_right) end
os.exit(ok and is_right and 0 or 1)
