--- A proxy on the loopback that cuts connections at random bytes: luajit tests/redis/cutting_proxy.lua PORT SEED
-- Prints its own port. What was read before a cut is handed on up to that byte, so that commands and replies
-- end anywhere.

local socket = require "socket"

local upstream_port, state = tonumber(arg[1]), tonumber(arg[2])
local MOST = 60000 -- bytes of a connection's life, in both directions

local function random(n)
  state = (state * 1103515245 + 12345) % 2 ^ 31
  return math.floor(state / 2 ^ 31 * n) + 1
end

local listener = assert(socket.bind("127.0.0.1", 0))
local _, port = listener:getsockname()
print(port)
io.stdout:flush()

local peers, budget, waiting = {}, {}, {} -- socket -> the other end; a pair's bytes left; bytes to be sent to a socket
local all = { listener }

local function forget(s)
  for i = #all, 1, -1 do
    if all[i] == s then table.remove(all, i) end
  end
  peers[s], waiting[s] = nil, nil
  s:close()
end

local function cut(s)
  local other = peers[s]
  forget(s)
  if other then forget(other) end
end

local function accept()
  local client = listener:accept()
  local server = client and socket.connect("127.0.0.1", upstream_port)
  if not server then
    if client then client:close() end
    return
  end
  for _, s in ipairs { client, server } do
    s:settimeout(0)
    s:setoption("tcp-nodelay", true)
    all[#all + 1] = s
    waiting[s] = ""
  end
  peers[client], peers[server] = server, client
  local pair = { left = random(MOST) }
  budget[client], budget[server] = pair, pair
end

local function pass(s)
  local text, problem, part = s:receive(65536)
  text = text or part
  local other, pair = peers[s], budget[s]
  if text and #text > 0 then
    local n = math.min(#text, pair.left)
    pair.left = pair.left - n
    waiting[other] = waiting[other] .. text:sub(1, n)
    if pair.left == 0 then
      other:send(waiting[other])
      return cut(s)
    end
  end
  if problem == "closed" then cut(s) end
end

local function flush(s)
  local sent, problem, part = s:send(waiting[s])
  waiting[s] = waiting[s]:sub((sent or part or 0) + 1)
  if problem == "closed" then cut(s) end
end

while true do
  local to = {}
  for s, text in pairs(waiting) do
    if #text > 0 then to[#to + 1] = s end
  end
  local readable, writable = socket.select(all, to)
  for _, s in ipairs(writable) do
    if waiting[s] then flush(s) end
  end
  for _, s in ipairs(readable) do
    if s == listener then accept() elseif peers[s] then pass(s) end
  end
end
