-- The gateway in nginx (examples/openresty), started by its own start.sh, between real clients
-- and the made-up upstream of tests/nginx/upstream.lua.

local nginx = dofile "tests/nginx/server.lua"
local missing = nginx.missing()

local ONE = "max_concurrent_batches = 1" -- call at a time

local upstream, driver

local function test(name, given, fn)
  it(name, function()
    if missing then return pending("skipped: " .. missing) end
    nginx.with_gateway(upstream, given, fn)
  end)
end

local function embed(gateway, body, more)
  return gateway:get("/v1/embeddings", (more or "") .. " -d " .. nginx.quote(body))
end

local function one(text, more)
  return ('{"model":"m","input":"%s"%s}'):format(text, more or "")
end

-- Run Lua in the driver, beside its module as `driver` and the gateway's port as `port`;
-- ask(text, headers) -> status, body decoded.
local function drive(gateway, code, begin)
  local text = ([[
    local driver, port, cjson = dofile "%s/tests/nginx/driver.lua", %d, require "cjson.safe"
    local function ask(text, headers)
      return driver.ask(port, "/v1/embeddings", { model = "m", input = text }, headers)
    end
    local function at_once(n, fn)
      local threads = {}
      for i = 1, n do threads[i] = ngx.thread.spawn(fn, i) end
      for i = 1, n do assert(ngx.thread.wait(threads[i])) end
    end
  ]]):format(nginx.root, gateway.port) .. code
  if begin then return driver:begin(text) end
  return driver:eval(text)
end

-- A gauge or counter of the gateway's only batcher.
local function metric(gateway, name)
  return tonumber(gateway:get("/metrics"):match("\ntokenbatcher_" .. name .. "{[^}]*} (%d+)"))
end

local function release(calls) upstream:get("/release?calls=" .. calls) end

local function upstream_requests() return tonumber(upstream:get("/stats"):match '"requests":(%d+)') end

describe("the gateway in nginx", function()
  setup(function()
    if missing then return end
    upstream, driver = nginx.upstream(), nginx.start {}
  end)
  teardown(function()
    if driver then driver:stop() end
    if upstream then upstream:stop() end
  end)

  test("answers one input, and a list of them in order, as OpenAI's API does", {}, function(gateway)
    assert.equal("true 0 embedding list m", drive(gateway, [[
      local _, answer = ask "hello"
      local item = answer.data[1]
      return tostring(driver.is_vector_of(item.embedding, "hello")) .. " " .. item.index .. " " .. item.object .. " "
        .. answer.object .. " " .. answer.model
    ]]))
    assert.equal("5", drive(gateway, [[
      local texts = { "a", "bb", "ccc", "dddd", "e" }
      local _, answer = ask(texts)
      local n = 0
      for i = 1, #answer.data do n = n + (driver.is_vector_of(answer.data[i].embedding, texts[i]) and 1 or 0) end
      return n
    ]]))
    assert.matches('"total_tokens":2', (embed(gateway, one "12345678")))
  end)

  test("coalesces: 40 clients at once are far fewer calls, and each gets its own vector",
    { options = "batch_timeout_s = 0.05" }, function(gateway)
      for _, as in ipairs { "well", "shuffled", "chunked" } do
        upstream:get("/behave?as=" .. as)
        assert.equal("40", drive(gateway, [[
          local right = 0
          at_once(40, function(i)
            local _, answer = ask("text " .. i)
            if driver.is_vector_of(answer.data[1].embedding, "text " .. i) then right = right + 1 end
          end)
          return right
        ]]))
        assert.is_true(upstream_requests() <= 5, upstream:get "/stats")
      end
    end)

  test("lets only compatible requests share a call, and models that are not there keep nobody out",
    { options = "batch_timeout_s = 0.1" }, function(gateway)
      assert.equal("8", drive(gateway, [[
        local ok = 0
        local kinds = { {}, { dimensions = 8 }, { encoding_format = "base64" }, { dimensions = 9 } }
        at_once(8, function(i)
          local kind = kinds[i % 4 + 1]
          local status = driver.ask(port, "/v1/embeddings", { model = "m", input = "x", dimensions = kind.dimensions,
            encoding_format = kind.encoding_format })
          ok = ok + (status == 200 and 1 or 0)
        end)
        return ok
      ]]))
      assert.equal(4, upstream_requests())
      assert.equal("40", drive(gateway, [[
        local ok = 0
        at_once(40, function(i)
          local status = driver.ask(port, "/v1/embeddings", { model = "other " .. i, input = "x" })
          ok = ok + (status == 200 and 1 or 0)
        end)
        return ok
      ]]))
    end)

  test("refuses what it does not understand, and names it", {}, function(gateway)
    for body, said in pairs {
      ["no json"] = "JSON object", ["[]"] = "JSON object", ['{"input":"x"}'] = "'model'", ['{"model":"m"}'] = "'input'",
      ['{"model":"m","input":[]}'] = "'input'", ['{"model":"m","input":[1,-2]}'] = "'input[1]'",
      ['{"model":"m","input":["x",""]}'] = "'input[1]'", ['{"model":"m","input":"\\udc00"}'] = "lone surrogate",
      ['{"model":"m","input":{"a":1}}'] = "'input'", [one("x", ',"dimensions":0.5')] = "'dimensions'",
      [one("x", ',"encoding_format":"hex"')] = "'encoding_format'",
    } do
      local text, status = embed(gateway, body)
      assert.equal(400, status, body)
      assert.truthy(text:find(said, 1, true), text)
    end
    assert.equal(405, select(2, gateway:get "/v1/embeddings"))
    for _, ms in ipairs { "soon", "-1", "0", "nan", "1e-323", "1, 2" } do
      assert.equal(400, select(2, embed(gateway, one "x", ("-H 'x-max-wait-ms: %s'"):format(ms))), ms)
    end
  end)

  test("a field that is false is refused, and what it would have spoilt for others is not", {}, function(gateway)
    for _, field in ipairs { "dimensions", "encoding_format", "model", "input" } do
      local text, status = embed(gateway, ('{"model":"m","input":"x","%s":false}'):format(field))
      assert.equal(400, status, field)
      assert.truthy(text:find("'" .. field .. "'", 1, true), text)
    end
    assert.equal(200, select(2, embed(gateway, one "x")))
  end)

  test("an input that costs more than a batch may is its client's fault",
    { options = "target_batch_cost = 10, on_oversize = 'reject'" }, function(gateway)
      local text, status = embed(gateway, one(("x"):rep(400)))
      assert.equal(400, status)
      assert.matches('"code":"oversize"', text)
    end)

  test("passes the error of one input to its client alone", { options = "batch_timeout_s = 0.1" }, function(gateway)
    assert.equal("7 200, 1 400: I will not swallow poison", drive(gateway, [[
      local good, bad, said = 0, 0, nil
      at_once(8, function(i)
        local status, answer = ask(i == 5 and "poison" or "text " .. i)
        if status == 200 then
          good = good + (driver.is_vector_of(answer.data[1].embedding, "text " .. i) and 1 or 0)
        else
          bad, said = bad + 1, answer.error.message
        end
      end)
      return good .. " 200, " .. bad .. " 400: " .. said
    ]]))
  end)

  test("answers 502 when the upstream fails, breaks off or answers too few; only where it breaks off there are others",
    { options = "batch_timeout_s = 0.05", config = "breaker = false" }, function(gateway)
      for as, status in pairs { failing = "502", half = "502", short = "502", busy = "429" } do
        upstream:get("/behave?as=" .. as)
        assert.equal(("%s "):format(status):rep(6), drive(gateway, [[
          local seen = ""
          at_once(6, function(i)
            local answered = ask("text " .. i)
            seen = seen .. answered .. " "
          end)
          return seen
        ]]), as)
        local asked = upstream_requests() -- 2: the call and its other attempt; 11: the halves of 6 inputs
        assert.is_true(asked <= (as == "half" and 2 * 11 or 2), as .. ": " .. asked)
      end
      upstream:get "/behave?as=well"
      assert.equal(200, select(2, embed(gateway, one "again")))
    end)

  test("understands the oddest upstream, and asks it twice at most", { options = "batch_timeout_s = 0" },
    function(gateway)
      for as, expected in pairs {
        speechless = { 502, "upstream: status 500" }, locked = { 401, "the key is wrong" },
        moved = { 502, "upstream: status 302" }, empty = { 502, "upstream: status 204" },
        null = { 502, "not an answer to 1 input" }, nan = { 502, "no list of numbers" },
        unchunked = { 502, "has no size" }, negative = { 502, "is no number" },
        uncounted = { 200, '"total_tokens":2' },
      } do
        upstream:get("/behave?as=" .. as)
        local text, status = embed(gateway, one "x")
        assert.equal(expected[1], status, as .. ": " .. text)
        assert.truthy(text:find(expected[2], 1, true), as .. ": " .. text)
        assert.is_true(upstream_requests() <= 2, as)
      end
      upstream:get "/behave?as=locked"
      embed(gateway, '{"model":"m","input":["a","b","c"]}')
      assert.equal(1, upstream_requests())
    end)

  test("answers 502 when there is no upstream", { upstream = "http://127.0.0.1:1" }, function(gateway)
    local text, status = embed(gateway, one "x")
    assert.equal(502, status)
    assert.matches("connection refused", text)
  end)

  test("answers 504 when the upstream is slower than inference_timeout_s",
    { options = "batch_timeout_s = 0, inference_timeout_s = 0.2" }, function(gateway)
      upstream:get "/behave?as=slow"
      local text, status = embed(gateway, one "x")
      assert.equal(504, status)
      assert.matches("_timeout", text) -- the call's or the batch's, which are one
    end)

  test("answers 504 when x-max-wait-ms has passed before the call could begin",
    { options = "batch_timeout_s = 0, " .. ONE }, function(gateway)
      upstream:get "/behave?as=held"
      local first = drive(gateway, [[return (ask "first")]], true)
      nginx.wait_until("the first call", function() return upstream_requests() == 1 end)
      local text, status = embed(gateway, one "second", "-H 'x-max-wait-ms: 100'")
      assert.equal(504, status)
      assert.matches('"deadline"', text)
      release(1)
      assert.equal("200", first())
    end)

  test("answers 429 with Retry-After when the queue is full",
    { options = "batch_timeout_s = 0, max_queue_size = 2, max_batch_size = 1, prefetch_batches = 0, " .. ONE },
    function(gateway)
      upstream:get "/behave?as=held"
      local first = drive(gateway, [[return (ask "x")]], true)
      nginx.wait_until("the first call", function() return upstream_requests() == 1 end)
      local others = drive(gateway, [[
        refused = 0
        local ok, with = 0, 0
        at_once(7, function()
          local socket = ngx.socket.tcp()
          socket:settimeout(20000)
          assert(socket:connect("127.0.0.1", port))
          local body = cjson.encode { model = "m", input = "x" }
          socket:send("POST /v1/embeddings HTTP/1.0\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body)
          local text = socket:receive "*a"
          if text:find "^HTTP/1.1 200" then ok = ok + 1 end
          if text:find "^HTTP/1.1 429" then refused = refused + 1 end
          if text:find "\nRetry%-After: %d+\r\n" or text:find "\nretry%-after: %d+\r\n" then with = with + 1 end
        end)
        return ok .. " 200, " .. refused .. " 429, " .. (with == refused and "all" or with) .. " with Retry-After"
      ]], true)
      nginx.wait_until("all others", function() return driver:eval "return refused" == "5" end)
      release(3)
      assert.equal("200", first())
      assert.equal("2 200, 5 429, all with Retry-After", others())
    end)

  test("is fair over x-api-key: who sends little does not wait for who sends much",
    { options = "batch_timeout_s = 0, max_batch_size = 4, prefetch_batches = 0, target_batch_cost = 2048, " .. ONE },
    function(gateway)
      upstream:get "/behave?as=held"
      local much = drive(gateway, [[
        answered = 0
        at_once(80, function(i)
          ask("much " .. i, "x-api-key: hog\r\n")
          answered = answered + 1
        end)
        return answered
      ]], true)
      nginx.wait_until("all of the many", function() return metric(gateway, "submitted_total") == 80 end)
      local little = drive(gateway, [[return (ask("little", "x-api-key: small\r\n")) .. " " .. answered]], true)
      nginx.wait_until("the one", function() return metric(gateway, "submitted_total") == 81 end)
      release(6) -- what ran, what is left of the hog's quantum of 32 tokens, and a batch with the one
      local status, before = little():match "(%d+) (%d+)"
      assert.equal("200", status)
      assert.is_true(tonumber(before) <= 6 * 4)
      release(100)
      assert.equal("80", much())
    end)

  for _, shared in ipairs { "no", "yes" } do
    test("a client that leaves frees its place" .. (shared == "yes" and ", one batching worker behind" or ""),
      { options = "batch_timeout_s = 30", shared = shared }, function(gateway)
        local leave = nginx.client(("-d %s %s/v1/embeddings"):format(nginx.quote(one "x"), gateway.url))
        nginx.wait_until("its record", function() return metric(gateway, "queue_records") == 1 end)
        leave()
        nginx.wait_until("the cancel", function() return metric(gateway, "cancelled_total") == 1 end)
        nginx.wait_until("its place", function()
          return gateway:get("/status"):find('"active":0,"held_bytes":0', 1, true)
        end)
      end)
  end

  test("takes options and keys with any characters", { options = 'log = function(_, t) return t:find "a|b&c" end' },
    function(gateway)
      assert.equal(200, select(2, embed(gateway, one "x", "-H 'x-api-key: |&\\'")))
    end)

  for age, shown in pairs { oldest_queued_s = "oldest_queued_seconds", oldest_running_s = "oldest_running_seconds" } do
    test("/health answers 503 once " .. age .. " has passed its limit, and 200 before and after", {
      options = "batch_timeout_s = 0, max_batch_size = 1, prefetch_batches = 0, " .. ONE, health = age .. " = 0.3",
    }, function(gateway)
      upstream:get "/behave?as=held"
      assert.equal(200, select(2, gateway:get "/health"))
      local all = drive(gateway, [[
        local ok = 0
        at_once(2, function()
          local status = ask "x"
          ok = ok + (status == 200 and 1 or 0)
        end)
        return ok
      ]], true)
      nginx.wait_until("503", function() return select(2, gateway:get "/health") == 503 end)
      local text = gateway:get "/health"
      assert.matches('"status":"stuck"', text)
      assert.is_true(tonumber(text:match('"' .. age .. '":([%d.]+)')) > 0.3)
      assert.is_true(tonumber(gateway:get("/metrics"):match("\ntokenbatcher_" .. shown .. "{[^}]*} ([%d.]+)")) > 0.3)
      release(2)
      assert.equal("2", all())
      local body, status = gateway:get "/health"
      assert.equal(200, status)
      assert.equal('{"status":"ok","oldest_queued_s":0.000,"oldest_running_s":0.000}\n', body)
    end)
  end

  test("shows the upstream's words to whom they are about: to no other, and 500 bytes of them",
    { options = "batch_timeout_s = 0.1, max_batch_size = 2" }, function(gateway)
      upstream:get "/behave?as=blabbing"
      local said = drive(gateway, [[
        local seen = {}
        at_once(2, function(i)
          local _, answer = ask("secret number " .. i)
          seen[i] = answer.error.message
        end)
        return seen[1] .. "|" .. seen[2]
      ]])
      assert.equal("upstream: status 500|upstream: status 500", said)
      local text = embed(gateway, one(("long "):rep(1000)))
      assert.matches("I choked on long long", text)
      assert.is_true(#text < 700)
    end)

  test("logs what failed, and nothing of a request's line: a query may hold a key",
    { upstream = "http://127.0.0.1:1", options = "batch_timeout_s = 0" }, function(gateway)
      local query = "?api_key=top-secret"
      assert.equal(502, select(2, gateway:get("/v1/embeddings" .. query, "-d " .. nginx.quote(one "x"))))
      assert.equal(502, select(2, gateway:get("/v1/models" .. query, "-H 'x-request-id: r-17'")))
      assert.equal(413, select(2, gateway:get("/v1/embeddings" .. query, "-H 'content-length: 99999999' -d x")))
      assert.equal(400, select(2, gateway:get("/v1/embeddings" .. query, "-H 'transfer-encoding: chunked' -d x "
        .. "-H 'content-length: 5'")))
      local log = gateway:log()
      assert.matches("request r%-17: nginx has answered it with status 502", log)
      assert.matches("502 upstream_unreachable: no connection", log)
      assert.is_nil(log:find("secret", 1, true), log)
      assert.is_nil(log:find("GET /", 1, true), log)
    end)

  test("has /health and /metrics", {}, function(gateway)
    embed(gateway, one "x")
    assert.matches('ok', (gateway:get "/health"))
    local text = gateway:get "/metrics"
    assert.matches('\ntokenbatcher_completed_total{name="[^"]+",worker="0"} 1\n', text)
    if nginx.succeeds "command -v promtool" then
      assert.equal("", nginx.output_of(("curl -s %s/metrics | promtool check metrics 2>&1"):format(gateway.url)))
    end
  end)

  for _, given in ipairs { { workers = 1 }, { workers = 2 }, { workers = 4 }, { workers = 4, shared = "yes" } } do
    test(("gives each of 200 connections its own vectors, %d worker(s)%s"):format(given.workers,
      given.shared and " in front of one that batches" or ""), given, function(gateway)
        local text = drive(gateway, [[
          local count = {}
          return driver.text(driver.load({ port = port, clients = 200, keeps = true,
            stop = function() return count.answered >= 2000 end }, count))
        ]])
        local sent, answered = text:match "sent (%d+), answered (%d+), wrong 0, refused 0, broken 0"
        assert.equal(sent, answered, text)
        assert.is_true(tonumber(answered) >= 2000, text)
        local stats = upstream:get "/stats"
        local density = stats:match '"inputs":(%d+)' / stats:match '"requests":(%d+)'
        assert.is_true(density > 1.5, stats)
      end)
  end
end)
