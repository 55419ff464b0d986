-- Small numbers for keys: one while a record has the key, and for the next key afterwards.

local H = require "tests.lua.helper"
local Keys = require "tokenbatcher.core.keys"
local tb = require "tokenbatcher"

describe("the numbers of keys", function()
  it("are one a name, for as many records as have it, and the names are known", function()
    local keys = Keys.new()
    assert.same({ 0, 1, 2, 1 }, { keys:take "", keys:take "a", keys:take "b", keys:take "a" })
    assert.same({ "", "a", "b" }, { keys:name(0), keys:name(1), keys:name(2) })
    assert.same({ 0, 1, 2 }, { keys:id "", keys:id "a", keys:id "b" })
    keys:give(1)
    assert.same({ 1, "a" }, { keys:id "a", keys:name(1) }) -- one record has it still
    keys:give(1)
    assert.same({ nil, nil }, { keys:id "a", keys:name(1) })
    keys:give(0) -- "" is never forgotten
    assert.same({ 0, "" }, { keys:id "", keys:name(0) })
  end)

  it("are used again, the last given back first", function()
    local keys = Keys.new()
    for _, name in ipairs { "a", "b", "c" } do keys:take(name) end
    keys:give(1)
    keys:give(3)
    assert.same({ 3, 1, 4 }, { keys:take "d", keys:take "e", keys:take "f" })
    assert.same({ "d", "e" }, { keys:name(3), keys:name(1) })
  end)

  it("do not grow with keys that come and go", function()
    local keys, most = Keys.new(), 0
    for i = 1, 1000 do
      local number = keys:take("k" .. i)
      most = math.max(most, number)
      keys:give(number)
    end
    assert.equal(1, most)
  end)

  for name, options in pairs { key = "key", group = "group" } do
    it("of a " .. name .. " are given back by a record that is refused for room", H.virtually(function()
      local batcher = H.start { on_full = "reject", max_queue_size = 1, max_batch_size = 1, takes = 1 }
      H.occupy(batcher)
      assert(batcher:submit "waits")
      for i = 1, 1000 do
        local _, err = batcher:submit("r", { [options] = "k" .. i })
        assert.equal("queue_full", err.code)
      end
      local numbers = name == "key" and batcher._keys or batcher._groups
      assert.equal(1, numbers:take "another")
      batcher:stop()
    end))

    it("of a " .. name .. " are given back by records that run, expire or are cancelled", H.virtually(function()
      local batcher = H.start { takes = 1, batch_timeout_s = 10 }
      for round = 1, 3 do
        local cancelled = batcher:submit("c", { [options] = "c" .. round })
        batcher:submit("e", { [options] = "e" .. round, timeout_s = 0.001 })
        batcher:submit("r", { [options] = "r" .. round })
        cancelled:cancel()
        tb.sleep(0.5)
        batcher:flush()
        tb.sleep(2)
      end
      local numbers = name == "key" and batcher._keys or batcher._groups
      assert.equal(3, math.max(numbers:take "x", numbers:take "y", numbers:take "z"))
      batcher:stop()
    end))
  end
end)
