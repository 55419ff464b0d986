-- tb.metrics.prometheus: the statistics in the text exposition format.

local tb = require "tokenbatcher"
local H = dofile "tests/lua/helper.lua"
local virtually = H.virtually

-- A page as a list of families, each {name, help, kind, samples}; a sample is {name,
-- labels, value}. Fails on a line that is none of a page's.
local function unescape(text)
  return (text:gsub("\\(.)", { n = "\n", ["\\"] = "\\", ['"'] = '"' }))
end

local function parse_labels(text)
  local labels, at = {}, 1
  while at <= #text do
    local name, first = text:match('^([%a_][%w_]*)="()', at)
    assert(name, "no label at: " .. text:sub(at))
    local last = first
    while text:sub(last, last) ~= '"' do
      assert(last <= #text and text:sub(last, last) ~= "\n", "a label does not end: " .. text)
      last = last + (text:sub(last, last) == "\\" and 2 or 1)
    end
    assert.is_nil(labels[name], "twice: " .. name)
    labels[name] = unescape(text:sub(first, last - 1))
    at = last + 1
    if at <= #text then
      assert.equal(",", text:sub(at, at))
      at = at + 1
    end
  end
  return labels
end

local function parse_sample(line)
  local name, labels, value = line:match "^([%a_:][%w_:]*){(.*)} (%S+)$"
  assert(name and tonumber(value), "no sample: " .. line)
  return { name = name, labels = parse_labels(labels), value = tonumber(value) }
end

local function parse(page)
  assert.equal("\n", page:sub(-1))
  local families, by_name = {}, {}
  for line in page:gmatch "([^\n]*)\n" do
    local family = families[#families]
    local help_name, help = line:match "^# HELP (%S+) (.+)$"
    local type_name, kind = line:match "^# TYPE (%S+) (%S+)$"
    if help_name then
      assert.is_nil(by_name[help_name], "HELP twice: " .. line)
      families[#families + 1] = { name = help_name, help = help, samples = {} }
      by_name[help_name] = families[#families]
    elseif type_name then
      assert.equal(family.name, type_name)
      assert.is_nil(family.kind, "TYPE twice: " .. line)
      family.kind = kind
    else
      local sample = parse_sample(line)
      assert(family.kind, "a sample before TYPE: " .. line)
      assert.equal(family.name, sample.name:sub(1, #family.name), line)
      table.insert(family.samples, sample)
    end
  end
  return families, by_name
end

-- The samples of a family that have all these labels.
local function find(by_name, family, labels, suffix)
  local out = {}
  for _, sample in ipairs(by_name["tokenbatcher_" .. family].samples) do
    local fits = sample.name == "tokenbatcher_" .. family .. (suffix or "")
    for name, value in pairs(labels) do fits = fits and sample.labels[name] == value end
    if fits then out[#out + 1] = sample end
  end
  return out
end

local function value_of(by_name, family, labels, suffix)
  local found = find(by_name, family, labels, suffix)
  assert.equal(1, #found, family)
  return found[1].value
end

-- A batcher with a past: answered, failed, cancelled, expired, refused, oversize.
local function used(name)
  local batcher = H.start { name = name, takes = 0.25, target_batch_tokens = 100, batch_timeout_s = 0.01,
    max_queue_size = 20, on_full = "reject" }
  H.submit_costs(batcher, { 50, 50, 20, 30, 10, 200, 7, 1, 2, 3 })
  batcher:submit("gone", { estimated_cost = 5 }):cancel()
  batcher:submit("late", { estimated_cost = 5, timeout_s = 0.02 })
  for _ = 1, 20 do batcher:try_submit("many", { estimated_cost = 1 }) end
  tb.sleep(0.3)
  return batcher
end

local PLAIN = {
  submitted_total = "total_submitted", completed_total = "total_completed", failed_total = "total_failed",
  cancelled_total = "total_cancelled", expired_total = "total_expired", rejected_total = "total_rejected",
  oversize_total = "total_oversize", batches_total = "total_batches", batch_cost_total = "total_batch_cost",
  busy_seconds_total = "busy_time_s", idle_seconds_total = "idle_time_s", policy_errors_total = "policy_errors",
  policy_overruled_total = "policy_overruled", queue_records = "queue_size", queue_cost = "queue_cost",
  waiting_submits = "waiting_submits", prefetched_batches = "prefetched_batches",
  prefetched_records = "prefetched_records", running_batches = "running_batches",
  running_records = "running_records", joined_total = "total_joined", abandoned_calls = "abandoned_calls",
  oldest_queued_seconds = "oldest_queued_s", oldest_running_seconds = "oldest_running_s",
  utilization_ratio = "utilization", padding_ratio = "padding_ratio",
}
local HISTOGRAMS = {
  wait_seconds = "wait_s", service_seconds = "service_s", latency_seconds = "latency_s",
  batch_size_records = "batch_size", batch_cost_tokens = "batch_cost",
}

describe("tb.metrics.prometheus", function()
  it("gives HELP and TYPE once for each family, before its samples, and only lines that parse", virtually(function()
    local batcher = used "a"
    local families = parse(tb.metrics.prometheus(batcher))
    for _, family in ipairs(families) do
      assert.matches("^tokenbatcher_[a-z_]+$", family.name)
      assert.truthy(({ counter = true, gauge = true, histogram = true })[family.kind], family.kind)
      assert.equal(family.kind == "counter", family.name:find "_total$" ~= nil)
      assert.truthy(#family.samples > 0, family.name)
    end
    batcher:stop()
  end))

  it("says what batcher.stats says, to the last digit", virtually(function()
    local batcher = used "a"
    local stats, _, page = batcher.stats, parse(tb.metrics.prometheus(batcher))
    assert.truthy(stats.total_rejected > 0 and stats.total_expired == 1 and stats.total_cancelled == 1)
    assert.truthy(stats.total_oversize == 0 and stats.queue_size > 0 and stats.running_batches == 1)
    for family, field in pairs(PLAIN) do assert.equal(stats[field], value_of(page, family, {}), family) end
    for reason, count in pairs(stats.dispatched) do
      assert.equal(count, value_of(page, "dispatched_total", { reason = reason }), reason)
    end
    for family, field in pairs(HISTOGRAMS) do
      local count = value_of(page, family, {}, "_count")
      assert.equal(stats[field].count, count, family)
      assert.near(stats[field].mean * count, value_of(page, family, {}, "_sum"), 1e-9, family)
    end
    batcher:stop()
  end))

  it("says what is set: limits, version, and the policy's name, of a file without its folders", virtually(function()
    local batcher = used "a"
    local _, page = parse(tb.metrics.prometheus(batcher))
    assert.equal(20, value_of(page, "queue_limit_records", {}))
    assert.equal(batcher:option "max_concurrent_batches", value_of(page, "slots", {}))
    assert.equal(batcher:option "max_batch_size", value_of(page, "batch_limit_records", {}))
    assert.equal(batcher:option "target_batch_cost", value_of(page, "batch_limit_tokens", {}))
    assert.equal(1, value_of(page, "batcher_info", { policy = "fifo", version = tb._VERSION }))
    batcher:set { policy = "examples/policies/shortest_first.lua", max_queue_size = 30 }
    _, page = parse(tb.metrics.prometheus(batcher))
    assert.equal(1, value_of(page, "batcher_info", { policy = "shortest_first.lua", version = tb._VERSION }))
    assert.equal(30, value_of(page, "queue_limit_records", {}))
    batcher:stop()
  end))

  it("leaves no statistic out", virtually(function()
    local batcher = used "a"
    local shown = { dispatched = true, avg_batch_size = "sum / count", avg_batch_cost = "sum / count" }
    for _, field in pairs(PLAIN) do shown[field] = true end
    for _, field in pairs(HISTOGRAMS) do shown[field] = true end
    for field in pairs(batcher.stats) do assert.truthy(shown[field], field) end
    batcher:stop()
  end))

  it("has cumulative buckets with rising bounds, of which +Inf is the count", virtually(function()
    local batcher = used "a"
    local _, page = parse(tb.metrics.prometheus(batcher))
    for family in pairs(HISTOGRAMS) do
      local before, bound = 0, -math.huge
      local buckets = find(page, family, {}, "_bucket")
      for _, bucket in ipairs(buckets) do
        local le = bucket.labels.le == "+Inf" and math.huge or tonumber(bucket.labels.le)
        assert.truthy(le > bound, family)
        assert.truthy(bucket.value >= before, family)
        before, bound = bucket.value, le
      end
      assert.equal("+Inf", buckets[#buckets].labels.le)
      assert.equal(value_of(page, family, {}, "_count"), before, family)
    end
    batcher:stop()
  end))

  it("counts a value that is equal to a bound below it: full batches are not in the next bucket", virtually(function()
    for size, cost in pairs { [64] = 125, [128] = 250, [256] = 125 } do
      local batcher = H.start { max_batch_size = size, target_batch_tokens = size * cost, takes = 0.25 }
      for i = 1, size do batcher:submit(i, { estimated_cost = cost }) end
      batcher:stop()
      local _, page = parse(tb.metrics.prometheus(batcher))
      local values = { batch_size_records = size, batch_cost_tokens = size * cost, service_seconds = 0.25 }
      for family, bound in pairs(values) do
        for _, bucket in ipairs(find(page, family, {}, "_bucket")) do
          local le = bucket.labels.le == "+Inf" and math.huge or tonumber(bucket.labels.le)
          assert.equal(le >= bound and 1 or 0, bucket.value, ("%s le %g"):format(family, le))
        end
      end
    end
  end))

  it("labels each of several batchers by its name", virtually(function()
    local one, two, nameless = used "one", H.start { name = "two" }, H.start {}
    local families, page = parse(tb.metrics.prometheus(one, two, nameless))
    assert.equal(one.stats.total_submitted, value_of(page, "submitted_total", { name = "one" }))
    assert.equal(0, value_of(page, "submitted_total", { name = "two" }))
    assert.equal(0, value_of(page, "submitted_total", { name = "" }))
    for _, family in ipairs(families) do assert.equal(0, #family.samples % 3, family.name) end
    for _, batcher in ipairs { one, two, nameless } do batcher:stop() end
  end))

  it("escapes quotes, backslashes and newlines in a name", virtually(function()
    local name = 'say "hi"\\ there\nand \\n'
    local batcher = H.start { name = name }
    local page = tb.metrics.prometheus(batcher)
    assert.truthy(page:find([[{name="say \"hi\"\\ there\nand \\n"}]], 1, true), page:sub(1, 300))
    local _, by_name = parse(page)
    assert.equal(0, value_of(by_name, "submitted_total", { name = name }))
    batcher:stop()
  end))

  it("takes a batcher that was never started, one that was stopped, and a DynamicBatcher", virtually(function()
    local idle = tb.TokenBatcher { inference_fn = print, name = "idle" }
    local stopped = used "stopped"
    stopped:stop()
    local dynamic = H.start { class = "DynamicBatcher", name = "dynamic" }
    local _, page = parse(tb.metrics.prometheus(idle, stopped, dynamic))
    assert.equal(stopped.stats.total_completed, value_of(page, "completed_total", { name = "stopped" }))
    dynamic:stop()
  end))

  it("of no batcher is all families without samples", function()
    for line in tb.metrics.prometheus():gmatch "[^\n]+" do assert.equal("#", line:sub(1, 1)) end
  end)

  it("refuses two batchers of one name, and says which name", virtually(function()
    local a, b, c, d = H.start { name = "twin" }, H.start { name = "twin" }, H.start {}, H.start {}
    local message = H.message(tb.metrics.prometheus, a, b)
    assert.truthy(message:find("two batchers are named 'twin'", 1, true), message)
    assert.truthy(H.message(tb.metrics.prometheus, c, d):find("''", 1, true))
    assert.truthy(H.message(tb.metrics.prometheus, a, a):find("'twin'", 1, true))
    for _, batcher in ipairs { a, b, c, d } do batcher:stop() end
  end))

  it("refuses what is not a batcher, at the caller's line", virtually(function()
    local batcher = H.start {}
    for i, value in ipairs { 7, "x", {}, print } do
      local message = H.message(function() tb.metrics.prometheus(batcher, value) end)
      assert.truthy(message:find("argument 2 is no batcher but a " .. type(value), 1, true), i .. message)
      assert.truthy(message:find("metrics_spec.lua:", 1, true), message)
    end
    assert.truthy(H.message(tb.metrics.prometheus, batcher, nil):find("argument 2 is no batcher but a nil", 1, true))
    batcher:stop()
  end))

  it("passes promtool check metrics", virtually(function()
    if os.execute "command -v promtool >/dev/null" ~= 0 then return pending("skipped: no promtool") end
    local one, two = used "one\255\200", used 'two "quoted" \\ and\nbroken'
    local path = os.tmpname()
    local file = assert(io.open(path, "w"))
    file:write(tb.metrics.prometheus(one, two))
    file:close()
    local pipe = io.popen("promtool check metrics <" .. path .. " 2>&1; echo status $?")
    local said = pipe:read "*a"
    pipe:close()
    os.remove(path)
    assert.equal("status 0\n", said)
    one:stop()
    two:stop()
  end))
end)
