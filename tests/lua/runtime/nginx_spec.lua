-- The batcher in a real nginx worker: where it may be used, what it leaves behind, what
-- happens when clients, timers and workers go away.

local nginx = dofile "tests/nginx/server.lua"
local missing = nginx.missing()

local function test(name, fn)
  it(name, function()
    if missing then return pending("skipped: " .. missing) end
    fn()
  end)
end

-- Starts nginx, calls fn(server), and stops it whatever happens.
local function with_server(given, fn)
  local server = nginx.start(given)
  local ok, err = xpcall(fn, function(value)
    if type(value) == "string" then return debug.traceback(value) .. "\n" .. server:log() end
    return value
  end, server)
  server:stop()
  if not ok then error(err, 0) end
end

-- A worker with a batcher `b` of these options; it answers each record with "re:" .. record.
local function worker(options, more)
  return ([[
    init_worker_by_lua_block {
      tb = require "tokenbatcher"
      calls = {}
      function answer(records, info)
        calls[#calls + 1] = { size = #records, reason = info.reason }
        local results = {}
        for i, record in ipairs(records) do results[i] = "re:" .. record end
        return results
      end
      b = tb.TokenBatcher { inference_fn = answer, %s }
      b:start()
    }
    %s
  ]]):format(options or "", more or "")
end

describe("in an nginx worker:", function()
  test("submit and await answer in the rewrite, access, content and timer phases", function()
    with_server({ http = worker "batch_timeout_s = 0.001", server = [[
      location /rewrite { rewrite_by_lua_block { ngx.say((b:submit("rewrite"):await())) ngx.exit(200) } }
      location /access { access_by_lua_block { ngx.say((b:submit("access"):await())) ngx.exit(200) } }
      location /content { content_by_lua_block { ngx.say((b:submit("content"):await())) } }
      location /timer { content_by_lua_block {
        local done = require("ngx.semaphore").new(0)
        local answer
        ngx.timer.at(0, function() answer = b:submit("timer"):await() done:post(1) end)
        done:wait(5)
        ngx.say(answer)
      } }
    ]] }, function(server)
      for _, phase in ipairs { "rewrite", "access", "content", "timer" } do
        assert.equal("re:" .. phase .. "\n", (server:get("/" .. phase)))
      end
    end)
  end)

  test("elsewhere they raise an error that names the phase, and nothing is enqueued", function()
    with_server({ http = worker "", server = [[
      location / {
        content_by_lua_block { future = future or b:submit "x" ngx.say "hello" }
        header_filter_by_lua_block { in_header = select(2, pcall(b.submit, b, "y")) }
        log_by_lua_block {
          in_log = select(2, pcall(b.try_submit, b, "z"))
          in_await = select(2, pcall(future.await, future))
          in_sleep = select(2, pcall(tb.sleep, 1))
        }
      }
    ]] }, function(server)
      assert.equal("hello\n", (server:get "/"))
      local said = server:eval [[
        require("ngx.semaphore").new(0):wait(0.05)
        return table.concat({ in_header, in_log, in_await, in_sleep, b.stats.total_submitted }, "\n")
      ]]
      assert.matches("submit cannot be called in nginx's phase header_filter %(rewrite, access, content and",
        said)
      assert.matches("try_submit cannot be called in nginx's phase log", said)
      assert.matches("sleep cannot wait here: in nginx's phase log", said)
      assert.matches("\n1$", said)
    end)
  end)

  test("an await in the log phase of a future that has no answer yet raises", function()
    with_server({ http = worker "batch_timeout_s = 60", server = [[
      location / {
        content_by_lua_block { ngx.ctx.future = b:submit "x" ngx.say "hello" }
        log_by_lua_block { said = select(2, pcall(ngx.ctx.future.await, ngx.ctx.future)) ngx.ctx.future:cancel() }
      }
    ]] }, function(server)
      server:get "/"
      nginx.wait_until("the log phase", function() return server:eval "return said" ~= "nil" end)
      assert.matches("await cannot wait here: in nginx's phase log", server:eval "return said")
    end)
  end)

  test("init_by_lua may require and construct, but not start; run, step and fd raise everywhere", function()
    with_server({ http = [[
      init_by_lua_block {
        tb = require "tokenbatcher"
        b = tb.TokenBatcher { inference_fn = function(records) return records end, batch_timeout_s = 0 }
        in_init = select(2, pcall(b.start, b))
      }
      init_worker_by_lua_block { b:start() }
    ]] }, function(server)
      assert.matches("start cannot be called in init_by_lua", server:eval "return in_init")
      assert.equal("a", server:eval 'return (b:submit("a"):await())')
      for _, name in ipairs { "run", "step", "fd", "next_deadline" } do
        assert.matches("nginx's own loop", server:eval(("return select(2, pcall(tb.%s, print))"):format(name)))
      end
    end)
  end)

  test("require and an idle worker leave no timer, no thread and no descriptor", function()
    with_server({ workers = 1 }, function(server)
      local COUNT = [[
        local n = 0 -- counted here: a child sees the pipe to it, or does not
        for fd = 0, 1023 do
          local file = io.open("/proc/self/fdinfo/" .. fd)
          if file then
            n = n + 1
            file:close()
          end
        end
        return n .. " " .. ngx.timer.pending_count() .. " " .. ngx.timer.running_count()
      ]]
      server:eval "return 0" -- what the first request opens stays
      local before = server:eval(COUNT)
      server:eval [[
        tb = require "tokenbatcher"
        b = tb.TokenBatcher { inference_fn = function(records) return records end, batch_timeout_s = 0.001 }
        b:start()
      ]]
      nginx.wait_until("no more than before", function() return server:eval(COUNT) == before end)
      assert.equal("a", server:eval 'return (b:submit("a"):await())')
      -- the one that tells the worker's exit is pending for some seconds yet
      local after = before:match "%d+" .. " 1 0"
      nginx.wait_until("the same but that one", function() return server:eval(COUNT) == after end)
    end)
  end)

  test("exit_timeout takes seconds, and nothing else", function()
    with_server({ http = worker "" }, function(server)
      for _, value in ipairs { "-1", "0/0", "'1'", "nil" } do
        assert.matches("exit_timeout: a number of seconds >= 0 is needed",
          server:eval(("return select(2, pcall(tb.exit_timeout, %s))"):format(value)))
      end
    end)
    local _, outside = pcall(require("tokenbatcher").exit_timeout, 1)
    assert.matches("for nginx workers", outside)
  end)

  test("HTTP goes by nginx's cosockets, and so do the backends that ask servers", function()
    local answers = [[
      location = /v1/embeddings { content_by_lua_block {
        ngx.req.read_body()
        ngx.header["x-method"] = ngx.req.get_method()
        ngx.print('{"data":[{"index":0,"embedding":[1,2.5]}]}')
      } }]]
    with_server({ http = worker "", server = answers }, function(server)
      local url = server.url .. "/v1"
      assert.equal("200 POST 42|200 GET", server:eval(([[
        local posted = assert(tb.http.post("%s/embeddings", { body = "{}", headers = { ["X-Empty"] = "" } }))
        local got = assert(tb.http.get("%s/embeddings", { retry = { attempts = 2 } }))
        return ("%%d %%s %%d|%%d %%s"):format(posted.status, posted.headers["x-method"], #posted.body, got.status,
          got.headers["x-method"])]]):format(url, url)))
      assert.equal("http_connect: GET http://127.0.0.1:1/: no connection (connection refused) false", server:eval [[
        local _, err = tb.http.get "http://127.0.0.1:1/?key=secret"
        return tostring(err) .. " " .. tostring(err.was_sent)]])
      assert.matches("nginx has no ca_file of a request's own",
        server:eval [[return select(2, pcall(tb.http.get, "https://a/", { ca_file = "x" }))]])
      assert.equal("1 2.5", server:eval(([[
        local c = tb.TokenBatcher { inference_fn = tb.backend.openai { base_url = "%s", model = "m" } }
        c:start()
        return table.concat(assert(c:submit("x"):await()), " ")]]):format(url)))
    end)
  end)

  test("F7: all that is submitted in one turn of nginx's loop goes in one batch", function()
    with_server({ http = worker [[policy = "eager"]] }, function(server)
      local sizes = server:eval [[
        local threads = {}
        for i = 1, 50 do threads[i] = ngx.thread.spawn(function() return b:submit(i):await() end) end
        for i = 1, 50 do assert(select(2, ngx.thread.wait(threads[i])) == "re:" .. i) end
        return #calls .. " of " .. calls[1].size
      ]]
      assert.equal("1 of 50", sizes)
    end)
  end)

  test("F8: a batch that is not full goes after batch_timeout_s, never before", function()
    with_server({ http = worker "batch_timeout_s = 0.005" }, function(server)
      local fastest = tonumber(server:eval [[
        local fastest = 1
        for i = 1, 50 do
          local started = tb.now()
          b:submit(i):await()
          fastest = math.min(fastest, tb.now() - started)
        end
        return fastest
      ]])
      assert.is_true(fastest >= 0.005, tostring(fastest))
      assert.is_true(fastest < 0.05, tostring(fastest))
    end)
  end)

  test("await(timeout_s) gives up in time, and the record keeps its place", function()
    with_server({ http = worker "batch_timeout_s = 60" }, function(server)
      assert.equal("nil await_timeout 1", server:eval [[
        local answer, err = b:submit("a"):await(0.02)
        return tostring(answer) .. " " .. err.code .. " " .. b.stats.queue_size
      ]])
    end)
  end)

  test("X3: an estimator or a policy that tries to suspend gets an error, and nobody else notices", function()
    with_server({ http = worker "batch_timeout_s = 0.001" }, function(server)
      assert.equal("true", server:eval [[
        local picky = tb.TokenBatcher { inference_fn = answer,
          token_estimator = function() ngx.sleep(0.001) return 1 end }
        picky:start()
        local ok, err = pcall(picky.submit, picky, "a")
        assert(not ok and err.code == "bad_cost" and tostring(err):find "tried to suspend", tostring(err))
        assert(b:submit("b"):await() == "re:b")
        local lines = {}
        local sleepy = tb.TokenBatcher { inference_fn = answer, batch_timeout_s = 0.001,
          log = function(_, text) lines[#lines + 1] = text end,
          policy = { form = function() ngx.sleep(0.001) end } }
        sleepy:start()
        assert(sleepy:submit("c"):await() == "re:c")
        assert(sleepy.stats.policy_errors >= 1)
        picky:stop() sleepy:stop()
        return true
      ]])
    end)
  end)

  test("X3: from the batcher's own inference function submit never waits, and stop is an error", function()
    with_server({ http = worker "" }, function(server)
      assert.equal("queue_full", server:eval [[
        local own
        own = tb.TokenBatcher { max_queue_size = 1, batch_timeout_s = 0, inference_fn = function(records)
          if records[1] == "inner" then return records end
          own:submit "inner"
          local code
          ngx.thread.wait(ngx.thread.spawn(function() code = select(2, own:submit "more").code end))
          assert(not pcall(own.stop, own))
          return { code }
        end }
        own:start()
        local code = own:submit("outer"):await()
        own:stop()
        return code
      ]])
    end)
  end)

  test("R3, R4: inference may use cosockets, an error in it fails its batch and is told", function()
    with_server({ http = worker "", server = "location /far { return 200 far; }" }, function(server)
      local said = server:eval(([[
        local far = tb.TokenBatcher { batch_timeout_s = 0, inference_fn = function(records)
          if records[1] == "bad" then error "no device" end
          local socket = ngx.socket.tcp()
          assert(socket:connect("127.0.0.1", %d))
          socket:send "GET /far HTTP/1.0\r\n\r\n"
          local text = socket:receive "*a"
          return { text:match "far$" }
        end }
        far:start()
        local answer = far:submit("x"):await()
        local _, err = far:submit("bad"):await()
        far:stop()
        return answer .. " " .. err.code .. " " .. err.message .. (err.traceback and " traced" or "")
      ]]):format(server.port))
      assert.matches("^far inference_failed .*no device traced$", said)
    end)
  end)

  test("ngx.exit in inference_fn fails its batch, and the batcher goes on", function()
    with_server({ http = worker "batch_timeout_s = 0" }, function(server)
      assert.equal("inference_failed re:next", server:eval [[
        b:set { inference_fn = function(records)
          if records[1] == "exit" then ngx.exit(500) end
          return answer(records, {})
        end }
        local _, err = b:submit("exit"):await(20)
        return err.code .. " " .. b:submit("next"):await()
      ]])
    end)
  end)

  test("ngx.exit in a policy ends the pump; another one takes over, and nobody is left waiting", function()
    with_server({ http = worker "batch_timeout_s = 0.001" }, function(server)
      assert.equal("re:a re:b true", server:eval [[
        local leaving = tb.TokenBatcher { inference_fn = answer, batch_timeout_s = 0.001,
          policy = { form = function() ngx.exit(0) end } }
        leaving:start()
        local a = leaving:submit "a"
        ngx.sleep(0.05)
        local sleeper = ngx.thread.spawn(function() tb.sleep(0) return true end)
        local values = b:submit("b"):await() .. " "
        local _, woken = ngx.thread.wait(sleeper)
        return a:await() .. " " .. values .. tostring(woken)
      ]])
      assert.matches("the pump's light thread is gone", server:log())
    end)
  end)

  test("a worker that was blocked for long keeps its pump", function()
    with_server({ http = worker "batch_timeout_s = 0.001" }, function(server)
      assert.equal("re:b", server:eval [[
        local long = b:submit "a"
        ngx.sleep(0.001)
        os.execute "sleep 3" -- not a wait: nginx is blocked for longer than a pump may be silent
        long:await()
        return b:submit("b"):await()
      ]])
      assert.is_nil(server:log():find("light thread is gone", 1, true))
    end)
  end)

  test("R5: time in which the worker was blocked does not count against calls", function()
    with_server({ http = worker "batch_timeout_s = 0, inference_timeout_s = 1" }, function(server)
      assert.equal("a", server:eval [[
        b:set { inference_fn = function(records)
          tb.sleep(0.3) -- two steps, so that one turn does not bring it to its end
          tb.sleep(0.3)
          return records
        end }
        local future = b:submit "a"
        ngx.sleep(0.1)
        os.execute "sleep 2" -- not a wait: nginx is blocked for twice the timeout
        local answer, err = future:await()
        return answer or err.code
      ]])
    end)
  end)

  test("spawn and gather work, and an error that nobody awaits is in the log", function()
    with_server({ http = worker "" }, function(server)
      assert.equal("3 coroutine_failed", server:eval [[
        local one = tb.spawn(function(a, b) tb.sleep(0.001) return a + b end, 1, 2)
        local two = tb.spawn(function() error "lost" end)
        local results, errs = tb.gather { one, two }
        return results[1] .. " " .. errs[2].code
      ]])
      server:eval [[tb.spawn(function() error "nobody hears this" end) tb.sleep(0.01)]]
      assert.matches("nobody hears this", server:log())
    end)
  end)

  test("warnings go to nginx's log unless there is an option log", function()
    with_server({ http = worker "inference_timeout_s = 0.01, batch_timeout_s = 0, name = 'loud'" }, function(server)
      server:eval [[
        b:set { inference_fn = function() tb.sleep(0.03) error "too late" end }
        b:submit("x"):await()
      ]]
      nginx.wait_until("the warning", function()
        return server:log():find "tokenbatcher: TokenBatcher 'loud': an abandoned inference call failed: .*too late"
      end)
    end)
  end)

  test("with lua_code_cache off each request has a Lua state of its own, and leaves nothing behind", function()
    with_server({ http = "lua_code_cache off;", server = [[
      location / { content_by_lua_block {
        local tb = require "tokenbatcher"
        local b = tb.TokenBatcher { inference_fn = function(records) return records end, batch_timeout_s = 0.001 }
        b:start()
        ngx.say((b:submit(ngx.var.arg_x):await()))
        b:stop()
      } }
    ]] }, function(server)
      for i = 1, 8 do assert.equal(i .. "\n", (server:get("/?x=" .. i))) end
      server:signal "QUIT"
      assert.is_true(server:ends_within(5))
    end)
  end)

  test("limits under which no batch would ever run are told at the start, and others are not", function()
    for limit, said in pairs {
      ["lua_max_running_timers 1;"] = "raise lua_max_running_timers; a batch runs in a timer of its own",
      ["lua_max_pending_timers 1;"] = "too many pending timers%): raise lua_max_pending_timers; a batch runs in",
      ["lua_max_running_timers 2; lua_max_pending_timers 2;"] = false,
    } do
      with_server({ http = limit .. worker "" }, function(server)
        if said then
          nginx.wait_until("the message", function() return server:log():find(said) end)
        else
          nginx.wait_until("the end of what looks for it", function()
            return server:eval "return ngx.timer.pending_count() + ngx.timer.running_count()" == "0"
          end)
          assert.is_nil(server:log():find("no batch ever runs", 1, true))
        end
      end)
    end
  end)

  test("timers that nginx drops or refuses delay a batch, and lose none", function()
    for _, limit in ipairs { "lua_max_running_timers 4;", "lua_max_pending_timers 6;" } do
      with_server({ http = limit .. worker "max_batch_size = 1, max_concurrent_batches = 10, batch_timeout_s = 0" },
        function(server)
          assert.equal("15", server:eval [[
            b:set { inference_fn = function(records) tb.sleep(0.1) return answer(records, {}) end }
            local futures, n = {}, 0
            for i = 1, 15 do futures[i] = b:submit(i) end
            for i = 1, 15 do n = n + (futures[i]:await(25) == "re:" .. i and 1 or 0) end
            return n
          ]])
        end)
    end
  end)
end)

describe("a client that goes away", function()
  local SERVER = [[
    location / {
      lua_check_client_abort on;
      content_by_lua_block {
        local future = b:submit(ngx.var.arg_x)
        ngx.on_abort(function() future:cancel() ngx.exit(499) end)
        local answer, err = future:await()
        ngx.say(answer or err.code)
      }
    }
  ]]

  test("frees its place while queued", function()
    with_server({ http = worker "batch_timeout_s = 60", server = SERVER }, function(server)
      local leave = nginx.client(nginx.quote(server.url .. "/?x=gone"))
      nginx.wait_until("its record", function() return server:eval "return b.stats.queue_size" == "1" end)
      leave()
      nginx.wait_until("the cancel", function() return server:eval "return b.stats.total_cancelled" == "1" end)
      assert.equal("0", server:eval "return b.stats.queue_size")
    end)
  end)

  test("harms nobody while running", function()
    with_server({ http = worker "batch_timeout_s = 60, max_batch_size = 2", server = SERVER }, function(server)
      server:eval [[
        b:set { inference_fn = function(records)
          repeat tb.sleep(0.005) until b.stats.total_cancelled == 1
          return answer(records, {})
        end }
      ]]
      local stays = server:begin [[return (b:submit("stays"):await())]]
      local leave = nginx.client(nginx.quote(server.url .. "/?x=gone"))
      nginx.wait_until("their batch", function() return server:eval "return b.stats.running_records" == "2" end)
      leave()
      assert.equal("re:stays", stays())
      assert.equal("1 2", server:eval "return b.stats.total_cancelled .. ' ' .. calls[1].size")
    end)
  end)
end)
