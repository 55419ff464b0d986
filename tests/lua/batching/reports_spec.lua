-- What is told of a batch once it is over, and when it is written down.

local cli = dofile "tests/lua/cli_helper.lua"
local H = dofile "tests/lua/helper.lua"
local json = require "tokenbatcher.base.json"
local tb = require "tokenbatcher"

local virtually = H.virtually

local function lines_of(path)
  local out = {}
  for line in io.lines(path) do out[#out + 1] = assert(json.decode(line)) end
  return out
end

-- A policy that takes all there is, and notes what it is told.
local function noting(reports)
  return {
    form = function(queue, batch)
      for i = 1, queue.size do batch:add(i) end
    end,
    on_complete = function(report) reports[#reports + 1] = report end,
  }
end

describe("a batch that timed out", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  it("is told to on_complete, as it stood then", virtually(function()
    local reports = {}
    local batcher = H.start { policy = noting(reports), takes = 5, inference_timeout_s = 1 }
    batcher:submit_batch({ "a", "b", "c" }, { estimated_tokens = { 2, 3, 4 } })
    tb.sleep(2)
    assert.equal(1, #reports)
    local r = reports[1]
    assert.same({ 3, 9, 12, 3, 1, 1 }, { r.size, r.cost, r.padded, r.failed, r.service_s, r.now })
    tb.sleep(10)
    assert.equal(1, #reports) -- its call has ended late, which is told nobody
    batcher:stop()
  end))

  it("is written into the recording", virtually(function()
    local path = cli.path "timeout.jsonl"
    local batcher = H.start { record = path, takes = 5, inference_timeout_s = 1, policy = "eager" }
    batcher:submit("a", { estimated_tokens = 2 })
    tb.sleep(2)
    batcher:stop()
    local lines = lines_of(path)
    assert.same({ 3, 1, 1, 1 }, { #lines, lines[3].records, lines[3].service_s, lines[3].failed })
  end))

  it("but not one that was abandoned by stop", virtually(function()
    local reports = {}
    local batcher = H.start { policy = noting(reports), takes = 5 }
    batcher:submit "a"
    tb.sleep(1)
    batcher:stop { timeout_s = 1 }
    assert.equal(0, #reports)
  end))
end)

describe("observe", function()
  -- "bad" fails its batch; each call says what it used.
  local function picky(records, info)
    info.usage = { total_tokens = 10 * #records }
    for _, record in ipairs(records) do
      if record == "bad" then error "bad" end
    end
    return records
  end

  it("is not told of a bisected batch, whose usage counts some records several times", virtually(function()
    local seen, reports = {}, {}
    local batcher = H.start { inference_fn = picky, on_error = "bisect", policy = noting(reports),
      token_estimator = setmetatable({ observe = function(_, costs, usage) seen[#seen + 1] = #costs .. ":"
        .. usage.total_tokens end }, { __call = function() return 1 end }) }
    batcher:submit_batch { "a", "b" }
    tb.sleep(1)
    batcher:submit_batch { "c", "bad", "d", "e" }
    tb.sleep(1)
    batcher:submit_batch { "f" }
    batcher:stop()
    assert.same({ "2:20", "1:10" }, seen)
    assert.same({ 20, 100, 10 }, { reports[1].usage.total_tokens, reports[2].usage.total_tokens,
      reports[3].usage.total_tokens }) -- 4, then 2, 1, 1 and 2
    assert.same({ nil, 5, nil }, { reports[1].requests, reports[2].requests, reports[3].requests })
  end))
end)

describe("a recording", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  local function recorded(options)
    options.record = cli.path "r.jsonl"
    return H.start(options), options.record
  end

  it("is on disk within a second of what was recorded, when something else is", virtually(function()
    local batcher, path = recorded { batch_timeout_s = 100 }
    batcher:submit "first"
    tb.sleep(0.9)
    batcher:submit "second"
    assert.equal(1, #lines_of(path)) -- the header
    tb.sleep(0.1)
    batcher:submit "third" -- a second has passed
    assert.equal(4, #lines_of(path))
    tb.sleep(0.9)
    batcher:submit "fourth"
    assert.equal(4, #lines_of(path))
    tb.sleep(0.1)
    batcher:submit "fifth"
    assert.equal(6, #lines_of(path))
    batcher:stop()
  end))

  it("is so when a batch ends, too", virtually(function()
    local batcher, path = recorded { policy = "eager", takes = 1.5 }
    batcher:submit "first"
    assert.equal(1, #lines_of(path))
    tb.sleep(1.6)
    assert.equal(3, #lines_of(path))
    batcher:stop()
  end))

  it("goes on after a pause as if it had been none", virtually(function()
    local batcher, path = recorded { policy = "eager" }
    tb.sleep(1)
    batcher:submit "a"
    tb.sleep(2)
    batcher:submit "b"
    batcher:stop()
    tb.sleep(1000)
    batcher:start()
    tb.sleep(0.5)
    batcher:submit "c"
    batcher:stop()
    local at = {}
    for _, line in ipairs(lines_of(path)) do
      if line.turn then at[#at + 1] = line.at end
    end
    assert.same({ 1, 3, 3.5 }, at)
  end))
end)
