-- The heap of things to happen, beside a list that is sorted anew each time.

local random = require "tokenbatcher.sim.random"
local Timers = require "tokenbatcher.runtime.timers"

-- All tasks, in the order in which they are popped.
local function drained(timers)
  local out = {}
  local task = timers:pop(math.huge)
  while task do
    out[#out + 1] = task
    task = timers:pop(math.huge)
  end
  return out
end

local function add_all(timers, times)
  local entries = {}
  for i, at in ipairs(times) do entries[i] = timers:add(at, "t" .. i) end
  return entries
end

describe("timers", function()
  it("come by time, those of one time in the order in which they were added", function()
    local timers = Timers.new()
    add_all(timers, { 5, 1, 5, 3, 1, 5, 1, 3 })
    assert.same({ "t2", "t5", "t7", "t4", "t8", "t1", "t3", "t6" }, drained(timers))
    assert.same({ 0, nil }, { timers.size, timers:next() })
  end)

  it("come when their time has come, and not before", function()
    local timers = Timers.new()
    timers:add(7, "seven")
    assert.equal(7, timers:next())
    assert.is_nil(timers:pop(6))
    assert.equal("seven", timers:pop(7))
    assert.is_nil(timers:pop(1e9))
  end)

  it("can be removed where what takes their place has to go up", function()
    local timers = Timers.new()
    -- 1 / 10 2 / 11 12 3 4: the last, 4, comes below 10, above which it belongs
    local entries = add_all(timers, { 1, 10, 2, 11, 12, 3, 4 })
    timers:remove(entries[4])
    assert.same({ "t1", "t3", "t6", "t7", "t2", "t5" }, drained(timers))
  end)

  it("can be removed where what takes their place has to go down", function()
    local timers = Timers.new()
    local entries = add_all(timers, { 1, 2, 10, 3, 4, 11, 12 })
    timers:remove(entries[2])
    assert.same({ "t1", "t4", "t5", "t3", "t6", "t7" }, drained(timers))
  end)

  it("once removed or popped are removed no more", function()
    local timers = Timers.new()
    local entries = add_all(timers, { 1, 2, 3 })
    timers:remove(entries[2])
    timers:remove(entries[2])
    assert.equal("t1", timers:pop(1))
    timers:remove(entries[1])
    assert.same({ 1, 3 }, { timers.size, timers:next() })
    assert.same({ "t3" }, drained(timers))
  end)

  it("do what a sorted list does, whatever comes and goes", function()
    local draw = random.new(7, "timers")
    local timers, list, added = Timers.new(), {}, 0
    local function earlier(a, b) return a.at < b.at or a.at == b.at and a.number < b.number end
    for step = 1, 3000 do
      local what = draw:uniform()
      if what < 0.5 then
        added = added + 1
        local item = { at = math.floor(draw:uniform() * 50), number = added }
        item.entry = timers:add(item.at, added)
        list[#list + 1] = item
      elseif what < 0.8 and #list > 0 then
        local item = table.remove(list, 1 + math.floor(draw:uniform() * #list))
        timers:remove(item.entry)
      else
        table.sort(list, earlier)
        local now = math.floor(draw:uniform() * 50)
        local first = list[1] and list[1].at <= now and table.remove(list, 1) or nil
        assert.equal(first and first.number, (timers:pop(now)), "step " .. step)
      end
      assert.equal(#list, timers.size)
    end
  end)
end)
