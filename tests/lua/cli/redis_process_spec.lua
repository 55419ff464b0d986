-- work, send, queue and dead as programs: killed, stopped, resumed, asked.
local C = require "tests.lua.cli_helper"
local R = require "tests.lua.redis_helper"
local tb = require "tokenbatcher"

local missing = R.missing()
local spec = missing and function(name) it(name .. " (skipped: " .. missing .. ")", function() pending(missing) end) end
  or function(name, fn) it(name, R.really(fn)) end

-- Doubles n; one that is 666 kills its process.
local SCRIPT = [[
local ffi = require "ffi"
ffi.cdef "int kill(int pid, int signal); int getpid(void);"
return { inference_timeout_s = 20, max_batch_size = 8, batch_timeout_s = 0.005, inference_fn = function(records)
  require("tokenbatcher").sleep(0.02)
  local results = {}
  for i, record in ipairs(records) do
    if record.n == 666 then ffi.C.kill(ffi.C.getpid(), 9) end
    results[i] = { n = record.n * 2 }
  end
  return results
end }
]]

describe("on the command line, Redis", function()
  local server, script
  local programs = {}

  setup(function()
    if missing then return end
    server = R.server()
    C.new_folder()
    script = C.file("double.lua", SCRIPT)
  end)
  teardown(function()
    if not server then return end
    server:stop()
    C.clean()
  end)
  before_each(function() if server then server:flush() end end)
  after_each(function()
    for _, program in ipairs(programs) do
      program:kill "CONT"
      program:kill()
    end
    programs = {}
  end)

  local function keep(program)
    programs[#programs + 1] = program
    return program
  end

  local function work(name, more)
    return keep(R.program(server, name, { "work", script, "--redis", server.url, "--stream", "S", "--lease", "1",
      "--consumer", name, unpack(more or {}) }))
  end

  local function prompts(n, poison)
    local lines = {}
    for i = 1, n do lines[i] = ('{"n":%d}'):format(i == poison and 666 or i) end
    return C.file("prompts.jsonl", table.concat(lines, "\n") .. "\n")
  end

  local function send(name, input, more)
    return keep(R.program(server, name, { "send", "--redis", server.url, "--stream", "S", "--input", input,
      unpack(more or {}) }))
  end

  -- Lines of a whole output: {"index":i,"result":{"n":2i}} each.
  local function assert_doubled(text, n)
    local i = 0
    for line in text:gmatch "[^\n]+" do
      i = i + 1
      assert.are.equal(('{"index":%d,"result":{"n":%d}}'):format(i, 2 * i), line)
    end
    assert.are.equal(n, i)
  end

  local function assert_empty()
    R.wait_for(function() return server:call("XLEN", "S") == 0 end, "an empty stream")
    assert.are.equal(0, server:pending "S")
  end

  spec("send and work give what run gives", function()
    local input = prompts(300)
    work "w1"
    work "w2"
    local out = C.path "sent.jsonl"
    local said = send("send", input, { "--output", out }):ended()
    assert.is_truthy(said:find("300 answered", 1, true), said)
    assert.is_truthy(said:find "is %-%-id %x+\n", said)
    local result = C.command { "run", script, "--input", input }
    assert.are.equal(result.out, C.read(out))
    assert_empty()
    assert.are.equal(0, server:call("EXISTS", "{S}:r:send"))
  end)

  spec("SIGTERM ends a worker in good order, and a second one at once", function()
    local first = work "w1"
    first:says "worker w1"
    first:kill "TERM"
    assert.is_truthy(first:ended():find("0 answered, 0 failed", 1, true))
    assert.are.same({}, server:call("XINFO", "CONSUMERS", "S", "tb"))
    local slow = C.file("slow.lua", [[return { inference_timeout_s = 60, inference_fn = function(records)
      io.stderr:write "it runs\n"
      require("tokenbatcher").sleep(50)
      return records
    end }]])
    server:add("S", { "record", "1" })
    local second = keep(R.program(server, "w2", { "work", slow, "--redis", server.url, "--stream", "S" }))
    second:says "it runs"
    second:kill "TERM"
    second:says "finishing what was read"
    second:kill "TERM"
    local output = second:ended()
    assert.is_truthy(output:find("stopping at once", 1, true), output)
    assert.are.equal(1, server:pending "S")
  end)

  spec("a worker can be looked at while it works, and ends as ever", function()
    if not pcall(require, "tokenbatcher.listen.listen_ffi") then return pending "no libtokenbatcher_listen.so" end
    local worker = work("w1", { "--listen", "127.0.0.1:0" })
    worker:says "worker w1"
    local address = worker:output():match "listening at http://(%S+)/\n"
    server:add("S", { "record", '{"n":1}' })
    R.wait_for(function()
      local metrics = assert(tb.http.get("http://" .. address .. "/metrics", { timeout_s = 30 })).body
      return metrics:find "tokenbatcher_completed_total{[^\n]*} 1\n"
    end, "its answer in /metrics")
    worker:kill "TERM"
    assert.is_truthy(worker:ended():find("1 answered, 0 failed", 1, true))
  end)

  spec("SIGTERM ends a worker whose Redis is away", function()
    local worker = work "w1"
    worker:says "worker w1"
    server:kill()
    worker:says "is lost"
    worker:kill "TERM"
    assert.is_truthy(worker:ended():find("0 answered, 0 failed", 1, true))
    server:start()
  end)

  spec("a worker that is killed is succeeded, and each record answered once", function()
    local out = C.path "killed.jsonl"
    local first = work "w1"
    local sender = send("send", prompts(400), { "--output", out, "--overwrite" })
    R.wait_for(function() return server:try("XPENDING", "S", "tb") and server:pending "S" > 0 end, "it works")
    first:kill()
    work "w2"
    assert.is_truthy(sender:ended():find("400 answered", 1, true), sender:output())
    assert_doubled(C.read(out), 400)
    assert_empty()
  end)

  spec("a worker that was stopped for longer than its lease drops what it lost", function()
    local out = C.path "stopped.jsonl"
    local first = work "w1"
    first:says "worker w1"
    local sender = send("send", prompts(200), { "--output", out, "--overwrite" })
    R.wait_for(function() return server:try("XPENDING", "S", "tb") and server:pending "S" > 0 end, "it works")
    first:kill "STOP"
    work "w2"
    assert.is_truthy(sender:ended():find("200 answered", 1, true), sender:output())
    first:kill "CONT"
    assert_doubled(C.read(out), 200)
    assert_empty()
    first:kill "TERM"
    first:ended()
    assert.are.equal(0, server:try("XLEN", "{S}:r:send") or 0)
  end)

  spec("a record that kills workers takes no neighbour with it", function()
    local out = C.path "poison.jsonl"
    local sender = send("send", prompts(40, 7), { "--output", out, "--overwrite" })
    local number, worker = 0, nil
    R.wait_for(function()
      if not worker or not worker:is_alive() then
        number = number + 1
        worker = work("p" .. number, { "--max-deliveries", "3" })
      end
      return not sender:is_alive()
    end, "the end")
    local i = 0
    for line in C.read(out):gmatch "[^\n]+" do
      i = i + 1
      if i == 7 then
        assert.is_truthy(line:find('"code":"dead_letter"', 1, true), line)
      else
        assert.are.equal(('{"index":%d,"result":{"n":%d}}'):format(i, 2 * i), line)
      end
    end
    assert.are.equal(40, i)
    assert.are.equal(1, server:call("XLEN", "{S}:dead"))
    assert_empty()
  end)

  spec("a sender that is killed goes on where it ended", function()
    local out, input = C.path "resumed.jsonl", prompts(600)
    local first = send("first", input, { "--output", out, "--overwrite", "--id", "job1", "--window", "100" })
    work "w1"
    R.wait_for(function() return C.exists(out) and #C.read(out) > 2000 end, "some answers")
    first:kill()
    local refused = send("refused", input, { "--output", out, "--resume" })
    assert.is_truthy(refused:ended():find("--resume needs the --id", 1, true))
    local second = send("second", input, { "--output", out, "--resume", "--id", "job1" })
    assert.is_truthy(second:ended():find("answered, 0 failed", 1, true), second:output())
    assert_doubled(C.read(out), 600)
    assert_empty()
    assert.are.equal(0, server:call("EXISTS", "{S}:r:job1"))
  end)

  spec("answers that came while the sender was away are not asked again", function()
    local out, input = C.path "away.jsonl", prompts(50)
    local first = send("first", input, { "--output", out, "--overwrite", "--id", "job2" })
    R.wait_for(function() return server:try("XLEN", "S") == 50 end, "all to be sent")
    first:kill()
    local worker = work "w1"
    R.wait_for(function() return server:call("XLEN", "S") == 0 end, "all to be answered")
    worker:kill "TERM"
    worker:ended()
    local second = send("second", input, { "--output", out, "--resume", "--id", "job2" }) -- and no worker
    assert.is_truthy(second:ended():find("50 answered", 1, true), second:output())
    assert_doubled(C.read(out), 50)
  end)

  spec("queue shows what is there; dead lists, retries and drops", function()
    for i = 1, 5 do server:add("S", { "id", i, "record", "{", "who", i }) end
    local worker = work "w1"
    R.wait_for(function() return server:try("XLEN", "{S}:dead") == 5 end, "dead letters")
    worker:kill "TERM"
    worker:ended()
    server:add("S", { "record", "1" })
    local where = { "--redis", server.url, "--stream", "S" }
    local state = C.command { "queue", "--json", unpack(where) }
    local function keys_of(text) return (text:gsub('"([%w_]+)":[^,}]*', "%1"):match "{.-}") end
    local shown = C.read("examples/redis/README.md"):match '\n    ({"stream":[^\n]*})\n'
    assert.are.equal(keys_of(shown), keys_of(state.out))
    assert.is_truthy(state.out:find('{"stream":"S","group":"tb","backlog":1,"pending":0,"consumers":0,"oldest_ms":', 1,
      true), state.out)
    assert.is_truthy(C.command({ "queue", unpack(where) }).out:find("dead         5", 1, true))
    local listed = C.command { "dead", "list", unpack(where) }
    assert.are.equal(5, #listed.lines)
    local letter = tb.json.decode(listed.lines[2])
    assert.are.same({ "bad_record", "{", "2" }, { letter.reason, letter.record, letter.who })
    assert.are.equal(0, C.command({ "dead", "retry", letter.dead_id, unpack(where) }).status)
    assert.are.equal("2", server:entries("S")[2].who)
    assert.is_nil(server:entries("S")[2].reason)
    assert.are.equal(1, C.command({ "dead", "retry", letter.dead_id, unpack(where) }).status) -- it is there no more
    assert.are.equal(0, C.command({ "dead", "drop", unpack(where) }).status)
    assert.are.equal(0, server:call("XLEN", "{S}:dead"))
    assert.are.equal(2, C.command({ "dead", "drop", "all", unpack(where) }).status)
  end)

  spec("what cannot work is refused with a sentence and status 2, and no password", function()
    local no_timeout = C.file("no_timeout.lua", "return { inference_fn = function(records) return records end }")
    local function refused(words, part)
      local result = C.command(words)
      assert.are.equal(2, result.status, result.err)
      assert.is_truthy(result.err:find(part, 1, true), result.err)
      assert.is_nil(result.err:find("secret", 1, true), result.err)
    end
    local where = { "--redis", server.url, "--stream", "S" }
    refused({ "work", no_timeout, unpack(where) }, "inference_timeout_s")
    refused({ "work", script, "--redis", server.url }, "--stream")
    refused({ "work", script, "--stream", "S", "--redis", "rediss://:secret@host" }, "stunnel")
    refused({ "work", script, "--stream", "S", "--redis", "redis://:secret@127.0.0.1:1x" }, "--redis")
    refused({ "work", script, "--stream", "a{b}", "--redis", server.url }, "stream's name")
    refused({ "work", script, "--lease", "0", unpack(where) }, "--lease")
    refused({ "send", "--redis", server.url }, "--stream")
    refused({ "send", "--id", "a b", unpack(where) }, "--id")
    refused({ "queue", "--stream", "S", "--redis", "redis://:secret@127.0.0.1:1" }, "cannot connect")
    server:call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    refused({ "work", script, unpack(where) }, "allkeys-lru")
    server:call("CONFIG", "SET", "maxmemory-policy", "noeviction")
  end)

  spec("SIGHUP gives a worker the script anew", function()
    local path = C.file("changing.lua", SCRIPT)
    local worker = keep(R.program(server, "w1", { "work", path, "--redis", server.url, "--stream", "S" }))
    worker:says "worker "
    C.file("changing.lua", (SCRIPT:gsub("%* 2", "* 3")))
    worker:kill "HUP"
    worker:says "reloaded"
    server:add("S", { "id", "1", "record", '{"n":5}', "reply_to", "{S}:r:me" })
    R.wait_for(function() return server:call("XLEN", "{S}:r:me") == 1 end)
    assert.are.equal('{"n":15}', server:entries("{S}:r:me")[1].result)
    worker:kill "TERM"
    assert.is_truthy(worker:ended():find("1 answered", 1, true))
  end)

  spec("a sender waits while too much is untaken", function()
    local sender = send("send", prompts(60), { "--max-backlog", "10", "--output", C.path "backlog.jsonl" })
    R.wait_for(function() return (server:try("XLEN", "S") or 0) >= 9 end, "the first ones")
    tb.sleep(0.5)
    assert.is_true(server:call("XLEN", "S") <= 12)
    work "w1"
    assert.is_truthy(sender:ended():find("60 answered", 1, true), sender:output())
  end)
end)
