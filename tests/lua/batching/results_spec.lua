-- R1-R6: what inference_fn returns, how it fails, and who gets what.

local tb = require "tokenbatcher"
local H = require "tests.lua.helper"
local virtually = H.virtually

-- A batcher around fn, and the errs of n records "r1".."rn" that went through it.
local function errs_of(fn, n, options)
  local given = { inference_fn = fn }
  for name, value in pairs(options or {}) do given[name] = value end
  local batcher = H.start(given)
  local costs = {}
  for i = 1, n do costs[i] = 1 end
  local results, errs = tb.gather(H.submit_costs(batcher, costs))
  batcher:stop()
  return errs, results, batcher
end

local function each_fails(errs, n, code, pattern)
  for i = 1, n do
    assert.is_table(errs[i])
    assert.equal(code, errs[i].code)
    assert.matches(pattern, errs[i].message)
  end
end

describe("results:", function()
  describe("R1", function()
    local WRONG = {
      { "a list that is short", function() return { 1 } end,
        "inference_fn returned 1 results for a batch of 3 records" },
      { "a list that is long", function() return { 1, 2, 3, 4 } end,
        "inference_fn returned 4 results for a batch of 3 records" },
      { "an empty list", function() return {} end, "returned 0 results for a batch of 3 records" },
      { "nothing", function() end, "returned nil for a batch of 3 records" },
      { "nil and a reason", function() return nil, "upstream is down" end, "upstream is down" },
      { "a string as long as the batch", function() return "abc" end, "returned a string for a batch of 3 records" },
      { "a number", function() return 3 end, "returned a number" },
      { "a boolean", function() return true end, "returned a boolean" },
      { "a function", function() return print end, "returned a function" },
      { "a hole first", function() return { nil, 2, 3 } end, "hole at position 1" },
      { "a hole in the middle", function() return { 1, nil, 3 } end, "hole at position 2" },
      { "a hole after the last", function() return { 1, 2, 3, nil, 5 } end, "batch of 3 records" },
      { "a position far behind the last", function() return { 1, 2, 3, n = 3, [10] = 10 } end, "batch of 3 records" },
      { "a table by name", function() return { a = 1, b = 2, c = 3 } end, "returned 0 results" },
      { "a list from zero", function() return { [0] = 1, [1] = 2, [2] = 3 } end, "returned 2 results" },
      { "a table that has an answer for everything", function()
        return setmetatable({}, { __index = function() return 1 end })
      end, "returned 4 results" },
      { "a single failure", function() return tb.failure "all" end, "returned a single failure" },
      { "a table that throws when read", function()
        return setmetatable({}, { __index = function() error "do not read me" end })
      end, "do not read me" },
    }
    for _, case in ipairs(WRONG) do
      it("R1: " .. case[1] .. " fails every record of the batch with a clear error", virtually(function()
        local errs, _, batcher = errs_of(case[2], 3)
        each_fails(errs, 3, "inference_failed", case[3])
        assert.equal(3, batcher.stats.total_failed)
      end))
    end

    it("R1: after a wrong answer the next batch is processed as if nothing had been", virtually(function()
      local n = 0
      local batcher = H.start { inference_fn = function(records)
        n = n + 1
        return n == 1 and {} or records
      end }
      assert.is_nil((batcher:submit("a"):await()))
      assert.equal("b", (batcher:submit("b"):await()))
    end))

    it("R1: answers go by position; false is one; a list with named fields besides is a list", virtually(function()
      local _, results = errs_of(function() return { false, "two", 3, n = 3, usage = {} } end, 3)
      assert.same({ false, "two", 3 }, results)
    end))

    it("R1: a list may be served by a metatable", virtually(function()
      local _, results = errs_of(function(records)
        return setmetatable({}, { __index = function(_, i) return records[i] end })
      end, 2)
      assert.same({ "r1", "r2" }, results)
    end))

    it("R1: mutating the records it was given shifts nobody's answer", virtually(function()
      local _, results = errs_of(function(records)
        local out = {}
        for i = 1, #records do out[i] = "re:" .. records[i] end
        for i = 1, #records do records[i] = nil end
        return out
      end, 3)
      assert.same({ "re:r1", "re:r2", "re:r3" }, results)
    end))

    it("R1: info describes the batch", virtually(function()
      local seen
      local batcher = H.start { inference_fn = function(records, info)
        seen = { info.id, info.size, info.cost, H.copy(info.costs), info.reason, info.attempt, info.deadline }
        return records
      end }
      local at = tb.now()
      batcher:submit("a", { estimated_tokens = 2, timeout_s = 9 })
      batcher:submit("b", { estimated_tokens = 3.5, timeout_s = 7 })
      batcher:stop()
      assert.is_number(seen[1])
      assert.same({ 2, 6, { 2, 4 }, "drain", 1 }, { seen[2], seen[3], seen[4], seen[5], seen[6] })
      assert.near(at + 7, seen[7], 1e-9)
    end))

    it("R1: info.deadline is nil without one", virtually(function()
      local batcher, calls = H.start()
      batcher:submit("a"):await()
      assert.is_nil(calls[1].deadline)
    end))
  end)

  it("R2: tb.failure in the place of a result fails that record alone", virtually(function()
    local errs, results, batcher = errs_of(function() return { 1, tb.failure "too long", 3 } end, 3)
    assert.same({ 1, nil, 3 }, results)
    assert.equal("inference_failed", errs[2].code)
    assert.equal("too long", errs[2].message)
    assert.equal("too long", errs[2].cause)
    assert.same({ 2, 1 }, { batcher.stats.total_completed, batcher.stats.total_failed })
  end))

  it("R2: any reason will do: nil, a table, one that cannot be shown", virtually(function()
    local reasons = { false, { status = 500 }, setmetatable({}, { __tostring = function() error "no" end }) }
    local errs = errs_of(function()
      return { tb.failure(), tb.failure(reasons[1]), tb.failure(reasons[2]), tb.failure(reasons[3]) }
    end, 4)
    for i = 1, 4 do
      assert.equal("inference_failed", errs[i].code)
      assert.is_string(errs[i].message)
    end
    assert.equal(reasons[2], errs[3].cause)
  end))

  it("R3: an error fails every record, each with its own err, with cause and traceback", virtually(function()
    local errs, _, batcher = errs_of(function() error "boom" end, 3)
    each_fails(errs, 3, "inference_failed", "boom")
    assert.are_not.equal(errs[1], errs[2])
    assert.are_not.equal(errs[2], errs[3])
    assert.matches("results_spec.lua:%d+: boom", errs[1].cause)
    assert.matches("traceback", errs[1].traceback)
    assert.matches("results_spec", errs[1].traceback)
    assert.matches("^inference_failed: .*boom", tostring(errs[1]))
    assert.equal(3, batcher.stats.total_failed)
  end))

  it("R3: changing one record's err changes no other's", virtually(function()
    local errs = errs_of(function() error "boom" end, 2)
    errs[1].message = "mine"
    assert.matches("boom", errs[2].message)
  end))

  it("R4: inference_fn may suspend, and other work goes on meanwhile", virtually(function()
    local batcher, calls = H.start { takes = 1 }
    local other, other_calls = H.start { takes = 0.1 }
    local slow = batcher:submit "slow"
    local ticks = 0
    for _ = 1, 5 do
      other:submit("quick"):await()
      ticks = ticks + 1
    end
    assert.is_false(slow:done())
    assert.equal(5, ticks)
    assert.equal("re:slow", (slow:await()))
    assert.same({ 1, 5 }, { #calls, #other_calls })
  end))

  it("R4: inference_fn may submit to another batcher and await the answer", virtually(function()
    local inner = H.start()
    local outer = H.start { inference_fn = function(records)
      local out = {}
      for i, record in ipairs(records) do out[i] = "outer " .. inner:submit(record):await() end
      return out
    end }
    assert.equal("outer re:x", (outer:submit("x"):await()))
  end))

  describe("R5", function()
    it("R5: after inference_timeout_s the batch fails, the slot is free, a late answer is ignored", virtually(function()
      local n = 0
      local finished = {}
      local batcher = H.start { inference_timeout_s = 1, inference_fn = function(records)
        n = n + 1
        local mine = n
        if mine == 1 then tb.sleep(5) end
        finished[#finished + 1] = mine
        return records
      end }
      local a, b = batcher:submit "a", batcher:submit "b"
      local _, err = a:await()
      assert.equal("inference_timeout", err.code)
      assert.equal("inference_timeout", select(2, b:await()).code)
      assert.matches("inference_timeout_s = 1", err.message)
      assert.near(1.05, tb.now(), 1e-6)
      assert.equal(0, batcher.stats.running_batches)
      assert.equal("c", (batcher:submit("c"):await()))
      tb.sleep(10)
      assert.same({ 2, 1 }, finished)
      assert.equal("inference_timeout", select(2, a:await()).code)
      assert.same({ 2, 1 }, { batcher.stats.total_failed, batcher.stats.total_completed })
    end))

    it("R5: a late error of an abandoned call is a line in the log, no more", virtually(function()
      local lines = {}
      local batcher = H.start { inference_timeout_s = 1, log = function(level, text)
        lines[#lines + 1] = level .. " " .. text
        error "the log fails, too"
      end, inference_fn = function()
        tb.sleep(2)
        error "too late"
      end }
      assert.equal("inference_timeout", select(2, batcher:submit("a"):await()).code)
      tb.sleep(3)
      assert.equal(1, #lines)
      assert.matches("^warn .*too late", lines[1])
    end))

    it("R5: an answer at the very instant of the timeout counts", virtually(function()
      local batcher = H.start { inference_timeout_s = 1, takes = 1 }
      assert.equal("re:a", (batcher:submit("a"):await()))
    end))

    it("R5: a call that never yields counts if it returns before the timeout is served", function()
      H.run(function()
        local batcher = H.start { inference_timeout_s = 0.001, batch_timeout_s = 0, inference_fn = function(records)
          local started = tb.now()
          repeat until tb.now() - started > 0.003
          return records
        end }
        assert.equal("a", (batcher:submit("a"):await()))
        batcher:stop()
      end, "real")
    end)

    it("R5: an abandoned call keeps nothing alive", function()
      local at = H.run(function()
        local batcher = H.start { inference_timeout_s = 1, takes = 1000000 }
        batcher:submit("a"):await()
        batcher:stop()
        return tb.now()
      end)
      assert.is_true(at < 2)
    end)

    it("R5: set changes it for later batches; running ones keep theirs", virtually(function()
      local batcher = H.start { inference_timeout_s = 2, max_concurrent_batches = 2, batch_timeout_s = 0, takes = 3 }
      local a = batcher:submit "a"
      tb.sleep(0.1)
      batcher:set { inference_timeout_s = false }
      local b = batcher:submit "b"
      assert.equal("inference_timeout", select(2, a:await()).code)
      assert.near(2, tb.now(), 1e-6)
      assert.equal("re:b", (b:await()))
    end))
  end)

  describe("R6", function()
    -- inference that fails for any batch that holds one of `poison`
    local function poisoned(poison, each)
      local calls = {}
      return function(records, info)
        calls[#calls + 1] = { records = H.copy(records), attempt = info.attempt, size = info.size, cost = info.cost,
          costs = H.copy(info.costs), deadline = info.deadline, id = info.id }
        if each then each(records, info, #calls) end
        local out = {}
        for i, record in ipairs(records) do
          if poison[record] then error("poison " .. record, 0) end
          out[i] = "re:" .. record
        end
        return out
      end, calls
    end

    it("R6: a failing batch is halved until the poison record is alone", virtually(function()
      local infer, calls = poisoned { r5 = true }
      local errs, results, batcher = errs_of(infer, 8, { on_error = "bisect" })
      for i = 1, 8 do
        if i == 5 then
          assert.equal("inference_failed", errs[i].code)
          assert.equal("poison r5", errs[i].message)
        else
          assert.equal("re:r" .. i, results[i])
        end
      end
      assert.same({ "r1 r2 r3 r4 r5 r6 r7 r8", "r1 r2 r3 r4", "r5 r6 r7 r8", "r5 r6", "r5", "r6", "r7 r8" },
        H.batches(calls))
      assert.same({ 1, 7, 1 }, { batcher.stats.total_batches, batcher.stats.total_completed,
        batcher.stats.total_failed })
      assert.equal(8, batcher.stats.batch_size.max)
    end))

    it("R6: at most 2n - 1 calls, whatever is poisoned, and every answer is its own", virtually(function()
      for n = 1, 9 do
        for mask = 0, 2 ^ n - 1, n > 6 and 7 or 1 do
          local poison = {}
          for i = 1, n do
            if math.floor(mask / 2 ^ (i - 1)) % 2 == 1 then poison["r" .. i] = true end
          end
          local infer, calls = poisoned(poison)
          local errs, results = errs_of(infer, n, { on_error = "bisect" })
          assert.is_true(#calls <= 2 * n - 1)
          for i = 1, n do
            if poison["r" .. i] then
              assert.equal("poison r" .. i, errs[i].message)
            else
              assert.equal("re:r" .. i, results[i])
            end
          end
        end
      end
    end))

    it("R6: attempts, sizes, costs and the id are told in info", virtually(function()
      local infer, calls = poisoned { r1 = true }
      local batcher = H.start { inference_fn = infer, on_error = "bisect" }
      tb.gather(H.submit_costs(batcher, { 1, 2, 3 }))
      batcher:stop()
      for i, call in ipairs(calls) do
        assert.equal(i, call.attempt)
        assert.equal(calls[1].id, call.id)
        assert.equal(#call.records, call.size)
      end
      assert.same({ { 1, 2, 3 }, { 1, 2 }, { 1 }, { 2 }, { 3 } },
        { calls[1].costs, calls[2].costs, calls[3].costs, calls[4].costs, calls[5].costs })
      assert.same({ 6, 3, 1, 2, 3 }, { calls[1].cost, calls[2].cost, calls[3].cost, calls[4].cost, calls[5].cost })
    end))

    it("R6: a wrong number of results is a failure like another, and is bisected", virtually(function()
      local errs, results = errs_of(function(records)
        return #records > 1 and {} or records
      end, 4, { on_error = "bisect" })
      assert.same({}, errs)
      assert.same({ "r1", "r2", "r3", "r4" }, results)
    end))

    it("R6: one record's tb.failure is no failure of the batch", virtually(function()
      local n = 0
      local errs = errs_of(function()
        n = n + 1
        return { 1, tb.failure "no" }
      end, 2, { on_error = "bisect" })
      assert.equal(1, n)
      assert.equal("no", errs[2].message)
    end))

    it("R6: an inference_fn that spoils its list of records spoils no later attempt", virtually(function()
      local infer = poisoned({ r3 = true }, function(records, info)
        table.sort(records, function(x, y) return x > y end)
        if info.size > 1 then
          for i = #records, 1, -1 do
            records[i] = records[i] .. "!"
            info.costs[i] = -1
          end
          error "spoilt"
        end
      end)
      local errs, results = errs_of(infer, 4, { on_error = "bisect" })
      assert.same({ "re:r1", "re:r2", nil, "re:r4" }, results)
      assert.equal("poison r3", errs[3].message)
    end))

    it("R6: who succeeds settles at once, while the rest is still tried, in the same slot", virtually(function()
      local infer = poisoned({ r4 = true }, function() tb.sleep(1) end)
      local batcher = H.start { inference_fn = infer, on_error = "bisect", max_batch_size = 4 }
      local futures = H.submit_costs(batcher, { 1, 1, 1, 1 })
      local later = batcher:submit "later"
      futures[1]:await()
      assert.near(2, tb.now(), 1e-6)
      assert.same({ 1, 2, 1 }, { batcher.stats.running_batches, batcher.stats.running_records,
        batcher.stats.total_batches })
      futures[3]:await()
      assert.near(4, tb.now(), 1e-6)
      futures[4]:await()
      assert.near(5, tb.now(), 1e-6)
      assert.is_false(later:done())
      assert.equal("re:later", (later:await()))
      assert.is_true(H.is_conserved(batcher.stats))
    end))

    it("R6: cancelled records drop out between two calls", virtually(function()
      local futures
      local infer, calls = poisoned({ r4 = true }, function(_, _, n)
        if n == 1 then
          futures[1]:cancel()
          futures[2]:cancel()
        end
      end)
      local batcher = H.start { inference_fn = infer, on_error = "bisect" }
      futures = H.submit_costs(batcher, { 1, 1, 1, 1 })
      local results, errs = tb.gather(futures)
      assert.same({ "r1 r2 r3 r4", "r3 r4", "r3", "r4" }, H.batches(calls))
      assert.equal("cancelled", errs[1].code)
      assert.equal("re:r3", results[3])
      assert.equal("inference_failed", errs[4].code)
      batcher:stop()
      assert.same({ 2, 1, 1 }, { batcher.stats.total_cancelled, batcher.stats.total_completed,
        batcher.stats.total_failed })
    end))

    it("R6: a record past its deadline fails between two calls", virtually(function()
      local infer, calls = poisoned({ r1 = true }, function() tb.sleep(1) end)
      local batcher = H.start { inference_fn = infer, on_error = "bisect" }
      local a = batcher:submit "r1"
      local b = batcher:submit("r2", { timeout_s = 1.5 })
      local c = batcher:submit("r3", { timeout_s = 5 })
      batcher:stop()
      assert.same({ "r1 r2 r3", "r1 r2", "r1", "r3" }, H.batches(calls))
      assert.equal("inference_failed", select(2, a:await()).code)
      assert.equal("deadline", select(2, b:await()).code)
      assert.equal("re:r3", (c:await()))
      assert.near(5, calls[4].deadline, 1e-6)
      assert.equal(1, batcher.stats.total_expired)
    end))

    it("R6: inference_timeout_s is for each call", virtually(function()
      local infer = poisoned({ r1 = true }, function() tb.sleep(0.9) end)
      local errs, results = errs_of(infer, 4, { on_error = "bisect", inference_timeout_s = 1 })
      assert.equal("inference_failed", errs[1].code)
      assert.same({ nil, "re:r2", "re:r3", "re:r4" }, results)
    end))

    it("R6: a call that times out ends its batch, the halves not yet tried included", virtually(function()
      local infer, calls = poisoned({ r1 = true }, function(_, _, n) tb.sleep(n == 4 and 5 or 0.1) end)
      local batcher = H.start { inference_fn = infer, on_error = "bisect", inference_timeout_s = 1,
        log = function() end }
      local results, errs = tb.gather(H.submit_costs(batcher, { 1, 1, 1, 1, 1, 1, 1, 1 }))
      assert.same({}, results)
      assert.same({ 8, 4, 2, 1 }, H.sizes(calls))
      for i = 1, 8 do assert.equal("inference_timeout", errs[i].code) end
      assert.equal(0, batcher.stats.running_batches)
      tb.sleep(10)
      assert.equal(4, #calls)
      assert.equal(8, batcher.stats.total_failed)
    end))

    it("R6: under the padded model a half's cost is padded, too", virtually(function()
      local infer, calls = poisoned { r1 = true }
      local batcher = H.start { inference_fn = infer, on_error = "bisect", cost_model = "padded" }
      tb.gather(H.submit_costs(batcher, { 5, 1, 2, 3 }))
      assert.same({ 20, 10 }, { calls[1].cost, calls[2].cost })
      assert.equal(6, calls[#calls].cost)
    end))

    it("R6: stop with a timeout ends bisecting", virtually(function()
      local infer, calls = poisoned({ r1 = true }, function() tb.sleep(1) end)
      local batcher = H.start { inference_fn = infer, on_error = "bisect", log = function() end }
      local futures = H.submit_costs(batcher, { 1, 1, 1, 1 })
      tb.sleep(0.1)
      batcher:stop { timeout_s = 2.5 }
      tb.sleep(10)
      for i = 1, 4 do assert.equal("stopped", select(2, futures[i]:await()).code) end
      assert.equal(3, #calls)
    end))
  end)
end)
