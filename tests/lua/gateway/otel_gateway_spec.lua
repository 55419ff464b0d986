-- The gateway and traces: a client's context goes on where it can, and batches are spans of a collector.

local cli = require "tests.lua.cli_helper"
local config = require "tokenbatcher.gateway.config"
local helper = dofile "tests/lua/gateway_helper.lua"
local http = require "tests.lua.http_helper"
local json = require "tokenbatcher.base.json"
local nginx = dofile "tests/nginx/server.lua"
local tb = require "tokenbatcher"

local A = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
local B = "00-aaaabbbbccccddddaaaabbbbccccdddd-1111222233334444-01"

local function answering(request)
  local n, data = #json.decode(request.body).input, {}
  for i = 1, n do data[i] = ('{"index":%d,"embedding":[1]}'):format(i - 1) end
  return { status = 200, headers = {}, body = '{"data":[' .. table.concat(data, ",") .. "]}" }
end

local function ask(input, context)
  return helper.request("/v1/embeddings", json.encode { model = "m", input = input },
    { headers = { traceparent = context } })
end

describe("the gateway and traces:", function()
  it("a context goes on where a call is of one, and a bad one is ignored", function()
    local fake = helper.upstream(answering)
    helper.run({}, { fake }, function(gateway)
      for _, asked in ipairs { { ask(json.list { "a", "b" }, A) }, { ask("a", "nonsense") }, { ask "a" },
        { ask("a", A), ask("b", A) }, { ask("a", A), ask("b", B) }, { ask("a", A), ask "b" } } do
        for _, answer in ipairs(helper.at_once(gateway, asked)) do assert.equal(200, answer[1]) end
      end
    end)
    local seen = {}
    for i, call in ipairs(fake.calls) do seen[i] = call.headers.traceparent or "none" end
    assert.same({ A, "none", "none", A, "none", "none" }, seen)
  end)

  it("mistakes in the option end the start, and show no secret", function()
    local function fails(pattern, given)
      local ok, message = pcall(config.read, { upstreams = { { url = "http://x" } }, otel = given })
      assert.is_false(ok)
      assert.matches(pattern, tostring(message))
      assert.is_nil(tostring(message):find "s3cret")
    end
    fails('gateway: "otel" must be false or a table', true)
    fails("gateway: otel: unknown parameter 'url'", { url = "http://x" })
    fails("gateway: otel: endpoint: the URL must begin with http", { endpoint = "x://ann:s3cret@h" })
    fails("gateway: otel: headers: the header 'K' holds a line break", { headers = { K = "s3cret\n" } })
    assert.is_nil(config.read({ upstreams = { { url = "http://x" } }, otel = false }).otel)
  end)

  describe("in nginx", function()
    local missing, server = nginx.missing() or http.missing(), nil
    if missing then
      pending("skipped: " .. missing)
      return
    end

    setup(cli.new_folder)
    teardown(cli.clean)
    before_each(function() server = http.server() end)
    after_each(function()
      server.stop()
      nginx.stop_all()
    end)

    local function in_loop(fn)
      local result
      tb.run(function() result = fn() end)
      return result
    end

    local function gateway_to(path)
      local given = { "{ endpoint = '", server.url, path, "', headers = { Authorization = 'Bearer s3cret' }, ",
        "service_name = 'gw' }" }
      return nginx.gateway { upstream = server.url .. "/ok/v1", workers = 2, config = "otel = " .. table.concat(given) }
    end

    local function embed(gateway, text, context)
      local answer = nginx.output_of(("curl -s -m 20 -H 'content-type: application/json' -H 'traceparent: %s' "
        .. "-d '{\"model\":\"m\",\"input\":[\"%s\"]}' %s/v1/embeddings"):format(context, text, gateway.url))
      assert.truthy(answer:find('"embedding"', 1, true), answer)
    end

    it("batches are spans linked to their clients', sent when the worker leaves at the latest", function()
      local gateway = gateway_to "/collect/v1/traces"
      embed(gateway, "secret words", A)
      embed(gateway, "more words", "bad")
      gateway:signal "QUIT"
      in_loop(function() return http.stats_once(server, "spans", 2) end)
      local got = in_loop(function() return json.decode(assert(tb.http.get(server.url .. "/spans")).body) end)
      assert.same({}, { unpack(got.problems) })
      table.sort(got.spans, function(a, b) return #a.links > #b.links end)
      local first, second = got.spans[1], got.spans[2]
      assert.same({ A:sub(4, 35), A:sub(37, 52) }, { first.traceId, first.parentSpanId })
      assert.same({ 1, 0, "gw" }, { #first.links, #second.links, first.service })
      local sent, authorization = {}, nil
      for _, entry in ipairs(in_loop(function() return http.stats(server).log end)) do
        if entry.path:find "embeddings" then sent[entry.traceparent] = true end
        if entry.path:find "traces" then authorization = entry.authorization end
      end
      assert.is_true(sent[("00-%s-%s-01"):format(first.traceId, first.spanId)])
      assert.is_true(sent[("00-%s-%s-01"):format(second.traceId, second.spanId)])
      assert.equal("Bearer s3cret", authorization)
      assert.is_nil(table.concat(got.bodies):find "words")
      nginx.wait_until("nginx to end", function() return not gateway:is_alive() end)
      local log = gateway:log()
      assert.is_nil(log:find "s3cret")
      assert.is_nil(log:find "%[error%]", log)
    end)

    it("a collector that hangs is in nobody's way, nor in that of a worker that leaves", function()
      local gateway = gateway_to "/hang/v1/traces"
      for i = 1, 3 do embed(gateway, "x" .. i, A) end
      local page = gateway:get "/metrics"
      assert.truthy(page:find("tokenbatcher_trace_spans_dropped_total{", 1, true), page)
      gateway:signal "QUIT"
      in_loop(function() return http.stats_once(server, "aborted", 1) end) -- it was asked, and let go
      nginx.wait_until("nginx to end", function() return not gateway:is_alive() end)
      assert.is_nil(gateway:log():find "%[error%]", gateway:log())
    end)
  end)
end)
