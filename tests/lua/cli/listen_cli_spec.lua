-- --listen and --listen-control of `run` and `work`.

local cli = require "tests.lua.cli_helper"
local L = require "tests.lua.listen_helper"
local tb = require "tokenbatcher"

local missing = L.missing()

-- Answers after as many seconds as a record says.
local SLOW = [[
local tb = require "tokenbatcher"
return { default_cost = 1, target_batch_tokens = 1, batch_timeout_s = 0, inference_fn = function(records)
  io.stderr:write("began ", tostring(records[1]), "\n")
  tb.sleep(tonumber(records[1]) or 0)
  return records
end }]]

describe("--listen", function()
  if missing then
    pending(missing)
    return
  end

  setup(cli.new_folder)
  teardown(cli.clean)

  -- A run that listens. @return session, address
  local function start(words)
    local s = cli.start(SLOW, words)
    return s, (s:message("listening at"):match "listening at (%S+)")
  end

  local function at(url) return (url:gsub("^http://", ""):gsub("/$", "")) end

  local function in_loop(fn)
    local result
    tb.run(function() result = fn() end)
    return result
  end

  it("says where, once, and serves what runs", function()
    local s, url = start { "--listen", "127.0.0.1:0" }
    assert.matches("^http://127%.0%.0%.1:%d+/$", url)
    s:send "0\n"
    assert.equal('{"index":1,"result":0}', s:line())
    local metrics = in_loop(function() return L.get(at(url), "/metrics").body end)
    assert.truthy(metrics:find("completed_total 1\n", 1, true) or metrics:find("completed_total{[^\n]*} 1\n"))
    assert.equal(200, in_loop(function() return L.get(at(url), "/ready").status end))
    s:close_input()
    local r = s:finish()
    assert.equal(0, r.status)
    local _, n = r.err:gsub("listening at", "")
    assert.equal(0, n)
  end)

  it("changes nothing about how a run ends, readers or not", function()
    local s, url = start { "--listen", "127.0.0.1:0" }
    local reader = L.client(at(url))
    reader.say "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"
    in_loop(function() reader.hear "event: state" end)
    s:send "0.3\n7\n"
    s:message "began 0.3"
    s:kill "TERM"
    s:message "SIGTERM"
    local r = s:finish()
    assert.equal(0, r.status)
    assert.equal('{"index":1,"result":0.3}', r.lines[1])
    in_loop(function() reader.hear "never" end)
    assert.is_true(reader.is_closed)
  end)

  it("and --listen-control change a run by a socket that goes with it", function()
    local socket = cli.path "control"
    local s = cli.start(SLOW, { "--listen-control", "unix:" .. socket })
    s:message "options can be set at unix:"
    local answer = in_loop(function()
      return L.get("unix:" .. socket, "/set", { body = '{"max_queue_size": 77}' })
    end)
    assert.equal('{"changed":["max_queue_size: 5000 to 77"]}\n', answer.body)
    assert.truthy(s:message("set: "):find("tokenbatcher: TokenBatcher: set: max_queue_size: 5000 to 77", 1, true))
    s:close_input()
    assert.equal(0, s:finish().status)
    assert.is_false(cli.exists(socket))
  end)

  it("keeps --requests-per-minute whatever policy is set", function()
    local socket = cli.path "control"
    local s = cli.start(SLOW, { "--listen-control", "unix:" .. socket, "--requests-per-minute", "60000" })
    s:message "options can be set at unix:"
    local answer = in_loop(function() return L.get("unix:" .. socket, "/set", { body = '{"policy": "eager"}' }) end)
    assert.truthy(answer.body:find("to rate_limited:", 1, true), answer.body)
    assert.truthy(answer.body:find("requests_per_minute=60000", 1, true), answer.body)
    s:close_input()
    assert.equal(0, s:finish().status)
  end)

  it("ends with 2, and touches no output, where it cannot listen", function()
    local output = cli.file("out.jsonl", "")
    local s, url = start { "--listen", "127.0.0.1:0" }
    local r = cli.run(SLOW, "0\n", { "--listen", at(url), "--output", output })
    assert.equal(2, r.status)
    assert.truthy(r.err:find(("tokenbatcher: cannot listen at %s: somebody listens there already"):format(at(url)), 1,
      true), r.err)
    assert.equal("", cli.read(output))
    s:close_input()
    assert.equal(0, s:finish().status)
  end)

  it("refuses what it does not take, naming it", function()
    local function refuses(words, text)
      local r = cli.run(SLOW, "0\n", words)
      assert.equal(2, r.status)
      assert.truthy(r.err:find(text, 1, true), r.err)
    end
    refuses({ "--listen", "box" }, '--listen: an address looks like 127.0.0.1:9464')
    refuses({ "--listen", "0.0.0.0:0" }, "--listen: 0.0.0.0:0 can be reached from other machines, and nobody is asked "
      .. "who he is: whoever reaches it reads the figures. Add --listen-remote if that is meant")
    refuses({ "--listen-control", "127.0.0.1:1" }, "--listen-control needs unix:PATH")
    refuses({ "--listen-health", "oldest=5" },
      "--listen-health needs oldest_queued_s=SECONDS or oldest_running_s=SECONDS")
    refuses({ "--listen-host", "a:80" }, "--listen-host needs a name without a port, got 'a:80'")
  end)

  it("may be reached from other machines, by names, with limits of health, if that is said", function()
    local s, url = start { "--listen", "0.0.0.0:0", "--listen-remote", "--listen-host", "box.example",
      "--listen-health", "oldest_running_s=0.01" }
    local address = "127.0.0.1:" .. url:match ":(%d+)/$"
    s:send "2\n"
    s:message "began 2"
    local function status(path, host)
      return in_loop(function() return L.get(address, path, { headers = { Host = host } }).status end)
    end
    assert.equal(200, status("/ready", "box.example"))
    assert.equal(200, status("/ready", address))
    assert.equal(403, status("/ready", "evil.example"))
    local health
    repeat health = status("/health", "localhost") until health ~= 200
    assert.equal(503, health)
    s:close_input()
    assert.equal(0, s:finish().status)
  end)
end)
