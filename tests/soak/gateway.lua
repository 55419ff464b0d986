-- The example gateway for long: SOAK_SECONDS (60) with 1, 2 and 4 workers and four before one,
-- the same with an upstream that keeps failing, the same with HUP after HUP; then
-- SOAK_REQUESTS (1,000,000) requests, every answer checked, during which no worker may grow.
-- usage: luajit tests/soak/gateway.lua

local nginx = dofile "tests/nginx/server.lua"

local SECONDS = tonumber(os.getenv "SOAK_SECONDS") or 60
local REQUESTS = tonumber(os.getenv "SOAK_REQUESTS") or 1000000
local LONGEST_S = 36000
local OPTIONS = "batch_timeout_s = 0.002, max_batch_size = 64"

local driver, upstream

-- Begin load. @return function  that waits for its end and returns the counts
local function load(gateway, stop, clients)
  local wait = driver:begin(([[
    local driver = dofile "%s/tests/nginx/driver.lua"
    progress = { sent = 0 }
    return driver.text(driver.load({ port = %d, clients = %d, keeps = %s, stop = function() %s end }, progress))
  ]]):format(nginx.root, gateway.port, clients or 200, tostring(not clients), stop), LONGEST_S)
  return function()
    local text, count = wait(), {}
    for name, n in text:gmatch "(%a+) (%d+)" do count[name] = tonumber(n) end
    count.text = text
    return count
  end
end

local function for_seconds(s)
  return ("return ngx.now() > %.3f"):format(tonumber(nginx.output_of "date +%s.%N") + s)
end

local function resident_kb(pid)
  return tonumber(nginx.read("/proc/" .. pid .. "/status"):match "VmRSS:%s+(%d+)")
end

local function steady()
  upstream:get "/behave?as=well"
  for _, given in ipairs { { workers = 1 }, { workers = 2 }, { workers = 4 }, { workers = 4, shared = "yes" } } do
    local gateway = nginx.gateway { upstream = upstream.url, workers = given.workers, shared = given.shared,
      options = OPTIONS }
    local count = load(gateway, for_seconds(SECONDS))()
    gateway:stop()
    print(("%d worker(s)%s: %s"):format(given.workers, given.shared and " before one that batches" or "", count.text))
    assert(count.sent == count.answered and count.sent > 0)
  end
end

local function sent_so_far()
  return tonumber(driver:eval "return progress and progress.sent or 0")
end

-- Until so many requests have been sent, or the load is over.
local function wait_for_sent(n, end_s)
  nginx.wait_until(n .. " requests", function()
    return sent_so_far() >= n or os.time() >= (end_s or math.huge)
  end, LONGEST_S)
end

-- Whatever the upstream does, every request has an answer, and every answer that says 200 is right.
local function faults()
  local gateway = nginx.gateway { upstream = upstream.url, workers = 2, config = "breaker = { open_s = 0.2 }",
    options = OPTIONS .. ", inference_timeout_s = 0.2" }
  local wait = load(gateway, for_seconds(SECONDS))
  local until_s = os.time() + SECONDS
  while os.time() < until_s do
    for _, as in ipairs { "failing", "half", "short", "busy", "slow", "well" } do
      upstream:get("/behave?as=" .. as)
      wait_for_sent(sent_so_far() + (as == "well" and 5000 or 500), until_s)
    end
  end
  upstream:get "/behave?as=well"
  local count = wait()
  gateway:stop()
  print("failing upstream: " .. count.text)
  assert(count.broken == 0 and count.refused == 0 and count.sent == count.answered + count.wrong)
  assert(count.liar == 0, "somebody got another's vector")
  assert(count.answered > 0)
end

-- Two workers, and none of those of before.
local function has_changed(gateway, before)
  local workers = gateway:workers()
  for _, pid in ipairs(workers) do
    if before[pid] then return false end
  end
  return #workers == 2
end

local function reloads()
  local gateway = nginx.gateway { upstream = upstream.url, workers = 2, options = OPTIONS }
  local wait = load(gateway, for_seconds(SECONDS), 100)
  local until_s, n = os.time() + SECONDS - 2, 0
  while os.time() < until_s do
    local before = {}
    for _, pid in ipairs(gateway:workers()) do before[pid] = true end
    gateway:signal "HUP"
    n = n + 1
    nginx.wait_until("a new generation of workers", function() return has_changed(gateway, before) end)
  end
  local count = wait()
  nginx.wait_until("old workers to leave", function() return #gateway:workers() == 2 end)
  gateway:stop()
  print(("%d reloads: %s"):format(n, count.text))
  assert(count.sent == count.answered)
end

local function memory()
  local gateway = nginx.gateway { upstream = upstream.url, workers = 1, options = OPTIONS }
  local wait = load(gateway, ("return progress.sent >= %d"):format(REQUESTS))
  local worker = gateway:workers()[1]
  wait_for_sent(math.ceil(REQUESTS / 5))
  local early_kb = resident_kb(worker)
  wait_for_sent(REQUESTS)
  local count = wait()
  local late_kb = resident_kb(worker)
  gateway:stop()
  print(("%s; resident %d KB at a fifth, %d KB at the end"):format(count.text, early_kb, late_kb))
  assert(count.sent == count.answered)
  assert(late_kb < early_kb * 1.25 + 4096, "memory grows")
end

local problem = nginx.missing()
if problem then
  print("skipped: " .. problem)
  os.exit(0)
end

local ok, err = xpcall(function()
  driver, upstream = nginx.start {}, nginx.upstream()
  steady()
  faults()
  reloads()
  memory()
end, debug.traceback)
nginx.stop_all()
if not ok then error(err, 0) end
