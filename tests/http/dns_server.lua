-- A name server that knows one thing: whatever ends with ".test" is 127.0.0.1, and nothing else is anywhere.
--
--     luajit tests/http/dns_server.lua
--
-- prints "PORT PID" and answers on UDP 127.0.0.1 until it is killed.

local socket = require "socket"

local udp = assert(socket.udp())
assert(udp:setsockname("127.0.0.1", 0))
local _, port = udp:getsockname()
local stat = io.open "/proc/self/stat"
print(port .. " " .. stat:read "*n")
stat:close()
io.stdout:flush()

local A, IN = "\0\1", "\0\1"

-- @return name, type, and the question as it came
local function question_of(packet)
  local at, labels = 13, {}
  local size = packet:byte(at)
  while size and size > 0 do
    labels[#labels + 1] = packet:sub(at + 1, at + size)
    at = at + size + 1
    size = packet:byte(at)
  end
  return table.concat(labels, "."), packet:sub(at + 1, at + 2), packet:sub(13, at + 4)
end

while true do
  local packet, address, from = udp:receivefrom()
  if packet and #packet > 12 then
    local name, kind, question = question_of(packet)
    local is_known = name:lower():find "%.test$"
    local has_answer = is_known and kind == A
    local answer = has_answer and "\192\12" .. A .. IN .. "\0\0\0\60" .. "\0\4" .. "\127\0\0\1" or ""
    local flags, answers = is_known and "\129\128" or "\129\131", has_answer and "\0\1" or "\0\0"
    udp:sendto(packet:sub(1, 2) .. flags .. "\0\1" .. answers .. "\0\0\0\0" .. question .. answer, address, from)
  end
end
