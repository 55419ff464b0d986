-- Who connects may be slow, many or hostile: what runs goes on, and nothing is lost.

local L = require "tests.lua.listen_helper"
local tb = require "tokenbatcher"

local missing = L.missing()

describe("listen: with hostile clients", function()
  if missing then
    pending(missing)
    return
  end

  local GARBAGE = { "\0\1\2\3\r\n\r\n", "GET\r\n\r\n", "\22\3\1\2\0\1\0\1\252\3\3", "GET / HTTP/1.1\r\n\r\n",
    "POST /set HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\nx",
    "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    "GET /" .. ("a"):rep(40000) .. " HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: localhost\r\n" .. ("X: y\r\n"):rep(4000) .. "\r\n",
    "GET /%00%ff%zz?after=%%% HTTP/1.1\r\nHost: localhost\r\n\r\n" }

  -- Submit n records in the background; the future says when all have their own answers.
  local function load(batcher, n)
    return tb.spawn(function()
      local futures = {}
      for i = 1, n do
        futures[i] = batcher:submit("r" .. i)
        if i % 50 == 0 then tb.sleep(0.001) end
      end
      for i = 1, n do assert.equal("re:r" .. i, futures[i]:await()) end
      return n
    end)
  end

  -- Garbage of any kind, whole and half, until it is enough.
  local function throw_garbage(address, n)
    local open = {}
    for i = 1, n do
      local text = GARBAGE[i % #GARBAGE + 1]
      local client = L.client(address)
      client.say(i % 2 == 0 and text or text:sub(1, math.floor(#text / 2)))
      open[#open + 1] = client
      if i % 3 == 0 then table.remove(open, 1).close() end
      tb.sleep(0)
    end
    for _, client in ipairs(open) do client.close() end
  end

  local function is_alive(address)
    local answer
    repeat
      answer = tb.http.get("http://" .. address .. "/ready", { timeout_s = 30 })
    until answer and answer.status ~= 503
    return answer.status == 200
  end

  it("loses nothing while garbage comes", L.listening(nil, function(listener, batcher)
    local loaded = load(batcher, 3000)
    throw_garbage(listener.address, 150)
    assert.equal(3000, loaded:await())
    assert.equal(3000, batcher.stats.total_completed)
    assert.is_true(is_alive(listener.address))
  end))

  it("takes so many connections, tells the others, and takes them again", L.listening(nil, function(listener, batcher)
    local loaded, clients, refused = load(batcher, 3000), {}, 0
    for i = 1, 200 do
      clients[i] = L.client(listener.address)
      clients[i].say "GET /health HTTP/1.1\r\nHost:"
      tb.sleep(0.001)
    end
    for i = 65, 200 do
      local text = clients[i].hear "\r\n\r\n"
      if text:find "^HTTP/1.1 503 " or clients[i].is_closed then refused = refused + 1 end
    end
    assert.equal(136, refused)
    clients[1].say " localhost\r\n\r\n"
    assert.truthy(clients[1].hear("oldest_running_s"):find "^HTTP/1.1 200 ")
    for i = 1, 200 do clients[i].close() end
    assert.equal(3000, loaded:await())
    assert.is_true(is_alive(listener.address))
  end))

  it("keeps no more for a reader who reads nothing than one state", L.listening(nil, function(listener, batcher)
    local reader = L.client(listener.address)
    reader.connection:setoption("tcp-nodelay", true)
    reader.say "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"
    local other = L.client(listener.address)
    other.say "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert.equal(2000, load(batcher, 2000):await())
    other.hear "event: state"
    other.got = ""
    assert.truthy(other.hear("event: state"):find("event: state", 1, true)) -- he goes on
    reader.close()
    other.close()
    assert.is_true(is_alive(listener.address))
  end))

  it("takes a small share of the time from a run, however much is asked", L.listening(nil, function(listener, batcher)
    local askers, is_over, asked = {}, false, 0
    for i = 1, 16 do
      askers[i] = tb.spawn(function()
        while not is_over do
          L.get(listener.address, i % 2 == 0 and "/metrics" or "/stats.json")
          asked = asked + 1
        end
      end)
    end
    assert.equal(3000, load(batcher, 3000):await())
    is_over = true
    for _, asker in ipairs(askers) do asker:await() end
    assert.is_true(asked > 0)
  end))
end)
