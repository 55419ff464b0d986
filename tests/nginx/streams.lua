--- Clients of chat for the queue's specs and soak: light threads of an nginx of their own, that read streams event by
-- event and check every byte. dofile()d inside /eval.

local cjson = require "cjson.safe"

local M = {}

local places = dofile(debug.getinfo(1, "S").source:match "@(.*/)" .. "places.lua")

local function read_head(socket)
  local line, err = socket:receive "*l"
  if not line then return nil, err end
  local head = { status = tonumber(line:match " (%d%d%d)") }
  repeat
    line, err = socket:receive "*l"
    if not line then return nil, err end
    local name, value = line:match "^([^:]+): *(.*)$"
    if name then head[name:lower()] = value end
  until line == ""
  return head
end

-- The next piece of a chunked body; "": it is over; nil: it broke off.
local function read_piece(socket)
  local line = socket:receive "*l"
  local size = line and tonumber(line, 16)
  if not size then return nil end
  local piece = size > 0 and socket:receive(size) or ""
  if not piece or not socket:receive(2) then return nil end
  return piece
end

--- Connect and ask. @param given table  port, key, text, max_tokens, ms (that the stream takes), path
-- @return socket, or nil: no connection
function M.begin(given)
  local socket = ngx.socket.tcp()
  socket:settimeout(given.timeout_ms or 120000)
  if not socket:connect("127.0.0.1", given.port) then return nil end
  local body = cjson.encode { model = "m", stream = true, max_tokens = given.max_tokens or 100,
    messages = { { role = "user", content = given.text } } }
  socket:send { "POST ", given.path or "/v1/chat/completions", " HTTP/1.1\r\nHost: test\r\nConnection: close\r\n",
    "Authorization: Bearer ", given.key, "\r\n", given.ms and "x-ms: " .. given.ms .. "\r\n" or "",
    "Content-Type: application/json\r\nContent-Length: ", #body, "\r\n\r\n", body }
  return socket
end

--- Read an answer to its end. @return {became = "whole" | "wrong" | "refused" (429, 503) | "broken", status, head,
-- first_s (until the first event), total_s}
function M.finish(socket, given)
  local since = ngx.now()
  local head = read_head(socket)
  if not head then return { became = "broken" } end
  local out = { status = head.status, head = head, became = "wrong" }
  if head.status ~= 200 then
    out.body = socket:receive(tonumber(head["content-length"]) or 0)
    out.became = (head.status == 429 or head.status == 503) and "refused" or "wrong"
    return out
  end
  local parts = {}
  repeat
    local piece = read_piece(socket)
    ngx.update_time()
    out.first_s = out.first_s or ngx.now() - since
    if not piece then
      out.became = "broken"
      return out
    end
    parts[#parts + 1] = piece
  until piece == ""
  out.total_s = ngx.now() - since
  out.became = table.concat(parts) == table.concat(places.events_of(given.text)) and "whole" or "wrong"
  return out
end

--- One stream, whole. @return as finish()
function M.stream(given)
  local socket = M.begin(given)
  if not socket then return { became = "refused", status = 0 } end
  local out = M.finish(socket, given)
  socket:close()
  return out
end

--- Begin one, read `events` (0: not even the head) and go away.
function M.abort(given, events)
  local socket = M.begin(given)
  if not socket then return end
  if events > 0 and read_head(socket) then
    for _ = 1, events do read_piece(socket) end
  end
  socket:close()
end

--- fn(i) in n light threads, all at once. @return what each returned
function M.at_once(n, fn)
  local threads, out = {}, {}
  for i = 1, n do threads[i] = ngx.thread.spawn(fn, i) end
  for i = 1, n do
    local ok, value = ngx.thread.wait(threads[i])
    assert(ok, value)
    out[i] = value
  end
  return out
end

return M
