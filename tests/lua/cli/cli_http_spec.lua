-- HTTP in the executable: it loads the client's library when a script first needs it.

local cjson = require "cjson"
local cli = dofile "tests/lua/cli_helper.lua"
local W = require "tests.lua.http_helper"

local missing = W.missing()
local NEEDS_HTTP = [[
  local tb = require "tokenbatcher"
  return { inference_fn = tb.backend.openai { base_url = "%s", model = "m" } }
]]

describe("tokenbatcher run, over HTTP:", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  it("examples/embeddings.lua passes check, and answers in the order of the input", function()
    if missing then return pending("skipped: " .. missing) end
    local server = W.server()
    local base = server.url .. "/429,reverse/v1"
    assert.equal(0, cli.command({ "check", "examples/embeddings.lua", "--base-url", base }).status)
    local input = '{"text":"x"}\n{"question":"xx"}\n7\n{"prompt":"xxx"}\n'
    local r = cli.command({ "run", "examples/embeddings.lua", "--base-url", base }, input)
    assert.equal(1, r.status)
    assert.equal('{"index":1,"result":[1,120,0.5]}', r.lines[1])
    assert.equal('{"index":2,"result":[2,240,0.5]}', r.lines[2])
    assert.matches("the record has no text", cjson.decode(r.lines[3]).error.message)
    assert.equal('{"index":4,"result":[3,360,0.5]}', r.lines[4])
    r = cli.command({ "run", "examples/embeddings.lua", "--endpoint", "completions",
      "--base-url", server.url .. "/ok/v1" }, '{"text":"x"}\n')
    assert.equal('{"index":1,"result":"re:x"}\n', r.out)
    server.stop()
  end)

  it("SIGTERM waits for the answer of a request that is out", function()
    if missing then return pending("skipped: " .. missing) end
    local server = W.server()
    local session = cli.start(NEEDS_HTTP:format(server.url .. "/slow-200/v1"))
    session:send '"a"\n'
    require("tokenbatcher").run(function() W.stats_once(server, "requests", 1) end)
    session:kill "TERM"
    local result = session:finish()
    assert.equal(0, result.status, result.err)
    assert.equal('{"index":1,"result":[1,97,0.5]}\n', result.out)
    server.stop()
  end)

  it("works in a C program's own loop, too", function()
    if missing then return pending("skipped: " .. missing) end
    local server = W.server()
    local script = cli.file("completions.lua", ([[
      local tb = require "tokenbatcher"
      return { inference_fn = tb.backend.openai {
        base_url = "%s/429,slow-20/v1", model = "m", endpoint = "completions", backoff_s = 0.01 } }
    ]]):format(server.url))
    local r = cli.shell(("cc -std=c11 -Iinclude examples/embed.c -o %s -L%s -Wl,-rpath,%s -ltokenbatcher_script "
      .. "-ltokenbatcher -lluajit-5.1 -lev -pthread && timeout -s KILL 60 %s %s")
      :format(cli.path "embed", cli.build, cli.build, cli.path "embed", script))
    server.stop()
    assert.equal(0, r.status, r.err)
    assert.truthy(r.out:find("from the loop: re:or not to be\n", 1, true), r.out)
    assert.truthy(r.out:find("from the other thread: re:or not to be\n", 1, true), r.out)
  end)

  it("says where it looked for the library, in the order of the search", function()
    local copy = cli.path "bin"
    os.execute(("mkdir %s && cp %s %s/"):format(copy, cli.quote(cli.exe), copy))
    local script = cli.file("script.lua", NEEDS_HTTP:format "http://127.0.0.1:1")
    local r = cli.shell(("TOKENBATCHER_LIB=/nowhere/libtokenbatcher.so %s/tokenbatcher run %s"):format(copy, script))
    assert.equal(2, r.status)
    assert.matches("cannot load libtokenbatcher_http.so; tried:\n  /nowhere/libtokenbatcher_http.so: ", r.err)
    assert.matches("HTTP needs libcurl 4, Debian's package libcurl4", r.err)
    if os.execute "ls /usr/local/lib/libtokenbatcher_http.so /usr/lib/*/libtokenbatcher_http.so 2>/dev/null" == 0 then
      return pending "skipped: the library is installed on this machine"
    end
    r = cli.shell(("cd / && %s/tokenbatcher run %s"):format(copy, script))
    assert.equal(2, r.status)
    local order = { copy .. "/libtokenbatcher_http.so: ", copy .. "/../lib/libtokenbatcher_http.so: ",
      "/usr/local/lib/libtokenbatcher_http.so: ", "\n  libtokenbatcher_http.so: " }
    local at = 0
    for _, path in ipairs(order) do
      local found = r.err:find(path, at + 1, true)
      assert.truthy(found, path .. " is not there, or not in this place:\n" .. r.err)
      at = found
    end
  end)
end)
