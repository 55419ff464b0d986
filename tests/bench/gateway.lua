-- The gateway measured with wrk: what batching costs a handler, what it gains in front of a
-- real model, and what one batching worker gains for four.
-- usage: luajit tests/bench/gateway.lua [PLOT.svg]
-- environment: SECONDS_EACH (5), ROUNDS (5) of what batching costs, PARTS (cost workers model),
-- EMBEDDINGS_SERVER: a folder with server.js, by default ../shared/tools/embeddings-server

local nginx = dofile "tests/nginx/server.lua"

local SECONDS = tonumber(os.getenv "SECONDS_EACH") or 5
local PLOT = arg and arg[1]
local REAL = os.getenv "EMBEDDINGS_SERVER" or "../shared/tools/embeddings-server"

-- The same handler twice: through a batcher, and straight on.
local HANDLERS = [[
  lua_package_path "$ROOT/lua/?.lua;$ROOT/lua/?/init.lua;;";
  init_worker_by_lua_block {
    cjson, tb, vectors = require "cjson.safe", require "tokenbatcher", require "tokenbatcher.gateway.vectors"
    if "$UPSTREAM" ~= "none" then
      upstream = require("tokenbatcher.gateway.upstream").new("bench", { url = "$UPSTREAM" })
    end
    function call(texts)
      if not upstream then
        ngx.sleep(0.002)
        local results = {}
        for i = 1, #texts do results[i] = "[1,2,3]" end
        return results
      end
      local response = upstream:call { method = "POST", path = "/v1/embeddings", inputs = #texts,
        headers = { ["content-type"] = "application/json" }, body = cjson.encode { model = "m", input = texts } }
      return vectors.cut(response.body, #texts)
    end
    b = tb.TokenBatcher { inference_fn = call, token_estimator = function(text) return #text / 4 + 1 end, $OPTIONS }
    b:start()
    function reply(item)
      if not item then return ngx.exit(502) end
      ngx.print('{"object":"list","data":[{"object":"embedding","index":0,"embedding":', item, "}]}")
    end
    function read()
      ngx.req.read_body()
      return cjson.decode(ngx.req.get_body_data()).input
    end
    function batched() return reply((b:submit(read()):await())) end
    function straight()
      local text = read()
      return reply(call({ text })[1])
    end
  }
]]
local function handlers(which, upstream_url, options)
  local http = HANDLERS:gsub("%$(%u+)", { ROOT = nginx.root, UPSTREAM = upstream_url, OPTIONS = options or "" })
  -- the server's own lua_package_path would be a second one
  return nginx.start { own_path = true, http = http,
    server = ("location = /v1/embeddings { content_by_lua_block { %s() } }"):format(which) }
end

local function median(list)
  table.sort(list)
  return list[math.ceil(#list / 2)]
end

local function milliseconds(text)
  local number, unit = text:match "([%d.]+)(%a+)"
  return number * ({ us = 0.001, ms = 1, s = 1000 })[unit]
end

-- One run of wrk. @return {rps, p50_ms, p99_ms}
local function wrk(port, connections, kind, seconds)
  local text = nginx.output_of(("wrk -t1 -c%d -d%ds --timeout 30s --latency -s tests/bench/embeddings.lua "
    .. "http://127.0.0.1:%d -- %s 2>&1"):format(connections, seconds or SECONDS, port, kind))
  local errors = tonumber(text:match "errors (%d+)")
  if errors ~= 0 then error("wrk: " .. text) end
  return { rps = tonumber(text:match "Requests/sec:%s+([%d.]+)"), p50_ms = milliseconds(text:match "\n%s+50%%%s+(%S+)"),
    p99_ms = milliseconds(text:match "\n%s+99%%%s+(%S+)") }
end

local function row(name, r, more)
  print(("%-52s %8.0f req/s   p50 %8.1f ms   p99 %8.1f ms   %s"):format(name, r.rps, r.p50_ms, r.p99_ms, more or ""))
  io.stdout:flush()
end

-- Two servers in turn, made anew each round, since it is a matter of luck where one's memory lies; the median
-- of each figure, and of the ratios of requests/s and the differences of p99 of a round.
local function compare(make_a, make_b, connections, rounds)
  local all = { {}, {}, {} }
  local function note(i, name, value)
    all[i][name] = all[i][name] or {}
    table.insert(all[i][name], value)
  end
  for _ = 1, rounds do
    local servers, runs = { make_a(), make_b() }, {}
    for _, server in ipairs(servers) do wrk(server.port, connections, "short", 1) end
    for i, server in ipairs(servers) do
      runs[i] = wrk(server.port, connections, "short")
      for name, value in pairs(runs[i]) do note(i, name, value) end
    end
    note(3, "ratio", runs[2].rps / runs[1].rps)
    note(3, "late_ms", runs[2].p99_ms - runs[1].p99_ms)
    for _, server in ipairs(servers) do server:stop() end
  end
  for _, figures in ipairs(all) do
    for name, list in pairs(figures) do figures[name] = median(list) end
  end
  return unpack(all)
end

local ROUNDS = tonumber(os.getenv "ROUNDS") or 5
local CONNECTIONS = 200

local function cost_of_batching(upstream)
  local options = [[policy = "eager", max_batch_size = 256, max_concurrent_batches = 4]]
  for _, case in ipairs { { "2 ms asleep in the worker", "none" }, { "upstream over HTTP, 2 ms", upstream.url } } do
    local straight, batched, both = compare(function() return handlers("straight", case[2]) end,
      function() return handlers("batched", case[2], options) end, CONNECTIONS, ROUNDS)
    row(case[1] .. ", without batching", straight)
    row(case[1] .. ", batched", batched, ("x %.2f req/s, p99 %+.2f ms (budget: x 1, +0.3 ms)"):format(both.ratio,
      both.late_ms))
  end
end

local function across_workers(upstream)
  for _, case in ipairs { { "1 worker", 1 }, { "4 workers, a queue each", 4 },
    { "4 workers before one that batches", 4, "yes" } } do
    local gateway = nginx.gateway { upstream = upstream.url, workers = case[2], shared = case[3],
      options = "batch_timeout_s = 0.002, max_batch_size = 64" }
    wrk(gateway.port, 100, "short", 1)
    upstream:get "/behave?ms=2"
    local r = wrk(gateway.port, 100, "short")
    local counts = upstream:get "/stats"
    local density = counts:match '"inputs":(%d+)' / counts:match '"requests":(%d+)'
    row(case[1], r, ("%.1f inputs a call"):format(density))
    gateway:stop()
  end
end

-- The real model, in a copy of its folder.
local function start_model()
  if not nginx.succeeds("test -f " .. REAL .. "/server.js") then return nil, "skipped: no " .. REAL end
  if not nginx.succeeds "command -v npm" then return nil, "skipped: no npm" end
  local folder = nginx.output_of "mktemp -d"
  os.execute(("cp %s/* %s/ && cd %s && npm install --no-audit --no-fund >npm.log 2>&1"):format(REAL, folder, folder))
  local port = math.random(20000, 32000)
  local pid = nginx.output_of(("cd %s && { node server.js --port %d >log 2>&1 & echo $!; }"):format(folder, port))
  nginx.wait_until("the model", function()
    return nginx.succeeds(("curl -sf -m 2 http://127.0.0.1:%d/health"):format(port))
  end)
  return { url = "http://127.0.0.1:" .. port, stop = function()
    os.execute(("kill %s; rm -rf %s"):format(pid, folder))
  end }
end

local function plot(points)
  local folder = nginx.output_of "mktemp -d"
  local data = assert(io.open(folder .. "/data", "w"))
  for _, p in ipairs(points) do data:write(table.concat(p, " "), "\n") end
  data:close()
  local script = assert(io.open(folder .. "/plot", "w"))
  script:write(([[
    set terminal svg size 720,360 background "white"
    set output "%s"
    set multiplot layout 1,2
    set logscale x 2
    set grid
    set key right bottom
    set xlabel "clients at once"
    set xtics ("1" 1, "4" 4, "16" 16, "64" 64)
    set xrange [0.9:80]
    set yrange [0:*]
    set ylabel "requests/s"
    plot "%s/data" using 1:2 with linespoints title "one by one", "" using 1:4 with linespoints title "coalesced"
    set ylabel "p99, ms"
    set key left top
    plot "%s/data" using 1:3 with linespoints title "one by one", "" using 1:5 with linespoints title "coalesced"
  ]]):format(PLOT, folder, folder))
  script:close()
  if nginx.succeeds "command -v gnuplot" then
    os.execute("gnuplot " .. folder .. "/plot")
  else
    print "no plot: no gnuplot"
  end
  os.execute("rm -rf " .. folder)
end

-- Inputs a call since `before`, of the model's own count.
local function stats(model)
  local text = nginx.output_of(("curl -s -m 10 %s/stats"):format(model.url))
  return { batches = text:match '"batches":(%d+)', inputs = text:match '"inputs":(%d+)' }
end

-- One call after another: what an earlier run has left is answered before this is.
local function wait_until_idle(model)
  nginx.output_of(([[curl -s -m 120 -d '{"model":"use-lite-512","input":"idle?"}' %s/v1/embeddings]]):format(model.url))
end

local function measured(model, server, clients, kind, seconds)
  wait_until_idle(model)
  local before = stats(model)
  local r = wrk(server.port, clients, kind, seconds)
  local after = stats(model)
  r.density = ("%.1f inputs a call"):format((after.inputs - before.inputs) / (after.batches - before.batches))
  return r
end

local function gain(model)
  local straight = handlers("straight", model.url)
  local options = "batch_timeout_s = 0.003, max_batch_size = 32"
  local coalesced = handlers("batched", model.url, options)
  local points = {}
  for _, clients in ipairs { 1, 4, 16, 64 } do
    local a, b = measured(model, straight, clients, "short"), measured(model, coalesced, clients, "short")
    row(("short texts, %2d clients, one by one"):format(clients), a)
    row(("short texts, %2d clients, coalesced"):format(clients), b, ("x %.1f, %s"):format(b.rps / a.rps, b.density))
    points[#points + 1] = { clients, a.rps, a.p99_ms, b.rps, b.p99_ms }
  end
  local bucketed = handlers("batched", model.url, options
    .. ', policy = "length_bucketed", cost_model = "padded", target_batch_tokens = 600')
  for _, case in ipairs { { "one by one", straight }, { "coalesced, fifo", coalesced },
    { "length_bucketed, padded", bucketed } } do
    local r = measured(model, case[2], 32, "mixed", 2 * SECONDS)
    row("1 in 32 long, 32 clients, " .. case[1], r, r.density)
  end
  for _, server in ipairs { straight, coalesced, bucketed } do server:stop() end
  if PLOT then plot(points) end
end

local problem = nginx.missing() or not nginx.succeeds "command -v wrk" and "no wrk"
if problem then
  print("skipped: " .. problem)
  os.exit(0)
end

local function in_front_of_model()
  local model, why = start_model()
  if not model then return print(why) end
  local ok, err = pcall(gain, model)
  model.stop()
  if not ok then error(err, 0) end
end

local function main()
  local parts = os.getenv "PARTS" or "cost workers model"
  local upstream = nginx.upstream()
  if parts:find "cost" then
    print(("What batching costs: one worker, %d connections, %d s each, median of %d pairs of fresh servers"):format(
      CONNECTIONS, SECONDS, ROUNDS))
    cost_of_batching(upstream)
  end
  if parts:find "workers" then
    print "\nAcross workers: the example gateway, upstream answering after 2 ms, 100 connections"
    across_workers(upstream)
  end
  upstream:stop()
  if parts:find "model" then
    print "\nIn front of a real embedding model on the CPU (one call at a time)"
    in_front_of_model()
  end
end

local ok, err = xpcall(main, debug.traceback)
nginx.stop_all()
if not ok then error(err, 0) end
