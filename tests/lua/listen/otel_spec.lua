-- Batches as spans of OpenTelemetry: contexts that travel, what a collector gets, and that one which does not work is
-- in nobody's way.

local H = require "tests.lua.helper"
local http = require "tests.lua.http_helper"
local otel = require "tokenbatcher.listen.otel"
local exporters = require "tokenbatcher.listen.exporter"
local tb = require "tokenbatcher"
local traceparent = require "tokenbatcher.base.traceparent"

local A = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
local B = "00-aaaabbbbccccddddaaaabbbbccccdddd-1111222233334444-01"
local UNSAMPLED = "00-99999999999999999999999999999999-5555666677778888-00"
local AGAIN = "00-4bf92f3577b34da6a3ce929d0e0e4736-9999888877776666-01" -- of A's trace

local function upper(records)
  local out = {}
  for i, record in ipairs(records) do out[i] = tostring(record):upper() end
  return out
end

-- @return batcher, list of infos
local function new_batcher(given)
  local infos = {}
  local options = { default_cost = 1, target_batch_tokens = 2, batch_timeout_s = 0.001, name = "a",
    inference_fn = function(records, info)
      infos[#infos + 1] = info
      return upper(records)
    end }
  for name, value in pairs(given or {}) do options[name] = value end
  return tb.TokenBatcher(options), infos
end

describe("trace contexts", function()
  it("are read strictly", function()
    assert.same({ "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", true }, { traceparent.parse(A) })
    assert.is_false(select(3, traceparent.parse(UNSAMPLED)))
    assert.is_true(select(3, traceparent.parse((A:gsub("01$", "ff")))))
    for _, bad in ipairs { "", A:upper(), A .. "-00", A:sub(1, 54), " " .. A, "01" .. A:sub(3),
      "00-" .. ("0"):rep(32) .. "-00f067aa0ba902b7-01", A:gsub("00f067aa0ba902b7", ("0"):rep(16)),
      (A:gsub("-", "_")), (A:gsub("4bf9", "4bfg")), ("x"):rep(55) } do
      assert.is_nil(traceparent.parse(bad), bad)
    end
  end)

  it("of a header may be of a later version, and what is bad is none", function()
    assert.equal(A, traceparent.of_header(A))
    assert.equal(A, traceparent.of_header("cc" .. A:sub(3)))
    assert.equal(A, traceparent.of_header("cc" .. A:sub(3) .. "-what-comes"))
    for _, bad in ipairs { "ff" .. A:sub(3), A .. "-00", "cc" .. A:sub(3) .. "x", A .. ", " .. B, "no", false } do
      assert.is_nil(traceparent.of_header(bad))
    end
    assert.is_nil(traceparent.of_header(nil))
  end)

  it("that are bad are misuse of submit, and named", H.virtually(function()
    tb.with((new_batcher()), function(batcher)
      for _, call in ipairs { "submit", "try_submit", "ask" } do
        local ok, message = pcall(batcher[call], batcher, "x", { trace = A:upper() })
        assert.is_false(ok)
        assert.matches("submit: trace must be a W3C traceparent such as 00%-4bf9.*, got \"00%-4BF9", message)
      end
      assert.is_false((pcall(batcher.submit_batch, batcher, { "x" }, { trace = 7 })))
      assert.equal(0, batcher.stats.total_submitted)
    end)
  end))

  it("go on where all records of a batch have the same one, and nobody traces", H.virtually(function()
    local batcher, infos = new_batcher()
    tb.with(batcher, function()
      local function batch(first, second)
        tb.gather { batcher:submit("x", { trace = first }), batcher:submit("y", { trace = second }) }
        local last = infos[#infos]
        assert.equal(2, last.size)
        return last.traceparent
      end
      assert.is_nil(batch())
      assert.equal(A, batch(A, A))
      assert.is_nil(batch(A, B))
      assert.is_nil(batch(A, AGAIN))
      assert.is_nil(batch(A, nil))
      assert.is_nil(batch(nil, A))
      assert.is_nil(batch())
      tb.gather(batcher:submit_batch({ "x", "y" }, { trace = B }))
      assert.equal(B, infos[#infos].traceparent)
    end)
  end))

  it("are those of all who have joined a record", H.virtually(function()
    local batcher, infos = new_batcher { join = function(record) return record end, target_batch_tokens = 100 }
    tb.with(batcher, function()
      local function join(first, second)
        tb.gather { batcher:submit("x", { trace = first }), batcher:submit("x", { trace = second }) }
        assert.equal(1, infos[#infos].size)
        return infos[#infos].traceparent
      end
      assert.equal(A, join(A, A))
      assert.is_nil(join(A, B))
      assert.is_nil(join(A, nil))
      assert.is_nil(join(nil, A))
    end)
  end))

  it("are on each call of a batch that is halved", H.virtually(function()
    local seen = {}
    local batcher = new_batcher { on_error = "bisect", log = function() end, inference_fn = function(records, info)
      seen[#seen + 1] = info.traceparent
      if #records == 2 then error "no" end
      return records
    end }
    tb.with(batcher, function() tb.gather(batcher:submit_batch({ "x", "y" }, { trace = A })) end)
    assert.same({ A, A, A }, seen)
  end))

  it("cost nothing where there are none: nothing is made for a batch", H.virtually(function()
    local tracing = require "tokenbatcher.batching.tracing"
    local begin, n = tracing.begin, 0
    tracing.begin = function(...) -- luacheck: ignore
      n = n + 1
      return begin(...)
    end
    local batcher = new_batcher()
    tb.with(batcher, function()
      for _ = 1, 5 do tb.gather(batcher:submit_batch({ "x", "y" }, { key = "k" })) end
      assert.equal(0, n)
      batcher:submit("x", { trace = A }):await()
      assert.equal(1, n)
    end)
    tracing.begin = begin -- luacheck: ignore
  end))
end)

describe("otel:", function()
  local missing, server = http.missing(), nil
  if missing then
    pending(missing)
    return
  end

  before_each(function() server = http.server() end)
  after_each(function() server.stop() end)

  local function spans_once(n)
    assert.is_true(http.stats_once(server, "spans", n).stats.spans >= n)
    local got = tb.json.decode(assert(tb.http.get(server.url .. "/spans")).body)
    assert.same({}, { unpack(got.problems) })
    assert.equal(n, #got.spans)
    return got.spans, table.concat(got.bodies)
  end

  -- Run fn(batcher, traces, infos, said); log lines go to `said`.
  local function tracing(path, options, given, fn)
    return http.really(function()
      local said = {}
      local batcher, infos = new_batcher(type(options) == "function" and options() or options)
      local all = { endpoint = server.url .. path, batchers = batcher, log = function(level, text)
        said[#said + 1] = level .. " " .. text
      end }
      for name, value in pairs(given or {}) do all[name] = value end
      local traces = tb.otel(all)
      tb.with(batcher, function() fn(batcher, traces, infos, said) end)
    end)
  end

  it("a batch is a span with links to its records', and what it is has a place", tracing("/collect/v1/traces", nil,
    { service_name = "svc" }, function(batcher, traces, infos)
      tb.gather { batcher:submit("secret words", { trace = A, key = "k-of-ann", group = "models/x" }),
        batcher:submit("more words", { trace = B, key = "k-of-bob", group = "models/x" }) }
      traces:close()
      local spans, bodies = spans_once(1)
      local span, context = spans[1], infos[1].traceparent
      assert.equal(context, traceparent.format(span.traceId, span.spanId, true))
      assert.is_nil(span.parentSpanId)
      assert.same({ { traceId = A:sub(4, 35), spanId = A:sub(37, 52) }, { traceId = B:sub(4, 35),
        spanId = B:sub(37, 52) } }, { unpack(span.links) })
      assert.equal(0, span.droppedLinksCount)
      assert.equal("svc", span.service)
      local is = span.attributes
      assert.same({ "a", "fifo", "full", 2, 2, 1, 0 }, { is["tokenbatcher.batcher"], is["tokenbatcher.policy"],
        is["tokenbatcher.batch.reason"], is["tokenbatcher.batch.size"], is["tokenbatcher.batch.cost"],
        is["tokenbatcher.batch.attempts"], is["tokenbatcher.batch.failed"] })
      assert.matches("^%x+$", is["tokenbatcher.batch.group"])
      for _, word in ipairs { "words", "k%-of", "models" } do assert.is_nil(bodies:find(word)) end
      assert.same({ sent = 1, dropped = 0, kept = 0, requests = 1 }, traces.stats)
    end))

  it("it is below a context that all its records have, and else begins a trace", tracing("/collect/v1/traces", nil, nil,
    function(batcher, traces, infos)
      local function batch(first, second)
        tb.gather { batcher:submit("x", { trace = first }), batcher:submit("y", { trace = second }) }
      end
      batch(A, A)
      batch(A, AGAIN)
      batch(A, nil)
      batch(nil, nil)
      traces:close()
      local spans = spans_once(4)
      assert.same({ A:sub(4, 35), A:sub(37, 52) }, { spans[1].traceId, spans[1].parentSpanId })
      local ids = {}
      for i, span in ipairs(spans) do
        assert.equal(({ 1, 2, 1, 0 })[i], #span.links)
        assert.is_nil(ids[span.spanId])
        ids[span.spanId] = true
        if i > 1 then
          assert.is_nil(span.parentSpanId)
          assert.not_equal(A:sub(4, 35), span.traceId)
        end
        assert.equal(span.traceId, infos[i].traceparent:sub(4, 35))
      end
    end))

  it("what is not sampled has a context and no span: any link decides, else the ratio", tracing("/collect/v1/traces",
    nil, { ratio = 0 }, function(batcher, traces, infos)
      local function batch(first, second)
        tb.gather { batcher:submit("x", { trace = first }), batcher:submit("y", { trace = second }) }
        return infos[#infos].traceparent:sub(-2)
      end
      assert.equal("00", batch(nil, nil))
      assert.equal("00", batch(UNSAMPLED, UNSAMPLED))
      assert.equal(UNSAMPLED:sub(4, 35), infos[#infos].traceparent:sub(4, 35))
      assert.equal("01", batch(UNSAMPLED, A))
      traces:close()
      assert.equal(2, #spans_once(1)[1].links)
    end))

  it("a share of batches without a context is sampled", tracing("/collect/v1/traces", { target_batch_tokens = 1 },
    { ratio = 0.5 }, function(batcher, traces, infos)
      local records = {}
      for i = 1, 400 do records[i] = "x" end
      tb.gather(batcher:submit_batch(records))
      local n = 0
      for _, info in ipairs(infos) do n = n + (info.traceparent:sub(-2) == "01" and 1 or 0) end
      assert.is_true(n > 120 and n < 280, n)
      traces:close()
      spans_once(n)
    end))

  it("links are bounded, and the rest counted", tracing("/collect/v1/traces",
    { target_batch_tokens = 300, max_batch_size = 300 }, nil, function(batcher, traces)
      local futures = {}
      for i = 1, 300 do futures[i] = batcher:submit("x", { trace = ("00-%032x-%016x-01"):format(i, i) }) end
      tb.gather(futures)
      traces:close()
      local span = spans_once(1)[1]
      assert.same({ 128, 172 }, { #span.links, span.droppedLinksCount })
    end))

  it("a failure is a code, and nothing that was said", tracing("/collect/v1/traces", function()
    return { inference_fn = function(records) error("cannot take " .. records[1]) end, log = function() end }
  end, nil, function(batcher, traces)
    batcher:submit("private", { trace = A }):await()
    traces:close()
    local spans, bodies = spans_once(1)
    assert.same({ code = 2, message = "inference_failed" }, spans[1].status)
    assert.equal(1, spans[1].attributes["tokenbatcher.batch.failed"])
    assert.is_nil(bodies:find "private")
    assert.is_nil(bodies:find "cannot take")
  end))

  it("requests to a server carry the batch's context; its refusal is a status", tracing("/collect/v1/traces", function()
    return { inference_fn = tb.backend.openai { base_url = server.url .. "/ok,blab/v1", model = "m",
      endpoint = "embeddings", retries = 0 }, log = function() end }
  end, nil, function(batcher, traces)
    tb.gather { batcher:submit("one", { trace = A }), batcher:submit("two", { trace = B }) }
    batcher:submit("three", { trace = A }):await()
    traces:close()
    local spans, bodies = spans_once(2)
    local seen = {}
    for _, entry in ipairs(http.stats(server).log) do
      if entry.path:find "embeddings" then seen[#seen + 1] = entry.traceparent end
    end
    assert.same({ traceparent.format(spans[1].traceId, spans[1].spanId, true),
      traceparent.format(spans[2].traceId, spans[2].spanId, true) }, seen)
    assert.equal(A:sub(37, 52), spans[2].parentSpanId)
    assert.same({ "http_status", 500 }, { spans[2].attributes["error.type"],
      spans[2].attributes["http.response.status_code"] })
    assert.is_nil(bodies:find "crashed")
  end))

  it("a header that the user has set stays", http.really(function()
    local batcher = new_batcher { inference_fn = tb.backend.openai { base_url = server.url .. "/ok/v1", model = "m",
      endpoint = "embeddings", headers = { TraceParent = B } } }
    tb.with(batcher, function() assert(batcher:submit("x", { trace = A }):await()) end)
    assert.equal(B, http.stats(server).log[1].traceparent)
  end))

  it("headers go along, and no message has them", tracing("/401/v1/traces", nil,
    { headers = { Authorization = "Bearer s3cret" } },
    function(batcher, traces, _, said)
      batcher:submit("x"):await()
      traces:close()
      assert.equal("Bearer s3cret", http.stats(server).log[1].authorization)
      assert.equal(1, #said)
      assert.matches("^warn otel: http://127%.0%.0%.1:%d+/401/v1/traces: it refuses spans %(status 401%)", said[1])
      assert.is_nil(said[1]:find "s3cret")
      assert.same({ 0, 1, 0 }, { traces.stats.sent, traces.stats.dropped, traces.stats.kept })
    end))

  it("a collector that says later is asked later, and gets the same block", tracing("/503@1,collect/v1/traces", nil,
    nil, function(batcher, traces, _, said)
      batcher:submit("x"):await()
      traces.exporter:flush()
      assert.same({ 0, 1, 1 }, { traces.stats.sent, traces.stats.kept, traces.stats.requests })
      local now = tb.now() * 1e6
      assert.is_true(traces.exporter:next_us() > now and traces.exporter:next_us() <= now + 1e6)
      spans_once(1) -- sent by itself, when the second is over
      traces:close()
      assert.same({ 1, 0, 2 }, { traces.stats.sent, traces.stats.dropped, traces.stats.requests })
      assert.equal(1, #said)
    end))

  it("spans that an answer refuses are counted", tracing("/partial-3/v1/traces", { target_batch_tokens = 1 }, nil,
    function(batcher, traces)
      tb.gather(batcher:submit_batch { "a", "b", "c", "d", "e" })
      traces:close()
      assert.same({ 2, 3 }, { traces.stats.sent, traces.stats.dropped })
    end))

  for _, path in ipairs { "/garbage", "/die", "/diebody", "/huge-200000", "/longhead", "/reset", "/html", "/array" } do
    it("nonsense harms nothing: " .. path, tracing(path .. "/v1/traces", nil, nil, function(batcher, traces)
      assert.equal("X", batcher:submit("x"):await())
      traces:close()
      local stats = traces.stats
      assert.equal(1, stats.sent + stats.dropped)
      assert.equal(0, stats.kept)
    end))
  end

  it("one that hangs is in nobody's way; spans are bounded, and told of once", tracing("/hang/v1/traces",
    { target_batch_tokens = 1, max_queue_size = 10000 }, nil, function(batcher, traces, infos, said)
      local records = {}
      for i = 1, 3000 do records[i] = "r" .. i end
      local results = tb.gather(batcher:submit_batch(records))
      assert.equal(3000, #results)
      assert.equal(3000, #infos)
      local stats = traces.stats -- the first request has not ended
      assert.same({ sent = 0, dropped = 3000 - exporters.MOST, kept = exporters.MOST, requests = 1 }, stats)
      assert.matches('trace_spans_dropped_total{name="a"} 952\n', tb.metrics.prometheus(batcher))
      local began = tb.now()
      traces:close()
      assert.is_true(tb.now() - began >= exporters.FLUSH_S)
      assert.equal(3000, traces.stats.dropped)
      assert.equal(1, #said)
      assert.is_nil(tb.metrics.prometheus(batcher):find "trace_spans")
    end))

  it("one that is not there neither", tracing("", nil, { endpoint = "http://127.0.0.1:1" }, function(batcher, traces, _,
    said)
    for _ = 1, 3 do assert.equal("X", batcher:submit("x"):await()) end
    traces:close()
    assert.equal(3, traces.stats.dropped)
    assert.matches("http://127%.0%.0%.1:1/v1/traces: it does not answer %(http_connect%)", said[1])
  end))

  it("blocks have 512 spans at most, and go when they are whole", tracing("/collect/v1/traces",
    { target_batch_tokens = 1, max_queue_size = 10000 }, nil, function(batcher, traces)
      local records = {}
      for i = 1, 1100 do records[i] = "r" .. i end
      tb.gather(batcher:submit_batch(records))
      http.stats_once(server, "spans", 1024) -- nobody has asked for that
      traces:close()
      spans_once(1100)
      assert.equal(3, traces.stats.requests)
    end))

  it("what is left goes when the batcher stops, without close", function()
    http.really(function()
      local batcher = new_batcher()
      tb.otel { endpoint = server.url .. "/collect/v1/traces", batchers = { batcher } }
      tb.with(batcher, function() batcher:submit("x"):await() end)
    end)()
    http.really(function() spans_once(1) end)()
  end)

  it("a run that ends early drops what it has, and another can be traced", function()
    local batcher = new_batcher()
    assert.is_false((pcall(tb.run, function()
      tb.otel { endpoint = server.url .. "/hang/v1/traces", batchers = { batcher }, log = function() end }
      batcher:start()
      batcher:submit("x"):await()
      error "enough"
    end)))
    http.really(function()
      local traces = tb.otel { endpoint = server.url .. "/collect/v1/traces", batchers = { batcher } }
      tb.with(batcher, function() batcher:submit("x"):await() end)
      traces:close()
      spans_once(1)
    end)()
  end)

  it("it keeps no run going, and hides no deadlock", function()
    tb.run(function() tb.otel { batchers = { (new_batcher()) } } end)
    local ok, err = pcall(tb.run, function()
      local batcher = new_batcher():start()
      local traces = tb.otel { batchers = batcher, log = function() end }
      batcher:submit("x"):await()
      tb.sleep(0.01)
      assert(traces.stats.kept == 1) -- it is to go in five seconds
      local waiting
      waiting = tb.spawn(function()
        tb.sleep(0)
        waiting:await()
      end)
      waiting:await()
    end)
    assert.is_false(ok)
    assert.equal("deadlock", err.code)
  end)

  it("mistakes raise, and show no secret", http.really(function()
    local batcher = new_batcher()
    local function fails(pattern, given)
      given.batchers = given.batchers or { batcher }
      local ok, message = pcall(tb.otel, given)
      assert.is_false(ok)
      assert.matches(pattern, tostring(message))
      assert.is_nil(tostring(message):find "s3cret")
    end
    fails("otel: endpoint: the URL must begin with http", { endpoint = "ftp://ann:s3cret@x/" })
    fails("otel: headers: the header 'X' holds a line break", { headers = { X = "s3cret\n" } })
    fails("otel: the header 'content%-type' is set by the exporter", { headers = { ["content-type"] = "s3cret" } })
    fails("otel: parameter 'ratio' must be a number from 0 to 1", { ratio = 2 })
    fails("otel: unknown parameter 'endpont'; did you mean 'endpoint'", { endpont = "x" })
    fails("otel: batchers%[1%] is no batcher", { batchers = { 7 } })
    fails("otel: batchers must be a batcher or a list", { batchers = {} })
    local traces = tb.otel { batchers = batcher }
    fails("TokenBatcher 'a' is traced already", {})
    traces:close()
    traces:close()
    tb.otel { batchers = batcher }:close()
    assert.is_false((pcall(H.run, function() tb.otel { batchers = batcher } end)))
  end))

  it("an endpoint without a path is that of OTLP", function()
    local function endpoint(url) return otel.check("x", otel.COMMON, { endpoint = url }).endpoint end
    assert.equal("http://h:4318/v1/traces", endpoint "http://h:4318")
    assert.equal("http://h:4318/v1/traces", endpoint "http://h:4318/")
    assert.equal("http://h/own", endpoint "http://h/own")
  end)
end)
