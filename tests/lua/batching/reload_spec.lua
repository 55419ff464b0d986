-- Hot reload (X4): policy, estimator, inference function and knobs change under load, and
-- nothing is lost. First through batcher:set, then through SIGHUP to tokenbatcher run.

local tb = require "tokenbatcher"
local cli = dofile "tests/lua/cli_helper.lua"
local H = dofile "tests/lua/helper.lua"

local RELOADS, PRODUCERS = 100, 20

-- Each version answers with its own number and the record, so that an answer tells whose it is.
local function answering(version)
  return function(records)
    tb.sleep(0.0005)
    local results = {}
    for i, record in ipairs(records) do results[i] = { version = version, record = record } end
    return results
  end
end

local POLICIES = {
  function() return "fifo" end,
  function() return "length_bucketed" end,
  function() return tb.policy.fair { quantum = 40 } end,
  function() return "examples/policies/shortest_first.lua" end,
  function() return tb.policy.priority { aging_s = 0.01 } end,
  function() return { form = function(queue, batch)
    for i = queue.size, 1, -1 do
      if not batch:add(i) then return end
    end
  end } end,
  function() return "eager" end,
  function() return tb.policy.deadline {} end,
  function() return tb.policy.rate_limited { requests_per_minute = 1e6, inner = "eager" } end,
  function() return "adaptive" end,
}
local ESTIMATORS = {
  function() return tb.estimator.chars {} end,
  function() return tb.estimator.learned { base = "words" } end,
  function() return function(record) return #record end end,
}

-- The settings of the n-th reload: every knob changes at some.
local function settings(n)
  return {
    policy = POLICIES[n % #POLICIES + 1](), token_estimator = ESTIMATORS[n % #ESTIMATORS + 1](),
    inference_fn = answering(n), target_batch_tokens = 20 + n % 7 * 30, max_batch_size = 4 + n % 13,
    min_batch_size = 1 + n % 3, batch_timeout_s = n % 5 * 0.0005, max_queue_size = 5 + n % 50,
    max_concurrent_batches = 1 + n % 4, prefetch_batches = n % 3, cost_model = n % 2 == 0 and "sum" or "padded",
    max_wait_s = n % 3 == 0 and 0.01 or false, max_queue_cost = n % 4 == 0 and 500 or false,
    on_error = POLICIES[n % #POLICIES + 1] == POLICIES[9] and "fail" or n % 2 == 0 and "bisect" or "fail",
  }
end

-- A producer submits record after record, and holds up to 8 futures at a time. Counts answers.
local function produce(batcher, name, seen)
  local pending = {}
  local function collect()
    for _, one in ipairs(pending) do
      local answer, err = one.future:await()
      assert.is_nil(err)
      assert.equal(one.record, answer.record)
      seen.versions[answer.version] = true
      seen.answers = seen.answers + 1
    end
    pending = {}
  end
  local i = 0
  while not seen.is_over do
    i = i + 1
    local record = ("%s record %d%s"):format(name, i, (" word"):rep(i % 17))
    local future = assert(batcher:submit(record, { key = name, priority = i % 3 }))
    pending[#pending + 1] = { record = record, future = future }
    if #pending == 8 then collect() end
  end
  collect()
end

local function reload_under_load()
  local given = settings(0)
  given.log = function(_, text) error(text) end
  local batcher = H.start(given)
  local seen, producers = { versions = {}, answers = 0 }, {}
  for i = 1, PRODUCERS do producers[i] = tb.spawn(produce, batcher, "p" .. i, seen) end
  for n = 1, RELOADS do
    tb.sleep(0.002)
    batcher:set(settings(n))
    local stats = batcher.stats
    assert.truthy(H.is_conserved(stats))
    assert.truthy(stats.queue_size + stats.running_records + stats.prefetched_records > 0, "there is no load")
    assert.is_nil(H.broken(batcher))
  end
  seen.is_over = true
  local _, failures = tb.gather(producers)
  for i = 1, PRODUCERS do assert.is_nil(failures[i], tostring(failures[i])) end
  batcher:stop()
  return batcher.stats, seen
end

local function assert_nothing_lost(stats, seen)
  assert.truthy(H.is_conserved(stats))
  assert.equal(stats.total_submitted, stats.total_completed)
  assert.equal(seen.answers, stats.total_completed)
  assert.equal(0, stats.total_failed + stats.total_cancelled + stats.total_expired + stats.total_rejected)
  assert.equal(0, stats.policy_errors)
  local versions = 0
  for _ in pairs(seen.versions) do versions = versions + 1 end
  assert.truthy(versions > RELOADS / 2, ("only %d versions ever answered"):format(versions))
end

describe("X4: batcher:set under load", function()
  for _, clock in ipairs { "virtual", "real" } do
    it(("changes everything %d times on the %s clock, and every producer gets its own answers"):format(RELOADS, clock),
      function() assert_nothing_lost(H.run(reload_under_load, clock)) end)
  end

  it("takes the same steps each time on the virtual clock", function()
    local first, again = H.run(reload_under_load), H.run(reload_under_load)
    assert.same(first, again)
  end)

  describe("with a policy file that is broken", function()
    setup(cli.new_folder)
    teardown(cli.clean)

    local REVERSED = [[return { form = function(queue, batch)
      if not (queue.full or queue.due) then return end
      for i = queue.size, 1, -1 do
        if not batch:add(i) then return end
      end
    end }]]
    local BROKEN = {
      ["does not parse"] = { "return {", "mine.lua:1:" },
      ["raises"] = { "error 'not today'", "mine.lua:1: not today" },
      ["has no form"] = { "return { from = print }", "no function 'form'" },
      ["returns nothing"] = { "", "got nil" },
      ["is bytecode"] = { string.dump(function() end), "bytecode" },
      ["is a function that raises"] = { "return function() error 'no parameters' end", "no parameters" },
      ["is a function that makes no policy"] = { "return function() return 7 end", "mine.lua" },
    }
    for name, broken in pairs(BROKEN) do
      it("leaves the old one and everything else as it was, and says why: it " .. name, H.virtually(function()
        local path = cli.file("mine.lua", REVERSED)
        local batcher, calls = H.start { policy = path, max_batch_size = 8, batch_timeout_s = 0.01 }
        local futures = batcher:submit_batch { "a", "b", "c" }
        cli.file("mine.lua", broken[1])
        local message = H.message(batcher.set, batcher, { policy = path, max_batch_size = 1, batch_timeout_s = 5 })
        assert.truthy(message:find(broken[2], 1, true), message)
        tb.gather(futures)
        assert.same({ "c b a" }, H.batches(calls))
        assert.equal(0.01, calls[1].at)
        assert.equal(0, batcher.stats.policy_errors)
        batcher:stop()
      end))
    end

    it("reads the file anew at each set, also when it was given with parameters", H.virtually(function()
      local text = "return function(p) return { name = p.word, form = function(_, batch) batch:add(%s) end } end"
      local policies = require "tokenbatcher.policy"
      cli.file("mine.lua", text:format "1")
      local policy = policies.parse(cli.path "mine.lua" .. ":word=x")
      local batcher, calls = H.start { policy = policy, batch_timeout_s = 0.01 }
      tb.gather(batcher:submit_batch { "a", "b" })
      cli.file("mine.lua", text:format "2")
      batcher:set { policy = policy }
      local futures = batcher:submit_batch { "c", "d" }
      futures[2]:await()
      assert.same({ "a", "b", "d" }, H.batches(calls))
      futures[1]:cancel()
      batcher:stop()
    end))
  end)
end)

-- --- SIGHUP -------------------------------------------------------------------------

describe("SIGHUP to tokenbatcher run", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  local SCRIPT = [[local tb = require "tokenbatcher"
    return { policy = %q, max_batch_size = %d, batch_timeout_s = 0, max_queue_size = 40,
      inference_fn = function(records)
        tb.sleep(0.0002)
        local out = {}
        for i, r in ipairs(records) do out[i] = { %d, r } end
        return out
      end }]]

  it("reloads 100 times under load: every line has its answer, in order, and each script answered", function()
    local file = cli.root .. "/examples/policies/shortest_first.lua"
    local policies = { "fifo", "length_bucketed", file, "fair", "eager" }
    local s = cli.start(SCRIPT:format("fifo", 3, 0), { "--set", "default_cost=2" })
    local sent, read, versions = 0, 0, {}
    local function send(n)
      local part = {}
      for i = 1, n do part[i] = sent + i .. "\n" end
      sent = sent + n
      s:send(table.concat(part))
    end
    local function read_up_to(last)
      while read < last do
        read = read + 1
        local line = s:line()
        local version, record = line:match('^{"index":' .. read .. ',"result":%[(%d+),(%d+)%]}$')
        assert.equal(tostring(read), record, line)
        versions[tonumber(version)] = true
      end
    end
    send(100)
    for n = 1, RELOADS do
      send(20)
      read_up_to(sent - 70) -- the rest is in the pipe, queued or running
      cli.file("script.lua", SCRIPT:format(policies[n % #policies + 1], 1 + n % 5, n))
      s:kill "HUP"
      assert.truthy(s:message "SIGHUP":find("reloaded", 1, true))
    end
    s:close_input()
    read_up_to(sent)
    local r = s:finish()
    assert.equal("", r.out)
    assert.equal(0, r.status)
    assert.truthy(r.err:find(("records      %d (%d answered, 0 failed)"):format(sent, sent), 1, true), r.err)
    local count = 0
    for _ in pairs(versions) do count = count + 1 end
    assert.truthy(count > RELOADS / 2, ("only %d scripts ever answered"):format(count))
  end)

  -- A policy that adds records from one end only, as many as `size`.
  local function policy_text(size)
    return ("return { form = function(queue, batch) for i = 1, math.min(%d, queue.size) do batch:add(i) end end }")
      :format(size)
  end
  local SIZES = [[local path = %q
    return { policy = path, batch_timeout_s = 0, inference_fn = function(records, info)
      local out = {}
      for i = 1, info.size do out[i] = info.size end
      return out
    end }]]

  local function assert_size(s, size)
    for _ = 1, 2 do assert.equal(size, tonumber(s:line():match '"result":(%d+)')) end
  end

  it("reads a policy's file anew, named in the script", function()
    local path = cli.file("mine.lua", policy_text(1))
    local s = cli.start(SIZES:format(path))
    s:send "1\n2\n"
    assert_size(s, 1)
    cli.file("mine.lua", policy_text(2))
    s:kill "HUP"
    s:message "reloaded"
    s:send "3\n4\n"
    assert_size(s, 2)
    s:close_input()
    assert.equal(0, s:finish().status)
  end)

  it("reads a policy's file anew, named by --set with parameters", function()
    local text = [[return function(p)
      return { form = function(queue, batch) for i = 1, math.min(p.size + %d, queue.size) do batch:add(i) end end }
    end]]
    local path = cli.file("mine.lua", text:format(0))
    local s = cli.start(SIZES:format "fifo", { "--set", "policy=" .. path .. ":size=1" })
    s:send "1\n2\n"
    assert_size(s, 1)
    cli.file("mine.lua", text:format(1))
    s:kill "HUP"
    s:message "reloaded"
    s:send "3\n4\n"
    assert_size(s, 2)
    s:close_input()
    assert.equal(0, s:finish().status)
  end)

  for name, broken in pairs {
    ["does not parse"] = { "return {", "mine.lua:1:" },
    ["raises"] = { "error 'not today'", "not today" },
    ["is gone"] = { nil, "No such file" },
    ["makes no policy"] = { "return function() return 7 end", "'form'" },
  } do
    it("leaves the old policy when its file " .. name .. ", and says why", function()
      local path = cli.file("mine.lua", policy_text(1))
      local s = cli.start(SIZES:format(path))
      s:send "1\n2\n"
      assert_size(s, 1)
      if broken[1] then cli.file("mine.lua", broken[1]) else os.remove(path) end
      s:kill "HUP"
      local message = s:message "reload failed"
      assert.truthy(message:find(broken[2], 1, true), message)
      s:send "3\n4\n"
      assert_size(s, 1)
      s:close_input()
      assert.equal(0, s:finish().status)
    end)
  end
end)
