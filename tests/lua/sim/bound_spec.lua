-- The bound is never below what a clairvoyant scheduler can do: all schedules of small instances are tried.

local bound = require "tokenbatcher.sim.bound"
local experiment = require "tokenbatcher.sim.experiment"
local noise = require "tokenbatcher.sim.noise"

local state = 1
local function draw(n)
  state = state * 16807 % 2147483647
  return state % n
end
local function uniform() return (draw(1000000) + 0.5) / 1e6 end

-- The earliest end of a sequence of batches that answers the records of each set (a number: bit i - 1 for record i)
-- on time, by one device; nil where there is none.
local function ends_of(x)
  local n = #x.at
  local seconds, last_arrival, ends = {}, {}, { [0] = -math.huge }
  for set = 1, 2 ^ n - 1 do
    local sum, largest, arrival, size = 0, 0, -math.huge, 0
    for i = 1, n do
      if math.floor(set / 2 ^ (i - 1)) % 2 == 1 then
        sum, largest, size = sum + x.cost[i], math.max(largest, x.cost[i]), size + 1
        arrival = math.max(arrival, x.at[i])
      end
    end
    local cost = x.is_padded and largest * size or sum
    local fits = size <= x.most and (size == 1 or cost <= x.budget)
    seconds[set], last_arrival[set] = fits and x.a + x.b * cost or nil, arrival
  end
  for set = 1, 2 ^ n - 1 do
    for batch = 1, set do
      local is_subset = bit.band(batch, set) == batch
      local before = is_subset and seconds[batch] and ends[set - batch]
      if before then
        local ending, is_late = math.max(before, last_arrival[batch]) + seconds[batch], false
        for i = 1, n do
          local is_in = math.floor(batch / 2 ^ (i - 1)) % 2 == 1
          is_late = is_late or is_in and ending > x.at[i] + x.slo[i] + 1e-9
        end
        if not is_late then ends[set] = math.min(ends[set] or math.huge, ending) end
      end
    end
  end
  return ends
end

local function count(set)
  local out = 0
  while set > 0 do set, out = math.floor(set / 2), out + set % 2 end
  return out
end

-- The most that one or two devices can answer on time.
local function exact(x)
  local ends, best, all = ends_of(x), 0, 2 ^ #x.at - 1
  for set in pairs(ends) do
    if x.slots == 1 then best = math.max(best, count(set)) end
    for other = 0, x.slots == 2 and all or -1 do
      if ends[other] and bit.band(set, other) == 0 then best = math.max(best, count(set) + count(other)) end
    end
  end
  return best
end

local function draw_instance(own_slos)
  local n, is_lattice = 2 + draw(5), draw(2) == 0
  local x = { at = {}, cost = {}, slo = {}, b = 0.1, slots = draw(4) == 0 and 2 or 1, is_padded = draw(3) == 0,
    budget = draw(2) == 0 and 1e9 or 3 + 12 * uniform(), most = draw(2) == 0 and 99 or 1 + draw(4) }
  local slo = is_lattice and 0.5 + draw(4) / 2 or 0.4 + 2 * uniform()
  x.a = math.min(0.6 * slo, is_lattice and 0.05 * (1 + draw(8)) or 1.2 * uniform())
  local span = (0.2 + 3 * uniform()) / (1 + 2 * uniform())
  for i = 1, n do
    x.at[i] = is_lattice and draw(7) / 4 * span or uniform() * span
    x.cost[i] = is_lattice and 1 + draw(8) or 0.2 + uniform() * (draw(3) == 0 and 12 or 4)
  end
  table.sort(x.at)
  for i = 1, n do
    x.slo[i] = not own_slos and slo or draw(3) == 0 and slo * (1 + 2 * uniform()) or slo + 0.15 * x.cost[i]
  end
  return x
end

local function bounded(x, a)
  local i = 0
  return (bound.count(function()
    i = i + 1
    if x.at[i] then return 1e6 * x.at[i], 1e6 * x.slo[i], x.cost[i], -1 end
  end, { a = a or x.a, b = x.b, per_record = 0, per_output = 0 }, x.budget, x.slots))
end

-- How often the bound is below the optimum, and how often it is the optimum; with a times as much fixed cost.
local function compare(instances, own_slos, factor)
  state = 20
  local below, equal = 0, 0
  for _ = 1, instances do
    local x = draw_instance(own_slos)
    local least, most = exact(x), bounded(x, x.a * (factor or 1))
    if most < least then below = below + 1 end
    if most == least then equal = equal + 1 end
  end
  return below, equal / instances
end

describe("the bound", function()
  -- What a command line asks for: is there a bound?
  local function ask(args)
    local given = { set = args.set or {}, given = {}, bound = true, slo = args.slo or "1" }
    for name, value in pairs(args) do given[name] = value end
    if not given.trace then given.arrivals = given.arrivals or "poisson:rate=10,tokens=5,output=3" end
    if given.slo == "none" then given.slo = nil end
    return experiment.new(nil, given)
  end

  it("is refused where it would not be sound, with the reason", function()
    local path = os.tmpname()
    local file = assert(io.open(path, "wb"))
    file:write "return function(batch) return 0.1 + batch.tokens end\n"
    file:close()
    local refused = {
      { { slo = "none" }, "an --slo is needed" },
      { { device = "preset:rtx4090-llama3.1-8b", slo = "5" }, "before a --device" },
      { { device = "preset:rtx4090-llama3.1-8b", slo = "ttft <= 1" }, "not a condition" },
      { { straggle = { p = 0.1, factor = 0.5 } }, "faster than the model" },
      { { arrivals = "closed:clients=4,think=1,tokens=5" }, "closed clients" },
      { { service = "max(0.1, 0.01*tokens)" }, "a sum of products that are not negative" },
      { { service = "0.2 - 0.0001*tokens" }, "a sum of products that are not negative" },
      { { service = "sqrt(tokens)" }, "a sum of products that are not negative" },
    }
    os.rename(path, path .. ".lua")
    refused[#refused + 1] = { { service = path .. ".lua" }, "a sum of products that are not negative" }
    for _, case in ipairs(refused) do
      local job, message = ask(case[1])
      assert.is_nil(job, case[2])
      assert.truthy(message:find(case[2], 1, true), message)
    end
    os.remove(path .. ".lua")
    assert(ask {})
    assert(ask { straggle = { p = 0.1, factor = 3 } })
    assert(ask { service = "0.05 + 0.001*padded + 0.01*records" })
    assert(ask { slo = "0.1 + 0.01*tokens" })
  end)

  it("is refused with noise, which may be faster than the model", function()
    local path = os.tmpname()
    local file = assert(io.open(path, "wb"))
    file:write '{"tokenbatcher_recording":1,"version":"0.1.0","started_at":"2024-01-01T00:00:00Z"}\n'
    for i = 1, 200 do
      local cost = i % 50 + 1
      file:write(('{"batch":%d,"at":%.3f,"records":1,"tokens":%d,"padded":%d,"cost":%d,"service_s":%.4f,"failed":0}\n')
        :format(i, i, cost, cost, cost, 0.1 + i % 7 * 0.01))
    end
    file:close()
    local args = { service = "@" .. path }
    local job, message = ask(args)
    assert(job, message)
    args.noise = assert(noise.parse "replay")
    job, message = ask(args)
    os.remove(path)
    assert.is_nil(job)
    assert.truthy(message:find("--noise can make batches faster than the model", 1, true), message)
  end)

  it("is at least the optimum, over all schedules of 4,000 small instances with one SLO", function()
    local below, equal = compare(4000, false)
    assert.equal(0, below)
    assert.is_true(equal > 0.5, equal) -- and close to it
  end)

  it("is so where each record has its own", function()
    assert.equal(0, (compare(4000, true)))
  end)

  it("would not be, were a batch's fixed cost a sixth higher (the test can tell)", function()
    assert.is_true(compare(4000, false, 1.15) > 5)
  end)

  it("counts what has no SLO, and nothing that cannot be on time by itself", function()
    local list, i = { { 0, math.huge, 1e9, -1 }, { 1, 1e6, 1e9, -1 }, { 2, 1e6, 1, -1 } }, 0
    local most, all = bound.count(function()
      i = i + 1
      if list[i] then return unpack(list[i]) end
    end, { a = 0.1, b = 0.1, per_record = 0, per_output = 0 }, 1e15, 1)
    assert.same({ 2, 3 }, { most, all })
  end)

  it("reads service models that are sums of products, and no others", function()
    local function terms(text)
      local t = bound.terms(text)
      return t and { t.a, t.b, t.per_record, t.per_output }
    end
    assert.same({ 0.02, 5e-5, 0, 0 }, terms "0.02 + 0.00005*tokens")
    assert.same({ 0.25, 3, 0.5, 2 }, terms "0.25+tokens*2+padded + records/2 + 2*output_tokens + 7*max_tokens*records")
    assert.same({ 1e-5, 1e-5, 0, 0 }, terms "1e-5 + 1e-5 * tokens")
    for _, text in ipairs { "0.02 - 0.1*tokens", "max(0.1, tokens)", "(1 + tokens)", "tokens^2", "1/tokens", "tokens +",
      "0.1 + -1*tokens", "service.lua" } do
      assert.is_nil(terms(text), text)
    end
  end)
end)
