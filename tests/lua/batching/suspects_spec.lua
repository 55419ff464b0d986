-- R7: one producer cannot stop the others.

local tb = require "tokenbatcher"
local H = require "tests.lua.helper"
local virtually = H.virtually

-- Raises for a batch with "bad" in it; notes the calls.
local function picky(takes_s)
  local calls = {}
  return function(records)
    calls[#calls + 1] = table.concat(records, " ")
    if takes_s then tb.sleep(takes_s) end
    for _, record in ipairs(records) do
      if record:find "bad" then error "one of these is bad" end
    end
    return records
  end, calls
end

local function start(options, takes_s)
  local fn, calls = picky(takes_s)
  options.inference_fn, options.on_error = options.inference_fn or fn, options.on_error or "bisect"
  local batcher = tb.TokenBatcher(options)
  batcher:start()
  return batcher, calls
end

describe("R7: a suspect", function()
  it("is the key whose record failed alone where another was answered; it runs by itself", virtually(function()
    local batcher, calls = start { batch_timeout_s = 0.01 }
    local good = batcher:submit("good1", { key = "g" })
    batcher:submit("bad1", { key = "b" })
    assert.equal("good1", (good:await()))
    tb.sleep(0.1)
    local before = #calls
    batcher:submit("good2", { key = "g" })
    batcher:submit("bad2", { key = "b" })
    batcher:submit("good3", { key = "g" })
    tb.sleep(0.1)
    assert.same({ "good2", "bad2", "good3" }, { unpack(calls, before + 1) })
    assert.equal(0, batcher.stats.total_oversize)
    batcher:stop()
  end))

  it("is nobody after an outage, in which all failed", virtually(function()
    local is_down = true
    local calls = {}
    local batcher = start { batch_timeout_s = 0.01, inference_fn = function(records)
      calls[#calls + 1] = #records
      if is_down then error "down" end
      return records
    end }
    for i = 1, 4 do batcher:submit("r" .. i, { key = "k" .. i }) end
    tb.sleep(0.1)
    is_down = false
    local before = #calls
    for i = 1, 4 do batcher:submit("r" .. i, { key = "k" .. i }) end
    tb.sleep(0.1)
    assert.same({ 4 }, { unpack(calls, before + 1) })
    batcher:stop()
  end))

  it("is a key that a backend refused by itself beside answers", virtually(function()
    local sizes = {}
    local batcher = start { batch_timeout_s = 0.01, on_error = "fail", inference_fn = function(records)
      local out = {}
      sizes[#sizes + 1] = #records
      for i, record in ipairs(records) do
        out[i] = record:find "bad" and tb.failure("too long", { refused = true }) or record
      end
      return out
    end }
    batcher:submit("good", { key = "g" })
    batcher:submit("bad", { key = "b" })
    tb.sleep(0.1)
    batcher:submit("good", { key = "g" })
    batcher:submit("fine", { key = "b" })
    tb.sleep(0.1)
    assert.same({ 2, 1, 1 }, sizes)
    batcher:stop()
  end))

  it("is no record without a key", virtually(function()
    local batcher, calls = start { batch_timeout_s = 0.01 }
    batcher:submit "good"
    batcher:submit "bad"
    tb.sleep(0.1)
    local before = #calls
    batcher:submit "good"
    batcher:submit "fine"
    tb.sleep(0.1)
    assert.same({ "good fine" }, { unpack(calls, before + 1) })
    batcher:stop()
  end))

  it("stays one until suspect_s after its last failure", virtually(function()
    local batcher, calls = start { batch_timeout_s = 0.01, suspect_s = 2 }
    batcher:submit("good", { key = "g" })
    batcher:submit("bad", { key = "b" })
    tb.sleep(1)
    batcher:submit("bad again", { key = "b" })
    tb.sleep(1.5) -- 2.5 s after the first, 1.5 s after the second
    local before = #calls
    batcher:submit("x", { key = "b" })
    batcher:submit("y", { key = "g" })
    tb.sleep(0.1)
    assert.same({ "x", "y" }, { unpack(calls, before + 1) })
    tb.sleep(1)
    before = #calls
    batcher:submit("x", { key = "b" })
    batcher:submit("y", { key = "g" })
    tb.sleep(0.1)
    assert.same({ "x y" }, { unpack(calls, before + 1) })
    batcher:stop()
  end))

  it("is cleared by 8 answers in a row", virtually(function()
    local batcher, calls = start { batch_timeout_s = 0.01, suspect_s = 1000 }
    batcher:submit("good", { key = "g" })
    batcher:submit("bad", { key = "b" })
    tb.sleep(0.1)
    for i = 1, 8 do batcher:submit("fine" .. i, { key = "b" }):await() end
    local before = #calls
    batcher:submit("x", { key = "b" })
    batcher:submit("y", { key = "g" })
    tb.sleep(0.1)
    assert.same({ "x y" }, { unpack(calls, before + 1) })
    batcher:stop()
  end))

  it("with suspect_s = 0 there is none", virtually(function()
    local batcher, calls = start { batch_timeout_s = 0.01, suspect_s = 0 }
    batcher:submit("good", { key = "g" })
    batcher:submit("bad", { key = "b" })
    tb.sleep(0.1)
    local before = #calls
    batcher:submit("x", { key = "b" })
    batcher:submit("y", { key = "g" })
    tb.sleep(0.1)
    assert.same({ "x y" }, { unpack(calls, before + 1) })
    batcher:stop()
  end))

  it("with fair, a neighbour waits for at most two calls", virtually(function()
    local batcher, calls = start({ policy = "fair", batch_timeout_s = 0, max_batch_size = 64, suspect_s = 60 }, 1)
    batcher:submit("good0", { key = "g" })
    batcher:submit("bad0", { key = "b" })
    tb.sleep(10)
    for i = 1, 63 do batcher:submit("bad" .. i, { key = "b" }) end
    tb.sleep(0.5)
    for i = 1, 5 do
      local before = #calls
      assert.equal("good" .. i, (batcher:submit("good" .. i, { key = "g" }):await()))
      assert.is_true(#calls - before <= 2, ("%d calls"):format(#calls - before))
    end
    batcher:stop { timeout_s = 0 }
  end))

  it("R7: no error quotes another record, and none innocent fails", virtually(function()
    local batcher = start { batch_timeout_s = 0.01, max_batch_size = 64 }
    local good, bad = {}, {}
    for i = 1, 20 do bad[i] = batcher:submit("bad" .. i, { key = "b" }) end
    for i = 1, 44 do good[i] = batcher:submit("good" .. i, { key = "g" .. i }) end
    for i = 1, 44 do assert.equal("good" .. i, (good[i]:await())) end
    for i = 1, 20 do assert.equal("inference_failed", select(2, bad[i]:await()).code) end
    batcher:stop()
  end))

  it("at most 10,000 are kept, and the core's numbers do not grow", virtually(function()
    local batcher = start { batch_timeout_s = 0, max_batch_size = 256, max_queue_size = 100000,
      on_error = "fail", inference_fn = function(records)
        local out = {}
        for i, record in ipairs(records) do
          out[i] = record:find "bad" and tb.failure("no", { refused = true }) or record
        end
        return out
      end }
    for i = 1, 12000 do
      batcher:submit("bad", { key = "b" .. i })
      if i % 100 == 0 then batcher:submit("good", { key = "g" }) end
    end
    tb.sleep(5)
    assert.is_nil(H.broken(batcher))
    batcher:stop()
  end))

  it("stays one for as long as suspect_s is now, after set: none is, once it is 0", virtually(function()
    for _, case in ipairs { { 1, 2 }, { 0, 0 } } do
      local batcher, calls = start { batch_timeout_s = 0.01, suspect_s = 1000 }
      batcher:submit("good", { key = "g" })
      batcher:submit("bad", { key = "b" }):await()
      batcher:set { suspect_s = case[1] }
      tb.sleep(case[2])
      batcher:submit("x", { key = "b" })
      batcher:submit("y", { key = "g" }):await()
      assert.equal("x y", calls[#calls])
      batcher:stop()
    end
  end))

  it("of a run that is over is none in the next one, whose clock begins anew", function()
    local batcher, calls
    H.run(function()
      batcher, calls = start { batch_timeout_s = 0.01 }
      tb.sleep(1e6)
      batcher:submit("good", { key = "g" })
      batcher:submit("bad", { key = "b" }):await()
      batcher:stop()
    end)
    H.run(function()
      batcher:start()
      batcher:submit("x", { key = "b" })
      batcher:submit("y", { key = "g" }):await()
      batcher:stop()
    end)
    assert.equal("x y", calls[#calls])
  end)

  it("goes at once when the blame is found by a batch that then times out", virtually(function()
    local batcher = start { batch_timeout_s = 100, inference_timeout_s = 1, max_batch_size = 4,
      inference_fn = function(records)
        local text = table.concat(records, " ")
        if text:find "hang" and #records < 3 then tb.sleep(100) end
        if text:find "bad" or text:find "hang" then error "one of these is bad" end
        return records
      end, log = function() end }
    for _, record in ipairs { "good", "bad", "hang", "x" } do batcher:submit(record, { key = record }) end
    tb.sleep(0.5)
    local again = batcher:submit("bad again", { key = "bad" })
    batcher:submit("other", { key = "good" })
    again:await()
    assert.equal(1, tb.now())
    batcher:stop { timeout_s = 0 }
  end))
end)
