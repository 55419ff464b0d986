--- tokenbatcher check: load a script, try its estimator and policy on one record, say
-- what is missing.

local batcher_class = require "tokenbatcher.batching.batcher"
local check_input = require "tokenbatcher.cli.check_input"
local decode = require "tokenbatcher.cli.decode"
local errors = require "tokenbatcher.base.errors"
local flags = require "tokenbatcher.cli.run_flags"
local input = require "tokenbatcher.cli.input"
local output = require "tokenbatcher.cli.output_ffi"
local options = require "tokenbatcher.core.options"
local policies = require "tokenbatcher.policy"
local tb = require "tokenbatcher"

local M = {}

-- Under every name that a script is likely to look for.
local SAMPLE = [[{"text":"What is 2+2?","prompt":"What is 2+2?","question":"What is 2+2?",]]
  .. [["input":"What is 2+2?","content":"What is 2+2?"}]]

local function report(mark, ...)
  io.stdout:write(("%-5s"):format(mark), ...)
  io.stdout:write "\n"
end

-- What the inference function says of how it wants to be used: the values that its defaults have here.
local function tell_defaults(made, batcher)
  local fn = made.options.inference_fn or made.options.process_fn
  if type(fn) ~= "table" or type(fn.defaults) ~= "table" then return end
  local parts = {}
  for name, default in pairs(fn.defaults) do
    local value = batcher:option(name)
    parts[#parts + 1] = ("%s = %s"):format(name, tostring(value))
      .. (value ~= default and (" (not its default, %s)"):format(tostring(default)) or "")
  end
  table.sort(parts)
  report("ok", ("%s: %s"):format(fn.name or "the inference function's defaults", table.concat(parts, ", ")))
end

local function estimator_source(made)
  if made.options.token_estimator then return "token_estimator" end
  if made.options.cost_estimator then return "cost_estimator" end
  return nil
end

local function check_cost(batcher, made, record)
  local ok, value = pcall(batcher.estimate, batcher, record)
  if not ok then
    report("FAIL", errors.message_of(value))
    return false
  end
  local source = estimator_source(made)
  if source then
    report("ok", ("%s: the sample record costs %.14g"):format(source, value))
  elseif value ~= batcher:option "default_cost" then
    report("ok", ("the record's own estimate: the sample record costs %.14g"):format(value))
  else
    report("note", ("no token_estimator: a record costs %.14g (default_token_estimate) unless it has "
      .. "estimate_tokens()"):format(value))
  end
  if value > batcher:option "target_batch_cost" then
    report("note", ("the sample record alone exceeds target_batch_cost = %.0f")
      :format(batcher:option "target_batch_cost"))
  end
  return true
end

local MOST_CALLS, LONGEST_S = 10000, 3600

-- The script's policy, its calls counted and what it raises noted: {name, value, calls, raised}.
local function watched(value)
  local resolved = policies.resolve(value)
  local watch = { name = resolved.name, value = value, calls = 0, is_unchecked = policies.is_unchecked(resolved) }
  if resolved.in_core then return watch end
  local function remember(err)
    watch.raised = watch.raised or errors.message_of(err)
  end
  local function note(ok, result)
    if ok then return result end
    remember(result)
    error(result, 0)
  end
  watch.value = policies.watched(resolved, function(policy)
    local function form(queue, batch, now)
      watch.calls = watch.calls + 1
      if watch.calls > MOST_CALLS then return nil end
      return note(pcall(policy.form, queue, batch, now))
    end
    local on_complete = policy.on_complete and function(completed) return note(pcall(policy.on_complete, completed)) end
    return setmetatable({ form = form, on_complete = on_complete }, { __index = policy })
  end, remember)
  return watch
end

-- What the watched policy did wrong, or nil.
local function verdict(watch, stats)
  if watch.raised then return watch.raised end
  if watch.calls > MOST_CALLS then
    return ("it asks to be asked again, %d times, and has not dispatched the sample record"):format(MOST_CALLS)
  end
  if stats.policy_overruled > 0 then
    return "it names no record although the queue is due, so that the engine must overrule it"
  end
  if stats.total_completed < stats.total_submitted then
    return ("it asks to be asked again, and has not dispatched the sample record in %d s"):format(LONGEST_S)
  end
end

-- A few copies of the record go through a batcher with the script's knobs, on the virtual
-- clock, with an inference function that does nothing: the first lingers, the rest drain.
-- @return stats, refusal, or nil, nil and a message
local function try_policy(given, record)
  local batcher = tb.TokenBatcher(given)
  local ok, message = pcall(batcher.start, batcher) -- makes the policy
  if not ok then return nil, nil, errors.message_of(message) end
  local future, refusal = batcher:submit(record)
  if future then
    future:await(LONGEST_S)
    for _ = 1, 3 do batcher:try_submit(record) end
  end
  batcher:stop { timeout_s = LONGEST_S }
  return batcher.stats, refusal
end

local function check_policy(made, record)
  local given = {}
  for name, value in pairs(made.options) do given[name] = value end
  local watch = watched(given.policy or options.by_name.policy.default)
  given.process_fn, given.inference_fn = nil, check_input.stand_in(given.inference_fn or given.process_fn)
  given.policy, given.log, given.record = watch.value, function() end, nil
  local ok, stats, refusal, problem = pcall(tb.run, function() return try_policy(given, record) end,
    { clock = "virtual" })
  local policy = "policy " .. watch.name .. ": "
  if not ok then problem = errors.message_of(stats) end
  problem = problem or verdict(watch, stats)
  if problem then
    report("FAIL", policy, problem)
    return false
  elseif refusal then
    report("note", "the sample record is refused: ", errors.text(refusal))
  else
    report("ok", policy, "it dispatched the sample record")
  end
  if watch.is_unchecked then
    report("note", policy, "a function, whose parameters are not checked; a table {parameters = {...}, "
      .. "new = function(p) ... end} has them checked")
  end
  return true
end

-- The first line of an input that is one.
local function first_record(source, made)
  while true do
    local line = source:next()
    if not line then return nil end
    local _, problem = decode.record(made.decode, line)
    if line:find "%S" and not problem then return line end
  end
end

-- The line to try, and whether it is the user's: of the input, where that can be read twice; or nil, nil and a message.
local function sample_of(made, args)
  if args.sample then return args.sample, true end
  if not args.input or args.input == "-" or output.is_other(args.input) then return SAMPLE, false end
  local source, message = input.open(args.input)
  if not source then return nil, nil, message end
  local line = first_record(source, made)
  return line or SAMPLE, line ~= nil
end

local function check_all(made, args)
  local found, message = check_input.read(args.input, made, args.fields)
  if found then return check_input.tell(found, report) and 0 or 1 end
  report("FAIL", message)
  return 2
end

--- @param args table  given, overrides, sample (a line, or nil), input, and those of flags.declare_records
-- @return number exit status: 0, 1 (bad lines in the input) or 2
function M.run(definition, args)
  flags.complete_records(args)
  local made, message = flags.build(definition, args)
  local ok, batcher
  if made then
    ok, batcher = pcall(batcher_class.TokenBatcher, made.options)
    message = not ok and errors.text(batcher) or nil
  end
  if message then
    report("FAIL", message)
    return 2
  end
  report("ok", definition.path, ": options are valid; inference_fn is there (it is not called)")
  tell_defaults(made, batcher)
  local sample, is_given, record, problem
  sample, is_given, problem = sample_of(made, args)
  if not sample then
    report("FAIL", problem)
    return 2
  end
  record, problem = decode.record(made.decode, sample)
  if problem then
    report("FAIL", problem, " (give a line of your input with --sample)")
    return 2
  end
  if not check_cost(batcher, made, record) then
    if not is_given then report("note", "give a line of your input with --sample if its fields differ") end
    return 2
  end
  if not check_policy(made, record) then return 2 end
  if made.submit_options then report("ok", "submit_options: the script's") end
  report("ok", "decode: ", made.decode and "the script's" or "JSON lines", "; encode: ",
    made.encode and "the script's" or "JSON lines")
  return args.input and check_all(made, args) or 0
end

return M
