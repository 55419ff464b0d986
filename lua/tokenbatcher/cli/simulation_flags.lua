--- Flags that simulate and tune share, and what their values must be.

local columns = require "tokenbatcher.sim.trace.columns"
local experiment = require "tokenbatcher.sim.experiment"
local noise = require "tokenbatcher.sim.noise"
local policies = require "tokenbatcher.policy"

local M = {}

local function number_in(flag, from, to, text_of_range)
  return function(text)
    local value = tonumber(text)
    if value and value >= from and value <= to then return value end
    return nil, ("%s needs %s, got '%s'"):format(flag, text_of_range, text)
  end
end

local function above_zero(flag)
  return function(text)
    local value = tonumber(text)
    if value and value > 0 and value < math.huge then return value end
    return nil, ("%s needs a number above 0, got '%s'"):format(flag, text)
  end
end

local function whole(flag)
  return function(text)
    local value = tonumber(text)
    if value and value >= 1 and value <= 2 ^ 53 and value % 1 == 0 then return value end
    return nil, ("%s needs a whole number above 0, got '%s'"):format(flag, text)
  end
end

local function parse_unit(text)
  if columns.UNITS[text] ~= nil then return text end
  return nil, ("--time-unit needs one of %s, got '%s'"):format(table.concat(columns.UNIT_NAMES, ", "), text)
end

--- "0.01:20" @return {p, factor}
local function parse_straggle(text)
  local p, factor = text:match "^([^:]+):([^:]+)$"
  p, factor = tonumber(p), tonumber(factor)
  if p and factor and p >= 0 and p <= 1 and factor >= 0 and factor < math.huge then
    return { p = p, factor = factor }
  end
  return nil, ("--straggle needs probability:factor, as 0.01:20, got '%s'"):format(text)
end

--- A policy as on any command line. @return {text, value}
local function parse_policy(text)
  local value, message = policies.parse(text)
  if value == nil then return nil, "--policy: " .. message end
  return { text = text, value = value }
end

--- "name=v1,v2" @return {name, values = list of {text, value}}
function M.parse_sweep(text)
  local name, list = text:match "^([^=]+)=(.+)$"
  if not name then return nil, ("--sweep needs option=v1,v2,..., got '%s'"):format(text) end
  if name == "policy" then return nil, "--sweep: policies are compared by repeating --policy" end
  local values = {}
  for part in (list .. ","):gmatch "([^,]*)," do
    local value, message = experiment.parse_value("--sweep", name, part)
    if value == nil then return nil, message end
    values[#values + 1] = { text = part, value = value }
  end
  return { name = name, values = values }
end

--- "10:20" @return {from, to}
function M.parse_window(text)
  local from, to = text:match "^([^:]*):([^:]*)$"
  from, to = tonumber(from), tonumber(to)
  if from and to and from >= 0 and to > from then return { from = from, to = to } end
  return nil, ("--window needs from:to in seconds, as 60:120, got '%s'"):format(text)
end

--- What arrives, how long it takes, and what counts.
function M.arrivals(command)
  command:option("--trace", "The arrivals of a file, see below (-: standard input)."):argname "<file>"
  command:option("--columns", "Which columns of the trace are what: time=NAME,cost=NAME,..., see below.")
    :argname("<role=name,...>"):convert(columns.parse)
  command:option("--time-unit", "The unit of the trace's times: s, ms, us, ns or date."):argname("<unit>")
    :convert(parse_unit)
  command:option("--arrivals", "Made-up arrivals, see below."):argname "<spec>"
  command:option("--service", "How long a batch takes, in seconds; see below (default: 0.02 + 0.00005*tokens).")
    :argname "<model>"
  command:option("--device", "A server that batches by itself, in place of --service; see below.")
    :argname "<device>"
  command:option("--slo", "An answer later than so many seconds counts as missed: a number, or see below.")
    :argname("<s>")
  command:option("--slo-class", "The same for records of a class (a column of the trace); may be repeated.")
    :argname("<name=s>"):count "*"
  command:option("--speedup", "Divide the times of arrival by this (default: 1)."):argname("<x>")
    :convert(above_zero "--speedup")
  command:option("--limit", "Use no more than so many rows (made-up arrivals: default 100000)."):argname("<n>")
    :convert(whole "--limit")
  command:option("--seed", "Seed of all that is drawn by lot (default: 1)."):argname("<n>")
    :convert(number_in("--seed", -2 ^ 53, 2 ^ 53, "a number"))
  command:flag("--strict", "A bad row of the trace is an error (otherwise it is named, counted and left out).")
  command:option("--fail-rate", "The probability that a batch fails."):argname("<p>")
    :convert(number_in("--fail-rate", 0, 1, "a probability from 0 to 1"))
  command:option("--noise", "The slowness of --service @RECORDING: replay (as recorded) or blocks[:10s] (by lot).")
    :argname("<kind>"):convert(noise.parse)
  command:option("--straggle", "With probability p a batch takes x times as long."):argname("<p:x>")
    :convert(parse_straggle)
end

--- "10" @return number
function M.parse_seeds(text)
  local value = tonumber(text)
  if value and value >= 1 and value <= 1000 and value % 1 == 0 then return value end
  return nil, ("--seeds needs a whole number from 1 to 1000, got '%s'"):format(text)
end

--- "30" @return number
function M.parse_warmup(text)
  local value = tonumber(text)
  if value and value > 0 and value < 1e9 then return value end
  return nil, ("--warmup needs a number of seconds above 0, got '%s'"):format(text)
end

--- "0.99" @return number
function M.parse_share(text)
  local value = tonumber(text)
  if value and value > 0 and value <= 1 then return value end
  return nil, ("--find-capacity needs a share above 0, to 1, got '%s'"):format(text)
end

--- One policy.
function M.policy(command)
  command:option("--policy", "The policy: name, file, or name:parameter=value,... (default: the script's, or fifo).")
    :argname("<policy>"):convert(parse_policy)
end

--- Any number of policies.
function M.policies(command)
  command:option("--policy", "A policy to try: name, file, or name:parameter=value,...; may be repeated.")
    :argname("<policy>"):count("*"):convert(parse_policy)
end

M.whole = whole

--- A function that says each text on standard error once. @param clear function  takes progress off the line
function M.noting(clear)
  local said = {}
  return function(text)
    if said[text] then return end
    said[text] = true
    clear()
    io.stderr:write("tokenbatcher: ", text, "\n")
  end
end

--- The exit status of rows: 1 if the policy of one was disabled, since then others decided for it.
function M.status(rows)
  for _, row in ipairs(rows) do
    if row.policy_disabled then return 1 end
  end
  return 0
end

return M
