-- The queue before chat in nginx, between real clients and a made-up server of streams (tests/nginx/places.lua). What
-- is asserted are counts and orders; how long it takes is measured in tests/soak/queue.lua.

local json = require "tokenbatcher.base.json"
local nginx = dofile "tests/nginx/server.lua"
local missing = nginx.missing()

local places, driver

local function set(how) places:get("/set?" .. how) end
local function release(n) places:get("/release?streams=" .. n) end
local function stats() return json.decode((places:get "/stats")) end
local function order() return (places:get "/order") end

local function come(n)
  nginx.wait_until(n .. " streams upstream", function() return stats().came >= n end)
end

local function test(name, given, fn)
  it(name, function()
    if missing then return pending("skipped: " .. missing) end
    set "as=held"
    given.upstream = places.url
    given.config = given.config .. ', fairness_key = "authorization"'
    nginx.with_gateway(places, given, fn)
  end)
end

local function code_of(gateway, code)
  return ('local S, port = dofile "%s/tests/nginx/streams.lua", %d\n'):format(nginx.root, gateway.port) .. code
end

-- n streams of a key, all at once, beside this spec. @return function that waits, and returns "whole 3, refused 1"
local function streams(gateway, key, n)
  return driver:begin(code_of(gateway, ([[
    local all, count, out = S.at_once(%d, function(i)
      return S.stream { port = port, key = "%s", text = "stream " .. i .. " of %s" }
    end), {}, {}
    for _, it in ipairs(all) do count[it.became] = (count[it.became] or 0) + 1 end
    for _, what in ipairs { "whole", "wrong", "refused", "broken" } do
      if count[what] then out[#out + 1] = what .. " " .. count[what] end
    end
    return table.concat(out, ", ")
  ]]):format(n, key, key)), 120)
end

local function wait_for(gateway, what, n)
  nginx.wait_until(n .. " " .. what, function() return nginx.queue_of(gateway)[what] == n end)
end

local function count(list, key, first, last)
  local n, i = 0, 0
  for word in list:gmatch "%S+" do
    i = i + 1
    if i >= first and i <= last and word == key then n = n + 1 end
  end
  return n
end

describe("the queue before chat in nginx:", function()
  setup(function()
    if missing then return end
    places, driver = nginx.places(), nginx.start {}
  end)
  teardown(function()
    if driver then driver:stop() end
    if places then places:stop() end
  end)

  test("never more than its slots are upstream, and every stream is the upstream's, byte for byte",
    { config = "queue = { slots = 3 }" }, function(gateway)
      set "as=timed&ms=9&places=3"
      assert.equal("whole 40", streams(gateway, "a", 40)())
      assert.same({ 3, 0, 40, 40 }, { stats().most, stats().over, stats().came, stats().done })
      wait_for(gateway, "used", 0)
    end)

  test("a stream comes event by event", { config = "queue = { slots = 1 }" }, function(gateway)
    local out = gateway.folder .. "/stream"
    local leave = nginx.client(("-N -o %s -d '{\"messages\":[{\"content\":\"x\"}]}' %s/v1/chat/completions"):format(out,
      gateway.url))
    nginx.wait_until("the first event", function() return nginx.read(out):find '"1 x"' end)
    assert.is_nil(nginx.read(out):find '"2 x"')
    release(1)
    nginx.wait_until("the end", function() return nginx.read(out):find("[DONE]", 1, true) end)
    leave()
  end)

  test("who comes new is next, before all of a flood", { config = "queue = { slots = 2, max_wait_s = 100 }" },
    function(gateway)
      local flood = streams(gateway, "flood", 20)
      wait_for(gateway, "waiting", 18)
      come(2)
      local quiet = streams(gateway, "quiet", 1)
      wait_for(gateway, "waiting", 19)
      release(1)
      come(3)
      assert.equal("flood flood quiet", order())
      release(100)
      assert.same({ "whole 20", "whole 1" }, { flood(), quiet() })
      assert.equal(2, stats().most)
    end)

  test("with a slot in reserve it does not wait at all", { config = "queue = { slots = 3, reserve = 1 }" },
    function(gateway)
      local flood = streams(gateway, "flood", 10)
      wait_for(gateway, "waiting", 8)
      come(2)
      local quiet = streams(gateway, "quiet", 1)
      come(3) -- nothing was released
      assert.equal("flood flood quiet", order())
      release(100)
      assert.same({ "whole 10", "whole 1" }, { flood(), quiet() })
    end)

  test("behind four workers, of which one has all of gold and three have all of base, weights of 4 and 1 are kept",
    { workers = 1, shared = "yes", config = "queue = { slots = 2, max_wait_s = 300, weights = { gold = 4 } }" },
    function(gateway)
      local front = nginx.start { workers = 3,
        http = ("upstream batching { server unix:%s/batching.sock; keepalive 64; }"):format(gateway.folder),
        server = [[location /v1/ {
          proxy_pass http://batching; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
        }]] }
      local all = { streams(gateway, "first", 2) }
      come(2)
      for _ = 1, 3 do all[#all + 1] = streams(front, "base", 60) end
      wait_for(gateway, "waiting", 180)
      all[#all + 1] = streams(gateway, "gold", 60)
      wait_for(gateway, "waiting", 240)
      release(50)
      come(52)
      local gold, base = count(order(), "gold", 3, 52), count(order(), "base", 3, 52)
      assert.is_true(math.abs(gold - 40) <= 1 and gold + base == 50, order())
      release(1000)
      assert.equal("whole 2", all[1]())
      for i = 2, 5 do assert.equal("whole 60", all[i]()) end
      assert.equal(2, stats().most)
      front:stop()
    end)

  test("a gateway's own location waits by admit(), and gives back when it fails", { config = "queue = { slots = 1 }" },
    function()
      local own = nginx.start {
        http = ([[
          lua_shared_dict tokenbatcher 1m;
          init_by_lua_block {
            gateway = require("tokenbatcher.gateway.nginx").new { upstreams = { { url = "%s" } },
              queue = { slots = 1 } }
          }
          init_worker_by_lua_block { gateway:init_worker() }
        ]]):format(places.url),
        server = ([[
          log_by_lua_block { gateway:over() }
          location = /status { content_by_lua_block { gateway:page() } }
          location = /speech {
            lua_check_client_abort on;
            access_by_lua_block { gateway:admit() }
            proxy_pass %s; proxy_http_version 1.1; proxy_buffering off;
          }
          location = /away {
            access_by_lua_block { gateway:admit() }
            proxy_pass http://127.0.0.1:1;
            error_page 502 =503 /elsewhere;
          }
          location = /elsewhere { return 503 "away\n"; }
        ]]):format(places.url),
      }
      local begun = driver:begin(code_of(own, [[
        return S.stream { port = port, key = "a", text = "x", path = "/speech" }.became
      ]]))
      wait_for(own, "used", 1)
      local second = driver:begin(code_of(own, [[
        return S.stream { port = port, key = "b", text = "y", path = "/speech" }.became
      ]]))
      wait_for(own, "waiting", 1)
      assert.equal(1, stats().came)
      local text, status = own:get("/speech", "-d '{}' -H 'x-max-wait-ms: 20'")
      assert.same({ 429, "queue_timeout" }, { status, json.decode(text).error.code })
      release(2)
      assert.same({ "whole", "whole" }, { begun(), second() })
      for _ = 1, 3 do assert.equal(503, select(2, own:get("/away", "-d '{}'"))) end
      wait_for(own, "used", 0)
      own:stop()
    end)

  test("after max_wait_s it is 429 with Retry-After; who wants to wait for less gets it sooner",
    { config = "queue = { slots = 1, max_wait_s = 0.3 }" }, function(gateway)
      local first = streams(gateway, "a", 1)
      come(1)
      local text = nginx.output_of(("curl -s -i -m 20 -H 'x-request-id: r-1' -d '{}' %s/v1/chat/completions"):format(
        gateway.url))
      assert.matches("^HTTP/1.1 429", text)
      assert.matches("\n[Rr]etry%-[Aa]fter: %d+\r\n", text)
      assert.matches("\n[Xx]%-[Rr]equest%-[Ii]d: r%-1\r\n", text)
      assert.equal("queue_timeout", json.decode(text:match "\n(%b{})%s*$").error.code)
      assert.matches('queue_refused_total{[^}]*reason="queue_timeout"} 1\n', gateway:get "/metrics" .. "\n")
      assert.matches('http_requests_total{route="pass",code="429"', (gateway:get "/metrics"))
      release(1)
      assert.equal("whole 1", first())
    end)

  test("while the upstream says that requests wait inside of it, nobody goes there",
    { config = "queue = { slots = 8, gate = { every_s = 0.05 } }" }, function(gateway)
      set "as=timed&waiting=3"
      local first = streams(gateway, "a", 1) -- what it says is not known yet, or is: then it waits
      nginx.wait_until("a closed gate", function()
        return (gateway:get "/metrics"):find "tokenbatcher_queue_gate_open{[^}]*} 0"
      end)
      local others = streams(gateway, "b", 5)
      nginx.wait_until("five who wait", function() return nginx.queue_of(gateway).waiting >= 5 end)
      assert.is_true(stats().came <= 1)
      places:get "/waiting?n=0"
      assert.same({ "whole 1", "whole 5" }, { first(), others() })
      -- a page that is away closes nothing
      places:get "/waiting?n=-1"
      assert.equal("whole 3", streams(gateway, "c", 3)())
    end)

  -- Streams that end in the middle, while they wait, and before anything: as many slots are free as before.
  for _, shared in ipairs { "no", "yes" } do
    local workers = shared == "yes" and 2 or 1
    local name = "300 clients that leave, shared " .. shared .. ": no slot is lost"
    local given = { shared = shared, workers = workers, config = "queue = { slots = 4, max_wait_s = 100 }" }
    test(name, given, function(gateway)
      local held = streams(gateway, "held", 2)
      come(2)
      driver:eval(code_of(gateway, [[
        for round = 1, 6 do
          S.at_once(50, function(i)
            local socket = S.begin { port = port, key = "key " .. i % 5, text = "x" }
            -- a half waits until the stream begins, if it ever does; the others go at once, or a moment later
            socket:settimeout(i % 2 == 0 and 200 or i % 5)
            socket:receive "*l"
            socket:close()
          end)
        end
      ]]))
      wait_for(gateway, "waiting", 0)
      wait_for(gateway, "used", 2)
      nginx.wait_until("two streams upstream", function() return stats().now == 2 end)
      local came = stats().came
      local others = streams(gateway, "new", 3)
      come(came + 2) -- two of the four slots are free, and no more
      wait_for(gateway, "waiting", 1)
      assert.equal(4, stats().now)
      release(1000)
      assert.same({ "whole 2", "whole 3" }, { held(), others() })
      wait_for(gateway, "used", 0)
    end)
  end

  for _, signal in ipairs { "QUIT", "HUP" } do
    test("at " .. signal .. " no stream is lost, nor who waits", { config = "queue = { slots = 2, max_wait_s = 100 }" },
      function(gateway)
        local worker = gateway:workers()[1]
        local all = streams(gateway, "a", 8)
        wait_for(gateway, "waiting", 6)
        come(2)
        gateway:signal(signal)
        nginx.wait_until("the worker to be told", function() return nginx.is_leaving(worker) end)
        assert.equal(2, stats().came)
        if signal == "HUP" then
          assert.matches('"status":"ok"', (gateway:get "/health")) -- the new worker is there
        end
        release(8)
        assert.equal("whole 8", all())
        assert.equal(2, stats().most)
        nginx.wait_until("the worker to leave", function() return not nginx.is_alive(worker) end)
        if signal == "HUP" then assert.equal(0, nginx.queue_of(gateway).used) end
      end)
  end
end)

describe("its configuration in nginx:", function()
  it("ends the start where each worker would have no slot, and says so", function()
    if missing then return pending("skipped: " .. missing) end
    local said = nginx.output_of("timeout 20 sh examples/openresty/start.sh --listen 127.0.0.1:1 --workers 4 "
      .. "--upstream http://127.0.0.1:1 --config 'queue = { slots = 3 }' 2>&1")
    assert.matches("upstream 1: queue: slots = 3 are fewer than the 4 workers", said)
  end)
end)
