-- The plugin for APISIX in Debian's nginx, inside what stands for APISIX there (tests/nginx/fakes/apisix), between real
-- clients and the made-up upstream of tests/nginx/upstream.lua.

local plugin = dofile "tests/lua/plugin_helper.lua"
local nginx = plugin.nginx
local missing = nginx.missing()

local upstream, places

local function config(more)
  local out = { upstream = { url = upstream:url(), name = "models" }, batch = { max_wait_ms = 50 } }
  for name, value in pairs(more or {}) do out[name] = value end
  return out
end

-- The call that makes `conf` the route's, with plugins of others beside it.
local function route(conf)
  return ("assert(Host.set_route { tokenbatcher = %s, auth = {}, limit = {}, ['ai-limit'] = {} })"):format(
    plugin.literal(conf))
end

local LOAD = [[Host.load({ "tokenbatcher" }, { Host.auth, Host.limit, Host.ai_limit })]]

local function start(conf, given)
  return nginx.start { own_path = true, workers = given.workers,
    http = plugin.path .. ([[
      client_max_body_size 16m; %s
      init_by_lua_block { Host = require "apisix.runtime" }
      init_worker_by_lua_block { %s %s }
    ]]):format(given.is_alone and "" or "lua_shared_dict tokenbatcher 1m;", LOAD, route(conf)),
    server = ([[
      location / {
        client_body_buffer_size 8k; %s
        access_by_lua_block { Host.access() }
        log_by_lua_block { Host.log() }
        proxy_pass %s;
      }
      location /v1/plugin/ { content_by_lua_block { Host.control() } }
    ]]):format(given.aborts and "lua_check_client_abort on;" or "", given.is_chat and places.url or upstream:url()) }
end

-- A test beside an APISIX of its own, whose route has conf() for the plugin.
local function test(name, given, fn)
  it(name, function()
    if missing then return pending("skipped: " .. missing) end
    upstream:behave "well"
    plugin.with(start(given.conf and given.conf() or config(), given), fn)
  end)
end

local function one_by_one(more)
  local batch = { max_wait_ms = 0, max_in_flight = 1, max_inputs = 1 }
  for name, value in pairs(more or {}) do batch[name] = value end
  return config { batch = batch }
end

describe("the plugin in APISIX", function()
  setup(function() if not missing then upstream, places = plugin.upstream(), nginx.places() end end)
  teardown(function()
    if upstream then upstream:stop() end
    if places then places:stop() end
  end)

  test("answers many clients with few calls, behind the rate limits, each with its own vector", {}, function(apisix)
    assert.equal("40", apisix:drive [[
      local right = 0
      at_once(40, function(i)
        local status, answer = ask("text " .. i, nil, i % 2 == 0 and "/ai/v1/embeddings" or "/v1/embeddings")
        if status == 200 and driver.is_vector_of(answer.data[1].embedding, "text " .. i) then right = right + 1 end
      end)
      return right
    ]])
    assert.is_true(upstream:calls() <= 5)
    assert.equal("40", apisix:look "return Host.limit.ran")
    local _, status = apisix.server:get("/v1/embeddings", [[-H 'x-limited: yes' -d '{"model":"m","input":"a"}']])
    assert.equal(429, status)
    assert.equal(40, apisix:status "answered")
    apisix:wait_for_rest()
  end)

  test("what is not understood is refused in access, and names the culprit",
    { conf = function() return config { models = { "m" } } end }, function(apisix)
      local body, status = apisix.server:get("/v1/embeddings", "-D " .. apisix.server.folder .. "/head "
        .. [[-d '{"model":"m","input":["a",""]}']])
      assert.equal(400, status)
      assert.matches("'input%[1%]' must not be empty", body)
      assert.matches("[Cc]ontent%-[Tt]ype: application/json", nginx.read(apisix.server.folder .. "/head"))
      body, status = apisix.server:get("/v1/embeddings", [[-d '{"model":"x","input":"a"}']])
      assert.equal("404 true", status .. " " .. tostring(body:find "model_not_found" ~= nil))
      assert.equal("0", apisix:look "return Host.limit.ran")
      assert.equal(0, upstream:calls())
      apisix:wait_for_rest()
    end)

  test("hands on what it does not batch, as it came", {}, function(apisix)
    local body, status = apisix.server:get("/v1/chat/completions", "-H 'Authorization: Bearer mine' -d '{\"a\":1}'")
    assert.equal(200, status)
    assert.matches('"authorization":"Bearer mine"', body)
    assert.truthy(body:find([["body":"{\"a\":1}"]], 1, true), body)
    assert.equal("nil", apisix:look "return tostring(next(Host.limited))") -- no instance was picked
    apisix:wait_for_rest()
  end)

  test("says what a request has cost where ai-rate-limiting reads it, and writes no variable that is not there", {},
    function(apisix)
      assert.equal("200", apisix:drive [[return (ask { "12345678", "1234" })]])
      assert.equal("3 m", apisix:look "return Host.limited.models .. ' ' .. Host.limited.model")
      assert.is_nil(apisix.server:log():find("not found for writing", 1, true))
    end)

  test("reads a body that nginx has put into a file", {}, function(apisix)
    assert.equal("200 true", apisix:drive [[
      local text = ("long "):rep(8000)
      local status, answer = ask(text)
      return status .. " " .. tostring(driver.is_vector_of(answer.data[1].embedding, text))
    ]])
    assert.matches("a client request body is buffered to a temporary file", apisix.server:log())
  end)

  test("shares the upstream by consumer, whatever keys a client makes up",
    { conf = function() return one_by_one { max_cost = 64 } end }, function(apisix)
      upstream:behave "held"
      local wait = apisix:drive([[
        local order, threads = {}, {}
        local function from(who, i)
          ask("text " .. i, ("x-consumer: %s\r\nx-api-key: %d\r\n"):format(who, i))
          order[#order + 1] = who
        end
        for i = 1, 14 do threads[i] = ngx.thread.spawn(from, i <= 10 and "f" or "q", i) end
        for i = 1, 14 do ngx.thread.wait(threads[i]) end
        return table.concat(order)
      ]], true)
      apisix:wait_for_queued(13)
      upstream:release(100)
      local order = wait()
      assert.is_true(select(2, order:sub(1, 10):gsub("q", "")) == 4, order) -- alone they would be the last
    end)

  for _, aborts in ipairs { true, false } do
    test("a client that leaves " .. (aborts and "is dropped where nginx says so" or "does no harm where it does not"),
      { conf = one_by_one, aborts = aborts }, function(apisix)
        upstream:behave "held"
        local first = apisix:drive("return (ask 'first')", true)
        upstream:wait_for_calls(1)
        local leave = nginx.client(apisix.server.url .. [[/v1/embeddings -d '{"model":"m","input":"second"}']])
        apisix:wait_for_queued(1)
        leave()
        if aborts then apisix:wait_for_queued(0) end
        local third = apisix:drive("return (ask 'third')", true)
        apisix:wait_for_queued(aborts and 1 or 2)
        upstream:release(100)
        assert.equal("200 200", first() .. " " .. third())
        assert.equal(aborts and 2 or 3, upstream:calls())
        assert.is_nil(apisix.server:log():find("exited on signal", 1, true))
        apisix:wait_for_rest()
      end)
  end

  test("a hundred clients that leave at once leave nothing behind, and the worker lives",
    { conf = one_by_one, aborts = true }, function(apisix)
      local pid = apisix:look "return ngx.worker.pid()"
      assert.equal("200", plugin.leave_all(apisix, upstream, 100))
      apisix:wait_for_rest()
      assert.equal("200", apisix:drive "return (ask 'x')")
      assert.equal(pid, apisix:look "return ngx.worker.pid()")
      assert.equal(2, upstream:calls())
    end)

  test("with a queue chat waits for a slot, by consumer, behind the rate limits, and gives it back",
    { conf = function()
      places:get "/set?as=held"
      return { upstream = { url = places.url }, queue = { slots = 1, max_wait_s = 20 } }
    end, aborts = true, is_chat = true }, function(apisix)
      assert.same({ "200 200 200 200", "200", "flood quiet flood flood flood" }, { plugin.flood(apisix, places) })
      assert.equal("5", apisix:look "return Host.limit.ran")
      places:get "/set?as=held"
      local first = plugin.chat(apisix, "a", 1)
      plugin.wait_for_slots(apisix, 0, 1)
      local leave = nginx.client(apisix.server.url .. "/v1/chat/completions -d '{}'")
      plugin.wait_for_slots(apisix, 1, 1)
      leave()
      plugin.wait_for_slots(apisix, 0, 1)
      assert.equal(429, select(2, apisix.server:get("/v1/chat/completions", "-H 'x-limited: yes' -d '{}'")))
      places:get "/release?streams=1"
      assert.equal("200", first())
      apisix:wait_for_rest()
    end)

  test("routes that say the same share a gateway, others have one of their own, and those that idle are forgotten", {},
    function(apisix)
      for _ = 1, 2 do assert.equal("200", apisix:drive(route(config()) .. "return (ask 'a')")) end
      assert.equal(1, apisix:gateways())
      assert.equal("200", apisix:drive(route(config { join = true }) .. "return (ask 'a')"))
      assert.equal(2, apisix:gateways())
      apisix:look "for _, entry in pairs(fleet.entries) do entry.used_us = entry.used_us - 601e6 end"
      assert.equal("200", apisix:drive(route(config { auth = "passthrough" }) .. "return (ask 'a')"))
      assert.equal(1, apisix:gateways())
      apisix:wait_for_rest()
      assert.equal(4, apisix:status "answered") -- what was counted stays counted
    end)

  test("plugins are loaded again: what is in flight is answered, and the new one serves", { conf = one_by_one },
    function(apisix)
      upstream:behave "held"
      local wait = apisix:drive([[
        local ok = 0
        at_once(5, function(i) if ask("text " .. i) == 200 then ok = ok + 1 end end)
        return ok
      ]], true)
      apisix:wait_for_queued(4)
      apisix:look("Host.former = fleet " .. LOAD .. route(one_by_one()))
      local new = apisix:drive("return (ask 'new')", true)
      upstream:wait_for_calls(2)
      upstream:release(100)
      assert.equal("5 200", wait() .. " " .. new())
      nginx.wait_until("the former is at rest", function()
        return apisix:look "return tostring(next(Host.former.entries) or next(Host.former.stopping))" == "nil"
      end)
      apisix:wait_for_rest()
    end)

  test("a key that is a reference is resolved, and what cannot be is refused",
    { conf = function() return config { upstream = { url = upstream:url(), api_key = "$env://KEY" } } end },
    function(apisix)
      local body, status = apisix.server:get("/v1/embeddings", [[-d '{"model":"m","input":"a"}']])
      assert.equal(503, status)
      assert.matches('"code":"misconfigured"', body)
      assert.equal("200", apisix:drive "require('apisix.secret').values['$env://KEY'] = 'key-one' return (ask 'a')")
      assert.equal("Bearer key-one", apisix:look [[
        for _, entry in pairs(fleet.entries) do
          if entry.gateway then return entry.gateway.lines[1].upstream.p.key end
        end]])
      assert.is_nil(apisix.server:log():find("key-one", 1, true))
    end)

  test("so is a header's value, where the key is none",
    { conf = function()
      return config { upstream = { url = upstream:url(), headers = { ["x-key"] = "$env://KEY" } } }
    end }, function(apisix)
      local _, status = apisix.server:get("/v1/embeddings", [[-d '{"model":"m","input":"a"}']])
      assert.equal(503, status)
      assert.matches("upstream.headers.x-key: its reference could not be resolved", apisix.server:log(), 1, true)
      assert.equal("200", apisix:drive "require('apisix.secret').values['$env://KEY'] = 'key-one' return (ask 'a')")
      assert.is_nil(apisix.server:log():find("key-one", 1, true))
    end)

  test("the control API tells of all workers", { workers = 2 }, function(apisix)
    apisix:drive [[at_once(30, function(i) ask("text " .. i) end)]]
    local function sum_of(page, pattern)
      local text, status = apisix.server:get("/v1/plugin/tokenbatcher" .. page)
      assert.equal(200, status)
      local sum = 0
      for n in text:gmatch(pattern) do sum = sum + n end
      return sum
    end
    nginx.wait_until("what each worker has put down", function() return sum_of("/status", '"answered":(%d+)') == 30 end)
    assert.equal(30, sum_of("/metrics",
      'tokenbatcher_http_requests_total{route="embeddings",code="200",worker="%d"} (%d+)'))
  end)

  test("without a shared dict the control API tells of the worker that is asked", { is_alone = true }, function(apisix)
    apisix:drive "ask 'a'"
    local body = apisix.server:get "/v1/plugin/tokenbatcher/status"
    assert.matches('"models":{"state":"closed",[^}]*"answered":1,', body)
  end)

  test("QUIT with requests in flight loses none",
    { conf = function() return config { batch = { max_wait_ms = 5000 } } end }, function(apisix)
      local wait = plugin.clients(apisix, "/v1/embeddings", 3)
      apisix:wait_for_queued(3)
      apisix.server:signal "QUIT"
      assert.equal("200 200 200", wait())
      assert.is_true(apisix.server:ends_within(20))
    end)
end)
