-- What is served over HTTP beside a run: pages, figures, health, events; who may ask.

local H = require "tests.lua.helper"
local L = require "tests.lua.listen_helper"
local tb = require "tokenbatcher"

local missing = L.missing()
local get, listening = L.get, L.listening

local function state_at(address, query)
  return tb.json.decode(get(address, "/stats.json" .. (query or "")).body)
end

describe("listen: its pages", function()
  if missing then
    pending(missing)
    return
  end

  it("are the page, metrics, health, readiness and the state", listening(nil, function(listener, batcher)
    assert.equal("re:x", batcher:submit("x"):await())
    local page = get(listener.address, "/")
    assert.equal(200, page.status)
    assert.equal("text/html; charset=utf-8", page.headers["content-type"])
    assert.truthy(page.body:find("<!doctype html>", 1, true))
    local metrics = get(listener.address, "/metrics")
    assert.truthy(metrics.headers["content-type"]:find("text/plain; version=0.0.4", 1, true))
    assert.truthy(metrics.body:find('\ntokenbatcher_completed_total{name="a"} 1\n', 1, true))
    assert.equal('{"status":"ok","oldest_queued_s":0.000,"oldest_running_s":0.000}\n',
      get(listener.address, "/health").body)
    assert.equal('{"status":"ready"}\n', get(listener.address, "/ready").body)
    local state = state_at(listener.address)
    assert.equal("a", state.batchers[1].name)
    assert.equal(1, #state.batchers[1].batches)
    assert.equal(0, #state_at(listener.address, "?after=" .. state.now).batchers[1].batches)
    assert.equal(1, #state_at(listener.address, "?after=nonsense").batchers[1].batches)
  end))

  it("may be of several batchers, and a batcher may be on several", listening(nil, function(listener, batcher)
    local other = L.batcher { name = "b" }
    local both = assert(tb.listen { address = "127.0.0.1:0", batchers = { batcher, other } })
    local body = get(both.address, "/metrics").body
    assert.truthy(body:find('submitted_total{name="a"} 0', 1, true))
    assert.truthy(body:find('submitted_total{name="b"} 0', 1, true))
    batcher:submit("x"):await()
    assert.equal(1, #state_at(both.address).batchers[1].batches)
    both:close()
    batcher:submit("y"):await()
    assert.equal(2, #state_at(listener.address).batchers[1].batches)
  end))

  it("are read, by GET and HEAD, and others do not exist", listening(nil, function(listener)
    local refused = get(listener.address, "/metrics", { body = "x" })
    assert.equal(405, refused.status)
    assert.equal("GET, HEAD", refused.headers.allow)
    assert.equal('{"error":{"message":"this is only read: GET and HEAD"}}\n', refused.body)
    local none = get(listener.address, "/set", { body = "{}" })
    assert.equal(404, none.status)
    assert.equal("application/json", none.headers["content-type"])
    for _, path in ipairs { "/", "/metrics", "/events" } do
      local client = L.client(listener.address)
      client.say("HEAD " .. path .. " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
      local text = client.hear "never"
      assert.truthy(text:find "^HTTP/1.1 200 OK\r\n", text)
      assert.truthy(text:find "\r\n\r\n$", text)
      client.close()
    end
  end))

  -- After a look the loop is not told of what comes for a while; the next one must not wait for a silent client's end.
  it("are served soon beside a client who says nothing", listening(nil, function(listener)
    local silent, server = L.client(listener.address), listener.servers[1]
    repeat assert.equal(200, get(listener.address, "/ready").status) until server.is_resting
    assert.truthy(server.at)
    assert.equal(server.rested_at, server:next_us())
    silent.close()
  end))

  it("are served when the loop waits for as many descriptors as it can", listening(nil, function(listener)
    assert.equal(200, get(listener.address, "/ready").status)
    local pump, asked = require("tokenbatcher.runtime.clock").pump, 0
    local attach = pump.attach
    function pump.attach()
      asked = asked + 1
      return nil, "full"
    end
    for _ = 1, 3 do assert.equal(200, get(listener.address, "/ready").status) end
    pump.attach = attach
    assert.is_true(asked > 0)
    for _ = 1, 3 do assert.equal(200, get(listener.address, "/ready").status) end
  end))

  it("come with headers that keep other people's pages out", listening(nil, function(listener)
    for _, path in ipairs { "/", "/metrics", "/health", "/ready", "/stats.json", "/none" } do
      local headers = get(listener.address, path, { headers = { Origin = "http://evil.example" } }).headers
      assert.equal("nosniff", headers["x-content-type-options"], path)
      assert.equal("DENY", headers["x-frame-options"], path)
      assert.equal("same-origin", headers["cross-origin-resource-policy"], path)
      assert.truthy(headers["content-security-policy"]:find("default-src 'none'", 1, true), path)
      for name in pairs(headers) do assert.falsy(name:find("access-control", 1, true), name) end
    end
  end))
end)

describe("listen: a Host", function()
  if missing then
    pending(missing)
    return
  end

  local function status_for(listener, host)
    return get(listener.address, "/health", { headers = { Host = host } }).status
  end

  it("is the address, localhost or a name that was allowed, with any port", listening({ hosts = { "box.example" } },
    function(listener)
      for _, host in ipairs { listener.address, "127.0.0.1", "localhost", "LocalHost:80", "Box.Example:1" } do
        assert.equal(200, status_for(listener, host), host)
      end
      for _, host in ipairs { "evil.example", "127.0.0.2", "localhost.evil.example", "box.example.", "[::1]",
        "a@localhost", "localhost, evil.example" } do
        assert.equal(403, status_for(listener, host), host)
      end
      local client = L.client(listener.address)
      client.say "GET /health HTTP/1.0\r\n\r\n"
      assert.truthy(client.hear("never"):find "^HTTP/1.%d 403 ")
      client.close()
    end))

  it("is said once", listening(nil, function(listener)
    for _, lines in ipairs { "Host: localhost\r\nHost: evil.example", "Host: evil.example\r\nHost: localhost" } do
      local client = L.client(listener.address)
      client.say("GET /health HTTP/1.1\r\n" .. lines .. "\r\n\r\n")
      assert.truthy(client.hear("\r\n\r\n"):find "^HTTP/1.%d 403 ", lines)
      client.close()
    end
  end))

  it("is not asked for at a unix socket, where no browser comes", function()
    local path = os.tmpname()
    os.remove(path)
    listening({ address = "unix:" .. path }, function(listener)
      assert.equal("unix:" .. path, listener.address)
      assert.equal(200, status_for(listener, "evil.example"))
    end)()
    assert.is_nil(io.open(path), "the socket's file is left")
  end)

  it("may be that of IPv6", listening({ address = "[::1]:0" }, function(listener)
    assert.truthy(listener.address:find "^%[::1%]:%d+$")
    assert.equal(200, status_for(listener, listener.address))
    assert.equal(200, status_for(listener, "[::1]"))
    assert.equal(403, status_for(listener, "127.0.0.1"))
  end))
end)

describe("listen: health", function()
  if missing then
    pending(missing)
    return
  end

  it("is 503 when a call has run for longer than its limit", listening({ health = { oldest_running_s = 0.05 },
    options = { inference_fn = L.echo(0.5) } }, function(listener, batcher)
    assert.equal(200, get(listener.address, "/health").status)
    local future = batcher:submit "x"
    local answer
    repeat
      tb.sleep(0.01)
      answer = get(listener.address, "/health")
    until answer.status ~= 200 or future:done()
    assert.equal(503, answer.status)
    assert.truthy(answer.body:find('"status":"stuck"', 1, true))
    future:await()
    assert.equal(200, get(listener.address, "/health").status)
  end))

  it("and readiness differ: not ready is who does not run, or whose server is away", function()
    local away = setmetatable({ status = function() return { state = "open" } end }, { __call = L.echo() })
    H.run(function()
      local batcher, other = L.batcher(), L.batcher { inference_fn = away }
      local listener = assert(tb.listen { address = "127.0.0.1:0", batchers = batcher })
      local elsewhere = assert(tb.listen { address = "127.0.0.1:0", batchers = { other } })
      assert.equal('{"status":"not running"}\n', get(listener.address, "/ready").body)
      batcher:start()
      other:start()
      assert.equal(200, get(listener.address, "/ready").status)
      local answer = get(elsewhere.address, "/ready")
      assert.equal(503, answer.status)
      assert.equal('{"status":"no upstream"}\n', answer.body)
      batcher:stop()
      other:stop()
      assert.equal(503, get(listener.address, "/ready").status)
    end, "real")
  end)

  it("ends with the first record that is refused: who is stopping is not ready", function()
    H.run(function()
      local is_let_go = false
      local batcher = L.batcher { inference_fn = function(records)
        repeat tb.sleep(0.001) until is_let_go
        return records
      end }
      batcher:start()
      local listener = assert(tb.listen { address = "127.0.0.1:0", batchers = batcher })
      local future = batcher:submit "x"
      local stopped = tb.spawn(function() batcher:stop() end)
      repeat tb.sleep(0) until batcher:state() == "draining"
      local answer = get(listener.address, "/ready")
      assert.equal(503, answer.status)
      assert.equal('{"status":"not running"}\n', answer.body)
      is_let_go = true
      assert.equal("x", future:await())
      stopped:await()
    end, "real")
  end)
end)

describe("listen: events", function()
  if missing then
    pending(missing)
    return
  end

  local ASK = "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"

  -- The states that have come whole; chunks' lines are between them.
  local function states_of(client)
    local states = {}
    for data in client.got:gsub("\r\n%x+\r\n", ""):gmatch "event: state\ndata: ([^\n]*)\n\n" do
      states[#states + 1] = tb.json.decode(data)
    end
    return states
  end

  local function hear_states(client, n)
    while #states_of(client) < n do
      local whole, err, part = client.connection:receive(65536)
      client.got = client.got .. (whole or part or "")
      assert(err ~= "closed")
      tb.sleep(0.005)
    end
    return states_of(client)
  end

  it("begin with all, and go on with what is new", listening(nil, function(listener, batcher)
    batcher:submit("x"):await()
    local client = L.client(listener.address)
    client.say(ASK)
    assert.equal(1, #hear_states(client, 1)[1].batchers[1].batches)
    batcher:submit("y"):await()
    local seen = 0
    for _, state in ipairs(hear_states(client, 4)) do seen = seen + #state.batchers[1].batches end
    assert.equal(2, seen)
    assert.truthy(client.got:find("Content-Type: text/event-stream", 1, true))
    assert.truthy(client.got:find("retry: 1000\n\n", 1, true))
    client.close()
  end))

  it("that cannot be made end, are logged once, and what runs goes on", function()
    local said = {}
    listening({ log = function(_, text) said[#said + 1] = text end }, function(listener, batcher)
      local clients = {}
      for i = 1, 3 do
        clients[i] = L.client(listener.address)
        clients[i].say(ASK)
        clients[i].hear "event: state"
      end
      listener.servers[1].streams.make = function() error("it is broken", 0) end
      for _, client in ipairs(clients) do client.hear "\r\n0\r\n\r\n" end
      assert.same({ "listen: events failed: it is broken" }, said)
      assert.equal("re:x", batcher:submit("x"):await())
      assert.equal(500, get(listener.address, "/events").status)
      assert.equal(200, get(listener.address, "/ready").status)
      for _, client in ipairs(clients) do client.close() end
    end)()
  end)

  it("are for so many readers, of whom those that leave make room", listening(nil, function(listener)
    local clients = {}
    for i = 1, require("tokenbatcher.listen.events").MOST do
      clients[i] = L.client(listener.address)
      clients[i].say(ASK)
      clients[i].hear "event: state"
    end
    assert.equal(503, get(listener.address, "/events").status)
    assert.equal(200, get(listener.address, "/stats.json").status)
    clients[1].close()
    local answer
    repeat
      local client = L.client(listener.address)
      client.say(ASK)
      answer = client.hear "\r\n\r\n"
      client.close()
    until answer:find "^HTTP/1.1 200"
    for i = 2, #clients do clients[i].close() end
  end))

  it("keep no run going", function()
    local client
    H.run(function()
      local batcher = L.batcher { inference_fn = L.echo(0.05) }
      batcher:start()
      local listener = assert(tb.listen { address = "127.0.0.1:0", batchers = { batcher } })
      client = L.client(listener.address)
      client.say(ASK)
      client.hear "event: state"
      local future = batcher:submit "x"
      batcher:stop()
      assert.equal("re:x", future:await())
    end, "real")
    client.connection:settimeout(30)
    repeat
      local _, err = client.connection:receive(1024)
    until err
    assert.equal("closed", select(2, client.connection:receive(1)))
  end)

  it("hide no deadlock", function()
    local ok, err = pcall(tb.run, function()
      local listener = assert(tb.listen { address = "127.0.0.1:0", batchers = { L.batcher() } })
      local client = L.client(listener.address)
      client.say(ASK)
      client.hear "event: state"
      require("tokenbatcher.runtime.future").new(false, false):await()
    end)
    assert.is_false(ok)
    assert.equal("deadlock", err.code)
  end)
end)

describe("listen: opening", function()
  if missing then
    pending(missing)
    return
  end

  local function opening(given, clock)
    local ok, a, b
    H.run(function()
      given.batchers = given.batchers or { L.batcher() }
      ok, a, b = pcall(tb.listen, given)
      if ok and a then a:close() end
    end, clock or "real")
    return ok, a, b
  end

  local function refuses(given, text, clock)
    local ok, message = opening(given, clock)
    assert.is_false(ok)
    assert.truthy(message:find(text, 1, true), message)
  end

  it("refuses what is no address, naming it", function()
    for _, address in ipairs { "", "9464", "127.0.0.1", "box:9464", "127.0.0.1:65536", "::1:9464", "unix:", "*:80" } do
      refuses({ address = address }, "got " .. ("%q"):format(address))
    end
    local _, _, err = opening { address = "127.0.0.300:80" }
    assert.truthy(err.message:find("cannot listen at 127.0.0.300:80: not the number of an address", 1, true),
      err.message)
  end)

  it("refuses an address that other machines reach, unless that is meant", function()
    refuses({ address = "0.0.0.0:0" }, "0.0.0.0:0 can be reached from other machines, and nobody is asked who he is: "
      .. "whoever reaches it reads the figures. Say remote = true if that is meant")
    assert.is_true(opening { address = "0.0.0.0:0", remote = true })
  end)

  it("refuses batchers whose figures nobody could tell apart", function()
    local one, nameless = L.batcher(), { name = false }
    refuses({ address = "127.0.0.1:0", batchers = { one, L.batcher() } },
      "batchers[1] and [2] are both named 'a'; give each a name of its own")
    refuses({ address = "127.0.0.1:0", batchers = { one, one } }, "batchers[1] and [2] are both named 'a'")
    refuses({ address = "127.0.0.1:0", batchers = { L.batcher(nameless), one, L.batcher(nameless) } },
      "batchers[1] and [3] are both named ''")
  end)

  it("refuses a path with a NUL, which would end before its end", function()
    refuses({ address = "unix:/tmp/a\0b" }, "got ")
    refuses({ control = "unix:/tmp/a\0b" }, "got ")
  end)

  it("refuses other mistakes", function()
    refuses({}, "an address is needed, or control")
    refuses({ address = "127.0.0.1:0", batchers = {} }, "batchers must be a batcher or a list")
    refuses({ address = "127.0.0.1:0", batchers = { 1 } }, "batchers[1] is no batcher")
    refuses({ address = "127.0.0.1:0", adress = 1 }, "did you mean 'address'?")
    refuses({ address = "127.0.0.1:0", health = { oldest = 1 } }, "unknown parameter 'oldest'")
    refuses({ address = "127.0.0.1:0", hosts = { "box:80" } }, "hosts must be names without a port")
    refuses({ control = "127.0.0.1:0" }, "control must be unix:PATH")
    refuses({ address = "127.0.0.1:0" }, "needs the real clock", "virtual")
  end)

  it("fails where somebody listens, and leaves nothing behind", listening(nil, function(listener, batcher)
    local other, err = tb.listen { address = listener.address, batchers = { L.batcher() } }
    assert.is_nil(other)
    assert.equal("listen_failed", err.code)
    assert.equal(("cannot listen at %s: somebody listens there already"):format(listener.address), err.message)
    other, err = tb.listen { address = "127.0.0.1:0", control = "unix:/nowhere/at/all", batchers = { L.batcher() } }
    assert.is_nil(other)
    assert.truthy(err.message:find("cannot listen at unix:/nowhere/at/all: cannot bind: No such file", 1, true),
      err.message)
    batcher:submit("x"):await()
    assert.equal(1, #state_at(listener.address).batchers[1].batches)
  end))

  it("may be undone, twice, and done again at the same place", listening(nil, function(listener, batcher)
    local address = listener.address
    listener:close()
    listener:close()
    assert.is_nil(tb.http.get("http://" .. address .. "/", { timeout_s = 30 }))
    local again = assert(tb.listen { address = address, batchers = { batcher } })
    assert.equal(200, get(again.address, "/").status)
    again:close()
  end))
end)
