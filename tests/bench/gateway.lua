-- The gateway measured with wrk: what batching costs a handler, what it gains in front of a
-- real model, and what one batching worker gains for four.
-- usage: luajit tests/bench/gateway.lua [PLOT.svg]
-- environment: SECONDS_EACH (5), PARTS (cost floats workers model),
-- BASE: another checkout, built, whose example gateway runs beside this one's, in turn,
-- EMBEDDINGS_SERVER: a folder with server.js, by default ../shared/tools/embeddings-server

local nginx = dofile "tests/nginx/server.lua"

local SECONDS = tonumber(os.getenv "SECONDS_EACH") or 5
local PLOT = arg and arg[1]
local BASE = os.getenv "BASE"
local REAL = os.getenv "EMBEDDINGS_SERVER" or "../shared/tools/embeddings-server"

-- The same handler twice: through a batcher, and straight on.
local HANDLERS = [[
  lua_package_path "$ROOT/lua/?.lua;$ROOT/lua/?/init.lua;;";
  init_worker_by_lua_block {
    cjson, tb = require "cjson.safe", require "tokenbatcher"
    local vectors = require "tokenbatcher.gateway.vectors"
    local up = "$UPSTREAM" ~= "none" and require("tokenbatcher.gateway.upstream").new("bench", { url = "$UPSTREAM" })
    function call(texts)
      if up then
        local body = cjson.encode { model = "use-lite-512", input = texts }
        local response = up:call { path = "/v1/embeddings", body = body }
        return response and vectors.cut(response.body, #texts) or {}
      end
      ngx.sleep(0.002)
      local results = {}
      for i = 1, #texts do results[i] = "[1,2,3]" end
      return results
    end
    b = tb.TokenBatcher { inference_fn = call, token_estimator = function(text) return #text / 4 + 1 end, $OPTIONS }
    b:start()
    function reply(vector)
      if not vector then return ngx.exit(502) end
      ngx.print('{"object":"list","data":[{"object":"embedding","index":0,"embedding":', vector, "}]}")
    end
    function read()
      ngx.req.read_body()
      return cjson.decode(ngx.req.get_body_data()).input
    end
    function batched() return reply((b:submit(read()):await())) end
    function straight() return reply(call({ read() })[1]) end
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

-- Several runs of two servers in turn; the median of each figure.
local function compare(a, b, connections, rounds)
  local all = { { rps = {}, p50_ms = {}, p99_ms = {} }, { rps = {}, p50_ms = {}, p99_ms = {} } }
  wrk(a.port, connections, "short", 1)
  wrk(b.port, connections, "short", 1)
  for _ = 1, rounds do
    for i, server in ipairs { a, b } do
      for name, value in pairs(wrk(server.port, connections, "short")) do table.insert(all[i][name], value) end
    end
  end
  local out = {}
  for i = 1, 2 do
    out[i] = {}
    for name, list in pairs(all[i]) do out[i][name] = median(list) end
  end
  return out[1], out[2]
end

local function verdict(straight, batched)
  return ("%+.1f %% req/s, p99 %+.1f ms (budget: -5 %%, +1 ms)"):format((batched.rps / straight.rps - 1) * 100,
    batched.p99_ms - straight.p99_ms)
end

local function cost_of_batching(upstream)
  local options = [[policy = "eager", max_batch_size = 32, max_concurrent_batches = 64]]
  for _, case in ipairs { { "2 ms asleep in the worker", "none" }, { "upstream over HTTP, 2 ms", upstream.url } } do
    local straight, batched = handlers("straight", case[2]), handlers("batched", case[2], options)
    local a, b = compare(straight, batched, 100, 3)
    straight:stop()
    batched:stop()
    row(case[1] .. ", without batching", a)
    row(case[1] .. ", batched", b, verdict(a, b))
  end
end

local WORKERS = { { "1 worker", 1 }, { "4 workers, a queue each", 4 },
  { "4 workers before one that batches", 4, "yes" } }

local function gateway_of(upstream, case, root)
  return nginx.gateway { upstream = upstream.url, workers = case[2], shared = case[3], root = root,
    options = "batch_timeout_s = 0.002, max_batch_size = 64" }
end

local function across_workers(upstream)
  for _, case in ipairs(WORKERS) do
    local gateway = gateway_of(upstream, case)
    wrk(gateway.port, 100, "short", 1)
    upstream:get "/behave?ms=2"
    local r = wrk(gateway.port, 100, "short")
    local counts = upstream:get "/stats"
    local density = counts:match '"inputs":(%d+)' / counts:match '"requests":(%d+)'
    row(case[1], r, ("%.1f inputs a call"):format(density))
    gateway:stop()
  end
end

-- The same beside another checkout's, in turn.
local function beside_base(upstream)
  for _, case in ipairs(WORKERS) do
    local base, ours = gateway_of(upstream, case, BASE), gateway_of(upstream, case)
    local a, b = compare(base, ours, 100, 5)
    base:stop()
    ours:stop()
    row(case[1] .. ", the other", a)
    row(case[1] .. ", this", b, ("x %.2f"):format(b.rps / a.rps))
  end
end

-- --- vectors as they come -------------------------------------------------------------

local INPUTS, FLOATS = 32, 1536

local function answer_of_floats()
  local items = {}
  for i = 1, INPUTS do
    local numbers = {}
    for k = 1, FLOATS do numbers[k] = ("%.9g"):format((math.random() - 0.5) / 10) end
    items[i] = ('{"object":"embedding","index":%d,"embedding":[%s]}'):format(i - 1, table.concat(numbers, ","))
  end
  return '{"object":"list","data":[' .. table.concat(items, ",") .. '],"model":"m","usage":{"total_tokens":9}}'
end

-- Milliseconds that fn takes of the processor, the least of several runs.
local function milliseconds_of(fn)
  local least = math.huge
  for _ = 1, 7 do
    local began = os.clock()
    for _ = 1, 5 do fn() end
    least = math.min(least, (os.clock() - began) / 5 * 1000)
  end
  return least
end

local function floats()
  local cjson, vectors = require "cjson", require "tokenbatcher.gateway.vectors"
  local body = answer_of_floats()
  local raw = vectors.cut(body, INPUTS)
  local function each(fn)
    return function()
      for i = 1, INPUTS do fn(raw[i]) end
    end
  end
  local decoded = milliseconds_of(function()
    local answer = cjson.decode(body)
    for i = 1, INPUTS do cjson.encode(answer.data[i]) end
  end)
  local cut = milliseconds_of(function() vectors.cut(body, INPUTS) end)
  print(("decoded, and each encoded again by lua-cjson  %6.2f ms"):format(decoded))
  print(("cut out                                       %6.2f ms   x %.1f"):format(cut, decoded / cut))
  print(("made base64, where a server ignores that      %6.2f ms"):format(milliseconds_of(each(vectors.to_base64))))
  for i = 1, INPUTS do raw[i] = vectors.to_base64(raw[i]) end
  print(("made numbers of base64                        %6.2f ms"):format(milliseconds_of(each(vectors.to_floats))))
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
  local parts = os.getenv "PARTS" or "cost floats workers model"
  if parts:find "floats" then
    print(("An answer of %d x %d floats, what it takes of a worker"):format(INPUTS, FLOATS))
    floats()
  end
  local upstream = nginx.upstream()
  if parts:find "cost" then
    print(("\nWhat batching costs: one worker, 100 connections, %d s each, median of 3"):format(SECONDS))
    cost_of_batching(upstream)
  end
  if parts:find "workers" then
    print "\nAcross workers: the example gateway, upstream answering after 2 ms, 100 connections"
    across_workers(upstream)
    if BASE then
      print "\nThe same beside another checkout, in turn, median of 5"
      beside_base(upstream)
    end
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
