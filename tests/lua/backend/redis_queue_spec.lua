-- A producer's side: submit, room, cancel, stop.
local H = require "tests.lua.helper"
local R = require "tests.lua.redis_helper"
local tb = require "tokenbatcher"

local missing = R.missing()
local spec = missing and function(name) it(name .. " (skipped: " .. missing .. ")", function() pending(missing) end) end
  or function(name, fn) it(name, R.really(fn)) end

describe("a Redis queue", function()
  local server

  setup(function() server = not missing and R.server() end)
  teardown(function() if server then server:stop() end end)
  before_each(function() if server then server:flush() end end)

  spec("writes what submit was told into the message, in the order of submission", function()
    local queue = R.queue(server, { producer = "me" })
    queue:submit({ n = 1 }, { estimated_tokens = 6.2, key = "k", group = "g", priority = -2, timeout_s = 1.5,
      batch_timeout_s = 0.25 })
    for i = 2, 5 do queue:submit { n = i } end
    R.wait_for(function() return server:call("XLEN", "S") == 5 end)
    local entries = server:entries "S"
    local sid = entries[1].sid
    assert.are.same({ sid = sid, v = "1", id = "me:1", reply_to = "{S}:r:me", record = '{"n":1}', cost = "7", key = "k",
      group = "g", priority = "-2", timeout_ms = "1500", batch_timeout_ms = "250" }, entries[1])
    for i = 2, 5 do assert.are.equal(('{"n":%d}'):format(i), entries[i].record) end
    queue:stop { timeout_s = 0 }
  end)

  spec("answers its futures: results, and errors with their code", function()
    local queue = R.queue(server)
    R.with_worker(server, nil, { inference_fn = function(records)
      local results = {}
      for i, record in ipairs(records) do results[i] = record.n == 2 and tb.failure "no twos" or { n = record.n } end
      return results
    end }, function()
      local results, errs = tb.gather { queue:submit { n = 1 }, queue:submit { n = 2 } }
      assert.are.equal(1, results[1].n)
      assert.are.same({ "inference_failed", "no twos" }, { errs[2].code, errs[2].message })
    end)
    queue:stop()
    assert.are.equal(0, server:call("EXISTS", queue.reply))
  end)

  spec("lets in those who wait for room first come, first served, and never more than its window", function()
    local queue, order, most = R.queue(server, { window = 3 }), {}, 0
    local waiting = {}
    for i = 1, 12 do
      waiting[i] = tb.spawn(function()
        local future = assert(queue:submit { n = i })
        order[#order + 1] = i
        most = math.max(most, queue.unsettled)
        return future:await()
      end)
    end
    R.with_worker(server, nil, { max_batch_size = 2 }, function()
      for i = 1, 12 do assert.are.equal(2 * i, waiting[i]:await().n) end
    end)
    assert.are.same({ 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 }, order)
    assert.are.equal(3, most)
    queue:stop()
  end)

  spec("refuses at once where it is told to, and what is too large or no JSON", function()
    local queue = R.queue(server, { window = 1, on_full = "reject", max_record_bytes = 100 })
    assert(queue:submit { n = 1 })
    assert.are.equal("queue_full", select(2, queue:submit { n = 2 }).code)
    assert.are.equal("oversize", select(2, queue:submit { text = ("x"):rep(100) }).code)
    assert.is_truthy(H.message(queue.submit, queue, { fn = print }):find("JSON", 1, true))
    assert.is_truthy(H.message(queue.submit, queue, nil):find("nil", 1, true))
    assert.is_truthy(H.message(queue.submit, queue, 1, { timeout = 1 }):find("timeout_s", 1, true))
    assert.is_truthy(H.message(queue.submit, queue, 1, { timeout_s = "1" }):find("timeout_s", 1, true))
    assert.is_truthy(H.message(queue.submit, queue, 1, { key = ("k"):rep(600) }):find("512", 1, true))
    queue:stop { timeout_s = 0 }
    assert.is_truthy(H.message(queue.submit, queue, 1):find("not_running", 1, true))
  end)

  spec("cancels: the record leaves the stream, its neighbours stay", function()
    local queue = R.queue(server)
    local first, second = queue:submit { n = 1 }, queue:submit { n = 2 }
    R.wait_for(function() return server:call("XLEN", "S") == 2 end)
    assert.is_true(first:cancel())
    assert.is_false(first:cancel())
    assert.are.equal("cancelled", select(2, first:await()).code)
    R.wait_for(function() return server:call("XLEN", "S") == 1 end)
    R.with_worker(server, nil, nil, function() assert.are.equal(4, second:await().n) end)
    queue:stop()
  end)

  spec("stop{timeout_s} takes back what has no answer, and tells who waits for room", function()
    local queue = R.queue(server, { window = 2 })
    local futures = { queue:submit { n = 1 }, queue:submit { n = 2 } }
    local waiting = {}
    for i = 1, 4 do waiting[i] = tb.spawn(function() return queue:submit { n = i } end) end
    R.wait_for(function() return server:call("XLEN", "S") == 2 end)
    queue:stop { timeout_s = 0.05 }
    for _, future in ipairs(futures) do assert.are.equal("stopped", select(2, future:await()).code) end
    for _, future in ipairs(waiting) do assert.are.equal("stopped", select(2, future:await()).code) end
    assert.are.equal(0, server:call("XLEN", "S"))
  end)

  spec("finds a Redis that comes later", function()
    local path = server.folder .. "/later.sock"
    local queue = tb.queue.redis { url = "redis+unix://" .. path, stream = "S", log = function() end }
    local future = queue:submit { n = 3 }
    tb.sleep(0.2)
    os.execute(("ln -s '%s' '%s'"):format(server.socket, path))
    R.with_worker(server, nil, nil, function() assert.are.equal(6, future:await().n) end)
    queue:stop()
  end)

  it("lets a run end once all is answered, stopped or not", function()
    if missing then return pending(missing) end
    local result = tb.run(function()
      local queue = R.queue(server)
      local future = queue:submit { n = 4 }
      R.with_worker(server, nil, nil, function() R.wait_for(function() return future:done() end) end)
      return future:await().n
    end)
    assert.are.equal(8, result)
  end)

  it("says where it cannot work", function()
    if missing then return pending(missing) end
    local message = H.message(tb.run, function() R.queue(server):submit { n = 1 } end, { clock = "virtual" })
    assert.is_truthy(message:find("real clock", 1, true), message)
    for _, given in ipairs { {}, { stream = "a{b" }, { stream = "S", window = 0 },
      { stream = "S", url = "rediss://x" } } do
      assert.is_truthy(H.message(tb.queue.redis, given):find("queue.redis", 1, true))
    end
  end)
end)
