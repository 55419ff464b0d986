--- What the specs of jobs against a provider share: tests/http/job_server.lua, and jobs of the command line against it.

local json = require("tokenbatcher").json
local job = dofile "tests/lua/cli/job_helper.lua"
local cli = job.cli

local M = { job = job, cli = cli }

local GUARD_S = 120

--- Why it cannot be run here, or nil.
function M.missing()
  -- Not loaded here: the process of the specs has a loop of its own.
  if os.execute [[luajit -e 'require "luv"' 2>/dev/null]] ~= 0 then return "no Lua module luv (Debian: lua-luv)" end
  if not pcall(require, "socket.http") then return "no Lua module socket (Debian: lua-socket)" end
  if not pcall(require, "tokenbatcher.backend.http.http_ffi") then return "no libtokenbatcher_http.so" end
end

--- Start a provider with a ledger of its own, killed after two minutes. @param options string[]  as {"seed=3"}
-- @return table {url, at(path), ask(path), stop()}
function M.provider(options)
  job.no_ledger()
  local command = ("unset LD_PRELOAD; exec timeout %d luajit tests/http/job_server.lua %s %s"):format(GUARD_S,
    cli.quote(cli.path "ledger"), table.concat(options or {}, " "))
  local pipe = io.popen(command)
  local port, control, pid = pipe:read("*n", "*n", "*n")
  assert(port and control and pid, "the provider did not start")
  local provider = { url = ("http://127.0.0.1:%d/v1"):format(port) }
  --- The URL of a path of the control port; what is there, decoded.
  function provider.at(path) return ("http://127.0.0.1:%d%s"):format(control, path) end
  function provider.ask(path)
    return assert(json.decode((assert(require("socket.http").request(provider.at(path))))))
  end
  function provider.stop()
    os.execute("kill " .. pid)
    pipe:close()
  end
  return provider
end

-- Waits are short, so that a spec is; a job's own are those of the backend.
local BACKEND = [[
local tb = require "tokenbatcher"
return { %s
  inference_fn = tb.backend.openai { base_url = %q, model = "m", endpoint = %q, api_key_env = nil,
    pause_after = 1, backoff_s = 0.01, max_backoff_s = 0.1, probe_s = 0.05, max_probe_s = 0.1, ignore = { "n" }, %s } }
]]

--- A script of a job against a provider. @param provider table  @param endpoint string
-- @param more string|nil  more fields of the script, Lua  @param of_backend string|nil  more of the backend
-- @return string  its path
function M.script(provider, endpoint, more, of_backend)
  return cli.file("script.lua", BACKEND:format(more or "", provider.url, endpoint, of_backend or ""))
end

--- Run a job over in.jsonl into out.jsonl until the provider kills it with -9, once it was paid for so many in all.
-- @return number  exit status, 137 where it was killed
function M.run_until(provider, script, args, paid)
  local words = { cli.exe, "run", script, "--input", cli.path "in.jsonl", "--output", cli.path "out.jsonl" }
  for _, word in ipairs(args) do words[#words + 1] = word end
  for i, word in ipairs(words) do words[i] = cli.quote(word) end
  local inner = ('curl -s -o /dev/null %s/$$/%d; exec "$@"'):format(provider.at "/kill", paid)
  return cli.shell(("timeout -k 1 60 sh -c %s sh %s"):format(cli.quote(inner), table.concat(words, " "))).status
end

--- What is wrong with an output: is each of the lines 1 to count answered by the number of its own input, once?
-- @param skip function|nil  index -> is that line to be an error?  @return string|nil
function M.flaw(path, count, is_ordered, skip)
  local seen, n = {}, 0
  for line in io.lines(path) do
    n = n + 1
    local value = assert(json.decode(line))
    local index, result = value.index, value.result
    if skip and skip(index) then
      if not value.error then return ("line %d is %s"):format(n, line) end
    elseif not (result == "re:" .. index or type(result) == "table" and result[1] == index and result[2] == 0.5) then
      return ("line %d is %s"):format(n, line)
    end
    if seen[index] then return ("%d is answered twice"):format(index) end
    if is_ordered and index ~= n then return ("line %d answers %d"):format(n, index) end
    seen[index] = true
  end
  if n ~= count then return ("%d lines of %d"):format(n, count) end
end

return M
