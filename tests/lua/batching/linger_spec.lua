-- F3: a record's own linger.

local tb = require "tokenbatcher"
local H = require "tests.lua.helper"
local virtually = H.virtually

describe("F3: batch_timeout_s of a record", function()
  it("makes the queue due earlier than the option, and fails nothing", virtually(function()
    local batcher, calls = H.start { batch_timeout_s = 1 }
    batcher:submit "a"
    local hasty = batcher:submit("b", { batch_timeout_s = 0.01 })
    assert.equal("re:b", (hasty:await()))
    assert.equal(0.01, calls[1].at)
    assert.same({ "a b" }, H.batches(calls))
    batcher:stop()
  end))

  it("of 0 sends it at once", virtually(function()
    local batcher, calls = H.start { batch_timeout_s = 1 }
    batcher:submit("b", { batch_timeout_s = 0 }):await()
    assert.equal(0, calls[1].at)
    batcher:stop()
  end))

  it("may be longer than the option, too", virtually(function()
    local batcher, calls = H.start { batch_timeout_s = 0.05 }
    batcher:submit("patient", { batch_timeout_s = 2 }):await()
    assert.equal(2, calls[1].at)
    batcher:stop()
  end))

  it("does not expire a record on a busy device", virtually(function()
    local batcher = H.start { takes = 1, batch_timeout_s = 0.5 }
    batcher:submit("first", { batch_timeout_s = 0 })
    tb.sleep(0.1)
    assert.equal("re:second", (batcher:submit("second", { batch_timeout_s = 0.02 }):await()))
    batcher:stop()
  end))

  it("counts from the call of submit, waiting for room included", virtually(function()
    local batcher, calls = H.start { takes = 0.3, batch_timeout_s = 5, max_queue_size = 1, max_batch_size = 1 }
    for i = 1, 3 do tb.spawn(function() batcher:submit(i, { batch_timeout_s = 0.1 }) end) end
    tb.sleep(2)
    assert.equal(3, #calls)
    batcher:stop()
  end))

  it("holds for a whole submit_batch", virtually(function()
    local batcher, calls = H.start { batch_timeout_s = 5 }
    batcher:submit_batch({ "a", "b" }, { batch_timeout_s = 0.25 })
    tb.sleep(1)
    assert.equal(0.25, calls[1].at)
    assert.same({ "a b" }, H.batches(calls))
    batcher:stop()
  end))

  it("that is no time is refused at the caller's line", virtually(function()
    local batcher = H.start()
    for _, value in ipairs { -1, "x", 0 / 0 } do
      local message = H.message(function() batcher:submit("x", { batch_timeout_s = value }) end)
      assert.matches("linger_spec.lua:%d+: submit: batch_timeout_s must be a number of seconds >= 0", message)
    end
    batcher:stop()
  end))
end)
