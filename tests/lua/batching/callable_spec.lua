-- An inference function that is a callable table may say how it wants to be used: defaults, group, max_records.

local H = require "tests.lua.helper"
local options = require "tokenbatcher.core.options"
local tb = require "tokenbatcher"

local virtually = H.virtually

-- A callable table that answers "group:size" for each record, with these fields.
local function callable(fields)
  return setmetatable(fields, { __call = function(_, records, info)
    local results = {}
    for i = 1, #records do results[i] = info.group .. ":" .. #records end
    return results
  end })
end

describe("an inference function's defaults:", function()
  local fn = callable { defaults = { max_batch_size = 3, target_batch_cost = 50 } }

  it("are used where a script sets none; what it sets wins, by either name", function()
    local function read(given, name)
      given.inference_fn = fn
      return tb.TokenBatcher(given):option(name)
    end
    assert.equal(3, read({}, "max_batch_size"))
    assert.equal(50, read({}, "target_batch_cost"))
    assert.equal(9, read({ max_batch_size = 9 }, "max_batch_size"))
    assert.equal(9, read({ target_batch_cost = 9 }, "target_batch_cost"))
    assert.equal(9, read({ target_batch_tokens = 9 }, "target_batch_cost"))
    assert.equal(256, tb.TokenBatcher { inference_fn = callable {} }:option "max_batch_size")
    assert.equal(3, tb.DynamicBatcher { process_fn = fn }:option "max_batch_size")
  end)

  it("hold for a script that is loaded again, and do not change what was given", function()
    local given = { inference_fn = fn }
    assert.equal(3, options.complete(given).max_batch_size)
    assert.equal(5000, options.complete(given).max_queue_size)
    assert.same({ inference_fn = fn }, given)
    assert.equal(50, options.with_defaults(given).target_batch_cost)
  end)

  it("a wrong one is told like any other option", function()
    assert.matches("option 'max_batch_size' must be a whole number from 1", (H.message(tb.TokenBatcher,
      { inference_fn = callable { defaults = { max_batch_size = 0 } } })))
    assert.matches("unknown option 'max_bach_size'; did you mean 'max_batch_size'", (H.message(tb.TokenBatcher,
      { inference_fn = callable { defaults = { max_bach_size = 1 } } })))
  end)

  it("max_records bounds max_batch_size, at construction and in set", function()
    local limited = callable { max_records = 4, name = "mine" }
    local said = "option 'max_batch_size' is 256, and mine takes at most 4 records a call: set max_batch_size = 4"
    assert.matches(said, (H.message(tb.TokenBatcher, { inference_fn = limited })))
    local batcher = tb.TokenBatcher { inference_fn = print }
    assert.matches(said, (H.message(batcher.set, batcher, { inference_fn = limited })))
    batcher:set { inference_fn = limited, max_batch_size = 4 }
    assert.matches("'max_batch_size' is 5", (H.message(batcher.set, batcher, { max_batch_size = 5 })))
  end)
end)

describe("F1: group(record) of the inference function", function()
  local function grouped() return callable { group = function(_, record) return record.g end } end

  local function start(given)
    given.inference_fn = given.inference_fn or grouped()
    local batcher = tb.TokenBatcher(given)
    batcher:start()
    return batcher
  end

  local A, B, NONE = { g = "a" }, { g = "b" }, {}

  it("is a record's group where none is given; joined to the one that is", virtually(function()
    local batcher = start {}
    local futures = { batcher:submit(A), batcher:submit(A), batcher:submit(B), batcher:submit(NONE),
      batcher:submit(A, { group = "x" }), batcher:submit(NONE, { group = "x" }), batcher:try_submit(NONE,
        { group = "x" }) }
    assert.same({ "a:2", "a:2", "b:1", ":1", "x\na:1", "x:2", "x:2" }, (tb.gather(futures)))
    batcher:stop()
  end))

  it("holds for each record of submit_batch, and leaves the caller's options as they are", virtually(function()
    local batcher = start {}
    local opts = { group = "x", priority = 2 }
    assert.same({ "x\na:1", "x\nb:1", "x:1" }, (tb.gather(batcher:submit_batch({ A, B, NONE }, opts))))
    assert.same({ "a:2", "a:2" }, (tb.gather(batcher:submit_batch { A, A })))
    assert.same({ group = "x", priority = 2 }, opts)
    batcher:stop()
  end))

  it("R8: records of unequal groups do not join", virtually(function()
    local batcher = start { join = function() return "same" end }
    local futures = { batcher:submit(A), batcher:submit(A), batcher:submit(B) }
    assert.same({ "a:1", "a:1", "b:1" }, (tb.gather(futures)))
    assert.same({ "a:1", "b:1", "a:1" }, (tb.gather(batcher:submit_batch { A, B, A })))
    assert.equal(2, batcher.stats.total_joined)
    batcher:stop()
  end))

  it("one that raises, suspends or returns what is no string: submit raises, and nothing is enqueued",
    virtually(function()
      local kind
      local batcher = start { inference_fn = callable { group = function()
        if kind == "raise" then error "oops" end
        if kind == "suspend" then tb.sleep(1) end
        return 5
      end } }
      local cases = { raise = "group raised: .*oops", suspend = "bad_group", number = "returned 5; a string" }
      for how, said in pairs(cases) do
        kind = how
        assert.matches("callable_spec.lua:%d+: bad_group: the inference function's group", (H.message(function()
          batcher:submit(A)
        end)))
        assert.matches(said, (H.message(batcher.submit, batcher, A)))
        assert.matches("bad_group", (H.message(batcher.submit_batch, batcher, { A, B })))
      end
      assert.equal(0, batcher.stats.total_submitted)
      batcher:stop()
    end))

  it("follows the function that set gives", virtually(function()
    local batcher = start {}
    batcher:set { inference_fn = callable {} }
    assert.same({ ":2", ":2" }, (tb.gather { batcher:submit(A), batcher:submit(B) }))
    batcher:stop()
  end))
end)
