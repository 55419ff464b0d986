-- The quick way in, of records that are a cost and nothing else, keeps every rule of the other one.

local tb = require "tokenbatcher"
local H = require "tests.lua.helper"
local virtually = H.virtually

describe("a plain record:", function()
  it("S1: its cost is the number given, the estimator's, or the default", virtually(function()
    local batcher, calls = H.start { token_estimator = function(record) return #record end }
    batcher:submit("a", { estimated_tokens = 7 })
    batcher:submit("b", { estimated_cost = 2.5 })
    batcher:submit "four"
    batcher:stop()
    assert.same({ 7, 3, 4 }, calls[1].costs)
    local plain, plain_calls = H.start { default_cost = 9 }
    plain:submit "x"
    plain:submit("y", {})
    plain:submit(tb.Prompt "12345678")
    plain:stop()
    assert.same({ 9, 9, 3 }, plain_calls[1].costs)
  end))

  it("S1: DynamicBatcher knows no token names, here neither", virtually(function()
    local batcher, calls = H.start { class = "DynamicBatcher" }
    assert.error_matches(function()
      batcher:submit("a", { estimated_tokens = 7 })
    end, "unknown option 'estimated_tokens'")
    batcher:submit("a", { estimated_cost = 7 })
    batcher:stop()
    assert.same({ 7 }, calls[1].costs)
  end))

  it("S2: a bad cost raises bad_cost, nothing is enqueued", virtually(function()
    local batcher = H.start()
    for _, bad in ipairs { -1, 0 / 0, math.huge, 2e12, "5", {} } do
      for _, method in ipairs { "submit", "ask" } do
        local ok, err = pcall(batcher[method], batcher, "x", { estimated_tokens = bad })
        assert.is_false(ok)
        assert.equal("bad_cost", err.code)
      end
    end
    local stats = batcher.stats
    assert.same({ 0, 0, 0 }, { stats.total_submitted, stats.total_rejected, stats.queue_size })
    batcher:stop()
  end))

  it("options of one unknown name, or with a metatable, are looked at with care", virtually(function()
    local batcher, calls = H.start()
    assert.error_matches(function() batcher:submit("x", { estimated_token = 1 }) end, "did you mean 'estimated_tokens'")
    assert.error_matches(function() batcher:submit("x", { [1] = 1 }) end, "unknown option '1'")
    assert.error_matches(function() batcher:submit("x", 5) end, "options must be a table")
    batcher:submit("x", setmetatable({ estimated_tokens = 3 }, { __index = { key = "k" } }))
    batcher:submit("y", setmetatable({}, { __index = { estimated_tokens = 4 } }))
    batcher:stop()
    assert.same({ 3, 4 }, calls[1].costs)
  end))

  it("S3: a batcher that does not run refuses it, and asks no estimator", virtually(function()
    local asked = 0
    local batcher = tb.TokenBatcher { inference_fn = function(r) return r end, token_estimator = function()
      asked = asked + 1
      return 1
    end }
    for _, method in ipairs { "submit", "ask" } do
      for _, opts in ipairs { false, { estimated_tokens = 1 }, { estimated_tokens = -1 } } do
        local ok, err = pcall(batcher[method], batcher, "x", opts or nil)
        assert.is_false(ok)
        assert.equal("not_running", err.code)
      end
    end
    assert.equal(0, asked)
  end))

  it("S4: where there is no room it is refused, counted once, its estimator asked once", virtually(function()
    local asked = 0
    local batcher = H.start { on_full = "reject", max_queue_size = 1, takes = 1, log = function() end,
      token_estimator = function()
        asked = asked + 1
        return 1
      end }
    H.occupy(batcher)
    batcher:submit "in"
    for _, method in ipairs { "submit", "ask" } do
      asked = 0
      local result, err = batcher[method](batcher, "out")
      assert.is_nil(result)
      assert.equal("queue_full", err.code)
      assert.equal(1, asked)
    end
    assert.equal(2, batcher.stats.total_rejected)
    batcher:stop()
  end))

  it("S4: it waits in line, first come, first served, and never overtakes", virtually(function()
    local batcher, calls = H.start { max_queue_cost = 10, target_batch_cost = 10, max_batch_size = 4, takes = 1,
      prefetch_batches = 0, log = function() end }
    H.occupy(batcher)
    for i, cost in ipairs { 8, 5, 1, 1 } do
      tb.spawn(function()
        local method = i % 2 == 0 and "ask" or "submit"
        batcher[method](batcher, i, { estimated_cost = cost })
      end)
    end
    tb.sleep(0)
    assert.equal(3, batcher.stats.waiting_submits) -- the third would fit
    tb.sleep(100)
    batcher:stop()
    local order = {}
    for k = 2, #calls do
      for _, record in ipairs(calls[k].records) do order[#order + 1] = record end
    end
    assert.same({ 1, 2, 3, 4 }, order)
  end))

  it("F1: with on_oversize = reject one above the budget is refused", virtually(function()
    local batcher = H.start { on_oversize = "reject", target_batch_cost = 10 }
    for _, method in ipairs { "submit", "ask" } do
      local result, err = batcher[method](batcher, "x", { estimated_cost = 11 })
      assert.is_nil(result)
      assert.equal("oversize", err.code)
    end
    assert.equal(2, batcher.stats.total_rejected)
    batcher:stop()
  end))

  it("a limit of the policy, joining and a group that the function gives are seen from the moment they are set",
    virtually(function()
      local batcher, calls = H.start()
      batcher:submit("a", { estimated_cost = 50 })
      batcher:set { policy = tb.policy.rate_limited { tokens_per_minute = 40 } }
      local future, err = batcher:submit("b", { estimated_cost = 50 })
      assert.is_nil(future)
      assert.equal("oversize", err.code)
      batcher:set { policy = "fifo", join = function(record) return record end }
      batcher:submit("c", { estimated_cost = 1 })
      batcher:submit("c", { estimated_cost = 1 })
      assert.equal(1, batcher.stats.total_joined)
      batcher:set { join = false }
      batcher:submit("c", { estimated_cost = 1 })
      assert.equal(1, batcher.stats.total_joined)
      local grouped = setmetatable({ group = function(_, record) return record end },
        { __call = function(_, records, info)
          calls[#calls + 1] = { group = info.group }
          return records
        end })
      batcher:set { inference_fn = grouped }
      batcher:submit("g", { estimated_cost = 1 })
      batcher:stop()
      assert.equal("g", calls[#calls].group)
    end))
end)

describe("ask:", function()
  it("gives each its own answer, again and again from the same coroutine", virtually(function()
    local batcher = H.start { policy = "eager", max_concurrent_batches = 3, takes = 0.001 }
    local all = {}
    for i = 1, 40 do
      all[i] = tb.spawn(function()
        for k = 1, 20 do assert.equal("re:" .. i .. "." .. k, batcher:ask(i .. "." .. k, { estimated_cost = i })) end
      end)
    end
    tb.gather(all)
    batcher:stop()
    assert.equal(800, batcher.stats.total_completed)
  end))

  it("R6: what a bisected batch settled is looked at after its askers have gone on", virtually(function()
    local batcher = H.start { on_error = "bisect", batch_timeout_s = 0.01, inference_fn = function(records)
      tb.sleep(0.1)
      for _, record in ipairs(records) do
        if record == "poison" then error "bad" end
      end
      return records
    end }
    local wrong = {}
    local function asker(name)
      return tb.spawn(function()
        for _ = 1, 6 do
          local result, err = batcher:ask(name, { estimated_cost = 1 })
          local is_right = name == "poison" and err and err.code == "inference_failed" or result == name
          if not is_right then wrong[#wrong + 1] = name end
        end
      end)
    end
    tb.gather { asker "a", asker "b", asker "poison", asker "c", asker "d" }
    batcher:stop()
    assert.same({}, wrong)
    assert.same({ 24, 6 }, { batcher.stats.total_completed, batcher.stats.total_failed })
  end))

  it("may be called by an estimator's own batcher's caller, and by a coroutine within a coroutine", virtually(function()
    local inner = H.start { policy = "eager" }
    local outer = H.start { policy = "eager", inference_fn = function(records)
      local out = {}
      for i, record in ipairs(records) do out[i] = inner:ask(record) .. "!" end
      return out
    end }
    assert.equal("re:x!", outer:ask "x")
    local ok, message = coroutine.resume(coroutine.create(function() return outer:ask "y" end))
    assert.is_false(ok)
    assert.matches("inside a coroutine of the program's own", message)
    outer:stop()
    inner:stop()
  end))

  it("C3: returns the err of a record that stop leaves behind", virtually(function()
    local batcher = H.start { takes = 100 }
    local results = {}
    for i = 1, 3 do
      tb.spawn(function()
        local value, err = batcher:ask(i)
        results[i] = { value, err and err.code }
      end)
    end
    tb.sleep(0)
    batcher:stop { timeout_s = 0.5 }
    tb.sleep(0)
    for i = 1, 3 do assert.equal("stopped", results[i][2]) end
    assert.is_true(H.is_conserved(batcher.stats))
  end))

  it("is misuse of a dot, and of no record", virtually(function()
    local batcher = H.start()
    assert.error_matches(function() batcher.ask "x" end, "ask needs a colon")
    assert.error_matches(function() batcher:ask(nil) end, "the record is nil")
    batcher:stop()
  end))
end)
