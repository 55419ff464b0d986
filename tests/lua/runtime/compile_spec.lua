-- The hot paths stay compilable: nothing in them is not yet implemented (NYI) in the
-- compiler of LuaJIT. Each workload runs in a process of its own, because the compiler
-- remembers what it gave up on.

local tb = require "tokenbatcher"
local H = require "tests.lua.helper"

local OURS = "lua/tokenbatcher/"
-- "NYI" by name only: a loop's shape did not suit this trace, another one covers it.
local BENIGN = "NYI: return to lower frame"

local function probe_once(work)
  local luajit = os.getenv "LUAJIT" or "luajit"
  local pipe = assert(io.popen(luajit .. " tests/lua/runtime/compile_probe.lua " .. work .. " 2>&1"))
  local aborts, traces = {}, {}
  for line in pipe:lines() do
    local kind, place, reason = line:match "^(%a+) (%S+) ?(.*)$"
    if kind == "abort" and place:find(OURS, 1, true) then
      aborts[#aborts + 1] = place .. " " .. reason
    elseif kind == "trace" then
      local file = place:match "([^/]+%.lua):%d+$"
      if file then traces[file] = (traces[file] or 0) + 1 end
    end
  end
  pipe:close()
  return traces, aborts
end

local function serious(aborts)
  local out = {}
  for _, abort in ipairs(aborts) do
    local unsupported = abort:find("NYI", 1, true) and not abort:find(BENIGN, 1, true)
    if unsupported or abort:find("blacklisted", 1, true) then out[#out + 1] = abort end
  end
  return out
end

-- Code that runs once may look hot to the compiler, since its counters are shared; what is not
-- supported in a hot path shows in every process.
local function probe(work)
  local traces, aborts
  for _ = 1, 3 do
    traces, aborts = probe_once(work)
    if #serious(aborts) == 0 then break end
  end
  return traces, aborts
end

describe("compilation:", function()
  it("the submit loop, the pump and the settling of answers compile: no NYI in our files", function()
    local traces, aborts = probe "submit"
    assert.same({}, serious(aborts))
    for _, file in ipairs { "compile_probe.lua", "own.lua", "run.lua" } do
      assert.is_truthy(traces[file], "no trace begins in " .. file)
    end
  end)

  it("256 coroutines that submit and await compile, too", function()
    local traces, aborts = probe "coroutines"
    assert.same({}, serious(aborts))
    for _, file in ipairs { "compile_probe.lua", "own.lua", "run.lua", "future.lua" } do
      assert.is_truthy(traces[file], "no trace begins in " .. file)
    end
  end)

  it("the loop of the simulator compiles", function()
    local traces, aborts = probe "simulate"
    assert.same({}, serious(aborts))
    assert.is_truthy(traces["replay.lua"], "no trace begins in replay.lua")
  end)

  it("a record costs its future and its places in the batch's lists, and no other garbage", function()
    local n, bytes = 20000, nil
    H.run(function()
      local batcher = tb.TokenBatcher { inference_fn = function(records) return records end, max_queue_size = n }
      batcher:start()
      local futures = {}
      for i = 1, n do futures[i] = false end
      local function round()
        for i = 1, n do futures[i] = batcher:submit(i) end
        for i = 1, n do futures[i]:await() end
      end
      round() -- everything that grows has grown
      collectgarbage()
      collectgarbage "stop"
      local before = collectgarbage "count"
      round()
      bytes = (collectgarbage "count" - before) * 1024 / n
      collectgarbage "restart"
      batcher:stop()
    end)
    assert.is_true(bytes < 300, bytes .. " bytes for each record")
  end)
end)
