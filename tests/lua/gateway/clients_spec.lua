-- Odd clients of the gateway in nginx, and what they must not be able to do to others.

local json = require "tokenbatcher.base.json"
local nginx = dofile "tests/nginx/server.lua"
local missing = nginx.missing()

local upstream, driver
local SECRET = "sk-secret-0123456789"

local function test(name, given, fn)
  it(name, function()
    if missing then return pending("skipped: " .. missing) end
    nginx.with_gateway(upstream, given, fn)
  end)
end

local function drive(gateway, code)
  return driver:eval(([[
    local driver, port, cjson = dofile "%s/tests/nginx/driver.lua", %d, require "cjson.safe"
    local function at_once(n, fn)
      local threads = {}
      for i = 1, n do threads[i] = ngx.thread.spawn(fn, i) end
      for i = 1, n do assert(ngx.thread.wait(threads[i])) end
    end
    -- What comes back for raw bytes.
    local function raw(text)
      local socket = ngx.socket.tcp()
      socket:settimeout(10000)
      assert(socket:connect("127.0.0.1", port))
      socket:send(text)
      local answer = socket:receive "*a"
      socket:close()
      return answer
    end
  ]]):format(nginx.root, gateway.port) .. code)
end

local function embed(gateway, body, more)
  local path = gateway.folder .. "/sent"
  local file = assert(io.open(path, "w"))
  file:write(body)
  file:close()
  return gateway:get("/v1/embeddings", (more or "") .. " --data-binary @" .. path)
end

-- Headers and body of an answer. @param arguments string  of curl
local function whole(gateway, path, arguments)
  return nginx.output_of(("curl -s -i -m 20 %s '%s%s'"):format(arguments or "", gateway.url, path))
end

local function assert_json_error(text, status)
  assert.matches("^HTTP/1.1 " .. status, text)
  assert.matches("[Cc]ontent%-[Tt]ype: application/json", text)
  assert.matches("[Xx]%-[Rr]equest%-[Ii]d: %S+", text)
  local problem = json.decode(text:match "\n(%b{})%s*$" or "")
  assert.is_string(problem and problem.error.message, text)
end

describe("clients of the gateway in nginx:", function()
  setup(function()
    if missing then return end
    upstream, driver = nginx.upstream(), nginx.start {}
  end)
  teardown(function()
    if driver then driver:stop() end
    if upstream then upstream:stop() end
  end)

  for _, shared in ipairs { "no", "yes" } do
    test("errors are JSON, whoever makes them" .. (shared == "yes" and ", in front of a batching worker" or ""),
      { shared = shared }, function(gateway)
        assert_json_error(whole(gateway, "/v1/embeddings", "-d 'no json'"), 400)
        assert_json_error(whole(gateway, "/v1/embeddings"), 405)
        assert_json_error(whole(gateway, "/v1/embeddings", "-H 'Content-Length: 99000000' -d x"), 413)
        assert_json_error(whole(gateway, "/v1/embeddings", "-H 'x: " .. ("x"):rep(20000) .. "'"), 431)
        assert_json_error(whole(gateway, "/" .. ("x"):rep(20000)), 414)
        assert_json_error(drive(gateway, [[return raw "NO HTTP AT ALL\r\n\r\n"]]), 400)
        assert_json_error(whole(gateway, "/v1/embeddings", "-H 'Transfer-Encoding: gzip' -X POST"), 501)
        assert_json_error(drive(gateway, [[return raw "GET / HTTP/2.0\r\nHost: x\r\n\r\n"]]), 505)
        assert_json_error(whole(gateway, "/v1/nothing", "-H 'x-request-id: mine'"):gsub("}}.*$", "}}"), 404)
      end)
  end

  test("an upstream that is not there is said in JSON, also of what is passed on", { upstream = "http://127.0.0.1:1" },
    function(gateway)
      assert_json_error(whole(gateway, "/v1/models"), 502)
      assert_json_error(whole(gateway, "/v1/embeddings", "-d '{\"model\":\"m\",\"input\":\"x\"}'"), 502)
    end)

  test("a body that is too large for memory is read from its file", {}, function(gateway)
    local texts = {}
    for i = 1, 100 do texts[i] = json.encode(("text %d "):format(i) .. ("x"):rep(5000)) end
    local text, status = embed(gateway, '{"model":"m","input":[' .. table.concat(texts, ",") .. "]}")
    assert.equal(200, status, text)
    assert.equal(100, #json.decode(text).data)
  end)

  test("what is not batched goes through as it is, with its credential and id", { }, function(gateway)
    local text = gateway:get("/v1/models?limit=3%20", "-H 'authorization: Bearer mine' -H 'x-request-id: r-7'")
    local seen = json.decode(text)
    assert.same({ "GET", "/v1/models?limit=3%20", "Bearer mine", "r-7" }, { seen.method, seen.uri, seen.authorization,
      seen.id })
    text = whole(gateway, "/v1/chat/completions", "-d '{\"model\": \"m\",  \"x\": 1.0}'")
    assert.matches('%{\\"model\\": \\"m\\",  \\"x\\": 1.0%}', text)
    assert.matches("x%-of%-upstream: kept", text)
    assert.matches("x%-request%-id: tb%-", text)
    assert.matches("^HTTP/1.1 200", whole(gateway, "/v1/models", "-I"))
    assert.equal("", nginx.output_of(("curl -s -X HEAD -I -o /dev/null %s/v1/embeddings"):format(gateway.url)))
    assert.is_nil(gateway:get("/v1/trap"):find "tokenbatcher_") -- an upstream leads nobody around in here
  end)

  test("a stream goes through piece by piece", {}, function(gateway)
    upstream:get "/behave?as=held"
    local out = gateway.folder .. "/stream"
    local leave = nginx.client(("-N -o %s -d '{\"stream\":true}' %s/v1/chat/completions"):format(out, gateway.url))
    nginx.wait_until("the first piece", function() return nginx.read(out) == "data: 1\n\n" end)
    upstream:get "/release?calls=1"
    nginx.wait_until("the second", function() return nginx.read(out) == "data: 1\n\ndata: 2\n\n" end)
    upstream:get "/release?calls=2"
    nginx.wait_until("the rest", function() return nginx.read(out):find("[DONE]", 1, true) end)
    leave()
  end)

  test("browsers may ask from where the configuration says",
    { config = 'cors = { origins = { "https://a.example" } }' }, function(gateway)
      local text = whole(gateway, "/v1/embeddings", "-X OPTIONS -H 'origin: https://a.example' "
        .. "-H 'access-control-request-method: POST'")
      assert.matches("^HTTP/1.1 204", text)
      assert.is_nil(text:lower():find("content-length", 1, true)) -- RFC 9110: not in a 204
      assert.matches("access%-control%-allow%-origin: https://a.example", text)
      assert.matches("access%-control%-allow%-origin: https://a.example",
        whole(gateway, "/v1/models", "-H 'origin: https://a.example'"))
      assert.is_nil(whole(gateway, "/v1/models", "-H 'origin: https://b.example'"):find "access%-control%-allow")
    end)

  test("the pages are for this machine alone", {}, function(gateway)
    for _, page in ipairs { "/metrics", "/health", "/ready", "/status" } do
      assert.equal(200, select(2, gateway:get(page)), page)
      assert_json_error(whole(gateway, page, "--interface 127.0.0.2"), 403)
    end
  end)

  for _, shared in ipairs { "no", "yes" } do
    local port = math.random(32001, 32700)
    local status_url = "http://127.0.0.1:" .. port
    test("or where --status-listen says, shared " .. shared, { shared = shared,
      ["status-listen"] = "127.0.0.1:" .. port, health_url = status_url }, function(gateway)
        for _, page in ipairs { "/metrics", "/health", "/ready", "/status" } do
          assert.matches("^HTTP/1.1 200", nginx.output_of(("curl -s -i --interface 127.0.0.2 %s%s"):format(status_url,
            page)))
          assert.equal(page, json.decode(gateway:get(page)).uri) -- the upstream's
        end
        assert_json_error(nginx.output_of("curl -s -i " .. status_url .. "/v1/models"), 404)
      end)
  end

  test("two workers: their sum is what was sent, before and after HUP", { workers = 2 }, function(gateway)
    local function sum(name)
      local total = 0
      for value in gateway:get("/metrics"):gmatch("\ntokenbatcher_" .. name .. "{[^}]*} (%d+)") do
        total = total + tonumber(value)
      end
      return total
    end
    local function load(n)
      local text = drive(gateway, ([[
        local count = {}
        return driver.text(driver.load({ port = port, clients = 20, keeps = false,
          stop = function() return count.sent >= %d end }, count))
      ]]):format(n))
      return tonumber(text:match "answered (%d+)")
    end
    local answered = load(1000)
    for _ = 1, 3 do
      for _, name in ipairs { "completed_total", "http_requests_total", "latency_seconds_count" } do
        nginx.wait_until(name, function() return sum(name) == answered end)
      end
      local former = gateway:workers()
      gateway:signal "HUP"
      nginx.wait_until("the reload", function()
        for _, pid in ipairs(former) do
          if nginx.is_alive(pid) then return false end
        end
        return #gateway:workers() == 2
      end)
      answered = answered + load(500)
    end
    nginx.wait_until("all of them", function() return sum "http_requests_total" == answered end)
    assert.equal(0, sum "queue_records" + sum "running_records")
    local health, status = gateway:get "/health"
    assert.equal(200, status, health)
  end)

  test("4,200 halves of requests leave a neighbour alone", { ["per-address"] = 3000 }, function(gateway)
    local halves = ([[
      local sockets = {}
      for i = 1, 2100 do
        local socket = ngx.socket.tcp()
        socket:settimeout(20000)
        assert(socket:connect("127.0.0.1", %d))
        sockets[i] = socket
        socket:send(i %% 2 == 0 and "POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{"
          or "POST /v1/embeddings HTTP/1.1\r\nHo")
      end
      are_open, may_close = true, false
      repeat ngx.sleep(0.01) until may_close
      for i = 1, 2100 do sockets[i]:close() end
      return "closed"
    ]]):format(gateway.port)
    local other = nginx.start {}
    local begun = { driver:begin(halves), other:begin(halves) }
    for _, server in ipairs { driver, other } do
      nginx.wait_until("the halves", function() return server:eval "return are_open" == "true" end)
    end
    local answered = drive(gateway, [[
      local neighbour = ngx.socket.tcp()
      neighbour:settimeout(20000)
      assert(neighbour:connect("127.0.0.1", port))
      local answered = 0
      for _ = 1, 20 do
        local status = driver.exchange(neighbour, "/v1/embeddings", cjson.encode { model = "m", input = "mine" })
        answered = answered + (status == 200 and 1 or 0)
      end
      return answered
    ]])
    for i, server in ipairs { driver, other } do
      server:eval "may_close = true"
      assert.equal("closed", begun[i]())
    end
    other:stop()
    assert.equal("20", answered)
    assert.matches('"active":0,"held_bytes":0', (gateway:get "/status"))
  end)

  test("requests at once from one address are bounded, those of others are not", { ["per-address"] = 5 },
    function(gateway)
      upstream:get "/behave?as=held"
      local leave = {}
      for i = 1, 5 do
        leave[i] = nginx.client(("-d '{\"model\":\"m\",\"input\":\"x\"}' %s/v1/embeddings"):format(gateway.url))
      end
      nginx.wait_until("five", function()
        return select(2, gateway:get("/v1/embeddings", "-d '{}'")) == 429
      end)
      assert_json_error(whole(gateway, "/v1/embeddings", "-d '{}'"), 429)
      assert_json_error(whole(gateway, "/v1/embeddings", "--interface 127.0.0.2 -d '{}'"), 400)
      for i = 1, 5 do leave[i]() end
    end)

  test("keys of clients and of the gateway, and passwords, are nowhere", {
    config = ('auth = { ["%s-client"] = "%s-up" }'):format(SECRET, SECRET),
  }, function(gateway)
    local bearer = ("-H 'authorization: Bearer %s-client'"):format(SECRET)
    upstream:get "/behave?as=blabbing"
    local seen = { (embed(gateway, '{"model":"m","input":"x"}', bearer)) }
    upstream:get "/behave?as=locked"
    seen[2] = embed(gateway, '{"model":"m","input":"x"}', bearer)
    seen[3] = embed(gateway, '{"model":"m","input":"x"}', ("-H 'authorization: Bearer %s-no'"):format(SECRET))
    for i, page in ipairs { "/metrics", "/health", "/ready", "/status" } do seen[3 + i] = gateway:get(page) end
    seen[8] = gateway:log()
    for _, text in ipairs(seen) do assert.is_nil(text:find(SECRET, 1, true), text) end
    assert.equal(SECRET .. "-up", json.decode(gateway:get("/v1/models", bearer)).authorization:match " (.*)$")
    assert.equal("600", nginx.output_of("stat -c %a " .. gateway.folder .. "/nginx.conf"))
  end)

  it("a configuration that is wrong ends the start, and names the culprit", function()
    if missing then return pending("skipped: " .. missing) end
    local ended = nginx.output_of(("timeout 20 sh examples/openresty/start.sh --upstream %s --shared yes "
      .. "--listen 127.0.0.1:%d --options 'nonsense = 1' 2>&1; echo \"ended: $?\""):format(upstream.url,
      math.random(20000, 30000)))
    assert.truthy(ended:find("unknown option 'nonsense'", 1, true), ended)
    assert.matches("the batching worker did not start\nended: 1\n?$", ended)
    for config, said in pairs { ['auth = "none"'] = '"auth" must be "config", "passthrough", or a table',
      ["batch = { max_wait = 1 }"] = "unknown parameter 'max_wait'", ['shm = "other"'] = "no lua_shared_dict other" } do
      local text = nginx.output_of(("timeout 20 sh examples/openresty/start.sh --upstream %s --listen 127.0.0.1:%d "
        .. "--config '%s' 2>&1"):format(upstream.url, math.random(20000, 30000), config))
      assert.truthy(text:find(said, 1, true), text)
    end
  end)
end)
