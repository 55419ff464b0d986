-- A worker: records from a stream, through a batcher, to their reply streams.
local R = require "tests.lua.redis_helper"
local tb = require "tokenbatcher"

local missing = R.missing()
local spec = missing and function(name) it(name .. " (skipped: " .. missing .. ")", function() pending(missing) end) end
  or function(name, fn) it(name, R.really(fn)) end

describe("a Redis worker", function()
  local server

  setup(function() server = not missing and R.server() end)
  teardown(function() if server then server:stop() end end)
  before_each(function() if server then server:flush() end end)

  local function add(n, more)
    for i = 1, n do
      server:add("S", { "id", i, "record", '{"n":' .. i .. "}", "reply_to", "{S}:r:me", unpack(more or {}) })
    end
  end

  local function answered(n)
    R.wait_for(function() return server:call("XLEN", "{S}:r:me") == n end, n .. " answers")
  end

  -- Nothing is left of what was taken.
  local function assert_empty()
    assert.are.equal(0, server:call("XLEN", "S"))
    assert.are.equal(0, server:pending "S")
  end

  spec("answers each record once, with what it was asked, and leaves nothing behind", function()
    add(40)
    R.with_worker(server, { consumer = "w1" }, nil, function(source)
      answered(40)
      assert.are.equal(40, source.counts.answered)
    end)
    local answers = server:answers "{S}:r:me"
    for i = 1, 40 do
      local answer = answers[tostring(i)]
      assert.are.equal(('{"n":%d}'):format(2 * i), answer.result)
      assert.are.equal("w1", answer.worker)
      assert.are.equal("1", answer.deliveries)
      assert.is_true(tonumber(answer.wait_ms) >= 0 and tonumber(answer.service_ms) >= 0)
    end
    assert_empty()
    assert.are.same({}, server:call("XINFO", "CONSUMERS", "S", "tb"))
    assert.is_true(server:call("PTTL", "{S}:r:me") > 3500000)
  end)

  spec("answers what was added before the group was made", function()
    add(3)
    R.with_worker(server, nil, nil, function() answered(3) end)
  end)

  spec("answers a failing record with its error, and its neighbours with theirs", function()
    add(3)
    local options = { inference_fn = function(records)
      local results = {}
      for i, record in ipairs(records) do results[i] = record.n == 2 and tb.failure "no twos" or record.n end
      return results
    end }
    R.with_worker(server, nil, options, function() answered(3) end)
    local answers = server:answers "{S}:r:me"
    assert.are.equal('{"code":"inference_failed","message":"no twos"}', answers["2"].error)
    assert.is_nil(answers["2"].result)
    assert.are.same({ "1", "3" }, { answers["1"].result, answers["3"].result })
    assert_empty()
  end)

  spec("keeps a failed record that nobody waits for as a dead letter", function()
    server:add("S", { "record", "1" })
    R.with_worker(server, nil, { inference_fn = function() error "broken" end }, function()
      R.wait_for(function() return server:call("XLEN", "{S}:dead") == 1 end)
    end)
    assert.are.equal("inference_failed", server:entries("{S}:dead")[1].reason)
    assert_empty()
  end)

  spec("makes dead letters of messages that are none, and says so where it may", function()
    local big = '"' .. ("x"):rep(3000) .. '"'
    local sid = server:add("S", { "id", "1", "record", "{", "reply_to", "{S}:r:me", "mine", "kept" })
    server:add("S", { "id", "2", "record", "1", "reply_to", "else:where" })
    server:add("S", { "id", "3", "record", big, "reply_to", "{S}:r:me" })
    server:add("S", { "id", "4", "record", '"\255"', "reply_to", "{S}:r:me" })
    server:add("S", { "id", "5", "record", "1", "cost", "many", "reply_to", "{S}:r:me" })
    server:add("S", { "x", "y" })
    server:call("SET", "{S}:r:text", "not a stream")
    server:add("S", { "id", "6", "record", '{"n":1}', "reply_to", "{S}:r:text" })
    server:add("S", { "id", "7", "record", '{"n":7}', "reply_to", "{S}:r:me" })
    R.with_worker(server, { max_record_bytes = 2000 }, nil, function()
      R.wait_for(function() return server:call("XLEN", "{S}:dead") == 7 end, "seven dead letters")
      answered(5)
    end)
    local answers = server:answers "{S}:r:me"
    for _, id in ipairs { "1", "3", "4", "5" } do assert.is_truthy(answers[id].error:find '"code":"bad_record"') end
    assert.are.equal('{"n":14}', answers["7"].result)
    local reasons = {}
    for i, letter in ipairs(server:entries "{S}:dead") do
      reasons[i] = letter.reason
      if letter.stream_id == sid then
        assert.are.same({ "1", "{", "kept" }, { letter.id, letter.record, letter.mine })
      end
    end
    table.sort(reasons)
    assert.are.same({ "bad_record", "bad_record", "bad_record", "bad_record", "bad_record", "bad_reply_to",
      "bad_reply_to" }, reasons)
    assert.are.equal("not a stream", server:call("GET", "{S}:r:text"))
    assert_empty()
  end)

  spec("survives a message of very many fields", function()
    local words = { "XADD", "S", "*" }
    for i = 1, 9000 do words[2 * i + 2], words[2 * i + 3] = "f" .. i, "v" end
    server:call_list(words)
    R.with_worker(server, nil, nil, function()
      R.wait_for(function() return server:call("XLEN", "{S}:dead") == 1 end)
    end)
    assert_empty()
  end)

  spec("hands on key, group, cost and priority", function()
    local seen
    server:add("S", { "id", "1", "record", "1", "cost", "7", "key", "k", "group", "g", "reply_to", "{S}:r:me" })
    local options = { inference_fn = function(records, info)
      seen = { info.costs[1], info.keys[1], info.group }
      return records
    end }
    R.with_worker(server, nil, options, function() answered(1) end)
    assert.are.same({ 7, "k", "g" }, seen)
  end)

  spec("never runs a record whose time has passed, by Redis's clock", function()
    local calls = 0
    local function now_ms() return tonumber(server:call("TIME")[1]) * 1000 end
    server:add("S", { "id", "1", "record", "1", "deadline_ms", now_ms() - 5000, "reply_to", "{S}:r:me" })
    local sid = server:add("S", { "id", "2", "record", "1", "timeout_ms", "1", "reply_to", "{S}:r:me" })
    R.wait_for(function() return now_ms() > tonumber(sid:match "^%d+") + 1 end)
    R.with_worker(server, nil, { inference_fn = function(records) calls = calls + 1 return records end }, function()
      answered(2)
    end)
    assert.are.equal(0, calls)
    for _, answer in pairs(server:answers "{S}:r:me") do assert.is_truthy(answer.error:find '"code":"deadline"') end
  end)

  spec("takes no more than it has room for, and leaves the rest to others", function()
    add(60)
    local release = false
    local options = { max_batch_size = 8, inference_fn = function(records)
      while not release do tb.sleep(0.01) end
      local results = {}
      for i in ipairs(records) do results[i] = i end
      return results
    end }
    R.with_worker(server, nil, options, function()
      R.wait_for(function() return server:pending "S" == 8 end, "one batch")
      tb.sleep(0.2)
      assert.are.equal(8, server:pending "S")
      release = true
      answered(60)
    end)
  end)

  spec("shares the records with others, each of which is answered once", function()
    add(200)
    local first, fed1, batcher1 = R.worker(server, { consumer = "a" }, { max_batch_size = 4 })
    local second, fed2, batcher2 = R.worker(server, { consumer = "b" }, { max_batch_size = 4 })
    answered(200)
    first:stop()
    second:stop()
    assert(fed1:await())
    assert(fed2:await())
    batcher1:stop()
    batcher2:stop()
    assert.are.equal(200, first.counts.answered + second.counts.answered)
    assert.is_true(first.counts.answered > 0 and second.counts.answered > 0)
    server:answers "{S}:r:me"
    assert_empty()
  end)

  spec("reads streams in the order in which they are named", function()
    local order = {}
    for _ = 1, 6 do server:add("low", { "record", '"low"' }) end
    for _ = 1, 6 do server:add("high", { "record", '"high"' }) end
    local options = { max_batch_size = 2, inference_fn = function(records)
      for _, record in ipairs(records) do order[#order + 1] = record end
      return records
    end }
    R.with_worker(server, { streams = { "high", "low" } }, options, function()
      R.wait_for(function() return #order == 12 end)
    end)
    assert.are.equal(("high "):rep(6) .. ("low "):rep(6), table.concat(order, " ") .. " ")
  end)

  spec("gives back what it has not begun when it stops, finishes what runs, and leaves the group", function()
    add(20)
    local running, release = 0, false
    local options = { max_batch_size = 4, inference_fn = function(records)
      running = running + 1
      while not release do tb.sleep(0.01) end
      return records
    end }
    local source, fed, batcher = R.worker(server, { consumer = "w1", ahead = 1, lease_s = 60 }, options)
    R.wait_for(function() return running == 1 and server:pending "S" == 8 end, "a batch, and one ahead")
    source:stop_soon()
    tb.sleep(0.05)
    release = true
    assert(fed:await())
    batcher:stop()
    assert.are.equal(1, running)
    assert.are.equal(4, source.counts.answered)
    assert.are.equal(4, source.counts.released)
    assert.are.equal(16, server:call("XLEN", "S"))
    R.with_worker(server, { consumer = "w2", lease_s = 60 }, nil, function() -- at once, not after 60 s
      answered(20)
    end)
    assert_empty()
  end)

  spec("is fed again by what it could not read before it was stopped", function()
    add(5)
    local source, fed, batcher = R.worker(server)
    source:stop()
    assert(fed:await())
    batcher:stop()
    R.with_worker(server, { lease_s = 0.5 }, nil, function() answered(5) end)
    assert_empty()
  end)

  spec("runs a script's own decode, encode and options", function()
    server:add("S", { "id", "1", "record", "abc", "reply_to", "{S}:r:me" })
    local seen
    local given = {
      decode = function(text) return { text = text } end,
      encode = function(record, result) return record.text .. "=" .. result end,
      options = function(_, opts) opts.key = opts.key or "mine" return opts end,
    }
    local options = { inference_fn = function(_, info) seen = info.keys[1] return { 7 } end }
    R.with_worker(server, given, options, function() answered(1) end)
    assert.are.equal("abc=7", server:answers("{S}:r:me")["1"].result)
    assert.are.equal("mine", seen)
  end)

  spec("refuses a Redis that evicts, and one that is not there", function()
    server:call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    local ok, err = tb.source.redis({ url = server.url, stream = "S" }):connect()
    server:call("CONFIG", "SET", "maxmemory-policy", "noeviction")
    assert.is_nil(ok)
    assert.are.equal("redis_unfit", err.code)
    assert.is_truthy(err.message:find("allkeys-lru", 1, true))
    ok, err = tb.source.redis({ url = server.url .. ".none", stream = "S", connect_timeout_s = 0.2 }):connect()
    assert.is_nil(ok)
    assert.are.equal("redis_unavailable", err.code)
    server:call("SET", "S", "a string")
    ok, err = tb.source.redis({ url = server.url, stream = "S" }):connect()
    assert.is_nil(ok)
    assert.are.equal("WRONGTYPE", err.redis)
  end)

  spec("works in a database of its own, and says that a password is wanted", function()
    local url = server.url .. "?db=3"
    server:cli("-n", "3", "XADD", "S", "*", "id", "1", "record", '{"n":1}', "reply_to", "{S}:r:me")
    R.with_worker(server, { url = url }, nil, function()
      R.wait_for(function() return server:cli("-n", "3", "XLEN", "{S}:r:me") == "1" end)
    end)
    server:call("CONFIG", "SET", "requirepass", "pass")
    local ok, err = tb.source.redis({ url = url, stream = "S", connect_timeout_s = 0.3 }):connect()
    server:call("CONFIG", "SET", "requirepass", "")
    assert.is_nil(ok)
    assert.is_truthy(tostring(err):find("NOAUTH", 1, true), tostring(err))
  end)

  spec("logs in as a user over TCP; where it may not ask what Redis is, it warns", function()
    local port = R.free_port()
    server:call("CONFIG", "SET", "bind", "127.0.0.1")
    server:call("CONFIG", "SET", "port", port)
    server:call("ACL", "SETUSER", "worker", "on", ">pa:ss", "~*", "+@all", "-info")
    local warnings = {}
    local given = { url = ("redis://worker:pa%%3Ass@127.0.0.1:%d"):format(port),
      log = function(_, text) warnings[#warnings + 1] = text end }
    add(1)
    R.with_worker(server, given, nil, function() answered(1) end)
    assert.are.equal(2, #warnings)
    assert.is_nil(table.concat(warnings):find("pa:ss", 1, true))
    given.url, given.connect_timeout_s = ("redis://worker:wrong@localhost:%d"):format(port), 0.5
    given.stream = "S"
    local ok, err = tb.source.redis(given):connect()
    assert.is_nil(ok)
    assert.is_truthy(err.message:find("WRONGPASS", 1, true))
    assert.is_nil(err.message:find("wrong", 1, true))
    server:call("ACL", "DELUSER", "worker")
    server:call("CONFIG", "SET", "port", "0")
  end)

  it("refuses parameters that make no sense, by name", function()
    for _, given in ipairs { {}, { stream = "" }, { stream = "a{b" }, { streams = { "a", "a" } },
      { stream = "S", lease = 1 }, { stream = "S", url = "redis://u:secret@h:x" }, { stream = "S", lease_s = 0 } } do
      local ok, err = pcall(tb.source.redis, given)
      assert.is_false(ok)
      assert.is_truthy(tostring(err):find("source.redis", 1, true), tostring(err))
      assert.is_nil(tostring(err):find("secret", 1, true))
    end
  end)
end)
