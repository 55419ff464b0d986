-- What is tried again, when, and when nothing is: backend/retry and its circuit, in virtual time.

local H = require "tests.lua.helper"
local asked = require "tokenbatcher.backend.retry.asked"
local calls = require "tokenbatcher.backend.retry.calls"
local retry = require "tokenbatcher.backend.retry"
local tb = require "tokenbatcher"

local virtually = H.virtually

local function response(status, headers, body)
  return { response = { status = status, headers = headers or {}, body = body } }
end
local function broken(code, was_sent) return { err = { code = code, was_sent = was_sent } } end

describe("retry: what is tried again", function()
  local policy = retry.new("test", {})
  local careful = retry.new("test", { safe_to_repeat = true })

  it("408, 409, 425, 429, 500, 502, 503, 504 and 529, and no other status", function()
    for _, status in ipairs { 408, 409, 425, 429, 500, 502, 503, 504, 529 } do
      assert.is_true(policy:may_repeat(response(status)), status)
    end
    for _, status in ipairs { 301, 307, 400, 401, 403, 404, 413, 422, 501, 505 } do
      assert.is_false(policy:may_repeat(response(status)), status)
    end
    assert.is_true(retry.new("test", { statuses = { 418 } }):may_repeat(response(418)))
    assert.is_false(retry.new("test", { statuses = { 418 } }):may_repeat(response(503)))
  end)

  it("a quota that is used up never is, nor what the server says is of no use", function()
    local body = '{"error": {"message": "m", "type": "%s", "code": %s}}'
    for _, text in ipairs { body:format("insufficient_quota", '"insufficient_quota"'),
      body:format("insufficient_quota", "null"), body:format("x", '"billing_hard_limit_reached"') } do
      assert.is_false(policy:may_repeat(response(429, nil, text)))
      assert.is_true(policy:may_repeat(response(503, nil, text)))
    end
    for _, text in ipairs { body:format("requests", '"rate_limit_exceeded"'), "insufficient_quota", "",
      '{"error": "x"}' } do
      assert.is_true(policy:may_repeat(response(429, nil, text)))
    end
    assert.is_false(policy:may_repeat(response(503, { ["x-should-retry"] = "false" })))
    assert.is_true(policy:may_repeat(response(400, { ["x-should-retry"] = "true" })))
  end)

  it("connections of which nothing was sent always, others where it is safe to repeat", function()
    assert.is_true(policy:may_repeat(broken("http_connect", false)))
    assert.is_false(policy:may_repeat(broken("http_broken", true)))
    assert.is_false(policy:may_repeat(broken("http_timeout", true)))
    for _, code in ipairs { "http_connect", "http_broken", "http_timeout" } do
      assert.is_true(careful:may_repeat(broken(code, true)))
    end
    assert.is_false(careful:may_repeat(broken("http_too_large", true)))
  end)

  it("up to `attempts`, within the time that is left; the wait doubles, with full jitter", function()
    local short = retry.new("test", { attempts = 8, backoff_s = 1, max_backoff_s = 8 })
    local most = {}
    for _ = 1, 400 do
      for attempt = 1, 6 do
        local s = short:wait_s(response(503), attempt)
        assert.is_true(s >= 0 and s <= math.min(8, 2 ^ (attempt - 1)))
        most[attempt] = math.max(most[attempt] or 0, s)
      end
    end
    for attempt = 1, 6 do assert.is_true(most[attempt] > 0.9 * math.min(8, 2 ^ (attempt - 1))) end
    assert.same({ nil, "tried 8 times" }, { short:wait_s(response(503), 8) })
    assert.same({ nil, "the deadline has come" }, { short:wait_s(response(503), 1, 0) })
    for _ = 1, 100 do assert.is_true(short:wait_s(response(503), 5, 0.25) <= 0.25) end
    assert.is_nil(short:wait_s(response(400), 1))
  end)

  it("not before what the server asks for; not at all where that is too long", function()
    local policy_1 = retry.new("test", { backoff_s = 1, retry_after_max_s = 30 })
    for _ = 1, 50 do
      local s = policy_1:wait_s(response(429, { ["retry-after"] = "7" }), 4)
      assert.is_true(s >= 7 and s <= 8)
    end
    assert.same({ nil, "it asks to wait 31 s, more than retry_after_max_s = 30 s" },
      { policy_1:wait_s(response(429, { ["retry-after"] = "31" }), 1) })
    assert.same({ nil, "it asks to wait 20 s, and the deadline comes in 12 s" },
      { policy_1:wait_s(response(429, { ["retry-after"] = "20" }), 1, 12) })
  end)

  it("checks its parameters", function()
    assert.matches("test: statuses must be a list of HTTP statuses",
      H.message(retry.new, "test", { statuses = { "x" } }))
    assert.matches("parameter 'attempts' must be a whole number from 1", H.message(retry.new, "test", { attempts = 0 }))
    assert.matches("unknown parameter 'atempts'; did you mean 'attempts'",
      H.message(retry.new, "test", { atempts = 1 }))
  end)
end)

describe("retry: what a server asks for", function()
  local function wait(headers, status) return asked.wait_s { status = status or 429, headers = headers } end

  it("durations are read as providers write them", function()
    for text, expected in pairs { ["1s"] = 1, ["6m0s"] = 360, ["20ms"] = 0.02, ["1h2m3.5s"] = 3723.5, ["7.66s"] = 7.66,
      ["2m59.56s"] = 179.56, ["500\194\181s"] = 500e-6, ["12"] = 12, ["1d"] = 86400, ["0s"] = 0 } do
      assert.is_near(expected, asked.duration_s(text), 1e-9, text)
    end
    for _, text in ipairs { "", "s", "1x", "-1s", "1s!", "1.2.3s", "1700000000", "soon" } do
      assert.is_nil(asked.duration_s(text), text)
    end
  end)

  it("retry-after-ms, then Retry-After in seconds or as a date by the answer's own clock", function()
    assert.equal(0.25, wait { ["retry-after-ms"] = "250", ["retry-after"] = "9" })
    assert.equal(9, wait { ["retry-after"] = "9" })
    assert.equal(1.5, wait { ["retry-after"] = "1.5" })
    local date = "Sun, 06 Nov 1994 08:49:37 GMT"
    assert.equal(784111777, asked.date_s(date))
    assert.equal(951782400, asked.date_s "Tue, 29 Feb 2000 00:00:00 GMT")
    assert.equal(23, wait { ["retry-after"] = "Sun, 06 Nov 1994 08:50:00 GMT", date = date })
    assert.equal(0, wait { ["retry-after"] = date, date = "Sun, 06 Nov 1994 09:00:00 GMT" })
    assert.equal(5, asked.wait_s { status = 429, headers = { ["retry-after"] = date }, retry_after_s = 5 })
    assert.is_nil(wait { ["retry-after"] = "tomorrow" })
    assert.is_nil(wait {})
  end)

  it("of 429, the reset of what is used up", function()
    local headers = { ["x-ratelimit-remaining-requests"] = "0", ["x-ratelimit-reset-requests"] = "3s",
      ["x-ratelimit-remaining-tokens"] = "90", ["x-ratelimit-reset-tokens"] = "6m0s" }
    assert.equal(3, wait(headers))
    assert.is_nil(wait(headers, 503))
    headers["x-ratelimit-remaining-tokens"] = "0"
    assert.equal(360, wait(headers))
    assert.equal(2, wait { ["x-ratelimit-reset-requests"] = "2s" })
    assert.same({ requests = { remaining = 0, reset_s = 3 }, tokens = { limit = 100, remaining = 0, reset_s = 360 } },
      asked.limits { ["x-ratelimit-remaining-requests"] = "0", ["x-ratelimit-reset-requests"] = "3s",
        ["x-ratelimit-limit-tokens"] = "100", ["x-ratelimit-remaining-tokens"] = "0",
        ["x-ratelimit-reset-tokens"] = "6m0s" })
    assert.is_nil(asked.limits { ["x-ratelimit-remaining-requests"] = "many" })
  end)
end)

describe("retry: calls and their circuit", function()
  local CIRCUIT = { pause_after = 1, probe_s = 1, max_probe_s = 8, outage_s = 3600 }
  local AFTER_3 = { pause_after = 3, probe_s = 1, max_probe_s = 8, outage_s = 3600 }

  -- A server that is away in some times, from 0. @return Calls, what it saw (times), ask(until_us)
  local function server(outages, policy, circuit, away)
    local origin, seen = tb.now(), {}
    local made = calls.new(retry.new("test", policy or { attempts = 2, backoff_s = 0.1, max_backoff_s = 0.1 }),
      circuit or CIRCUIT)
    local function try()
      local at = tb.now() - origin
      seen[#seen + 1] = at
      for _, outage in ipairs(outages) do
        if at >= outage[1] and at < outage[2] then return nil, away or response(503) end
      end
      return "answer"
    end
    return made, seen, function(until_us) return made:run(try, until_us) end
  end

  it("an outage of a server that was there before loses no call: all wait, one probes at a time", virtually(function()
    local made, seen, ask = server { { 1, 100 } }
    assert.equal("answer", (ask()))
    tb.sleep(2)
    local futures = {}
    for i = 1, 50 do futures[i] = tb.spawn(ask) end
    tb.sleep(20)
    local status = made:status()
    assert.equal("open", status.state)
    assert.equal("status 503", status.why)
    assert.equal(50, status.waiting)
    assert.is_true(status.open_s > 18 and status.next_probe_s > 0)
    for i = 1, 50 do assert.equal("answer", (futures[i]:await())) end
    local during = 0
    for _, at in ipairs(seen) do
      if at >= 1 and at < 100 then during = during + 1 end
    end
    assert.is_true(during <= 1 + 50 + 50 + 16, during) -- each call's attempts of the first moment, then probes alone
    assert.is_true(tb.now() < 100 + 9 + 10000)
    status = made:status()
    assert.equal("closed", status.state)
    assert.equal(1, status.opened)
    assert.equal(0, status.waiting)
  end))

  it("probes come after 1, 2, 4, 8, 8 ... seconds, and each is one attempt", virtually(function()
    local _, seen, ask = server({ { 0.5, 40 } }, { attempts = 1 })
    ask()
    tb.sleep(1)
    assert.equal("answer", (ask()))
    for i, expected in ipairs { 0, 1, 2, 4, 8, 16, 24, 32, 40 } do
      assert.is_near(expected, seen[i], 0.01)
    end
  end))

  it("an outage costs pause_after - 1 calls", virtually(function()
    local made, _, ask = server({ { 0.5, 60 } }, { attempts = 1 }, AFTER_3)
    ask()
    tb.sleep(1)
    local futures, answered, failed = {}, 0, 0
    for i = 1, 20 do futures[i] = tb.spawn(function() return (ask()) or false end) end
    for i = 1, 20 do
      if futures[i]:await() then answered = answered + 1 else failed = failed + 1 end
    end
    assert.same({ 18, 2, 1 }, { answered, failed, made:status().opened })
  end))

  it("where nothing was ever answered calls fail as they always did, and then one for each probe", virtually(function()
    local made, seen, ask = server({ { 0, 1e9 } }, { attempts = 1 })
    local failed_at, origin = {}, tb.now()
    local futures = {}
    for i = 1, 6 do
      futures[i] = tb.spawn(function()
        local value, failed, why = ask()
        failed_at[#failed_at + 1] = tb.now() - origin
        return value or failed.response.status, why
      end)
    end
    for i = 1, 6 do assert.equal(503, (futures[i]:await())) end
    assert.equal(6, #seen)
    assert.equal("open", made:status().state)
  end))

  it("a failure that is the call's own is its own, and says that the server is there", virtually(function()
    local made = calls.new(retry.new("test", { attempts = 1 }), AFTER_3)
    for _ = 1, 10 do
      local _, failed = made:run(function() return nil, response(400) end)
      assert.equal(400, failed.response.status)
    end
    assert.equal("closed", made:status().state)
    for _ = 1, 2 do made:run(function() return nil, response(500) end) end
    made:run(function() return nil, response(400) end)
    for _ = 1, 2 do made:run(function() return nil, response(500) end) end
    assert.equal("closed", made:status().state)
    made:run(function() return nil, response(500) end)
    assert.equal("open", made:status().state)
  end))

  it("who waits for the circuit waits no longer than his deadline", virtually(function()
    local _, _, ask = server({ { 0.5, 1000 } }, { attempts = 1 })
    ask()
    tb.sleep(1)
    tb.spawn(ask)
    tb.sleep(0.5)
    local before = tb.now()
    local value, failed, why = ask((before + 3) * 1e6)
    assert.is_nil(value)
    assert.is_nil(failed) -- it was never sent
    assert.equal("the deadline came before the server was back", why)
    assert.is_near(3, tb.now() - before, 0.001)
  end))

  it("after outage_s calls fail again, one for each probe", virtually(function()
    local _, _, ask = server({ { 0.5, 1e6 } }, { attempts = 1 },
      { pause_after = 1, probe_s = 1, max_probe_s = 4, outage_s = 20 })
    ask()
    tb.sleep(1)
    local before = tb.now()
    local value, failed, why = ask()
    assert.is_nil(value)
    assert.equal(503, failed.response.status)
    assert.equal("the calls before it failed, too", why)
    assert.is_true(tb.now() - before >= 20 and tb.now() - before < 30)
  end))

  it("a probe that is called off is another's to make", virtually(function()
    local made = calls.new(retry.new("test", { attempts = 1 }), CIRCUIT)
    made:run(function() return "x" end)
    made:run(function() return nil, response(500) end)
    tb.sleep(0.1)
    assert.equal("open", made:status().state)
    tb.sleep(1)
    assert.is_false(pcall(made.run, made, function() error "called off" end))
    assert.equal("open", made:status().state)
    assert.equal("answer", (made:run(function() return "answer" end)))
    assert.equal("closed", made:status().state)
  end))

  it("total_s bounds everything, waiting for the circuit included", virtually(function()
    local _, _, ask = server({ { 0.5, 1000 } }, { attempts = 3, backoff_s = 0.1, total_s = 5 })
    ask()
    tb.sleep(1)
    local before = tb.now()
    local value, failed, why = ask()
    assert.is_nil(value)
    assert.equal(503, failed.response.status)
    assert.equal("the end of total_s came before the server was back", why)
    assert.is_near(5, tb.now() - before, 0.001)
  end))

  local reset = { err = { code = "http_broken", was_sent = true } }
  local SAFE = { attempts = 2, backoff_s = 0.1, max_backoff_s = 0.1, safe_to_repeat = true }

  it("an outage in which connections are taken and reset loses no call either", virtually(function()
    local made, _, ask = server({ { 1, 100 } }, SAFE, nil, reset)
    assert.equal("answer", (ask()))
    tb.sleep(2)
    local futures = {}
    for i = 1, 50 do futures[i] = tb.spawn(ask) end
    for i = 1, 50 do assert.equal("answer", (futures[i]:await())) end
    assert.equal(1, made:status().opened)
  end))

  it("a call that is reset while others are answered fails once its attempts are used up", virtually(function()
    local made = calls.new(retry.new("test", SAFE), CIRCUIT)
    local tried = 0
    local victim = tb.spawn(function()
      return made:run(function()
        tried = tried + 1
        tb.sleep(0.01)
        return nil, reset
      end)
    end)
    for _ = 1, 1000 do
      assert.equal("answer", (made:run(function() return "answer" end)))
      tb.sleep(0.001)
    end
    local value, failed = victim:await()
    assert.is_nil(value)
    assert.equal(reset, failed)
    assert.equal(2, tried)
  end))

  it("a call that resets the server, alone with it, fails after ten minutes", virtually(function()
    local made = calls.new(retry.new("test", SAFE), CIRCUIT)
    made:run(function() return "answer" end)
    tb.sleep(1)
    local began = tb.now()
    assert.is_nil((made:run(function() return nil, reset end)))
    assert.near(600, tb.now() - began, 20)
  end))

  it("what an outage has taken of a call's attempts is given back", virtually(function()
    local made = calls.new(retry.new("test", SAFE), CIRCUIT)
    made:run(function() return "answer" end)
    local plan = { response(503), response(500) } -- one of the two attempts met the outage
    assert.equal("answer", (made:run(function()
      local failed = table.remove(plan, 1)
      return not failed and "answer" or nil, failed
    end)))
  end))

  it("pause_after = 0: there is no circuit", virtually(function()
    local made = calls.new(retry.new("test", { attempts = 1 }), { pause_after = 0 })
    for _ = 1, 20 do made:run(function() return nil, response(503) end) end
    assert.equal("off", made:status().state)
  end))
end)

describe("tb.backend.retrying:", function()
  -- A function that fails so often, and what it was called with.
  local function failing(times, how)
    local n = 0
    return function(records, info)
      n = n + 1
      info.usage = { total_tokens = 10 }
      records[1] = "changed" -- its lists are its own
      if n <= times then error(how or "not now", 0) end
      return { "call " .. n .. " of " .. #records }
    end
  end

  local function ask(fn, options, submit)
    local given = { inference_fn = fn }
    for name, value in pairs(options or {}) do given[name] = value end
    local reports = {}
    given.policy = { form = function(queue, batch) if queue.due then batch:add(1) end end,
      on_complete = function(report) reports[#reports + 1] = report end }
    local batcher = tb.TokenBatcher(given)
    batcher:start()
    local result, err = batcher:ask("x", submit)
    batcher:stop()
    return result, err, reports[1]
  end

  it("calls again what raises, up to `attempts`; requests and usage add up", virtually(function()
    local fn = tb.backend.retrying { failing(3), attempts = 5 }
    local result, _, report = ask(fn)
    assert.equal("call 4 of 1", result)
    assert.equal(4, report.requests)
    assert.same({ total_tokens = 40 }, report.usage)
    local status = fn.status()
    assert.same({ 4, 3, "off", 40 }, { status.requests, status.retries, status.state, status.usage.total_tokens })
  end))

  it("hands on what the other function says of records", virtually(function()
    local aside
    local inner = setmetatable({
      group = function(_, record) return "of " .. record end, problem = function(_, record) return "not " .. record end,
      set_aside = function(_, names) aside = names end,
    }, { __call = function(_, records) return records end })
    local fn = tb.backend.retrying { inner }
    assert.same({ "of x", "not x" }, { fn:group "x", fn:problem "x" })
    fn:set_aside { "key" }
    assert.same({ "key" }, aside)
  end))

  it("gives up with the last error, its traceback, and why", virtually(function()
    local _, err = ask(tb.backend.retrying { failing(9), attempts = 3, backoff_s = 0.01 })
    assert.equal("inference_failed", err.code)
    assert.equal("not now (not tried again: tried 3 times)", err.message)
    assert.equal("not now", err.cause.cause)
    assert.matches("retry_spec", err.traceback)
  end))

  it("retry_if says which errors are worth it", virtually(function()
    local seen = {}
    local fn = tb.backend.retrying { failing(2, "fatal"), retry_if = function(err)
      seen[#seen + 1] = err
      return err ~= "fatal"
    end }
    local _, err, report = ask(fn)
    assert.equal("fatal", err.message)
    assert.same({ "fatal" }, seen)
    assert.equal(1, report.requests)
  end))

  it("does not wait past deadlines, the batch's timeout, or total_s", virtually(function()
    local cases = { { {}, { timeout_s = 2 } }, { { inference_timeout_s = 2 } }, { {}, nil, { total_s = 2 } } }
    for _, case in ipairs(cases) do
      local given = { failing(1e9), attempts = 1000, backoff_s = 0.5, max_backoff_s = 0.5 }
      for name, value in pairs(case[3] or {}) do given[name] = value end
      local before = tb.now()
      local result, err = ask(tb.backend.retrying(given), case[1], case[2])
      assert.is_nil(result)
      assert.is_true(err.code == "inference_failed" or err.code == "inference_timeout", err.code)
      assert.is_true(tb.now() - before <= 2.1)
    end
  end))

  it("hands on defaults, group and the rest of what it calls", virtually(function()
    local stopped = 0
    local inner = setmetatable({ defaults = { max_batch_size = 7 }, max_records = 9, name = "mine",
      group = function(_, record) return record.g end, on_stop = function() stopped = stopped + 1 end },
      { __call = function(_, records, info)
        for i = 1, #records do records[i] = info.group .. info.size end
        return records
      end })
    local fn = tb.backend.retrying { inner }
    assert.same({ { max_batch_size = 7 }, 9, "mine" }, { fn.defaults, fn.max_records, fn.name })
    local batcher = tb.TokenBatcher { inference_fn = fn }
    batcher:start()
    assert.equal(7, batcher:option "max_batch_size")
    local futures = batcher:submit_batch { { g = "a" }, { g = "a" }, { g = "b" } }
    assert.same({ "a2", "a2", "b1" }, (tb.gather(futures)))
    batcher:stop()
    assert.equal(1, stopped)
  end))

  it("its circuit, where it is asked for, pauses a job", virtually(function()
    local back_at = tb.now() + 50
    local fn = tb.backend.retrying { function(records)
      if tb.now() < back_at then error "away" end
      return records
    end, attempts = 1, pause_after = 2, max_probe_s = 4 }
    local batcher = tb.TokenBatcher { inference_fn = fn, max_batch_size = 1 }
    batcher:start()
    local futures = {}
    for i = 1, 100 do futures[i] = batcher:submit(i) end
    local results = tb.gather(futures)
    batcher:stop()
    local answered = 0
    for _ in pairs(results) do answered = answered + 1 end
    assert.is_true(answered >= 80 and answered < 100, answered)
    assert.equal("closed", fn.status().state)
  end))

  it("misuse is told", function()
    local retrying = tb.backend.retrying
    assert.matches("retry_spec.lua:%d+: backend 'retrying': its first value must be the inference function",
      (H.message(function() retrying { attempts = 5 } end)))
    assert.matches("unknown parameter 'statuses'", H.message(retrying, { print, statuses = {} }))
    assert.matches("'attempts' must be a whole number", H.message(retrying, { print, attempts = 0.5 }))
  end)
end)
