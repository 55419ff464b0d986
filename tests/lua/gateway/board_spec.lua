-- One truth over workers: snapshots in a shared dict, by id and generation.

local Board = require "tokenbatcher.gateway.board"
local counts = require "tokenbatcher.gateway.counts"
local helper = dofile "tests/lua/gateway_helper.lua"
local json = require "tokenbatcher.base.json"
local pages = require "tokenbatcher.gateway.pages"
local snapshots = require "tokenbatcher.gateway.snapshot"
local tb = require "tokenbatcher"

-- As ngx.shared has it.
local function new_dict()
  local values, dict = {}, { writes = 0 }
  function dict.get(_, name) return values[name] end
  function dict:set(name, value)
    self.writes, values[name] = self.writes + 1, value
    return true
  end
  function dict.add(_, name, value)
    if values[name] ~= nil then return false, "exists" end
    values[name] = value
    return true
  end
  function dict.incr(_, name, by, init)
    values[name] = (values[name] or init) + by
    return values[name]
  end
  function dict.delete(_, name) values[name] = nil end
  function dict.names()
    local out = {}
    for name in pairs(values) do out[#out + 1] = name end
    table.sort(out)
    return out
  end
  return dict
end

-- A worker that only counts: {board, count(n), die(), fire(): its timer}
local function worker(dict, id, pid, alive)
  local it = { n = 0, active = 0 }
  alive[pid] = true
  it.board = Board.new { dict = dict, id = id, pid = pid, is_alive = function(of) return alive[of] == true end,
    later = function(_, fn)
      if it.is_leaving then return false end
      assert(not it.fire, "two timers at once")
      it.fire = function()
        it.fire = nil
        fn()
      end
      return true
    end,
    snapshot = function() return { n = it.n, active = it.active } end, is_busy = function() return it.active > 0 end,
    add = function(into, from, is_over)
      into.n = (into.n or 0) + (from.n or 0)
      if not is_over then into.active = (into.active or 0) + from.active end
    end, complain = function(_, text) error(text) end }
  function it.die() alive[pid] = nil end
  it.board:join()
  return it
end

local function sum_of(it, field)
  local sum = 0
  for _, of in ipairs(it.board:read()) do sum = sum + (of.sum[field] or 0) end
  return sum
end

describe("workers' snapshots:", function()
  it("any worker speaks for all", function()
    local dict, alive = new_dict(), {}
    local a, b = worker(dict, 0, 100, alive), worker(dict, 1, 101, alive)
    a.n, b.n = 3, 4
    b.board:publish()
    assert.equal(7, sum_of(a, "n"))
    a.board:publish()
    assert.equal(7, sum_of(b, "n"))
  end)

  it("one is put down in a period, one after the last that happened, and as long as something goes on", function()
    local dict, alive = new_dict(), {}
    local a = worker(dict, 0, 100, alive)
    local before = dict.writes
    a.active = 1
    for i = 1, 1000 do
      a.n = i
      a.board:touch()
    end
    assert.equal(before, dict.writes)
    a.fire()
    assert.equal(before + 1, dict.writes)
    a.fire() -- nothing has happened, but something goes on
    assert.equal(before + 2, dict.writes)
    a.active, a.n = 0, 1001
    a.board:touch()
    a.fire()
    assert.is_nil(a.fire)
    assert.equal(1001, json.decode(dict:get "w:0:1").n)
  end)

  it("a worker that exits has no more timers, and tells each time", function()
    local dict, alive = new_dict(), {}
    local a = worker(dict, 0, 100, alive)
    a.is_leaving, a.n = true, 5
    a.board:touch()
    assert.equal(5, json.decode(dict:get "w:0:1").n)
  end)

  it("over reloads nothing is lost and nothing counts twice, whoever dies when", function()
    local dict, alive = new_dict(), {}
    local others = worker(dict, 1, 50, alive)
    local now, former, total = worker(dict, 0, 100, alive), nil, 0
    for round = 1, 30 do
      now.n, now.active = now.n + round, 1
      total = total + round
      now.board:publish()
      if former and round % 3 == 0 then former.die() end
      local next_one = worker(dict, 0, 100 + round, alive)
      if round % 2 == 0 then -- the old one still answers somebody
        now.n = now.n + 1
        total = total + 1
        now.board:publish()
      end
      now.active = 0
      now.board:publish()
      assert.equal(total, sum_of(others, "n"), "round " .. round)
      if round % 4 ~= 0 then now.die() end
      assert.equal(total, sum_of(others, "n"), "round " .. round)
      former, now = now, next_one
    end
    for pid = 100, 129 do alive[pid] = nil end
    worker(dict, 0, 500, alive)
    assert.equal(total, sum_of(others, "n"))
    assert.equal(0, sum_of(others, "active"))
    assert.is_true(#dict.names() <= 8, table.concat(dict.names(), " "))
  end)
end)

-- --- what is on the pages ---------------------------------------------------------------------

local function answering(request)
  local n, data = #json.decode(request.body).input, {}
  for i = 1, n do data[i] = ('{"index":%d,"embedding":[1]}'):format(i - 1) end
  return { status = 200, headers = {}, body = '{"data":[' .. table.concat(data, ",") .. "]}" }
end

local function ask(text) return helper.request("/v1/embeddings", json.encode { model = "m", input = text }) end

-- What is read of workers with these snapshots.
local function read_of(list)
  local out = {}
  for i, snapshot in ipairs(list) do
    out[i] = { id = i - 1, sum = {}, live = { snapshot } }
    snapshots.add(out[i].sum, json.decode(json.encode(snapshot)), false)
    snapshot.pid = 100 + i
  end
  return out
end

describe("the pages:", function()
  it("/metrics has a series for each worker, with the label name, and what is new", function()
    helper.run({}, { helper.upstream(answering, { name = "up" }) }, function(gateway)
      helper.at_once(gateway, { ask "a", ask "b", ask "" })
      local snapshot = snapshots.take(gateway)
      local _, _, text = pages.metrics(gateway, read_of { snapshot, snapshot })
      for _, line in ipairs { 'tokenbatcher_completed_total{name="up",worker="0"} 2',
        'tokenbatcher_completed_total{name="up",worker="1"} 2',
        'tokenbatcher_batch_size_records_count{name="up",worker="0"} 1',
        'tokenbatcher_http_requests_total{route="embeddings",code="200",worker="0"} 2',
        'tokenbatcher_http_requests_total{route="embeddings",code="400",worker="0"} 1',
        'tokenbatcher_upstream_requests_total{name="up",worker="0",code="200"} 1',
        'tokenbatcher_upstream_seconds_count{name="up",worker="0"} 1',
        'tokenbatcher_input_tokens_bucket{name="up",worker="0",le="4"} 2',
        'tokenbatcher_breaker_state{name="up",worker="0"} 0', 'tokenbatcher_retries_total{name="up",worker="0"} 0',
        'tokenbatcher_bisections_total{name="up",worker="0"} 0',
        'tokenbatcher_info{version="0.1.0",auth="passthrough"} 1' } do
        assert.truthy(text:find("\n" .. line .. "\n", 1, true) or text:find("^" .. line .. "\n"), line .. "\n" .. text)
      end
      local seen = {}
      for name in text:gmatch "# TYPE (%S+)" do
        assert.is_nil(seen[name], name)
        seen[name] = true
      end
    end)
  end)

  it("/health sees what is stuck in any worker, and how long it has been since it said so", function()
    helper.run({ health = { oldest_queued_s = 5 }, batch = { max_wait_ms = 60000 } }, { helper.upstream(answering) },
      function(gateway)
        local asking = tb.spawn(function() return (helper.handle(gateway, ask "a")) end)
        tb.sleep(1)
        local snapshot = snapshots.take(gateway)
        assert.equal(200, (pages.health(gateway, read_of { snapshot })))
        tb.sleep(4.5)
        local status, _, text = pages.health(gateway, read_of { snapshot })
        assert.equal(503, status)
        assert.equal('{"status":"stuck","oldest_queued_s":5.500,"oldest_running_s":0.000}\n', text)
        asking:await()
        status, _, text = pages.health(gateway, read_of { snapshots.take(gateway) })
        assert.equal(200, status)
        assert.equal('{"status":"ok","oldest_queued_s":0.000,"oldest_running_s":0.000}\n', text)
      end)
  end)

  it("/ready is 503 when no worker has an upstream that it would call", function()
    local upstream = helper.upstream(answering)
    helper.run({}, { upstream }, function(gateway)
      local closed = snapshots.take(gateway)
      upstream.state = "open"
      local open = snapshots.take(gateway)
      assert.equal(200, (pages.ready(gateway, read_of { open, closed })))
      assert.equal(503, (pages.ready(gateway, read_of { open, open })))
    end)
  end)

  it("/status is JSON of workers and upstreams, without a secret", function()
    helper.run({ auth = { alice = "sk-secret" } }, { helper.upstream(answering, { name = "up", has_key = true,
      secrets = { "sk-own" } }) }, function(gateway)
      local _, _, text = pages.status(gateway, read_of { snapshots.take(gateway) })
      local status = json.decode(text)
      assert.equal("table", status.auth)
      assert.equal(2048, status.workers[1].upstreams.up.max_inputs)
      assert.same({ 101 }, { unpack(status.workers[1].pids) })
      assert.is_nil(text:find "sk%-" or text:find "alice")
    end)
  end)

  it("a histogram's buckets are cumulative", function()
    local line = counts.of_line()
    for _, value in ipairs { 0.5, 1, 3, 9000 } do counts.observe(line.tokens, counts.TOKENS, value) end
    assert.same({ 2, 3 }, { line.tokens.buckets[1], line.tokens.buckets[2] })
    assert.equal(3, line.tokens.buckets[#counts.TOKENS])
    assert.same({ 4, 9004.5 }, { line.tokens.count, line.tokens.sum })
  end)
end)
