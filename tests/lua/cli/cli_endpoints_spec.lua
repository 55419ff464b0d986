-- examples/jobs: whole jobs from the command line, against a server that plays every fault.

local cli = dofile "tests/lua/cli_helper.lua"
local W = require "tests.lua.http_helper"
local json = require("tokenbatcher").json

local missing = W.missing()
if missing then
  describe("examples/jobs:", function()
    it("are tested", function() pending("skipped: " .. missing) end)
  end)
  return
end

describe("examples/jobs:", function()
  local server
  setup(function()
    cli.new_folder()
    server = W.server()
  end)
  teardown(function()
    server.stop()
    cli.clean()
  end)

  local function run(script, plan, input, more)
    local base = server.url .. "/" .. plan .. "/v1"
    local r = cli.command({ "run", script, "--base-url", base, unpack(more or {}) }, input)
    local answers = {}
    for line in r.out:gmatch "[^\n]+" do answers[#answers + 1] = assert(json.decode(line)) end
    return answers, r
  end

  local CHAT, BATCH = "examples/jobs/chat.lua", "examples/jobs/openai_batch.lua"

  it("chat.lua passes check, and answers texts and whole conversations", function()
    assert.equal(0, cli.command({ "check", CHAT, "--base-url", server.url }).status)
    local input = '{"text":"one","id":7}\n'
      .. '{"custom_id":"b","messages":[{"role":"user","content":"two"}],"temperature":0}\n'
      .. '{"question":"three","answer":"3"}\n'
    local answers, r = run(CHAT, "ok~j", input, { "--max-tokens", "9" })
    assert.equal(0, r.status, r.err)
    for i, text in ipairs { "re:one", "re:two", "re:three" } do assert.equal(text, answers[i].result) end
  end)

  it("a field that it does not know is that line's error, and costs no request", function()
    local answers, r = run(CHAT, "ok~k", '{"text":"one","mood":"good"}\n{"text":"two"}\n')
    assert.equal(1, r.status)
    assert.matches("the record's field 'mood' is none that the endpoint", answers[1].error.message)
    assert.equal("re:two", answers[2].result)
  end)

  it("a field that the command line takes for itself is sent only where the endpoint knows it", function()
    local lines = '{"text":"one","tenant":"t","user":"u"}\n{"text":"two","mood":"good"}\n'
    local answers, r = run(CHAT, "ok~o", lines, { "--key-field", "tenant", "--group-field", "user" })
    assert.equal(1, r.status)
    assert.equal("re:one", answers[1].result)
    assert.matches("field 'mood'", answers[2].error.message)
    answers = run(CHAT, "ok~o", lines, { "--id-field", "tenant" })
    assert.same({ index = 1, tenant = "t", result = "re:one" }, answers[1])
  end)

  it("requests that could not be sent are told apart from those that were", function()
    local nobody = "http://127.0.0.1:1/v1"
    local r = cli.command({ "run", CHAT, "--base-url", nobody, "--retries", "1" }, '{"text":"one"}\n')
    assert.matches("0 (0 of them retries, 2 more could not be sent, the server was away 1 time)", r.err, 1, true)
  end)

  it("what the server puts off, breaks off or refuses for now is asked again", function()
    local answers, r = run(CHAT, "limited-20,reset,529,diebody,ok", ('{"text":"x"}\n'):rep(40))
    assert.equal(0, r.status, r.err)
    assert.equal(40, #answers)
  end)

  it("openai_batch.lua takes and gives the lines of batch files", function()
    assert.equal(0, cli.command({ "check", BATCH, "--base-url", server.url }).status)
    local input = '{"custom_id":"c","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":'
      .. '[{"role":"user","content":"x"}],"stop":[]}}\n'
      .. '{"custom_id":"e","method":"POST","url":"/v1/embeddings","body":{"model":"m","input":["a","bb"]}}\n'
      .. '{"custom_id":"p","method":"POST","url":"/v1/completions","body":{"model":"m","prompt":"a"}}\n'
      .. '{"custom_id":"g","method":"GET","url":"/v1/models"}\n'
    local answers, r = run(BATCH, "ok~l", input)
    assert.equal(1, r.status)
    for i, id in ipairs { "c", "e", "p", "g" } do assert.equal(id, answers[i].custom_id) end
    for i = 1, 3 do
      assert.equal(200, answers[i].response.status_code)
      assert.equal(json.null, answers[i].error)
      assert.equal("batch_" .. answers[i].response.request_id, answers[i].id)
    end
    assert.equal("re:x", answers[1].response.body.choices[1].message.content)
    assert.equal(2, #answers[2].response.body.data)
    assert.equal("re:a", answers[3].response.body.choices[1].text)
    assert.equal(json.null, answers[4].response)
    assert.equal("bad_input", answers[4].error.code)
  end)

  it("openai_batch.lua: a refusal is an error with the server's answer", function()
    local answers, r = run(BATCH, "400~l", '{"custom_id":"c","url":"/v1/embeddings","body":{"input":"x"}}\n')
    assert.equal(1, r.status)
    assert.equal("http_status", answers[1].error.code)
    assert.same({ status_code = 400, request_id = json.null, body = { error = { message = "come back later",
      type = "invalid_request_error", code = json.null } } }, answers[1].response)
  end)

  it("embeddings.lua reads such lines, too: many of them are one request", function()
    local lines = {}
    for i = 1, 50 do
      lines[i] = ('{"custom_id":"%d","method":"POST","url":"/v1/embeddings","body":{"model":"m","input":"%s"}}')
        :format(i, ("x"):rep(i))
    end
    local answers, r = run("examples/embeddings.lua", "ok~m", table.concat(lines, "\n") .. "\n")
    assert.equal(0, r.status, r.err)
    for i = 1, 50 do assert.equal(i, answers[i].result[1]) end
  end)

  it("a limit holds over a whole job, and real usage counts", function()
    local answers, r = run(CHAT, "ok~n", ('{"text":"x"}\n'):rep(20),
      { "--set", "policy=rate_limited:requests_per_minute=20,tokens_per_minute=1000,inner=eager" })
    assert.equal(0, r.status, r.err)
    assert.equal(20, #answers)
  end)
end)
