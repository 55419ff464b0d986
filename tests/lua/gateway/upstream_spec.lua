-- A gateway's upstream (gateway/upstream, backend/cosocket) in a real nginx, in front of servers that are odd.

local http = require "tests.lua.http_helper"
local nginx = dofile "tests/nginx/server.lua"

local missing = nginx.missing() or http.missing()
local worker, faults, tls, names

local HAS_IPV6 = nginx.read "/proc/net/if_inet6":find("0" .. ("0"):rep(30) .. "1", 1, true) ~= nil

-- Tells what it was asked: "POST /v1/x?y host: ... \n"
local ECHO = [[
  server {
    $LISTEN
    location / { content_by_lua_block {
      ngx.req.read_body()
      local lines = { ngx.req.get_method() .. " " .. ngx.var.request_uri }
      for name, value in pairs(ngx.req.get_headers()) do lines[#lines + 1] = name .. ": " .. tostring(value) end
      table.sort(lines)
      local text = table.concat(lines, "\n") .. "\n" .. (ngx.req.get_body_data() or "")
      ngx.header.content_length = #text
      ngx.print(text)
    } }
  }
]]

-- A name server. @return {port, stop()}
local function name_server()
  local pipe = io.popen "unset LD_PRELOAD; exec timeout 300 luajit tests/http/dns_server.lua"
  local port, pid = pipe:read("*n", "*n")
  return { port = port, stop = function()
    os.execute("kill " .. pid)
    pipe:close()
  end }
end

local HEAD = [[
  local Upstream, cjson = require "tokenbatcher.gateway.upstream", require "cjson"
  local vectors = require "tokenbatcher.gateway.vectors"
  local FAULTS, SOCKET = "%s", "%s"
  local function new(url, more)
    local given = more or {}
    given.url = url
    return Upstream.new("gateway: upstream 1", given)
  end
  local function at(step, more) return new(FAULTS .. "/" .. step .. "/v1", more) end
  local function embed(up, texts, more)
    local request = more or {}
    request.path, request.inputs = request.path or "/v1/embeddings", #texts
    request.body = cjson.encode { model = "m", input = texts }
    return up:call(request)
  end
  local ECHO, PORT = "http://unix:%s/echo.sock:", %d
  local function count(what) -- of the fault server
    local text = new(FAULTS):call { method = "GET", path = "/stats", attempts = 1 }.body
    return cjson.decode(text).stats[what]
  end
  local function log()
    return cjson.decode(new(FAULTS):call { method = "GET", path = "/stats", attempts = 1 }.body).log
  end
  -- "200 [1,97,0.5]" or "upstream_timeout 504 ..."
  local function said(response, err)
    if not response then return ("%%s %%d: %%s"):format(err.code, err.status, err.message) end
    local list = vectors.cut(response.body, 1)
    return response.status .. " " .. (list and list[1] or "#" .. #response.body)
  end
]]

local function eval(code)
  return worker:eval(HEAD:format(faults.url, faults.socket, worker.folder, worker.port) .. code)
end

local function test(name, fn)
  it(name, function()
    if missing then return pending("skipped: " .. missing) end
    fn()
  end)
end

describe("a gateway's upstream", function()
  setup(function()
    if missing then return end
    faults, tls, names = http.server(), http.tls_server(), name_server()
    worker = nginx.start { http = ([[
      lua_shared_dict tokenbatcher 1m;
      lua_socket_log_errors off;
      resolver 127.0.0.1:%d ipv6=off;
      %s
    ]]):format(names.port, tls and "lua_ssl_trusted_certificate " .. tls.ca_file .. ";" or "")
      .. ECHO:gsub("%$LISTEN", "listen unix:$FOLDER/echo.sock;" .. (HAS_IPV6 and "listen [::1]:$PORT;" or "")),
      main = "env UPSTREAM_KEY=sesame;" }
  end)
  teardown(function()
    nginx.stop_all()
    for _, server in ipairs { faults or false, tls or false, names or false } do
      if server then server.stop() end
    end
  end)

  -- --- what HTTP has in store -------------------------------------------------------------------

  for step, expected in pairs {
    ok = "200 [1,97,0.5]", chunked = "200 [1,97,0.5]", unended = "200 [1,97,0.5]", hints = "200 [1,97,0.5]",
    bom = "200 [1,97,0.5]", ["slow-50"] = "200 [1,97,0.5]", ["400"] = "400 #70", moved = "307 #0",
    die = "upstream_broken 502: the connection ended before an answer came",
    reset = "upstream_broken 502: the connection ended before an answer came",
    diebody = "upstream_broken 502: the connection ended before the answer did",
    garbage = "upstream_broken 502: what came is no answer of HTTP/1",
    gzip = "200 [1,97,0.5]", brotli = "upstream_broken 502: the answer is compressed, which was not asked for",
    gzipcut = "upstream_broken 502: the answer is gzip that ends early",
    gzipbad = "upstream_broken 502: the answer is gzip that is corrupt",
    longhead = "upstream_too_large 502: the headers of the answer are larger than 64 KiB",
    bighead = "upstream_too_large 502: the headers of the answer are larger than 64 KiB",
    ["huge-2000000"] = "upstream_too_large 502: the answer is larger than 1000000 bytes",
    gzipbomb = "upstream_too_large 502: the answer is larger than 1000000 bytes",
    endless = "upstream_too_large 502: the answer is larger than 1000000 bytes",
  } do
    test(("%s: %s"):format(step, expected), function()
      assert.equal(expected, eval(([[
        return said(embed(at("%s", { max_response_bytes = 1e6, retry = { attempts = 1 } }), { "a" }))]]):format(step)))
    end)
  end

  test("an answer that drips is ended in time, as is one that never comes", function()
    assert.equal("upstream_timeout 504: no answer in time|true", eval [[
      local began = ngx.now()
      local text = said(embed(at("drip", { timeout_s = 0.3, retry = { attempts = 1 } }), { "a" }))
      ngx.update_time()
      return text .. "|" .. tostring(ngx.now() - began < 5)]])
    assert.equal("upstream_timeout 504: no answer in time", eval [[
      local deadline = require("tokenbatcher").now() + 0.2
      return said(embed(at "hang", { "a" }, { deadline = deadline }))]])
  end)

  -- --- where it is ----------------------------------------------------------------------------------

  test("is reached by a host name, by nginx's resolver and by /etc/hosts, or says what is missing", function()
    for _, name in ipairs { "model.test", "localhost" } do
      assert.equal("200 [1,97,0.5]", eval(([[
        return said(embed(new((FAULTS:gsub("127.0.0.1", "%s")) .. "/ok"), { "a" }))]]):format(name)))
    end
    assert.matches("^upstream_unreachable 502: no connection %(.*no%-such%.name", eval [[
      return said(embed(new("http://no-such.name", { retry = { attempts = 1 } }), { "a" }))]])
    local bare = nginx.start {}
    local text = bare:eval(HEAD:format(faults.url, faults.socket, "", 0) .. [[
      return said(embed(new("http://model.test", { retry = { attempts = 1 } }), { "a" }))]])
    bare:stop()
    assert.equal("upstream_unreachable 502: nginx has no `resolver` to ask for the name model.test, "
      .. "which is not in /etc/hosts", text)
  end)

  test("is reached by a unix socket and by IPv6, and a port where nobody listens is said so", function()
    assert.matches("^POST /v1/embeddings\n.*host: localhost\n", eval [[return embed(new(ECHO), { "a" }).body]])
    if HAS_IPV6 then
      assert.matches("host: %[::1%]:%d+\n", eval [[return embed(new("http://[::1]:" .. PORT), { "a" }).body]])
    end
    assert.equal("upstream_unreachable 502: no connection (connection refused)", eval [[
      return said(embed(new("http://127.0.0.1:1", { retry = { attempts = 1 } }), { "a" }))]])
  end)

  test("is reached by https, its certificate verified", function()
    if not tls then return pending "skipped: no openssl" end
    local get = [[
      local response, err = new("%s", %s):call { method = "GET", path = "/", max_response_bytes = 1e6 }
      return response and response.status or err.message]]
    assert.equal("200", eval(get:format(tls.url, "{}")))
    -- a quick server's refusal is told without its reason, see backend/cosocket
    local function assert_no_tls(reason, text)
      local is_lost = text == "no TLS (the server's certificate was refused, or the handshake failed)"
      assert.truthy(is_lost or text:find("no TLS (" .. reason, 1, true), text)
    end
    assert_no_tls("certificate host mismatch)", eval(get:format(tls.other_url, "{}")))
    assert.equal("200", eval(get:format(tls.other_url, "{ tls_verify = false }")))
    local bare = nginx.start {}
    local text = bare:eval(HEAD:format(faults.url, faults.socket, "", 0) .. get:format(tls.url, "{}"))
    bare:stop()
    assert_no_tls("18: self-signed certificate: is lua_ssl_trusted_certificate set?)", text)
  end)

  test("has its paths where its preset and its url say", function()
    for given, expected in pairs {
      ['"", "/v1/embeddings"'] = "/v1/embeddings",
      ['"/", "/v1/embeddings"'] = "/v1/embeddings",
      ['"/v1", "/v1/embeddings"'] = "/v1/embeddings",
      ['"/v1/", "/v1/models?x=1"'] = "/v1/models?x=1",
      ['"/v1", "/embed", "tei"'] = "/embed",
      ['"", "/embed", "tei"'] = "/embed",
      ['"", "/v1/embeddings", "tei"'] = "/v1/embeddings",
      ['"", "/v1/embeddings", "infinity"'] = "/embeddings",
      ['"/v1", "/v1/embeddings", "infinity"'] = "/v1/embeddings",
      ['"/openai/deployments/e?api-version=2", "/v1/embeddings"'] = "/openai/deployments/e/embeddings?api-version=2",
      ['"?a=1", "/v1/models?b=2"'] = "/v1/models?a=1&b=2",
    } do
      assert.equal("POST " .. expected, eval(([[
        local base, path, preset = %s
        return new(ECHO .. base, { preset = preset }):call { path = path }.body:match "POST [^\n]*"]]):format(given)))
    end
  end)

  test("tells nginx where to pass on what is not ours", function()
    assert.equal("http://127.0.0.1:81/v1/models?x=1 localhost:81 localhost Bearer k", eval [[
      local pass = new("http://localhost:81/v1", { api_key = "k" }):pass "/v1/models?x=1"
      return table.concat({ pass.url, pass.host, pass.tls_name, pass.headers.authorization }, " ")]])
    assert.equal("http://unix:/a/b.sock:/v1/models",
      eval [[return new("http://unix:/a/b.sock"):pass("/v1/models").url]])
  end)

  -- --- headers, keys and connections ---------------------------------------------------------------------

  test("gets the headers that it is given, the key of whoever asks, and nothing about the connection", function()
    local text = eval [[
      local up = new(ECHO, { api_key_env = "UPSTREAM_KEY", headers = { ["X-Org"] = "o" } })
      return up:call { path = "/v1/x", body = "{}", headers = { ["x-request-id"] = "r1", ["x-bad"] = "a\r\nx-evil: 1",
        connection = "close", ["transfer-encoding"] = "chunked", ["accept-encoding"] = "gzip", te = "x", host = "evil",
        authorization = "Bearer theirs" } }.body]]
    for line in ("accept-encoding: identity|authorization: Bearer sesame|content-length: 2|"
      .. "content-type: application/json|host: localhost|user-agent: tokenbatcher|x-org: o|"
      .. "x-request-id: r1"):gmatch "[^|]+" do
      assert.truthy(text:find("\n" .. line .. "\n", 1, true), line .. " is not in " .. text)
    end
    for _, name in ipairs { "x-bad", "x-evil", "connection", "transfer-encoding", "accept-encoding: gzip", "te" } do
      assert.falsy(text:find("\n" .. name .. (name:find ":" and "" or ": "), 1, true), name)
    end
    assert.matches("\nauthorization: Bearer theirs\n", eval [[
      return new(ECHO, { api_key = "ours" }):call { path = "/v1/x", credential = "c1",
        headers = { authorization = "Bearer theirs" } }.body]])
    assert.matches("\napi%-key: k\n", eval [[
      return new(ECHO, { api_key = "k", auth_header = "api-key" }):call { path = "/v1/x" }.body]])
  end)

  test("keeps connections alive, apart for each credential", function()
    local numbers = eval [[
      local up = at "ok"
      local before = #log()
      for _, credential in ipairs { "a", "b", "a", "b" } do assert(embed(up, { "x" }, { credential = credential })) end
      local list = log()
      local numbers = {}
      for i = before + 1, #list do numbers[#numbers + 1] = list[i].connection end
      return table.concat(numbers, " ")]]
    local a, b, again_a, again_b = numbers:match "(%d+) (%d+) (%d+) (%d+)"
    assert.not_equal(a, b)
    assert.same({ a, b }, { again_a, again_b })
  end)

  test("a kept connection that was closed meanwhile is no failure", function()
    assert.equal("200 [1,97,0.5]|200 [1,97,0.5]|0", eval [[
      local up = at("ok,die,ok~stale", { retry = { attempts = 1 } })
      local first = said(embed(up, { "a" }))
      return first .. "|" .. said(embed(up, { "a" })) .. "|" .. up:status().retries]])
  end)

  test("50 at once get each its own", function()
    assert.equal("50", eval [[
      local up, right, threads = at "slow-20", 0, {}
      for i = 1, 50 do
        threads[i] = ngx.thread.spawn(function()
          local text = ("x"):rep(i)
          local list = vectors.cut(assert(embed(up, { text })).body, 1)
          if list[1]:match "^%[(%d+)," == tostring(i) then right = right + 1 end
        end)
      end
      for i = 1, 50 do assert(ngx.thread.wait(threads[i])) end
      return right]])
  end)

  -- --- again, and not at all ---------------------------------------------------------------------------------

  test("is asked again after 429, 502, 503 and 504 and where no answer came, not after others", function()
    for step, expected in pairs { ["limited-50,ok"] = "200 1", ["502,ok"] = "200 1", ["503,ok"] = "200 1",
      ["504,ok"] = "200 1", ["diebody,ok"] = "200 1", ["500,ok"] = "500 0", ["400,ok"] = "400 0", ["401,ok"] = "401 0",
      ["noretry,ok"] = "503 0", ["quota,ok"] = "429 0", ["503,503,ok"] = "503 1" } do
      assert.equal(expected, eval(([[
        local up = at("%s~again", { retry = { backoff_ms = { 1, 2 } } })
        return embed(up, { "a" }).status .. " " .. up:status().retries]]):format(step)), step)
    end
  end)

  test("says when to come again, and does not wait for longer than its budget or whoever asks", function()
    assert.equal("429 37 0", eval [[
      local up = at "429@37,ok"
      local response = embed(up, { "a" })
      return response.status .. " " .. response.retry_after_s .. " " .. up:status().retries]])
    assert.equal("429 0", eval [[
      local up = at "limited-500,ok~deadline"
      local response = embed(up, { "a" }, { retry_until = require("tokenbatcher").now() + 0.2 })
      return response.status .. " " .. up:status().retries]])
    assert.equal("429 true", eval [[
      local response = embed(at("dated-30", { retry = { attempts = 1 } }), { "a" })
      return response.status .. " " .. tostring(response.retry_after_s > 25 and response.retry_after_s <= 30)]])
    assert.equal("200 1", eval [[
      local up = at("429@37,ok~unheeded", { retry = { respect_retry_after = false, backoff_ms = { 1, 2 } } })
      return embed(up, { "a" }).status .. " " .. up:status().retries]])
  end)

  test("is left alone for a while after failures in a row, and one call then finds out", function()
    assert.equal("503 503|upstream_open 503 1 2|200|closed", eval [[
      local up = at("503,503,ok", { retry = { attempts = 1 }, breaker = { failures = 2, open_s = 0.3 } })
      local before = count "requests"
      local text = embed(up, { "a" }).status .. " " .. embed(up, { "a" }).status
      local response, err = embed(up, { "a" })
      text = text .. ("|%s %d %d %d"):format(err.code, err.status, err.retry_after_s, count "requests" - before)
      while (up:status().next_probe_s or 0) > 0 do ngx.sleep(0.01) end
      return text .. "|" .. embed(up, { "a" }).status .. "|" .. up:status().state]])
    assert.equal("off", eval [[return at("ok", { breaker = false }):status().state]])
  end)

  test("calls that it breaks off close it to their group alone, and one input, however often, to nobody", function()
    assert.equal("502 502 502 502|200 closed", eval [[
      local function of(group) return { group = group, credential = "same" } end
      local up = at("die,die,die,die,ok~same", { retry = { attempts = 1 }, breaker = { failures = 2 } })
      local text = {}
      for i = 1, 4 do
        local _, err = embed(up, { "poison" }, of("g"))
        text[i] = err.status
      end
      return table.concat(text, " ") .. "|" .. embed(up, { "a" }, of("g")).status .. " " .. up:status().state]])
    assert.equal("502 502 upstream_open 503|200 closed|true|200 200", eval [[
      local function of(group) return { group = group, credential = "group" } end
      local up = at("die,die,ok~group", { retry = { attempts = 1 }, breaker = { failures = 2, open_s = 0.3 } })
      local text = {}
      for i = 1, 3 do
        local _, err = embed(up, { "poison " .. i }, of("g"))
        text[i] = i < 3 and err.status or err.code .. " " .. err.status
      end
      text = table.concat(text, " ") .. "|" .. embed(up, { "a" }, of("h")).status .. " " .. up:status().state
      text = text .. "|" .. tostring(up:is_doubtful "g" and not up:is_doubtful "h")
      local response
      repeat
        ngx.sleep(0.02)
        response = embed(up, { "b" }, of("g"))
      until response
      return text .. "|" .. response.status .. " " .. embed(up, { "c" }, of("g")).status]])
    assert.equal("true 502 502|nil 504 504 upstream_open|200", eval [[
      local function of(group) return { group = group, credential = "kinds" } end
      local up = at("die,die,slow-900,slow-900,ok~kinds", { retry = { attempts = 1 }, timeout_s = 0.3,
        breaker = { failures = 2 } })
      local _, cut = embed(up, { "a", "b" }, of("g"))
      local _, again = embed(up, { "c", "d" }, of("g"))
      local text = ("%s %d %d"):format(tostring(cut.may_be_input), cut.status, again.status)
      local _, late = embed(up, { "a", "b" }, of("g"))
      local _, later = embed(up, { "a", "b" }, of("g"))
      local _, open = embed(up, { "a", "b" }, of("g"))
      text = text .. ("|%s %d %d %s"):format(tostring(late.may_be_input), late.status, later.status, open.code)
      return text .. "|" .. embed(up, { "a" }, of("h")).status]])
  end)

  test("one credential's 429 closes it to no other, and no Retry-After closes it for long", function()
    assert.equal("429 429 429|closed|200", eval [[
      local up = at("429@3600,429@3600,429@3600,ok~used-up", { breaker = { failures = 2 } })
      local mine, text = { credential = "c", headers = { authorization = "Bearer c" } }, {}
      for i = 1, 3 do text[i] = embed(up, { "a" }, mine).status end
      return table.concat(text, " ") .. "|" .. up:status().state .. "|" .. embed(up, { "a" }).status]])
    assert.equal("429 3600|upstream_open 429 60", eval [[
      local up = at("429@3600,ok~long", { breaker = { failures = 1 } })
      local response = embed(up, { "a" })
      local _, err = embed(up, { "a" })
      return response.status .. " " .. response.retry_after_s .. ("|%s %d %d"):format(err.code, err.status,
        err.retry_after_s)]])
  end)

  test("counts what came of its requests", function()
    assert.equal("1 1 1 1 true", eval [[
      local up = at("ok,400,500,die~counted", { retry = { attempts = 1 } })
      for _ = 1, 4 do embed(up, { "a" }) end
      local status = up:status()
      local n = status.requests
      return ("%d %d %d %d %s"):format(n["2xx"], n["4xx"], n["5xx"], n.error, tostring(status.seconds > 0))]])
  end)

  test("is looked at once at the start, and what was seen is one sentence", function()
    assert.matches("^true http://127.0.0.1:%d+ answers GET /v1/models with status 200$", eval [[
      local ok, text = at("ok"):probe()
      return tostring(ok) .. " " .. text:gsub("/ok", "")]])
    assert.matches("^false .* status 401: is the key right%?$", eval [[
      local ok, text = at("401"):probe()
      return tostring(ok) .. " " .. text]])
    assert.equal("false http://127.0.0.1:1 does not answer: no connection (connection refused)", eval [[
      local ok, text = new("http://127.0.0.1:1"):probe()
      return tostring(ok) .. " " .. text]])
  end)

  -- --- how many inputs ------------------------------------------------------------------------------------------

  test("takes as many inputs as its preset says", function()
    assert.equal("2048 32 2048 2048 7", eval [[
      local list = {}
      for i, preset in ipairs { "openai", "tei", "vllm", "infinity" } do
        list[i] = new("http://a", { preset = preset, name = "p" .. i }):limits().max_inputs
      end
      return table.concat(list, " ") .. " " .. new("http://a", { max_inputs = 7, name = "p7" }):limits().max_inputs]])
  end)

  test("a limit is learned from the words of a refusal, and kept over a reload", function()
    assert.equal("413 4 true", eval [[
      local up = at("limit-4", { name = "words" })
      local response = embed(up, { "a", "b", "c", "d", "e" })
      return ("%d %d %s"):format(response.status, up:limits().max_inputs, tostring(up:limits().learned))]])
    local before = worker:workers()[1]
    worker:signal "HUP"
    nginx.wait_until("another worker", function()
      local now = worker:workers()
      return #now == 1 and now[1] ~= before
    end)
    assert.equal("4", eval [[return at("ok", { name = "words" }):limits().max_inputs]])
  end)

  for words, expected in pairs {
    ["batch size 64 > maximum allowed batch size 32"] = 32, -- TEI
    ["List should have at most 16 items after validation, not 64"] = 16, -- pydantic: infinity, FastAPI
    ["array length must be 20 or less in input"] = 20,
    ["Too many inputs: at most 10 inputs are allowed, got 64"] = 10,
    ["This model's maximum context length is 32 tokens; the input has 64"] = 2048,
    ["input 3 is poisonous"] = 2048,
    ["Input 5: string too long, max 16 words"] = 2048,
    ["input 7 of the batch has 20 images, at most 10 are allowed"] = 2048,
    ["the input must be at most 100 items"] = 2048,
    [""] = 2048,
  } do
    test(("of 64 inputs, refused with '%s', it takes %d"):format(words, expected), function()
      assert.equal(expected, tonumber(eval(([[
        local known = require("tokenbatcher.gateway.limits").new { name = "none", most = 2048 }
        known:learn({ inputs = 64 }, { status = 422, body = %q })
        return known:describe().max_inputs]]):format(words))))
    end)
  end

  test("a limit is not learned from an input that is said back, whole or cut short", function()
    assert.equal("2048 2048 2048 1", eval [[
      local function learned(name, body)
        local known = require("tokenbatcher.gateway.limits").new { name = name, most = 2048 }
        known:learn({ inputs = 2, body = body },
          { status = 422, body = '{"detail":[{"msg":"bad item","input":"batch of at most 1"}]}' })
        return known:describe().max_inputs
      end
      return table.concat({ learned("whole", '{"input":["batch of at most 1","b"]}'),
        learned("cut", '{"input":["batch of at most 12345","b"]}'),
        learned("zero", '{"input":["batch of at most 01","b"]}'), learned("other", '{"input":["a 21","b"]}') }, " ")]])
  end)

  test("a limit is not learned from a batch that was too large as a whole, in tokens or bytes", function()
    assert.equal("2048 2048 2", eval [[
      local function learned(words)
        local known = require("tokenbatcher.gateway.limits").new { name = words, most = 2048 }
        known:learn({ inputs = 4, batch = 1 }, { status = 413, body = words })
        for _ = 1, 2 do known:learn({ inputs = 2, batch = 1 }, { status = 200, body = "" }) end
        return known:describe().max_inputs
      end
      return table.concat({ learned "the request has 9000 tokens, 8192 at most", learned "413 Request Entity Too Large",
        learned "no" }, " ")]])
  end)

  test("a limit is learned from a batch whose parts are all taken, not from one with a culprit", function()
    assert.equal("413 413 200 200 413 200 200 2|400 400 200 200 2048|2048", eval [[
      local function statuses(up, batch, ...)
        local list = {}
        for i, n in ipairs { ... } do
          local texts = {}
          for k = 1, math.abs(n) do texts[k] = n < 0 and k == 1 and "poison" or "a" end
          list[i] = embed(up, texts, { batch = batch }).status
        end
        return table.concat(list, " ") .. " " .. up:limits().max_inputs
      end
      local known = require("tokenbatcher.gateway.limits").new { name = "large", most = 2048 }
      known:learn({ inputs = 8, batch = 1, body = ("x"):rep(2 ^ 20) }, { status = 413, body = "" })
      known:learn({ inputs = 4, batch = 1 }, { status = 200, body = "" })
      known:learn({ inputs = 4, batch = 1 }, { status = 200, body = "" })
      return statuses(at("terse-2", { name = "terse" }), 1, 6, 3, 2, 1, 3, 2, 1) .. "|"
        .. statuses(at("poison", { name = "poison" }), 2, -2, -1, 1, 2) .. "|" .. known:describe().max_inputs]])
  end)

  -- --- what it may be given ------------------------------------------------------------------------------------------

  for given, expected in pairs {
    ["{}"] = "gateway: upstream 1: parameter 'url' is missing: it must be a string",
    ['{ url = "ftp://x" }'] = "parameter 'url' must begin with http:// or https://",
    ['{ url = "http://" }'] = "parameter 'url' names no host",
    ['{ url = "http://a:99999" }'] = "parameter 'url' has a port that is none of 1 to 65535",
    ['{ url = "http://ann:secret@a" }'] = "parameter 'url' holds a user or a password: give api_key, or headers",
    ['{ url = "http://a/v1?api-version=1&Subscription-Key=secret" }'] = "parameter 'url' holds a key in its query",
    ['{ url = "http://a b" }'] = "parameter 'url' holds a space, a control character or one that is not ASCII",
    ['{ url = "http://a", preset = "tie" }'] = "parameter 'preset' must be one of infinity, openai, tei, vllm",
    ['{ url = "http://a", api_key = "sec\\nret" }'] = "parameter 'api_key' must be printable ASCII",
    ['{ url = "http://a", api_key_env = "NOT_SET" }'] = "the environment variable NOT_SET is not set",
    ['{ url = "http://a", api_key = "x", api_key_env = "UPSTREAM_KEY" }'] = "give api_key or api_key_env, not both",
    ['{ url = "http://a", ca_file = "x" }'] = "name the certificates in lua_ssl_trusted_certificate",
    ['{ url = "http://a", retry = { atempts = 2 } }'] = "retry: unknown parameter 'atempts'; did you mean 'attempts'?",
    ['{ url = "http://a", retry = { backoff_ms = { 9, 1 } } }'] = "'backoff_ms' must be two numbers of milliseconds",
    ['{ url = "http://a", breaker = { open_s = 0 } }'] = "parameter 'open_s' must be a number of seconds above 0",
    ['{ url = "http://a", headers = { ["a b"] = "x" } }'] = "headers: \"a b\" is not a header's name",
    ['{ url = "http://a", headers = { Authorization = "secret" } }'] = "'Authorization', which api_key sets",
    ['{ url = "http://a", timeout = 3 }'] = "unknown parameter 'timeout'; did you mean 'timeout_s'?",
  } do
    test("refuses " .. given, function()
      local text = eval("return select(2, pcall(Upstream.new, 'gateway: upstream 1', " .. given .. "))")
      assert.truthy(text:find(expected, 1, true), text)
      assert.falsy(text:find "secret", text)
    end)
  end
end)
