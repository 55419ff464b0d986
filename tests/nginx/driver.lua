--- Clients for the gateway's specs and soak: light threads of an nginx of their own, each with
-- a socket, that send, read and check every answer. dofile()d inside /eval.
--
-- What becomes of a request is one of: answered (complete, and right), wrong (complete, and
-- not), refused (no connection: nothing was sent), broken (sent, no complete answer).

local cjson = require "cjson.safe"

local M = {}

-- @return status, body, and whether the server closes the connection (nginx does after a
-- thousand requests); or nil and what went wrong
local function read_answer(socket)
  local line, err = socket:receive "*l"
  if not line then return nil, err end
  local status, length, is_chunked, closes = tonumber(line:match " (%d%d%d)"), nil, false, false
  repeat
    line, err = socket:receive "*l"
    if not line then return nil, err end
    length = tonumber(line:lower():match "^content%-length: (%d+)") or length
    is_chunked = is_chunked or line:lower():find "^transfer%-encoding: chunked" ~= nil
    closes = closes or line:lower():find "^connection: close" ~= nil
  until line == ""
  if not is_chunked then
    local body = socket:receive(length or 0)
    return body and status, body, closes
  end
  local parts = {}
  while true do
    line = socket:receive "*l"
    local size = line and tonumber(line, 16)
    if not size then return nil, "closed" end
    local part = size > 0 and socket:receive(size) or ""
    if not part or not socket:receive(2) then return nil, "closed" end
    if size == 0 then return status, table.concat(parts), closes end
    parts[#parts + 1] = part
  end
end

--- One request on a connected socket. @return status, body, does the server close; or nil
function M.exchange(socket, path, body, headers)
  local ok = socket:send { "POST ", path, " HTTP/1.1\r\nHost: test\r\n", headers or "",
    "Content-Length: ", #body, "\r\n\r\n", body }
  if not ok then return nil end
  return read_answer(socket)
end

--- One request on a connection of its own. @return status, decoded body
function M.ask(port, path, body, headers)
  local socket = ngx.socket.tcp()
  socket:settimeout(25000)
  assert(socket:connect("127.0.0.1", port))
  local status, text = M.exchange(socket, path, type(body) == "table" and cjson.encode(body) or body, headers)
  socket:close()
  return status, cjson.decode(text or "") or text
end

--- Is this the vector of that text? (See upstream.lua.)
function M.is_vector_of(vector, text)
  return type(vector) == "table" and vector[1] == #text and vector[2] == ngx.crc32_long(text)
end

local function is_right(text, status, body)
  local answer = status == 200 and cjson.decode(body)
  return answer and M.is_vector_of(answer.data[1].embedding, text)
end

--- Embeds texts, one after the other in each of `clients` threads, until `stop()` is true.
-- @param given table  port, clients, stop, keeps (connections alive)
-- @param count table|nil  where to count, for who wants to look meanwhile
-- @return table  sent, answered, wrong, refused, broken; of the wrong ones liars said 200;
-- an example of what was wrong
function M.load(given, count)
  count = count or {}
  for _, name in ipairs { "sent", "answered", "wrong", "refused", "broken", "liar" } do count[name] = 0 end
  local function connect()
    local socket = ngx.socket.tcp()
    socket:settimeout(25000)
    return socket:connect("127.0.0.1", given.port) and socket
  end
  local function client(number)
    local socket, n = nil, 0
    while not given.stop() do
      socket = socket or connect()
      if not socket then
        count.refused = count.refused + 1
        ngx.sleep(0.01)
      else
        n = n + 1
        local text = ("text %d of client %d"):format(n, number)
        count.sent = count.sent + 1
        local status, body, closes = M.exchange(socket, "/v1/embeddings", cjson.encode { model = "m", input = text },
          given.keeps and "" or "Connection: close\r\n")
        local became = not status and "broken" or is_right(text, status, body) and "answered" or "wrong"
        count[became] = count[became] + 1
        if became == "wrong" then count.example = status .. " " .. tostring(body) end
        if became == "wrong" and status == 200 then count.liar = count.liar + 1 end
        if closes or not given.keeps or became ~= "answered" then
          socket:close()
          socket = nil
        end
      end
    end
  end
  local threads = {}
  for i = 1, given.clients do threads[i] = ngx.thread.spawn(client, i) end
  for i = 1, given.clients do assert(ngx.thread.wait(threads[i])) end
  return count
end

--- The counts as text: "answered 7, broken 0, ..."
function M.text(count)
  return ("sent %d, answered %d, wrong %d, refused %d, broken %d, liar %d %s"):format(count.sent, count.answered,
    count.wrong, count.refused, count.broken, count.liar, count.example or "")
end

return M
