-- What a run leaves behind, and what of one instant comes first.
local H = require "tests.lua.helper"
local tb = require "tokenbatcher"

local VIRTUAL = { clock = "virtual" }

describe("lifecycle:", function()
  it("a run on the real clock gives its descriptors back at its end, not at some collection", function()
    tb.run(function() end)
    collectgarbage "stop"
    local before = H.open_descriptors()
    for _ = 1, 50 do tb.run(function() tb.sleep(0) end) end
    local after = H.open_descriptors()
    collectgarbage "restart"
    assert.equal(before, after)
  end)

  it("an error that an await with a timeout did not live to see is raised when run ends", function()
    local ok, err = pcall(tb.run, function()
      local future = tb.spawn(function()
        tb.sleep(1)
        error "lost"
      end)
      local value, timeout = future:await(0.1)
      assert.is_nil(value)
      assert.equal("await_timeout", timeout.code)
    end, VIRTUAL)
    assert.is_false(ok)
    assert.matches("lost", tostring(err))
  end)

  it("a future whose run ended with an error before its coroutine did is settled", function()
    local future
    pcall(tb.run, function()
      future = tb.spawn(function() tb.sleep(5) end)
      error "x"
    end, VIRTUAL)
    assert.is_true(future:done())
    local _, err = future:await()
    assert.equal("coroutine_failed", err.code)
  end)

  it("with() shows where an error was raised, not where it was raised again", function()
    local function deep() error "inner boom" end
    local _, err = pcall(tb.run, function()
      tb.with(tb.TokenBatcher { inference_fn = print }, function() deep() end)
    end, VIRTUAL)
    assert.matches("inner boom", err)
    assert.matches("in function 'deep'", err)
  end)

  it("an endless stream of failing coroutines that nobody awaits is raised, not hoarded", function()
    local ok, err = pcall(tb.run, function()
      while true do
        tb.spawn(function() error "again" end)
        tb.sleep(0.001)
      end
    end, VIRTUAL)
    assert.is_false(ok)
    assert.matches("again", tostring(err))
  end)

  it("run refuses to begin while coroutines that step drives are not done", function()
    local done = false
    local future = tb.spawn(function()
      while not done do tb.sleep(0) end
      return "mine"
    end)
    tb.step()
    local ok, err = pcall(tb.run, function() end, VIRTUAL)
    assert.is_false(ok)
    assert.matches("step drives", err)
    done = true
    while not future:done() do tb.step() end
    assert.equal("mine", (future:await()))
    tb.step()
    assert.is_nil((tb.run(function() end, VIRTUAL)))
  end)

  it("C2: an answer that comes at the very instant at which an await times out is delivered", function()
    tb.run(function()
      local batcher = H.start { max_batch_size = 1, inference_fn = function(records)
        tb.sleep(1)
        return records
      end }
      assert.equal("a", (batcher:submit("a"):await(1)))
      batcher:stop()
    end, VIRTUAL)
  end)

  it("R6: between two calls of a bisected batch a record whose deadline is this instant fails", function()
    tb.run(function()
      local batcher = H.start { on_error = "bisect", batch_timeout_s = 0, policy = "eager",
        inference_fn = function(records)
          tb.sleep(0.5)
          if #records > 1 then error "poison" end
          return records
        end }
      local futures = { batcher:submit("a"), batcher:submit("b", { timeout_s = 1 }) }
      assert.equal("a", (futures[1]:await()))
      local _, err = futures[2]:await()
      assert.equal("deadline", err.code) -- 0.5 s together, 0.5 s for "a": then it is 1 s
      batcher:stop()
    end, VIRTUAL)
  end)

  it("coroutines that keep waking each other do not keep the loop from its deadlines", function()
    tb.run(function()
      local batcher = H.start { batch_timeout_s = 0.001 }
      local future = batcher:submit "a"
      local turns = 0
      while not future:done() and turns < 1e6 do
        tb.spawn(function() end):await()
        turns = turns + 1
      end
      assert.is_true(future:done())
      batcher:stop()
    end)
  end)

  it("a batcher that has drained does not make the next one miss its turn", function()
    tb.run(function()
      local first, second = H.start { batch_timeout_s = 1 }, H.start { batch_timeout_s = 1 }
      local at
      tb.spawn(function()
        second:submit("b"):await()
        at = tb.now()
      end)
      tb.sleep(1)
      first:stop()
      second:stop()
      assert.near(1, at, 1e-9)
    end, VIRTUAL)
  end)

  it("S5: a submit_batch that stop{timeout_s} cuts short returns the futures of what has entered", function()
    tb.run(function()
      local batcher = H.start { max_batch_size = 2, max_queue_size = 2, prefetch_batches = 0,
        inference_fn = function(records)
          tb.sleep(1)
          return records
        end }
      local futures
      local producer = tb.spawn(function() futures = batcher:submit_batch { 1, 2, 3, 4, 5, 6, 7, 8, 9 } end)
      tb.sleep(0.1)
      batcher:stop { timeout_s = 2.4 }
      producer:await()
      assert.equal(9, #futures)
      assert.equal(1, (futures[1]:await()))
      local _, err = futures[9]:await()
      assert.equal("stopped", err.code)
      local s = batcher.stats
      assert.equal(s.total_submitted, s.total_completed + s.total_failed)
      assert.equal(9, s.total_submitted + s.total_rejected)
    end, VIRTUAL)
  end)

  it("S5: a bad cost or an oversize record of a list is named by its place", function()
    tb.run(function()
      local batcher = H.start { on_oversize = "reject", target_batch_tokens = 10 }
      local _, err = pcall(batcher.submit_batch, batcher, { 1, 2, 3 }, { estimated_tokens = { 1, 2, -1 } })
      assert.matches("estimated_tokens %(record 3%) is %-1", tostring(err))
      local none, oversize = batcher:submit_batch({ 1, 2, 3 }, { estimated_tokens = { 1, 11, 1 } })
      assert.is_nil(none)
      assert.matches("record 2 alone costs more", tostring(oversize))
      batcher:stop()
    end, VIRTUAL)
  end)

  it("an error object of somebody else's speaks through its field message", function()
    tb.run(function()
      local batcher = H.start { batch_timeout_s = 0, inference_fn = function() error { message = "out of quota" } end }
      local _, err = batcher:submit("a"):await()
      assert.equal("out of quota", err.message)
      batcher:set { inference_fn = function() error {} end }
      _, err = batcher:submit("a"):await()
      assert.equal("(a table that has no text)", err.message)
      batcher:stop()
    end, VIRTUAL)
  end)
end)

describe("the guide", function()
  it("has the table of options that the code has", function()
    assert.equal(0, os.execute "luajit tests/readme_options.lua --check lua/tokenbatcher/README.md")
  end)
end)
