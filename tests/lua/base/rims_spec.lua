-- What lies at a rim of base: waits, UTF-8 by Lua alone, what errors say.

local backoff = require "tokenbatcher.base.backoff"
local errors = require "tokenbatcher.base.errors"
local expression = require "tokenbatcher.base.expression"
local no_suspend = require "tokenbatcher.base.no_suspend"
local utf8 = require "tokenbatcher.base.utf8"

describe("a wait before something is tried again", function()
  it("is at least what was asked for, and never ends after the time that is left", function()
    for _ = 1, 500 do
      local s = backoff.wait_s(3, 9, { first_s = 5, most_s = 100, left_s = 10 })
      assert.is_true(s >= 9 and s <= 10)
      s = backoff.wait_s(10, nil, { first_s = 1, most_s = 20, left_s = 15 })
      assert.is_true(s >= 0 and s <= 15)
      s = backoff.wait_s(10, nil, { first_s = 1, most_s = 20 })
      assert.is_true(s >= 0 and s <= 20)
    end
  end)
end)

describe("UTF-8, read by Lua alone", function()
  -- With a place to begin the library is not asked.
  local function wrong(text) return utf8.first_error(text, 1) end

  it("has no surrogates, no longer forms and nothing above U+10FFFF", function()
    for _, text in ipairs { "\237\160\128", "\237\191\191", "\224\159\191", "\240\143\191\191", "\244\144\128\128",
      "\192\128", "\193\191", "\245\128\128\128", "\128" } do
      assert.equal(3, wrong("ab" .. text .. "c"), text:gsub(".", function(c) return c:byte() .. " " end))
    end
  end)

  it("has what lies beside those", function()
    for _, text in ipairs { "\237\159\191", "\238\128\128", "\224\160\128", "\240\144\128\128", "\244\143\191\191",
      "\194\128", "\224\164\133", "\240\159\152\128", "\237\128\159" } do
      assert.is_nil(wrong("ab" .. text .. "c"))
    end
  end)

  it("is cut nowhere", function()
    assert.same({ 1, 1, 1 }, { wrong "\194", wrong "\224\160", wrong "\240\144\128" })
    assert.equal("a\239\191\189\239\191\189b", utf8.clean "a\237\160b")
  end)
end)

describe("an error object", function()
  it("names its code once, raised or returned", function()
    assert.equal("queue_full: no room", tostring(errors.new("queue_full", "no room")))
    local _, err = pcall(errors.raise, "bad_cost", "it is nil")
    assert.equal(1, select(2, tostring(err):gsub("bad_cost", "")))
    assert.matches("bad_cost: it is nil$", tostring(err))
  end)

  it("shows a string short, and quoted", function()
    assert.equal('"' .. ("x"):rep(40) .. '..."', errors.show(("x"):rep(41)))
    assert.equal('"' .. ("x"):rep(40) .. '"', errors.show(("x"):rep(40)))
    assert.equal('"a\\nb"', errors.show "a\nb")
  end)

  it("says what may be meant, if anything is near", function()
    local known = { "batch_timeout_s", "max_batch_size" }
    assert.equal("max_batch_size", errors.near("max_bach_size", known))
    assert.is_nil(errors.near("prefetch", known))
    assert.equal("max_batch_size", errors.nearest("size", known))
  end)
end)

describe("what can be called", function()
  it("is a function, or a table whose metatable says how", function()
    assert.is_true(errors.is_callable(print))
    assert.is_true(errors.is_callable(setmetatable({}, { __call = print })))
    assert.is_false(errors.is_callable(setmetatable({}, { __index = print })))
    assert.is_false(errors.is_callable {})
    assert.is_false(errors.is_callable "text")
  end)
end)

describe("a function that must not suspend", function()
  it("is told so in words, in a coroutine", function()
    local ok, message
    local co = coroutine.wrap(function() ok, message = no_suspend(function() coroutine.yield() end) end)
    co()
    assert.same({ false, "it tried to suspend, which it must not" }, { ok, message })
    co = coroutine.wrap(function() ok, message = no_suspend(function(a, b) return a + b end, 1, 2) end)
    co()
    assert.same({ true, 3 }, { ok, message })
  end)
end)

describe("an expression", function()
  it("that is empty, or hides something behind a comment, is none", function()
    assert.same({ nil, "is empty" }, { expression.compile(" \n", { "x" }) })
    assert.same({ nil, "'--' has no place in it" }, { expression.compile("x --2", { "x" }) })
    assert.equal(3, expression.compile("x - -2", { "x" })(1))
  end)
end)
