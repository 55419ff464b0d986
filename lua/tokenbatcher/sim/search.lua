--- Search for good settings: successive halving (Jamieson and Talwalkar, 2016). Settings drawn at
-- random, the given ones among them, run over a piece of the first half of the arrivals; the better
-- half of them goes on to a piece twice as long, until the last run over all of it. Then neighbours
-- of the best are tried there, too. The second half is left for judging what was found.

local experiment = require "tokenbatcher.sim.experiment"
local options = require "tokenbatcher.core.options"
local parameters = require "tokenbatcher.base.parameters"
local policies = require "tokenbatcher.policy"
local random = require "tokenbatcher.sim.random"

local M = {}

local RUNGS = { 1 / 8, 1 / 4, 1 / 2, 1 }
local NEIGHBOURS_OF, NEIGHBOURS, NEAR = 4, 4, 0.08
local TRIES = 100 -- for a setting that is allowed
local PIECES, RESAMPLES = 10, 2000
local DECADE = 10 -- a range wider than this is searched by orders of magnitude

--- What may be searched for: name -> {value of a row, 1: more is better, -1: less}. Where less is
-- better, a setting that leaves more arrivals without an answer than those given is worse than any
-- that does not: who refuses nearly all answers the rest at once.
M.GOALS = {
  goodput = { function(row) return row.goodput end, 1 },
  throughput = { function(row) return row.throughput end, 1 },
}
for _, part in ipairs { "mean", "p50", "p90", "p99", "max" } do
  M.GOALS["latency_" .. part] = { function(row) return row.latency_s[part] end, -1 }
end

-- --- what is varied -----------------------------------------------------------------

local function parameter_of(policy, name)
  for _, p in ipairs(policy and policies.parameters_of(policy.value) or {}) do
    if p.name == name then return p end
  end
end

-- A value as text, checked. @return text, or nil and a message
local function check_value(vary, value)
  local text = type(value) == "number" and ("%.14g"):format(value) or value
  if vary.parameter then
    local given = tonumber(text) or text
    local ok, message = parameters.check("--vary", { vary.parameter }, { [vary.name] = given })
    if not ok then return nil, message end
    return text
  end
  local ok, message = experiment.parse_value("--vary", vary.name, text)
  if ok == nil then return nil, message end
  return text
end

--- "name=from..to" or "name=v1,v2,...": an option, speedup excepted, or a parameter of the policy.
-- @param policy table|nil  {text}  @return table, or nil and a message
function M.vary(text, policy)
  local name, range = text:match "^([^=]+)=(.+)$"
  if not name then return nil, ("--vary needs option=from..to or option=v1,v2,..., got '%s'"):format(text) end
  local vary = { name = name, parameter = not options.by_name[name] and parameter_of(policy, name) or nil }
  if name == experiment.SPEEDUP or name == "policy" then return nil, ("--vary cannot vary '%s'"):format(name) end
  local from, to = range:match "^(.-)%.%.(.+)$"
  local listed = from and { from, to } or {}
  if not from then
    for part in (range .. ","):gmatch "([^,]*)," do listed[#listed + 1] = part end
    vary.values = listed
  end
  for _, value in ipairs(listed) do
    local ok, message = check_value(vary, value)
    if not ok then return nil, message end
  end
  if vary.values then return vary end
  vary.from, vary.to = tonumber(from), tonumber(to)
  if not (vary.from and vary.to and vary.from < vary.to) then
    return nil, ("--vary %s: a range is from..to with numbers, from below to, got '%s'"):format(name, range)
  end
  local entry = options.by_name[name]
  vary.is_whole = entry and (entry.kind == "count" or entry.kind == "cost") or false
  vary.by_magnitude = vary.from > 0 and vary.to / vary.from >= DECADE
  return vary
end

-- A point 0..1 of a range as a value with three digits that mean something.
local function value_at(vary, x)
  if vary.values then return vary.values[math.min(#vary.values, math.floor(x * #vary.values) + 1)] end
  local value = vary.by_magnitude and vary.from * (vary.to / vary.from) ^ x or vary.from + x * (vary.to - vary.from)
  value = tonumber(("%.3g"):format(value))
  if vary.is_whole then value = math.floor(value + 0.5) end
  return ("%.14g"):format(math.min(vary.to, math.max(vary.from, value)))
end

-- --- candidates -----------------------------------------------------------------------

local function new_candidate(search, points)
  local settings, text = {}, search.policy and search.policy.text
  local values = {}
  for i, vary in ipairs(search.varied) do
    values[i] = value_at(vary, points[i])
    if vary.parameter then
      text = text .. (text:find ":" and "," or ":") .. vary.name .. "=" .. values[i]
    else
      settings[#settings + 1] = { name = vary.name, text = values[i],
        value = experiment.parse_value("--vary", vary.name, values[i]) }
    end
  end
  local candidate = { points = points, values = values, settings = settings, policy_text = text }
  candidate.policy = text and policies.parse(text)
  return candidate
end

local function draw(search, around)
  for _ = 1, TRIES do
    local points = {}
    for i = 1, #search.varied do
      local x = around and around[i] + NEAR * search.stream:normal() or search.stream:uniform()
      points[i] = math.min(1, math.max(0, x))
    end
    local candidate = new_candidate(search, points)
    local ok, message = experiment.check(search.job, candidate)
    if ok then return candidate end
    search.problem = message
  end
  error("tune: none of the settings drawn is allowed: " .. search.problem, 0)
end

-- --- running ------------------------------------------------------------------------------

local function run(search, candidate, part)
  local row, message = experiment.run(search.job, candidate, { part = part, warn = search.warn })
  if not row then error(message, 0) end
  search.runs = search.runs + 1
  if search.progress then search.progress(search.runs) end
  return row
end

--- Arrivals refused or expired in a row beyond those of the settings given, where the goal counts answers only.
function M.left_out(goal, given, row)
  if goal[2] > 0 then return 0 end
  return math.max(0, row.rejected + row.expired - given.rejected - given.expired)
end

-- Better first; of equals the lower mean latency, then who was drawn first.
local function sort_by_goal(search, list)
  local value, sign, given = search.goal[1], search.goal[2], search.base.row
  for i, candidate in ipairs(list) do
    candidate.place, candidate.left_out = i, M.left_out(search.goal, given, candidate.row)
  end
  table.sort(list, function(a, b)
    if a.left_out ~= b.left_out then return a.left_out < b.left_out end
    local x, y = sign * value(a.row), sign * value(b.row)
    if x ~= y then return x > y end
    if a.row.latency_s.mean ~= b.row.latency_s.mean then return a.row.latency_s.mean < b.row.latency_s.mean end
    return a.place < b.place
  end)
end

local function halve(search, list)
  for r, share in ipairs(RUNGS) do
    local part = { first = 0, count = math.max(1, math.floor(share * search.half)), seed = 0 }
    search.base.row = run(search, search.base, part)
    for _, candidate in ipairs(list) do
      if candidate ~= search.base then candidate.row = run(search, candidate, part) end
    end
    sort_by_goal(search, list)
    if r < #RUNGS then
      for i = #list, math.max(1, math.ceil(#list / 2)) + 1, -1 do list[i] = nil end
    end
  end
  return list
end

local function refine(search, list)
  local part = { first = 0, count = search.half, seed = 0 }
  for k = 1, math.min(NEIGHBOURS_OF, #list) do
    for _ = 1, list[k].points and NEIGHBOURS or 0 do
      local candidate = draw(search, list[k].points)
      candidate.row = run(search, candidate, part)
      list[#list + 1] = candidate
    end
  end
  sort_by_goal(search, list)
end

-- --- judging -----------------------------------------------------------------------------

-- The part of the arrivals that the search has not seen, or piece i of n of it.
local function held_out(search, i, n)
  local count = search.total - search.half
  if search.job.arrivals then return { count = math.floor(count / (n or 1)), seed = 1000 + (i or 0) } end
  local from = math.floor(count * ((i or 1) - 1) / (n or 1))
  return { first = search.half + from, count = math.floor(count * (i or 1) / (n or 1)) - from }
end

local function gain(search, a, b)
  return search.goal[2] * (search.goal[1](b) - search.goal[1](a))
end

-- Gains piece by piece, and the middle 90 % of means of pieces drawn again (the bootstrap).
local function judge_pieces(search, base, best)
  local gains, better = {}, 0
  local n = math.min(PIECES, search.total - search.half)
  for i = 1, n do
    local part = held_out(search, i, n)
    gains[i] = gain(search, run(search, base, part), run(search, best, part))
    if gains[i] > 0 then better = better + 1 end
  end
  local means, stream = {}, random.new(search.job.seed, "resample")
  for r = 1, RESAMPLES do
    local sum = 0
    for _ = 1, n do sum = sum + gains[math.floor(stream:uniform() * n) + 1] end
    means[r] = sum / n
  end
  table.sort(means)
  return { n = n, better = better, low = means[math.ceil(0.05 * RESAMPLES)], high = means[math.ceil(0.95 * RESAMPLES)] }
end

--- @param job table  see experiment.lua
-- @param given table  varied (list), policy {text, value} or nil, goal (a name), settings (how many to draw),
-- progress (function(runs)) or nil, warn (function(text)) or nil
-- @return {best, base (what was given), first = {base, best}, held = {base, best}, pieces, runs}; raises
function M.run(job, given)
  local search = {
    job = job, varied = given.varied, policy = given.policy, goal = M.GOALS[given.goal], progress = given.progress,
    warn = given.warn,
    stream = random.new(job.seed, "search"), runs = 0,
  }
  local base = { settings = {}, policy_text = given.policy and given.policy.text, policy = given.policy
    and given.policy.value }
  search.base = base
  local whole_row = run(search, base, nil)
  search.total = whole_row.records
  search.half = math.floor(search.total / 2)
  if search.half < PIECES then
    error(("tune: %d arrivals are too few to search with one half and judge with the other"):format(search.total), 0)
  end
  local list = { base }
  for i = 2, given.settings do list[i] = draw(search) end
  halve(search, list)
  refine(search, list)
  local best, whole = list[1], held_out(search)
  return {
    best = best, base = base, is_default = best == base, first = { base.row, best.row },
    held = { run(search, base, whole), run(search, best, whole) }, pieces = judge_pieces(search, base, best),
    runs = search.runs, half = search.half, total = search.total, arrivals_span_s = whole_row.arrivals_span_s,
  }
end

return M
