-- The queue before chat for long, in front of a made-up server of streams with eight places (tests/nginx/places.lua):
-- what a quiet client waits beside a flood, what the queue costs in throughput, clients that leave, reloads and ends
-- under load, and shares over workers that see one key each.
-- usage: luajit tests/soak/queue.lua [flood|throughput|leaving|reloads|shares]
-- environment: SOAK_ABORTS (10,000), SOAK_ROUNDS (5)

local json = require "tokenbatcher.base.json"
local nginx = dofile "tests/nginx/server.lua"

local ABORTS = tonumber(os.getenv "SOAK_ABORTS") or 10000
local ROUNDS = tonumber(os.getenv "SOAK_ROUNDS") or 5
local LONGEST_S = 36000
local PLACES, MEAN_MS = 8, 800 -- streams at once, and how long one takes: exponentially, 2 s at most

local places, driver

local function set(how) places:get("/set?places=" .. PLACES .. "&" .. how) end
local function stats() return json.decode((places:get "/stats")) end

local function queue_config(more)
  return ('queue = { slots = %d, max_wait_s = 1000, %s }, fairness_key = "authorization"'):format(PLACES, more or "")
end

local function with_gateway(given, fn)
  given.upstream = places.url
  local gateway = nginx.gateway(given)
  local ok, err = xpcall(fn, debug.traceback, gateway)
  local log = gateway:log()
  gateway:stop()
  if not ok then error(tostring(err) .. "\n" .. log, 0) end
end

local HEAD = [[
  local S, port = dofile "%s/tests/nginx/streams.lua", %d
  local function ms() return math.min(2000, math.max(50, math.floor(-%d * math.log(1 - math.random())))) end
  local function sum_of(list) local sum = 0 for i = 1, #list do sum = sum + list[i] end return sum end
]]

local function code_of(port, code) return HEAD:format(nginx.root, port, MEAN_MS) .. code end

-- A flood of `clients` for `seconds`. @return function that waits: streams that were whole, others, their mean (s)
local function flood(port, clients, seconds)
  local wait = driver:begin(code_of(port, ([[
    local until_s, whole, other, took = ngx.now() + %d, 0, 0, 0
    S.at_once(%d, function(i)
      math.randomseed(i)
      while ngx.now() < until_s do
        local it = S.stream { port = port, key = "flood", text = "x", ms = ms() }
        ngx.update_time()
        if it.became ~= "whole" then other = other + 1
        elseif ngx.now() <= until_s then whole, took = whole + 1, took + it.total_s - it.first_s end
      end
    end)
    return whole .. " " .. other .. " " .. took / math.max(1, whole)
  ]]):format(seconds, clients)), LONGEST_S)
  return function()
    local whole, other, mean_s = wait():match "(%S+) (%S+) (%S+)"
    return tonumber(whole), tonumber(other), tonumber(mean_s)
  end
end

-- Times to the first byte of a client that asks `n` times, with half a second between. @return mean and p90, seconds
local function quiet(port, n)
  local text = driver:eval(code_of(port, ([[
    local first = {}
    for i = 1, %d do
      local it = S.stream { port = port, key = "quiet", text = "y", ms = 50 }
      if it.became ~= "whole" then return "0 0 " .. it.became end
      first[i] = it.first_s
      ngx.sleep(0.2 + 0.3 * math.random())
    end
    local mean = sum_of(first) / #first
    table.sort(first)
    return mean .. " " .. first[math.ceil(0.9 * #first)] .. " whole"
  ]]):format(n)))
  local mean, p90, became = text:match "(%S+) (%S+) (%S+)"
  assert(became == "whole", text)
  return tonumber(mean), tonumber(p90)
end

local function median(list)
  table.sort(list)
  return list[math.ceil(#list / 2)]
end

-- --- beside a flood ---------------------------------------------------------------------------

local function beside_a_flood(name, more, bound_of)
  with_gateway({ config = queue_config(more) }, function(gateway)
    set "ms=800"
    local alone, beside, p90s, bounds, means = {}, {}, {}, {}, {}
    for round = 1, ROUNDS do
      alone[round] = quiet(gateway.port, 40)
      local wait = flood(gateway.port, 4 * PLACES, 30)
      nginx.wait_until("a flood", function() return stats().now >= PLACES - 1 end)
      beside[round], p90s[round] = quiet(gateway.port, 40)
      local _, other
      _, other, means[round] = wait()
      assert(other == 0, other)
      bounds[round] = bound_of(alone[round], means[round])
    end
    local first, most = median(beside), median(bounds)
    print(("%s: first byte alone %.1f ms, beside a flood %.1f ms (p90 %.1f ms), at most %.1f ms; mean stream %.0f ms")
      :format(name, 1000 * median(alone), 1000 * first, 1000 * median(p90s), 1000 * most, 1000 * median(means)))
    assert(stats().over == 0, "more than its places were upstream")
    assert(first <= most, "it has waited for too long")
  end)
end

-- --- throughput -------------------------------------------------------------------------------

-- How long `n` streams take, the same each time, by so many clients. @return seconds
local function time_of(port, clients, n)
  return tonumber((driver:eval(code_of(port, ([[
    local n, at, since = %d, 0, ngx.now()
    math.randomseed(7)
    local lengths = {}
    for i = 1, n do lengths[i] = ms() end
    S.at_once(%d, function()
      while at < n do
        at = at + 1
        assert(S.stream({ port = port, key = "k", text = "x", ms = lengths[at] }).became == "whole")
      end
    end)
    ngx.update_time()
    return ngx.now() - since
  ]]):format(n, clients)))))
end

local STREAMS = 160

local function throughput()
  with_gateway({ config = queue_config() }, function(gateway)
    local direct, queued = {}, {}
    set "ms=800"
    for round = 1, ROUNDS do
      direct[round] = time_of(places.port, PLACES, STREAMS)
      queued[round] = time_of(gateway.port, 4 * PLACES, STREAMS)
    end
    local share = median(direct) / median(queued)
    print(("throughput: %d streams in %.2f s direct, in %.2f s through the queue: %.1f %%"):format(STREAMS,
      median(direct), median(queued), 100 * share))
    assert(stats().over == 0, "more than its places were upstream")
    assert(share >= 0.95, "the queue costs too much")
  end)
end

-- --- clients that leave -----------------------------------------------------------------------

local function leaving(shared)
  with_gateway({ config = queue_config(), workers = shared == "yes" and 4 or 1, shared = shared }, function(gateway)
    set "as=held"
    driver:eval(code_of(gateway.port, ([[
      for round = 1, %d do
        S.at_once(200, function(i)
          local socket = S.begin { port = port, key = "key " .. i %% 9, text = "x" }
          if not socket then return end
          socket:settimeout(i %% 2 == 0 and 150 or i %% 7)
          socket:receive "*l"
          socket:close()
        end)
      end
    ]]):format(math.ceil(ABORTS / 200))))
    nginx.wait_until("all to be gone", function()
      local queue = nginx.queue_of(gateway)
      return queue.used == 0 and queue.waiting == 0 and stats().now == 0
    end)
    local came = stats().came
    local wait = driver:begin(code_of(gateway.port, ([[
      local whole = 0
      S.at_once(%d, function(i)
        if S.stream({ port = port, key = "after", text = "z" .. i }).became == "whole" then whole = whole + 1 end
      end)
      return whole
    ]]):format(PLACES + 1)), LONGEST_S)
    nginx.wait_until("all slots in use, and one who waits", function()
      return stats().came == came + PLACES and nginx.queue_of(gateway).waiting == 1
    end)
    places:get "/release?streams=1000"
    assert(wait() == tostring(PLACES + 1))
    nginx.wait_until("all slots free", function() return nginx.queue_of(gateway).used == 0 end)
    local queue = nginx.queue_of(gateway)
    print(("%d clients that left%s (%d of them while they streamed): %d of %d slots free"):format(ABORTS,
      shared == "yes" and ", behind four workers" or "", came, queue.slots - queue.used, PLACES))
  end)
end

-- --- reloads and ends -------------------------------------------------------------------------

local function reloads()
  with_gateway({ config = queue_config() }, function(gateway)
    set "ms=800"
    local wait = flood(gateway.port, 2 * PLACES, 30)
    local until_s, n = os.time() + 26, 0
    while os.time() < until_s do
      local before = gateway:workers()[1]
      gateway:signal "HUP"
      n = n + 1
      nginx.wait_until("an old worker that leaves, and a new one", function()
        return nginx.is_leaving(before) or not nginx.is_alive(before)
      end)
      nginx.output_of "sleep 2"
    end
    local whole, other = wait()
    print(("%d reloads: %d streams whole, %d not; %d at once upstream at most"):format(n, whole, other, stats().most))
    assert(whole > 0 and other == 0)
  end)
  for _ = 1, ROUNDS do
    with_gateway({ config = queue_config() }, function(gateway)
      set "as=held"
      local wait = driver:begin(code_of(gateway.port, [[
        local whole = 0
        S.at_once(40, function(i)
          local it = S.stream { port = port, key = "a", text = "z" .. i, ms = ms() }
          if it.became == "whole" then whole = whole + 1 end
        end)
        return whole
      ]]), LONGEST_S)
      nginx.wait_until("32 who wait", function() return nginx.queue_of(gateway).waiting == 40 - PLACES end)
      gateway:signal "QUIT"
      places:get "/release?streams=1000"
      local whole = wait()
      assert(whole == "40", whole)
    end)
  end
  print(("%d ends with 8 who streamed and 32 who waited: all of them whole"):format(ROUNDS))
end

-- --- shares over workers ----------------------------------------------------------------------

local function count(list, key, first, last)
  local n, i = 0, 0
  for word in list:gmatch "%S+" do
    i = i + 1
    if i >= first and i <= last and word == key then n = n + 1 end
  end
  return n
end

local function hold(port, key, n)
  return driver:begin(code_of(port, ([[
    S.at_once(%d, function() S.stream { port = port, key = "%s", text = "x" } end)
  ]]):format(n, key)), LONGEST_S)
end

-- The first 200 of two keys that both have 200 waiting. @param ports table  where gold and base come in
local function share_of(ports, waiting)
  set "as=held"
  local all = { hold(ports.base, "base", 200), hold(ports.gold, "gold", 200) }
  nginx.wait_until("all to wait", function() return waiting() >= 400 - PLACES end)
  local came = stats().came
  places:get "/release?streams=200"
  nginx.wait_until("200 more", function() return stats().came >= came + 200 end)
  local order = (places:get "/order")
  local gold, base = count(order, "gold", came + 1, came + 200), count(order, "base", came + 1, came + 200)
  places:get "/release?streams=100000"
  for _, wait in ipairs(all) do wait() end
  return gold, base
end

local function shares()
  local weights = "weights = { gold = 4 }, max_queue = 10000"
  with_gateway({ config = queue_config(weights), shared = "yes", workers = 1 }, function(gateway)
    local front = nginx.start { workers = 3,
      http = ("upstream batching { server unix:%s/batching.sock; keepalive 64; }"):format(gateway.folder),
      server = [[location /v1/ {
        proxy_pass http://batching; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
      }]] }
    local gold, base = share_of({ gold = gateway.port, base = front.port }, function()
      return nginx.queue_of(gateway).waiting
    end)
    front:stop()
    print(("weights 4 : 1, four workers before one that batches, gold by one of them, base by the others: %d : %d")
      :format(gold, base))
    assert(math.abs(gold - 160) <= 2)
  end)
  local half = queue_config(weights):gsub("slots = " .. PLACES, "slots = " .. PLACES / 2)
  with_gateway({ config = half }, function(first)
    with_gateway({ config = half }, function(second)
      local gold, base = share_of({ gold = first.port, base = second.port }, function()
        return nginx.queue_of(first).waiting + nginx.queue_of(second).waiting
      end)
      print(("the same with two queues, half of the slots in each: %d : %d"):format(gold, base))
    end)
  end)
end

local problem = nginx.missing()
if problem then
  print("skipped: " .. problem)
  os.exit(0)
end

local PARTS = {
  { "flood", function()
    beside_a_flood("no reserve", "", function(alone, stream) return alone + 1.2 * stream / PLACES end)
    beside_a_flood("one slot in reserve", "reserve = 1", function(alone) return 1.15 * alone end)
  end },
  { "throughput", throughput }, { "leaving", function()
    leaving "no"
    leaving "yes"
  end }, { "reloads", reloads }, { "shares", shares },
}

local ok, err = xpcall(function()
  places, driver = nginx.places(), nginx.start {}
  for _, part in ipairs(PARTS) do
    if not arg[1] or arg[1] == part[1] then part[2]() end
  end
end, debug.traceback)
nginx.stop_all()
if not ok then error(err, 0) end
