-- fd, next_deadline, step: a host that owns the loop, here one around poll(2).

local ffi = require "ffi"
local tb = require "tokenbatcher"
local H = require "tests.lua.helper"

ffi.cdef [[
struct tbtest_pollfd { int fd; short events; short revents; };
int tbtest_poll(struct tbtest_pollfd *fds, unsigned long n, int timeout_ms) __asm__("poll");
]]

local POLLIN = 1
local pollfd = ffi.new "struct tbtest_pollfd"

-- Is the descriptor readable within so many milliseconds?
local function readable(timeout_ms)
  pollfd.fd, pollfd.events = tb.fd(), POLLIN
  return ffi.C.tbtest_poll(pollfd, 1, timeout_ms) == 1
end

-- The host's loop: sleeps in poll(2), steps when the descriptor says so. The five seconds
-- are no clock, only the end of a test that would hang.
local function drive(is_done)
  while not is_done() do
    assert(readable(5000), "the descriptor did not become readable")
    tb.step()
  end
end

local function quiet()
  while readable(0) do tb.step() end
end

-- Start, hand to fn, stop: all from outside of any coroutine.
local function with_batcher(options, fn)
  local batcher = tb.TokenBatcher(options)
  local starting = tb.spawn(function() batcher:start() end)
  drive(function() return starting:done() end)
  fn(batcher)
  local stopping = tb.spawn(function() batcher:stop { timeout_s = 2 } end)
  drive(function() return stopping:done() end)
  quiet()
  assert.is_false(batcher.is_running)
end

local function echo(records)
  return records
end

describe("a host that owns the loop:", function()
  it("is told by the descriptor that there is work", function()
    quiet()
    assert.is_false(readable(0))
    local ran = false
    tb.spawn(function() ran = true end)
    assert.is_true(readable(0))
    tb.step()
    assert.is_true(ran)
    quiet()
    assert.is_false(readable(0))
    assert.is_nil(tb.next_deadline())
  end)

  it("drives a batcher from outside of coroutines: try_submit, done, await of what is done", function()
    with_batcher({ inference_fn = echo, batch_timeout_s = 0.002 }, function(batcher)
      local futures = {}
      for i = 1, 3 do futures[i] = assert(batcher:try_submit(i)) end
      assert.is_false(futures[1]:done())
      assert.matches("await cannot wait here", (H.message(futures[1].await, futures[1])))
      drive(function() return futures[3]:done() end)
      for i = 1, 3 do assert.equal(i, (futures[i]:await())) end
      assert.equal(1, batcher.stats.total_batches)
    end)
  end)

  it("learns the next deadline, on the clock of now", function()
    with_batcher({ inference_fn = echo, batch_timeout_s = 60 }, function(batcher)
      quiet()
      local before = tb.now()
      local future = batcher:try_submit "a"
      tb.step()
      local deadline = tb.next_deadline()
      assert.is_true(deadline >= before + 60 and deadline <= tb.now() + 60)
      quiet()
      assert.is_false(readable(0))
      batcher:flush()
      assert.is_true(readable(0))
      drive(function() return future:done() end)
    end)
  end)

  it("step never blocks, however far the next deadline", function()
    with_batcher({ inference_fn = echo, batch_timeout_s = 60 }, function(batcher)
      batcher:try_submit("a")
      local started = tb.now()
      for _ = 1, 100 do tb.step() end
      assert.is_true(tb.now() - started < 30)
      assert.equal(1, batcher.stats.queue_size)
      batcher:flush()
    end)
  end)

  it("never waits in submit outside of a coroutine: full is nil, queue_full", function()
    with_batcher({ inference_fn = echo, max_queue_size = 1, batch_timeout_s = 0.001 }, function(batcher)
      local future = batcher:submit "a"
      for _, method in ipairs { "submit", "try_submit", "submit_batch" } do
        local refused, err = batcher[method](batcher, { "b" })
        assert.is_nil(refused)
        assert.equal("queue_full", err.code)
      end
      drive(function() return future:done() end)
      assert.equal("a", (future:await()))
    end)
  end)

  it("cancels and sets from outside of coroutines, and the descriptor tells", function()
    with_batcher({ inference_fn = echo, batch_timeout_s = 60 }, function(batcher)
      local a, b = batcher:submit "a", batcher:submit "b"
      tb.step()
      quiet()
      assert.is_true(a:cancel())
      assert.equal("cancelled", select(2, a:await()).code)
      batcher:set { batch_timeout_s = 0 }
      drive(function() return b:done() end)
      assert.equal("b", (b:await()))
    end)
  end)

  it("sleeping coroutines and inference functions wake by the descriptor alone", function()
    local slow = function(records)
      tb.sleep(0.002)
      return records
    end
    with_batcher({ inference_fn = slow, policy = "eager" }, function(batcher)
      local done = tb.spawn(function()
        local sum = 0
        for i = 1, 5 do
          sum = sum + batcher:submit(i):await()
          tb.sleep(0.001)
        end
        return sum
      end)
      drive(function() return done:done() end)
      assert.equal(15, (done:await()))
    end)
  end)

  it("cannot stop outside of a coroutine while records are unsettled, but when idle it can", function()
    with_batcher({ inference_fn = echo, batch_timeout_s = 60 }, function(batcher)
      local future = batcher:submit "a"
      assert.matches("stop cannot wait here", (H.message(batcher.stop, batcher)))
      assert.is_true(batcher.is_running)
      batcher:flush()
      drive(function() return future:done() end)
      quiet()
      batcher:stop()
      assert.is_false(batcher.is_running)
    end)
  end)

  it("start outside of a coroutine raises", function()
    local batcher = tb.TokenBatcher { inference_fn = echo }
    assert.matches("start must be called within", (H.message(batcher.start, batcher)))
  end)

  it("step cannot be called from within step or run, nor run from within step", function()
    local seen = {}
    tb.spawn(function()
      seen[1] = H.message(tb.step)
      seen[2] = H.message(tb.run, print)
    end)
    tb.step()
    assert.matches("step cannot be called from within", seen[1])
    assert.matches("run cannot be called from within step", seen[2])
    tb.run(function() seen[3] = H.message(tb.step) end)
    assert.matches("step cannot be called from within", seen[3])
    tb.step()
  end)

  it("step raises what a spawned coroutine raised and nobody awaited, and the next step works", function()
    quiet()
    tb.spawn(function() error "nobody looks" end)
    local message
    for _ = 1, 3 do message = message or H.message(tb.step) end
    assert.matches("nobody looks", message)
    local ran = false
    tb.spawn(function() ran = true end)
    tb.step()
    assert.is_true(ran)
  end)

  it("run is refused while batchers run that step drives, and works before and afterwards", function()
    with_batcher({ inference_fn = echo, batch_timeout_s = 60 }, function(batcher)
      local future = batcher:submit "a"
      assert.matches("stop them first", (H.message(tb.run, print)))
      batcher:flush()
      drive(function() return future:done() end)
      assert.equal("a", (future:await()))
    end)
    assert.equal("re:x", tb.run(function() return (H.start():submit("x"):await()) end, { clock = "virtual" }))
    with_batcher({ inference_fn = echo, batch_timeout_s = 0 }, function(batcher)
      local future = batcher:submit "b"
      drive(function() return future:done() end)
      assert.equal("b", (future:await()))
    end)
  end)
end)
