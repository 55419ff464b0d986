-- A worker that leaves: real QUIT and HUP, with records queued, in the middle of load, with
-- bodies half sent and inference that hangs.

local nginx = dofile "tests/nginx/server.lua"
local missing = nginx.missing()

-- /v1/embeddings answers as the made-up upstream would, through a batcher `b`.
local WORKER = [[
  init_worker_by_lua_block {
    tb = require "tokenbatcher"
    cjson = require "cjson.safe"
    upstream = { vector = function(text) return { #text, ngx.crc32_long(text) } end }
    b = tb.TokenBatcher { inference_fn = function(records)
      tb.sleep(0.002)
      local results = {}
      for i, text in ipairs(records) do results[i] = upstream.vector(text) end
      return results
    end, OPTIONS }
    b:start()
    MORE
  }
]]
local SERVER = [[
  access_log $FOLDER/access.log;
  location /v1/embeddings {
    lua_check_client_abort on;
    content_by_lua_block {
      reading = (reading or 0) + 1
      ngx.req.read_body()
      local answer, err = b:submit(cjson.decode(ngx.req.get_body_data()).input):await()
      if err then return ngx.exit(503) end
      ngx.print(cjson.encode { data = { { embedding = answer } } })
    }
  }
]]

local function worker(options, more)
  return (WORKER:gsub("OPTIONS", options):gsub("MORE", more or ""))
end

local driver

local function test(name, given, fn)
  it(name, function()
    if missing then return pending("skipped: " .. missing) end
    given.server = given.server or SERVER
    local server = nginx.start(given)
    local ok, err = xpcall(fn, function(value)
      return type(value) == "string" and debug.traceback(value) .. server:log() or value
    end, server)
    server:stop()
    if not ok then error(err, 0) end
  end)
end

-- Lua for the driver, with its module as `driver` and the server's port and pid put in.
local function script(server, code)
  return ('local driver = dofile "%s/tests/nginx/driver.lua" '):format(nginx.root)
    .. code:gsub("PORT", server.port):gsub("PID", server.pid)
end

-- Begin load on a server. @return function  that ends it and returns the counts, as a table
local function begin_load(server, clients)
  driver:eval "stop = false"
  local wait = driver:begin(script(server, ([[
    return driver.text(driver.load { port = PORT, clients = %d, stop = function() return stop end })
  ]]):format(clients)))
  return function()
    driver:eval "stop = true"
    local text, count = wait(), {}
    for name, n in text:gmatch "(%a+) (%d+)" do count[name] = tonumber(n) end
    count.text = text
    return count
  end
end

local function answered_so_far(server)
  local n = 0
  for _ in nginx.read(server.folder .. "/access.log"):gmatch '" 200 ' do n = n + 1 end
  return n
end

local function lines_of_log(server)
  local n = 0
  for _ in nginx.read(server.folder .. "/access.log"):gmatch "POST /v1/embeddings" do n = n + 1 end
  return n
end

describe("a worker that exits", function()
  setup(function() if not missing then driver = nginx.start {} end end)
  teardown(function() if driver then driver:stop() end end)

  test("answers what is queued at once, however long it was to linger",
    { http = worker "batch_timeout_s = 600" }, function(server)
      local waits = {}
      for i = 1, 5 do
        waits[i] = driver:begin(script(server, ([[
          local status, answer = driver.ask(PORT, "/v1/embeddings", { input = "text %d" })
          return status .. tostring(driver.is_vector_of(answer.data[1].embedding, "text %d"))
        ]]):format(i, i)))
      end
      nginx.wait_until("five records", function() return server:eval "return b.stats.queue_size" == "5" end)
      server:signal "QUIT"
      for i = 1, 5 do assert.equal("200true", waits[i]()) end
      assert.is_true(server:ends_within(5))
    end)

  test("still accepts the record of a handler that was reading its body",
    { http = worker "batch_timeout_s = 600" }, function(server)
      driver:eval "may_send = false"
      local late = driver:begin(script(server, [[
        local body = '{"input":"late"}'
        local socket = ngx.socket.tcp()
        socket:settimeout(20000)
        assert(socket:connect("127.0.0.1", PORT))
        socket:send("POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: " .. #body .. "\r\n\r\n")
        repeat ngx.sleep(0.005) until may_send
        socket:send(body)
        return (socket:receive "*l"):match " (%d+) "
      ]]))
      nginx.wait_until("the handler", function() return server:eval "return reading" == "1" end)
      local worker_pid = server:workers()[1]
      server:signal "QUIT"
      nginx.wait_until("the worker to be told", function() return nginx.is_leaving(worker_pid) end)
      driver:eval "may_send = true"
      assert.equal("200", late())
      assert.is_true(server:ends_within(5))
    end)

  test("under load, QUIT: every request that nginx has read is answered; sent = answered + never read",
    { http = worker "batch_timeout_s = 0.003" }, function(server)
      local finish = begin_load(server, 50)
      nginx.wait_until("load", function() return answered_so_far(server) > 500 end)
      server:signal "QUIT"
      assert.is_true(server:ends_within(10))
      local count = finish()
      assert.equal(0, count.wrong, count.text)
      assert.equal(count.answered, answered_so_far(server))
      assert.equal(count.answered, lines_of_log(server)) -- nothing but 200
      assert.equal(count.sent, count.answered + count.broken)
      assert.is_true(count.refused > 0)
    end)

  test("under load, HUP three times with two workers: sent = answered, no connection is broken",
    { workers = 2, http = worker "batch_timeout_s = 0.003" }, function(server)
      local finish = begin_load(server, 50)
      for round = 1, 3 do
        local n = answered_so_far(server)
        nginx.wait_until("load", function() return answered_so_far(server) > n + 300 end)
        local old = server:workers()
        server:signal "HUP"
        nginx.wait_until("the old workers of round " .. round .. " to leave", function()
          return not nginx.is_alive(old[1]) and not nginx.is_alive(old[2])
        end)
      end
      local count = finish()
      assert.equal(count.sent, count.answered, count.text)
      assert.same({ 0, 0, 0 }, { count.wrong, count.refused, count.broken })
      assert.is_true(count.answered > 900)
    end)

  test("overlaps with the next generation: the old one's batch is answered beside the new one's",
    { http = worker "batch_timeout_s = 0" }, function(server)
      server:eval(([[b:set { inference_fn = function(records)
        repeat tb.sleep(0.005) until io.open("%s/go_on")
        return { { "old" } }
      end }]]):format(server.folder))
      local slow = driver:begin(script(server, [[
        local _, answer = driver.ask(PORT, "/v1/embeddings", { input = "x" })
        return answer.data[1].embedding[1]
      ]]))
      nginx.wait_until("the batch", function() return server:eval "return b.stats.running_batches" == "1" end)
      local old = server:workers()[1]
      server:signal "HUP"
      nginx.wait_until("the old worker to be told", function() return nginx.is_leaving(old) end)
      assert.equal("0", server:eval "return b.stats.running_batches") -- of the next generation
      assert.equal("200", driver:eval(script(server,
        [[return (driver.ask(PORT, "/v1/embeddings", { input = "y" }))]])))
      assert.is_true(nginx.is_alive(old))
      nginx.output_of("touch " .. server.folder .. "/go_on")
      assert.equal("old", slow())
      nginx.wait_until("the old worker to leave", function() return not nginx.is_alive(old) end)
    end)

  test("gives up after exit_timeout: what hangs fails as stopped, and the worker is gone",
    { http = worker("batch_timeout_s = 0", "tb.exit_timeout(0.5)") }, function(server)
      server:eval [[b:set { inference_fn = function() tb.sleep(1e6) end }]]
      local hangs = driver:begin(script(server, [[return (driver.ask(PORT, "/v1/embeddings", { input = "x" }))]]))
      nginx.wait_until("the batch", function() return server:eval "return b.stats.running_batches" == "1" end)
      server:signal "QUIT"
      assert.equal("503", hangs())
      assert.is_true(server:ends_within(10))
    end)

  test("is gone after worker_shutdown_timeout and exit_timeout, although its clients were cut off",
    { http = worker("batch_timeout_s = 0", "tb.exit_timeout(1)"), main = "worker_shutdown_timeout 200ms;" },
    function(server)
      server:eval [[b:set { inference_fn = function() tb.sleep(1e6) end }]]
      local hangs = driver:begin(script(server, [[
        return pcall(driver.ask, PORT, "/v1/embeddings", { input = "x" })
      ]]))
      nginx.wait_until("the batch", function() return server:eval "return b.stats.running_batches" == "1" end)
      server:signal "QUIT"
      hangs()
      assert.is_true(server:ends_within(10))
    end)

  test("and was idle is gone at once", { http = worker "batch_timeout_s = 0" }, function(server)
    assert.equal("200", driver:eval(script(server, [[return (driver.ask(PORT, "/v1/embeddings", { input = "x" }))]])))
    server:signal "QUIT"
    assert.is_true(server:ends_within(8)) -- the sentinel of a worker that is not idle lives for 10 s
  end)
end)
