--- tokenbatcher tune: search for settings on one half of the arrivals, judge them on the other.

local errors = require "tokenbatcher.base.errors"
local experiment = require "tokenbatcher.sim.experiment"
local flags = require "tokenbatcher.cli.simulation_flags"
local search = require "tokenbatcher.sim.search"
local tbffi = require "tokenbatcher.core.ffi"

local M = { SUMMARY = "Search for good settings over a trace." }

M.HELP = [[
Searches for the settings that do best over a trace, with the simulator. Settings drawn by
lot (and those given) run over an eighth of the first half of the arrivals; the better half
of them goes on to a piece twice as long, and so on (successive halving); neighbours of the
best are tried at the end. Then the best and the given settings run over the second half,
which the search has not seen: whole, and in ten pieces. Prints the best settings, the gain
over those given, and how sure it is. The same seed gives the same answer.]]

M.EPILOG = [[
--vary name=from..to, or name=v1,v2,...; a name is an option of the batcher or a parameter
of the policy. For latency, settings that refuse, or let expire, more arrivals than those given
do not count as better. A range that spans a factor of ten or more is searched by orders of
magnitude. Ties go to the lower mean latency. Of made-up arrivals, the second half is as
many with another seed. Arrivals and service models are those of tokenbatcher simulate. Exit
status: 0, 1 if a policy was disabled, or 2.]]

local function goal_names()
  local names = {}
  for name in pairs(search.GOALS) do names[#names + 1] = name end
  table.sort(names)
  return names
end

local function parse_goal(flag, sign)
  return function(text)
    local goal = search.GOALS[text]
    if goal and goal[2] == sign then return text end
    local known = {}
    for _, name in ipairs(goal_names()) do
      if search.GOALS[name][2] == sign then known[#known + 1] = name end
    end
    return nil, ("%s: one of %s is needed, got '%s'"):format(flag, table.concat(known, ", "), text)
  end
end

--- @param command an argparse command
function M.declare(command)
  flags.arrivals(command)
  flags.policy(command)
  command:option("--vary", "What to search, and where; may be repeated."):argname("<name=from..to>"):count "*"
  command:option("--maximize", "goodput (the default) or throughput."):argname("<goal>")
    :convert(parse_goal("--maximize", 1))
  command:option("--minimize", "latency_mean, latency_p50, latency_p90, latency_p99 or latency_max.")
    :argname("<goal>"):convert(parse_goal("--minimize", -1))
  command:option("--settings", "How many settings to begin with (default: 64)."):argname("<n>")
    :convert(flags.whole "--settings")
end

local function read_varied(args)
  local out, seen = {}, {}
  if #args.vary == 0 then return nil, "--vary is needed, as --vary batch_timeout_s=0.001..0.1" end
  for i, text in ipairs(args.vary) do
    local one, message = search.vary(text, args.policy)
    if not one then return nil, message end
    if seen[one.name] then return nil, ("--vary %s is given twice"):format(one.name) end
    out[i], seen[one.name] = one, true
  end
  return out
end

-- --- what people read -----------------------------------------------------------------------

local function write(...) io.stdout:write(...) end

local function settings_of(found, varied)
  local parts = {}
  for i, vary in ipairs(varied) do parts[i] = vary.name .. "=" .. found.best.values[i] end
  return table.concat(parts, " ")
end

-- The words of a command line that stand for what was found.
local function usage(found)
  local parts = {}
  if found.best.policy_text then parts[1] = "--policy " .. found.best.policy_text end
  for _, setting in ipairs(found.best.settings) do
    parts[#parts + 1] = ("--set %s=%s"):format(setting.name, setting.text)
  end
  return table.concat(parts, " ")
end

local function compare_line(name, goal, pair)
  local value, sign = goal[1], goal[2]
  local given, best = value(pair[1]), value(pair[2])
  local relative = given ~= 0 and (" (%+.1f %%)"):format(100 * (best / given - 1)) or ""
  write(("%-12s %10.4f %10.4f  %s %+.4f%s\n"):format(name, given, best, sign * (best - given) >= 0 and "better by"
    or "worse by ", best - given, relative))
end

local function verdict(found, goal)
  local held = goal[2] * (goal[1](found.held[2]) - goal[1](found.held[1]))
  local searched = goal[2] * (goal[1](found.first[2]) - goal[1](found.first[1]))
  if found.is_default then return "nothing was found that is better than the settings given" end
  if searched == 0 then return "no gain: the settings given do as well; the best has the lower mean latency" end
  if search.left_out(goal, found.held[1], found.held[2]) > 0 then
    return "the gain does not hold out: on other arrivals it leaves more of them without an answer; "
      .. "keep the settings given"
  end
  if held <= 0 then return "the gain does not hold out: on other arrivals it is none; keep the settings given" end
  if found.pieces.low > 0 then return "the gain holds on arrivals that the search has not seen" end
  return "not sure: the gain is there on the held-out half, but its pieces do not agree"
end

local function report(job, found, goal_name, args, varied)
  local goal, pieces = search.GOALS[goal_name], found.pieces
  write(("arrivals     %s\n"):format(experiment.arrivals_text(job, found.arrivals_span_s)))
  write(("searched     %d runs over the first %d of %d arrivals, seed %.14g\n"):format(found.runs, found.half,
    found.total, args.seed or 1))
  write(("best         %s\n\n"):format(found.is_default and "the settings given" or settings_of(found, varied)))
  write(("%-12s %10s %10s\n"):format(goal_name, "given", "best"))
  compare_line("searched", goal, found.first)
  compare_line("held out", goal, found.held)
  for _, name in ipairs { "policy_errors", "policy_overruled" } do
    write(("%-16s %6d %10d\n"):format(name, found.held[1][name], found.held[2][name]))
  end
  write(("\npieces       better in %d of %d pieces of the held-out half; the mean gain lies between %+.4f "
    .. "and %+.4f (90 %%)\n"):format(pieces.better, pieces.n, pieces.low, pieces.high))
  write(("verdict      %s\n"):format(verdict(found, goal)))
  if not found.is_default then write(("use          %s\n"):format(usage(found))) end
end

--- @return number exit status, or nil and a message
function M.run(definition, args)
  if args.maximize and args.minimize then return nil, "--maximize or --minimize, not both" end
  args.note = function(text) io.stderr:write("tokenbatcher: ", text, "\n") end
  local varied, message = read_varied(args)
  if not varied then return nil, message end
  local job
  job, message = experiment.new(definition, args)
  if not job then return nil, message end
  local goal = args.maximize or args.minimize or "goodput"
  if goal == "goodput" and not args.slo then return nil, "--slo is needed: without it every answer counts" end
  local shows = tbffi.is_terminal(2)
  local function clear() if shows then io.stderr:write "\r\27[K" end end
  local progress = shows and function(runs) io.stderr:write(("\r\27[K%d runs"):format(runs)) end or nil
  local ok, found = pcall(search.run, job, {
    varied = varied, policy = args.policy, goal = goal, settings = args.settings or 64, progress = progress,
    warn = flags.noting(clear),
  })
  clear()
  if not ok then return nil, errors.message_of(found) end
  report(job, found, goal, args, varied)
  return flags.status { found.first[1], found.first[2], found.held[1], found.held[2] }
end

return M
