-- The life of a policy in a batcher: where it comes from, what it hands on when it is
-- replaced, whom a batch is reported to.

local tb = require "tokenbatcher"
local H = dofile "tests/spec/helper.lua"
local virtually = H.virtually

local written = {}

local function write(text)
  local path = os.tmpname() .. ".lua"
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
  written[#written + 1] = path
  return path
end

teardown(function()
  for _, path in ipairs(written) do os.remove(path) end
end)

describe("a policy file", function()
  before_each(function() rawset(_G, "tb_times_loaded", 0) end)
  after_each(function() rawset(_G, "tb_times_loaded", nil) end)

  local COUNTED = [[
tb_times_loaded = tb_times_loaded + 1
return { form = function(queue, batch) batch:add(queue.size) end }]]

  it("runs once for each time it is named", virtually(function()
    local path = write(COUNTED)
    local batcher = H.start { policy = path }
    assert.equal(1, rawget(_G, "tb_times_loaded"))
    batcher:set { max_batch_size = 7 }
    assert.equal(1, rawget(_G, "tb_times_loaded"))
    batcher:set { policy = path }
    assert.equal(2, rawget(_G, "tb_times_loaded"))
    batcher:stop()
    batcher:start()
    assert.equal(2, rawget(_G, "tb_times_loaded"))
    batcher:stop()
  end))

  it("may vanish: the policy that it made stays, and other options can be set", virtually(function()
    local path = write(COUNTED)
    local batcher, calls = H.start { policy = path, batch_timeout_s = 9 }
    os.remove(path)
    batcher:set { on_error = "bisect", batch_timeout_s = 1 }
    H.submit_costs(batcher, { 1, 1 })
    batcher:stop()
    assert.same({ "r2", "r1" }, H.batches(calls))
    assert.has_error(function() batcher:set { policy = path } end)
  end))

  it("may vanish before the first start", virtually(function()
    local path = write(COUNTED)
    local infer, calls = H.recorder()
    local batcher = tb.TokenBatcher { inference_fn = infer, policy = path }
    os.remove(path)
    batcher:start()
    H.submit_costs(batcher, { 1, 1 })
    batcher:stop()
    assert.same({ "r2", "r1" }, H.batches(calls))
  end))
end)

describe("queue and batch", function()
  it("cannot be changed by a policy, not even where a method is", virtually(function()
    local names = { queue = { "cost", "of", "size", "due", "whatever" }, batch = { "add", "limit", "cost", "own" } }
    local refused = 0
    local batcher, calls = H.start { policy = { form = function(queue, batch)
      local objects = { queue = queue, batch = batch }
      for name, object in pairs(objects) do
        for _, field in ipairs(names[name]) do
          for _, value in ipairs { false, 7 } do
            if not pcall(function() object[field] = value or nil end) then refused = refused + 1 end
          end
        end
        assert(type(getmetatable(object)) == "string")
      end
      for i = 1, queue.size do batch:add(i) end
    end } }
    H.submit_costs(batcher, { 1, 2 })
    batcher:stop()
    assert.equal(18, refused)
    assert.same({ "r1 r2" }, H.batches(calls))
    assert.equal(0, batcher.stats.policy_errors)
  end))

  it("an iterator kept from an earlier call raises in a later one", virtually(function()
    local kept, messages = nil, {}
    local batcher = H.start { policy = { form = function(queue, batch)
      if not kept then
        kept = { { queue:near(1) }, { queue:of "a" } }
      else
        for i, iterator in ipairs(kept) do messages[i] = H.message(iterator[1], iterator[2], iterator[3]) end
      end
      batch:add(1)
    end } }
    batcher:submit(1, { key = "a" })
    batcher:submit(2, { key = "a" })
    batcher:stop()
    assert.equal(2, #messages)
    for _, message in ipairs(messages) do assert.matches("valid only during the call of form", message) end
  end))
end)
