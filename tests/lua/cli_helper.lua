--- What the specs of the command line share: they start the built executable as a user
-- would. `run` gives it all its input and waits for its end; `start` talks to it through
-- named pipes, so that a spec can wait for a line instead of sleeping.

local M = {}

local GUARD_S = 60 -- a run that takes longer is killed, and its spec fails

local function lines_of(text)
  local out = {}
  for line in text:gmatch "[^\n]*\n?" do
    if line ~= "" then out[#out + 1] = (line:gsub("\n$", "")) end
  end
  return out
end

local function command_output(command)
  local pipe = assert(io.popen(command))
  local text = pipe:read "*a"
  pipe:close()
  return (text:gsub("\n$", ""))
end

M.root = command_output "pwd"
local build = os.getenv "TOKENBATCHER_BUILD" or os.getenv "B" or "build"
M.build = build:sub(1, 1) == "/" and build or M.root .. "/" .. build
M.exe = M.build .. "/tokenbatcher"

--- A word for the shell.
function M.quote(text)
  return "'" .. text:gsub("'", [['\'']]) .. "'"
end

local function quote_all(words)
  local out = {}
  for i, word in ipairs(words) do out[i] = M.quote(word) end
  return table.concat(out, " ")
end

-- --- files ----------------------------------------------------------------------

--- A folder for the files of a spec; remove it with clean().
function M.new_folder()
  M.folder = command_output "mktemp -d"
end

function M.clean()
  os.execute("rm -rf " .. M.quote(M.folder))
end

function M.path(name)
  return M.folder .. "/" .. name
end

--- Write a file in the spec's folder. @return string its path
function M.file(name, text)
  local file = assert(io.open(M.path(name), "wb"))
  file:write(text)
  file:close()
  return M.path(name)
end

function M.exists(path)
  local file = io.open(path, "rb")
  if file then file:close() end
  return file ~= nil
end

function M.read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "*a"
  file:close()
  return text
end

--- A script that answers each record with itself.
M.ECHO = [[
return { inference_fn = function(records)
  local results = {}
  for i = 1, #records do results[i] = records[i] end
  return results
end }
]]

--- A script whose result for each record is the Lua expression `expression` of it, r.
function M.answering(expression)
  return ([[
    return { inference_fn = function(records)
      local results = {}
      for i, r in ipairs(records) do results[i] = %s end
      return results
    end }]]):format(expression)
end

-- --- to the end -------------------------------------------------------------------

--- Run a line of shell. @return table {status, out, err, lines}
function M.shell(line, input)
  local into, out, err = M.file("stdin", input or ""), M.path "stdout", M.path "stderr"
  local status = M.path "status"
  os.execute(("{ %s\n} <%s >%s 2>%s; echo $? >%s"):format(line, into, out, err, status))
  local result = { status = tonumber(M.read(status)), out = M.read(out), err = M.read(err) }
  result.lines = lines_of(result.out)
  return result
end

--- Run the program. @param args string[]  @param input string|nil
function M.command(args, input)
  return M.shell(("timeout -k 1 %d %s %s"):format(GUARD_S, M.quote(M.exe), quote_all(args)), input)
end

--- Run a script given as text over `input`. @param args string[]|nil  more arguments
function M.run(script, input, args)
  return M.command({ "run", M.file("script.lua", script), unpack(args or {}) }, input)
end

function M.check(script, args)
  return M.command { "check", M.file("script.lua", script), unpack(args or {}) }
end

-- --- a conversation -----------------------------------------------------------------

local Session = {}
Session.__index = Session

--- Start a script given as text. @return table with send, line, message, kill, finish
function M.start(script, args)
  local fifo = M.path "fifo"
  os.execute(("rm -f %s.*; mkfifo %s.in %s.out %s.err %s.pid %s.status"):format(fifo, fifo, fifo, fifo, fifo, fifo))
  local inner = ([[echo $$ >%s.pid; exec "$@"]]):format(fifo)
  local command = quote_all { M.exe, "run", M.file("script.lua", script), unpack(args or {}) }
  os.execute(("{ timeout -k 1 %d env --default-signal=INT sh -c %s sh %s <%s.in >%s.out 2>%s.err; "
    .. "echo $? >%s.status; } &")
    :format(GUARD_S, M.quote(inner), command, fifo, fifo, fifo, fifo))
  local self = setmetatable({}, Session)
  self.to = assert(io.open(fifo .. ".in", "wb"))
  self.from, self.errors = assert(io.open(fifo .. ".out", "rb")), assert(io.open(fifo .. ".err", "rb"))
  self.pid = tonumber(M.read(fifo .. ".pid"))
  self.status_file = fifo .. ".status"
  return self
end

--- Write to its standard input, now.
function Session:send(text)
  self.to:write(text)
  self.to:flush()
end

function Session:close_input()
  self.to:close()
end

--- The next line of its standard output; nil at its end.
function Session:line()
  return self.from:read "*l"
end

--- Read its standard error up to a line that contains `part`. @return that line, or nil
function Session:message(part)
  repeat
    local line = self.errors:read "*l"
    if line and line:find(part, 1, true) then return line end
  until not line
end

function Session:kill(signal)
  os.execute(("kill -%s %d 2>/dev/null"):format(signal, self.pid))
end

--- Its exit status, waited for; its output stays unread.
function Session:status()
  self.known_status = tonumber(M.read(self.status_file))
  return self.known_status
end

--- Nobody reads its standard output any more.
function Session:close_output()
  self.from:close()
end

--- Wait for its end; the input may stay open. @return table {status, out, err, lines}
function Session:finish()
  local result = {}
  result.out = io.type(self.from) == "file" and self.from:read "*a" or ""
  result.err = self.errors:read "*a"
  result.status = self.known_status or self:status()
  result.lines = lines_of(result.out)
  for _, file in ipairs { self.to, self.from, self.errors } do
    if io.type(file) == "file" then file:close() end
  end
  return result
end

return M
