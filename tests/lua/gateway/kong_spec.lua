-- The plugin for Kong in Debian's nginx, inside what stands for Kong there (tests/nginx/fakes/kong), between real
-- clients and the made-up upstream of tests/nginx/upstream.lua.

local plugin = dofile "tests/lua/plugin_helper.lua"
local nginx = plugin.nginx
local missing = nginx.missing()

local upstream, places

-- Plugins of others: who asks (above), what would run behind (below).
local OTHERS = [[
  { name = "auth", handler = { PRIORITY = 1250, access = function()
      local id = ngx.var.http_x_consumer
      if id then ngx.ctx.consumer, ngx.ctx.credential = { id = id }, { id = "key of " .. id } end
    end } },
  { name = "behind", handler = { PRIORITY = 500, access = function() Host.reached = (Host.reached or 0) + 1 end,
      log = function() Host.logged = (Host.logged or 0) + 1 end } },
]]

local function config(more)
  local out = { upstream = { url = upstream:url() }, batch = { max_wait_ms = 50 } }
  for name, value in pairs(more or {}) do out[name] = value end
  return out
end

-- The list of what is configured, each validated as Kong does before it hands it out.
local function list_of(configs)
  local parts = {}
  for id, it in pairs(configs) do
    parts[#parts + 1] = ("{name='tokenbatcher', id=%q, config=assert(Host.validate('tokenbatcher', %s))}"):format(id,
      plugin.literal(it))
  end
  return "{" .. table.concat(parts, ",") .. ", {name='auth', id='a', config={}}, {name='behind', id='b', config={}}}"
end

local function start(configs, given)
  given = given or {}
  return nginx.start { own_path = true, workers = given.workers,
    http = plugin.path .. ([[
      client_max_body_size 16m; lua_shared_dict tokenbatcher 1m;
      init_by_lua_block { Host = require "kong.runtime" Host.init({ "tokenbatcher" }, { %s }) %s }
      init_worker_by_lua_block { Host.init_worker(%s) }
    ]]):format(OTHERS, given.is_old and "require('kong.plugins.tokenbatcher.handler').configure = nil" or "",
      list_of(configs)),
    server = ([[
      location / {
        client_body_buffer_size 8k; %s
        access_by_lua_block { Host.access() }
        log_by_lua_block { Host.log() }
        proxy_pass %s;
      }
    ]]):format(given.aborts and "lua_check_client_abort on;" or "", given.service or upstream:url()) }
end

local function test(name, fn)
  it(name, function()
    if missing then return pending("skipped: " .. missing) end
    upstream:behave "well"
    fn()
  end)
end

local function with_kong(configs, given, fn) plugin.with(start(configs, given), fn) end

-- What is current, by plugin id.
local CURRENT = [[
  local entry_of, current = Host.inside("tokenbatcher", "entry_of"), nil
  for i = 1, 9 do
    local name, value = debug.getupvalue(entry_of, i)
    if name == "current" then current = value end
  end
]]

describe("the plugin in Kong", function()
  setup(function() if not missing then upstream, places = plugin.upstream(), nginx.places() end end)
  teardown(function()
    if upstream then upstream:stop() end
    if places then places:stop() end
  end)

  test("answers many clients with few calls, each with its own vector, below any path", function()
    with_kong({ p = config() }, nil, function(kong)
      assert.equal("40", kong:drive [[
        local right = 0
        at_once(40, function(i)
          local status, answer = ask("text " .. i, nil, i % 2 == 0 and "/ai/v1/embeddings" or "/v1/embeddings")
          if status == 200 and driver.is_vector_of(answer.data[1].embedding, "text " .. i) then right = right + 1 end
        end)
        return right
      ]])
      assert.is_true(upstream:calls() <= 5)
      assert.equal("nil 40", kong:drive "return tostring(Host.reached) .. ' ' .. tostring(Host.logged)")
    end)
  end)

  test("hands on what it does not batch, as it came, and lets the plugins behind see it", function()
    with_kong({ p = config() }, nil, function(kong)
      local body, status = kong.server:get("/v1/chat/completions", "-H 'Authorization: Bearer mine' -d '{\"a\":1}'")
      assert.equal(200, status)
      assert.matches('"authorization":"Bearer mine"', body)
      assert.truthy(body:find([["body":"{\"a\":1}"]], 1, true), body)
      assert.equal(0, upstream:calls())
      assert.equal("1 1", kong:drive "return Host.reached .. ' ' .. Host.logged")
    end)
  end)

  test("reads a body that nginx has put into a file", function()
    with_kong({ p = config() }, nil, function(kong)
      assert.equal("200 true", kong:drive [[
        local text = ("long "):rep(8000)
        local status, answer = ask(text)
        return status .. " " .. tostring(driver.is_vector_of(answer.data[1].embedding, text))
      ]])
      assert.matches("a client request body is buffered to a temporary file", kong.server:log())
    end)
  end)

  test("answers errors with what kong.response.exit takes, and names the culprit", function()
    with_kong({ p = config { models = { "m" }, limits = { body_bytes = 1000 } } }, nil, function(kong)
      local body, status = kong.server:get("/v1/embeddings", "-d nonsense")
      assert.equal(400, status)
      assert.matches('"code":"invalid_json"', body)
      body, status = kong.server:get("/v1/embeddings", [[-d '{"model":"x","input":"a"}']])
      assert.equal("404 true", status .. " " .. tostring(body:find "model_not_found" ~= nil))
      assert.equal(413, select(2, kong.server:get("/v1/embeddings", "-d " .. ("x"):rep(2000))))
      assert.equal(405, select(2, kong.server:get "/v1/embeddings"))
      assert.equal(0, upstream:calls())
    end)
  end)

  test("says what a request has cost where Kong's log and its metrics read it", function()
    with_kong({ p = config() }, nil, function(kong)
      assert.equal("200", kong:drive [[return (ask { "12345678", "1234" })]])
      local said = require("cjson").decode(kong:drive "return Host.said[1]")
      assert.same({ prompt_tokens = 3, completion_tokens = 0, total_tokens = 3, time_per_token = 0, cost = 0 },
        said["ai.tokenbatcher.usage"])
      local meta = said["ai.tokenbatcher.meta"]
      assert.same({ "p", "openai", "m" }, { meta.plugin_id, meta.provider_name, meta.request_model })
      assert.is_true(meta.llm_latency >= 50)
      kong:drive [[ask ""]]
      assert.equal("1", kong:drive "return #Host.said") -- what was refused has cost nothing
    end)
  end)

  test("shares the upstream by consumer, whatever keys a client makes up", function()
    local one_call = config { batch = { max_wait_ms = 0, max_in_flight = 1, max_inputs = 1, max_cost = 64 } }
    with_kong({ p = one_call }, nil, function(kong)
      upstream:behave "held"
      local wait = kong:drive([[
        local order, threads = {}, {}
        local function from(who, i)
          ask("text " .. i, ("x-consumer: %s\r\nx-api-key: %d\r\n"):format(who, i))
          order[#order + 1] = who
        end
        for i = 1, 14 do threads[i] = ngx.thread.spawn(from, i <= 10 and "f" or "q", i) end
        for i = 1, 14 do ngx.thread.wait(threads[i]) end
        return table.concat(order)
      ]], true)
      kong:wait_for_queued(13)
      upstream:release(100)
      local order = wait()
      assert.is_true(select(2, order:sub(1, 10):gsub("q", "")) == 4, order) -- alone they would be the last
    end)
  end)

  test("a client that leaves is dropped where nginx says so, and does no harm where it does not", function()
    for _, aborts in ipairs { true, false } do
      upstream:behave "held"
      with_kong({ p = config { batch = { max_wait_ms = 0, max_in_flight = 1, max_inputs = 1 } } }, { aborts = aborts },
        function(kong)
          local first = kong:drive("return (ask 'first')", true)
          upstream:wait_for_calls(1)
          local leave = nginx.client(kong.server.url .. [[/v1/embeddings -d '{"model":"m","input":"second"}']])
          kong:wait_for_queued(1)
          leave()
          if aborts then kong:wait_for_queued(0) end
          local third = kong:drive("return (ask 'third')", true)
          kong:wait_for_queued(aborts and 1 or 2)
          upstream:release(100)
          assert.equal("200 200", first() .. " " .. third())
          assert.equal(aborts and 2 or 3, upstream:calls())
          assert.is_nil(kong.server:log():find("exited on signal", 1, true))
          kong:wait_for_rest()
        end)
      upstream:behave "well"
    end
  end)

  test("a hundred clients that leave at once leave nothing behind, and the worker lives", function()
    local one_by_one = config { batch = { max_wait_ms = 0, max_in_flight = 1, max_inputs = 1 } }
    with_kong({ p = one_by_one }, { aborts = true }, function(kong)
      local pid = kong:look "return ngx.worker.pid()"
      assert.equal("200", plugin.leave_all(kong, upstream, 100))
      kong:wait_for_rest()
      assert.equal("200", kong:drive "return (ask 'x')")
      assert.equal(pid, kong:look "return ngx.worker.pid()")
      assert.equal(2, upstream:calls())
    end)
  end)

  test("with a queue chat waits for a slot, by consumer, and gives it back when its stream has ended", function()
    local queue = { upstream = { url = places.url }, queue = { slots = 1 } }
    places:get "/set?as=held"
    with_kong({ p = queue }, { service = places.url, aborts = true }, function(kong)
      assert.same({ "200 200 200 200", "200", "flood quiet flood flood flood" }, { plugin.flood(kong, places) })
      places:get "/set?as=held"
      local first = plugin.chat(kong, "a", 1)
      plugin.wait_for_slots(kong, 0, 1)
      local leave = nginx.client(kong.server.url .. "/v1/chat/completions -d '{}'")
      plugin.wait_for_slots(kong, 1, 1)
      leave()
      plugin.wait_for_slots(kong, 0, 1)
      places:get "/release?streams=1"
      assert.equal("200", first())
      kong:wait_for_rest()
    end)
  end)

  test("who waits for a slot for too long is told when to come again", function()
    places:get "/set?as=held"
    local queue = { upstream = { url = places.url }, queue = { slots = 1, max_wait_s = 0.2 } }
    with_kong({ p = queue }, { service = places.url }, function(kong)
      local first = plugin.chat(kong, "a", 1)
      plugin.wait_for_slots(kong, 0, 1)
      local body, status = kong.server:get("/v1/chat/completions", "-i -d '{}'")
      assert.equal(429, status)
      assert.matches("[Rr]etry%-[Aa]fter: %d", body)
      places:get "/release?streams=1"
      assert.equal("200", first())
    end)
  end)

  test("a new configuration takes over, and nothing in flight is lost", function()
    local held = config { batch = { max_wait_ms = 0, max_in_flight = 1, max_inputs = 1 } }
    with_kong({ p = held }, nil, function(kong)
      upstream:behave "held"
      local wait = kong:drive([[
        local ok = 0
        at_once(5, function(i) if ask("text " .. i) == 200 then ok = ok + 1 end end)
        return ok
      ]], true)
      kong:wait_for_queued(4)
      assert.equal(1, kong:gateways())
      kong:drive("Host.configure(" .. list_of { p = config { batch = { max_wait_ms = 1 } } } .. ")")
      assert.equal(1, kong:gateways()) -- the former one is on its way out
      local new = kong:drive("return (ask 'new')", true)
      upstream:wait_for_calls(2)
      upstream:release(100)
      assert.equal("5 200", wait() .. " " .. new())
      kong:wait_for_rest()
      assert.equal("6", tostring(kong:status "answered")) -- and what the former has counted stays counted
    end)
  end)

  test("one that is the same goes on, one that is gone is drained, and between two Kong hands out the old", function()
    with_kong({ p = config(), q = config() }, nil, function(kong)
      assert.equal(2, kong:gateways()) -- by id and by what it says
      local told = kong:drive(CURRENT .. "local was = current.p.entry Host.configure(" .. list_of { p = config() }
        .. ") return tostring(was == current.p.entry)")
      assert.equal("true", told)
      assert.equal(1, kong:gateways())
      told = kong:drive("local status Host.configure(" .. list_of { p = config { join = true } }
        .. ", function() status = ask 'between' end) return status")
      assert.equal("200", told)
      assert.equal(1, kong:gateways())
      told = kong:drive("Host.configure {} return (ask 'nobody') ")
      assert.equal("200", told) -- of the route's own service
      assert.equal(0, kong:gateways())
    end)
  end)

  test("a Kong that does not call configure() has its gateway with the first request, and a new one with new ones",
    function()
      with_kong({ p = config() }, { is_old = true }, function(kong)
        assert.equal(0, kong:gateways())
        assert.equal("200", kong:drive "return (ask 'x')")
        local join = CURRENT .. "return tostring(current.p.entry.gateway.config.join)"
        local before = kong:gateways()
        assert.equal("false", kong:drive(join))
        assert.equal("200", kong:drive("Host.configure(" .. list_of { p = config { join = true } }
          .. ") return (ask 'y')"))
        assert.equal("true", kong:drive(join))
        assert.equal(before, kong:gateways())
        assert.equal("200", kong:drive("Host.configure(" .. list_of { p = config { join = true } }
          .. ") return (ask 'z')")) -- other tables that say the same
        assert.equal(before, kong:gateways())
      end)
    end)

  test("a secret that is rotated in its vault is the one that goes upstream", function()
    local more = { upstream = { url = upstream:url(), api_key = "{vault://env/first}", headers = { ["x-a"] = "one" } } }
    with_kong({ p = config(more) }, nil, function(kong)
      local body, status = kong.server:get("/v1/embeddings", [[-d '{"model":"m","input":"a"}']])
      assert.equal(503, status)
      assert.matches('"code":"misconfigured"', body)
      assert.matches("upstream.api_key: its reference could not be resolved", kong.server:log())
      kong:drive "Host.rotate('tokenbatcher', function(conf) conf.upstream.api_key = '' end)" -- as Kong has it then
      assert.equal("503", kong:drive "return (ask 'a')")
      assert.matches("must be printable ASCII, without line breaks, and not empty", kong.server:log())
      kong:drive "Host.rotate('tokenbatcher', function(conf) conf.upstream.api_key = 'key-one' end)"
      assert.equal("200", kong:drive "return (ask 'a')")
      assert.equal("Bearer key-one", kong:drive(CURRENT .. "return current.p.entry.gateway.lines[1].upstream.p.key"))
      kong:drive "Host.rotate('tokenbatcher', function(conf) conf.upstream.api_key = 'key-two' end)"
      assert.equal("200", kong:drive "return (ask 'b')")
      assert.equal("Bearer key-two", kong:drive(CURRENT .. "return current.p.entry.gateway.lines[1].upstream.p.key"))
      assert.equal(1, kong:gateways())
      kong:drive "Host.rotate('tokenbatcher', function(conf) conf.upstream.headers['x-a'] = 'two' end)"
      assert.equal("200", kong:drive "return (ask 'c')")
      assert.matches("x%-a: two", kong:drive(CURRENT
        .. "return current.p.entry.gateway.lines[1].upstream.p.header_text"))
      assert.is_nil(kong.server:log():find("key-", 1, true))
    end)
  end)

  test("QUIT while calls last longer than the threads of Kong's timers loses none", function()
    with_kong({ p = config { batch = { max_wait_ms = 0, max_in_flight = 1, max_inputs = 1 } } }, nil, function(kong)
      upstream:behave "held"
      local wait = plugin.clients(kong, "/v1/embeddings", 3)
      upstream:wait_for_calls(1)
      kong:wait_for_queued(2)
      kong.server:signal "QUIT"
      nginx.wait_until("the end of Kong's threads", function()
        return kong.server:log():find("no thread is left for timers", 1, true)
      end)
      upstream:release(3)
      assert.equal("200 200 200", wait())
      assert.is_true(kong.server:ends_within(20))
    end)
  end)

  test("HUP with requests in flight loses none, and the new worker serves", function()
    with_kong({ p = config { batch = { max_wait_ms = 0, max_in_flight = 1, max_inputs = 1 } } }, nil, function(kong)
      upstream:behave "held"
      local wait = plugin.clients(kong, "/v1/embeddings", 3)
      upstream:wait_for_calls(1)
      kong:wait_for_queued(2)
      local former = tonumber(kong:look "return ngx.worker.pid()")
      kong.server:signal "HUP"
      nginx.wait_until("the former worker leaves", function() return nginx.is_leaving(former) end)
      local new = kong:drive("return (ask 'new') .. ' ' .. ngx.worker.pid()", true)
      upstream:release(4)
      assert.equal("200 200 200", wait())
      local status, pid = new():match "^(%d+) (%d+)$"
      assert.equal("200", status)
      assert.not_equal(former, tonumber(pid))
      nginx.wait_until("the former worker's end", function() return not nginx.is_alive(former) end)
    end)
  end)

  test("QUIT with requests in flight loses none", function()
    with_kong({ p = config { batch = { max_wait_ms = 5000 } } }, nil, function(kong)
      local wait = plugin.clients(kong, "/v1/embeddings", 3)
      kong:wait_for_queued(3)
      kong.server:signal "QUIT"
      assert.equal("200 200 200", wait())
      assert.is_true(kong.server:ends_within(20))
    end)
  end)
end)
