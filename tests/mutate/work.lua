--- One of the workers of run.lua: takes mutants that nobody has taken, builds each in a tree of its own and runs its
-- suite over it until a test fails. A result is a file: status, seconds of processor time, what told.
--
-- THE SPECIAL PROBLEM OF TIME. A machine that is busy must kill no mutant. So the limit is on processor time; time
-- on the wall only ends what waits for ever, and is so long that the tree as it is needs a tenth of it. Before a
-- suite's first mutant and every so many mutants the tree as it is runs, and must survive.

local ffi = require "ffi"

ffi.cdef [[
  struct mutate_time { long s, us; };
  struct mutate_usage { struct mutate_time user, system; long rest[14]; };
  int getrusage(int who, struct mutate_usage *usage);
  int clock_gettime(int clock, struct mutate_time *time);
]]

local list = dofile "tests/mutate/list.lua"

local M = {}

local CHILDREN, MONOTONIC = -1, 1
local CONTROL_EVERY = 25

local usage, time = ffi.new "struct mutate_usage", ffi.new "struct mutate_time"

local function cpu_s()
  ffi.C.getrusage(CHILDREN, usage)
  return tonumber(usage.user.s + usage.system.s) + tonumber(usage.user.us + usage.system.us) / 1e6
end

local function wall_s()
  ffi.C.clock_gettime(MONOTONIC, time)
  return tonumber(time.s) + tonumber(time.us) / 1e9
end
M.wall_s = wall_s

local function quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

local function write(path, text)
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
end

-- Run a command in the tree. @return exit status, processor seconds, seconds
local function run(self, command, most_cpu_s, most_wall_s)
  local cpu, wall = cpu_s(), wall_s()
  local limits = most_cpu_s and ("ulimit -c 0; ulimit -Ht %d; ulimit -St %d; "):format(most_cpu_s + 2, most_cpu_s) or ""
  local pipe = assert(io.popen(("cd %s && (%sexec timeout -k 1 %d sh -c %s) >%s 2>&1 </dev/null; echo $?"):format(
    quote(self.tree), limits, most_wall_s or 3600, quote(command), quote(self.log))))
  local status = pipe:read "*n"
  pipe:close()
  return status, cpu_s() - cpu, wall_s() - wall
end

-- "killed" but by a limit.
local BY_LIMIT = { [124] = "hung", [137] = "timeout", [152] = "timeout" }

-- The test that failed, as the log has it, or else the program.
local function who_told(self, command)
  local log = list.read(self.log) or ""
  local test = log:match "\nnot ok %d+ %- ([^\n]+)" or log:match "^not ok %d+ %- ([^\n]+)"
    or log:match "%[  FAILED  %] ([^\n:]+)"
  local program = command:gsub("%u[%u_]*=%S+ ", ""):match "^%S+"
  return test or program
end

-- All of a suite. @return status, processor seconds, what told
local function run_suite(self, suite)
  local cpu = 0
  for _, command in ipairs(suite.tests) do
    local left = math.max(1, math.ceil(self.limit_s - cpu))
    local status, took = run(self, command, left, self.wall[command])
    cpu = cpu + took
    if status ~= 0 then return BY_LIMIT[status] or "killed", cpu, who_told(self, command) end
    if cpu > self.limit_s then return "timeout", cpu, who_told(self, command) end
  end
  return "survived", cpu, ""
end

-- The tree as it is: every command must pass, in half of the time at most.
local function control(self, name, suite)
  if suite.build and run(self, suite.build) ~= 0 then return name .. ": the tree as it is does not build" end
  local cpu = 0
  for _, command in ipairs(suite.tests) do
    local status, took, wall = run(self, command)
    cpu = cpu + took
    self.wall[command] = math.max(self.wall[command] or self.wall_s, math.ceil(10 * wall))
    if status ~= 0 then return ("%s: the tree as it is fails (%d): %s"):format(name, status, command) end
  end
  print(("  control   %-40s %4.1f s"):format(name, cpu))
  if cpu > self.limit_s / 2 then
    return ("%s: the tree as it is takes %.1f s of %d s, which is more than half"):format(name, cpu, self.limit_s)
  end
end

local function try(self, mutant, suite)
  local path = self.tree .. "/" .. mutant.file
  local text = list.read(path)
  write(path, list.apply(text, mutant))
  local status, cpu, told
  if suite.build and run(self, suite.build) ~= 0 then
    status, cpu, told = "unbuilt", 0, suite.build
  else
    status, cpu, told = run_suite(self, suite)
  end
  write(path, text)
  return status, cpu, told
end

local function fail(self, message)
  local log = list.read(self.log) or ""
  write(self.scratch .. "/failed." .. self.number, message .. "\n" .. log:sub(-2000))
  os.exit(1)
end

--- Work until all mutants are taken.
-- @param self table  number, tree, scratch, limit_s (of processor time), wall_s (the least on the wall), mutants,
-- suites
function M.work(self)
  self.log, self.wall = self.scratch .. "/log." .. self.number, {}
  local known, done = {}, 0
  io.stdout:setvbuf "line"
  for i, mutant in ipairs(self.mutants) do
    if os.execute(("mkdir %s/claims/%d 2>/dev/null"):format(quote(self.scratch), i)) == 0 then
      local name = mutant.suite
      local suite = self.suites[name]
      if not known[name] or done % CONTROL_EVERY == 0 then
        local problem = control(self, name, suite)
        if problem then fail(self, problem) end
        known[name] = true
      end
      local status, cpu, told = try(self, mutant, suite)
      done = done + 1
      write(("%s/results/%d"):format(self.scratch, i), ("%s\n%.2f\n%s\n"):format(status, cpu, told))
      print(("  %-9s %-40s %4.1f s  %s"):format(status, ("%s:%d"):format(mutant.file, mutant.line), cpu, told))
    end
  end
end

return M
