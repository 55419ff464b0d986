-- A chat job of 2,000 lines, 64 at a time, of a server that answers after 5 ms (tests/http/job_server.lua): lines a
-- second and processor time a line (user and system) of `tokenbatcher run` and of chat_client.py, which knows no
-- order, no retries and no resuming.

local B, LUAJIT = os.getenv "B" or "build", os.getenv "LUAJIT" or "luajit"
local LINES, SLOTS, DELAY_MS = 2000, 64, 5

if not pcall(require, "luv") then
  print "skipped: no Lua module luv (Debian: lua-luv): a chat job is not measured"
  return
end

local SCRIPT = [[
return { max_concurrent_batches = %d,
  inference_fn = require("tokenbatcher").backend.openai { base_url = "http://127.0.0.1:%d/v1", model = "m",
    endpoint = "chat" } }
]]

local function output_of(command)
  local pipe = assert(io.popen(command))
  local text = pipe:read "*a"
  pipe:close()
  return text
end

local folder = output_of("mktemp -d"):gsub("\n", "")

local function write(name, text)
  local file = assert(io.open(folder .. "/" .. name, "wb"))
  file:write(text)
  file:close()
  return folder .. "/" .. name
end

local lines = {}
for i = 1, LINES do lines[i] = ('{"text":"What is %d times 17? Answer with the number alone."}\n'):format(i) end
local input = write("in.jsonl", table.concat(lines))

local provider = assert(io.popen(("exec %s tests/http/job_server.lua %s/ledger delay_ms=%d"):format(LUAJIT, folder,
  DELAY_MS)))
local port, _, pid = provider:read("*n", "*n", "*n")
local script = write("script.lua", SCRIPT:format(SLOTS, port))

-- The wall clock and `times` of the shell, whose last line is what its children took: "0m1.230s 0m0.100s".
-- @return lines a second, microseconds of processor time a line
local function measure(command)
  local text = output_of(([[began=$(date +%%s%%N); { %s; } <%s >%s/out 2>%s/err
    echo $((($(date +%%s%%N) - began) / 1000)); times]]):format(command, input, folder, folder))
  local wall_us = tonumber(text:match "^%d+")
  local user_m, user_s, system_m, system_s = text:match "(%d+)m([%d.]+)s (%d+)m([%d.]+)s%s*$"
  assert(tonumber(output_of(("grep -c re: %s/out"):format(folder))) == LINES, "not all lines were answered")
  return LINES / wall_us * 1e6, 1e6 * (user_m * 60 + user_s + system_m * 60 + system_s) / LINES
end

local rate, cpu = measure(("%s/tokenbatcher run %s"):format(B, script))
print(("chat_job_lines_per_s %.0f"):format(rate))
print(("chat_job_us_per_line %.0f"):format(cpu))
if output_of "command -v python3" ~= "" then
  local python_rate, python_cpu = measure(("python3 tests/bench/chat_client.py %d %d"):format(port, SLOTS))
  print(("chat_python_lines_per_s %.0f"):format(python_rate))
  print(("chat_python_us_per_line %.0f"):format(python_cpu))
  print(("chat_job_to_python %.2f"):format(rate / python_rate))
  print(("chat_job_to_python_cpu %.2f"):format(cpu / python_cpu))
else
  print "skipped: python3 is not here: a chat job is not measured beside it"
end
os.execute(("kill %d; rm -rf %s"):format(pid, folder))
