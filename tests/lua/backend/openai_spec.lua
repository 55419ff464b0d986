-- tb.backend.openai against a server that plays every fault.

local H = require "tests.lua.helper"
local tb = require "tokenbatcher"
local W = require "tests.lua.http_helper"

local really = W.really
local missing = W.missing()

if missing then
  describe("the openai backend:", function()
    it("is tested", function() pending("skipped: " .. missing) end)
  end)
  return
end

describe("the openai backend:", function()
  local server
  setup(function() server = W.server() end)
  teardown(function() server.stop() end)

  -- A started batcher on the server, through the plan of faults, and what its batches reported.
  local function start(plan, parameters, options)
    local given = { base_url = server.url .. "/" .. plan .. "/v1", model = "m", backoff_s = 0.001 }
    for name, value in pairs(parameters or {}) do given[name] = value end
    local reports = {}
    local all = { batch_timeout_s = 0.005, inference_fn = tb.backend.openai(given), policy = {
      form = function(queue, batch)
        if not (queue.full or queue.due) then return end
        for i = 1, queue.size do
          if not batch:add(i) then break end
        end
      end,
      on_complete = function(report) reports[#reports + 1] = report end,
    } }
    for name, value in pairs(options or {}) do all[name] = value end
    local batcher = tb.TokenBatcher(all)
    batcher:start()
    return batcher, reports, "/" .. plan .. "/v1/" .. (given.endpoint or "embeddings")
  end

  -- Answers and errs of texts submitted at once.
  local function ask(batcher, texts, opts)
    local futures = {}
    for i, text in ipairs(texts) do futures[i] = batcher:submit(text, opts) end
    local results, errs = tb.gather(futures)
    batcher:stop()
    assert.is_true(H.is_conserved(batcher.stats))
    return results, errs
  end

  local function texts_of(n)
    local texts = {}
    for i = 1, n do texts[i] = ("x"):rep(i) end
    return texts
  end

  local function assert_right(results, texts)
    for i, text in ipairs(texts) do
      assert.same({ #text, 120 * #text, 0.5 }, results[i])
    end
  end

  -- --- what it does ----------------------------------------------------------------------

  it("a batch is one request; answers are paired by index; usage and requests are reported", really(function()
    for _, plan in ipairs { "ok~a", "reverse~a", "chunked~a", "unended~a" } do
      local batcher, reports, path = start(plan)
      assert_right(ask(batcher, texts_of(5)), texts_of(5))
      assert.equal(1, W.count(server, path))
      assert.equal(1, reports[1].requests)
      assert.same({ prompt_tokens = 15, total_tokens = 15 }, reports[1].usage)
    end
  end))

  it("a usage that counts nothing is not added up", really(function()
    local batcher, reports = start "oddusage"
    assert_right(ask(batcher, texts_of(2)), texts_of(2))
    assert.is_nil(reports[1].usage)
  end))

  it("completions give texts; raw gives the items; extra goes into the body", really(function()
    local batcher, _, path = start("ok~b", { endpoint = "completions", extra = { max_tokens = 7, stop = { "." } } })
    assert.same({ "re:x", "re:xx" }, (ask(batcher, texts_of(2))))
    local log = W.stats(server).log
    local sent = require("cjson").decode(log[#log].body)
    assert.equal(path, log[#log].path)
    assert.same({ model = "m", prompt = { "x", "xx" }, max_tokens = 7, stop = { "." } }, sent)
    local results = ask(start("reverse~b", { raw = true }), texts_of(3))
    for i = 1, 3 do
      assert.equal(i - 1, results[i].index)
      assert.equal(i, results[i].embedding[1])
    end
  end))

  it("texts are records, or a field of theirs; a record without text fails alone", really(function()
    local batcher = start("ok~c", { field = "question" })
    local results, errs = ask(batcher, { "x", { question = "xx" }, { text = "xxx" }, { question = 7 }, 7, "\255" })
    assert_right(results, texts_of(2))
    for i = 3, 5 do assert.matches("the record has no text in its field 'question'", tostring(errs[i])) end
    assert.matches("the record's text is not UTF%-8 %(byte 1%)", tostring(errs[6]))
    local other, reports = start "ok~c2"
    ask(other, { 1, 2 })
    assert.equal(0, reports[1].requests)
  end))

  it("requests are split at max_inputs and at max_tokens_per_request", really(function()
    local batcher, reports, path, _ = start("limit-4", { max_inputs = 4 })
    assert_right(ask(batcher, texts_of(10)), texts_of(10))
    assert.equal(3, W.count(server, path))
    assert.equal(3, reports[1].requests)
    assert.equal(55, reports[1].usage.total_tokens)
    batcher, _, path = start("ok~d", { max_tokens_per_request = 10 })
    assert_right(ask(batcher, texts_of(6), { estimated_tokens = 4 }), texts_of(6))
    assert.equal(3, W.count(server, path))
    batcher, _, path = start("ok~e", { max_tokens_per_request = 10 })
    assert_right(ask(batcher, texts_of(3), { estimated_tokens = 11 }), texts_of(3)) -- each alone is too large
    assert.equal(3, W.count(server, path))
  end))

  it("goes through a unix socket, and keeps the query of base_url", really(function()
    local batcher = start("", { base_url = "http://model/ok~f/v1/?api-version=1", unix_socket = server.socket })
    assert_right(ask(batcher, texts_of(2)), texts_of(2))
    assert.equal(1, W.count(server, "/ok~f/v1/embeddings?api-version=1"))
  end))

  -- --- later -------------------------------------------------------------------------------

  it("429 and 503 are retried, and every request is counted", really(function()
    local batcher, reports, path = start "429,503,429,ok"
    assert_right(ask(batcher, texts_of(3)), texts_of(3))
    assert.equal(4, W.count(server, path))
    assert.equal(4, reports[1].requests)
    assert.equal(6, reports[1].usage.total_tokens)
  end))

  it("Retry-After is waited for, in seconds or as a date; other work goes on", really(function()
    for _, plan in ipairs { "429@0.3,ok", "503@date2,ok" } do
      local batcher, _, path = start(plan)
      local ticks, is_over = 0, false
      local ticker = tb.spawn(function()
        while not is_over do
          tb.sleep(0.002)
          ticks = ticks + 1
        end
      end)
      assert_right(ask(batcher, texts_of(1)), texts_of(1))
      is_over = true
      ticker:await()
      local at = {}
      for _, entry in ipairs(W.stats(server).log) do
        if entry.path == path then at[#at + 1] = entry.at end
      end
      assert.is_true(at[2] - at[1] >= 0.3)
      assert.is_true(ticks > 20)
    end
  end))

  it("gives up after `retries`, with the server's words", really(function()
    local batcher, reports, path = start("429", { retries = 2 })
    local _, errs = ask(batcher, texts_of(2))
    for i = 1, 2 do
      assert.equal("inference_failed", errs[i].code)
      assert.equal("http_status", errs[i].cause.code)
      assert.equal(429, errs[i].cause.status)
      assert.matches("POST http://[^ ]+/embeddings: status 429: come back later %(not tried again: tried 3 times%)",
        errs[i].message)
    end
    assert.equal(3, W.count(server, path))
    assert.equal(3, reports[1].requests)
    batcher, _, path = start("503,ok~a", { retries = 0 })
    assert.is_nil(next((ask(batcher, texts_of(1)))))
    assert.equal(1, W.count(server, path))
  end))

  it("does not wait past the earliest deadline, the inference timeout, or retry_after_max_s", really(function()
    local function refused(plan, parameters, options, submit, pattern)
      local batcher, _, path = start(plan, parameters, options)
      local started = tb.now()
      local _, errs = ask(batcher, texts_of(2), submit)
      assert.is_true(tb.now() - started < 20)
      for i = 1, 2 do
        assert.equal("inference_failed", errs[i].code)
        assert.matches(pattern, errs[i].message)
      end
      assert.equal(1, W.count(server, path))
    end
    refused("429@30~a", {}, {}, { timeout_s = 20 }, "it asks to wait 30 s, and the deadline comes in")
    refused("429@30~b", {}, { inference_timeout_s = 20 }, nil, "it asks to wait 30 s, and the deadline comes in")
    refused("429@61~c", {}, {}, nil, "it asks to wait 61 s, more than retry_after_max_s = 60 s")
  end))

  it("nobody waits for it any more: it is not sent again", really(function()
    local batcher, _, path = start "503@0.1"
    local before = W.stats(server).stats.requests
    local future = batcher:submit "x"
    W.stats_once(server, "requests", before + 1)
    future:cancel()
    tb.sleep(0.3)
    assert.equal(1, W.count(server, path))
    batcher:stop()
  end))

  -- --- one record's fault ----------------------------------------------------------------

  it("a text that the server refuses is found and fails alone; its neighbours are answered", really(function()
    local texts = texts_of(16)
    texts[6] = "poison"
    local batcher, reports, path = start "poison"
    local results, errs = ask(batcher, texts)
    for i = 1, 16 do
      if i == 6 then
        assert.is_nil(results[i])
        assert.matches("status 400: input 0 is poisonous", errs[i].message)
        assert.equal(400, errs[i].cause.status)
      else
        assert.same({ i, 120 * i, 0.5 }, results[i])
      end
    end
    assert.is_nil(errs[5] or errs[7])
    assert.equal(9, W.count(server, path)) -- 1 + 2 for each halving
    assert.equal(9, reports[1].requests)
    assert.equal(1, reports[1].failed)
    assert.equal(130, reports[1].usage.total_tokens)
  end))

  it("so are several; a refusal of the size alone leaves nobody out", really(function()
    local texts = texts_of(9)
    texts[1], texts[2], texts[9] = "poison 1", "poison 2", "poison 9"
    local results, errs = ask(start "poison~a", texts)
    for i = 3, 8 do assert.same({ i, 120 * i, 0.5 }, results[i]) end
    for _, i in ipairs { 1, 2, 9 } do assert.matches("poisonous", errs[i].message) end
    local batcher, _, path = start "limit-3~a"
    results = ask(batcher, texts_of(12))
    assert_right(results, texts_of(12))
    assert.equal(7, W.count(server, path)) -- 12; 6, 3, 3; 6, 3, 3
  end))

  it("where every part is refused, it gives up before it has asked for each text", really(function()
    local batcher, _, path = start "400"
    local _, errs = ask(batcher, texts_of(200))
    for i = 1, 200 do assert.equal(400, errs[i].cause.status) end
    assert.is_true(W.count(server, path) <= 24)
  end))

  -- Call a backend as a batcher does. @return results (what a failure says in place of it), info
  local run = require "tokenbatcher.batching.run"
  local function call(fn, texts, keys, group)
    local info = { costs = {}, keys = keys, group = group }
    for i = 1, #texts do info.costs[i] = 1 end
    local ok, results = pcall(fn, texts, info)
    if not ok then
      local said = tostring(results)
      results = {}
      for i = 1, #texts do results[i] = said end
    end
    for i = 1, #texts do
      if run.is_failure(results[i]) then results[i] = tostring(run.reason_of(results[i])) end
    end
    return results, info
  end

  local function backend(plan, more)
    local given = { base_url = server.url .. "/" .. plan .. "/v1", model = "m" }
    for name, value in pairs(more or {}) do given[name] = value end
    return tb.backend.openai(given)
  end

  it("20 refused texts at the head of a batch of 64 fail alone, although nothing was answered before", really(function()
    local texts, keys = {}, {}
    for i = 1, 64 do texts[i], keys[i] = i <= 20 and "poison " .. i or "text " .. i, "one" end
    for _, of in ipairs { keys, false } do
      local results = call(backend "poison~b", texts, of or nil)
      for i = 1, 20 do assert.matches("poisonous", results[i]) end
      for i = 21, 64 do assert.equal(#texts[i], results[i][1]) end
    end
  end))

  it("one key's refused texts are no reason to leave another key's untried, wherever they stand", really(function()
    for _, place in ipairs { 1, 37, 64 } do
      local texts, keys = {}, {}
      for i = 1, 64 do texts[i], keys[i] = i == place and "fine" or "poison " .. i, i == place and "b" or "a" end
      local results = call(backend("poison~c" .. place), texts, keys)
      for i = 1, 64 do assert.equal(i == place, type(results[i]) == "table") end
    end
  end))

  it("gives up where samples of all keys are refused: the rest says that it was not tried, in nobody's words",
    really(function()
      local texts, keys = {}, {}
      for i = 1, 200 do texts[i], keys[i] = "poison " .. i, "key " .. i % 10 end
      local results, info = call(backend "quote~a", texts, keys)
      local tried = 0
      for i = 1, 200 do
        if results[i]:find("cannot take poison " .. i, 1, true) then
          tried = tried + 1
        else
          assert.equal("not_tried: not tried: the server refused each of 11 records of this batch that were tried one "
            .. "by one (status 400), and has never answered one of its kind", results[i])
        end
      end
      assert.equal(11, tried) -- the first, the last, the middle one, and those of the other keys
      assert.is_true(info.requests <= 24)
      for _, i in ipairs { 1, 100, 200 } do assert.matches("cannot take", results[i]) end
    end))

  it("tries 8 at least, and each of 8", really(function()
    for n, expected in pairs { [8] = 8, [9] = 8, [200] = 8 } do
      local texts, tried = {}, 0
      for i = 1, n do texts[i] = "poison " .. i end
      local results = call(backend("quote~n" .. n), texts)
      for i = 1, n do tried = tried + (results[i]:find("cannot take", 1, true) and 1 or 0) end
      assert.equal(expected, tried)
    end
  end))

  it("never gives up on a group that was answered once; another group is another matter", really(function()
    local fn, texts = backend "poison~d", {}
    assert.equal(4, call(fn, { "good" }, nil, "a")[1][1])
    for i = 1, 64 do texts[i] = "poison " .. i end
    local results, info = call(fn, texts, nil, "a")
    for i = 1, 64 do assert.matches("poisonous", results[i]) end
    assert.equal(127, info.requests)
    results = call(fn, texts, nil, "b")
    assert.matches("^not_tried", results[2])
  end))

  it("samples that fail for another reason are no refusals", really(function()
    local results = call(backend "400,400,400,400,400,500,ok", { "a", "b", "c", "d", "e", "f", "g", "h", "i" })
    local answered = 0
    for i = 1, 9 do
      answered = answered + (type(results[i]) == "table" and 1 or 0)
      assert.is_nil(type(results[i]) == "string" and results[i]:find "not tried" or nil)
    end
    assert.is_true(answered >= 6, tostring(answered))
  end))

  it("a refusal of a text by its own request is marked as such", really(function()
    local fn, marks = backend "poison~e", {}
    local failure = run.failure
    local results = fn({ "x", "poison" }, { costs = { 1, 1 } })
    assert.is_true(run.is_failure(results[2]))
    assert.equal(failure, tb.failure)
    for field, value in pairs(results[2]) do marks[field] = value end
    if debug.getinfo(failure, "u").nparams > 1 then assert.is_true(marks.refused) end
  end))

  -- --- whose words errors are made of ---------------------------------------------------------

  it("no error shows a text of another record: words that repeat one are left out", really(function()
    local texts = { "the secret of Alice, who is ill", "Bob's password is hunter2", "four", "x" }
    for _, result in ipairs((call(backend("blab~a", { retries = 0 }), texts))) do
      assert.matches("status 500: %(its words repeat a text, and are not shown%)$", result)
    end
    assert.matches("crashed over x$", (call(backend("blab~b", { retries = 0 }), { "x" })[1])) -- its own
    assert.matches("crashed over x and y", -- no quotation can be told
      (call(backend("blab~c", { retries = 0 }), { "x", "y" })[1]))
    for _, plan in ipairs { "blab~d", "escape" } do -- however it writes them down
      local odd = { "M\195\188ller s\195\182hnt Gr\195\164fin Ursula \195\188bel", "one\nline\tof\nmany\nthat\nbreak",
        "\195\169\195\168\195\170\195\169\195\168\195\170\195\169\195\168\195\170\195\169\195\168\195\170" }
      for _, result in ipairs((call(backend(plan, { retries = 0 }), odd))) do
        assert.matches("status 500: %(its words repeat a text, and are not shown%)$", result)
      end
      local foreign = (call(backend(plan .. "~e", { retries = 0 }), { odd[3], odd[3] .. odd[3] }))[1]
      assert.is_nil(foreign:find "u00e9")
      assert.is_nil(foreign:find "[\128-\255]")
    end
    local results = call(backend "quote~b", { "the secret of Alice, who is ill", "poison of mine", "Bob's" })
    assert.matches("cannot take poison of mine$", results[2])
  end))

  it("nor does its code, which is a word", really(function()
    local function code_of(texts)
      local _, err = pcall(backend("codes", { retries = 0 }), texts, { costs = { 1, 1 } })
      return err.said_code, err.said_type
    end
    assert.same({ nil, "invalid_request_error" }, { code_of { "hunter2", "swordfish" } })
    assert.same({ "model_loading", "invalid_request_error" }, { code_of { "model_loading" } })
    assert.same({ nil, "invalid_request_error" }, { code_of { "two words" } })
    assert.same({ nil, "invalid_request_error" }, { code_of { ("x"):rep(101) } })
  end))

  it("nor an answer of another record", really(function()
    local texts = { "the secret of Alice", "Bob's password", "Carol" }
    for _, result in ipairs((call(backend("tale~a", { endpoint = "completions" }), texts))) do
      assert.equal("bad_response: POST " .. server.url .. "/tale~a/v1/completions: the answer has 2 items for 3 inputs",
        result)
    end
  end))

  it("nor more than a KiB of the server's words, whatever comes", really(function()
    for _, plan in ipairs { "html~z", "longwords", "cut~z" } do
      local result = call(backend(plan), { "x" })[1]
      assert.is_true(type(result) ~= "string" or #result < 1024, plan)
    end
  end))

  it("nor the login or the key in the URL", really(function()
    local fn = tb.backend.openai { base_url = server.url:gsub("://", "://ann:pass%%word@") .. "/login/v1?sig=abcdef123",
      model = "m" }
    local result = call(fn, { "x" })[1]
    assert.matches("status 401: bad login", result)
    for _, secret in ipairs { "pass%word", "pass%%word", "YW5uO", "YW5u", "abcdef123" } do
      assert.is_nil(result:find(secret, 1, true), result)
    end
  end))

  it("max_response_bytes grows with the inputs: a MiB and 256 KiB each", really(function()
    assert.matches("^http_too_large", call(backend "huge-1400000", { "x" })[1])
    assert.matches("^bad_response", call(backend "huge-1300000", { "x" })[1])
    assert.matches("^bad_response", call(backend "huge-1500000", { "x", "y" })[1])
    assert.matches("^http_too_large", call(backend "huge-1600000", { "x", "y" })[1])
    assert.matches("^bad_response", call(backend("huge-1600000~a", { max_response_bytes = 1600000 }), { "x" })[1])
  end))

  -- --- a whole answer that cannot be trusted ------------------------------------------------

  it("what is wrong with an answer is one clear error for the batch, with an excerpt", really(function()
    local cases = {
      dup = "the answer is wrong: item 3 has the index 0, which another has, too; it begins: {",
      missing = "the answer has 2 items for 3 inputs",
      range = "item 3 has the index 3, which is none of 0 to 2",
      negative = "item 3 has the index %-1, which is none of 0 to 2",
      fraction = "item 3 has the index 0.5, which is none of 0 to 2",
      reversenoindex = "item 1 has no index, and item 3 has another than its place",
      extra = "the answer has 4 items for 3 inputs",
      empty = "the answer has 0 items for 3 inputs",
      nolist = "the answer has no list 'data'",
      array = "the answer has no list 'data'",
      nonumbers = "item 3 has no embedding that is a list of numbers",
      infinite = "the answer is not JSON %(a number is too large",
      mixed = "item 3 has an embedding whose element 2 is no number",
      shorter = "the answer has embeddings of 3 and of 2 numbers",
      scalar = "item 3 is not an object",
      html = "the answer is not JSON .*; it begins: <html>gateway ",
      cut = "the answer is not JSON",
    }
    for plan, pattern in pairs(cases) do
      local batcher, reports, path = start(plan)
      local results, errs = ask(batcher, texts_of(3))
      assert.is_nil(next(results), plan)
      for i = 1, 3 do
        assert.equal("inference_failed", errs[i].code)
        assert.equal("bad_response", errs[i].cause.code)
        assert.matches(pattern, errs[i].message)
        assert.is_true(#errs[i].message < 500)
        assert.not_matches("%c", errs[i].message)
      end
      assert.equal(1, W.count(server, path))
      assert.equal(1, reports[1].requests)
      assert.is_nil(reports[1].usage)
    end
  end))

  it("so is a connection that dies half-way, is refused, or is too slow", really(function()
    local cases = { die = "http_broken", diebody = "http_broken", garbage = "http_broken", hang = "http_timeout",
      ["huge-100000"] = "http_too_large", ["500"] = "http_status" }
    for plan, expected in pairs(cases) do
      local batcher, reports = start(plan, { timeout_s = plan == "hang" and 0.05 or 20, max_response_bytes = 50000,
        retries = 0 })
      local _, errs = ask(batcher, texts_of(2))
      for i = 1, 2 do assert.equal(expected, errs[i].cause.code) end
      assert.equal(1, reports[1].requests)
    end
    local batcher, reports = start("", { base_url = "http://127.0.0.1:1/v1", retries = 0 })
    local _, errs = ask(batcher, texts_of(2))
    assert.equal("http_connect", errs[1].cause.code)
    assert.matches("POST http://127.0.0.1:1/v1/embeddings: Failed to connect", errs[1].message)
    assert.equal(0, reports[1].requests)
  end))

  it("of a batch in several requests, only those that fail are lost", really(function()
    local batcher = start("ok,dup,ok", { max_inputs = 2 })
    local results, errs = ask(batcher, texts_of(6))
    for _, i in ipairs { 1, 2, 5, 6 } do assert.same({ i, 120 * i, 0.5 }, results[i]) end
    for i = 3, 4 do assert.matches("which another has, too", errs[i].message) end
    local path, _
    batcher, _, path = start("ok,503", { max_inputs = 2, retries = 1 })
    results, errs = ask(batcher, texts_of(6))
    assert.same({ 2, 240, 0.5 }, results[2])
    for i = 3, 6 do assert.matches("status 503", errs[i].message) end
    assert.equal(3, W.count(server, path)) -- the last two records are not tried
  end))

  -- --- the key ------------------------------------------------------------------------------

  it("sends the key, and shows it nowhere", really(function()
    local key = "sk-a.b/c%d-0123456789"
    W.setenv("TBTEST_KEY", key)
    local seen = {}
    local function collect(_, text) seen[#seen + 1] = text end
    local batcher = start("ok~g", { api_key_env = "TBTEST_KEY" }, { log = collect })
    assert_right(ask(batcher, texts_of(1)), texts_of(1))
    local log = W.stats(server).log
    assert.equal("Bearer " .. key, log[#log].authorization)
    for _, plan in ipairs { "tell", "diebody", "429~a", "html~a", "400~a" } do
      batcher = start(plan, { api_key_env = "TBTEST_KEY", retries = 0 }, { log = collect })
      local _, errs = ask(batcher, texts_of(2))
      for i = 1, 2 do
        for _, err in ipairs { errs[i], errs[i].cause or errs[i] } do
          for _, text in pairs(err) do seen[#seen + 1] = tostring(text) end
        end
      end
      if plan == "tell" then assert.matches("status 401: bad key Bearer %(the key%)", errs[1].message) end
    end
    batcher = start("tell", { headers = { Authorization = "Bearer " .. key } })
    local _, errs = ask(batcher, texts_of(1))
    assert.matches("bad key Bearer %(the key%)", errs[1].message)
    seen[#seen + 1] = errs[1].message .. errs[1].traceback
    local text = table.concat(seen, "\n")
    assert.is_nil(text:find(key, 1, true))
    assert.is_nil(text:find("0123456789", 1, true))
    W.setenv "TBTEST_KEY"
  end))

  it("a key that is missing, or that no header can hold, is an error at once, without its value", function()
    local function message() return (H.message(tb.backend.openai, { base_url = "http://x", model = "m",
      api_key_env = "TBTEST_KEY" })) end
    W.setenv "TBTEST_KEY"
    assert.matches("the environment variable TBTEST_KEY is not set", message())
    W.setenv("TBTEST_KEY", "secret\r\nX: y")
    local text = message()
    assert.matches("the key in the environment variable TBTEST_KEY holds a space or a control character", text)
    assert.not_matches("secret", text)
    W.setenv "TBTEST_KEY"
  end)

  -- --- wrong parameters ----------------------------------------------------------------------

  it("checks its parameters like options", function()
    local function message(given)
      for name, value in pairs { base_url = "http://x", model = "m" } do
        if given[name] == nil then given[name] = value end
      end
      return (H.message(tb.backend.openai, given))
    end
    assert.matches("openai_spec.lua:%d+: backend 'openai': parameter 'base_url' is missing: it must be a string",
      (H.message(function() tb.backend.openai { model = "m" } end)))
    assert.matches("parameter 'model' is missing", (H.message(tb.backend.openai, { base_url = "http://x" })))
    assert.matches("unknown parameter 'modell'; did you mean 'model'", message { modell = "x" })
    assert.matches("'endpoint' must be one of embeddings, completions, chat, responses, rerank, moderations, got \"x\"",
      message { endpoint = "x" })
    assert.matches("'max_inputs' must be a whole number from 1 to 1000000, got 1.5", message { max_inputs = 1.5 })
    assert.matches("'retries' must be a whole number from 0 to 1000, got %-1", message { retries = -1 })
    assert.matches("'timeout_s' must be a number of seconds", message { timeout_s = 0 })
    assert.matches("must begin with http:// or https://", message { base_url = "localhost:8081" })
    assert.matches("extra cannot hold the field \"input\"", message { extra = { input = "x" } })
    assert.matches("extra's field 'x' has no JSON form", message { extra = { x = print } })
    assert.matches("the header 'X' holds a line break", message { headers = { X = "a\nb" } })
  end)
end)
