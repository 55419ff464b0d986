-- tb.queue.redis inside real nginx workers, with a Redis of its own and workers that are processes of their own.
local C = require "tests.lua.cli_helper"
local R = require "tests.lua.redis_helper"
local nginx = dofile "tests/nginx/server.lua"

local missing = nginx.missing() or R.missing()
local spec = missing and function(name) it(name .. " (skipped: " .. missing .. ")", function() pending(missing) end) end
  or function(name, fn) it(name, R.really(fn)) end

-- Doubles n, slowly: requests are under way while nginx is reloaded.
local SCRIPT = [[
return { inference_timeout_s = 20, max_batch_size = 8, batch_timeout_s = 0.005, inference_fn = function(records)
  require("tokenbatcher").sleep(0.05)
  local results = {}
  for i, record in ipairs(records) do results[i] = { n = record.n * 2 } end
  return results
end }
]]

-- /double?n=5 answers 10, by way of Redis.
local HTTP = [[
init_worker_by_lua_block {
  tb = require "tokenbatcher"
  queue = tb.queue.redis { url = "%s", stream = "S", reconcile_s = 0.2 }
}
]]
local SERVER = [[
location = /double {
  content_by_lua_block {
    local future, err = queue:submit({ n = tonumber(ngx.var.arg_n) }, { timeout_s = 60 })
    local result
    if future then result, err = future:await() end
    if not result then ngx.status = 500 end
    ngx.print(result and result.n or err.code .. ": " .. err.message)
  }
}
]]

describe("in nginx, tb.queue.redis", function()
  local server, script, worker, front

  setup(function()
    if missing then return end
    C.new_folder()
    script = C.file("double.lua", SCRIPT)
  end)
  teardown(function() if not missing then C.clean() end end)
  before_each(function() if not missing then server = R.server { "--appendonly", "yes" } end end)
  after_each(function()
    if front then front:stop() end
    if worker then worker:kill() end
    if server then server:stop() end
    front, worker = nil, nil
  end)

  local function start_worker(url)
    worker = R.program(server, "worker", { "work", script, "--redis", url or server.url, "--stream", "S",
      "--lease", "2" })
  end

  local function start_front(workers, url)
    front = nginx.start { workers = workers, http = HTTP:format(url or server.url), server = SERVER }
  end

  -- Ask for first..last, `at_once` at a time. @return function that waits, and checks each answer
  local function ask(first, last, at_once)
    local folder = server.folder .. "/" .. first
    os.execute("mkdir " .. folder)
    os.execute(("{ seq %d %d | xargs -P %d -I{} curl -s -m 60 -o %s/{} '%s/double?n={}'; echo >%s/done; } "
      .. ">/dev/null 2>&1 &"):format(first, last, at_once, folder, front.url, folder))
    return function()
      R.wait_for(function() return nginx.read(folder .. "/done") ~= "" end, "the clients")
      for n = first, last do assert.are.equal(tostring(2 * n), nginx.read(folder .. "/" .. n)) end
    end, function() return tonumber(R.output_of("ls " .. folder .. " | wc -l")) end
  end

  local function assert_nothing_left()
    R.wait_for(function() return server:call("XLEN", "S") == 0 and server:pending "S" == 0 end, "an empty stream")
    assert.are.equal("", server:cli("KEYS", "{S}:dead"))
  end

  local function no_complaints()
    assert.is_nil(front:log():find("%[error%]"), front:log())
  end

  spec("answers requests of several workers, each its own", function()
    start_worker()
    start_front(2)
    ask(1, 60, 20)()
    assert_nothing_left()
    no_complaints()
  end)

  spec("loses nothing when nginx is reloaded with futures in flight, and its old workers go", function()
    start_worker()
    start_front(2)
    local old = front:workers()
    local finish, answered = ask(1, 160, 30)
    for i = 1, 3 do
      R.wait_for(function() return answered() > 35 * i end, "some answers")
      front:signal "HUP"
    end
    finish()
    R.wait_for(function()
      for _, pid in ipairs(old) do
        if nginx.is_alive(pid) then return false end
      end
      return #front:workers() == 2
    end, "the old workers to go: " .. front:log())
    assert_nothing_left()
    front:signal "QUIT"
    assert.is_true(front:ends_within(10))
    assert.are.equal("", server:cli("KEYS", "{S}:r:*")) -- each worker has taken its own away
    no_complaints()
  end)

  spec("outlives a Redis that is killed and comes back, and one that falls silent", function()
    start_worker()
    start_front(1)
    ask(1, 5, 5)()
    server:kill()
    local finish = ask(6, 25, 20)
    server:start()
    finish()
    server:kill "STOP"
    finish = ask(26, 45, 20)
    R.wait_for(function() return front:log():find("no answer for 3.0 s", 1, true) end, "the watchdog")
    server:kill "CONT"
    finish()
    assert_nothing_left()
  end)

  spec("goes by host, password and database, and says what is wrong without the password", function()
    local port = R.free_port()
    server:cli("CONFIG", "SET", "port", tostring(port))
    server:cli("CONFIG", "SET", "requirepass", "top-secret")
    local url = ("redis://:top-secret@localhost:%d/3"):format(port)
    start_worker(url)
    start_front(1, url)
    ask(1, 10, 10)()
    local said = front:eval([[
      local bad = tb.queue.redis { url = "redis://:wrong-secret@127.0.0.1:]] .. port .. [[", stream = "S",
        connect_timeout_s = 0.5 }
      local ok, err = bad:connect()
      return err.code .. " " .. err.message
    ]])
    assert.matches("^redis_unavailable cannot connect to Redis at redis://127.0.0.1:%d+: Redis says: WRONGPASS", said)
    assert.is_nil(said:find "secret")
    assert.is_nil(front:log():find "secret")
  end)

  spec("cancels, refuses and stops as it does elsewhere", function()
    start_front(1)
    assert.are.equal("cancelled not_running", front:eval([[
      local own = tb.queue.redis { url = "]] .. server.url .. [[", stream = "T", window = 1, on_full = "reject" }
      local future = own:submit { n = 1 }
      local none, err = own:submit { n = 2 }
      assert(none == nil and err.code == "queue_full")
      assert(future:cancel())
      local _, problem = future:await()
      own:stop()
      local ok, after = pcall(own.submit, own, { n = 3 })
      return problem.code .. " " .. (ok and "taken" or after.code)
    ]]))
    R.wait_for(function() return server:call("XLEN", "T") == 0 end, "the cancelled record to go")
    assert.matches("in nginx each worker is a producer of its own", front:eval [[
      return select(2, pcall(tb.queue.redis, { stream = "S", producer = "me" }))
    ]])
    assert.matches("a worker is a process of its own", front:eval [[
      return select(2, pcall(tb.source.redis, { stream = "S" }))
    ]])
    no_complaints()
  end)
end)
