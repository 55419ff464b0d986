-- What lies at a rim of the batcher, and nothing else met.

local cli = dofile "tests/lua/cli_helper.lua"
local errors = require "tokenbatcher.base.errors"
local json = require "tokenbatcher.base.json"
local Keys = require "tokenbatcher.core.keys"
local suspects = require "tokenbatcher.batching.suspects"
local H = require "tests.lua.helper"
local tasks = require "tokenbatcher.runtime.tasks"
local tb = require "tokenbatcher"
local virtually = H.virtually

describe("tb.with", function()
  it("cancels what is queued in the order in which it came", virtually(function()
    local batcher, order = tb.TokenBatcher { inference_fn = H.recorder(), batch_timeout_s = 100 }, {}
    pcall(tb.with, batcher, function()
      for i = 1, 20 do
        tb.spawn(function()
          local _, err = batcher:submit("r" .. i):await()
          order[#order + 1] = err.code .. i
        end)
      end
      tb.sleep(0.01)
      error "stop here"
    end)
    tb.sleep(0.01)
    local expected = {}
    for i = 1, 20 do expected[i] = "cancelled" .. i end
    assert.same(expected, order)
  end))
end)

describe("R7: a suspect's record that fails for another reason than inference", function()
  it("keeps it suspect no longer", virtually(function()
    local calls = {}
    local batcher = tb.TokenBatcher { on_error = "bisect", batch_timeout_s = 0.01, suspect_s = 2,
      inference_fn = function(records)
        calls[#calls + 1] = table.concat(records, " ")
        if records[1] == "slow" then tb.sleep(0.2) end
        for _, record in ipairs(records) do
          if record == "bad" then error "bad" end
        end
        return records
      end }
    batcher:start()
    batcher:submit("good", { key = "g" })
    batcher:submit("bad", { key = "b" })
    tb.sleep(1.5)
    local slow = batcher:submit("slow", { key = "b" })
    tb.sleep(0.1)
    assert.is_true(slow:cancel()) -- it runs
    tb.sleep(0.6) -- 2.2 s since the failure, 0.6 s since the cancel
    batcher:submit("x", { key = "b" })
    batcher:submit("y", { key = "g" })
    tb.sleep(0.1)
    assert.equal("x y", calls[#calls])
    batcher:stop()
  end))
end)

describe("an inference call", function()
  it("knows until when its answer is wanted", virtually(function()
    local told = {}
    local batcher = H.start { batch_timeout_s = 0, inference_timeout_s = 3, inference_fn = function(records, info)
      told[#told + 1] = info.timeout_at
      return records
    end }
    tb.sleep(2)
    batcher:submit("a"):await()
    batcher:set { inference_timeout_s = false }
    batcher:submit("b"):await()
    assert.same({ 5 }, told)
    batcher:stop()
  end))

  it("learns that nobody wants it any more when all of its records are cancelled, and not before", virtually(function()
    local wanted = {}
    local batcher = H.start { policy = "eager", max_batch_size = 2, inference_fn = function(records)
      for i = 1, 3 do
        tb.sleep(1)
        wanted[i] = pcall(tasks.require_wanted, "call")
      end
      return records
    end }
    local futures = batcher:submit_batch { "a", "b" }
    tb.sleep(0.5)
    futures[1]:cancel()
    tb.sleep(1)
    futures[2]:cancel()
    tb.sleep(5)
    assert.same({ true, false }, wanted) -- and one that goes on all the same ends
    batcher:stop()
  end))

  it("that is called off after its timeout and goes on all the same ends, which is said to nobody", virtually(function()
    local said = {}
    local batcher = H.start { policy = "eager", inference_timeout_s = 1,
      log = function(_, text) said[#said + 1] = text end, inference_fn = function()
        tb.sleep(2)
        pcall(tasks.require_wanted, "call") -- it is told,
        tasks.require_wanted "call" -- and begins something
        error "never"
      end }
    batcher:submit "a"
    tb.sleep(5)
    assert.equal(0, batcher.stats.abandoned_calls)
    batcher:stop()
    assert.same({}, said)
  end))
end)

describe("a batch", function()
  it("is not handed over when who has the last say cancels all of it", virtually(function()
    local batcher, calls = H.start { policy = "eager" }
    batcher:gate(function(futures, n)
      for i = 1, n do futures[i]:cancel() end
    end)
    local _, err = batcher:submit("a"):await()
    batcher:gate(function(futures) futures[1]:cancel() end)
    local futures = batcher:submit_batch { "b", "c" }
    tb.gather(futures)
    batcher:stop()
    assert.same({ "cancelled", 1, 2 }, { err.code, #calls, calls[1].size })
  end))

  it("that fails with an error object keeps its traceback", virtually(function()
    local batcher = H.start { policy = "eager", inference_fn = function()
      error(errors.new("mine", "it failed", nil, "where it was first raised"), 0)
    end }
    local _, err = batcher:submit("a"):await()
    batcher:stop()
    assert.same({ "inference_failed", "where it was first raised" }, { err.code, err.traceback })
  end))
end)

describe("R6: ask, in a batch that is bisected and then times out", function()
  it("asks again at once, and is answered", virtually(function()
    local batcher = tb.TokenBatcher { on_error = "bisect", batch_timeout_s = 0, max_batch_size = 4,
      inference_timeout_s = 1, inference_fn = function(records, info)
        if info.size == 4 and info.attempt == 1 and records[1] == "r1" then error "all of them" end
        if records[1] == "r3" then tb.sleep(10) end
        return records
      end }
    batcher:start()
    local out = {}
    for i = 1, 4 do
      tb.spawn(function()
        batcher:ask "warm" -- a future that this task asks with again
        tb.sleep(1)
        local result, err = batcher:ask("r" .. i)
        out[i] = result or err.code
        if i < 3 then
          result, err = batcher:ask("again" .. i)
          out[i + 4] = result or err.code
        end
      end)
    end
    tb.sleep(20)
    assert.same({ "r1", "r2", "inference_timeout", "inference_timeout", "again1", "again2" }, out)
    assert.is_true(H.is_conserved(batcher.stats))
    batcher:stop()
  end))
end)

describe("what a policy's limit refuses", function()
  local function limited() return H.start { policy = tb.policy.rate_limited { tokens_per_minute = 10 } } end

  it("is counted, and what meets it exactly is let in, alone and in a list", virtually(function()
    local batcher = limited()
    assert.equal("oversize", select(2, batcher:submit("a", { estimated_cost = 11 })).code)
    assert.equal("oversize", select(2, batcher:submit_batch({ "b", "c" }, { estimated_cost = { 1, 11 } })).code)
    assert.same({ 3, 0 }, { batcher.stats.total_rejected, batcher.stats.total_submitted })
    assert.is_not_nil(batcher:submit("d", { estimated_cost = 10 }))
    assert.equal(1, #batcher:submit_batch({ "e" }, { estimated_cost = { 10 } }))
    batcher:stop()
  end))

  it("takes back what is in, where it comes to be half-way through a list", virtually(function()
    local batcher = H.start { batch_timeout_s = 100 }
    batcher._recording = { turn_over = function() end, close = function() end, arrival = function()
      batcher._max_record_cost = 5 -- as a log function may, by another policy
    end }
    local futures, err = batcher:submit_batch({ "a", "b" }, { estimated_cost = { 1, 10 } })
    assert.same({ nil, "oversize" }, { futures, err.code })
    assert.same({ 1, 1, 0 }, { batcher.stats.total_submitted, batcher.stats.total_cancelled, batcher.stats.queue_size })
    batcher._recording = false
    batcher:stop()
  end))
end)

describe("joining", function()
  local function joined(options, second)
    options.join = function(record) return record end
    local batcher = H.start(options)
    batcher:submit("x", { batch_timeout_s = second and second.first })
    batcher:submit("x", second and second.opts)
    local n = batcher.stats.total_joined
    batcher:stop()
    return n
  end

  it("joins a record that is due at the same instant", virtually(function()
    assert.equal(1, joined({}, { first = 0, opts = { batch_timeout_s = 0 } }))
    assert.equal(1, joined({ batch_timeout_s = 0 }, { opts = { batch_timeout_s = 0 } }))
  end))

  it("R8: joins none that is due later than half of one's own timeout", virtually(function()
    assert.equal(0, joined({ batch_timeout_s = 1 }, { opts = { timeout_s = 1.5 } }))
    assert.equal(1, joined({ batch_timeout_s = 1 }, { opts = { timeout_s = 2 } }))
  end))
end)

describe("a timeout", function()
  it("below a microsecond is one, and not none", virtually(function()
    local batcher = H.start { batch_timeout_s = 100, takes = 1 }
    H.occupy(batcher)
    local future = batcher:submit("a", { timeout_s = 1e-9 })
    tb.sleep(0.01)
    assert.equal("deadline", select(2, future:await(0)).code)
    batcher:stop()
  end))
end)

describe("suspects, kept by name,", function()
  local function new()
    local batcher = tb.TokenBatcher { inference_fn = H.recorder() }
    return suspects.new(batcher._handle, Keys.new()), batcher
  end

  it("are at most 10,000: the one whose last failure is longest ago is forgotten", function()
    local list, batcher = new()
    for i = 1, 10000 do list:blame("k" .. i, i) end
    list:blame("k1", 10001)
    list:blame("one more", 10002)
    assert.same({ true, false, true, true }, { list:has "k1", list:has "k2", list:has "k10000", list:has "one more" })
    assert.is_nil(H.broken(batcher))
  end)

  it("are cleared by eight answers since their last failure", function()
    local list = new()
    list:blame("k", 1)
    for i = 1, 7 do list:answered("k", 1 + i) end
    list:blame("k", 10)
    for i = 1, 7 do list:answered("k", 10 + i) end
    assert.is_true(list:has "k")
    list:answered("k", 20)
    assert.is_false(list:has "k")
  end)

  it("are looked at when the first of them is one no more", virtually(function()
    local batcher = H.start { on_error = "bisect", suspect_s = 2, batch_timeout_s = 0.01,
      inference_fn = function(records)
      for _, record in ipairs(records) do
        if record == "bad" then error "bad" end
        if record == "long" then tb.sleep(100) end
      end
      return records
    end }
    batcher:submit("good", { key = "g" })
    batcher:submit("bad", { key = "b" })
    tb.sleep(0.1)
    batcher:submit "long"
    tb.sleep(0.1)
    batcher:submit("waits", { key = "b" })
    tb.sleep(0.1)
    assert.equal(2.01e6, batcher:next_us())
    batcher._watcher = { turned = function() end } -- who has no time of his own
    assert.equal(2.01e6, batcher:next_us())
    batcher._watcher = nil
    batcher:stop()
  end))
end)

describe("a policy that raises", function()
  it("is not asked again in the same turn: one fault is one error", virtually(function()
    local batcher = H.start { max_concurrent_batches = 3, max_batch_size = 1, takes = 1, log = function() end,
      policy = { form = function() error "broken" end } }
    batcher:submit_batch { "a", "b", "c" }
    tb.sleep(0.5)
    assert.same({ 3, 1 }, { batcher.stats.running_batches, batcher.stats.policy_errors })
    batcher:stop()
  end))
end)

describe("a batcher", function()
  it("tells an inference function that it rests when another takes its place, and at stop", virtually(function()
    local told = {}
    local function resting(name)
      return setmetatable({ on_stop = function() told[#told + 1] = name end },
        { __call = function(_, records) return records end })
    end
    local batcher = H.start { inference_fn = resting "first" }
    batcher:set { max_batch_size = 7 }
    assert.same({}, told)
    batcher:set { inference_fn = resting "second" }
    assert.same({ "first" }, told)
    batcher:stop()
    assert.same({ "first", "second" }, told)
  end))

  it("is turned when who watches it wants to look", virtually(function()
    local batcher = H.start { batch_timeout_s = 100 }
    batcher:submit "a"
    batcher._watcher = { next_us = 7e6, turned = function() end }
    assert.equal(7e6, batcher:next_us())
    batcher._watcher.next_us = nil
    assert.equal(100e6, batcher:next_us())
    batcher._watcher = nil
    batcher:stop()
  end))

  it("knows how many more batches could run", virtually(function()
    local batcher = H.start { policy = "eager", max_batch_size = 1, max_concurrent_batches = 3, takes = 1 }
    assert.equal(3, batcher:idle_slots())
    batcher:submit_batch { "a", "b" }
    tb.sleep(0.5)
    assert.equal(1, batcher:idle_slots())
    batcher:set { max_concurrent_batches = 1 }
    assert.equal(0, batcher:idle_slots())
    batcher:stop()
  end))
end)

describe("a recording", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  local function lines_of(path)
    local out = {}
    for line in io.lines(path) do out[#out + 1] = assert(json.decode(line)) end
    return out
  end

  it("has what was refused of a list, too", virtually(function()
    local path = cli.path "r.jsonl"
    local batcher = H.start { record = path, on_full = "reject", max_queue_size = 3, max_batch_size = 3, takes = 1 }
    H.occupy(batcher)
    batcher:submit_batch { "a", "b" }
    assert.equal("queue_full", select(2, batcher:submit_batch({ "c", "d" }, { estimated_cost = { 5, 6 } })).code)
    batcher:stop()
    local costs = {}
    for _, line in ipairs(lines_of(path)) do
      if line.turn then costs[#costs + 1] = line.cost end
    end
    assert.same({ 1, 1, 1, 5, 6 }, costs)
  end))

  it("says in how many calls a bisected batch ran", virtually(function()
    local path = cli.path "r.jsonl"
    local batcher = H.start { record = path, on_error = "bisect", max_batch_size = 4, inference_fn = function(records)
      for _, record in ipairs(records) do
        if record == "bad" then error "bad" end
      end
      return records
    end }
    batcher:submit_batch { "a", "bad", "c", "d" }
    batcher:submit_batch { "e", "f", "g", "h" }
    batcher:stop()
    local calls = {}
    for _, line in ipairs(lines_of(path)) do
      if line.batch then calls[#calls + 1] = line.calls or "none" end
    end
    assert.same({ 5, "none" }, calls)
  end))

  it("keeps the pseudonyms of a thousand names, and no more", virtually(function()
    local batcher = H.start { record = cli.path "r.jsonl", policy = "eager" }
    for i = 1, 1500 do batcher:submit("a", { key = "k" .. i }) end
    assert.is_true(batcher._recording.pseudonym_count <= 1000)
    batcher:stop()
  end))

  it("whose disk fails closes its file, and says so when nothing is being pulled", virtually(function()
    local said, was_closed, batcher = {}, 0, nil
    batcher = H.start { record = cli.path "r.jsonl", policy = "eager", log = function(_, text)
      said[#said + 1] = tostring(batcher._is_pulling) .. " " .. text
    end }
    batcher:submit("a"):await()
    batcher._recording.file:close()
    batcher._recording.file = {
      write = function() return true end, flush = function() return nil, "no space" end,
      close = function() was_closed = was_closed + 1 end, size = function() return 0 end,
    }
    batcher:stop() -- what it has goes to the file while the end is pulled
    assert.same({ 1, 1 }, { #said, was_closed })
    assert.matches("^false recording has ended: .*no space$", said[1])
  end))
end)
