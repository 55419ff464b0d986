-- rate_limited and what backends tell it: calls of a bisected batch, real usage, what a provider says is left.

local H = require "tests.lua.helper"
local tb = require "tokenbatcher"

local virtually = H.virtually

-- A started batcher whose function answers by `answer(records, info)`, and the times of its calls, from 0.
local function start(limits, answer, options)
  local origin, calls = tb.now(), {}
  local all = { policy = tb.policy.rate_limited(limits), max_batch_size = 1, max_concurrent_batches = 4,
    inference_fn = function(records, info)
      calls[#calls + 1] = { at = tb.now() - origin, n = #records, cost = info.cost }
      return answer(records, info)
    end }
  for name, value in pairs(options or {}) do all[name] = value end
  local batcher = tb.TokenBatcher(all)
  batcher:start()
  return batcher, calls
end

local function times(calls)
  local out = {}
  for i, call in ipairs(calls) do out[i] = math.floor(call.at + 0.5) end
  return out
end

-- The most requests, and tokens, in any minute.
local function most(calls)
  local requests, tokens = 0, 0
  for i, first in ipairs(calls) do
    local r, t = 0, 0
    for k = i, #calls do
      if calls[k].at - first.at <= 60 then r, t = r + 1, t + calls[k].cost end
    end
    requests, tokens = math.max(requests, r), math.max(tokens, t)
  end
  return requests, tokens
end

describe("rate_limited with on_error = bisect:", function()
  local function poisoned(records)
    for _, record in ipairs(records) do
      if record == "r3" then error "poison" end
    end
    return records
  end
  local BISECT = { on_error = "bisect", max_batch_size = 8, batch_timeout_s = 0.01 }

  it("each half asks the limiter before it is sent", virtually(function()
    local batcher, calls = start({ requests_per_minute = 2 }, poisoned, BISECT)
    local futures = H.submit_costs(batcher, { 1, 1, 1, 1 })
    local results, errs = tb.gather(futures)
    batcher:stop()
    assert.same({ 0, 0, 60, 60, 120 }, times(calls)) -- 4; 2, 2 and 1, 1
    assert.equal(2, (most(calls)))
    assert.same({ "r1", "r2", "r4" }, { results[1], results[2], results[4] })
    assert.matches("poison", errs[3].message)
    assert.is_true(H.is_conserved(batcher.stats))
  end))

  it("tokens are kept to, too; waiting is no part of a call, so that none times out", virtually(function()
    local batcher, calls = start({ tokens_per_minute = 100 }, poisoned, { on_error = "bisect", max_batch_size = 8,
      batch_timeout_s = 0.01, inference_timeout_s = 5 })
    local _, errs = tb.gather(H.submit_costs(batcher, { 20, 20, 20, 20 }))
    batcher:stop()
    local _, tokens = most(calls)
    assert.is_true(tokens <= 100)
    assert.equal(1, (function() local n = 0 for _ in pairs(errs) do n = n + 1 end return n end)())
    assert.matches("poison", errs[3].message)
  end))

  it("a record whose deadline passes while its half waits is not sent", virtually(function()
    local batcher, calls = start({ requests_per_minute = 1 }, poisoned, BISECT)
    local futures = {}
    for i = 1, 4 do futures[i] = batcher:submit("r" .. i, { timeout_s = 30 }) end
    local _, errs = tb.gather(futures)
    batcher:stop()
    for i = 1, 4 do assert.equal("deadline", errs[i].code) end
    assert.equal(1, #calls)
  end))

  it("stop{timeout_s} ends what waits", virtually(function()
    local batcher = start({ requests_per_minute = 1 }, poisoned, BISECT)
    local futures = H.submit_costs(batcher, { 1, 1, 1, 1 })
    tb.sleep(1)
    batcher:stop { timeout_s = 3 }
    for _, future in ipairs(futures) do assert.equal("stopped", select(2, future:await()).code) end
    assert.is_true(H.is_conserved(batcher.stats))
  end))
end)

describe("rate_limited and real usage:", function()
  it("what a call has really used counts: less than estimated gives room back", virtually(function()
    local batcher, calls = start({ tokens_per_minute = 100 }, function(records, info)
      tb.sleep(1)
      info.usage = { total_tokens = 10 }
      return records
    end)
    tb.gather(H.submit_costs(batcher, { 100, 50, 50 }))
    batcher:stop()
    assert.same({ 0, 1, 2 }, times(calls)) -- 10 + 50, then 10 + 10 + 50
  end))

  it("more than estimated is counted from when it is known", virtually(function()
    local batcher, calls = start({ tokens_per_minute = 100 }, function(records, info)
      tb.sleep(1)
      info.usage = { prompt_tokens = 60, completion_tokens = 30 }
      return records
    end)
    tb.gather(H.submit_costs(batcher, { 10 }))
    tb.gather(H.submit_costs(batcher, { 21 }))
    batcher:stop()
    assert.same({ 0, 61 }, times(calls))
  end))

  it("what reports nonsense is counted as estimated", virtually(function()
    local odd = { "much", { total_tokens = -1 }, { total_tokens = math.huge }, { total_tokens = 0 / 0 }, {} }
    for _, usage in ipairs(odd) do
      local batcher, calls = start({ tokens_per_minute = 100 }, function(records, info)
        info.usage = usage
        return records
      end)
      tb.gather(H.submit_costs(batcher, { 100 }))
      tb.gather(H.submit_costs(batcher, { 1 }))
      batcher:stop()
      assert.same({ 0, 60 }, times(calls))
    end
  end))
end)

describe("rate_limited follows what a provider says is left:", function()
  local function saying(limits)
    return function(records, info)
      info.limits = limits
      return records
    end
  end

  it("nothing left: the next call goes when all is there again", virtually(function()
    local batcher, calls = start({}, saying { requests = { remaining = 0, reset_s = 7 } })
    for _ = 1, 3 do batcher:ask "x" end
    batcher:stop()
    assert.same({ 0, 7, 14 }, times(calls))
  end))

  it("where the whole is known, as soon as enough has come back", virtually(function()
    local batcher, calls = start({}, saying { tokens = { limit = 100, remaining = 10, reset_s = 9 } })
    batcher:ask("x", { estimated_cost = 1 })
    batcher:ask("x", { estimated_cost = 30 }) -- 20 are missing, of 90 in 9 s
    batcher:ask("x", { estimated_cost = 5 })
    batcher:stop()
    assert.same({ 0, 2, 2 }, times(calls))
  end))

  it("calls that are under way count, which it may not have seen", virtually(function()
    local batcher, calls = start({}, function(records, info)
      tb.sleep(records[1])
      info.limits = { requests = { remaining = 2, reset_s = 60 } }
      return records
    end)
    local slow = batcher:submit(10)
    tb.sleep(1)
    batcher:ask(1)
    tb.gather { batcher:submit(1), batcher:submit(1) }
    slow:await()
    batcher:stop()
    local at = times(calls)
    assert.same({ 0, 1, 2 }, { at[1], at[2], at[3] })
    assert.is_true(at[4] >= 3)
  end))

  it("nonsense is not followed, and a record above the whole goes when all is there", virtually(function()
    local odd = { "x", { requests = 5 }, { tokens = { remaining = "much" } }, { requests = { reset_s = 9 } } }
    for _, limits in ipairs(odd) do
      local batcher, calls = start({}, saying(limits))
      for _ = 1, 2 do batcher:ask "x" end
      batcher:stop()
      assert.same({ 0, 0 }, times(calls))
    end
    local batcher, calls = start({}, saying { tokens = { limit = 100, remaining = 0, reset_s = 5 } })
    batcher:ask("x", { estimated_cost = 10 })
    batcher:ask("x", { estimated_cost = 1000 })
    batcher:stop()
    assert.same({ 0, 5 }, times(calls))
  end))
end)
