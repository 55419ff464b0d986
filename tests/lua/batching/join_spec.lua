-- R8: identical records in flight are one.

local tb = require "tokenbatcher"
local H = require "tests.lua.helper"
local virtually = H.virtually

local function text(record) return type(record) == "string" and record or record.text end

local function start(options)
  options.join = options.join or text
  return H.start(options)
end

describe("R8: join", function()
  it("pays once for 1,000 requests of 10 prompts, and answers every one", virtually(function()
    local batcher, calls = start { takes = 0.1 }
    local futures = {}
    for i = 1, 1000 do futures[i] = batcher:submit("p" .. i % 10) end
    local results, errs = tb.gather(futures)
    for i = 1, 1000 do assert.equal("re:p" .. i % 10, results[i]) end
    assert.same({}, errs)
    local paid = 0
    for _, call in ipairs(calls) do paid = paid + call.size end
    assert.equal(10, paid)
    local stats = batcher.stats
    assert.equal(10, stats.total_submitted)
    assert.equal(990, stats.total_joined)
    assert.is_true(H.is_conserved(stats))
    batcher:stop()
  end))

  it("joins a record that runs already; one that comes after its answer is a new record", virtually(function()
    local batcher, calls = start { takes = 1, batch_timeout_s = 0 }
    local first = batcher:submit "a"
    tb.sleep(0.5)
    local second = batcher:submit "a"
    assert.equal("re:a", (first:await()))
    assert.is_true(second:done())
    assert.equal("re:a", (batcher:submit("a"):await()))
    assert.equal(2, #calls)
    batcher:stop()
  end))

  it("keeps groups apart, and records whose function says nil", virtually(function()
    local batcher, calls = start { join = function(record) return record ~= "each" and record or nil end }
    batcher:submit("a", { group = "x" })
    batcher:submit("a", { group = "y" })
    batcher:submit "each"
    batcher:submit "each"
    batcher:stop()
    assert.equal(0, batcher.stats.total_joined)
    local n = 0
    for _, call in ipairs(calls) do n = n + call.size end
    assert.equal(4, n)
  end))

  it("cancels one caller alone; the record goes with the last of them", virtually(function()
    local batcher, calls = start { batch_timeout_s = 1 }
    local a, b = batcher:submit "a", batcher:submit "a"
    assert.is_true(a:cancel())
    assert.equal("cancelled", select(2, a:await()).code)
    assert.equal(0, batcher.stats.total_cancelled)
    assert.equal("re:a", (b:await()))
    local c, d = batcher:submit "c", batcher:submit "c"
    c:cancel()
    d:cancel()
    assert.equal(1, batcher.stats.total_cancelled)
    assert.equal(1, #calls)
    assert.is_false(d:cancel())
    batcher:stop()
  end))

  it("a caller's own deadline settles him alone, while the record waits", virtually(function()
    local batcher = start { takes = 2, batch_timeout_s = 0 }
    batcher:submit "busy"
    tb.sleep(0.1)
    local patient = batcher:submit "a"
    local hasty = batcher:submit("a", { timeout_s = 0.5 })
    local value, err = hasty:await()
    assert.is_nil(value)
    assert.equal("deadline", err.code)
    assert.equal(0.6, tb.now())
    assert.equal("re:a", (patient:await()))
    assert.equal(0, batcher.stats.total_expired)
    batcher:stop()
  end))

  it("a caller's deadline that comes while the record runs changes nothing", virtually(function()
    local batcher = start { takes = 2, batch_timeout_s = 0 }
    batcher:submit "a"
    tb.sleep(0.1)
    assert.equal("re:a", (batcher:submit("a", { timeout_s = 0.5 }):await()))
    batcher:stop()
  end))

  it("nobody joins a record with a deadline, nor one that is due later", virtually(function()
    local batcher, calls = start { batch_timeout_s = 1 }
    batcher:submit("a", { timeout_s = 10 })
    batcher:submit "a"
    batcher:submit("b", { batch_timeout_s = 5 })
    batcher:submit("b", { batch_timeout_s = 0.1 })
    tb.sleep(6)
    local records = {}
    for _, call in ipairs(calls) do
      for _, record in ipairs(call.records) do records[#records + 1] = record end
    end
    assert.equal(4, #records)
    batcher:stop()
  end))

  it("a failure is each caller's own error object", virtually(function()
    local batcher = tb.TokenBatcher { join = text, inference_fn = function() error "broken" end }
    batcher:start()
    local a, b = batcher:submit "a", batcher:submit "a"
    local _, first = a:await()
    local _, second = b:await()
    assert.equal(first.message, second.message)
    assert.is_false(rawequal(first, second))
    batcher:stop()
  end))

  it("in submit_batch: equal records of one list are one, in the order of the list", virtually(function()
    local batcher, calls = start { batch_timeout_s = 1 }
    local futures = batcher:submit_batch({ "a", "b", "a", "c", "b" })
    local results = tb.gather(futures)
    assert.same({ "re:a", "re:b", "re:a", "re:c", "re:b" }, results)
    assert.same({ "a b c" }, H.batches(calls))
    assert.equal(2, batcher.stats.total_joined)
    batcher:stop()
  end))

  it("with a queue that is full, a list enters one by one and every caller is answered", virtually(function()
    local batcher = start { takes = 0.1, max_queue_size = 2, max_batch_size = 2 }
    local futures = batcher:submit_batch({ "a", "b", "a", "c", "d", "c", "e" })
    local results = tb.gather(futures)
    assert.same({ "re:a", "re:b", "re:a", "re:c", "re:d", "re:c", "re:e" }, results)
    assert.is_true(H.is_conserved(batcher.stats))
    batcher:stop()
  end))

  it("with() that fails cancels all callers", virtually(function()
    local batcher = tb.TokenBatcher { join = text, inference_fn = function(records) return records end,
      batch_timeout_s = 5 }
    local a, b
    pcall(tb.with, batcher, function()
      a, b = batcher:submit "a", batcher:submit "a"
      error "stop here"
    end)
    assert.equal("cancelled", select(2, a:await()).code)
    assert.equal("cancelled", select(2, b:await()).code)
  end))

  it("stop{timeout_s} settles all callers", virtually(function()
    local batcher = start { takes = 10 }
    local a, b = batcher:submit "a", batcher:submit "a"
    tb.sleep(1)
    batcher:stop { timeout_s = 0.5 }
    assert.equal("stopped", select(2, a:await()).code)
    assert.equal("stopped", select(2, b:await()).code)
  end))

  it("a function that raises, suspends or answers otherwise makes submit raise, nothing enqueued", virtually(function()
    for _, join in ipairs { function() error "no" end, function() return 5 end, function() return {} end,
      function() tb.sleep(1) end } do
      local batcher = start { join = join }
      local ok, err = pcall(batcher.submit, batcher, "x")
      assert.is_false(ok)
      assert.equal("bad_join", err.code)
      assert.matches("join_spec.lua:%d+: ", err.message)
      assert.equal(0, batcher.stats.total_submitted)
      batcher:stop()
    end
  end))

  it("a joined record is cancelled, and gone, when all its callers leave while it runs", virtually(function()
    local batcher = start { takes = 5, batch_timeout_s = 0 }
    local a = batcher:submit "a"
    tb.sleep(1)
    local b = batcher:submit "a"
    a:cancel()
    assert.equal(1, batcher.stats.running_records)
    b:cancel()
    assert.equal(0, batcher.stats.running_records)
    assert.is_true(H.is_conserved(batcher.stats))
    batcher:stop()
  end))

  it("a record that runs is due no more: anybody may join it", virtually(function()
    local batcher, calls = start { batch_timeout_s = 10, takes = 1 }
    batcher:submit "a"
    batcher:flush()
    tb.sleep(0.5)
    batcher:submit("a", { batch_timeout_s = 0.1 }):await()
    assert.equal(1, #calls)
    batcher:stop()
  end))

  it("when a record is due follows set{batch_timeout_s}", virtually(function()
    local batcher = start { batch_timeout_s = 1 }
    batcher:submit "a"
    batcher:set { batch_timeout_s = 100 }
    batcher:submit("a", { batch_timeout_s = 2 }):await()
    assert.equal(2, tb.now())
    assert.equal(0, batcher.stats.total_joined)
    batcher:stop { timeout_s = 0 }
  end))

  it("callers whose record has settled leave no deadlines behind", virtually(function()
    local batcher = start { batch_timeout_s = 0, takes = 1 }
    for _ = 1, 10 do
      local first, second = batcher:submit "a", batcher:submit("a", { timeout_s = 1e6 })
      batcher:submit("a", { timeout_s = 1e6 }):cancel()
      tb.gather { first, second }
    end
    assert.equal(20, batcher.stats.total_joined)
    assert.equal(0, batcher._joining.deadlines.size)
    batcher:stop()
  end))
end)
