-- examples/redis/ does what its guide says.
local C = require "tests.lua.cli_helper"
local R = require "tests.lua.redis_helper"

local missing = R.missing()

describe("examples/redis", function()
  local server, worker

  setup(function()
    if missing then return end
    C.new_folder()
    server = R.server()
    worker = R.program(server, "worker", { "work", "examples/redis/worker.lua", "--redis", server.url, "--stream",
      "prompts", "--set", "batch_timeout_s=0.005" })
  end)
  teardown(function()
    if missing then return end
    worker:kill()
    server:stop()
    C.clean()
  end)

  local function example(name, fn)
    it(name, function()
      if missing then return pending("skipped: " .. missing) end
      fn()
    end)
  end

  example("start.sh shows it, and leaves nothing running", function()
    local r = C.shell "TMPDIR=$(pwd)/build timeout 60 sh examples/redis/start.sh --workers 3 --set max_batch_size=8"
    assert.equal(0, r.status, r.err)
    assert.matches('^{"index":1,"result":{"text":"Translate', r.out)
    assert.matches("\nrecords +240 %(240 answered, 0 failed%)", r.out)
    assert.matches("\nbacklog +0\npending +0\nconsumers +3\n", r.out)
    local sum = 0
    for n in r.out:gmatch "worker%d: (%d+) answered, 0 failed" do sum = sum + tonumber(n) end
    assert.equal(240, sum)
    assert.equal("", C.shell("ls -d build/tmp.* 2>/dev/null").out)
  end)

  example("start.sh says what it is told wrongly", function()
    assert.equal(2, C.shell("sh examples/redis/start.sh --wrong x").status)
    assert.equal(2, C.shell("sh examples/redis/start.sh --workers").status)
  end)

  example("producer.lua gets its answers", function()
    local r = C.shell("timeout 30 luajit examples/redis/producer.lua " .. C.quote(server.url))
    assert.equal("1\tWhat is 2+2?\n2\tName a river.\n3\tExplain a sewing machine.\n", r.out, r.err)
  end)

  local function sorted(r)
    table.sort(r.lines)
    return r.lines
  end

  example("producer.py gets its answers", function()
    if C.shell("PATH=/usr/bin:$PATH python3 -c 'import redis'").status ~= 0 then
      return pending "skipped: no Python module redis (Debian: python3-redis)"
    end
    local r = C.shell("PATH=/usr/bin:$PATH timeout 30 python3 examples/redis/producer.py " .. C.quote(server.socket))
    assert.equal(3, #r.lines, r.err)
    assert.matches('^0 {"text":"What is 2%+2%?"', sorted(r)[1])
  end)

  example("producer.js gets its answers", function()
    if C.shell("node -e 'require(\"redis\")'").status ~= 0 then return pending "skipped: no npm package redis" end
    local r = C.shell("timeout 30 node examples/redis/producer.js " .. C.quote(server.socket))
    assert.equal(3, #r.lines, r.err)
    assert.matches('^0 {"text":"What is 2%+2%?"', sorted(r)[1])
  end)
end)
