--- Mutants: each small wrong change to the source must be seen by a test. Prints what was not; exit 1 if less than
-- 95 of 100 were killed, if one survived that no list calls equivalent, or if an equivalent one was killed; 2 if
-- a list, a build or the tree as it is does not hold.
--
-- usage: run.lua [OPTION VALUE ...] LIST ...
--   --suites FILE     what is copied, built and run (tests/mutate/suites.lua)
--   --tree DIR        the top of the tree that is mutated (.)
--   --scratch DIR     where its copies go (build/mutants)
--   --jobs N          so many at a time (2)
--   --limit SECONDS   of processor time for a mutant's tests (20)
--   --wall SECONDS    for a command that does nothing, at the least (20)
--   --only PATTERN    only mutants whose "FILE:LINE" has this Lua pattern
-- To be called from the top of the tree. `--worker N` is for itself.

local list = dofile "tests/mutate/list.lua"
local work = dofile "tests/mutate/work.lua"

local LEAST_KILLED = 95

local function die(text)
  io.stderr:write("mutate: ", text, "\n")
  os.exit(2)
end

local function quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

local function parse_arguments()
  local out = { suites = "tests/mutate/suites.lua", tree = ".", scratch = "build/mutants", jobs = "2", limit = "20",
    wall = "20", lists = {} }
  local i = 1
  while arg[i] do
    local name = arg[i]:match "^%-%-(%l+)$"
    if name then
      out[name], i = arg[i + 1] or die("--" .. name .. " needs a value"), i + 1
    else
      out.lists[#out.lists + 1] = arg[i]
    end
    i = i + 1
  end
  if out.scratch:sub(1, 1) ~= "/" then out.scratch = io.popen("pwd"):read "*l" .. "/" .. out.scratch end
  return out
end

-- All mutants of the lists that are wanted, each checked against the tree.
local function read_lists(given, plan)
  local out, problems = {}, {}
  for _, path in ipairs(given.lists) do
    for _, mutant in ipairs(list.parse(path)) do
      local problem = list.check(given.tree, mutant)
      mutant.suite = mutant.suite or plan.suite_of(mutant.file)
      if not problem and not plan.suites[mutant.suite] then
        problem = ("%s: no suite is for %s"):format(mutant.where, mutant.file)
      end
      if problem then problems[#problems + 1] = problem end
      local is_wanted = not given.only or ("%s:%d"):format(mutant.file, mutant.line or 0):find(given.only)
      if is_wanted then out[#out + 1] = mutant end
    end
  end
  if #problems > 0 then die(table.concat(problems, "\nmutate: ")) end
  if #out == 0 then die "no mutants" end
  return out
end

local function execute(command)
  if os.execute(command) ~= 0 then die("failed: " .. command) end
end

-- A copy of the tree for each worker, with what the suites in use need.
local function prepare(given, plan, mutants)
  local scratch = quote(given.scratch)
  execute(("rm -rf %s && mkdir -p %s/claims %s/results %s/1"):format(scratch, scratch, scratch, scratch))
  execute(("to=%s/1; cd %s && for path in %s; do [ ! -e $path ] || { mkdir -p \"$to/$(dirname $path)\" && "
    .. "cp -a $path \"$to/$(dirname $path)/\"; } || exit 1; done"):format(scratch, quote(given.tree), plan.copy))
  local done = {}
  for _, mutant in ipairs(mutants) do
    local command = plan.suites[mutant.suite].prepare
    if command and not done[command] then execute(("cd %s/1 && { %s; }"):format(scratch, command)) end
    done[command or ""] = true
  end
  for i = 2, tonumber(given.jobs) do execute(("cp -a %s/1 %s/%d"):format(scratch, scratch, i)) end
end

local function start_workers(given)
  local own = {}
  for i = 1, #arg do own[i] = quote(arg[i]) end
  local each = ("%s tests/mutate/run.lua %s --worker "):format(os.getenv "LUAJIT" or "luajit", table.concat(own, " "))
  local parts = {}
  for i = 1, tonumber(given.jobs) do parts[i] = each .. i .. " &" end
  os.execute(table.concat(parts, " ") .. " wait")
end

local function read_results(given, mutants)
  for i, mutant in ipairs(mutants) do
    local text = list.read(("%s/results/%d"):format(given.scratch, i))
    if not text then
      local said = {}
      for job = 1, tonumber(given.jobs) do
        said[#said + 1] = list.read(("%s/failed.%d"):format(given.scratch, job))
      end
      die("a worker ended before its time\n" .. table.concat(said, "\n"))
    end
    mutant.status, mutant.told = text:match "^(%l+)\n[^\n]*\n(.*)\n$"
  end
end

-- @return whether all is well
local function judge(mutants, seconds)
  local count = { killed = 0, timeout = 0, hung = 0, survived = 0, unbuilt = 0 }
  local equivalent, unexpected = 0, {}
  for _, m in ipairs(mutants) do
    count[m.status] = count[m.status] + 1
    local is_known = m.status == "survived" and m.reason
    if is_known then equivalent = equivalent + 1 end
    if is_known then
      print(("\nequivalent %s\n    = %s"):format(list.show(m), m.reason:gsub("\n", " ")))
    elseif m.status == "survived" then
      unexpected[#unexpected + 1] = "SURVIVED " .. list.show(m)
    elseif m.status == "unbuilt" then
      unexpected[#unexpected + 1] = "DOES NOT BUILD " .. list.show(m)
    elseif m.reason then
      unexpected[#unexpected + 1] = ("KILLED, though it is said to be equivalent, by %s: %s"):format(m.told,
        list.show(m))
    end
  end
  for _, text in ipairs(unexpected) do print("\n" .. text) end
  local killed = count.killed + count.timeout + count.hung
  local percent = 100 * killed / #mutants
  print(("\nmutants   %d: %d killed (%d of them by the limit of processor time, %d by waiting for ever), %d survived "
    .. "(%d equivalent), %d did not build\nkilled    %.1f %% (at least %d) in %d s"):format(#mutants, killed,
    count.timeout, count.hung, count.survived, equivalent, count.unbuilt, percent, LEAST_KILLED, seconds))
  return #unexpected == 0 and percent >= LEAST_KILLED
end

local function main()
  local given = parse_arguments()
  local plan = dofile(given.suites)
  local mutants = read_lists(given, plan)
  if given.worker then
    return work.work { number = given.worker, tree = given.scratch .. "/" .. given.worker, scratch = given.scratch,
      limit_s = tonumber(given.limit), wall_s = tonumber(given.wall), mutants = mutants, suites = plan.suites }
  end
  local began = work.wall_s()
  prepare(given, plan, mutants)
  start_workers(given)
  read_results(given, mutants)
  os.exit(judge(mutants, work.wall_s() - began) and 0 or 1)
end

main()
