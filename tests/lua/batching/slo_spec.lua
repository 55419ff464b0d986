-- The option slo: what a policy reads as queue:slo(i). Nothing fails for it, nothing goes for it.

local tb = require "tokenbatcher"
local H = require "tests.lua.helper"
local virtually = H.virtually

-- What a policy saw of the slos of these records at its first decision.
local function seen(slo, records, opts)
  local slos
  local batcher = H.start { slo = slo, batch_timeout_s = 0.1, policy = { form = function(queue, batch)
    if not queue.due then return end
    slos = slos or {}
    for i = 1, queue.size do slos[#slos + 1] = queue:slo(i) or "none" end
    for i = 1, queue.size do batch:add(i) end
  end } }
  for i, record in ipairs(records) do batcher:submit(record, opts and opts[i]) end
  batcher:stop()
  assert.equal(0, batcher.stats.policy_errors)
  return slos
end

describe("queue:slo(i)", function()
  it("is the number, the value of the expression, or what the function says", virtually(function()
    assert.same({ "none", "none" }, seen(nil, { "a", "b" }))
    assert.same({ 1.5, 1.5 }, seen(1.5, { "a", "b" }))
    local opts = { { estimated_tokens = 100 }, { estimated_tokens = 1000, priority = 2 } }
    local by_tokens = "0.25 + 0.001*tokens + priority"
    assert.same({ 0.25 + 0.001 * 100, 0.25 + 0.001 * 1000 + 2 }, seen(by_tokens, { "a", "b" }, opts))
    assert.same({ 3, "none" }, seen(function(record, tokens)
      return record == "a" and 3 * tokens or nil
    end, { "a", "b" }))
  end))

  it("is the record's, whatever was in its slot before, and none once the option is none", virtually(function()
    local slos = {}
    local batcher = H.start { slo = function(record) return record.slo end, max_batch_size = 1, takes = 0.01,
      policy = { form = function(queue, batch)
        slos[#slos + 1] = queue:slo(1) or "none"
        batch:add(1)
      end } }
    for _, slo in ipairs { 1, false, 3, false } do batcher:submit({ slo = slo or nil }):await() end
    batcher:set { slo = false }
    batcher:submit({ slo = 5 }):await()
    batcher:set { slo = 7 }
    batcher:submit({}):await()
    batcher:stop()
    assert.same({ 1, "none", 3, "none", "none", 7 }, slos)
  end))

  it("expires nobody, makes nobody due, and is no deadline to by_deadline", virtually(function()
    local order
    local batcher, calls = H.start { slo = function(record) return record end, batch_timeout_s = 5,
      policy = { form = function(queue, batch)
        if not queue.due then return end
        order = {}
        for i in queue:by_deadline() do order[#order + 1] = i end
        for i = 1, queue.size do batch:add(i) end
      end } }
    for _, slo in ipairs { 3, 0.001, 2 } do batcher:submit(slo) end
    tb.sleep(6)
    assert.same({ 1, 2, 3 }, order)
    assert.near(5, calls[1].at - tb.now() + 6, 1e-6)
    assert.same({ 3, 0 }, { batcher.stats.total_completed, batcher.stats.total_expired })
    batcher:stop()
  end))
end)

describe("a bad slo", function()
  it("is refused as an option, by name", function()
    for _, case in ipairs {
      { 0, "option 'slo' must be a number of seconds above 0" }, { "0.1 + token", "did you mean 'tokens'" },
      { "tokens +", "is no arithmetic expression" }, { {}, "a function" }, { "os.exit()", "unknown name 'os'" },
    } do
      local ok, err = pcall(tb.TokenBatcher, { inference_fn = function() end, slo = case[1] })
      assert.is_false(ok)
      assert.is_truthy(tostring(err):find(case[2], 1, true), tostring(err))
    end
  end)

  it("of one record raises from its submit, and of a list none has entered", virtually(function()
    local slos = { ok = 1, zero = 0, text = "1", raises = false }
    local batcher = H.start { slo = function(record)
      if record == "raises" then error "no idea" end
      return slos[record]
    end }
    for _, record in ipairs { "zero", "text", "raises" } do
      local ok, err = pcall(batcher.submit, batcher, record)
      assert.is_false(ok)
      assert.equal("bad_slo", err.code)
      ok, err = pcall(batcher.submit_batch, batcher, { "ok", record })
      assert.is_false(ok)
      assert.equal("bad_slo", err.code)
    end
    assert.equal(0, batcher.stats.total_submitted)
    assert.is_true((batcher:submit("ok"):await()) ~= nil)
    batcher:stop()
  end))
end)

describe("on_time and deadline without slo_s", function()
  it("go by each record's own", virtually(function()
    for _, policy in ipairs { "on_time", "deadline" } do
      local batcher, calls = H.start { policy = policy, max_batch_size = 1, takes = 0.1,
        slo = function(record) return record.within end }
      for _, within in ipairs { 9, 0.15, 5, 0.35 } do batcher:submit { within = within } end
      batcher:stop()
      local order = {}
      for k, call in ipairs(calls) do order[k] = call.records[1].within end
      assert.same({ 0.15, 0.35, 5, 9 }, order)
    end
  end))
end)

describe("a recording", function()
  it("keeps each record's slo", virtually(function()
    local path = os.tmpname()
    local batcher = H.start { slo = "0.5 + 0.001*tokens", record = path }
    batcher:submit("a", { estimated_tokens = 250 }):await()
    batcher:stop()
    local file = assert(io.open(path))
    local text = file:read "*a"
    file:close()
    os.remove(path)
    assert.is_truthy(text:find('"slo":0.75', 1, true), text)
  end))
end)
