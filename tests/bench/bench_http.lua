-- Requests to tests/http/fault_server.lua: through bare libcurl (bench_http.c), through
-- tb.http one after the other and 32 at once, and as records in batches of 64 through the
-- openai backend. The server is one process on the same machine and bounds them all.
-- usage: luajit tests/bench/bench_http.lua      (environment: B, the build folder)

package.path = package.path .. ";./?.lua"
local tb = require "tokenbatcher"
local W = require "tests.lua.http_helper"

local B = os.getenv "B" or "build"
local REQUESTS, AT_ONCE, IN_A_BATCH = 4000, 32, 64
local BODY = '{"model":"m","input":["What is 2+2?"]}'
local HEADERS = { ["Content-Type"] = "application/json" }

local function ask(url)
  assert(tb.http.post(url, { body = BODY, headers = HEADERS }).status == 200)
end

local function one_by_one(url)
  local took = {}
  for i = 1, REQUESTS do
    local started = tb.now()
    ask(url)
    took[i] = tb.now() - started
  end
  table.sort(took)
  return took[#took / 2] * 1e6
end

local function at_once(url)
  local started, next_i, all = tb.now(), 0, {}
  local function worker()
    while next_i < REQUESTS do
      next_i = next_i + 1
      ask(url)
    end
  end
  for i = 1, AT_ONCE do all[i] = tb.spawn(worker) end
  local _, errs = tb.gather(all)
  assert(next(errs) == nil)
  return REQUESTS / (tb.now() - started)
end

local function batched(base_url)
  local batcher = tb.TokenBatcher {
    inference_fn = tb.backend.openai { base_url = base_url, model = "m" },
    max_batch_size = IN_A_BATCH, max_concurrent_batches = 2,
  }
  batcher:start()
  local records = {}
  for i = 1, REQUESTS do records[i] = "What is 2+2?" end
  local started = tb.now()
  local _, errs = tb.gather(batcher:submit_batch(records))
  local took = tb.now() - started
  assert(next(errs) == nil)
  batcher:stop()
  return REQUESTS / took
end

local server = W.server()
local url = server.url .. "/ok/v1/embeddings"
local pipe = io.popen(("%s/tests/bench_http '%s' '%s' %d"):format(B, url, BODY, REQUESTS))
io.write(pipe:read "*a")
pipe:close()
local ok, message = pcall(tb.run, function()
  ask(url)
  print(("http_request_us_p50 %.1f us"):format(one_by_one(url)))
  print(("http_requests_per_s %.0f"):format(at_once(url)))
  print(("http_records_per_s %.0f"):format(batched(server.url .. "/ok/v1")))
end)
server.stop() -- first: it would outlive an error
assert(ok, message)
