-- HTTP under load: requests of every kind, most answered, some failing, some cancelled.
-- Every answer is checked; neither memory nor descriptors may grow.
-- usage: luajit http.lua [requests]     (default 100,000)

package.path = package.path .. ";./?.lua"
local H = require "tests.lua.helper"
local tb = require "tokenbatcher"
local W = require "tests.lua.http_helper"

local REQUESTS, WORKERS = tonumber(arg and arg[1]) or 100000, 32
local GUARD_S = 1800

local resident_kb = dofile "tests/soak/resident.lua"

local server = W.server(GUARD_S)
local outcomes = {}

local function count(name) outcomes[name] = (outcomes[name] or 0) + 1 end

local function code_of(...)
  local response, err = ...
  return response and response.status or err.code
end

-- Under inference_timeout_s, so that the request is cancelled.
local impatient = tb.TokenBatcher {
  batch_timeout_s = 0, inference_timeout_s = 0.002, max_concurrent_batches = WORKERS, policy = "eager", log = print,
  inference_fn = function(records)
    tb.http.get(server.url .. "/hang")
    return records
  end,
}

local function ask(i)
  if i % 101 == 0 then return count(code_of(tb.http.get(server.url .. "/diebody"))) end
  if i % 103 == 0 then return count(code_of(tb.http.get(server.url .. "/hang", { timeout_s = 0.003 }))) end
  if i % 107 == 0 then return count(code_of(tb.http.get(server.url .. "/huge-3000", { max_response_bytes = 1000 }))) end
  if i % 109 == 0 then return count(code_of(tb.http.get(server.url .. "/goodbye"))) end
  if i % 113 == 0 then return count(select(2, impatient:submit(i):await()).code) end
  local response = assert(tb.http.post(server.url .. "/echo", { body = "n" .. i }))
  assert(response.body:find('"body":"n' .. i .. '"', 1, true), "a request got another's answer")
  count "answered"
end

local early_kb, early_descriptors, started
local ok, message = pcall(tb.run, function()
  impatient:start()
  started = tb.now()
  local next_i = 0
  local function worker()
    while next_i < REQUESTS do
      next_i = next_i + 1
      ask(next_i)
    end
  end
  local all = {}
  for i = 1, WORKERS do all[i] = tb.spawn(worker) end
  while next_i < REQUESTS / 5 do tb.sleep(0.01) end
  collectgarbage()
  early_kb, early_descriptors = resident_kb(), H.open_descriptors()
  local _, errs = tb.gather(all)
  local _, first_err = next(errs)
  assert(not first_err, first_err)
  impatient:stop()
  collectgarbage()
  local late_kb, late_descriptors = resident_kb(), H.open_descriptors()
  local names = {}
  for name, n in pairs(outcomes) do names[#names + 1] = name .. " " .. n end
  table.sort(names)
  print(("%d requests in %.1f s: %s; resident %d KB at a fifth, %d KB at the end; descriptors %d, then %d")
    :format(REQUESTS, tb.now() - started, table.concat(names, ", "), early_kb, late_kb, early_descriptors,
      late_descriptors))
  assert(late_kb < early_kb * 1.25 + 4096, "memory grows")
  assert(late_descriptors <= early_descriptors + WORKERS, "descriptors leak")
end)
server.stop() -- first: it would outlive an error
assert(ok, message)
