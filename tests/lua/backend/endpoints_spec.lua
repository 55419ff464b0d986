-- The endpoints of tb.backend.openai, tb.backend.http for servers with words of their own, tb.backend.requests for
-- whole requests: what is sent, and what comes of the answers.

local H = require "tests.lua.helper"
local run = require "tokenbatcher.batching.run"
local tb = require "tokenbatcher"
local W = require "tests.lua.http_helper"

local really = W.really
local missing = W.missing()

if missing then
  describe("endpoints:", function()
    it("are tested", function() pending("skipped: " .. missing) end)
  end)
  return
end

describe("endpoints:", function()
  local server, number
  setup(function() server, number = W.server(), 0 end)
  teardown(function() server.stop() end)

  local function with(given, more)
    for name, value in pairs(more or {}) do given[name] = value end
    return given
  end

  -- A backend behind a plan of faults, each with a path of its own, so that counts are its own.
  local function openai(endpoint, more, plan)
    number = number + 1
    return tb.backend.openai(with({ base_url = ("%s/%s~e%d/v1"):format(server.url, plan or "ok", number), model = "m",
      endpoint = endpoint, backoff_s = 0.001 }, more))
  end

  local function http(given, plan)
    number = number + 1
    given.base_url = ("%s/%s~h%d"):format(server.url, plan or "ok", number)
    return tb.backend.http(given)
  end

  -- As a batcher calls it. @return results (what a failure says in place of it), info, bodies that were sent
  local function call(fn, records)
    local info, before = { costs = {}, keys = {} }, #(W.stats(server).log or {})
    for i = 1, #records do info.costs[i], info.keys[i] = 1, "" end
    local ok, results = pcall(fn, records, info)
    if not ok then
      local said = tostring(results)
      results = {}
      for i = 1, #records do results[i] = said end
    end
    for i = 1, #records do
      if run.is_failure(results[i]) then results[i] = tostring(run.reason_of(results[i])) end
    end
    local bodies = {}
    for i, entry in ipairs(W.stats(server).log) do
      if i > before and entry.body then bodies[#bodies + 1] = tb.json.decode(entry.body) end
    end
    return results, info, bodies
  end

  -- --- chat and its like: one record a request ---------------------------------------------------

  it("chat: a result is the message's text; raw gives the choice; usage is added up", really(function()
    local results, info, bodies = call(openai("chat", { extra = { max_tokens = 7 } }), { "hi" })
    assert.same({ "re:hi" }, results)
    assert.same({ prompt_tokens = 3, completion_tokens = 2, total_tokens = 5 }, info.usage)
    assert.equal(1, info.requests)
    assert.same({ model = "m", max_tokens = 7, messages = { { role = "user", content = "hi" } } }, bodies[1])
    results = call(openai("chat", { raw = true }), { "hi" })
    assert.equal("stop", results[1].finish_reason)
    local _, _, other = call(openai("chat", { system = "be brief" }), { "hi" })
    assert.same({ role = "system", content = "be brief" }, other[1].messages[1])
  end))

  it("chat: a record's own fields go out with it, messages and tools included", really(function()
    local record = { custom_id = "a", messages = { { role = "user", content = "x" } }, model = "other", temperature = 0,
      max_tokens = 5 }
    local results, _, bodies = call(openai("chat", { extra = { max_tokens = 7, seed = 1 } }), { record })
    assert.same({ "re:x" }, results)
    assert.same({ messages = record.messages, model = "other", temperature = 0, max_tokens = 5, seed = 1 }, bodies[1])
    results = call(openai "chat", { { text = "x", tools = { { type = "function" } } } })
    assert.equal("call_1", results[1].tool_calls[1].id) -- no text: the message
  end))

  it("each record is a batch of one, sixteen of them at once", really(function()
    local fn = openai("chat", nil, "meet-16") -- which answers when 16 are there
    assert.same({ max_batch_size = 1, max_concurrent_batches = 16 }, fn.defaults)
    local batcher = tb.TokenBatcher { inference_fn = fn, batch_timeout_s = 0.001 }
    batcher:start()
    assert.same({ 1, 16 }, { batcher:option "max_batch_size", batcher:option "max_concurrent_batches" })
    local futures = {}
    for i = 1, 16 do futures[i] = batcher:submit(tostring(i)) end
    local results = tb.gather(futures)
    for i = 1, 16 do assert.equal("re:" .. i, results[i]) end
    batcher:stop()
  end))

  it("a larger batch is a configuration error that names both; what a script sets wins over defaults", function()
    local fn = openai "chat"
    local function message(given) return (H.message(tb.TokenBatcher, with({ inference_fn = fn }, given))) end
    assert.matches("option 'max_batch_size' is 64, and backend 'openai' %(endpoint 'chat'%) takes one record a call",
      message { max_batch_size = 64 })
    assert.equal(3, tb.TokenBatcher { inference_fn = fn, max_concurrent_batches = 3 }:option "max_concurrent_batches")
    local batcher = tb.TokenBatcher { inference_fn = print }
    assert.matches("option 'max_batch_size' is 256", (H.message(batcher.set, batcher, { inference_fn = fn })))
    batcher:set { inference_fn = fn, max_batch_size = 1 }
  end)

  it("responses: all texts of the output", really(function()
    local results, info, bodies = call(openai "responses", { "hi" })
    assert.same({ "re:hi" }, results)
    assert.same({ input_tokens = 4, output_tokens = 6, total_tokens = 10 }, info.usage)
    assert.same({ model = "m", input = "hi" }, bodies[1])
    assert.matches("the answer has the status failed", call(openai "responses", { "fail" })[1])
    local record = { input = { { role = "user", content = "x" } }, text = { format = { type = "text" } } }
    local others, _, sent = call(openai "responses", { record })
    assert.same({ "re:x" }, others)
    assert.same({ model = "m", input = record.input, text = record.text }, sent[1])
  end))

  it("rerank: scores in the order of the documents; the best alone as they came", really(function()
    local documents = { "four", "x", "three" }
    local results, info, bodies = call(openai "rerank", { { query = "q", documents = documents } })
    assert.same({ { 4, 1, 5 } }, results)
    assert.equal(3, info.usage.total_tokens)
    assert.same({ model = "m", query = "q", documents = documents }, bodies[1])
    results = call(openai "rerank", { { query = "q", documents = documents, top_n = 1 } })
    assert.same({ { { index = 2, relevance_score = 5 } } }, results)
    assert.matches("has no 'query'", call(openai "rerank", { { documents = documents } })[1])
    assert.matches("'documents' must be a list", call(openai "rerank", { { query = "q", documents = "x" } })[1])
  end))

  it("moderations: a list in one request, answered in order", really(function()
    local results, info = call(openai "moderations", { "good", "bad" })
    assert.same({ { flagged = false }, { flagged = true } }, results)
    assert.equal(1, info.requests)
  end))

  -- --- a record's own fields -------------------------------------------------------------------

  it("unequal fields never share a request, by the batcher's groups or without", really(function()
    local records = { "a", { text = "b", dimensions = 2 }, { text = "c" }, { text = "d", dimensions = 2 },
      { text = "e", model = "m" }, { text = "f", dimensions = 3, model = "n" }, { text = { 1, 2 } } }
    local fn = openai "embeddings"
    assert.same({ false, '"dimensions":2', false, '"dimensions":2', false, '"dimensions":3,"model":"n"', "tokens " },
      (function()
        local groups = {}
        for i, record in ipairs(records) do groups[i] = fn:group(record) or false end
        return groups
      end)())
    local _, info, bodies = call(fn, { unpack(records, 1, 6) })
    assert.equal(3, info.requests)
    assert.same({ { model = "m", input = { "a", "c", "e" } }, { model = "m", input = { "b", "d" }, dimensions = 2 },
      { model = "n", input = { "f" }, dimensions = 3 } }, bodies)
    local sizes = {}
    local batcher = tb.TokenBatcher { policy = "one_group", batch_timeout_s = 0.01, inference_fn = setmetatable({
      group = function(_, record) return fn:group(record) end },
      { __call = function(_, list, infos)
        sizes[#sizes + 1] = infos.group:gsub("\n", "|") .. " " .. #list
        return fn(list, infos)
      end }) }
    batcher:start()
    local results = tb.gather(batcher:submit_batch({ unpack(records, 1, 6) }, { group = "own" }))
    for i = 1, 6 do assert.equal(1, results[i][1]) end
    batcher:stop()
    table.sort(sizes)
    assert.same({ "own 3", 'own|"dimensions":2 2', 'own|"dimensions":3,"model":"n" 1' }, sizes)
  end))

  it("a field that nobody knows is an error, unless it is to be sent or left out", really(function()
    local record = { text = "x", answer = 42 }
    local results, info = call(openai "embeddings", { record, "y" })
    assert.matches("bad_input: the record's field 'answer' is none that the endpoint 'embeddings' knows: name it in",
      results[1])
    assert.equal(1, results[2][1])
    assert.equal(1, info.requests)
    local _, _, bodies = call(openai("embeddings", { send = { "answer" } }), { record })
    assert.same({ model = "m", input = { "x" }, answer = 42 }, bodies[1])
    for _, names in ipairs { { "answer" }, { "*" } } do
      local _, _, sent = call(openai("embeddings", { ignore = names }), { record })
      assert.same({ model = "m", input = { "x" } }, sent[1])
    end
  end))

  it("what is named in `ignore` is left out, though the endpoint knows it", really(function()
    local fn = openai("chat", { ignore = { "n", "temperature" } })
    local results, _, sent = call(fn, { { text = "x", n = 7, temperature = 1, seed = 3 } })
    assert.equal("re:x", results[1])
    assert.is_nil(sent[1].n)
    assert.is_nil(sent[1].temperature)
    assert.equal(3, sent[1].seed)
  end))

  it("what cannot be sent fails alone, before any request", really(function()
    for record, said in pairs {
      [{ text = "x", stream = true }] = "'stream' is true",
      [{ text = "x", n = 2 }] = "'n' must be 1",
      [{ text = "x", temperature = print }] = "the record's field 'temperature' cannot be sent",
      [{ messages = "" .. "\255" }] = "not UTF%-8",
      [{ messages = { "x" } }] = "'messages' must be a list of objects",
      [{}] = "the record has no text in its field 'text'",
      [{ url = "/v1/embeddings", body = { input = "x" } }] =
        "the line's url is \"/v1/embeddings\", and this backend asks",
      [{ url = "/v1/chat/completions", method = "GET", body = {} }] = "the line's method is \"GET\", not POST",
    } do
      local results, info = call(openai "chat", { record })
      assert.matches(said, results[1])
      assert.equal(0, info.requests)
    end
    assert.matches("'input' is not one text: give each text a record", call(openai "embeddings",
      { { input = { "a", "b" } } })[1])
  end))

  it("lines of a batch file are records, too; so are lists of tokens", really(function()
    local line = { custom_id = "1", method = "POST", url = "/v1/embeddings", body = { input = "xx", model = "n" } }
    local results, _, bodies = call(openai "embeddings", { line, { 5, 6, 7 }, { input = { 8 } } })
    assert.equal(2, results[1][1])
    assert.same({ { model = "n", input = { "xx" } }, { model = "m", input = { { 5, 6, 7 }, { 8 } } } }, bodies)
  end))

  -- --- answers of all kinds ----------------------------------------------------------------------

  it("without an index, or with some that agree, answers are in order", really(function()
    for _, plan in ipairs { "unindexed", "nullindex", "noindex" } do
      local results = call(openai("embeddings", nil, plan), { "a", "bb", "ccc" })
      for i = 1, 3 do assert.equal(i, results[i][1], plan) end
    end
  end))

  it("base64 is decoded exactly, and what is none is an error", really(function()
    local pi = tonumber("3.1415927410125732421875") -- as a 32-bit float
    assert.same({ { 1.5, -2.25, pi } }, (call(openai("embeddings", nil, "based"), { "x" })))
    for _, plan in ipairs { "illbased", "notfinite" } do
      assert.matches("embedding", call(openai("embeddings", nil, plan), { "x" })[1])
    end
    local floats = require("tokenbatcher.backend.server.base64").floats
    local encode, ffi = require("tokenbatcher.backend.server.base64").encode, require "ffi"
    for size = 1, 40 do
      local array = ffi.new("float[?]", size)
      for i = 0, size - 1 do array[i] = math.ldexp(math.random() - 0.5, math.random(-148, 120)) end
      local expected = {}
      for i = 0, size - 1 do expected[i + 1] = array[i] end
      assert.same(expected, floats(encode(ffi.string(array, 4 * size))))
    end
    for _, text in ipairs { "", "AAA", "AAAA", "AA=A", "A===", "AAAAA===", "AAAAAA==AAAAAA==", "AAAA-A==" } do
      assert.is_nil(floats(text), text)
    end
  end))

  it("gzip, a byte order mark, and answers that are none yet", really(function()
    for _, plan in ipairs { "gzip", "bom", "hints" } do
      assert.equal(2, call(openai("embeddings", nil, plan), { "xx" })[1][1], plan)
    end
    assert.matches("http_too_large", call(openai("embeddings", { max_response_bytes = 20 }, "gzip"), { "xx" })[1])
  end))

  it("a redirect is named, without what is secret in it", really(function()
    local said, info = call(openai("embeddings", nil, "moved"), { "x" })
    assert.matches("status 307: a redirect to http://elsewhere/v1/x, and redirects are not followed", said[1])
    assert.equal(1, info.requests)
  end))

  -- --- again -------------------------------------------------------------------------------------

  it("resets, ends and what is no HTTP are tried again, unless that is not safe", really(function()
    for _, plan in ipairs { "reset", "die", "diebody", "garbage", "500", "529", "502" } do
      local results, info = call(openai("chat", nil, plan .. "," .. plan .. ",ok"), { "x" })
      assert.same({ "re:x" }, results, plan)
      assert.is_true(info.requests >= 2) -- libcurl itself tries again on a connection that was kept alive
      assert.equal(3, W.count(server, ("/%s,%s,ok~e%d/v1/chat/completions"):format(plan, plan, number)))
    end
    local results, info = call(openai("chat", { safe_to_repeat = false }, "diebody,ok"), { "x" })
    assert.matches("^http_broken", results[1])
    assert.equal(1, info.requests)
    results, info = call(openai("chat", { timeout_s = 0.2 }, "drip,ok"), { "x" })
    assert.same({ "re:x" }, results)
    assert.equal(2, info.requests)
  end))

  it("waits as long as the server says, in milliseconds or until its limits are reset", really(function()
    for _, plan in ipairs { "limited-200", "bucket-200" } do
      local fn, before = openai("chat", nil, plan .. ",ok"), tb.now()
      assert.same({ "re:x" }, (call(fn, { "x" })))
      assert.is_true(tb.now() - before >= 0.2)
      local status = fn.status()
      assert.same({ 2, 1, "closed", 5 }, { status.requests, status.retries, status.state, status.usage.total_tokens })
    end
  end))

  it("a quota that is used up is not asked again, nor is a server that says it is of no use", really(function()
    local results, info = call(openai("chat", nil, "quota"), { "x" })
    assert.matches("status 429: You exceeded your current quota %(not tried again: insufficient_quota%)", results[1])
    assert.equal(1, info.requests)
    results, info = call(openai("chat", nil, "noretry"), { "x" })
    assert.matches("no use %(not tried again: the server says so%)", results[1])
    assert.equal(1, info.requests)
  end))

  it("what the server says of its limits reaches the policy", really(function()
    local seen
    local batcher = tb.TokenBatcher { inference_fn = openai("chat", { retries = 0 }, "bucket-1000"), policy = {
      form = function(_, batch) batch:add(1) end, on_complete = function(report) seen = report.limits end } }
    batcher:start()
    batcher:ask "x"
    batcher:stop()
    assert.same({ requests = { limit = 10, remaining = 0, reset_s = 1 }, tokens = { remaining = 90, reset_s = 360 } },
      seen)
  end))

  it("a server that is away for a while costs a job nothing", really(function()
    local away = ("503,"):rep(30)
    local patient = { retries = 1, pause_after = 1, probe_s = 0.01, max_probe_s = 0.02 }
    local fn = openai("chat", patient, "ok," .. away .. "ok")
    local batcher = tb.TokenBatcher { inference_fn = fn }
    batcher:start()
    assert.equal("re:first", (batcher:ask "first"))
    local futures = {}
    for i = 1, 100 do futures[i] = batcher:submit(tostring(i)) end
    local results = tb.gather(futures)
    batcher:stop()
    for i = 1, 100 do assert.equal("re:" .. i, results[i]) end
    assert.equal(131, fn.status().requests)
    assert.is_true(fn.status().opened >= 1)
  end))

  it("tb.http: retry = {...}; a POST is only repeated where that is safe", really(function()
    local function url(plan)
      number = number + 1
      return ("%s/%s~r%d/x"):format(server.url, plan, number)
    end
    local again = { backoff_s = 0.001 }
    local response = tb.http.get(url "503,504,ok", { retry = again })
    assert.same({ 200, 3 }, { response.status, response.attempts })
    response = tb.http.get(url "503", { retry = { backoff_s = 0.001, attempts = 2 } })
    assert.same({ 503, 2 }, { response.status, response.attempts })
    local _, err = tb.http.post(url "diebody,ok", { retry = again })
    assert.same({ "http_broken", 1 }, { err.code, err.attempts })
    response = tb.http.post(url "diebody,ok", { retry = { backoff_s = 0.001, safe_to_repeat = true } })
    assert.equal(2, response.attempts)
    _, err = tb.http.get(url "429,400", { retry = again, fail_on_status = true })
    assert.same({ "http_status", 400, 2 }, { err.code, err.status, err.attempts })
    assert.matches("http.get: retry: unknown parameter 'tries'", (H.message(tb.http.get, url "ok",
      { retry = { tries = 2 } })))
  end))

  -- --- servers with words of their own -----------------------------------------------------------

  it("TEI: /embed, /rerank, /predict", really(function()
    local results, info, bodies = call(http { path = "/embed", input_field = "inputs", extra = { truncate = true } },
      { "a", { text = "bb" } })
    assert.same({ { 1, 97, 0.5 }, { 2, 196, 0.5 } }, results)
    assert.equal(1, info.requests)
    assert.same({ inputs = { "a", "bb" }, truncate = true }, bodies[1])
    local rerank = http { path = "/rerank", input_field = "texts", lists = false, send = { "query" },
      index_field = "index", result_field = "score" }
    assert.equal(1, rerank.max_records)
    assert.same({ { 4, 1, 5 } }, (call(rerank, { { query = "q", texts = { "four", "x", "three" } } })))
    local labels, _, sent = call(http { path = "/predict", input_field = "inputs", wrap = true }, { "a", "bb" })
    assert.same({ { { label = "a", score = 1 } }, { { label = "bb", score = 2 } } }, labels)
    assert.same({ inputs = { { "a" }, { "bb" } } }, sent[1])
  end))

  it("Ollama and Cohere", really(function()
    local results, info = call(http { path = "api/embed", model = "all-minilm", input_field = "input",
      list_field = "embeddings", usage_field = "prompt_eval_count" }, { "a", "bb" })
    assert.same({ { 1, 97, 0.5 }, { 2, 196, 0.5 } }, results)
    assert.same({ total_tokens = 7 }, info.usage)
    local others, _, bodies = call(http { path = "v2/embed", model = "embed-v4.0", input_field = "texts",
      list_field = "embeddings.float", extra = { input_type = "search_document", embedding_types = { "float" } } },
      { "a" })
    assert.same({ { 1, 97, 0.5 } }, others)
    assert.same({ model = "embed-v4.0", texts = { "a" }, input_type = "search_document",
      embedding_types = { "float" } }, bodies[1])
  end))

  it("an answer that is not as described is one clear error", really(function()
    for said, given in pairs {
      ["the answer has no list 'vectors'"] = { list_field = "vectors" },
      ["the answer is wrong: item 1 has no 'vector'"] = { list_field = "data", result_field = "vector" },
      ["the answer has no list 'data.embedding'"] = { list_field = "data.embedding" },
      ["the answer is no list"] = {},
    } do
      local results = call(http(with({ path = "/x", input_field = "input" }, given)), { "a" })
      assert.is_truthy(results[1]:find(said, 1, true), results[1])
    end
    assert.matches("extra cannot hold the field \"inputs\"", (H.message(tb.backend.http, { base_url = "http://x",
      path = "/", input_field = "inputs", extra = { inputs = 1 } })))
    assert.matches("'path' is missing", (H.message(tb.backend.http, { base_url = "http://x", input_field = "x" })))
  end))

  -- --- whole requests -----------------------------------------------------------------------------

  it("requests: a record is a line of a batch file, its result the whole answer", really(function()
    local fn = tb.backend.requests { base_url = server.url .. "/ok~w", backoff_s = 0.001 }
    local function line(url, body) return { custom_id = "a", method = "POST", url = url, body = body } end
    local results, info = call(fn, { line("/v1/chat/completions", { model = "m", messages = { { role = "user",
      content = "x" } } }) })
    assert.same({ 200, "re:x" }, { results[1].status_code, results[1].body.choices[1].message.content })
    assert.matches("^req%-%d+$", results[1].request_id)
    assert.equal(5, info.usage.total_tokens)
    assert.same({ max_batch_size = 1, max_concurrent_batches = 16 }, fn.defaults)
    results = call(tb.backend.requests { base_url = server.url .. "/ok~w/v1" }, { line("/v1/embeddings",
      { input = { "a", "bb" } }) })
    assert.equal(2, #results[1].body.data)
    assert.equal(1, W.count(server, "/ok~w/v1/embeddings"))
    for said, record in pairs {
      ["url' must be a path"] = line("http://elsewhere/v1", {}), ["no 'url'"] = line(nil, {}),
      ["no 'body'"] = line "/v1/x", ["method is \"GET\""] = { method = "GET", url = "/v1/x", body = {} },
      ["'stream' is true"] = line("/v1/x", { stream = true }), ["is no {method"] = "x",
    } do
      local found = call(fn, { record })[1]
      assert.is_truthy(found:find(said:gsub("^url'", "url"), 1, true), found)
    end
  end))

  it("requests: a refusal keeps its status, id and words", really(function()
    local fn = tb.backend.requests { base_url = server.url .. "/400~w" }
    local info = { costs = { 1 } }
    local failed = fn({ { url = "/v1/x", body = {} } }, info)[1]
    local err = run.reason_of(failed)
    assert.same({ "http_status", 400, "come back later", "invalid_request_error" },
      { err.code, err.status, err.said, err.said_type })
  end))
end)
