--- tokenbatcher simulate: what would policies and settings have done to this traffic?

local compare = require "tokenbatcher.sim.compare"
local experiment = require "tokenbatcher.sim.experiment"
local flags = require "tokenbatcher.cli.simulation_flags"
local output = require "tokenbatcher.sim.output"
local tbffi = require "tokenbatcher.ffi"

local M = { SUMMARY = "Compare policies and settings over a trace, on a virtual clock." }

M.HELP = [[
Runs the batcher over a trace of arrivals on a virtual clock: the same core, options and policies
as in production; a service model stands in place of the inference function. One row for each
policy and each combination of what is swept. SCRIPT, if given, gives options and policy.
Latency runs from the time in the trace, waiting for room included; goodput is the share of all
arrivals answered within --slo. The same arrivals and seed give the same bytes.]]

M.EPILOG = [[
Traces: Azure LLM inference CSV (TIMESTAMP,ContextTokens,GeneratedTokens); Mooncake JSON lines
(timestamp in ms, input_length, output_length); recordings of ours (run --record, option record).

Arrivals: poisson:rate=200,tokens=lognormal(6,1)   gamma:rate=200,cv=4,tokens=512
          constant:rate=10                         closed:clients=64,think=exponential(0.5)
  each also output=D, keys=N (key k comes as often as 1/k says), timeout=D. D is a number of tokens or
  seconds, lognormal(mu,sigma), exponential(mean), gamma(mean,cv) or uniform(from,to).

Service: an expression over tokens (the batch's sum), padded (records x the largest), records,
  max_tokens, output_tokens (sum), max_output_tokens, with + - * / ^ ( ) and min max floor ceil sqrt log,
  in seconds; a file.lua that returns function(batch); or @RECORDING, fitted as tokenbatcher fit does.

Percentiles of latency and wait are within 0.2 %, of batch size and cost within 3 %; means and
maxima are exact. Fairness is Jain's index of the tokens served to keys that wait at the same time.
Exit status: 0 or 2.]]

--- Declare the flags. @param command an argparse command
function M.declare(command)
  flags.arrivals(command)
  flags.policies(command)
  command:option("--sweep", "Try each of these values of an option, or of speedup; may be repeated.")
    :argname("<option=v1,v2,...>"):count("*"):convert(flags.parse_sweep)
  command:option("--json", "Write the rows as JSON (- : standard output, in place of the table)."):argname "<file>"
  command:option("--csv", "Write the rows as CSV (- : the same)."):argname "<file>"
end

-- --- running ---------------------------------------------------------------------------

local function new_progress(n)
  if not tbffi.is_terminal(2) then return function() end, function() end end
  local function say(i, records)
    io.stderr:write(("\r\27[Krun %d of %d: %d records"):format(i, n, records))
  end
  return say, function() io.stderr:write "\r\27[K" end
end

local function warn(row)
  for _, text in ipairs(row.warnings) do io.stderr:write("tokenbatcher: ", compare.label(row), ": ", text, "\n") end
  if row.policy_errors > 0 then
    io.stderr:write(("tokenbatcher: %s: the policy raised %d errors; fifo decided those rounds\n"):format(
      compare.label(row), row.policy_errors))
  end
end

local function run_all(job, variants, timelines)
  local rows, progress, clear = {}, new_progress(#variants)
  for _, variant in ipairs(variants) do
    local ok, message = experiment.check(job, variant)
    if not ok then return nil, message end
  end
  for i, variant in ipairs(variants) do
    progress(i, 0)
    local row, message = experiment.run(job, variant, {
      progress = function(records) progress(i, records) end, timeline = timelines and timelines(i),
    })
    clear()
    if not row then return nil, message end
    warn(row)
    rows[i] = row
  end
  if job.trace and job.trace.bad > 0 then
    io.stderr:write(("tokenbatcher: %s: %d bad rows were left out\n"):format(job.trace.path, job.trace.bad))
  end
  return rows
end

local function write_file(path, text)
  if path == "-" then
    io.stdout:write(text)
    return true
  end
  local file, message = io.open(path, "wb")
  if not file then return nil, "cannot write: " .. message end
  local ok
  ok, message = file:write(text)
  if ok then ok, message = file:close() end
  if not ok then return nil, ("cannot write %s: %s"):format(path, message) end
  return true
end

local function header(job)
  local what = job.trace and ("%s (%s, %d rows)"):format(job.trace.path, job.trace.format.name, job.trace.rows)
    or job.arrivals.text
  local slo = job.slo_s and (", slo %.14g s"):format(job.slo_s) or ", no slo: goodput counts all answers"
  local speedup = job.speedup ~= 1 and (", %.14g times as fast"):format(job.speedup) or ""
  return ("%s%s, service %s%s\n\n"):format(what, speedup, job.service.text, slo)
end

-- The results to where they are asked for.
local function write_results(job, rows, args)
  local ok, message = true, nil
  if args.json then ok, message = write_file(args.json, output.json(rows)) end
  if ok and args.csv then ok, message = write_file(args.csv, output.csv(rows)) end
  if ok and args.json ~= "-" and args.csv ~= "-" then io.stdout:write(header(job), compare.text(rows)) end
  return ok, message
end

--- @return number exit status, or nil and a message
function M.run(definition, args)
  args.note = function(text) io.stderr:write("tokenbatcher: ", text, "\n") end
  local job, message = experiment.new(definition, args)
  if not job then return nil, message end
  local rows
  rows, message = run_all(job, experiment.variants(args.policy, args.sweep))
  if not rows then return nil, message end
  local ok
  ok, message = write_results(job, rows, args)
  if not ok then return nil, message end
  return 0
end

return M
