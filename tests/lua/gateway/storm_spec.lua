-- Tens of thousands of answers under everything at once: cancels, duplicates that join, poison, deadlines, broken
-- calls, limits that are learned, credentials. Each answer is checked: it is the vector of its own input, from a call
-- with its own credential, or an error; and nothing is left behind.

local helper = dofile "tests/lua/gateway_helper.lua"
local json = require "tokenbatcher.base.json"
local tb = require "tokenbatcher"

local CLIENTS, REQUESTS = 60, 170 -- each of these

local function random_source(seed)
  local state = seed
  return function(n)
    state = (state * 1103515245 + 12345) % 2147483648
    return math.floor(state / 65536) % n + 1
  end
end

-- The "vector" of an input says all by which it could be mistaken: the input, the model, the credential.
local function vector_of(input, model, credential)
  return json.encode({ #input, model == "m1" and 1 or 2, #credential, tonumber(input:match "%d+") or 0 })
end

local function storming_upstream(random)
  local upstream
  upstream = helper.upstream(function(request)
    local body = json.decode(request.body)
    tb.sleep(random(20) / 1000)
    local dice = random(100)
    if dice <= 3 then return nil, { code = "upstream_broken", message = "it broke off", status = 502 } end
    if dice <= 5 then return { status = 503, headers = {}, body = "", retry_after_s = 1 } end
    if dice <= 7 then return { status = 200, headers = {}, body = '{"data":[' } end
    if #body.input > upstream.limit then
      upstream.max_inputs = upstream.limit
      return { status = 413, headers = {}, body = "" }
    end
    local data = {}
    for i, input in ipairs(body.input) do
      if input:find "poison" then return { status = 400, headers = {}, body = json.encode { error = input } } end
      data[#body.input + 1 - i] = ('{"index":%d,"embedding":%s}'):format(i - 1,
        vector_of(input, body.model, request.headers.authorization))
    end
    local text = ('{"data":[%s],"model":"%s"}'):format(table.concat(data, ","), body.model)
    return { status = 200, headers = {}, body = text }
  end)
  upstream.limit = 20
  return upstream
end

-- One request of a client, its answer checked. @return what became of it
local function one(gateway, random, client)
  local model, credential, inputs = "m" .. random(2), "Bearer key " .. ("x"):rep(client % 5), {}
  for i = 1, random(4) do
    inputs[i] = (random(25) == 1 and "poison " or "text ") .. random(200)
  end
  local headers, leave = { authorization = credential }, nil
  if random(8) == 1 then headers["x-max-wait-ms"] = tostring(random(30)) end
  local request = helper.request("/v1/embeddings", json.encode { model = model, input = inputs }, { headers = headers,
    on_abort = function(_, fn) leave = fn end })
  if random(6) == 1 then
    local future = tb.spawn(function() return (helper.handle(gateway, request)) end)
    tb.sleep(random(15) / 1000)
    if leave and not future:done() then
      leave()
      future:await()
      return "left"
    end
    future:await()
    return "answered before it left"
  end
  local status, _, text = helper.handle(gateway, request)
  local body = json.decode(text)
  if status ~= 200 then
    if not table.concat(inputs):find "poison" then assert.is_nil(text:find "poison", "a stranger's words") end
    return tostring(status)
  end
  assert.equal(#inputs, #body.data)
  for i, input in ipairs(inputs) do
    assert.equal(vector_of(input, model, credential), json.encode(body.data[i].embedding))
    assert.equal(i - 1, body.data[i].index)
    assert.is_nil(input:find "poison")
  end
  return "right"
end

for seed = 1, 2 do
  local name = "a storm of %d requests: none has a wrong answer, none is lost (seed %d)"
  it(name:format(CLIENTS * REQUESTS, seed), function()
    local random = random_source(seed)
    local became, given = {}, { join = true, auth = "passthrough", limits = { keys_per_address = 0 },
      batch = { max_inputs = 64, max_in_flight = 4, max_queue = 150, timeout_s = 0.6 } }
    helper.run(given, { storming_upstream(random) }, function(gateway)
      local clients = {}
      for client = 1, CLIENTS do
        clients[client] = tb.spawn(function()
          for _ = 1, REQUESTS do
            local what = one(gateway, random, client)
            became[what] = (became[what] or 0) + 1
            tb.sleep(random(10) / 1000)
          end
        end)
      end
      local _, errors = tb.gather(clients)
      for client = 1, CLIENTS do assert.is_nil(errors[client] and tostring(errors[client])) end
      assert.same({ 0, 0 }, { gateway.held, gateway.active })
      local stats = gateway.lines[1].batcher.stats
      assert.equal(0, stats.queue_size + stats.running_records)
      assert.equal(stats.total_submitted, stats.total_completed + stats.total_failed + stats.total_cancelled
        + stats.total_expired)
      assert.is_true(stats.total_joined > 0)
    end)
    for _, what in ipairs { "right", "left", "400", "502", "503", "504" } do
      assert.is_true((became[what] or 0) > 0, what .. ": " .. json.encode(became))
    end
    assert.is_true(became.right > CLIENTS * REQUESTS / 4, json.encode(became))
    local sum = 0
    for _, n in pairs(became) do sum = sum + n end
    assert.equal(CLIENTS * REQUESTS, sum)
  end)
end
