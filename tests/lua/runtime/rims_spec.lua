-- What lies at a rim of the runtime, and nothing else met.

local errors = require "tokenbatcher.base.errors"
local Future = require "tokenbatcher.runtime.future"
local H = require "tests.lua.helper"
local tasks = require "tokenbatcher.runtime.tasks"
local tb = require "tokenbatcher"

local function run(fn) return pcall(tb.run, fn, { clock = "virtual" }) end

describe("a future", function()
  it("settles once: what comes later changes nothing and tells nobody", function()
    local told, future = 0, Future.new(false, false)
    Future.on_settled(future, function() told = told + 1 end)
    assert.is_true(Future.settle(future, "first"))
    assert.is_false(Future.settle(future, "second"))
    assert.is_false(Future.settle(future, nil, errors.new("late", "too late")))
    assert.same({ "first", 1 }, { Future.outcome(future), told })
  end)

  it("that has settled tells at once who wants to be told", function()
    local told, future = nil, Future.new(false, false)
    Future.settle(future, "value")
    Future.on_settled(future, function(settled) told = settled end)
    assert.equal(future, told)
  end)
end)

describe("a task", function()
  it("that does not wait is not woken", H.virtually(function()
    tasks.wake(tasks.waiter(), "early")
    local began = tb.now()
    tb.sleep(1)
    assert.equal(1, tb.now() - began)
  end))

  it("that is told twice that nobody wants it ends", H.virtually(function()
    local steps = {}
    local task = tasks.start(function()
      tb.sleep(1)
      for i = 1, 3 do steps[i] = (pcall(tasks.require_wanted, "call")) end
    end, { n = 0 }, function(_, ok, err) steps.ok, steps.code = ok, err.code end)
    task.is_unwanted = true
    tb.sleep(2)
    assert.same({ false, ok = false, code = "cancelled" }, steps)
  end))

  it("knows what it is inside of, and no longer than it is", H.virtually(function()
    local inner, outer
    tasks.guarded("outer", function()
      tasks.guarded("inner", function() inner = tasks.context() end)
      outer = tasks.context()
    end)
    assert.same({ "inner", "outer", nil }, { inner, outer, tasks.context() })
  end))
end)

describe("run", function()
  it("raises an error object with the traceback that it brings", function()
    local ok, err = run(function() error(errors.new("mine", "it failed", nil, "where it was"), 0) end)
    assert.same({ false, "mine", "where it was" }, { ok, err.code, err.traceback })
  end)

  it("remembers who failed and was not awaited, though a thousand that were fill the list", function()
    local ok, err = run(function()
      local failed = {}
      for i = 1, 1000 do
        failed[i] = tb.spawn(function() error("awaited " .. i, 0) end)
        if i == 999 or i == 1000 then
          tb.sleep(1)
          for k = i == 999 and 1 or 1000, i do failed[k]:await() end
        end
      end
      tb.spawn(function() error("nobody awaits this one", 0) end)
      tb.sleep(1)
    end)
    assert.is_false(ok)
    assert.matches("nobody awaits this one", tostring(err))
  end)
end)

describe("the virtual clock", function()
  it("never goes back", H.virtually(function()
    tb.sleep(5)
    tasks.sleep_until(1e6)
    assert.equal(5, tb.now())
  end))
end)
