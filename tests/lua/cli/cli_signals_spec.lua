-- Signals to tokenbatcher run. A spec waits for a line of output before it sends one.

local cli = dofile "tests/lua/cli_helper.lua"

-- Says on standard error when a batch has begun; "slow" records take an hour.
local SLOW = [[local tb = require "tokenbatcher"
return { batch_timeout_s = 0, inference_fn = function(records)
  io.stderr:write("began ", tostring(records[1]), "\n")
  if records[1] == "slow" then tb.sleep(3600) end
  if records[1] == "stuck" then while true do end end
  return records
end }]]

-- The answer to the first record is more than a pipe holds.
local LONG = SLOW:gsub("return records", "return { ('x'):rep(300000) }")

-- An inference function that says "began" and blocks, the loop with it, until open_gate().
local function gated(options)
  os.execute("rm -f " .. cli.path "gate" .. "; mkfifo " .. cli.path "gate")
  return ([[return { %s, inference_fn = function(records)
      if records[1] == 1 then
        io.stderr:write "began\n"
        io.open(%q):close()
      end
      return records
    end }]]):format(options, cli.path "gate")
end

local function open_gate()
  os.execute("timeout 60 sh -c ': >" .. cli.path "gate" .. "'")
end

describe("tokenbatcher run", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  for _, signal in ipairs { "TERM", "INT" } do
    describe("at SIG" .. signal, function()
      it("ends with 0 while it waits on an idle pipe, all that was read is answered", function()
        local s = cli.start(cli.ECHO, { "--set", "batch_timeout_s=0" })
        s:send "1\n"
        assert.equal('{"index":1,"result":1}', s:line())
        s:kill(signal)
        local r = s:finish()
        assert.equal(0, r.status)
        assert.equal("", r.out)
        assert.truthy(r.err:find("SIG" .. signal .. ": finishing", 1, true))
        assert.truthy(r.err:find("ended after line 1", 1, true))
        assert.truthy(r.err:find("records      1 (1 answered, 0 failed)", 1, true))
      end)

      it("answers what is queued and lingering, and exits with 1 when a record had failed", function()
        local s = cli.start(cli.ECHO, { "--set", "batch_timeout_s=3600", "--set", "max_batch_size=2" })
        s:send '{\n1\n2\n3\n'
        assert.truthy(s:line():find("bad_input", 1, true))
        assert.equal('{"index":2,"result":1}', s:line())
        s:kill(signal)
        local r = s:finish()
        assert.same({ '{"index":3,"result":2}', '{"index":4,"result":3}' }, r.lines)
        assert.equal(1, r.status)
      end)
    end)
  end

  it("answers what was read while the queue is full and the reader waits for room", function()
    local s = cli.start(gated "max_queue_size = 1, max_batch_size = 1, prefetch_batches = 0")
    s:send "1\n2\n3\n4\n5\n"
    s:message "began"
    s:kill "TERM"
    open_gate()
    local r = s:finish()
    assert.equal(5, #r.lines)
    assert.equal(0, r.status)
  end)

  it("drops half a line that was read, and only that", function()
    local s = cli.start(cli.ECHO, { "--set", "batch_timeout_s=0" })
    s:send "1\n2"
    assert.equal('{"index":1,"result":1}', s:line())
    s:kill "TERM"
    local r = s:finish()
    assert.equal("", r.out)
    assert.truthy(r.err:find("ended after line 1", 1, true))
    assert.equal(0, r.status)
  end)

  it("is not disturbed by input that comes while it drains", function()
    local s = cli.start(([[local tb = require "tokenbatcher"
      return { batch_timeout_s = 0, inference_fn = function(records)
        io.stderr:write "began\n"
        while not io.open(%q) do tb.sleep(0.001) end
        return records
      end }]]):format(cli.path "go"))
    s:send "1\n"
    s:message "began"
    s:kill "TERM"
    s:message "SIGTERM"
    s:send "2\n3\n"
    cli.file("go", "")
    local r = s:finish()
    assert.same({ '{"index":1,"result":1}' }, r.lines)
    assert.equal(0, r.status)
  end)

  it("stops at once at a second signal, with 1: what was answered is kept", function()
    for _, name in ipairs { "TERM", "INT" } do
      local s = cli.start(SLOW, { "--set", "max_concurrent_batches=2", "--set", "max_batch_size=1", "--unordered" })
      s:send '"slow"\n"quick"\n'
      s:message "began slow"
      assert.equal('{"index":2,"result":"quick"}', s:line())
      s:kill "TERM"
      s:message "SIGTERM"
      s:kill(name)
      local r = s:finish()
      assert.equal(1, r.status)
      assert.equal("", r.out)
      assert.truthy(r.err:find("stopping at once", 1, true), r.err)
      assert.truthy(r.err:find("records      1 (1 answered, 0 failed)", 1, true), r.err)
    end
  end)

  it("writes to a pipe what waits for an earlier answer when it stops at once", function()
    local s = cli.start(SLOW, { "--set", "max_concurrent_batches=2", "--set", "max_batch_size=1" })
    s:send '"slow"\n"quick"\n'
    s:message "began quick"
    s:kill "TERM"
    s:message "SIGTERM"
    s:kill "INT"
    local r = s:finish()
    assert.equal(1, r.status)
    assert.same({ '{"index":2,"result":"quick"}' }, r.lines)
  end)

  for name, number in pairs { TERM = 15, INT = 2 } do
    it("aborts at a third signal with 128 + signal while nobody reads its output, SIG" .. name, function()
      local s = cli.start(LONG, { "--set", "max_batch_size=1" })
      s:send '1\n"slow"\n'
      s:message "began slow"
      s:kill "TERM"
      s:message "SIGTERM"
      s:kill "INT"
      s:message "SIGINT"
      s:kill(name)
      s:close_input()
      assert.equal(128 + number, s:status())
      assert.truthy(s:finish().err:find("aborted", 1, true))
    end)
  end

  it("aborts at a third signal even when inference never returns to the loop", function()
    local s = cli.start(SLOW)
    s:send '"stuck"\n'
    s:message "began stuck"
    s:kill "TERM"
    repeat -- nothing can tell when the first one counts as seen: more of them do no harm
      s:kill "TERM"
    until os.execute(("kill -0 %d 2>/dev/null"):format(s.pid)) ~= 0
    assert.equal(143, s:finish().status)
  end)

  it("takes the two signals of timeout(1), to itself and to its group, for one", function()
    local s = cli.start(cli.ECHO, { "--set", "batch_timeout_s=0" })
    s:send "1\n"
    assert.equal('{"index":1,"result":1}', s:line())
    os.execute(("kill -TERM $(cut -d ' ' -f 4 /proc/%d/stat)"):format(s.pid))
    local r = s:finish()
    assert.equal(0, r.status)
    assert.is_nil(r.err:find("aborted", 1, true))
    assert.truthy(r.err:find("records      1 (1 answered, 0 failed)", 1, true))
  end)

  it("SIGHUP at whatever moment ends nobody, not even at the very end", function()
    for _ = 1, 5 do
      local s = cli.start(cli.ECHO, { "--set", "batch_timeout_s=0" })
      s:send "1\n"
      assert.equal('{"index":1,"result":1}', s:line())
      s:send "2\n"
      s:close_input()
      os.execute(("i=0; while [ $i -lt 300 ] && kill -HUP %d 2>/dev/null; do i=$((i + 1)); done"):format(s.pid))
      local r = s:finish()
      assert.equal(0, r.status)
      assert.truthy(r.out:find('{"index":2,"result":2}', 1, true))
    end
  end)

  it("had written what was answered before it stops at once", function()
    local s = cli.start(SLOW)
    s:send '"quick"\n'
    assert.equal('{"index":1,"result":"quick"}', s:line())
    s:send '"slow"\n'
    s:message "began slow"
    s:kill "TERM"
    s:message "SIGTERM"
    s:kill "INT"
    assert.equal(1, s:finish().status)
  end)

  describe("at SIGHUP", function()
    local VERSION = [[return { batch_timeout_s = 0, max_batch_size = %d,
      encode = function(record, result) return { version = "%s", record = record, size = result } end,
      inference_fn = function(records, info)
        local sizes = {}
        for i = 1, info.size do sizes[i] = info.size end
        return sizes
      end }]]

    it("reloads the script: inference function, options and encode", function()
      local s = cli.start(VERSION:format(8, "old"))
      s:send "1\n2\n"
      assert.equal('{"record":1,"size":2,"version":"old"}', s:line())
      s:line()
      cli.file("script.lua", VERSION:format(1, "new"))
      s:kill "HUP"
      assert.truthy(s:message("reloaded"):find("script.lua", 1, true))
      s:send "3\n4\n"
      assert.equal('{"record":3,"size":1,"version":"new"}', s:line())
      s:close_input()
      local r = s:finish()
      assert.same({ '{"record":4,"size":1,"version":"new"}' }, r.lines)
      assert.equal(0, r.status)
    end)

    it("keeps what --set and the script's own options say", function()
      local script = [[return { options = { word = { "a word", "none" } %s }, setup = function(opt)
        return { max_batch_size = 8, batch_timeout_s = 0, inference_fn = function(records, info)
          local out = {}
          for i = 1, info.size do out[i] = { opt.word, info.size, opt.other } end
          return out
        end } end }]]
      local s = cli.start(script:format "", { "--word", "given", "--set", "max_batch_size=1" })
      s:send "1\n2\n"
      assert.equal('{"index":1,"result":["given",1]}', s:line())
      s:line()
      cli.file("script.lua", script:format ", other = { 'new', 7 }")
      s:kill "HUP"
      s:message "reloaded"
      s:send "3\n4\n"
      assert.equal('{"index":3,"result":["given",1,7]}', s:line())
      s:close_input()
      assert.equal(0, s:finish().status)
    end)

    local function setting_up(text)
      return "return { options = { word = { 'x', 'y' } }, setup = function() return " .. text .. " end }"
    end

    local BROKEN = {
      ["does not parse"] = { "return {", "script.lua:1:" },
      ["raises"] = { "error 'not today'", "not today" },
      ["raises when it is read"] =
        { "return setmetatable({}, { __index = function() error 'strict' end })", "strict" },
      ["has no inference function"] = { setting_up "{}", "inference_fn" },
      ["has an unknown option"] = { setting_up "{ inference_fn = print, max_bach_size = 1 }", "max_batch_size" },
      ["has min above max"] = { setting_up "{ inference_fn = print, min_batch_size = 999 }", "min_batch_size" },
      ["declares an option as another type"] =
        { "return { options = { word = { 'x', 1 } }, setup = function() return {} end }", "--word" },
      ["no longer declares an option that was given"] = { "return { inference_fn = print }", "'word'" },
    }
    for name, broken in pairs(BROKEN) do
      it("keeps the old script running when the new one " .. name .. ", and says why", function()
        local s = cli.start([[return { options = { word = { "a word", "none" } }, setup = function(opt)
          return { batch_timeout_s = 0, inference_fn = function(records)
            local out = {}
            for i = 1, #records do out[i] = opt.word end
            return out
          end } end }]], { "--word", "old" })
        s:send "1\n"
        assert.equal('{"index":1,"result":"old"}', s:line())
        cli.file("script.lua", broken[1])
        s:kill "HUP"
        local message = s:message "reload failed"
        assert.truthy(message:find(broken[2], 1, true), message)
        assert.truthy(message:find("the old script keeps running", 1, true))
        s:send "2\n"
        assert.equal('{"index":2,"result":"old"}', s:line())
        s:close_input()
        assert.equal(0, s:finish().status)
      end)
    end

    it("loses nothing: what runs ends with the old function, what is queued goes with the new one", function()
      local script = [[local tb = require "tokenbatcher"
        return { max_batch_size = 1, batch_timeout_s = 0, inference_fn = function(records)
          if records[1] == 1 then
            io.stderr:write "began\n"
            while not RELOADED do tb.sleep(0.001) end
          end
          return { "%s" }
        end }]]
      local s = cli.start(script:format "old")
      s:send "1\n2\n3\n"
      s:message "began"
      cli.file("script.lua", "RELOADED = true\n" .. script:format "new")
      s:kill "HUP"
      s:close_input()
      local r = s:finish()
      assert.same({ '{"index":1,"result":"old"}', '{"index":2,"result":"new"}', '{"index":3,"result":"new"}' }, r.lines)
      assert.equal(0, r.status)
    end)
  end)
end)
