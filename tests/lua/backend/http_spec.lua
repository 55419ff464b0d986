-- tb.http: a server that plays every fault, the loop's own clock.

local cjson = require "cjson"
local ffi = require "ffi"
local H = require "tests.lua.helper"
local tb = require "tokenbatcher"
local W = require "tests.lua.http_helper"

local really = W.really
local missing = W.missing()

if missing then
  describe("http:", function()
    it("is tested", function() pending("skipped: " .. missing) end)
  end)
  return
end

describe("http:", function()
  local server
  setup(function() server = W.server() end)
  teardown(function() server.stop() end)

  local function get(path, opts) return tb.http.get(server.url .. path, opts) end
  local function post(path, opts) return tb.http.post(server.url .. path, opts) end

  -- --- what goes out, what comes back ---------------------------------------------

  it("get gives status, headers by lower-case name and the body", really(function()
    local response = assert(get "/echo?x=1")
    assert.equal(200, response.status)
    assert.equal("application/json", response.headers["content-type"])
    assert.equal("a, b", response.headers["x-twice"])
    assert.equal("", response.headers["x-empty"])
    local seen = cjson.decode(response.body)
    assert.equal("GET", seen.method)
    assert.equal("/echo?x=1", seen.path)
    assert.equal("tokenbatcher", seen.headers["user-agent"])
    assert.is_nil(seen.headers["accept-encoding"])
  end))

  it("post sends any bytes, headers as given, and no Content-Type of its own", really(function()
    local headers = { ["X-Number"] = 7, ["X-Empty"] = "" }
    local seen = cjson.decode(post("/echo", { body = "a\0b\r\nc", headers = headers }).body)
    assert.equal("POST", seen.method)
    assert.equal(6, seen.bytes)
    assert.equal("a\0b\r\nc", seen.body)
    assert.equal("7", seen.headers["x-number"])
    assert.equal("", seen.headers["x-empty"])
    assert.is_nil(seen.headers["content-type"])
    seen = cjson.decode(post("/echo", { headers = { ["content-type"] = "text/plain", ["User-Agent"] = "me" } }).body)
    assert.equal("text/plain", seen.headers["content-type"])
    assert.equal("me", seen.headers["user-agent"])
    assert.equal(0, seen.bytes)
  end))

  it("a large body goes at once, without waiting for a 100 Continue", really(function()
    local seen = cjson.decode(post("/echo", { body = ("x"):rep(1500000) }).body)
    assert.equal(1500000, seen.bytes)
    assert.is_nil(seen.headers.expect)
  end))

  it("any status is a response; with fail_on_status it is nil, err", really(function()
    assert.equal(503, get("/503").status)
    local response, err = get("/503", { fail_on_status = true })
    assert.is_nil(response)
    assert.equal("http_status", err.code)
    assert.equal(503, err.status)
    assert.matches("come back later", err.response.body)
    assert.is_true(err.was_sent)
    assert.matches("http_status: GET http://127.0.0.1:%d+/503: status 503$", tostring(err))
    assert.equal(200, get("/ok,echo", { fail_on_status = true }) and 200)
  end))

  it("does not follow redirects", really(function()
    assert.equal(302, get("/302").status)
  end))

  it("Retry-After is told in seconds, a date made relative", really(function()
    assert.equal(7, get("/429@7").retry_after_s)
    local s = get("/429@date30").retry_after_s
    assert.is_true(s >= 28 and s <= 30)
    assert.is_nil(get("/429").retry_after_s)
  end))

  it("reads chunked bodies and those that end with the connection", really(function()
    for _, path in ipairs { "/chunked", "/unended" } do
      local answer = cjson.decode(post(path, { body = '{"input":["abc"]}' }).body)
      assert.equal(3, answer.data[1].embedding[1])
    end
  end))

  it("goes through a unix socket", really(function()
    local response = assert(tb.http.get("http://anything/echo", { unix_socket = server.socket }))
    assert.equal("anything", cjson.decode(response.body).headers.host)
    local nothing, err = tb.http.get("http://x/", { unix_socket = server.socket .. ".none" })
    assert.is_nil(nothing)
    assert.equal("http_connect", err.code)
  end))

  -- --- connections -------------------------------------------------------------------

  it("keeps connections alive: requests one after the other share one", really(function()
    local before = W.stats(server).stats.connections
    for _ = 1, 20 do assert(get "/echo") end
    assert.equal(before, W.stats(server).stats.connections)
  end))

  it("requests at once take a connection each, and suspend only their own coroutine", really(function()
    local before = W.stats(server).stats.connections
    local all = {}
    for i = 1, 8 do all[i] = tb.spawn(post, "/meet-9", { body = '{"input":["a"]}' }) end
    for _ = 1, 10 do tb.sleep(0.001) end
    for i = 1, 8 do assert.is_false(all[i]:done()) end -- they wait for a ninth
    all[9] = tb.spawn(post, "/meet-9", { body = '{"input":["a"]}' })
    local responses = tb.gather(all)
    for i = 1, 9 do assert.equal(200, responses[i].status) end
    assert.equal(before + 8, W.stats(server).stats.connections)
  end))

  it("a kept connection that the server has closed is replaced unseen", really(function()
    for _ = 1, 5 do
      assert.equal(200, post("/goodbye", { body = '{"input":["a"]}' }).status)
    end
  end))

  -- --- failures -----------------------------------------------------------------------

  it("timeout_s ends a request: not before, not much later", really(function()
    for _, path in ipairs { "/hang", "/drip" } do
      for _, timeout_s in ipairs { 0.0004, 0.05, 0.12 } do
        local started = tb.now()
        local response, err = get(path, { timeout_s = timeout_s })
        local took = tb.now() - started
        assert.is_nil(response)
        assert.equal("http_timeout", err.code)
        assert.is_true(took >= timeout_s, ("%g s after %g s"):format(took, timeout_s))
        assert.is_true(took < timeout_s + 2, ("%g s after %g s"):format(took, timeout_s))
      end
    end
  end))

  it("no connection is http_connect, and nothing was sent", really(function()
    local response, err = tb.http.get "http://127.0.0.1:1/x?secret=1"
    assert.is_nil(response)
    assert.equal("http_connect", err.code)
    assert.is_false(err.was_sent)
    assert.matches("^http_connect: GET http://127.0.0.1:1/x: ", tostring(err))
    err = select(2, tb.http.get "http://no-such-host.invalid/")
    assert.equal("http_connect", err.code)
  end))

  it("connect_timeout_s bounds the connecting: http_connect", really(function()
    local socket = require "socket"
    local listener = assert(socket.bind("127.0.0.1", 0, 0)) -- accepts none, and its backlog is full soon
    local _, port = listener:getsockname()
    local fillers = {}
    for i = 1, 4 do
      fillers[i] = socket.tcp()
      fillers[i]:settimeout(0)
      fillers[i]:connect("127.0.0.1", port)
    end
    local url = ("http://127.0.0.1:%d/"):format(port)
    local response, err = tb.http.get(url, { connect_timeout_s = 0.05, timeout_s = 5 })
    assert.is_nil(response)
    assert.equal("http_connect", err.code)
    assert.is_false(err.was_sent)
    for _, filler in ipairs(fillers) do filler:close() end
    listener:close()
  end))

  it("a connection that dies, or does not speak HTTP, is http_broken", really(function()
    for _, path in ipairs { "/die", "/diebody", "/garbage" } do
      local response, err = post(path, { body = "x" })
      assert.is_nil(response)
      assert.equal("http_broken", err.code)
      assert.is_true(err.was_sent)
    end
    assert.equal(200, select(2, post("/diebody", { body = "x" })).status)
  end))

  it("max_response_bytes bounds the body, announced or not; headers are bounded, too", really(function()
    for _, path in ipairs { "/huge-1001", "/endless" } do
      local response, err = get(path, { max_response_bytes = 1000 })
      assert.is_nil(response)
      assert.equal("http_too_large", err.code)
      assert.matches("the response is larger than allowed", err.message)
    end
    assert.equal(1000, #get("/huge-1000", { max_response_bytes = 1000 }).body)
    assert.equal(0, #get("/huge-0", { max_response_bytes = 0 }).body)
    local _, err = get "/bighead"
    assert.equal("http_too_large", err.code)
    assert.matches("headers", err.message)
    _, err = get "/longhead" -- refused by libcurl itself, which calls it a lack of memory
    assert.matches("header", err.message)
  end))

  it("TLS is verified unless told otherwise, and ca_file adds an authority", really(function()
    local tls = W.tls_server()
    if not tls then return pending "skipped: no openssl" end
    local response, err = tb.http.get(tls.url)
    assert.is_nil(response)
    assert.equal("http_connect", err.code)
    assert.matches("certificate", err.message)
    assert.equal(200, assert(tb.http.get(tls.url, { ca_file = tls.ca_file })).status)
    assert.equal(200, assert(tb.http.get(tls.url, { tls_verify = false })).status)
    response, err = tb.http.get(tls.other_url, { ca_file = tls.ca_file }) -- a name that is not in it
    assert.is_nil(response)
    assert.equal("http_connect", err.code)
    tls.stop()
  end))

  -- --- misuse -----------------------------------------------------------------------------

  it("wrong arguments raise at the caller's line, secrets left out", really(function()
    local function message(...) return (H.message(tb.http.post, ...)) end
    local ok, raised = pcall(function() tb.http.post(7) end)
    assert.is_false(ok)
    assert.matches("http_spec.lua:" .. H.line() - 2 .. ": http.post: the URL must be a string, got a number", raised)
    for _, url in ipairs { "ftp://x/", "file:///etc/passwd", "x" } do
      assert.matches("must begin with http:// or https://", message(url))
    end
    assert.matches("holds a space or a control character", message "http://x/\r\nX: y")
    for url, problem in pairs {
      ["http://user:secret@[::1/x?key=secret"] = "not a URL", ["http://user:secret/x@127.0.0.1/"] = "not a URL",
      ["user:secret@127.0.0.1/"] = "must begin with", ["ftp://user:secret/x@127.0.0.1/"] = "must begin with",
      ["http://user:the secret/x@127.0.0.1/"] = "holds a space", ["http://[::1/x?key=secret"] = "not a URL" } do
      local text = message(url)
      assert.matches(problem, text)
      assert.not_matches("secret", text)
    end
    local _, err = tb.http.get "http:///user:secret@127.0.0.1:1/" -- libcurl takes three slashes, too
    assert.equal("http_connect", err.code)
    assert.not_matches("secret", err.message)
    local url = "http://127.0.0.1/"
    assert.matches("unknown parameter 'timeout'; did you mean 'timeout_s'", message(url, { timeout = 1 }))
    assert.matches("'timeout_s' must be", message(url, { timeout_s = 0 }))
    assert.matches("'body' must be a string", message(url, { body = 7 }))
    assert.matches("unknown parameter 'body'", (H.message(tb.http.get, url, { body = "x" })))
    for _, name in ipairs { "a b", "a:b", "a\r\nb", "" } do
      assert.matches("is not a header's name", message(url, { headers = { [name] = "x" } }))
    end
    for _, value in ipairs { "secret\r\nX: y", "secret\n", "secret\0", "secret\127" } do
      local text = message(url, { headers = { Authorization = value } })
      assert.matches("header 'Authorization' holds a line break or another control character", text)
      assert.not_matches("secret", text)
    end
    assert.matches("must be a string or a number, got a table", message(url, { headers = { A = {} } }))
    for _, name in ipairs { "Content-Length", "transfer-encoding", "Expect" } do
      assert.matches("is set by the client itself", message(url, { headers = { [name] = "1" } }))
    end
  end))

  it("a proxy of the environment that is none is an error, its credentials left out", really(function()
    local around = os.getenv "no_proxy" or ""
    W.setenv("http_proxy", "none://user:secret@proxy")
    W.setenv("no_proxy", "127.0.0.1")
    local response, err = tb.http.get "http://beyond-the-proxy.invalid/"
    W.setenv "http_proxy"
    W.setenv("no_proxy", around)
    assert.is_nil(response)
    assert.equal("http_connect", err.code)
    assert.truthy(err.message:find("'...@proxy'", 1, true), err.message)
    assert.not_matches("secret", err.message)
  end))

  it("raises outside of a coroutine, and under the virtual clock", function()
    assert.matches("http.get cannot wait here: outside of a coroutine", (H.message(tb.http.get, server.url)))
    H.run(function()
      assert.matches("http.get needs the real clock", (H.message(tb.http.get, server.url)))
    end)
  end)

  it("raises inside an estimator", really(function()
    local batcher = tb.TokenBatcher { inference_fn = function(r) return r end, token_estimator = function()
      get "/echo"
    end }
    batcher:start()
    assert.matches("http.get cannot wait here: inside a token_estimator", (H.message(batcher.submit, batcher, "x")))
    batcher:stop()
  end))

  -- --- cancelling ---------------------------------------------------------------------------

  -- A batcher whose inference function asks the server and notes how that ended.
  local function asking(options, path)
    local ends = {}
    options.inference_fn = function(records)
      local ok, response, err = pcall(post, path, { body = '{"input":["a"]}' })
      ends[#ends + 1] = { ok = ok, response = response, err = err }
      if not ok then error(response, 0) end
      return records
    end
    options.batch_timeout_s, options.log = 0, function(_, text) ends.log = text end
    local batcher = tb.TokenBatcher(options)
    batcher:start()
    return batcher, ends
  end

  it("an inference call that times out is cancelled: its connection is closed, the call raises", really(function()
    local before = W.stats(server).stats.aborted
    local batcher, ends = asking({ inference_timeout_s = 0.3 }, "/hang")
    local _, err = batcher:submit("x"):await()
    assert.equal("inference_timeout", err.code)
    assert.equal(before + 1, W.stats_once(server, "aborted", before + 1).stats.aborted)
    assert.is_false(ends[1].ok)
    assert.equal("cancelled", ends[1].response.code)
    assert.is_nil(ends.log)
    batcher:stop()
  end))

  it("so is one that stop{timeout_s} gives up", really(function()
    local before = W.stats(server).stats
    local batcher = asking({}, "/hang")
    local future = batcher:submit "x"
    W.stats_once(server, "requests", before.requests + 1)
    batcher:stop { timeout_s = 0.02 }
    assert.equal("stopped", select(2, future:await()).code)
    W.stats_once(server, "aborted", before.aborted + 1)
  end))

  it("so is one whose records are all cancelled, and the slot is free again; not while one is wanted", really(function()
    local before = W.stats(server).stats
    local batcher, ends = asking({ max_batch_size = 2 }, "/hang,hang,ok")
    local a, b = batcher:submit "a", batcher:submit "b"
    W.stats_once(server, "requests", before.requests + 1)
    a:cancel()
    W.stats(server) -- several turns
    assert.equal(0, #ends)
    b:cancel()
    W.stats_once(server, "aborted", before.aborted + 1)
    assert.equal("cancelled", ends[1].response.code)
    assert.equal(0, batcher.stats.running_batches)
    assert.is_nil(ends.log)
    local c = batcher:submit "c"
    W.stats_once(server, "requests", before.requests + 2)
    c:cancel()
    assert.equal("d", (batcher:submit("d"):await()))
    assert.is_true(H.is_conserved(batcher.stats))
    batcher:stop()
  end))

  it("an abandoned call that goes on asking is not resumed", really(function()
    local tries = 0
    local batcher = tb.TokenBatcher { batch_timeout_s = 0, inference_timeout_s = 0.03, inference_fn = function()
      while true do
        tries = tries + 1
        pcall(get, "/hang")
      end
    end }
    batcher:start()
    assert.equal("inference_timeout", select(2, batcher:submit("x"):await()).code)
    tb.sleep(0.02)
    assert.equal(2, tries)
    batcher:stop()
  end))

  it("R5: a call that goes on asking has ended: it counts no more, and its slot is free", really(function()
    local batcher = tb.TokenBatcher { batch_timeout_s = 0, max_batch_size = 1, max_abandoned_calls = 0,
      inference_fn = function(records)
        while records[1] ~= "fine" do pcall(get, "/hang") end
        return records
      end }
    batcher:start()
    local before = W.stats(server).stats.requests
    local future = batcher:submit "cancelled"
    W.stats_once(server, "requests", before + 1)
    future:cancel()
    assert.equal("fine", (batcher:submit("fine"):await(30)))
    batcher:set { inference_timeout_s = 0.03 }
    assert.equal("inference_timeout", select(2, batcher:submit("times out"):await()).code)
    assert.equal("fine", (batcher:submit("fine"):await(30)))
    assert.equal(0, batcher.stats.abandoned_calls)
    assert.is_true(H.is_conserved(batcher.stats))
    batcher:stop()
  end))

  it("R5: time in which the loop was blocked does not count against a request's timeout_s", really(function()
    local asked = tb.spawn(function() return get("/slow-1000", { timeout_s = 0.7 }) end)
    tb.sleep(0.01)
    local until_s = tb.now() + 0.6
    while tb.now() < until_s do end -- luacheck: ignore
    local response, err = asked:await()
    assert.equal(200, response and response.status, tostring(err))
    local began = tb.now()
    assert.equal("http_timeout", select(2, get("/hang", { timeout_s = 0.1 })).code)
    assert.is_true(tb.now() - began < 1)
  end))

  it("the end of a run cancels what is in flight", function()
    local before
    H.run(function() before = W.stats(server).stats end, "real")
    assert.matches("enough", (H.message(tb.run, function()
      tb.spawn(get, "/hang")
      W.stats_once(server, "requests", before.requests + 1)
      error "enough"
    end)))
    H.run(function() W.stats_once(server, "aborted", before.aborted + 1) end, "real")
  end)

  it("a run that only waits for an answer is no deadlock, and one that waits for nothing is", function()
    assert.equal(200, tb.run(function() return post("/slow-50", { body = '{"input":[]}' }).status end))
    assert.matches("deadlock", (H.message(tb.run, function()
      get "/echo"
      local function wait_for_itself() tb.spawn(function() end):await() end
      wait_for_itself()
      local tasks = require "tokenbatcher.runtime.tasks"
      tasks.suspend(tasks.waiter(), "a thing that never comes")
    end)))
  end)

  -- --- load ---------------------------------------------------------------------------------

  it("2,000 requests, failing ones among them: every answer is its own, nothing is left behind", really(function()
    local function ask(i)
      if i % 50 == 0 then return assert(not get("/die")) end
      if i % 51 == 0 then return assert(not get("/hang", { timeout_s = 0.005 })) end
      local seen = cjson.decode(post("/echo", { body = "n" .. i }).body)
      assert.equal("n" .. i, seen.body)
    end
    get "/echo"
    local before = H.open_descriptors()
    local next_i = 0
    local function worker()
      while next_i < 2000 do
        next_i = next_i + 1
        ask(next_i)
      end
    end
    local all = {}
    for i = 1, 16 do all[i] = tb.spawn(worker) end
    local _, errs = tb.gather(all)
    assert.is_nil(next(errs))
    assert.is_true(H.open_descriptors() <= before + 16)
  end))

  it("more requests at once than the client holds are refused with http_full", really(function()
    local capacity = 4096
    local client = require("tokenbatcher.backend.http.client").current()
    local refused, started = 0, 0
    for _ = 1, capacity + 3 do
      tb.spawn(function()
        started = started + 1
        local _, err = tb.http.get("http://127.0.0.1:1/", { unix_socket = "/nonexistent" })
        if err.code == "http_full" then refused = refused + 1 end
      end)
    end
    tb.sleep(0)
    while client:is_busy() do tb.sleep(0.001) end
    assert.equal(capacity + 3, started)
    assert.equal(3, refused)
  end))
end)

describe("http in a host's own loop:", function()
  it("is driven by fd, next_deadline and step", function()
    local server = W.server()
    ffi.cdef [[ struct tbhttp_pollfd { int fd; short events; short revents; };
      int tbhttp_poll(struct tbhttp_pollfd *fds, unsigned long n, int timeout_ms) __asm__("poll"); ]]
    local pollfd = ffi.new "struct tbhttp_pollfd"
    local answer = tb.spawn(function()
      assert.equal(200, tb.http.post(server.url .. "/slow-20", { body = '{"input":["a"]}' }).status)
      return select(2, tb.http.get(server.url .. "/hang", { timeout_s = 0.02 })).code
    end)
    while not answer:done() do
      pollfd.fd, pollfd.events = tb.fd(), 1
      assert.equal(1, ffi.C.tbhttp_poll(pollfd, 1, 5000))
      tb.step()
    end
    assert.equal("http_timeout", (answer:await()))
    server.stop()
  end)
end)
