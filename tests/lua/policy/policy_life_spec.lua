-- The life of a policy in a batcher: where it comes from, what it hands on when it is
-- replaced, whom a batch is reported to.

local tb = require "tokenbatcher"
local H = dofile "tests/lua/helper.lua"
local virtually = H.virtually

local written = {}

local function write(text)
  local path = os.tmpname() .. ".lua"
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
  written[#written + 1] = path
  return path
end

teardown(function()
  for _, path in ipairs(written) do os.remove(path) end
end)

describe("a policy file", function()
  before_each(function() rawset(_G, "tb_times_loaded", 0) end)
  after_each(function() rawset(_G, "tb_times_loaded", nil) end)

  local COUNTED = [[
tb_times_loaded = tb_times_loaded + 1
return { form = function(queue, batch) batch:add(queue.size) end }]]

  it("runs once for each time it is named", virtually(function()
    local path = write(COUNTED)
    local batcher = H.start { policy = path }
    assert.equal(1, rawget(_G, "tb_times_loaded"))
    batcher:set { max_batch_size = 7 }
    assert.equal(1, rawget(_G, "tb_times_loaded"))
    batcher:set { policy = path }
    assert.equal(2, rawget(_G, "tb_times_loaded"))
    batcher:stop()
    batcher:start()
    assert.equal(2, rawget(_G, "tb_times_loaded"))
    batcher:stop()
  end))

  it("may vanish: the policy that it made stays, and other options can be set", virtually(function()
    local path = write(COUNTED)
    local batcher, calls = H.start { policy = path, batch_timeout_s = 9 }
    os.remove(path)
    batcher:set { on_error = "bisect", batch_timeout_s = 1 }
    H.submit_costs(batcher, { 1, 1 })
    batcher:stop()
    assert.same({ "r2", "r1" }, H.batches(calls))
    assert.has_error(function() batcher:set { policy = path } end)
  end))

  it("may vanish before the first start", virtually(function()
    local path = write(COUNTED)
    local infer, calls = H.recorder()
    local batcher = tb.TokenBatcher { inference_fn = infer, policy = path }
    os.remove(path)
    batcher:start()
    H.submit_costs(batcher, { 1, 1 })
    batcher:stop()
    assert.same({ "r2", "r1" }, H.batches(calls))
  end))
end)

describe("queue and batch", function()
  it("cannot be changed by a policy, not even where a method is", virtually(function()
    local names = { queue = { "cost", "of", "size", "due", "whatever" }, batch = { "add", "limit", "cost", "own" } }
    local refused = 0
    local batcher, calls = H.start { policy = { form = function(queue, batch)
      local objects = { queue = queue, batch = batch }
      for name, object in pairs(objects) do
        for _, field in ipairs(names[name]) do
          for _, value in ipairs { false, 7 } do
            if not pcall(function() object[field] = value or nil end) then refused = refused + 1 end
          end
        end
        assert(type(getmetatable(object)) == "string")
      end
      for i = 1, queue.size do batch:add(i) end
    end } }
    H.submit_costs(batcher, { 1, 2 })
    batcher:stop()
    assert.equal(18, refused)
    assert.same({ "r1 r2" }, H.batches(calls))
    assert.equal(0, batcher.stats.policy_errors)
  end))

  it("an iterator kept from an earlier call raises in a later one", virtually(function()
    local kept, messages = nil, {}
    local batcher = H.start { policy = { form = function(queue, batch)
      if not kept then
        kept = { { queue:near(1) }, { queue:of "a" } }
      else
        for i, iterator in ipairs(kept) do messages[i] = H.message(iterator[1], iterator[2], iterator[3]) end
      end
      batch:add(1)
    end } }
    batcher:submit(1, { key = "a" })
    batcher:submit(2, { key = "a" })
    batcher:stop()
    assert.equal(2, #messages)
    for _, message in ipairs(messages) do assert.matches("valid only during the call of form", message) end
  end))
end)

describe("a function that returns what tb.policy.NAME returned", function()
  local function limited() return tb.policy.rate_limited { requests_per_minute = 1, tokens_per_minute = 50 } end

  it("is that policy, in a file, too", virtually(function()
    local path = write "return require('tokenbatcher').policy.priority { aging_s = 9 }"
    for _, policy in ipairs { function() return tb.policy.priority { aging_s = 9 } end, path } do
      local batcher, calls = H.start { policy = policy }
      batcher:submit("low", {})
      batcher:submit("high", { priority = 1 })
      batcher:stop()
      assert.same({ "high low" }, H.batches(calls))
    end
  end))

  it("its limits hold at submission", virtually(function()
    local batcher, calls = H.start { policy = limited }
    assert.equal("oversize", select(2, batcher:submit("x", { estimated_tokens = 51 })).code)
    batcher:stop()
    assert.equal(0, #calls)
  end))

  it("a field max_record_cost of a user's own policy limits nothing", virtually(function()
    local batcher, calls = H.start { policy = { max_record_cost = 1, form = function(queue, batch)
      for i = 1, queue.size do batch:add(i) end
    end } }
    H.submit_costs(batcher, { 5 })
    batcher:stop()
    assert.same({ "r1" }, H.batches(calls))
  end))
end)

describe("rate_limited", function()
  local function sent_within_a_minute(calls)
    local most = 0
    for i, first in ipairs(calls) do
      local n = 0
      for k = i, #calls do
        if calls[k].at <= first.at + 60 then n = n + 1 end
      end
      most = math.max(most, n)
    end
    return most
  end

  local wicked = {
    ["lowers the budget and adds nobody"] = function(_, batch) batch:limit(0) end,
    ["lowers the budget below all that is queued"] = function(_, batch)
      batch:limit(1)
      batch:add(1)
    end,
    ["adds a record, lowers the budget, raises"] = function(queue, batch)
      batch:add(queue.size)
      batch:limit(0)
      error "wicked"
    end,
    ["breaks the queue"] = function(queue) queue.cost = nil end,
    ["breaks the batch"] = function(_, batch) batch.limit = nil end,
  }
  for what, form in pairs(wicked) do
    it("keeps its limits with an inner policy that " .. what, virtually(function()
      local batcher, calls = H.start { log = function() end, max_batch_size = 2, batch_timeout_s = 0,
        policy = tb.policy.rate_limited {
          requests_per_minute = 1, tokens_per_minute = 50, inner = { form = form } } }
      H.submit_costs(batcher, { 20, 30, 10, 40, 50, 5 })
      batcher:stop()
      local stats = batcher.stats
      assert.same({ 6, 0 }, { stats.total_completed, stats.policy_overruled })
      assert.equal(1, sent_within_a_minute(calls))
    end))
  end

  it("set{policy} to other limits is no fresh minute, its inner policy's included", virtually(function()
    local first = tb.policy.rate_limited { requests_per_minute = 1 }
    local batcher, calls = H.start { max_batch_size = 1, policy = first }
    H.submit_costs(batcher, { 1, 1, 1, 1 })
    for i = 1, 20 do
      tb.sleep(3)
      batcher:set { policy = tb.policy.rate_limited { requests_per_minute = 2 - i % 2, inner = "eager" } }
    end
    batcher:set { policy = tb.policy.rate_limited { requests_per_minute = 1 } }
    batcher:stop()
    assert.equal(4, #calls)
    assert.is_true(sent_within_a_minute(calls) <= 2)
  end))

  it("the inner policy's limit on a record's cost holds, too", virtually(function()
    local batcher = H.start { policy = tb.policy.rate_limited { tokens_per_minute = 90,
      inner = tb.policy.rate_limited { tokens_per_minute = 40 } } }
    assert.equal("oversize", select(2, batcher:submit("x", { estimated_tokens = 41 })).code)
    assert.is_table(batcher:submit("x", { estimated_tokens = 40 }))
    batcher:stop()
  end))

  it("within another one keeps to the limits of both, whatever its inner policy does", virtually(function()
    local limited = tb.policy.rate_limited
    local batcher, calls = H.start { policy = limited { tokens_per_minute = 10, inner = "priority" } }
    batcher:submit("a", { estimated_tokens = 6 }):await()
    batcher:set { policy = limited { tokens_per_minute = 10,
      inner = limited { tokens_per_minute = 100, inner = "priority" } } }
    batcher:submit("small", { estimated_tokens = 4 })
    batcher:submit("urgent", { estimated_tokens = 9, priority = 5 })
    batcher:stop()
    local silent = limited { tokens_per_minute = 100, inner = { form = function() end } }
    local other, other_calls = H.start { policy = limited { tokens_per_minute = 10, inner = silent } }
    H.submit_costs(other, { 9, 9, 9, 9 })
    other:stop()
    for _, list in ipairs { calls, other_calls } do
      for i, first in ipairs(list) do
        local tokens = 0
        for k = i, #list do tokens = tokens + (list[k].at <= first.at + 60 and list[k].cost or 0) end
        assert(tokens <= 10, tokens .. " tokens in a minute")
      end
    end
  end))

  it("max_wait_s: what fits no more is not overtaken for ever", virtually(function()
    for _, inner in ipairs { "examples/policies/shortest_first.lua", "deadline" } do
      local batcher, calls = H.start { max_wait_s = 30, max_queue_size = 100, on_full = "reject",
        policy = tb.policy.rate_limited { tokens_per_minute = 100, inner = inner } }
      batcher:submit("large", { estimated_tokens = 90 })
      for _ = 1, 60 do
        tb.sleep(4)
        batcher:submit("small", { estimated_tokens = 8, timeout_s = 60 })
      end
      local large_at
      for _, call in ipairs(calls) do
        for _, record in ipairs(call.records) do large_at = large_at or record == "large" and call.at end
      end
      assert(large_at, inner .. " let it starve")
      batcher:stop { timeout_s = 0 }
    end
  end))

  it("fair within it keeps its bound, though what is left of the minute changes", virtually(function()
    local got, worst = { a = 0, b = 0 }, 0
    local batcher = H.start { batch_timeout_s = 0.01, target_batch_tokens = 400, max_queue_size = 1e6,
      policy = tb.policy.rate_limited { tokens_per_minute = 1000, inner = "fair" },
      inference_fn = function(records, info)
        for i, key in ipairs(records) do got[key] = got[key] + info.costs[i] end
        worst = math.max(worst, math.abs(got.a - got.b))
        return records
      end }
    for i = 1, 4000 do
      batcher:submit("a", { key = "a", estimated_tokens = 50 + i * 7 % 51 })
      for k = 1, 4 do batcher:submit("b", { key = "b", estimated_tokens = 1 + i * k % 9 }) end
    end
    tb.sleep(3600)
    batcher:stop { timeout_s = 0 }
    assert(got.a > 10000 and worst <= 2 * 100 + 50, ("a got %d; the gap was %d"):format(got.a, worst))
  end))

  it("an inner policy whose hooks always raise is disabled: the first error is told, and the last", virtually(function()
    local said = {}
    local batcher = H.start { log = function(_, text) said[#said + 1] = text end, max_batch_size = 1,
      policy = tb.policy.rate_limited { inner = {
        form = function(_, batch) batch:add(1) end,
        on_complete = function() error "no" end,
      } } }
    for i = 1, 50 do batcher:submit(i) end
    batcher:stop()
    assert.same({ 10, 2, 50 }, { batcher.stats.policy_errors, #said, batcher.stats.total_completed })
  end))

  it("reads the file of its inner policy once", virtually(function()
    rawset(_G, "tb_times_loaded", 0)
    local path = write "tb_times_loaded = tb_times_loaded + 1 return { form = function(_, batch) batch:add(1) end }"
    local policy = tb.policy.rate_limited { inner = path }
    os.remove(path)
    local batcher, calls = H.start { policy = policy }
    batcher:submit "x"
    batcher:stop()
    assert.same({ 1, 1 }, { rawget(_G, "tb_times_loaded"), #calls })
    rawset(_G, "tb_times_loaded", nil)
  end))

  it("a clock that begins again begins a minute", function()
    local infer, calls = H.recorder()
    local limited = tb.policy.rate_limited { requests_per_minute = 1 }
    local batcher = tb.TokenBatcher { inference_fn = infer, policy = limited }
    local function one_record(before_s)
      H.run(function()
        tb.sleep(before_s)
        batcher:start()
        batcher:submit "x"
        batcher:stop()
      end)
    end
    one_record(1000)
    one_record(500)
    assert.equal(2, #calls)
    assert.near(500, calls[2].at - calls[1].at + 1000, 1) -- at once
  end)
end)

describe("a policy that is a hostile table", function()
  it("X3: is read once, so that what it raises later ends nothing", virtually(function()
    local reads = 0
    local policy = setmetatable({}, { __index = function(_, name)
      if name ~= "form" then return nil end
      reads = reads + 1
      if reads > 2 then error "boom" end
      return function(_, batch) batch:add(1) end
    end })
    local batcher, calls = H.start { policy = policy, max_batch_size = 1 }
    for i = 1, 5 do batcher:submit(i) end
    batcher:stop()
    assert.equal(5, #calls)
  end))

  it("X3: an error object that cannot even be looked at ends nothing, nor does such an info", virtually(function()
    local deep = setmetatable({}, { __metatable = setmetatable({}, { __index = function() error "deep" end }) })
    local batcher = H.start { batch_timeout_s = 0, log = function() end,
      policy = { form = function() error(deep, 0) end, on_complete = function() error(deep, 0) end },
      inference_fn = function(records, info)
        setmetatable(info, { __index = function(_, name) error("no field " .. name) end })
        return records
      end }
    for i = 1, 12 do assert.equal(i, (batcher:submit(i):await())) end
    batcher:stop()
  end))
end)

describe("X1: a policy that raises once", function()
  it("is not asked again in that turn: one fault is one error", virtually(function()
    local n = 0
    local batcher, calls = H.start { max_concurrent_batches = 12, max_batch_size = 1, policy = {
      form = function(queue, batch)
        n = n + 1
        if n == 1 then error "one glitch" end
        for i = queue.size, 1, -1 do batch:add(i) end
      end } }
    for i = 1, 30 do batcher:submit(i) end
    batcher:stop()
    assert.same({ 1, 30 }, { batcher.stats.policy_errors, #calls })
    assert.equal("policy", calls[30].reason)
  end))
end)

describe("parameters of a policy file", function()
  it("are each instance's own, and none is given twice", virtually(function()
    local path = write [[
return function(p)
  p.n = p.n + 1
  local n = p.n
  return { form = function(_, batch) for i = 1, n do batch:add(i) end end }
end]]
    local policies = require "tokenbatcher.policy"
    local policy = policies.parse(path .. ":n=1")
    for _ = 1, 3 do
      local batcher, calls = H.start { policy = policy }
      H.submit_costs(batcher, { 1, 1, 1, 1 })
      batcher:stop()
      assert.same({ 2, 2 }, H.sizes(calls))
    end
    local nothing, message = policies.parse "fair:quantum=5,quantum=6"
    assert.is_nil(nothing)
    assert.matches("'quantum' is given twice", message)
  end))
end)

describe("observe", function()
  local function using(records, info)
    tb.sleep(1)
    info.usage = { total_tokens = 7 }
    return records
  end

  local function estimator(observe)
    return setmetatable({ observe = observe }, { __call = function() return 1 end })
  end

  it("X4: goes to the estimator of then", virtually(function()
    local seen = {}
    local function noting(name)
      return estimator(function(_, costs, usage) seen[#seen + 1] = name .. #costs .. usage.total_tokens end)
    end
    local batcher = H.start { inference_fn = using, token_estimator = noting "a", batch_timeout_s = 0 }
    batcher:submit "x"
    tb.sleep(0.5)
    batcher:set { token_estimator = noting "b" }
    batcher:submit "y"
    batcher:stop()
    assert.same({ "a17", "b17" }, seen)
  end))

  it("X3: may not stop, set or suspend; what it raises is said and harms nobody", virtually(function()
    local batcher, said, tried = nil, {}, {}
    local tries = {
      function() batcher:stop() end, function() batcher:set { max_batch_size = 1 } end, function() tb.sleep(1) end,
    }
    batcher = H.start { inference_fn = using, log = function(_, text) said[#said + 1] = text end,
      batch_timeout_s = 0, token_estimator = estimator(function()
        for i, try in ipairs(tries) do tried[i] = H.message(try) end
        error "seen enough"
      end) }
    assert.equal("x", (batcher:submit("x"):await()))
    batcher:stop()
    assert.equal(3, #tried)
    for _, message in ipairs(tried) do assert.matches("inside a token_estimator", message) end
    assert.matches("observe raised: .*seen enough", said[1])
  end))
end)

describe("a function that makes a policy", function()
  it("must not suspend: it is an error of start or set, and nothing has changed", virtually(function()
    local function waiting()
      coroutine.yield()
      return { form = function() end }
    end
    local infer, calls = H.recorder()
    local batcher = tb.TokenBatcher { inference_fn = infer, policy = waiting }
    assert.matches("tried to suspend", H.message(batcher.start, batcher))
    assert.is_false(batcher.is_running)
    local other = H.start { inference_fn = infer }
    assert.matches("tried to suspend", H.message(other.set, other, { policy = waiting, max_batch_size = 3 }))
    H.submit_costs(other, { 1, 1, 1, 1 })
    other:stop()
    assert.same({ 4 }, H.sizes(calls))
  end))
end)
