-- When an answer counts: --slo and --slo-class as expressions, a recording's own, the option slo; and the column "at
-- most" of --bound.

local experiment = require "tokenbatcher.sim.experiment"
local compare = require "tokenbatcher.sim.compare"
local output = require "tokenbatcher.sim.output"
local policies = require "tokenbatcher.policy"

local function new_job(args, set)
  local given = { set = {}, given = {} }
  for name, value in pairs(args) do given[name] = value end
  for name, value in pairs(set or {}) do table.insert(given.set, { name, value }) end
  return experiment.new(nil, given)
end

local function simulate(args, set, policy)
  return assert(experiment.run(assert(new_job(args, set)), { settings = {}, policy_text = policy or "eager",
    policy = policies.parse(policy or "eager") }))
end

local function with_file(text, fn)
  local path = os.tmpname()
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
  local ok, err = pcall(fn, path)
  os.remove(path)
  assert(ok, err)
end

local ONE = { max_batch_size = 1, batch_timeout_s = 0 }

-- Alone each: a record of n tokens takes n milliseconds.
local CSV = "t,n,out,kind,p\n0,100,5,chat,0\n10,200,5,chat,1\n20,300,5,batch,0\n30,400,5,other,0\n"
local COLUMNS = { time = "t", cost = "n", output = "out", class = "kind", priority = "p" }

local function goodput(path, args)
  local given = { trace = path, columns = COLUMNS, time_unit = "s", service = "0.001*tokens" }
  for name, value in pairs(args) do given[name] = value end
  return simulate(given, ONE).goodput
end

describe("--slo", function()
  it("is a number or an expression over tokens, output_tokens and priority", function()
    with_file(CSV, function(path)
      assert.equal(1, goodput(path, {}))
      assert.equal(0.5, goodput(path, { slo = 0.25 }))
      assert.equal(0.5, goodput(path, { slo = "0.25" }))
      assert.equal(1, goodput(path, { slo = "0.001*tokens" }))
      assert.equal(0, goodput(path, { slo = "0.0009*tokens" }))
      assert.equal(0.75, goodput(path, { slo = "min(0.3, 0.01 + tokens/1000)" }))
      assert.equal(0.25, goodput(path, { slo = "0.05 + 0.2*priority" }))
      assert.equal(0.25, goodput(path, { slo = "0.02*output_tokens" }))
    end)
  end)

  it("that is no number of seconds for a record is an error, an endless one, too", function()
    with_file(CSV, function(path)
      for _, text in ipairs { "tokens/0", "0*tokens", "0.1 - tokens", "0/0*tokens" } do
        local given = { trace = path, columns = COLUMNS, time_unit = "s", service = "0.001*tokens", slo = text }
        local row, message = experiment.run(assert(new_job(given, ONE)), { settings = {} })
        assert.is_nil(row)
        assert.truthy(message:find("--slo '" .. text .. "' gives", 1, true), message)
      end
    end)
  end)

  it("of a class that no record is of is told", function()
    with_file(CSV, function(path)
      local job = assert(new_job({ trace = path, columns = COLUMNS, time_unit = "s", service = "0.001*tokens",
        slo = 0.15, slo_class = { "batsh=0.25", "chat=1", "a=2" } }, ONE))
      assert(experiment.run(job, { settings = {} }))
      assert.same({ "a", "batsh" }, job.slo:unused_classes())
    end)
  end)

  it("of a class goes before it, and where there is no --slo the others are always good", function()
    with_file(CSV, function(path)
      assert.equal(0.25, goodput(path, { slo = 0.15, slo_class = { "batch=0.25" } }))
      assert.equal(0.5, goodput(path, { slo = 0.15, slo_class = { "batch=0.35" } }))
      assert.equal(0.75, goodput(path, { slo_class = { "chat=0.15" } }))
    end)
  end)

  it("good records a second are those that meet it, completed or not", function()
    local row = simulate({ arrivals = "constant:rate=10,tokens=uniform(0,200)", limit = 2000, service = "0.0005*tokens",
      slo = 0.05 }, ONE)
    assert.near(row.goodput * row.throughput, row.good_per_s, 1e-9)
    assert.is_truthy(compare.text({ row }):find "good/s")
    assert.near(0.5, row.goodput, 0.05)
  end)

  it("is refused where it says nothing that is known, by its flag", function()
    with_file("t,n\n0,1\n1,2\n", function(path)
      local base = { trace = path, columns = { time = "t", cost = "n" }, time_unit = "s" }
      for _, case in ipairs {
        { { slo = "tokns" }, "did you mean 'tokens'" }, { { slo = "-1" }, "above 0" }, { { slo = "" }, "is empty" },
        { { slo = "ttft <= 1" }, "needs --device" }, { { slo = "tokens < 5" }, "needs --device" },
        { { slo_class = { "chat" } }, "NAME=EXPRESSION" }, { { slo_class = { "a=1", "a=2" } }, "given twice" },
        { { slo_class = { "a=x" } }, "--slo-class a 'x'" }, { { slo = "os" }, "unknown name 'os'" },
      } do
        local args = {}
        for name, value in pairs(base) do args[name] = value end
        for name, value in pairs(case[1]) do args[name] = value end
        local job, message = new_job(args)
        assert.is_nil(job)
        assert.is_truthy(message:find(case[2], 1, true), message)
      end
      base.slo = "0.1*output_tokens"
      local row, message = experiment.run(assert(new_job(base)), { settings = {} })
      assert.is_nil(row)
      assert.is_truthy(message:find("asks for output_tokens", 1, true), message)
      base.slo = "tokens - 1"
      row, message = experiment.run(assert(new_job(base)), { settings = {} })
      assert.is_nil(row)
      assert.is_truthy(message:find("a number of seconds above 0 is needed", 1, true), message)
    end)
  end)

  it("may ask for ttft, tpot and e2e before a device", function()
    local device = "continuous:a=10ms,b=0,c=0,d=0,seqs=8,tokens=2048,kv=100000,block=16,admit=known"
    local function met(slo)
      local arrivals = "constant:rate=1,tokens=100,output=11"
      return simulate({ arrivals = arrivals, limit = 50, device = device, slo = slo }).goodput
    end
    assert.equal(1, met "ttft <= 0.011 and tpot <= 0.0101")
    assert.equal(0, met "ttft <= 0.009")
    assert.equal(0, met "tpot <= 0.0099 or e2e < 0.05")
    assert.equal(1, met "e2e <= 0.1101 and not (tokens > 100)")
    assert.equal(1, met "0.2")
    assert.equal(0, met "0.1")
  end)
end)

describe("the slo of a record", function()
  it("is what a recording says, or else the option slo; --slo goes before both", function()
    local rows = '{"at":0,"cost":100,"slo":0.05}\n{"at":1,"cost":100}\n{"at":2,"cost":100}\n'
    with_file('{"tokenbatcher_recording":1}\n' .. rows, function(path)
      local args = { trace = path, service = "0.001*tokens" }
      assert.near(2 / 3, simulate(args, ONE).goodput, 1e-12)
      local by_option = { max_batch_size = 1, batch_timeout_s = 0, slo = "0.0005*tokens" }
      assert.equal(0, simulate(args, by_option).goodput)
      args.slo = 0.2
      assert.equal(1, simulate(args, ONE).goodput)
    end)
  end)

  it("is what policies read as queue:slo(i)", function()
    local path = os.tmpname() .. ".lua"
    local file = assert(io.open(path, "wb"))
    file:write [[
      return { form = function(queue, batch)
        for i = 1, queue.size do
          if math.abs(queue:slo(i) - (0.5 + 0.001 * queue:cost(i))) > 1e-6 then error "another slo" end
          batch:add(i)
        end
      end }
    ]]
    file:close()
    local arrivals = "poisson:rate=100,tokens=uniform(1,99)"
    local row = simulate({ arrivals = arrivals, limit = 500, slo = "0.5 + 0.001*tokens" }, nil, path)
    os.remove(path)
    assert.same({ 0, 500 }, { row.policy_errors, row.completed })
  end)
end)

describe("--bound", function()
  local function job(more)
    local args = { arrivals = "poisson:rate=60,tokens=lognormal(5,1)", limit = 3000, slo = 1, bound = true,
      service = "0.05 + 0.00004*tokens" }
    for name, value in pairs(more or {}) do args[name] = value end
    return new_job(args)
  end

  it("is never below what a policy answers, and near it where that is nearly all", function()
    for _, case in ipairs { {}, { service = "0.02 + 0.0001*padded + 0.001*records" }, { slo = "0.2 + 0.001*tokens" },
      { arrivals = "gamma:rate=80,cv=6,tokens=lognormal(5,1.5)" }, { speedup = 3 } } do
      for _, policy in ipairs { "on_time", "deadline", "eager", "examples/policies/shortest_on_time.lua" } do
        local row = assert(experiment.run(assert(job(case)), { settings = {}, policy_text = policy,
          policy = assert(policies.parse(policy)) }))
        assert.is_true(row.at_most >= row.goodput and row.at_most <= 1)
      end
    end
  end)

  it("is a column of the table and a field of JSON, after the others", function()
    local row = assert(experiment.run(assert(job()), { settings = {} }))
    assert.is_truthy(compare.text({ row }):find "at most")
    assert.is_truthy(output.json({ row }):find '"good_per_s":[%d.e-]+,"at_most":[%d.]+}')
    row.at_most = nil
    assert.is_nil(compare.text({ row }):find "at most")
    assert.is_nil(output.json({ row }):find "at_most")
  end)

  it("is refused where it would not be sound, with the reason", function()
    for _, case in ipairs {
      { { slo = false }, "an --slo is needed" }, { { arrivals = "closed:clients=4" }, "closed clients" },
      { { service = "0.1 - 0.001*tokens + 9*tokens" }, "sum of products" },
      { { service = "max(0.1, tokens)" }, "sum of products" }, { { straggle = { p = 0.1, factor = 0.5 } }, "faster" },
      { { service = false, device = "preset:rtx4090-llama3.1-8b" }, "--device" },
    } do
      local given, message = job(case[1])
      assert.is_nil(given)
      assert.is_truthy(message:find(case[2], 1, true), message)
    end
    assert.is_truthy(job { straggle = { p = 0.1, factor = 5 } })
  end)
end)
