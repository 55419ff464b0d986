-- The live page of a gateway: all workers together, by what each has put down, while somebody looks.

local helper = dofile "tests/lua/gateway_helper.lua"
local json = require "tokenbatcher.base.json"
local nginx = dofile "tests/nginx/server.lua"
local state = require "tokenbatcher.listen.state"
local tb = require "tokenbatcher"
local View = require "tokenbatcher.gateway.view"

local missing = nginx.missing()

local FIELD = {}
for i, name in ipairs(state.FIELDS) do FIELD[name] = i end

local function answering(request)
  tb.sleep(0.5)
  local n, data = #json.decode(request.body).input, {}
  for i = 1, n do data[i] = ('{"index":%d,"embedding":[1]}'):format(i - 1) end
  return { status = 200, headers = {}, body = '{"data":[' .. table.concat(data, ",") .. "]}" }
end

local function ask(text, credential)
  return helper.request("/v1/embeddings", json.encode { model = "m", input = text },
    { headers = { authorization = credential } })
end

-- As ngx.shared has it; what has a time to live is gone after it.
local function new_dict()
  local values, dict = {}, { names = {} }
  function dict.get(_, name)
    local it = values[name]
    return it and (it[2] == nil or it[2] > tb.now()) and it[1] or nil
  end
  function dict.set(_, name, value, ttl)
    values[name] = { value, ttl and tb.now() + ttl }
    return true
  end
  function dict:safe_set(name, value, ttl)
    if self.is_full then return nil, "no memory" end
    return self:set(name, value, ttl)
  end
  function dict:add(name, value, ttl) return self:get(name) == nil and self:set(name, value, ttl) end
  return dict
end

-- Run fn(views) with two workers of one gateway, as far as a view knows them.
local function with_workers(fn, options)
  options = options or {}
  local fakes = { helper.upstream(answering, { name = "up", state = options.state }) }
  helper.run({}, fakes, function(first)
    local dict, live = new_dict(), { { id = 0, generation = 1 }, { id = 1, generation = options.generation or 1 } }
    local views = {}
    for i, it in ipairs(live) do
      local board = { id = it.id, generation = it.generation, live = function() return live end }
      views[i] = View.new { gateway = i == 1 and first or options.second(first), dict = dict, board = board,
        bytes = options.bytes or 4 * 2 ^ 20, workers = 2 }
    end
    fn(views, dict, first)
  end)
end

-- Another gateway with a line of the same name.
local function twin(of)
  local gateway = require("tokenbatcher.gateway").new({ upstreams = { { url = "http://upstream", name = "up" } } },
    { log = function() end, new_upstream = function() return helper.upstream(answering, { name = "up" }) end })
  gateway.secret, gateway.fairness = of.secret, of.fairness -- as workers of one nginx have it
  gateway:start()
  return gateway
end

-- Run fn(views, dict, first, second) with two gateways that run, the second of which is stopped at the end.
local function with_two(fn)
  local second
  with_workers(function(views, dict, first)
    fn(views, dict, first, second)
    for _, line in ipairs(second.lines) do line.batcher:stop() end
  end, { second = function(first)
    second = twin(first)
    return second
  end })
end

local function look(view, after)
  return json.decode((view:text(after, tb.sleep)))
end

describe("the live page of a gateway:", function()
  it("one worker tells of all, by pseudonyms that are the same in each", function()
    with_two(function(views, _, first, second)
      local jobs = {}
      for i = 1, 6 do
        jobs[i] = tb.spawn(function() helper.handle(i % 2 == 0 and first or second, ask("t" .. i, "Bearer sk-ann")) end)
      end
      tb.gather(jobs)
      tb.spawn(function() -- the other worker's timer
        tb.sleep(0.3)
        views[2]:put()
      end)
      local text = views[1]:text(nil, tb.sleep)
      assert.is_nil(text:find("sk-ann", 1, true))
      local it = json.decode(text).batchers[1]
      assert.equal("up", it.name)
      assert.same({ "circuit", "closed", "good" }, it.facts[1])
      assert.same({ "0", "1" }, { it.workers[1].id, it.workers[2].id })
      assert.same({ 6, 6 }, { it.totals.completed, it.keys.rows[1][3] })
      assert.equal(1, #it.keys.rows)
      local seen = {}
      for _, row in ipairs(it.batches) do seen[row[FIELD.worker]] = (seen[row[FIELD.worker]] or 0) + row[FIELD.size] end
      assert.same({ ["0"] = 3, ["1"] = 3 }, seen)
    end)
  end)

  it("nobody puts anything down while nobody looks, nor where there is no room", function()
    with_two(function(views, dict)
      views[2]:put()
      assert.is_nil(dict:get "v:1")
      look(views[1])
      dict.is_full = true
      views[2]:put()
      assert.is_nil(dict:get "v:1")
      dict.is_full = false
      views[2]:put()
      assert.is_string(dict:get "v:1")
      tb.sleep(5.5)
      views[2]:put() -- nobody has looked for five seconds
      tb.sleep(5)
      assert.is_nil(dict:get "v:1")
    end)
  end)

  it("a worker that does not answer is waited for once, and then no more", function()
    with_two(function(views)
      local before = tb.now()
      look(views[1])
      assert.is_true(tb.now() - before >= 1 and tb.now() - before < 2)
      before = tb.now()
      look(views[1])
      assert.equal(before, tb.now())
    end)
  end)

  it("what is put down takes no more of the dict than its share", function()
    local second
    with_workers(function(views, dict)
      for i = 1, 400 do helper.handle(second, ask("t" .. i, "Bearer sk-" .. i)) end
      look(views[1])
      views[2]:put()
      local text = dict:get "v:1"
      assert.is_true(#text <= 20000, #text)
      local it = json.decode(text).batchers[1]
      assert.equal(64, #it.batches)
      assert.equal(400, it.totals.completed)
      for _, line in ipairs(second.lines) do line.batcher:stop() end
    end, { bytes = 20000 * 8, second = function(first)
      second = twin(first)
      return second
    end })
  end)

  it("a successor has another name than who was before it", function()
    assert.same({ "3", "3 (2)" }, { View.name_of(3, 1), View.name_of(3, 2) })
  end)
end)

-- --- in nginx ----------------------------------------------------------------------------------

local upstream, driver

local function test(name, given, fn)
  it(name, function()
    if missing then return pending("skipped: " .. missing) end
    nginx.with_gateway(upstream, given, fn)
  end)
end

local function whole(gateway, path, arguments)
  return nginx.output_of(("curl -s -i -m 20 %s '%s%s'"):format(arguments or "", gateway.url, path))
end

local function stats(gateway) return assert(json.decode((gateway:get "/tb/stats.json"))) end

-- So many requests over connections of their own, so that each worker has some.
local function load(gateway, n)
  local text = driver:eval(([[
    local driver, count = dofile "%s/tests/nginx/driver.lua", {}
    return driver.text(driver.load({ port = %d, clients = 20, keeps = false,
      stop = function() return count.sent >= %d end }, count))
  ]]):format(nginx.root, gateway.port, n))
  return tonumber(text:match "answered (%d+)")
end

local function batches_of(it)
  local seen, records = {}, 0
  for _, row in ipairs(it.batches) do
    assert.is_nil(seen[row[FIELD.worker] .. " " .. row[FIELD.n]])
    seen[row[FIELD.worker] .. " " .. row[FIELD.n]] = true
    records = records + row[FIELD.size]
  end
  return records
end

describe("the live page in nginx:", function()
  setup(function()
    if missing then return end
    upstream, driver = nginx.upstream(), nginx.start {}
  end)
  teardown(function()
    if driver then driver:stop() end
    if upstream then upstream:stop() end
  end)

  test("two workers are one page, before and after HUP", { workers = 2 }, function(gateway)
    local answered, id = 0, nil
    for round = 1, 3 do
      answered = answered + load(gateway, 300)
      local it
      nginx.wait_until("all answers of the workers that live", function()
        it = stats(gateway)
        local workers = it.batchers[1].workers
        return #workers == 2 and workers[1].records + workers[2].records + (round - 1) * 300 >= answered - 40
          and it.batchers[1]
      end)
      id = id or it.id
      assert.equal(id, it.id)
      it = it.batchers[1]
      assert.is_true(it.workers[1].batches > 0 and it.workers[2].batches > 0)
      assert.is_true(#it.batches <= 256)
      assert.is_true(batches_of(it) > 0)
      local former = gateway:workers()
      gateway:signal "HUP"
      nginx.wait_until("the reload", function()
        for _, pid in ipairs(former) do
          if nginx.is_alive(pid) then return false end
        end
        return #gateway:workers() == 2
      end)
      assert.equal(200, select(2, gateway:get "/health")) -- the new ones have begun
    end
    assert.matches("^%d+ %(4%)$", stats(gateway).batchers[1].workers[1].id)
  end)

  test("a page with its policy, figures, and nothing else", {}, function(gateway)
    local text = whole(gateway, "/tb/")
    assert.matches("^HTTP/1.1 200", text)
    assert.matches("\n[Cc]ontent%-[Ss]ecurity%-[Pp]olicy: default%-src 'none'", text)
    assert.matches("\n[Cc]ontent%-[Tt]ype: text/html; charset=utf%-8", text)
    assert.equal(require("tokenbatcher.listen.page").html(), text:match "\r\n\r\n(.*)$" .. "\n")
    assert.matches("\n[Ll]ocation: [^\n]*/tb/\r", whole(gateway, "/tb"))
    assert.matches("^HTTP/1.1 200", whole(gateway, "/tb/stats.json?after=nonsense"))
    assert.matches("^HTTP/1.1 404", whole(gateway, "/tb/other"))
    assert.matches("^HTTP/1.1 405", whole(gateway, "/tb/stats.json", "-d x"))
    assert.matches("\r\n\r\n$", whole(gateway, "/tb/events", "-I") .. "\n")
  end)

  test("is for this machine alone, and for no name that was made to point at it", {}, function(gateway)
    for _, path in ipairs { "/tb/", "/tb/stats.json", "/tb/events" } do
      assert.matches("^HTTP/1.1 403", whole(gateway, path, "--interface 127.0.0.2"))
      for _, name in ipairs { "evil.example", "localhost.evil.example:80", "localhost." } do
        assert.matches("^HTTP/1.1 403", whole(gateway, path, "-H 'Host: " .. name .. "'"))
      end
    end
    for _, name in ipairs { "localhost", "localhost:80", "LOCALHOST:",  "127.0.0.1", "[::1]:8080" } do
      assert.matches("^HTTP/1.1 200", whole(gateway, "/tb/stats.json", "-H 'Host: " .. name .. "'"))
    end
  end)

  for _, shared in ipairs { "no", "yes" } do
    test("events come one after the other, shared " .. shared, { shared = shared }, function(gateway)
      local out = gateway.folder .. "/events"
      local leave = nginx.client(("-N '%s/tb/events' -o %s"):format(gateway.url, out))
      local function count() return select(2, nginx.read(out):gsub("event: state\ndata: {[^\n]*}\n\n", "")) end
      nginx.wait_until("three events", function() return count() >= 3 end)
      load(gateway, 40)
      nginx.wait_until("batches among them", function() return nginx.read(out):find '"batches":%[%[' end)
      leave()
    end)
  end

  test("a worker has sixteen readers of events, and one that leaves makes room", {}, function(gateway)
    local leave = {}
    for i = 1, 16 do
      leave[i] = nginx.client(("-N '%s/tb/events' -o %s/e%d"):format(gateway.url, gateway.folder, i))
    end
    for i = 1, 16 do
      nginx.wait_until("reader " .. i, function() return nginx.read(gateway.folder .. "/e" .. i) ~= "" end)
    end
    assert.matches("^HTTP/1.1 503", whole(gateway, "/tb/events"))
    assert.matches("^HTTP/1.1 200", whole(gateway, "/tb/stats.json"))
    leave[1]()
    local status = ("curl -s -o /dev/null -w '%%{http_code}' -m 1 '%s/tb/events'"):format(gateway.url)
    nginx.wait_until("room for another", function() return nginx.output_of(status) == "200" end)
    for i = 2, 16 do leave[i]() end
  end)

  test("readers do not keep a gateway from its end", {}, function(gateway)
    local leave = nginx.client(("-N '%s/tb/events' -o %s/e"):format(gateway.url, gateway.folder))
    nginx.wait_until("an event", function() return nginx.read(gateway.folder .. "/e") ~= "" end)
    gateway:signal "QUIT"
    assert.is_true(gateway:ends_within(10))
    leave()
  end)
end)
