-- A job of a million lines through tests/http/job_server.lua: an outage a minute, overload, broken connections, and
-- kill -9 ten times, each time gone on with --resume. Every line must be answered once, no more be paid for twice than
-- was cut off or under way at a kill, and memory must not grow with the lines.
--
-- usage: luajit tests/soak/jobs.lua [LINES] [OUTAGE_EVERY_S] [OUTAGE_S]      (environment: B, the build folder)

local http = require "socket.http"
local json = require("tokenbatcher").json

local B = os.getenv "B" or "build"
local LINES, EVERY_S, OUTAGE_S = tonumber(arg[1] or 1e6), tonumber(arg[2] or 60), tonumber(arg[3] or 5)
local KILLS, SLOTS, BATCH = 10, 16, 32
local GROWTH, SPARE_KB = 1.5, 16384 -- the last run beside the first

local SCRIPT = [[
local tb = require "tokenbatcher"
KEPT = newproxy(true)
getmetatable(KEPT).__gc = function()
  for line in io.lines "/proc/self/status" do
    local kb = line:match "^VmHWM:%%s*(%%d+)"
    if kb then io.stderr:write("peak ", kb, "\n") end
  end
end
return { max_batch_size = %d, max_concurrent_batches = %d, batch_timeout_s = 0.01,
  inference_fn = tb.backend.openai { base_url = %q, model = "m", pause_after = 1, backoff_s = 0.05,
    max_backoff_s = 2, probe_s = 0.2, max_probe_s = 2, ignore = { "n" } } }
]]

local function output_of(command)
  local pipe = assert(io.popen(command))
  local text = pipe:read "*a"
  pipe:close()
  return (text:gsub("\n$", ""))
end

local folder = output_of "mktemp -d"
local function path(name) return folder .. "/" .. name end

local function write(name, text)
  local file = assert(io.open(path(name), "wb"))
  file:write(text)
  file:close()
end

local function read(name)
  local file = assert(io.open(path(name), "rb"))
  local text = file:read "*a"
  file:close()
  return text
end

local function start_provider()
  local options = ("outage_every_s=%g outage_s=%g busy=0.01 reset=0.01 cut=0.01 drip=0.01 delay_ms=2"):format(EVERY_S,
    OUTAGE_S)
  local pipe = assert(io.popen(("exec luajit tests/http/job_server.lua %s %s"):format(path "ledger", options)))
  local port, control, pid = pipe:read("*n", "*n", "*n")
  assert(port and control and pid, "the provider did not start")
  return { url = ("http://127.0.0.1:%d/v1"):format(port), control = ("http://127.0.0.1:%d"):format(control), pid = pid,
    pipe = pipe } -- kept: to collect it is to wait for the provider's end
end

local function ask(provider, what)
  return json.decode((assert(http.request(provider.control .. what))))
end

-- One run; the provider kills it once it was paid for so many (0: never). @return its exit status, its peak in KB
local function run(provider, at)
  local kill = at > 0 and ("curl -s -o %s %s/kill/$$/%d; "):format(path "killed", provider.control, at) or ""
  os.execute(([[sh -c '%sexec %s/tokenbatcher run %s --input %s --output %s --resume' 2>%s; echo $? >%s]])
    :format(kill, B, path "script.lua", path "in.jsonl", path "out.jsonl", path "err", path "status"))
  return tonumber(read "status"), tonumber(read("err"):match "peak (%d+)")
end

-- Is each line answered, once, in order?
local function flaw()
  local n = 0
  for line in io.lines(path "out.jsonl") do
    n = n + 1
    local index, id = line:match '^{"index":(%d+),"result":%[(%d+),0%.5%]}$'
    if tonumber(index) ~= n or tonumber(id) ~= n then return ("line %d is %s"):format(n, line) end
  end
  if n ~= LINES then return ("%d lines of %d"):format(n, LINES) end
end

local function fail(...)
  io.stderr:write("jobs.lua: ", ..., "\n", read "err")
  os.exit(1)
end

-- What a run of a tenth takes, without kills: what memory is measured by.
local function write_input(name, lines)
  local file = assert(io.open(path(name), "wb"))
  for i = 1, lines do file:write(('{"n":%d,"text":"line %d of the input"}\n'):format(i, i)) end
  file:close()
end

local provider = start_provider()
write("script.lua", SCRIPT:format(BATCH, SLOTS, provider.url))
write_input("in.jsonl", math.ceil(LINES / 10))
local began = ask(provider, "/stats").now_s
local status, first_kb = run(provider, 0)
if status ~= 0 then fail("the first tenth ended with ", status) end

write_input("in.jsonl", LINES) -- lines appended to the input are new work
local killed, last_kb = 0
for i = 1, KILLS do
  status = run(provider, math.floor(LINES * (0.1 + 0.9 * i / (KILLS + 1))))
  if status == 137 then killed = killed + 1 end
end
status, last_kb = run(provider, 0)
if status ~= 0 then fail("the job ended with ", status) end

local problem, paid, seen = flaw(), ask(provider, "/ledger"), ask(provider, "/stats")
os.execute("kill " .. provider.pid)
print(("%d lines in %.0f s, %d outages of %g s, %d times killed; %d requests (%d busy, %d reset, %d inputs cut off)")
  :format(LINES, seen.now_s - began, seen.outages, OUTAGE_S, killed, seen.requests, seen.busy, seen.resets, seen.cut))
print(("paid %d, of them twice %d: %d cut off, %d under way at a kill (at most %d); peak %d KB, of a tenth %d KB")
  :format(paid.paid, paid.twice, seen.cut, paid.twice - seen.cut, KILLS * SLOTS * BATCH, last_kb, first_kb))
if problem then fail(problem) end
if killed ~= KILLS then fail("killed ", killed, " times") end
if paid.distinct ~= LINES then fail("paid for ", paid.distinct, " lines") end
if paid.twice - seen.cut > KILLS * SLOTS * BATCH then fail "paid twice for more than was under way" end
if last_kb > GROWTH * first_kb + SPARE_KB then fail "memory grew with the lines" end
os.execute("rm -rf " .. folder)
