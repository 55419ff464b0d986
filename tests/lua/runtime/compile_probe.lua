-- Run by compile_spec.lua in a LuaJIT of its own: puts records through the hot paths and
-- prints what the compiler did, a line each:
--   trace FILE:LINE          one was made that begins there
--   abort FILE:LINE REASON   recording stopped there
-- usage: compile_probe.lua submit|coroutines|simulate

local vmdef = require "jit.vmdef"
local util = require "jit.util"
local tb = require "tokenbatcher"

local lines = {}

local function place(func, pc)
  local info = util.funcinfo(func, pc)
  return info.source and info.source:gsub("^@", "") .. ":" .. info.currentline or "C"
end

local function reason(code, detail)
  local text = vmdef.traceerr[code] or "?"
  if type(detail) == "number" and text:find("%d", 1, true) then
    local name = vmdef.bcnames:sub(detail * 6 + 1, detail * 6 + 6):gsub(" ", "")
    if name ~= "" then return (text:gsub("%%d", name)) end
  end
  if type(detail) == "function" then detail = place(detail) end
  return (text:gsub("%%[sdp]", tostring(detail)))
end

local started_at
local function on_trace(what, _, func, pc, code, detail)
  if what == "start" then
    started_at = place(func, pc)
  elseif what == "stop" then
    lines[#lines + 1] = "trace " .. started_at
  elseif what == "abort" then
    lines[#lines + 1] = "abort " .. place(func, pc) .. " " .. reason(code, detail)
  end
end

local function echo(records)
  return records
end

local RECORD, OPTS = { text = "What is 2+2?" }, { estimated_tokens = 5 }

local WORK = {}

-- One producer: submit 256 records, read their answers; again and again.
function WORK.submit(batcher)
  local futures = {}
  for i = 1, 256 do futures[i] = false end
  for _ = 1, 400 do
    for i = 1, 256 do futures[i] = batcher:submit(RECORD, OPTS) end
    for i = 1, 256 do futures[i]:await() end
  end
end

-- 256 producers, each awaiting its own record.
function WORK.coroutines(batcher)
  local all = {}
  for i = 1, 256 do
    all[i] = tb.spawn(function()
      for _ = 1, 400 do batcher:submit(RECORD, OPTS):await() end
    end)
  end
  tb.gather(all)
end

-- A simulation, with and without a scripted policy.
local function simulate()
  local experiment = require "tokenbatcher.sim.experiment"
  for _, policy in ipairs { "fifo", "adaptive" } do
    local job = assert(experiment.new(nil, {
      arrivals = "poisson:rate=200,tokens=lognormal(5,1)", service = "0.01 + 0.00001*tokens", slo = 1, limit = 50000,
      set = {}, given = {},
    }))
    assert(experiment.run(job, { settings = {}, policy = policy }))
  end
end

jit.attach(on_trace, "trace")
if arg[1] == "simulate" then
  simulate()
else
  tb.run(function()
    local batcher = tb.TokenBatcher { inference_fn = echo, policy = "eager" }
    batcher:start()
    WORK[arg[1]](batcher)
    batcher:stop()
  end)
end
jit.attach(on_trace)
print(table.concat(lines, "\n"))
