--- Experiments: which runs a command line asks for, and running one. A job is what all its runs
-- share: arrivals, service model, knobs; a variant is a policy and the settings of one row.

local arrivals = require "tokenbatcher.sim.arrivals"
local bound = require "tokenbatcher.sim.bound"
local cost = require "tokenbatcher.batching.cost"
local devices = require "tokenbatcher.sim.device"
local Replay = require "tokenbatcher.sim.replay"
local errors = require "tokenbatcher.base.errors"
local measure = require "tokenbatcher.sim.measure"
local noise = require "tokenbatcher.sim.noise"
local options = require "tokenbatcher.core.options"
local script = require "tokenbatcher.script.load"
local service = require "tokenbatcher.sim.service"
local slo = require "tokenbatcher.sim.slo"
local trace = require "tokenbatcher.sim.trace"

local M = {}

-- What may be swept beside the options of a batcher.
M.SPEEDUP = "speedup"

local NOT_RECORDED = "record: a simulation is not recorded"

--- One value of an option, or of speedup. @return value, or nil and a message
function M.parse_value(flag, name, text)
  if name == M.SPEEDUP then
    local value = tonumber(text)
    if value and value > 0 and value < math.huge then return value end
    return nil, ("%s %s: a number above 0 is needed, got '%s'"):format(flag, name, text)
  end
  if name == "record" then return nil, flag .. " " .. NOT_RECORDED end
  local value, message = options.parse(name, text)
  if value == nil then return nil, (message:gsub("^%-%-set", flag)) end
  return value
end

-- The options of a script, with what was set on the command line; no inference function is needed.
local function base_options(definition, args)
  for _, pair in ipairs(args.set) do
    if pair[1] == "record" then return nil, "--set " .. NOT_RECORDED end
  end
  if not definition then
    local out = {}
    for _, pair in ipairs(args.set) do out[pair[1]] = pair[2] end
    return out
  end
  local made, message = script.build(definition, args.given, args.set)
  if not made then return nil, message end
  made.options.inference_fn, made.options.process_fn = nil, nil
  made.options.record = nil
  return made.options
end

-- What a batcher with these options would take for the cost of a record.
local function new_estimate(base)
  local source = {
    estimator = base.token_estimator or base.cost_estimator, name = "token_estimator", knows_tokens = true,
    default = base.default_token_estimate or base.default_cost or options.by_name.default_cost.default,
  }
  return function(record)
    local ok, value = pcall(cost.estimate, source, record)
    if ok then return value end
    return nil, errors.message_of(value)
  end
end

local function open_arrivals(job, args)
  if args.trace and args.arrivals then return nil, "--trace or --arrivals, not both" end
  if not (args.trace or args.arrivals) then return nil, "--trace FILE or --arrivals SPEC is needed" end
  local message
  if args.trace then
    job.trace, message = trace.open(args.trace, {
      limit = args.limit, strict = args.strict, note = args.note, estimate = new_estimate(job.base),
      columns = args.columns, unit = args.time_unit, passes = args.passes,
    })
    return job.trace, message
  end
  if args.strict then return nil, "--strict is for a trace" end
  if args.time_unit then return nil, "--time-unit is for a trace" end
  if args.columns and not args.arrivals:find("=@", 1, true) then
    return nil, "--columns is for a trace, or for lengths in a file: tokens=@FILE"
  end
  job.arrivals, message = arrivals.parse(args.arrivals, { columns = args.columns })
  return job.arrivals, message
end

-- How long things take: a service model, or a device that batches by itself.
local function open_device(job, args)
  local message
  if not args.device then
    job.service, message = service.parse(args.service or service.default)
    return job.service, message
  end
  if args.service then return nil, "--service or --device, not both" end
  if args.noise then return nil, "--noise is for --service @RECORDING: a device has no recorded slowness" end
  if args.straggle then return nil, "--straggle is for --service: a device has no time of a batch to multiply" end
  job.device, message = devices.parse(args.device)
  return job.device, message
end

--- @param args table  trace, arrivals, service, device, set, given, slo, speedup, limit, seed, strict, fail_rate,
-- straggle, note (function(text)), noise (of noise.parse), columns, time_unit (see formats.detect), passes (see
-- trace.open), slo and slo_class (see slo.lua), bound (boolean), warmup (seconds, or nil)
-- @return job, or nil and a message
function M.new(definition, args)
  local base, message = base_options(definition, args)
  if not base then return nil, message end
  local job = {
    base = base, speedup = args.speedup or 1, seed = args.seed or 1, fail_rate = args.fail_rate,
    straggle = args.straggle, warm_up_s = args.warmup, records = args.limit or arrivals.default_records,
  }
  local ok
  ok, message = open_arrivals(job, args)
  if not ok then return nil, message end
  if job.arrivals and job.arrivals.kind == "closed" and args.speedup then
    return nil, "--speedup: closed clients have no times to divide"
  end
  ok, message = open_device(job, args)
  if not ok then return nil, message end
  if args.noise then
    job.noise, message = noise.new(args.noise, job.service.fitted)
    if not job.noise then return nil, message end
  end
  job.slo, message = slo.parse { slo = args.slo, slo_class = args.slo_class, device = job.device }
  if job.slo == false then return nil, message end
  job.slo_s = job.slo and job.slo.number -- one for all, or nil
  if not args.bound then return job end
  job.bound, message = bound.of_job(job)
  if not job.bound then return nil, message end
  return job
end

--- Before a device that batches by itself a batch is one record, and as many run as can be, unless it is said
-- otherwise: whoever gathers records there makes each wait for the slowest.
M.BEFORE_DEVICE = { max_batch_size = 1, max_concurrent_batches = options.by_name.max_concurrent_batches.max }

-- A tb_config and the policy of a variant, checked as a batcher would.
local function configure(job, variant)
  local config, values = options.defaults()
  local given, speedup = {}, job.speedup
  for name, value in pairs(job.base) do given[name] = value end
  for _, setting in ipairs(variant.settings) do
    if setting.name == M.SPEEDUP then
      speedup = setting.value
    else
      local entry = options.by_name[setting.name]
      given[entry.name] = nil
      if entry.token_name then given[entry.token_name] = nil end
      given[setting.name] = setting.value
    end
  end
  if variant.policy ~= nil then given.policy = variant.policy end
  for name, value in pairs(job.device and M.BEFORE_DEVICE or {}) do
    if given[name] == nil then given[name] = value end
  end
  local ok, message = options.merge("TokenBatcher", given, config, values)
  if not ok then return nil, message end
  if values.on_error == "bisect" and (job.fail_rate or 0) > 0 then
    return nil, "--fail-rate: a batch that fails is not bisected here; leave on_error = 'fail'"
  end
  return config, values, speedup
end

local function settings_list(variant)
  local out = {}
  for i, setting in ipairs(variant.settings) do out[i] = { setting.name, setting.text } end
  return out
end

--- Everything of a variant that can be wrong before it runs. @return true, or nil and a message
function M.check(job, variant)
  local config, message = configure(job, variant)
  if not config then return nil, message end
  return true
end

local function new_source(job, speedup, part)
  if job.trace then return job.trace:source(speedup, part and part.first, part and part.count) end
  local seed, count = job.seed + (part and part.seed or 0), part and part.count or job.records
  return arrivals.source(job.arrivals, seed, speedup, count)
end

local function ignore() end

--- What has arrived, for people: rows, span, rate and the unit of times. @param span_s number|nil  of made-up arrivals
function M.arrivals_text(job, span_s)
  if job.trace then return job.trace:about(job.speedup) end
  local speed = job.speedup ~= 1 and (", %.14g times as fast"):format(job.speedup) or ""
  return ("%s%s (%s)"):format(job.arrivals.text, speed, trace.rate_text(job.records, span_s))
end

--- @param variant table  policy (or nil: the script's), policy_text, settings = list of {name, text, value}
-- @param how table|nil  progress (function), warn (function(text)), timeline, decisions, part {first, count, seed}:
-- of a
-- trace the rows to leave out and to use; of made-up arrivals the number and what is added to the seed
-- @return a row (see measure.lua), or nil and a message
function M.run(job, variant, how)
  how = how or {}
  local config, values, speedup = configure(job, variant)
  if not config then return nil, values end
  local seed = job.seed + (how.part and how.part.seed or 0)
  math.randomseed(seed) -- for policies that draw lots
  local ok, replayed = pcall(function()
    local source = new_source(job, speedup, how.part)
    return Replay.new({
      config = config, policy = values.resolved_policy, source = source, service = job.service,
      device = job.device, slo = job.slo or slo.of_option(values.resolved_slo), seed = seed,
      fail_rate = job.fail_rate, straggle = job.straggle, noise = job.noise and job.noise.walk(seed, source.from_s),
      timeline = how.timeline, decisions = how.decisions, warn = how.warn or ignore, warm_up_s = job.warm_up_s,
    }):run(how.progress)
  end)
  if not ok then return nil, errors.message_of(replayed) end
  if job.warm_up_s and replayed.warm_up.records == 0 then
    return nil, ("--warmup %g: the last record arrives after %.6g s"):format(job.warm_up_s, replayed:arrivals_span_s())
  end
  for _, remark in ipairs(replayed.serving and replayed.serving:remarks() or {}) do (how.warn or ignore)(remark) end
  local row = measure.row(replayed, variant.policy_text or values.resolved_policy.name, settings_list(variant))
  if job.bound then
    row.at_most = job.bound:share(function() return new_source(job, speedup, how.part) end, config, speedup, how.part,
      (job.warm_up_s or 0) * 1e6)
  end
  row.warm_up_s = job.warm_up_s
  row.has_slo = (job.slo or values.resolved_slo) and true or nil
  return row
end

--- Is an option swept twice, by whichever of its names? @return true, or nil and a message
function M.check_sweeps(sweeps)
  local seen = {}
  for _, sweep in ipairs(sweeps) do
    local entry = options.by_name[sweep.name]
    local name = entry and entry.name or sweep.name
    if seen[name] then return nil, ("--sweep %s is given twice"):format(sweep.name) end
    seen[name] = true
  end
  return true
end

-- Every combination of the sweeps' values, the last one changing fastest.
local function combinations(sweeps, i, settings, out)
  local sweep = sweeps[i]
  if not sweep then
    local copy = {}
    for k, setting in ipairs(settings) do copy[k] = setting end
    out[#out + 1] = copy
    return out
  end
  for _, value in ipairs(sweep.values) do
    settings[i] = { name = sweep.name, text = value.text, value = value.value }
    combinations(sweeps, i + 1, settings, out)
  end
  settings[i] = nil
  return out
end

--- All rows: policies, each with every combination of the sweeps.
-- @param chosen table  list of {text, value}; empty: the script's, or fifo
-- @param sweeps table  list of {name, values = list of {text, value}}
function M.variants(chosen, sweeps)
  local out, settings = {}, combinations(sweeps, 1, {}, {})
  for _, policy in ipairs(#chosen > 0 and chosen or { {} }) do
    for _, combination in ipairs(settings) do
      out[#out + 1] = { policy = policy.value, policy_text = policy.text, settings = combination }
    end
  end
  return out
end

return M
