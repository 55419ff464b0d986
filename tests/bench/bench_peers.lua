-- A record in the Lua face beside npm's dataloader, async.cargoQueue and a list of promises, in one run: rounds
-- of one after the other, medians. Prints plain lines "name value unit"; one "skipped:" where node or the
-- packages are missing.
-- usage: luajit tests/bench/bench_peers.lua      (environment: B, LUAJIT)

local B, LUAJIT = os.getenv "B" or "build", os.getenv "LUAJIT" or "luajit"
local RUNS = 7
local MODULES = B .. "/peers/node_modules"

local function succeeds(command) return os.execute(command .. " >/dev/null 2>&1") == 0 end

if not succeeds "command -v node" then
  print "skipped: no node: records are not compared with npm's dataloader and others"
  os.exit(0)
end
if not succeeds("test -d " .. MODULES .. "/dataloader") then
  print("skipped: no " .. MODULES .. " (npm installs dataloader and async there)")
  os.exit(0)
end

local figures = {}
local function read(command)
  local pipe = assert(io.popen(command))
  for line in pipe:lines() do
    local name, value = line:match "^(%S+) (%S+)"
    figures[name] = figures[name] or {}
    table.insert(figures[name], (assert(tonumber(value), line)))
  end
  pipe:close()
end

for _ = 1, RUNS do
  read(LUAJIT .. " tests/bench/shapes.lua 20")
  read("NODE_PATH=" .. MODULES .. " node tests/bench/peers.js 20")
end

local function median(list)
  local sorted = { unpack(list) }
  table.sort(sorted)
  return sorted[math.ceil(#sorted / 2)]
end

local function ratio(ours, theirs)
  local list = {}
  for i = 1, RUNS do list[i] = figures[ours][i] / figures[theirs][i] end
  return median(list)
end

for _, name in ipairs { "one", "awaiting", "ask" } do
  print(("peer_ours_%s %.0f ns"):format(name, median(figures[name])))
end
for _, peer in ipairs { "dataloader", "cargoqueue", "promises" } do
  for _, pair in ipairs { { "one", "one" }, { "awaiting", "awaiting" }, { "ask", "awaiting" } } do
    local theirs = peer .. "_" .. pair[2]
    if pair[1] ~= "ask" then print(("peer_%s %.0f ns"):format(theirs, median(figures[theirs]))) end
    print(("peer_%s_to_%s %.2f"):format(pair[1], peer, ratio(pair[1], theirs)))
  end
end
