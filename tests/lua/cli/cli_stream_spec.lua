-- tokenbatcher run as a part of a pipe: slow writers, readers that leave, long inputs.

local cli = dofile "tests/lua/cli_helper.lua"

-- Writes its peak memory, in KB, to a file when it ends.
local PEAK = [[
local function peak_kb()
  for line in io.lines "/proc/self/status" do
    local kb = line:match "^VmHWM:%%s*(%%d+)"
    if kb then return kb end
  end
end
AT_END = newproxy(true)
getmetatable(AT_END).__gc = function()
  local file = io.open(%q, "w")
  file:write(peak_kb())
  file:close()
end
]]

local function numbers(n)
  return ("seq 1 %d"):format(n)
end

-- Peak memory of a run over the numbers 1..n, in KB, and the result.
local function peak_of(script, n, args)
  local path = cli.file("script.lua", PEAK:format(cli.path "peak") .. script)
  local r = cli.shell(("%s | timeout -k 1 60 %s run %s %s"):format(numbers(n), cli.quote(cli.exe), cli.quote(path),
    args or ""))
  return tonumber(cli.read(cli.path "peak")), r
end

describe("tokenbatcher run in a pipe", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  it("answers after batch_timeout_s while the pipe is idle", function()
    local s = cli.start(cli.ECHO, { "--set", "batch_timeout_s=0.01" })
    for i = 1, 3 do
      s:send(i .. "\n")
      assert.equal(('{"index":%d,"result":%d}'):format(i, i), s:line())
    end
    s:close_input()
    assert.equal(0, s:finish().status)
  end)

  it("puts a line together that comes in pieces, each answered as soon as it is whole", function()
    local s = cli.start(cli.ECHO, { "--set", "batch_timeout_s=0" })
    s:send '{"a"'
    s:send ':"h\195'
    s:send '\169"'
    s:send '}\n"half'
    assert.equal('{"index":1,"result":{"a":"h\195\169"}}', s:line())
    s:send '"\n'
    assert.equal('{"index":2,"result":"half"}', s:line())
    s:close_input()
    assert.equal(0, s:finish().status)
  end)

  it("answers what was read when the writer goes away without a last newline", function()
    local s = cli.start(cli.ECHO)
    s:send "1\n2"
    s:close_input()
    assert.equal(2, #s:finish().lines)
  end)

  it("ends when the reader of its output goes away", function()
    local r = cli.shell(("%s | timeout -k 1 60 %s run %s 2>/dev/null | head -n 1"):format(numbers(200000),
      cli.quote(cli.exe), cli.file("script.lua", cli.ECHO)))
    assert.equal('{"index":1,"result":1}\n', r.out)
  end)

  it("ends with 2 and says so when the reader goes away and SIGPIPE is ignored", function()
    local status = cli.path "pipe_status"
    local command = "%s | { env --ignore-signal=PIPE timeout -k 1 60 %s run %s; echo $? >%s; } | head -n 1"
    local r = cli.shell(command:format(numbers(200000), cli.quote(cli.exe), cli.file("script.lua", cli.ECHO), status))
    assert.equal('{"index":1,"result":1}\n', r.out)
    assert.equal("2\n", cli.read(status))
    assert.truthy(r.err:find("cannot write the output: Broken pipe", 1, true))
  end)

  it("ends at once when the output breaks, although its input is idle and inference sleeps", function()
    local script = [[local tb = require "tokenbatcher"
      return { max_batch_size = 1, max_concurrent_batches = 2, inference_fn = function(records)
        if records[1] == "slow" then tb.sleep(3600) end
        return records
      end }]]
    local s = cli.start(script, { "--unordered", "--output", "/dev/full" })
    s:send '"slow"\n"quick"\n'
    local r = s:finish()
    assert.equal(2, r.status)
    assert.truthy(r.err:find("No space left", 1, true))
  end)

  it("says what is wrong when the inference function waits for what never comes", function()
    local script = [[local tb = require "tokenbatcher"
      return { inference_fn = function()
        local waiting
        waiting = tb.spawn(function() return waiting:await() end)
        return waiting:await()
      end }]]
    local r = cli.run(script, "1\n")
    assert.equal(2, r.status)
    assert.truthy(r.err:find("nothing can wake them", 1, true), r.err)
  end)

  it("shows progress where standard error is a terminal and the answers go elsewhere", function()
    if os.execute "script -qec true /dev/null >/dev/null 2>&1 </dev/null" ~= 0 then
      return pending("skipped: no script(1), or no terminal can be made")
    end
    local path = cli.file("script.lua", cli.ECHO)
    local function on_terminal(redirection)
      local command = cli.quote(cli.exe) .. " run " .. path .. redirection
      local r = cli.shell("script -qec " .. cli.quote(command) .. " /dev/null", "")
      assert.equal(0, r.status)
      return r.out
    end
    local input = cli.file("in.jsonl", "1\n2\n")
    local out = on_terminal(" --input " .. input .. " --output " .. cli.path "out.jsonl")
    assert.truthy(out:find("\r\27%[K%d of 2 records done, "), out)
    assert.truthy(out:find("\r\27[Krecords      2 (2 answered, 0 failed)", 1, true))
    assert.is_nil(on_terminal(" --input " .. input):find("records done", 1, true))
  end)

  -- The answer to the first record comes when nothing has been read for 100 turns.
  local STALLED_HEAD = [[local tb = require "tokenbatcher"
    local decoded = 0
    return { max_batch_size = 10, max_concurrent_batches = 2, max_queue_size = 100, batch_timeout_s = 0,
      decode = function(line) decoded = decoded + 1 return tonumber(line) end,
      inference_fn = function(records)
        if records[1] == 1 then
          local seen, unchanged = 0, 0
          while unchanged < 100 do
            tb.sleep(0)
            unchanged = decoded == seen and unchanged + 1 or 0
            seen = decoded
          end
          io.stderr:write("read ", decoded, "\n")
        end
        return records
      end }]]

  it("stops reading while max_queue_size answers wait for an earlier one", function()
    local _, r = peak_of(STALLED_HEAD, 20000)
    local read = tonumber(r.err:match "read (%d+)")
    assert.is_true(read >= 110 and read <= 330, read .. " lines were read")
    assert.equal(20000, #r.lines)
    assert.equal('{"index":20000,"result":20000}', r.lines[20000])
    assert.equal(0, r.status)
  end)

  it("reads on under --unordered, where no answer waits for another", function()
    local _, r = peak_of(STALLED_HEAD, 20000, "--unordered")
    assert.equal(20000, tonumber(r.err:match "read (%d+)"))
    assert.equal(20000, #r.lines)
  end)

  it("takes no more memory for 200,000 lines than for 20,000", function()
    local small = peak_of(cli.ECHO, 20000)
    local large, r = peak_of(cli.ECHO, 200000)
    assert.equal('{"index":200000,"result":200000}', r.lines[#r.lines])
    assert.is_true(large < 1.5 * small + 4096, ("%d KB for 20,000 lines, %d KB for 200,000"):format(small, large))
  end)
end)
