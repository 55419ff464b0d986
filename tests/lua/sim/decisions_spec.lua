-- --decisions: a line for each batch, so that one sees who was picked and why.

local decisions = require "tokenbatcher.sim.decisions"
local experiment = require "tokenbatcher.sim.experiment"
local json = require "tokenbatcher.base.json"
local policies = require "tokenbatcher.policy"

local function lines_of(policy, args)
  local path = os.tmpname()
  local file = assert(decisions.open(path))
  file:begin(policy)
  local given = { set = { { "max_batch_size", 2 } }, given = {} }
  for name, value in pairs(args) do given[name] = value end
  local row = assert(experiment.run(assert(experiment.new(nil, given)), { settings = {}, policy_text = policy,
    policy = assert(policies.parse(policy)) }, { decisions = file }))
  assert(file:close())
  local lines = {}
  for line in io.lines(path) do lines[#lines + 1] = assert(json.decode(line)) end
  os.remove(path)
  return lines, row
end

describe("the decisions of a run", function()
  it("name each arrival once, with the time, the queue and the reason", function()
    local lines, row = lines_of("eager", { arrivals = "constant:rate=10", limit = 5, service = "0.25" })
    local picked = {}
    for i, line in ipairs(lines) do picked[i] = table.concat(line.picked, " ") end
    assert.same({ "1", "2 3", "4 5" }, picked)
    assert.same({ "eager", 0.25, 2, 2 }, { lines[2].policy, lines[2].at, lines[2].queued, lines[2].cost })
    assert.near(0.15, lines[2].waited_s[1], 1e-9)
    assert.equal(row.batches, #lines)
    for _, line in ipairs(lines) do assert.is_true(row.dispatched[line.reason] > 0) end
  end)

  it("show the order that a policy has chosen", function()
    local lines = lines_of("examples/policies/shortest_first.lua", {
      arrivals = "poisson:rate=1000,tokens=uniform(1,1000)",
      limit = 200, service = "0.1" })
    local is_shuffled, seen = false, {}
    for _, line in ipairs(lines) do
      for _, number in ipairs(line.picked) do
        assert.is_nil(seen[number])
        seen[number] = true
      end
      is_shuffled = is_shuffled or line.picked[2] and line.picked[2] < line.picked[1]
    end
    assert.equal(200, #seen)
    assert.is_true(is_shuffled)
  end)

  -- Asked at 0, 0.1 and 0.2 it waits for a third record; at 0.3 and 0.4 for time; at 0.45 it is asked by its own wish.
  it("have one line for the times since the last batch at which a policy named nobody, and till when", function()
    local lines = lines_of("tests/lua/sim/waits.lua", { arrivals = "constant:rate=10", limit = 7, service = "0.05",
      set = { { "max_batch_size", 10 }, { "batch_timeout_s", 5 } } })
    local shown = {}
    for i, line in ipairs(lines) do
      shown[i] = line.reason == "wait" and { line.at, line.last, line.asked, line.queued, line["until"] }
        or { line.at, #line.picked }
    end
    assert.same({ { 0, 0.4, 5, 5, 0.45 }, { 0.45, 5 }, { 0.5, 0.5, 1, 1, json.null }, { 0.6, 2 } }, shown)
    assert.same({ "wait", 1, false, false }, { lines[1].reason, lines[1].idle_slots, lines[1].full, lines[1].due })
    assert.equal("policy", lines[2].reason)
  end)

  it("are never more than two a batch, however often a policy is asked", function()
    local lines, row = lines_of("on_time:slo_s=1", { arrivals = "poisson:rate=200,tokens=uniform(1,500)", limit = 2000,
      service = "0.02 + 0.00005*tokens", set = { { "max_batch_size", 8 }, { "max_concurrent_batches", 2 } } })
    assert.is_true(#lines <= 2 * row.batches + 1)
    local went = 0
    for i, line in ipairs(lines) do
      if line.reason ~= "wait" then went = went + 1
      else assert.are_not.equal("wait", lines[i + 1] and lines[i + 1].reason) end
    end
    assert.equal(row.batches, went)
  end)

  it("cannot be written where there is no folder", function()
    local file, message = decisions.open "/nowhere/at/all"
    assert.is_nil(file)
    assert.is_truthy(message:find("--decisions: /nowhere", 1, true))
  end)
end)
