-- What goes wrong between producers, Redis and workers: a spec for each row of the guide's table
-- (lua/tokenbatcher/backend/redis, "When something fails"). Those that need a process of their own
-- are in cli/redis_process_spec.lua.
local R = require "tests.lua.redis_helper"
local tb = require "tokenbatcher"

local missing = R.missing()
local spec = missing and function(name) it(name .. " (skipped: " .. missing .. ")", function() pending(missing) end) end
  or function(name, fn) it(name, R.really(fn)) end

describe("when something fails,", function()
  local server

  setup(function() server = not missing and R.server { "--appendonly", "yes", "--appendfsync", "always",
    "--enable-protected-configs", "local" } end)
  teardown(function() if server then server:stop() end end)
  before_each(function()
    if not server then return end
    server:cli("CONFIG", "SET", "maxmemory", "0")
    server:flush()
  end)

  -- Submit n records and return their futures.
  local function submit(queue, n, opts)
    local futures = {}
    for i = 1, n do futures[i] = assert(queue:submit({ n = i }, opts)) end
    return futures
  end

  local function assert_answered(futures)
    local results, errs = tb.gather(futures)
    for i = 1, #futures do
      assert.is_nil(errs[i], tostring(errs[i]))
      assert.are.equal(2 * i, results[i].n)
    end
  end

  local function assert_empty()
    assert.are.equal(0, server:call("XLEN", "S"))
    assert.are.equal(0, server:pending "S")
  end

  -- Take everything as a worker would that then does nothing more. @return the ids in the stream
  local function take_and_vanish(consumer, n)
    server:try("XGROUP", "CREATE", "S", "tb", "0", "MKSTREAM")
    local sids = {}
    R.wait_for(function()
      local reply = server:call("XREADGROUP", "GROUP", "tb", consumer, "COUNT", n - #sids, "STREAMS", "S", ">")
      for _, item in ipairs(reply and reply[1][2] or {}) do sids[#sids + 1] = item[1] end
      return #sids == n
    end)
    return sids
  end

  spec("a worker that vanishes is succeeded after its lease", function()
    local queue = R.queue(server)
    local futures = submit(queue, 10)
    take_and_vanish("gone", 10)
    R.with_worker(server, { lease_s = 0.4 }, nil, function(source)
      assert_answered(futures)
      assert.are.equal(10, source.counts.claimed)
    end)
    queue:stop()
    assert_empty()
  end)

  spec("names of consumers that own nothing any more are forgotten", function()
    local queue = R.queue(server)
    local futures = submit(queue, 1)
    take_and_vanish("gone", 1)
    R.with_worker(server, { lease_s = 0.3, consumer = "w" }, nil, function()
      assert_answered(futures)
      R.wait_for(function() return not server:cli("XINFO", "CONSUMERS", "S", "tb"):find "gone" end, "the name to go")
    end)
    queue:stop()
  end)

  spec("a batch that takes longer than the lease keeps its records", function()
    local calls = 0
    local options = { inference_fn = function(records)
      calls = calls + #records
      tb.sleep(1.5)
      local results = {}
      for i, record in ipairs(records) do results[i] = { n = 2 * record.n } end
      return results
    end }
    local queue = R.queue(server)
    local first, fed1, batcher1 = R.worker(server, { lease_s = 0.4 }, options)
    local second, fed2, batcher2 = R.worker(server, { lease_s = 0.4 }, options)
    assert_answered(submit(queue, 6))
    first:stop()
    second:stop()
    assert(fed1:await() and fed2:await())
    batcher1:stop()
    batcher2:stop()
    assert.are.equal(6, calls)
    assert.are.equal(0, first.counts.claimed + second.counts.claimed)
    queue:stop()
  end)

  spec("a late answer is dropped: the first one counts", function()
    local queue = R.queue(server)
    local hold = true
    local options = { inference_fn = function(records)
      while hold do tb.sleep(0.01) end
      return { { n = 2 * records[1].n } }
    end }
    local source, fed, batcher = R.worker(server, { lease_s = 30, consumer = "slow" }, options)
    local futures = submit(queue, 1)
    R.wait_for(function() return server:pending "S" == 1 end)
    local sid = server:call("XRANGE", "S", "-", "+")[1][1]
    server:call("XCLAIM", "S", "tb", "other", 0, sid) -- as if "slow" had been stopped for longer than its lease
    R.with_worker(server, { lease_s = 0.3, consumer = "quick" }, nil, function() assert_answered(futures) end)
    hold = false
    source:stop()
    assert(fed:await())
    batcher:stop()
    assert.are.equal(1, source.counts.late)
    assert.are.equal(0, queue.counts.seconds)
    queue:stop()
    assert_empty()
  end)

  spec("a heartbeat does not take back what went to another worker: that leaves the queue unrun", function()
    local queue, seen, hold = R.queue(server), {}, true
    local options = { max_batch_size = 1, inference_fn = function(records)
      seen[#seen + 1] = records[1].n
      while hold do tb.sleep(0.01) end
      return { { n = 2 * records[1].n } }
    end }
    local futures = submit(queue, 2)
    local source, fed, batcher = R.worker(server, { lease_s = 0.6, ahead = 1, consumer = "zombie" }, options)
    R.wait_for(function() return server:pending "S" == 2 and #seen == 1 end, "one to run and one to wait")
    for _, entry in ipairs(server:call("XRANGE", "S", "-", "+")) do
      server:call("XCLAIM", "S", "tb", "other", 0, entry[1])
    end
    R.wait_for(function() return source.counts.lost == 2 end, "the loss to be seen")
    local owners = server:call("XPENDING", "S", "tb")[4]
    assert.are.same({ { "other", "2" } }, owners)
    hold = false
    R.wait_for(function() return futures[seen[1]]:done() end, "the one that ran")
    source:stop()
    assert(fed:await())
    batcher:stop()
    assert.are.equal(1, #seen)
    R.with_worker(server, { lease_s = 0.3 }, nil, function() assert_answered(futures) end)
    queue:stop()
    assert_empty()
  end)

  spec("a record that was started max_deliveries times is a dead letter, and says so", function()
    local queue = R.queue(server)
    local futures = submit(queue, 1)
    local sid = take_and_vanish("gone", 1)[1]
    server:call("XCLAIM", "S", "tb", "gone", 0, sid, "RETRYCOUNT", 3)
    R.with_worker(server, { lease_s = 0.3, max_deliveries = 3 }, nil, function()
      local result, err = futures[1]:await()
      assert.is_nil(result)
      assert.are.equal("dead_letter", err.code)
    end)
    assert.are.equal(sid, server:entries("{S}:dead")[1].stream_id)
    assert.are.equal("3", server:entries("{S}:dead")[1].deliveries)
    queue:stop()
    assert_empty()
  end)

  spec("suspects run few together, apart from fresh ones, and alone after two starts", function()
    local queue, batches, hold = R.queue(server), {}, true
    local futures = submit(queue, 8)
    local sids = take_and_vanish("gone", 8)
    for i = 1, 2 do server:call("XCLAIM", "S", "tb", "gone", 0, sids[i], "RETRYCOUNT", 2) end
    local was = {}
    for _, item in ipairs(server:call("XPENDING", "S", "tb", "-", "+", 100)) do was[#was + 1] = item[4] end
    assert.are.same({ 2, 2, 1, 1, 1, 1, 1, 1 }, was)
    local options = { max_batch_size = 8, max_concurrent_batches = 8, inference_fn = function(records, info)
      local names, results = {}, {}
      for i, record in ipairs(records) do names[i], results[i] = record.n, { n = 2 * record.n } end
      batches[#batches + 1] = table.concat(names, "+")
      assert.are.equal("", info.group)
      while hold do tb.sleep(0.01) end
      return results
    end }
    local source, fed, batcher = R.worker(server, { lease_s = 0.3 }, options)
    R.wait_for(function() return #batches == 5 end, "the suspects")
    for i = 9, 12 do futures[i] = queue:submit { n = i } end
    R.wait_for(function() return #batches >= 6 end, "the fresh ones")
    table.sort(batches)
    for _, batch in ipairs(batches) do
      local numbers = {}
      for text in batch:gmatch "%d+" do numbers[#numbers + 1] = tonumber(text) end
      local is_fresh = numbers[1] > 8
      assert.is_true(is_fresh or #numbers <= 2, batch)
      for _, n in ipairs(numbers) do
        assert.are.equal(is_fresh, n > 8, batch)
        if n <= 2 then assert.are.equal(1, #numbers, batch) end
      end
    end
    local counts = {}
    for _, item in ipairs(server:call("XPENDING", "S", "tb", "-", "+", 100)) do counts[item[1]] = item[4] end
    assert.are.equal(3, counts[sids[1]]) -- starts are counted
    assert.are.equal(2, counts[sids[5]])
    hold = false
    assert_answered(futures)
    source:stop()
    assert(fed:await())
    batcher:stop()
    queue:stop()
  end)

  spec("FLUSHALL costs a delay: what was in the stream is sent again", function()
    local queue = R.queue(server)
    local futures = submit(queue, 30)
    R.wait_for(function() return server:call("XLEN", "S") == 30 end)
    take_and_vanish("gone", 10)
    R.with_worker(server, { lease_s = 0.5 }, { max_batch_size = 2, inference_fn = function(records)
      tb.sleep(0.02)
      local results = {}
      for i, record in ipairs(records) do results[i] = { n = 2 * record.n } end
      return results
    end }, function(source)
      R.wait_for(function() return source.counts.answered > 3 end)
      server:call "FLUSHALL"
      assert_answered(futures)
      server:call "FLUSHALL" -- while the worker blocks
      assert_answered(submit(queue, 30))
      assert.is_true(queue.counts.again > 0)
    end)
    queue:stop()
    assert_empty()
  end)

  spec("a Redis that is killed and comes back loses nothing that it has written", function()
    local queue = R.queue(server)
    R.with_worker(server, { lease_s = 1 }, { max_batch_size = 4, inference_fn = function(records)
      tb.sleep(0.01)
      local results = {}
      for i, record in ipairs(records) do results[i] = { n = 2 * record.n } end
      return results
    end }, function(source)
      local futures = submit(queue, 100)
      R.wait_for(function() return source.counts.answered > 10 end)
      server:kill()
      for i = 101, 130 do futures[i] = queue:submit { n = i } end
      tb.sleep(0.1)
      server:start()
      assert_answered(futures)
    end)
    queue:stop()
    assert_empty()
  end)

  spec("a Redis that falls silent is left, and found again", function()
    local queue = R.queue(server)
    R.with_worker(server, { lease_s = 10 }, nil, function(source)
      assert_answered(submit(queue, 5))
      server:kill "STOP"
      local futures = submit(queue, 5)
      R.wait_for(function() return not (source.command.is_ready or queue.command.is_ready) end, "the watchdog")
      server:kill "CONT"
      assert_answered(futures)
      R.wait_for(function() return server:call("XLEN", "S") == 0 end) -- what Redis had read before is there twice
    end)
    queue:stop()
    assert_empty()
  end)

  spec("READONLY, NOREPLICAS and a script that Redis has forgotten are waited out", function()
    local queue = R.queue(server)
    R.with_worker(server, { lease_s = 10 }, nil, function()
      assert_answered(submit(queue, 2))
      server:call("SCRIPT", "FLUSH")
      assert_answered(submit(queue, 2))
      server:call("CONFIG", "SET", "min-replicas-to-write", "1")
      local futures = submit(queue, 3)
      tb.sleep(0.3)
      server:call("CONFIG", "SET", "min-replicas-to-write", "0")
      assert_answered(futures)
      server:call("REPLICAOF", "127.0.0.1", "1")
      futures = submit(queue, 3)
      tb.sleep(0.3)
      server:call("REPLICAOF", "NO", "ONE")
      assert_answered(futures)
    end)
    queue:stop()
    assert_empty()
  end)

  spec("LOADING is waited out, by who is there and by who comes", function()
    local own = R.server { "--loading-process-events-interval-bytes", "1024" }
    local queue = R.queue(own)
    local ok, err = pcall(R.with_worker, own, { lease_s = 10 }, nil, function()
      assert_answered(submit(queue, 2))
      own:cli("EVAL", "for i = 1, 2000 do redis.call('SET', i, i) end", "0")
      own:cli "SAVE"
      own:kill()
      own.may_load = true
      own:start { "--loading-process-events-interval-bytes", "1024", "--key-load-delay", "500" }
      assert.matches("loading:1", own:cli("INFO", "persistence"))
      local futures = submit(queue, 3)
      local late, fed, batcher = R.worker(own, { lease_s = 10 })
      assert_answered(futures)
      late:stop()
      assert(fed:await())
      batcher:stop()
    end)
    queue:stop()
    own:stop()
    assert(ok, err)
  end)

  spec("MISCONF (a snapshot that cannot be written) is waited out: nothing is dropped", function()
    local queue, folder = R.queue(server), server.folder .. "/elsewhere"
    R.with_worker(server, { lease_s = 10 }, nil, function()
      assert_answered(submit(queue, 2))
      R.output_of("mkdir " .. folder)
      server:call("CONFIG", "SET", "dir", folder, "save", "3600 1")
      R.output_of("rmdir " .. folder)
      server:call "BGSAVE"
      R.wait_for(function() return server:cli("INFO", "persistence"):find "rdb_last_bgsave_status:err" end)
      assert.matches("^MISCONF", server:cli("SET", "a", "b"))
      local futures = submit(queue, 3)
      assert.is_nil((futures[1]:await(0.5)))
      server:call("CONFIG", "SET", "dir", server.folder, "save", "")
      assert_answered(futures)
    end)
    queue:stop()
    assert_empty()
  end)

  spec("a failover to a replica that missed the last records: READONLY is waited out, they are sent again", function()
    local port = R.free_port()
    local master, replica = R.server { "--port", port, "--bind", "127.0.0.1" }, R.server()
    local place = master.folder .. "/current"
    local function lead_to(one) R.output_of(("ln -sfn '%s' '%s'"):format(one.socket, place)) end
    lead_to(master)
    replica:cli("REPLICAOF", "127.0.0.1", port)
    R.wait_for(function() return replica:cli("INFO", "replication"):find "master_link_status:up" end, "the replica")
    local url, hold = "redis+unix://" .. place, true
    local queue = R.queue(master, { url = url })
    local ok, err = pcall(R.with_worker, master, { url = url, lease_s = 1 }, { inference_fn = function(records)
      while hold do tb.sleep(0.02) end
      local results = {}
      for i, record in ipairs(records) do results[i] = { n = 2 * record.n } end
      return results
    end }, function()
      local futures = submit(queue, 20)
      R.wait_for(function() return replica:cli("XLEN", "S") == "20" end, "the replica to have them")
      replica:cli("REPLICAOF", "127.0.0.1", "1") -- what comes now it misses
      for i = 21, 40 do futures[i] = assert(queue:submit { n = i }) end
      R.wait_for(function() return master:cli("XLEN", "S") == "40" end)
      master:kill()
      lead_to(replica)
      R.wait_for(function() return (queue.command.why or ""):find "READONLY" end, "somebody to be refused")
      assert.are.equal("20", replica:cli("XLEN", "S"))
      replica:cli("REPLICAOF", "NO", "ONE")
      hold = false
      assert_answered(futures)
      assert.is_true(queue.counts.again >= 20)
      R.wait_for(function() return replica:cli("XLEN", "S") == "0" end, "an empty stream")
    end)
    hold = false
    queue:stop { timeout_s = 0 }
    master:stop()
    replica:stop()
    assert(ok, err)
  end)

  spec("a full memory stops producers, not answers", function()
    local queue = R.queue(server)
    local futures = submit(queue, 20)
    R.wait_for(function() return server:call("XLEN", "S") == 20 end)
    server:call("XGROUP", "CREATE", "S", "tb", "0")
    server:call("CONFIG", "SET", "maxmemory", "1")
    local refusing = R.queue(server, { on_full = "reject" })
    local _, err = refusing:submit({ n = 1 }):await()
    assert.are.equal("queue_full", err.code)
    R.with_worker(server, nil, nil, function()
      assert_answered(futures)
      futures = submit(queue, 3)
      tb.sleep(0.3)
      server:call("CONFIG", "SET", "maxmemory", "0")
      assert_answered(futures)
    end)
    refusing:stop()
    queue:stop()
    assert_empty()
  end)

  spec("what others trim is sent again", function()
    local queue = R.queue(server)
    local futures = submit(queue, 30)
    R.wait_for(function() return server:call("XLEN", "S") == 30 end)
    take_and_vanish("gone", 5)
    server:call("XTRIM", "S", "MAXLEN", 3)
    R.with_worker(server, { lease_s = 0.4 }, nil, function() assert_answered(futures) end)
    assert.is_true(queue.counts.again >= 27)
    queue:stop()
    assert_empty()
  end)

  spec("a consumer that owns records is never deleted by us", function()
    server:add("S", { "record", "1" })
    take_and_vanish("gone", 1)
    local scripts = require "tokenbatcher.backend.redis.scripts"
    assert.are.equal(0, server:call("EVAL", scripts.leave, 2, "S", "{S}:dead", "tb", "gone", 0))
    assert.are.equal(0, server:call("EVAL", scripts.leave, 2, "S", "{S}:dead", "tb", "", 0))
    assert.are.equal(1, server:pending "S")
  end)

  spec("an answer whose id is older than the last one read is found", function()
    local queue = R.queue(server, { producer = "me" })
    local futures = submit(queue, 1)
    R.with_worker(server, nil, nil, function() assert_answered(futures) end)
    server:call("DEL", "{S}:r:me") -- as at a failover to a master whose clock is behind
    local late = assert(queue:submit { n = 9 })
    R.wait_for(function() return server:call("XLEN", "S") == 1 end)
    local entry = server:call("XRANGE", "S", "-", "+")[1]
    server:call("XADD", "{S}:r:me", "1000-1", "id", "me:2", "result", '{"n":18}')
    server:call("XDEL", "S", entry[1])
    assert.are.equal(18, late:await(10).n)
    assert.are.equal(0, queue.counts.again)
    queue:stop()
  end)
end)
