-- JSON lines, in microseconds of processor time a line (user and system): base/json decoding and
-- encoding each line, the same as a whole job of `tokenbatcher run`, `jq -c .` and Python's json.
-- 240 prompts with an id and two fields more, 600 times over.

local B, LUAJIT = os.getenv "B" or "build", os.getenv "LUAJIT" or "luajit"
local TIMES = 600

local PYTHON = [[
import json, sys
for line in sys.stdin:
    sys.stdout.write(json.dumps(json.loads(line), separators=(",", ":"), ensure_ascii=False) + "\n")
]]
local OURS = [[
local json = require "tokenbatcher.base.json"
local decode, encode = json.decode, json.encode
for line in io.lines() do io.write(encode(decode(line)), "\n") end
]]
local PASS = "return { inference_fn = function(records) return records end }\n"

local names = {}
local function file(text)
  local name = os.tmpname()
  names[#names + 1] = name
  local out = assert(io.open(name, "wb"))
  out:write(text)
  out:close()
  return name
end

local function input()
  local parts = {}
  for line in io.lines "examples/prompts.jsonl" do
    parts[#parts + 1] = ('%s,"meta":{"source":"examples","tags":["a","b"],"weight":%.4f}}\n'):format(line:sub(1, -2),
      #line / 7)
  end
  return file(table.concat(parts):rep(TIMES)), #parts * TIMES
end

local function output_of(command)
  local pipe = assert(io.popen(command))
  local text = pipe:read "*a"
  pipe:close()
  return text
end

-- `times` of the shell ends with what its children took: "0m1.230s 0m0.100s".
local function seconds(command)
  local text = output_of(("{ %s; } >/dev/null 2>&1; times"):format(command))
  local user_m, user_s, system_m, system_s = text:match "(%d+)m([%d.]+)s (%d+)m([%d.]+)s%s*$"
  return user_m * 60 + user_s + system_m * 60 + system_s
end

local function is_here(program)
  return output_of("command -v " .. program) ~= ""
end

local path, lines = input()
local function measure(command)
  return 1e6 * seconds(command) / lines
end

local ours = measure(("%s %s <%s"):format(LUAJIT, file(OURS), path))
local job = measure(("%s/tokenbatcher run %s --input %s"):format(B, file(PASS), path))
print(("json_us_per_line %.2f"):format(ours))
print(("json_job_us_per_line %.2f"):format(job))
if is_here "jq" then
  local jq = measure("jq -c . " .. path)
  print(("jq_us_per_line %.2f"):format(jq))
  print(("json_to_jq %.3f"):format(ours / jq))
  print(("json_job_to_jq %.3f"):format(job / jq))
else
  print "skipped: jq is not here: JSON is not measured beside it"
end
if is_here "python3" then
  print(("python_us_per_line %.2f"):format(measure(("python3 %s <%s"):format(file(PYTHON), path))))
else
  print "skipped: python3 is not here: JSON is not measured beside it"
end
for _, name in ipairs(names) do os.remove(name) end
