-- --otel-endpoint of `run` and `work`.

local cli = require "tests.lua.cli_helper"
local http = require "tests.lua.http_helper"
local R = require "tests.lua.redis_helper"
local tb = require "tokenbatcher"

local missing = http.missing()

local TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

local SCRIPT = [[
return { default_cost = 1, target_batch_tokens = 2, inference_timeout_s = 60, batch_timeout_s = 0.001,
  submit_options = function(record) return { trace = record.trace } end,
  inference_fn = function(records, info)
    local results = {}
    for i in ipairs(records) do results[i] = info.traceparent end
    return results
  end }]]

describe("--otel-endpoint", function()
  if missing then
    pending(missing)
    return
  end

  local server
  setup(cli.new_folder)
  teardown(cli.clean)
  before_each(function() server = http.server() end)
  after_each(function() server.stop() end)

  local function run(endpoint, input, environment)
    return cli.shell(("%s timeout -k 1 120 %s run %s --otel-endpoint %s"):format(environment or "", cli.quote(cli.exe),
      cli.file("script.lua", SCRIPT), cli.quote(endpoint)), input)
  end

  local function collected()
    local got
    tb.run(function() got = tb.json.decode(assert(tb.http.get(server.url .. "/spans")).body) end)
    assert.same({}, { unpack(got.problems) })
    return got.spans
  end

  local function requests()
    local log
    tb.run(function() log = http.stats(server).log end)
    return log
  end

  it("batches of a run are with the collector when it has ended; the environment says the rest", function()
    local r = run(server.url .. "/collect/v1/traces", ('{"trace":"%s"}\n'):format(TRACE):rep(2) .. "{}\n",
      "OTEL_SERVICE_NAME=job OTEL_EXPORTER_OTLP_HEADERS='authorization=Bearer%20s3cret, x-a=b'")
    assert.equal(0, r.status, r.err)
    local spans = collected()
    assert.same({ 2, "job", 3 }, { #spans, spans[1].service,
      spans[1].attributes["tokenbatcher.batch.size"] + spans[2].attributes["tokenbatcher.batch.size"] })
    assert.equal(TRACE:sub(4, 35), spans[1].traceId)
    assert.equal(TRACE:sub(37, 52), spans[1].parentSpanId)
    assert.truthy(r.lines[1]:find(spans[1].spanId, 1, true), r.out)
    assert.equal("Bearer s3cret", requests()[1].authorization)
    assert.is_nil((r.out .. r.err):find "s3cret")
  end)

  it("a collector that is away or hangs changes neither answers nor the exit status", function()
    for _, endpoint in ipairs { "http://127.0.0.1:1", server.url .. "/hang" } do
      local r = run(endpoint, "{}\n{}\n{}\n")
      assert.equal(0, r.status, r.err)
      assert.equal(3, #r.lines)
      local _, n = r.err:gsub("otel: http", "")
      assert.equal(1, n, r.err)
    end
  end)

  it("mistakes are told before anything is read, and no secret with them", function()
    local r = run("nowhere", "{}\n")
    assert.equal(2, r.status)
    assert.truthy(r.err:find("--otel-endpoint: the URL must begin with http:// or https://, got ", 1, true), r.err)
    r = run(server.url, "{}\n", "OTEL_EXPORTER_OTLP_HEADERS='s3cret'")
    assert.equal(2, r.status)
    assert.matches("OTEL_EXPORTER_OTLP_HEADERS must be name=value,name=value", r.err)
    assert.is_nil(r.err:find "s3cret")
    r = cli.run(SCRIPT:gsub("record.trace", '"zz"'), "{}\n")
    assert.matches("submit_options: trace must be a W3C traceparent", r.out)
  end)

  it("a worker has it, too", function()
    if R.missing() then return pending(R.missing()) end
    local redis = R.server()
    R.really(function()
      local worker = R.program(redis, "w1", { "work", cli.file("script.lua", SCRIPT), "--redis", redis.url, "--stream",
        "S", "--consumer", "w1", "--otel-endpoint", server.url .. "/collect/v1/traces" })
      worker:says "worker w1"
      redis:add("S", { "record", ('{"trace":"%s"}'):format(TRACE) })
      http.stats_once(server, "spans", 1) -- five seconds later at the latest
      worker:kill "TERM"
      assert.truthy(worker:ended():find("0 failed", 1, true))
    end)()
    redis:stop()
    local spans = collected()
    assert.same({ 1, TRACE:sub(4, 35) }, { #spans, spans[1].traceId })
  end)
end)
