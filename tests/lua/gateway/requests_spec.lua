-- Requests and answers of the gateway, without nginx and without an upstream, in virtual time.

local helper = dofile "tests/lua/gateway_helper.lua"
local json = require "tokenbatcher.base.json"
local tb = require "tokenbatcher"

-- An upstream that embeds: the vector of an input is a number made of its bytes.
local function number_of(input)
  local sum = 0
  for i = 1, #input do sum = (sum * 31 + input:byte(i)) % 1000003 end
  return sum
end

local function embedded(request)
  local inputs, data = json.decode(request.body).input, {}
  for i, input in ipairs(inputs) do
    data[i] = ('{"object":"embedding","index":%d,"embedding":[%d]}'):format(i - 1, number_of(json.encode(input)))
  end
  local body = '{"data":[%s],"model":"m","usage":{"prompt_tokens":%d,"total_tokens":%d}}'
  return { status = 200, headers = {}, body = body:format(table.concat(data, ","), #inputs, #inputs) }
end

local function refusal(status, said, retry_after_s)
  return { status = status, headers = {}, retry_after_s = retry_after_s,
    body = type(said) == "table" and json.encode(said) or said or "" }
end

local function ask(input, more)
  return helper.request("/v1/embeddings", json.encode { model = more and more.model or "m", input = input }, more)
end

local function is_right(answer, input)
  local body = answer[1] == 200 and json.decode(answer[3])
  return body and body.data[1].embedding[1] == number_of(json.encode(input)) or false
end

local function error_of(answer) return json.decode(answer[3]).error end

local function bearer(key) return { headers = { authorization = "Bearer " .. key } } end

describe("who pays:", function()
  it("passthrough: the client's credential goes along, and no two credentials share a call", function()
    local upstream = helper.upstream(embedded)
    helper.run({ auth = "passthrough" }, { upstream }, function(gateway)
      local answers = helper.at_once(gateway, { ask("a", bearer "one"), ask("b", bearer "two"), ask("c", bearer "one"),
        ask("d", { headers = { ["x-api-key"] = "three" } }), ask "e" })
      for i, input in ipairs { "a", "b", "c", "d", "e" } do assert.is_true(is_right(answers[i], input)) end
    end)
    local seen = {}
    for _, call in ipairs(upstream.calls) do
      assert.is_string(call.credential)
      local who = call.headers.authorization or call.headers["x-api-key"] or "nobody"
      assert.is_nil(seen[who])
      seen[who] = #json.decode(call.body).input
    end
    assert.same({ ["Bearer one"] = 2, ["Bearer two"] = 1, three = 1, nobody = 1 }, seen)
  end)

  it("config: all share, and nothing of a client's credential goes along", function()
    local upstream = helper.upstream(embedded, { has_key = true })
    helper.run({}, { upstream }, function(gateway)
      helper.at_once(gateway, { ask("a", bearer "one"), ask("b", bearer "two") })
    end)
    assert.equal(1, #upstream.calls)
    assert.is_nil(upstream.calls[1].headers.authorization)
    assert.is_nil(upstream.calls[1].credential)
  end)

  it("a table: a known key is exchanged, an unknown one refused without a call", function()
    local upstream = helper.upstream(embedded, { has_key = true })
    helper.run({ auth = { alice = "sk-alice", bob = true } }, { upstream }, function(gateway)
      local answers = helper.at_once(gateway, { ask("a", bearer "alice"), ask("b", bearer "bob"),
        ask("c", bearer "eve"), ask "d", helper.request("/v1/chat/completions", "{}", bearer "eve"),
        helper.request("/v1/chat/completions", "{}", bearer "alice") })
      assert.is_true(is_right(answers[1], "a") and is_right(answers[2], "b"))
      assert.equal(401, answers[3][1])
      assert.equal("the API key is not known here", error_of(answers[3]).message)
      assert.equal("authentication_error", error_of(answers[3]).type)
      assert.equal(401, answers[4][1])
      assert.equal(401, answers[5][1])
      assert.equal("Bearer sk-alice", answers[6][2].headers.authorization)
    end)
    assert.equal(2, #upstream.calls)
    assert.equal("Bearer sk-alice", upstream.calls[1].headers.authorization)
    assert.is_nil(upstream.calls[2].headers.authorization)
  end)
end)

describe("an organization and a project:", function()
  it("of OpenAI's are part of who pays", function()
    local upstream = helper.upstream(embedded)
    helper.run({}, { upstream }, function(gateway)
      local function of(project)
        return { headers = { authorization = "Bearer x", ["openai-organization"] = "o", ["openai-project"] = project } }
      end
      helper.at_once(gateway, { ask("a", of "p"), ask("b", of "q"), ask("c", of "p") })
    end)
    assert.equal(2, #upstream.calls)
    assert.same({ "o", "p" }, { upstream.calls[1].headers["openai-organization"],
      upstream.calls[1].headers["openai-project"] })
  end)
end)

describe("an upstream's limit on inputs:", function()
  it("is kept to as soon as it is known, and no longer than it is known", function()
    local sizes, upstreams = {}, {}
    upstreams[1] = helper.upstream(function(request)
      sizes[#sizes + 1] = request.inputs
      return embedded(request)
    end)
    helper.run({}, upstreams, function(gateway)
      local function asks(n)
        local list = {}
        for i = 1, n do list[i] = ask("text " .. i) end
        helper.at_once(gateway, list)
      end
      upstreams[1].max_inputs = 2
      asks(4) -- halved as it goes
      asks(4)
      upstreams[1].max_inputs = 2048
      asks(2)
      asks(4)
    end)
    assert.same({ 2, 2, 2, 2, 2, 4 }, sizes)
  end)

  it("is forgotten after ten minutes, and tried again", function()
    tb.run(function()
      local known = require("tokenbatcher.gateway.limits").new { name = "x", most = 2048 }
      known:learn({ inputs = 64 }, { status = 422, body = "batch size 64 > maximum allowed batch size 32" })
      tb.sleep(599)
      assert.same({ max_inputs = 32, learned = true }, known:describe())
      tb.sleep(1)
      assert.same({ max_inputs = 2048, learned = false }, known:describe())
    end, { clock = "virtual" })
  end)
end)

describe("an upstream's words:", function()
  -- Refuses a call with "bad" in it, quoting all of it.
  local function echoing(request)
    if not request.body:find "bad" then return embedded(request) end
    return refusal(400, { error = { message = "cannot take " .. request.body, type = "bad_input", param = "input",
      code = "c7" } })
  end

  it("reach only the client whose input was refused alone; its neighbours are answered", function()
    local upstream = helper.upstream(echoing)
    helper.run({}, { upstream }, function(gateway)
      local answers = helper.at_once(gateway, { ask "secret one", ask "bad two", ask "secret three", ask "four" })
      for i, input in ipairs { "secret one", false, "secret three", "four" } do
        if input then assert.is_true(is_right(answers[i], input)) end
      end
      assert.equal(400, answers[2][1])
      local said = error_of(answers[2])
      assert.same({ "bad_input", "input", "c7" }, { said.type, said.param, said.code })
      assert.matches("^cannot take .*bad two", said.message)
      assert.is_nil(answers[2][3]:find("secret", 1, true))
    end)
  end)

  it("an input at which it ends the connection fails alone", function()
    local upstream = helper.upstream(function(request)
      if not request.body:find "bad" then return embedded(request) end
      return nil, { code = "upstream_broken", message = "the connection ended", status = 502, may_be_input = true }
    end)
    helper.run({}, { upstream }, function(gateway)
      local answers = helper.at_once(gateway, { ask "one", ask "two", ask "bad three", ask "four", ask "five" })
      for i, input in ipairs { "one", "two", false, "four", "five" } do
        if input then assert.is_true(is_right(answers[i], input)) end
      end
      assert.equal(502, answers[3][1])
      assert.equal("upstream_broken", error_of(answers[3]).code)
    end)
  end)

  it("the call that shows whether it is back risks one input; then they go on together", function()
    local sizes, upstreams = {}, {}
    upstreams[1] = helper.upstream(function(request)
      sizes[#sizes + 1], upstreams[1].state = request.inputs, "closed"
      return embedded(request)
    end, { state = "open" })
    helper.run({}, upstreams, function(gateway)
      local inputs = {}
      for i = 1, 9 do inputs[i] = ask("text " .. i) end
      for i, answer in ipairs(helper.at_once(gateway, inputs)) do assert.is_true(is_right(answer, "text " .. i)) end
    end)
    assert.same({ 1, 8 }, sizes)
  end)

  it("are kept from all where a call of several clients failed as a whole", function()
    local upstream = helper.upstream(function(request) return refusal(500, { error = { message = request.body } }) end)
    helper.run({}, { upstream }, function(gateway)
      for _, answer in ipairs(helper.at_once(gateway, { ask "secret one", ask "secret two" })) do
        assert.equal(502, answer[1])
        assert.equal("upstream: status 500", error_of(answer).message)
      end
      local answer = helper.at_once(gateway, { ask { "my own", "list" } })[1]
      assert.matches("my own", error_of(answer).message)
    end)
  end)

  it("never tell a key, whole or in part, nor what is said of the gateway's own", function()
    local key = "sk-0123456789abcdefghij"
    for _, said in ipairs { "wrong key " .. key, "wrong key 456789abcdefgh", '{"error":{"code":"' .. key .. '"}}' } do
      local body = said:find "^{" and said or { error = { message = said } }
      local upstream = helper.upstream(function() return refusal(400, body) end, { has_key = true, secrets = { key } })
      local logged = helper.run({}, { upstream }, function(gateway)
        local answer = helper.at_once(gateway, { ask "a" })[1]
        assert.equal(400, answer[1])
        assert.equal("upstream: status 400", error_of(answer).message)
        assert.is_nil(answer[3]:find("456789", 1, true))
      end)
      assert.is_nil(table.concat(logged):find("456789", 1, true))
    end
    local upstream = helper.upstream(function() return refusal(401, { error = { message = "ask Joe" } }) end,
      { has_key = true })
    helper.run({}, { upstream }, function(gateway)
      assert.equal("upstream: status 401", error_of(helper.at_once(gateway, { ask "a" })[1]).message)
    end)
    upstream = helper.upstream(function() return refusal(401, { error = { message = "your key is wrong" } }) end)
    helper.run({ auth = "passthrough" }, { upstream }, function(gateway)
      local answer = helper.at_once(gateway, { ask("a", bearer "x") })[1]
      assert.equal("your key is wrong", error_of(answer).message)
    end)
  end)

  it("are understood in the shapes of vLLM, TEI and FastAPI, and bounded", function()
    for said, expected in pairs {
      ['{"object":"error","message":"too long","type":"BadRequestError","param":null,"code":400}'] =
        { "too long", "BadRequestError", nil, "400" },
      ['{"error":"`inputs` must have less than 512 tokens","error_type":"Validation"}'] =
        { "`inputs` must have less than 512 tokens", "Validation" },
      ['{"detail":"no such thing"}'] = { "no such thing", "invalid_request_error" },
      ['{"detail":[{"type":"missing","loc":["body","input"],"msg":"Field required"}]}'] =
        { "body.input: Field required", "missing", "input" },
      ['{"message":"plain"}'] = { "plain", "invalid_request_error" },
      ["<html>no</html>"] = { "upstream: status 400", "invalid_request_error" },
      ['{"error":{"message":{"not":"text"}}}'] = { "upstream: status 400", "invalid_request_error" },
      ['{"error":{"message":"' .. ("x"):rep(600) .. '"}}'] = { ("x"):rep(500) .. "...", "invalid_request_error" },
      ['{"error":{"message":"two\\nlines"}}'] = { "two lines", "invalid_request_error" },
    } do
      helper.run({}, { helper.upstream(function() return refusal(400, said) end) }, function(gateway)
        local problem = error_of(helper.at_once(gateway, { ask "a" })[1])
        local function given(value) return value ~= json.null and value or nil end
        assert.same({ expected[1], expected[2], expected[3], expected[4] },
          { problem.message, problem.type, given(problem.param), given(problem.code) }, said)
      end)
    end
  end)

  it("of a whole list that is refused cost a bounded number of calls", function()
    local upstream = helper.upstream(function() return refusal(400, { error = { message = "no" } }) end)
    helper.run({}, { upstream }, function(gateway)
      local inputs = {}
      for i = 1, 256 do inputs[i] = "input " .. i end
      local answer = helper.at_once(gateway, { ask(inputs) })[1]
      assert.same({ 400, "invalid_request_error" }, { answer[1], error_of(answer).type })
      local others = {}
      for i = 1, 100 do others[i] = ask("text " .. i) end
      for _, other in ipairs(helper.at_once(gateway, others)) do
        assert.same({ 400, "invalid_request_error" }, { other[1], error_of(other).type })
      end
    end)
    assert.is_true(#upstream.calls < 60, #upstream.calls)
  end)
end)

describe("when there is no answer:", function()
  it("Retry-After is the larger of the upstream's and the queue's", function()
    local upstream = helper.upstream(function() return refusal(429, { error = { message = "slow down" } }, 37) end)
    helper.run({}, { upstream }, function(gateway)
      local answer = helper.at_once(gateway, { ask "a" })[1]
      assert.equal(429, answer[1])
      assert.equal("37", answer[2]["retry-after"])
      assert.equal("slow down", error_of(answer).message)
    end)
  end)

  it("says what became of the call: unreachable, open circuit, late", function()
    for status, err in pairs {
      [502] = { code = "upstream_unreachable", message = "it takes no connection", status = 502 },
      [503] = { code = "upstream_open", message = "it is away", status = 503, retry_after_s = 9 },
      [504] = { code = "upstream_timeout", message = "it did not answer in time", status = 504 } } do
      helper.run({}, { helper.upstream(function() return nil, err end) }, function(gateway)
        local answer = helper.at_once(gateway, { ask "a" })[1]
        assert.equal(status, answer[1])
        assert.equal(err.code, error_of(answer).code)
        assert.equal(status == 503 and "9" or nil, answer[2]["retry-after"])
      end)
    end
  end)

  it("a fault of the gateway itself is 500 without a word of it, and a line in its log", function()
    local upstream = helper.upstream(function() error "a secret place:17" end)
    local logged = helper.run({}, { upstream }, function(gateway)
      local answer = helper.at_once(gateway, { ask "a" })[1]
      assert.equal(500, answer[1])
      assert.is_nil(answer[3]:find("secret", 1, true))
      assert.equal(0, gateway.active)
    end)
    assert.matches("secret place", logged[1])
  end)

  it("an outage writes 20 lines a second, and how many more there were", function()
    local err = { code = "upstream_unreachable", message = "no", status = 502 }
    local upstream = helper.upstream(function() return nil, err end)
    local logged = helper.run({}, { upstream }, function(gateway)
      tb.sleep(10)
      local requests = {}
      for i = 1, 100 do requests[i] = ask("text " .. i) end
      helper.at_once(gateway, requests)
      tb.sleep(2)
      helper.at_once(gateway, { ask "one more" })
    end)
    assert.equal(22, #logged)
    assert.equal("warn: 80 more requests failed", logged[21])
  end)
end)

describe("the queue:", function()
  it("is bounded by cost: 16 batches, then 429; an input above a batch is 400, a list above the queue 413", function()
    local upstream = helper.upstream(function(request)
      tb.sleep(60)
      return embedded(request)
    end)
    local batch = { max_cost = 100, max_in_flight = 1, timeout_s = 1000, options = { prefetch_batches = 0 } }
    helper.run({ batch = batch }, { upstream }, function(gateway)
      local text = ("x"):rep(4 * 49) -- 50 tokens
      local requests = {}
      for i = 1, 40 do requests[i] = ask(text .. i) end
      local futures = {}
      for i, request in ipairs(requests) do
        futures[i] = tb.spawn(function() return (helper.handle(gateway, request)) end)
        tb.sleep(0.001)
      end
      local counts = {}
      for _, future in ipairs(futures) do
        local status = future:await()
        counts[status] = (counts[status] or 0) + 1
      end
      assert.is_true(counts[429] > 0 and counts[200] <= 2 + 32, json.encode(counts))
      assert.equal(400, (helper.handle(gateway, ask(("x"):rep(1000)))))
      local list = {}
      for i = 1, 40 do list[i] = text .. i end
      local answer = { helper.handle(gateway, ask(list)) }
      assert.equal(413, answer[1])
      assert.equal("batch_too_large", error_of(answer).code)
      local tokens = {}
      for i = 1, 101 do tokens[i] = i end
      for _, input in ipairs { tokens, { tokens } } do
        answer = { helper.handle(gateway, ask(input)) }
        assert.same({ 400, "oversize" }, { answer[1], error_of(answer).code })
      end
    end)
  end)

  it("2048 inputs take about as long as the upstream needs for one call", function()
    local upstream = helper.upstream(function(request)
      tb.sleep(0.2)
      return embedded(request)
    end)
    helper.run({}, { upstream }, function(gateway)
      local inputs = {}
      for i = 1, 2048 do inputs[i] = "input " .. i end
      local began = tb.now()
      assert.equal(200, helper.at_once(gateway, { ask(inputs) })[1][1])
      assert.is_true(tb.now() - began < 0.8, tb.now() - began)
    end)
  end)

  it("x-max-wait-ms rushes nobody: four that want 0.5 ms share the others' calls", function()
    local upstream = helper.upstream(embedded)
    helper.run({}, { upstream }, function(gateway)
      local requests = {}
      for i = 1, 24 do
        requests[i] = ask("text " .. i, i <= 4 and { headers = { ["x-max-wait-ms"] = "0.5" } } or nil)
      end
      for i, answer in ipairs(helper.at_once(gateway, requests)) do assert.is_true(is_right(answer, "text " .. i)) end
    end)
    assert.equal(1, #upstream.calls)
  end)

  it("x-max-wait-ms that has passed is 504, and its input is not sent", function()
    local upstream = helper.upstream(function(request)
      tb.sleep(1)
      return embedded(request)
    end)
    helper.run({ batch = { max_in_flight = 1 } }, { upstream }, function(gateway)
      local first = tb.spawn(function() return (helper.handle(gateway, ask "a")) end)
      tb.sleep(0.1)
      local answer = { helper.handle(gateway, ask("b", { headers = { ["x-max-wait-ms"] = "100" } })) }
      assert.equal(504, answer[1])
      assert.equal("deadline", error_of(answer).code)
      assert.equal(200, (first:await()))
    end)
    assert.equal(1, #upstream.calls)
  end)

  it("a call is tried again until the last of its clients has given up, and not longer", function()
    local upstream = helper.upstream(embedded)
    helper.run({}, { upstream }, function(gateway)
      local now = tb.now()
      helper.at_once(gateway, { ask("a", { headers = { ["x-max-wait-ms"] = "100" } }),
        ask("b", { headers = { ["x-max-wait-ms"] = "300" } }) })
      assert.near(now + 0.3, upstream.calls[1].retry_until, 1e-6)
      helper.at_once(gateway, { ask("a", { headers = { ["x-max-wait-ms"] = "100" } }), ask "b" })
      assert.is_nil(upstream.calls[2].retry_until)
    end)
  end)

  it("refuses x-max-wait-ms that is no number", function()
    helper.run({}, { helper.upstream(embedded) }, function(gateway)
      for _, ms in ipairs { "soon", "-1", "0", "nan", "1e-323", "1, 2", "inf", "0x10" } do
        local answer = { helper.handle(gateway, ask("a", { headers = { ["x-max-wait-ms"] = ms } })) }
        assert.equal(400, answer[1], ms)
        assert.equal("invalid_max_wait", error_of(answer).code)
      end
    end)
  end)

  it("hundreds of models that do not exist keep nobody out", function()
    local upstream = helper.upstream(function(request)
      if json.decode(request.body).model ~= "m" then return refusal(404, { error = { message = "no such model" } }) end
      return embedded(request)
    end)
    helper.run({}, { upstream }, function(gateway)
      local requests = {}
      for i = 1, 300 do requests[i] = ask("x", { model = "bogus " .. i }) end
      requests[301] = ask "real"
      local answers = helper.at_once(gateway, requests)
      for i = 1, 300 do assert.equal(404, answers[i][1]) end
      assert.is_true(is_right(answers[301], "real"))
    end)
  end)

  it("identical inputs of one group in flight go once, where join is set", function()
    local upstream = helper.upstream(embedded)
    helper.run({ join = true }, { upstream }, function(gateway)
      local answers = helper.at_once(gateway, { ask "same", ask "same", ask { "same", "other" },
        ask("same", { model = "n" }) })
      for i = 1, 4 do assert.is_true(is_right(answers[i], "same")) end
    end)
    assert.same({ 2, 1 }, { #json.decode(upstream.calls[1].body).input, #json.decode(upstream.calls[2].body).input })
  end)

  it("a limit that the upstream has taught is kept to", function()
    local upstream
    upstream = helper.upstream(function(request)
      if request.inputs <= 32 then return embedded(request) end
      upstream.max_inputs = 32
      return refusal(422, { error = "batch size 64 > maximum allowed batch size 32", error_type = "Validation" })
    end)
    helper.run({}, { upstream }, function(gateway)
      local inputs = {}
      for i = 1, 64 do inputs[i] = "input " .. i end
      assert.equal(200, helper.at_once(gateway, { ask(inputs) })[1][1])
      assert.equal(3, #upstream.calls)
      assert.equal(200, helper.at_once(gateway, { ask(inputs) })[1][1])
      assert.equal(5, #upstream.calls)
      assert.equal(32, gateway.lines[1].batcher:option "max_batch_size")
    end)
  end)
end)

describe("a recording:", function()
  it("has all models, since all are of one batcher", function()
    local path = os.tmpname()
    helper.run({ batch = { record = path, options = { record_keys = true } } }, { helper.upstream(embedded) },
      function(gateway) helper.at_once(gateway, { ask("a", { model = "one" }), ask("b", { model = "two" }) }) end)
    local file = assert(io.open(path))
    local text = file:read "*a"
    file:close()
    os.remove(path)
    assert.matches('\\"model\\":\\"one\\"', text)
    assert.matches('\\"model\\":\\"two\\"', text)
  end)
end)

describe("fairness:", function()
  -- One call at a time, four inputs each; who asks first is served last where keys are fair.
  local function order_of(given, requests)
    local order = {}
    local upstream = helper.upstream(function(request)
      tb.sleep(0.1)
      for _, input in ipairs(json.decode(request.body).input) do order[#order + 1] = input end
      return embedded(request)
    end)
    given.batch = { max_in_flight = 1, max_inputs = 4, max_cost = 320, options = { prefetch_batches = 0 } }
    helper.run(given, { upstream }, function(gateway) helper.at_once(gateway, requests) end)
    for place, input in ipairs(order) do order[input] = place end
    return order
  end

  local function many(n, more_of)
    local requests = {}
    for i = 1, n do requests[i] = ask("hog " .. i, more_of(i)) end
    return requests
  end

  it("is over Authorization, x-api-key and the address", function()
    for _, small in ipairs { { headers = { authorization = "Bearer small" } },
      { headers = { ["x-api-key"] = "small" } }, { address = "10.0.0.2" } } do
      local requests = many(80, function()
        return small.address and {} or { headers = { authorization = "Bearer hog" } }
      end)
      requests[81] = ask("small", small)
      assert.is_true(order_of({}, requests).small <= 16)
    end
  end)

  it("an address that invents a key for each request has 16 of them, and one for the rest", function()
    local requests = many(200, function(i) return { headers = { authorization = "Bearer " .. i } } end)
    requests[201] = ask("small", { address = "10.0.0.2", headers = { authorization = "Bearer me" } })
    local invented = order_of({ auth = "config" }, requests).small
    assert.is_true(invented <= 4 * 17 + 8, invented)
    local unlimited = order_of({ auth = "config", limits = { keys_per_address = 0 } }, requests).small
    assert.is_true(unlimited > invented, unlimited)
  end)

  it("who has one network of IPv6 is one", function()
    local requests = many(60, function(i) return { address = ("2001:db8:0:1::%x"):format(i) } end)
    requests[61] = ask("small", { address = "2001:db8:0:2::1" })
    assert.is_true(order_of({}, requests).small <= 12)
  end)

  it("takes a key of your own, and says so when it fails", function()
    local requests = many(60, function() return { headers = { authorization = "Bearer x", team = "a" } } end)
    requests[61] = ask("small", { headers = { authorization = "Bearer x", team = "b" } })
    assert.is_true(order_of({ auth = "config", fairness_key = function(request) return request.headers.team end },
      requests).small <= 12)
    local given = { fairness_key = function() error "oh" end }
    local logged = helper.run(given, { helper.upstream(embedded) }, function(gateway)
      assert.equal(500, (helper.handle(gateway, ask "a")))
    end)
    assert.matches("fairness_key raised: .*oh", logged[1])
  end)
end)

describe("what is held and where it goes:", function()
  it("an answer is held until it is out", function()
    helper.run({ limits = { held_bytes = 200 } }, { helper.upstream(embedded) }, function(gateway)
      local first = ask "a"
      local status, _, body = gateway:handle(first)
      assert.same({ 200, #body, 1 }, { status, gateway.held, gateway.active })
      assert.equal(503, (helper.handle(gateway, ask(("x"):rep(200)))))
      gateway:over(first)
      gateway:over(first)
      assert.equal(200, (helper.handle(gateway, ask(("x"):rep(200)))))
      assert.same({ 0, 0 }, { gateway.held, gateway.active })
    end)
  end)

  it("bodies together are bounded: beyond, 503 with Retry-After until others are over", function()
    local upstream = helper.upstream(function(request)
      tb.sleep(1)
      return embedded(request)
    end)
    helper.run({ limits = { held_bytes = 1000 } }, { upstream }, function(gateway)
      local first = tb.spawn(function() return (helper.handle(gateway, ask(("x"):rep(700)))) end)
      tb.sleep(0.01)
      local answer = { helper.handle(gateway, ask(("y"):rep(700))) }
      assert.equal(503, answer[1])
      assert.equal("1", answer[2]["retry-after"])
      assert.equal(200, (first:await()))
      assert.equal(200, (helper.handle(gateway, ask(("y"):rep(700)))))
      assert.same({ 0, 0 }, { gateway.held, gateway.active })
    end)
  end)

  it("a body above body_bytes is 413 before it is read, whether announced or not", function()
    helper.run({ limits = { body_bytes = 100 } }, { helper.upstream(embedded) }, function(gateway)
      local was_read = false
      local function body() was_read = true end
      local answer = { helper.handle(gateway, helper.request("/v1/embeddings", body, { body_bytes = 101 })) }
      assert.equal(413, answer[1])
      assert.is_false(was_read)
      assert.equal(413, (helper.handle(gateway, ask(("x"):rep(200)))))
    end)
  end)

  it("a client that leaves gives back all it held, once", function()
    local upstream = helper.upstream(embedded)
    helper.run({ batch = { max_wait_ms = 1000 } }, { upstream }, function(gateway)
      local leave
      tb.spawn(function()
        helper.handle(gateway, ask("a", { on_abort = function(_, fn) leave = fn end }))
      end)
      tb.sleep(0.1)
      assert.equal(1, gateway.active)
      leave()
      leave()
      tb.sleep(2)
      assert.same({ 0, 0 }, { gateway.held, gateway.active })
      assert.equal(1, gateway.requests["embeddings 499"])
      assert.is_nil(gateway.requests["embeddings 503"])
    end)
    assert.equal(0, #upstream.calls)
  end)

  it("what is not batched is passed on with the right credential; nothing leaves the upstream's folder", function()
    local upstream = helper.upstream(embedded, { has_key = true })
    helper.run({}, { upstream }, function(gateway)
      for _, path in ipairs { "/v1/models", "/v1/chat/completions?a=b", "/x/..y" } do
        local request = helper.request(path:match "^[^?]+", nil, { method = "GET", whole = path })
        local status, way = helper.handle(gateway, request)
        assert.is_nil(status)
        assert.equal("http://upstream" .. path, way.url)
        assert.same({ "Bearer own", false }, { way.headers.authorization, way.headers["x-api-key"] })
      end
      for _, target in ipairs { "/v1/../admin", "/v1/%2e%2E/admin", "/..", "/v1/..%2fadmin", "/a\\..\\b",
        "@evil.example/" } do
        local request = helper.request("/admin", nil, { method = "GET", whole = target })
        assert.equal(400, (helper.handle(gateway, request)), target)
      end
      local refused = { helper.handle(gateway, ask("a", { headers = { ["x-tokenbatcher"] = "off" } })) }
      assert.equal(400, refused[1])
      assert.equal("x-tokenbatcher may be 'bypass', and nothing else", error_of(refused).message)
      local status = helper.handle(gateway, ask("a", { headers = { ["x-tokenbatcher"] = "bypass" } }))
      assert.is_nil(status)
    end)
  end)

  it("who passes his own credential through, and has none, is not given the gateway's", function()
    local upstream = helper.upstream(embedded, { has_key = true })
    helper.run({ auth = "passthrough" }, { upstream }, function(gateway)
      for authorization, sent in pairs { [false] = false, ["Bearer mine"] = "Bearer mine" } do
        local _, way = helper.handle(gateway, helper.request("/v1/models", nil, { method = "GET",
          headers = { authorization = authorization or nil } }))
        assert.equal(sent, way.headers.authorization)
      end
    end)
  end)

  it("models choose their upstream; one that nobody has is 404", function()
    local one = helper.upstream(embedded, { models = { "a" }, shown = "http://one" })
    local two = helper.upstream(embedded, { models = { "b" }, shown = "http://two" })
    helper.run({}, { one, two }, function(gateway)
      assert.equal(200, (helper.handle(gateway, ask("x", { model = "a" }))))
      assert.equal(200, (helper.handle(gateway, ask("x", { model = "b" }))))
      local answer = { helper.handle(gateway, ask("x", { model = "c" })) }
      assert.equal(404, answer[1])
      assert.equal("model_not_found", error_of(answer).code)
      local _, way = helper.handle(gateway, helper.request("/v1/chat/completions", '{"model":"b"}',
        { headers = { ["content-type"] = "application/json" } }))
      assert.equal("http://two/v1/chat/completions", way.url)
    end)
    assert.same({ 1, 1 }, { #one.calls, #two.calls })
    helper.run({ models = { "a" } }, { helper.upstream(embedded) }, function(gateway)
      assert.equal(404, (helper.handle(gateway, ask("x", { model = "b" }))))
      assert.equal(200, (helper.handle(gateway, ask("x", { model = "a" }))))
    end)
  end)

  it("a list of models holds for what is passed on, too", function()
    local function pass(gateway, body, headers, path)
      return (helper.handle(gateway, helper.request(path or "/v1/chat/completions", body, { headers = headers })))
    end
    local is_json, bypass = { ["content-type"] = "Application/JSON" }, { ["x-tokenbatcher"] = "bypass" }
    local function check(gateway)
      assert.equal(404, pass(gateway, '{"model":"b"}', is_json))
      assert.equal(404, pass(gateway, '{"model":"b","input":"x"}', bypass, "/v1/embeddings"))
      assert.equal(400, pass(gateway, '\239\187\191{"model":"b"}', is_json)) -- Python's servers read it
      assert.is_nil(pass(gateway, '{"model":"a"}', is_json))
      assert.is_nil(pass(gateway, '{"model":"a","input":"x"}', bypass, "/v1/embeddings"))
      for _, body in ipairs { "", "[1]", "{}", "null" } do assert.is_nil(pass(gateway, body, is_json), body) end
      assert.is_nil(pass(gateway, "\255", { ["content-type"] = "multipart/form-data" }))
    end
    helper.run({ models = { "a" } }, { helper.upstream(embedded) }, check)
    helper.run({}, { helper.upstream(embedded, { models = { "a" } }) }, check)
  end)

  it("a request's id is kept or made, comes back and goes upstream", function()
    local upstream = helper.upstream(embedded)
    helper.run({}, { upstream }, function(gateway)
      local _, headers = helper.handle(gateway, ask("a", { headers = { ["x-request-id"] = "mine-1" } }))
      assert.equal("mine-1", headers["x-request-id"])
      assert.equal("mine-1", upstream.calls[1].headers["x-request-id"])
      for _, id in ipairs { "two words", ("x"):rep(129), "a\nb", "" } do
        _, headers = helper.handle(gateway, ask("a", { headers = { ["x-request-id"] = id } }))
        assert.matches("^tb%-%x+%-%x+$", headers["x-request-id"])
      end
      helper.at_once(gateway, { ask("a", { headers = { ["x-request-id"] = "one" } }),
        ask("b", { headers = { ["x-request-id"] = "two" } }) })
      assert.matches("^tb%-", upstream.calls[#upstream.calls].headers["x-request-id"])
    end)
  end)
end)

describe("methods and browsers:", function()
  it("POST alone is served, OPTIONS says so", function()
    helper.run({}, { helper.upstream(embedded) }, function(gateway)
      local status, headers = helper.handle(gateway, ask("a", { method = "GET" }))
      assert.same({ 405, "POST, OPTIONS" }, { status, headers.allow })
      status, headers = helper.handle(gateway, ask("a", { method = "OPTIONS" }))
      assert.same({ 204, "POST, OPTIONS" }, { status, headers.allow })
    end)
  end)

  it("CORS is as configured", function()
    local function preflight(origin)
      return ask("a", { method = "OPTIONS", headers = { origin = origin, ["access-control-request-method"] = "POST",
        ["access-control-request-headers"] = "authorization, x-stainless-os" } })
    end
    helper.run({ cors = { origins = { "https://a.example" } } }, { helper.upstream(embedded) }, function(gateway)
      local status, headers = helper.handle(gateway, preflight "https://a.example")
      assert.equal(204, status)
      assert.equal("https://a.example", headers["access-control-allow-origin"])
      assert.equal("authorization, x-stainless-os", headers["access-control-allow-headers"])
      headers = select(2, helper.handle(gateway, preflight "https://b.example"))
      assert.is_nil(headers["access-control-allow-origin"])
      headers = select(2, helper.handle(gateway, ask("a", { headers = { origin = "https://a.example" } })))
      assert.equal("https://a.example", headers["access-control-allow-origin"])
      assert.equal("origin", headers.vary)
      headers = select(2, helper.handle(gateway, ask("", { headers = { origin = "https://a.example" } })))
      assert.equal("https://a.example", headers["access-control-allow-origin"])
    end)
    helper.run({}, { helper.upstream(embedded) }, function(gateway)
      local _, headers = helper.handle(gateway, ask("a", { headers = { origin = "https://a.example" } }))
      assert.is_nil(headers["access-control-allow-origin"])
    end)
  end)
end)
