-- What a batcher does, as who looks at it sees it: batches, histories, failures, changes, keys.

local H = dofile "tests/lua/helper.lua"
local json = require "tokenbatcher.base.json"
local state = require "tokenbatcher.listen.state"
local tb = require "tokenbatcher"
local watch = require "tokenbatcher.listen.watch"

local FIELD = {}
for i, name in ipairs(state.FIELDS) do FIELD[name] = i end

-- What is read of watches now, by way of its text.
local function look(watches, opts)
  local text = state.text(state.of(watches, opts))
  return json.decode(text), text
end

local function batch(row)
  local out = {}
  for name, i in pairs(FIELD) do out[name] = row[i] end
  return out
end

local function watched(options)
  local batcher, calls = H.start(options)
  return batcher, watch.new(batcher), calls
end

describe("a watched batcher", function()
  it("shows each batch: when, how long, how large, why it went, its group, how many keys", H.virtually(function()
    local batcher, w = watched { takes = 0.5, max_batch_size = 3, batch_timeout_s = 0.1, record_keys = true,
      policy = "fair" }
    tb.sleep(2)
    for i, cost in ipairs { 10, 20, 30 } do
      batcher:submit("r", { estimated_cost = cost, key = i < 3 and "ann" or "bob", group = "g" })
    end
    local last = batcher:submit("r", { estimated_cost = 5 })
    last:await()
    local rows = look({ w }, { worker = "7" }).batchers[1].batches
    assert.equal(2, #rows)
    assert.same({ n = 1, id = rows[1][FIELD.id], worker = "7", at = 2, s = 0.5, size = 3, cost = 60,
      padding = 0.3333, reason = "policy", calls = 1, depth = 0, failed = 0, code = "", policy = "fair", group = "g",
      keys = 2 }, batch(rows[1]))
    local second = batch(rows[2])
    assert.same({ 2, 2.5, 0.5, 1, "", 0 }, { second.n, second.at, second.s, second.size, second.group, second.keys })
    batcher:stop()
  end))

  it("tells once what has ended: after the last look nothing comes again", H.virtually(function()
    local batcher, w = watched { takes = 1, batch_timeout_s = 0 }
    batcher:submit("a"):await()
    local first = look { w }
    assert.equal(1, #first.batchers[1].batches)
    local future = batcher:submit "b"
    tb.sleep(0.5)
    local second = look({ w }, { after = first.now })
    assert.same({ 0, 1 }, { #second.batchers[1].batches, #second.batchers[1].running })
    assert.same({ "0", 1, 1 }, { second.batchers[1].running[1][2], second.batchers[1].running[1][3],
      second.batchers[1].running[1][4] })
    future:await()
    local third = look({ w }, { after = second.now })
    assert.same({ 2 }, { third.batchers[1].batches[1][FIELD.n] })
    assert.equal(0, #look({ w }, { after = third.now }).batchers[1].batches)
    batcher:stop()
  end))

  it("remembers the last 256 batches of any number", H.virtually(function()
    local batcher, w = watched { takes = 0.001, batch_timeout_s = 0 }
    for i = 1, 700 do batcher:submit("r" .. i):await() end
    local rows = look({ w }).batchers[1].batches
    assert.same({ 256, 445, 700 }, { #rows, rows[1][FIELD.n], rows[256][FIELD.n] })
    batcher:stop()
  end))

  it("has two minutes of the queue, also of what was between two looks", H.virtually(function()
    local batcher, w = watched { takes = 10, max_batch_size = 1, prefetch_batches = 0 }
    tb.sleep(5)
    for i = 1, 4 do batcher:submit("r" .. i, { estimated_cost = 3 }) end
    tb.sleep(40.1)
    local history = look({ w }).batchers[1].history
    assert.same({ 91, 91, 90 }, { #history.queue, #history.oldest_us, history.last })
    local function at(s) return { history.queue[s * 2 + 1], history.cost[s * 2 + 1], history.oldest_us[s * 2 + 1] } end
    assert.same({ 0, 0, 0 }, at(4))
    assert.same({ 3, 9 }, { history.queue[14], history.cost[14] })
    assert.same({ 2, 1, 0 }, { at(20)[1], at(30)[1], at(40)[1] })
    assert.is_true(at(14)[3] >= 8.5e6 and at(14)[3] <= 9e6, at(14)[3])
    local answered = 0
    for _, n in ipairs(history.completed) do answered = answered + n end
    assert.equal(4, answered)
    tb.sleep(1000)
    history = look({ w }).batchers[1].history
    assert.equal(240, #history.queue)
    for i = 1, 240 do assert.same({ 0, 0 }, { history.queue[i], history.completed[i] }) end
    batcher:stop()
  end))

  it("says where a change of options was, and what it was", H.virtually(function()
    local batcher, w = watched { takes = 1, max_batch_size = 64 }
    batcher:submit("a"):await()
    batcher:set { max_batch_size = 32, policy = tb.policy.fair { quantum = 7 }, max_wait_s = 3 }
    tb.sleep(1)
    batcher:set { inference_fn = function(records) return records end, max_wait_s = false }
    batcher:submit("b"):await()
    local it = look({ w }).batchers[1]
    local said = {}
    for i, change in ipairs(it.changes) do said[i] = change.at .. " " .. change.text end
    local at = it.changes[1].at
    assert.same({ at .. " max_batch_size: 64 to 32", at .. " policy: fifo to fair:quantum=7",
      at .. " max_wait_s: none to 3", at + 1 .. " inference_fn: another one",
      at + 1 .. " max_wait_s: 3 to none" }, said)
    assert.same({ "fifo", "fair" }, { it.batches[1][FIELD.policy], it.batches[2][FIELD.policy] })
    local shown = {}
    for _, option in ipairs(it.options) do shown[option[1]] = option[2] end
    assert.same({ "32", "fair:quantum=7" }, { shown.max_batch_size, shown.policy })
    batcher:stop()
  end))

  it("takes names of any bytes, and tells of a policy's file its name alone", H.virtually(function()
    local function form(queue, taken)
      for i = 1, queue.size do taken:add(i) end
    end
    local batcher, w = watched { name = "b\255\0", policy = { name = "/home/somebody/p\255.lua", form = form } }
    batcher:submit("a", { key = "k\255", group = "g\255" }):await()
    local it = look({ w }).batchers[1]
    assert.equal("p\239\191\189.lua", it.batches[1][FIELD.policy])
    local shown = {}
    for _, option in ipairs(it.options) do shown[option[1]] = option[2] end
    assert.equal("p\239\191\189.lua", shown.policy)
    batcher:stop()
  end))

  it("splits latency into wait and service, over the last minutes", H.virtually(function()
    local batcher, w = watched { takes = 0.2, max_batch_size = 10, batch_timeout_s = 0.1 }
    for _ = 1, 20 do batcher:submit("a"):await() end
    local it = look({ w }).batchers[1].latency
    local function near(expected, value) assert.is_true(math.abs(value / expected - 1) < 0.15, value) end
    near(0.1, it.wait.p50)
    near(0.2, it.service.p99)
    near(0.3, it.total.p95)
    assert.equal(20, it.wait.count)
    for _ = 1, 600 do -- what was long ago counts no more
      tb.sleep(0.5)
      batcher:submit("a", { batch_timeout_s = 0 }):await()
    end
    it = look({ w }).batchers[1].latency
    assert.is_true(it.over_s >= 60 and it.over_s <= 121, it.over_s)
    assert.is_true(it.wait.count < 180 and it.wait.p99 < 0.001, it.wait.p99)
    batcher:stop()
  end))

  it("has sizes and costs in buckets, and rates", H.virtually(function()
    local batcher, w = watched { takes = 0.1, max_batch_size = 4, batch_timeout_s = 0 }
    for _ = 1, 10 do batcher:submit_batch({ 1, 2, 3 }, { estimated_cost = { 10, 10, 10 } })[3]:await() end
    tb.sleep(0.5)
    local it = look({ w }).batchers[1]
    assert.same({ 1, 2, 4 }, it.sizes.bounds)
    assert.same({ 0, 0, 10 }, it.sizes.counts)
    assert.same({ 32, 10 }, { it.costs.bounds[6], it.costs.counts[6] })
    assert.equal(30, it.totals.completed)
    assert.is_true(it.rates.completed > 15 and it.rates.completed <= 30, it.rates.completed)
    batcher:stop()
  end))

  it("of batches that come faster than anybody sees some are left out, those that fail never", H.virtually(function()
    local fails = false
    local batcher, w = watched { inference_fn = function(records)
      if fails then error "no" end
      return records
    end, batch_timeout_s = 0, max_batch_size = 1, max_concurrent_batches = 8 }
    local futures = {}
    for i = 1, 2000 do futures[i] = batcher:submit("r" .. i) end
    for i = 1, 2000 do futures[i]:await() end
    fails = true
    batcher:submit("bad"):await()
    local it = look({ w }).batchers[1]
    assert.same({ 2001, 257, 256 }, { it.totals.batches, w.noted, #it.batches })
    local last = batch(it.batches[256])
    assert.same({ 2001, "inference_failed" }, { last.n, last.code })
    batcher:stop()
  end))

  it("is left alone from close() on", H.virtually(function()
    local batcher, w = watched { takes = 0.1 }
    batcher:submit("a"):await()
    w:close()
    batcher:submit("b"):await()
    assert.equal(1, w.n)
    batcher:stop()
  end))
end)

describe("what is told of failures:", function()
  local SECRET = "sk-secret of a client"

  local function failing(fn, options)
    options = options or {}
    options.inference_fn, options.batch_timeout_s = fn, 0
    local batcher, w = watched(options)
    local futures = batcher:submit_batch { SECRET, SECRET .. "2", "good" }
    for _, future in ipairs(futures) do future:await() end
    local it, text = look { w }
    batcher:stop()
    assert.is_nil(text:find("secret", 1, true), text)
    return it.batchers[1].failures, it.batchers[1]
  end

  for name, case in pairs {
    ["an error that was raised, whatever it says"] = { function(records) error("cannot read " .. records[1]) end,
      "inference_fn raised an error (the log has it)", "inference_failed" },
    ["an error object with a code of its own"] = { function(records)
      error { code = records[1], message = records[1] } end,
      "inference_fn raised an error (the log has it)", "inference_failed" },
    ["a failure of a record"] = { function(records)
      return { tb.failure(records[1]), tb.failure(records[2]), "fine" } end,
      "inference_fn failed the record or returned no list of as many results", "inference_failed" },
    ["a server's status, and not what the server said"] = { function(records)
      return nil, { code = "http_status", status = 503, message = "overloaded by " .. records[1] } end,
      "the server refused (status 503)", "http_status", 503 },
    ["a status that is none"] = { function(records)
      return nil, { code = "http_timeout", status = records[1] } end, "the server did not answer in time",
      "http_timeout" },
  } do
    it(name, H.virtually(function()
      local failures = failing(case[1])
      assert.equal(1, #failures)
      assert.same({ case[2], case[3], case[4] or false, 3 },
        { failures[1].text, failures[1].code, failures[1].status or false, failures[1].size })
    end))
  end

  it("a call that took too long", H.virtually(function()
    local failures, it = failing(function() tb.sleep(5) end, { inference_timeout_s = 1 })
    assert.same({ "inference_fn did not answer within inference_timeout_s", "inference_timeout", 3 },
      { failures[1].text, failures[1].code, failures[1].failed })
    assert.same({ 1, "inference_timeout" }, { it.batches[1][FIELD.s], it.batches[1][FIELD.code] })
  end))

  it("a culprit that was found by halving, how deep, and in how many calls", H.virtually(function()
    local failures, it = failing(function(records)
      for _, record in ipairs(records) do
        if record == SECRET then error("not " .. record) end
      end
      return records
    end, { on_error = "bisect" })
    assert.same({ 1, 3 }, { failures[1].failed, failures[1].size })
    local row = batch(it.batches[1])
    assert.same({ 5, 2, 1 }, { row.calls, row.depth, row.failed })
  end))

  it("the last twenty", H.virtually(function()
    local batcher, w = watched { inference_fn = function() error "no" end, batch_timeout_s = 0 }
    for i = 1, 50 do batcher:submit("r" .. i):await() end
    local failures = look({ w }).batchers[1].failures
    assert.same({ 20, 31, 50 }, { #failures, failures[1].n, failures[20].n })
    batcher:stop()
  end))
end)

describe("who costs most:", function()
  it("by pseudonym, or by name where record_keys says so", H.virtually(function()
    for _, shows in ipairs { true, false } do
      local batcher, w = watched { batch_timeout_s = 0, record_keys = shows }
      for i = 1, 12 do
        batcher:submit("r", { estimated_cost = i, key = "client-" .. i, group = "model-" .. i % 2 }):await()
      end
      local it, text = look { w }
      local keys, groups = it.batchers[1].keys, it.batchers[1].groups
      assert.same({ 10, 12, 3, 78, not shows }, { #keys.rows, keys.rows[1][2], keys.rows[10][2], keys.cost,
        keys.is_hashed })
      assert.same({ 2, 42 }, { #groups.rows, groups.rows[1][2] })
      assert.equal(shows, text:find("client-", 1, true) ~= nil)
      assert.equal(shows, text:find("model-", 1, true) ~= nil)
      if not shows then assert.matches("^%x%x%x%x%x%x%x%x%x%x%x%x%x%x%x%x$", keys.rows[1][1]) end
      batcher:stop()
    end
  end))

  it("made-up keys by the thousand drive nobody dear away, and take little memory", H.virtually(function()
    local batcher, w = watched { batch_timeout_s = 0, takes = 0.001, record_keys = true, max_batch_size = 100 }
    for round = 1, 60 do
      local keys = {}
      for i = 1, 99 do keys[i] = "made-up-" .. round .. "-" .. i end
      keys[100] = "dear"
      local futures = {}
      for i, key in ipairs(keys) do
        futures[i] = batcher:submit("r", { estimated_cost = i == 100 and 50 or 1, key = key })
      end
      futures[100]:await()
      tb.sleep(0.1)
    end
    local keys = look({ w }).batchers[1].keys
    assert.same({ "dear", 3000, 60 }, keys.rows[1])
    local n = 0
    for _ in pairs(w.keys.young.by_name) do n = n + 1 end
    assert.is_true(n <= 1024, n)
    batcher:stop()
  end))

  it("of more records a second than are counted some are left out, and it says so", H.virtually(function()
    local batcher, w = watched { batch_timeout_s = 0, takes = 0.01, max_batch_size = 600 }
    local function submit(n)
      local futures = {}
      for i = 1, n do futures[i] = batcher:submit("r", { estimated_cost = 1, key = "k" }) end
      for i = 1, n do futures[i]:await() end
    end
    submit(400)
    assert.is_false(look({ w }).batchers[1].keys.is_partial)
    submit(400)
    local it = look({ w }).batchers[1]
    assert.same({ 500, true }, { it.keys.cost, it.keys.is_partial })
    assert.same({ 1, -1 }, { it.batches[1][FIELD.keys], it.batches[2][FIELD.keys] })
    batcher:stop()
  end))
end)

describe("several states", function()
  it("are added: batchers of one name to one", H.virtually(function()
    local states = {}
    for worker = 0, 2 do
      local batcher, w = watched { name = worker < 2 and "up" or "other", takes = 0.1, batch_timeout_s = 0,
        max_queue_size = 1000 }
      for i = 1, 3 + worker do batcher:submit("r" .. i, { key = "k", estimated_cost = 2 }):await() end
      states[worker + 1] = state.of({ w }, { worker = tostring(worker), id = "same" })
      states[worker + 1] = json.decode(json.encode(states[worker + 1]))
      batcher:stop()
      w:close()
    end
    local sum = states[1]
    state.add(sum, states[2])
    state.add(sum, states[3])
    local it = json.decode(state.text(sum))
    assert.same({ "up", "other", "same" }, { it.batchers[1].name, it.batchers[2].name, it.id })
    local up = it.batchers[1]
    assert.same({ 7, 2000, 2, 7, 7, 7 }, { up.totals.completed, up.limits.queue, #up.workers, #up.batches,
      up.latency.total.count, up.sizes.counts[1] })
    local answered = 0
    for _, n in ipairs(up.history.completed) do answered = answered + n end
    assert.equal(7, answered)
    for i = 2, #up.batches do
      local a, b = up.batches[i - 1], up.batches[i]
      assert.is_true(a[FIELD.at] + a[FIELD.s] <= b[FIELD.at] + b[FIELD.s])
    end
  end))

  it("are bounded, whatever is in them", H.virtually(function()
    local watches, batchers, long = {}, {}, ("\255<b>\""):rep(400)
    for i = 1, 20 do
      local batcher, w = watched { name = i .. long, record_keys = true, takes = 0.001, batch_timeout_s = 0,
        on_error = "bisect", inference_fn = function(records) return nil, "no " .. #records end }
      for k = 1, 300 do
        batcher:submit("r", { key = k .. long, group = k .. long, estimated_cost = 1 / 3 + k }):await()
      end
      for k = 1, 30 do batcher:set { max_batch_size = 100 + k } end
      watches[i], batchers[i] = w, batcher
    end
    local it, text = look(watches)
    assert.same({ 16, 4 }, { #it.batchers, it.left_out })
    assert.is_true(#text <= 16 * 96 * 1024, #text)
    for _, one in ipairs(it.batchers) do
      local size = #json.encode(one)
      assert.is_true(size > 40 * 1024 and size <= 96 * 1024, size)
    end
    for _, batcher in ipairs(batchers) do batcher:stop() end
  end))
end)
