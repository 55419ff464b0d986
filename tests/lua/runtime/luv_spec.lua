-- A batcher inside luv's loop: fd() is polled, step() is called when it is readable.
-- No other spec may load luv: busted unloads modules after each file, and luv does not
-- survive being loaded twice.

local tb = require "tokenbatcher"
local cli = dofile "tests/lua/cli_helper.lua"
local has_luv, uv = pcall(require, "luv")

local GUARD_MS = 30000

-- Run fn(stepped) in a coroutine of ours on luv's loop; `stepped()` is how often luv has
-- called step(). Returns what it returns when it is done.
local function on_luv(fn)
  local steps, main = 0, nil
  local poll, guard = assert(uv.new_poll(tb.fd())), uv.new_timer()
  local problem
  local function close()
    poll:close()
    guard:close()
  end
  poll:start("r", function()
    steps = steps + 1
    local ok, err = pcall(tb.step)
    if not ok then problem = err end
    if problem or main:done() then close() end
  end)
  guard:start(GUARD_MS, 0, function()
    problem = "it did not end"
    close()
  end)
  main = tb.spawn(function()
    local ok, value = pcall(fn, function() return steps end)
    if not ok then problem = value end
    return value
  end)
  uv.run()
  if problem then error(problem, 0) end
  return (main:await())
end

local function it_with_luv(name, fn)
  it(name, function()
    if not has_luv then return pending "skipped: no lua-luv" end
    fn()
  end)
end

describe("inside luv's loop", function()
  it_with_luv("records from luv's own callbacks are batched, and answered", function()
    local batches = 0
    local answers = on_luv(function()
      local batcher = tb.TokenBatcher { batch_timeout_s = 0.002, inference_fn = function(records)
        batches = batches + 1
        tb.sleep(0.001)
        return records
      end }
      batcher:start()
      local futures, timer = {}, uv.new_timer()
      local task = tb.spawn(function()
        while #futures < 20 do tb.sleep(0.001) end
        return (tb.gather(futures))
      end)
      timer:start(0, 1, function()
        if #futures == 20 then return timer:close() end
        futures[#futures + 1] = assert(batcher:try_submit(#futures + 1))
      end)
      local results = task:await()
      batcher:stop()
      return results
    end)
    assert.equal(20, #answers)
    for i = 1, 20 do assert.equal(i, answers[i]) end
    assert.is_true(batches < 20)
  end)

  it_with_luv("an idle batcher is not stepped, however long luv works on other things", function()
    on_luv(function(stepped)
      local batcher = tb.TokenBatcher { inference_fn = function(r) return r end, batch_timeout_s = 60 }
      batcher:start()
      local future = batcher:submit "waits"
      local timer, ticks, before, after = uv.new_timer(), 0, nil, nil
      timer:start(1, 2, function()
        ticks = ticks + 1
        if ticks == 2 then before = stepped() end
        if ticks < 12 then return end
        after = stepped()
        timer:close()
        batcher:flush()
      end)
      assert.equal("waits", (future:await()))
      batcher:stop()
      assert.equal(before, after)
    end)
  end)

  it_with_luv("inference may run in threads", function()
    cli.new_folder()
    local path = cli.file("infer.lua", "return { inference_fn = function(r) return { r[1] .. '!' } end }")
    local answer = on_luv(function()
      local batcher = tb.TokenBatcher { policy = "eager", inference_fn = tb.backend.threads { script = path } }
      batcher:start()
      local text = batcher:submit("hi"):await()
      batcher:stop()
      return text
    end)
    cli.clean()
    assert.equal("hi!", answer)
  end)
end)
