-- In an nginx worker a light thread runs many tasks, one after the other; and the waiting path is compiled.

local nginx = dofile "tests/nginx/server.lua"
local missing = nginx.missing()

-- A worker with a batcher `b` that answers each record with "re:" .. record.
local WORKER = [[
  init_worker_by_lua_block {
    local timer_at = ngx.timer.at
    timers = 0 -- that were asked for
    ngx.timer.at = function(...)
      timers = timers + 1
      return timer_at(...)
    end
    tb = require "tokenbatcher"
    function answer(records)
      local results = {}
      for i, record in ipairs(records) do results[i] = "re:" .. record end
      return results
    end
    b = tb.TokenBatcher { inference_fn = answer, policy = "eager", max_concurrent_batches = 4 }
    b:start()
  }
]]

local function test(name, fn)
  it(name, function()
    if missing then return pending("skipped: " .. missing) end
    local server = nginx.start { http = WORKER }
    local ok, err = xpcall(fn, function(value)
      return type(value) == "string" and debug.traceback(value) .. "\n" .. server:log() or value
    end, server)
    server:stop()
    if not ok then error(err, 0) end
  end)
end

describe("a light thread of the pool:", function()
  test("hundreds of batches, one after the other, are all answered, by few timers", function(server)
    local right, timers = server:eval([[
      local right, before = 0, timers
      for i = 1, 350 do
        if b:submit(i):await() == "re:" .. i then right = right + 1 end
      end
      return right .. " " .. timers - before
    ]]):match "(%d+) (%d+)"
    assert.equal("350", right)
    assert.is_true(tonumber(timers) >= 4 and tonumber(timers) < 40, timers .. " timers")
  end)

  test("what a batch leaves in ngx.ctx is gone in the next", function(server)
    assert.equal("nil nil nil", server:eval [[
      local seen = {}
      local own = tb.TokenBatcher { policy = "eager", inference_fn = function(records)
        seen[#seen + 1] = tostring(ngx.ctx.secret)
        ngx.ctx.secret = "of the batch before"
        return answer(records)
      end }
      own:start()
      for i = 1, 3 do own:submit(i):await() end
      return table.concat(seen, " ")
    ]])
  end)

  test("one whose inference function ends it fails its batch, and no other", function(server)
    assert.equal("inference_failed re:0 10", server:eval [[
      local own = tb.TokenBatcher { policy = "eager", inference_fn = function(records)
        if records[1] == "exit" then ngx.exit(0) end
        return answer(records)
      end, max_concurrent_batches = 4 }
      own:start()
      for i = 1, 5 do own:submit(i):await() end -- there are threads that wait
      local ending = own:submit "exit"
      ngx.sleep(0.01) -- it is in a batch of its own
      local right, first = 0, nil
      for i = 0, 9 do
        local result = own:submit(i):await()
        first = first or result
        if result == "re:" .. i then right = right + 1 end
      end
      local _, err = ending:await()
      return err.code .. " " .. first .. " " .. right
    ]])
  end)

  test("errors keep their traceback, batch after batch", function(server)
    assert.equal("true true true", server:eval [[
      local own = tb.TokenBatcher { policy = "eager", inference_fn = function(records)
        local function culprit() error("no " .. records[1]) end
        culprit()
      end }
      own:start()
      local out = {}
      for i = 1, 3 do
        local _, err = own:submit(i):await()
        local is_named, is_traced = err.message:find("no " .. i, 1, true), err.traceback:find("culprit", 1, true)
        out[i] = tostring(is_named ~= nil and is_traced ~= nil)
      end
      return table.concat(out, " ")
    ]])
  end)

  test("coroutines of spawn run in it, too, however many there are at once", function(server)
    assert.equal("600", server:eval [[
      local right = 0
      for _ = 1, 3 do
        local futures = {}
        for i = 1, 200 do
          futures[i] = tb.spawn(function()
            tb.sleep(0.001)
            return i
          end)
        end
        for i = 1, 200 do
          if futures[i]:await() == i then right = right + 1 end
        end
      end
      return right
    ]])
    nginx.wait_until("no thread of ours", function()
      return server:eval "return ngx.timer.running_count()" == "0"
    end)
  end)

  test("a worker that is told to go is not held by those that wait", function(server)
    server:eval "for i = 1, 20 do b:submit(i):await() end return 0"
    local began = os.time()
    server:signal "QUIT"
    nginx.wait_until("the end of nginx", function() return not nginx.succeeds("kill -0 " .. server.pid) end)
    assert.is_true(os.time() - began < 20)
    assert.is_nil(server:log():find("[error]", 1, true))
  end)
end)

-- 100 light threads that submit and await, `rounds` times each.
local LOAD = [[
  local opts = { estimated_tokens = 5 }
  function load_with(rounds)
    local threads = {}
    for i = 1, 100 do
      threads[i] = ngx.thread.spawn(function()
        for _ = 1, rounds do assert(b:submit(i, opts):await() == "re:" .. i) end
      end)
    end
    for i = 1, 100 do assert(ngx.thread.wait(threads[i])) end
  end
]]

describe("the waiting path in nginx:", function()
  -- All functions of ours that submit and await reach: the files of those that the compiler has compiled, which of
  -- them it has given up on, and what it could not compile in one ("return to lower frame" is a trace's shape).
  local LOOK = [[
    local util, vmdef = require "jit.util", require "jit.vmdef"
    local aborts, blacklisted, compiled, seen = {}, {}, {}, {}
    jit.attach(function(what, _, fn, pc, code)
      if what ~= "abort" then return end
      local info = util.funcinfo(fn, pc)
      aborts[#aborts + 1] = { fn = fn, text = ("%s:%s %s"):format(info.source, info.currentline, vmdef.traceerr[code]) }
    end, "trace")

    local function look(fn)
      local info = util.funcinfo(fn)
      if seen[fn] or not (info.source and info.source:find("lua/tokenbatcher/", 1, true)) then return end
      seen[fn] = true
      local pc, ins = 0, util.funcbc(fn, 0)
      while ins do
        local op, place = bit.band(ins, 0xff), info.source:match "[^/]+$"
        local name = vmdef.bcnames:sub(op * 6 + 1, op * 6 + 6)
        if name:find "^I[FL]" then blacklisted[#blacklisted + 1] = place .. ":" .. info.linedefined end
        if name:find "^J[FL]" then compiled[place] = true end
        pc = pc + 1
        ins = util.funcbc(fn, pc)
      end
      local i, name, up = 1, debug.getupvalue(fn, 1)
      while name do
        if type(up) == "function" then look(up) end
        i = i + 1
        name, up = debug.getupvalue(fn, i)
      end
    end

    load_with(300)
    jit.attach(function() end)
    local host = require "tokenbatcher.runtime.host"
    local future = b:submit "last"
    for _, fn in ipairs { b.submit, b.ask, future.await, host.suspend, host.waiter, host.answer, host.resume,
      host.can_suspend, host.admits } do look(fn) end
    future:await()
    local files, not_compiled = {}, {}
    for file in pairs(compiled) do files[#files + 1] = file end
    for _, abort in ipairs(aborts) do
      local is_serious = seen[abort.fn] and not abort.text:find "return to lower frame"
      if is_serious then not_compiled[#not_compiled + 1] = abort.text end
    end
    return table.concat(files, " ") .. "|" .. table.concat(blacklisted, " ") .. "|" .. table.concat(not_compiled, " ")
  ]]

  test("is compiled: nothing that submit, await or suspend uses is given up on", function(server)
    local compiled, blacklisted, aborts = server:eval(LOAD .. LOOK):match "^(.*)|(.*)|(.*)$"
    assert.same({ "", "" }, { blacklisted, aborts })
    assert.matches("%.lua", compiled) -- where traces begin is for the compiler to say
  end)

  test("makes little garbage", function(server)
    local bytes = tonumber(server:eval(LOAD .. [[
      load_with(20) -- everything that grows has grown
      collectgarbage()
      collectgarbage "stop"
      local before = collectgarbage "count"
      load_with(0) -- what the threads are
      local of_threads = collectgarbage "count" - before
      load_with(100)
      local bytes = (collectgarbage "count" - before - 2 * of_threads) * 1024 / 10000
      collectgarbage "restart"
      return bytes
    ]]))
    assert.is_true(bytes > 50 and bytes <= 250, bytes .. " bytes for each record")
  end)
end)
