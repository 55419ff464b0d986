--- tokenbatcher simulate: what would policies and settings have done to this traffic?

local capacity = require "tokenbatcher.sim.capacity"
local compare = require "tokenbatcher.sim.compare"
local gnuplot = require "tokenbatcher.sim.gnuplot"
local errors = require "tokenbatcher.base.errors"
local decisions = require "tokenbatcher.sim.decisions"
local experiment = require "tokenbatcher.sim.experiment"
local flags = require "tokenbatcher.cli.simulation_flags"
local html = require "tokenbatcher.sim.html"
local noise = require "tokenbatcher.sim.noise"
local output = require "tokenbatcher.sim.output"
local seeds = require "tokenbatcher.sim.seeds"
local sha256 = require "tokenbatcher.base.sha256"
local plot = require "tokenbatcher.sim.plot"
local tb = require "tokenbatcher"
local timeline = require "tokenbatcher.sim.timeline"
local timeline_plot = require "tokenbatcher.sim.timeline_plot"
local tbffi = require "tokenbatcher.core.ffi"

local BAR_WIDTH = 30
local MAX_TIMELINES = 24 -- in a report

local M = { SUMMARY = "Compare policies and settings over a trace, on a virtual clock." }

M.HELP = [[
Runs the batcher over a trace of arrivals on a virtual clock: the same core, options and policies
as in production; a service model stands in place of the inference function. One row for each
policy and each combination of what is swept. SCRIPT, if given, gives options and policy.
Latency runs from the time in the trace, waiting for room included; goodput is the share of all
arrivals answered within --slo. The same arrivals and seed give the same bytes.]]

M.EPILOG = [[
Traces, known by their first line: Azure LLM inference CSV (2023 to 2025), BurstGPT, Splitwise-sim and
Vidur CSV; Mooncake (times in ms), Bailian (in s) and LLMServingSim JSON lines; the JSON of vLLM's
benchmark (detailed); recordings of ours (run --record, option record). Of others --columns says what
is what, as --columns time=arrival_s,cost=usage.prompt_tokens,output=usage.completion_tokens with
--time-unit s: columns of CSV with a header, or fields of JSON lines, dotted where they are inside of
others; beside time, cost and output there are key, group, priority and class. Some of them suffice
where the rest is known. Rows that are out of order by up to 1000 places are sorted. - is standard
input; what is read more than once (more than one policy or setting) must fit into 65536 rows there.
What is compressed by gzip is decompressed.
A row of JSON may have a "record" in place of a cost: then SCRIPT's token_estimator gives it.
To a policy, queue:record(i) is the row's "record"; where a row has none, it is nil.

Arrivals:
  poisson:rate=200,tokens=lognormal(6,1)    independent ones, 200 a second
  gamma:rate=200,cv=4,tokens=512            the gaps vary: above 1 it is bursty
  constant:rate=10                          one every 0.1 s
  closed:clients=64,think=exponential(0.5)  each client asks again when it is answered
Each takes output=D, keys=N (key k comes as often as 1/k says) and timeout=D, too. D is a number of
tokens or seconds, lognormal(mu,sigma), exponential(mean), gamma(mean,cv) or uniform(from,to); for
tokens and output also @FILE, the lengths of a trace, or a number a line (cost, or cost,output), drawn
by lot, the output with its cost.

Service, in seconds: an expression over
  tokens       the sum of the batch's costs      max_tokens         the largest of them
  padded       records x the largest             output_tokens      the sum of what comes out
  records      how many                          max_output_tokens  the largest of that
  kv_steps     the KV tokens read if the batch is decoded token by token: over its records,
               prompt x (output - 1) + output x (output - 1) / 2
with + - * / ^ ( ) and min max floor ceil sqrt log; a FILE.lua that returns function(batch), with
these as fields; or @RECORDING, fitted as tokenbatcher fit does; or @FILE, what fit printed. A recorded
device has been slow at times: --noise replay is as slow at the same times (give the recording as
--trace, too, and the recorded latencies come back), --noise blocks draws pieces of that by lot, for 20
seeds at the least, and the range is printed.

With --seeds N each runs N times (a trace: N pieces of it), and intervals are printed, and those of the
differences to the first row over the same arrivals, which are what policies should be compared by.

Device, in place of --service: a server that batches by itself, as vLLM does. It takes records as
they come (max_batch_size = 1, max_concurrent_batches = 1024, unless set), needs output tokens, and is
  preset:NAME       one that ships, see tokenbatcher devices; changes behind a comma: ,seqs=64
  continuous:a=16.6ms,b=33us,c=37us,d=0.144us,seqs=256,tokens=2048,kv=41408,admit=known
An iteration takes a + b x prompt tokens + c x sequences decoding + d x their KV tokens; and optional
terms: over x what is above knee tokens, head x sequences, decode if any decodes, context x prompt
tokens x the tokens before each. At most seqs sequences and tokens tokens take part, the KV cache
holds kv tokens in blocks of block (16). admit=known: who comes in must fit as far as it is known, the
last one is preempted when blocks run out (vLLM); reserve: prompt and output (at least max_output) are
reserved (TensorRT-LLM). factor=1.08: all takes so much longer. Times are seconds, or have s, ms, us.
Reported: ttft (first token), tpot (time per further token), e2e (last token), tbt max (longest time
between two tokens of one record).

--slo is a number of seconds, or an expression over tokens, output_tokens and priority of a record, as
0.25 + 0.00016*tokens; before a device also a condition over ttft, tpot and e2e, as
"ttft <= 0.25 + 0.00016*tokens and tpot <= 0.05". --slo-class chat=0.5 is for records of a class.
Without --slo a recording's own counts, or the option slo; policies read it as queue:slo(i).
Goodput is the share of all arrivals that meet it, good/s how many a second do. --bound adds the
column "at most": no scheduler, one that knows the future included, answers more within --slo.
It needs a --service that is a sum of products, as 0.02 + 0.00005*tokens. --find-capacity 0.99 finds,
for each policy, the highest speedup at which that share is on time (with --seeds: its lower limit),
to 1 %; what follows is at that.

Percentiles of latency and wait are within 0.2 %, of batch size and cost within 3 %; means and
maxima are exact. Fairness is Jain's index of the tokens served to keys that wait at the same
time. Exit status: 0, 1 if a policy was disabled, or 2.]]

--- Declare the flags. @param command an argparse command
function M.declare(command)
  flags.arrivals(command)
  flags.policies(command)
  command:option("--sweep", "Try each of these values of an option, or of speedup; may be repeated.")
    :argname("<option=v1,v2,...>"):count("*"):convert(flags.parse_sweep)
  command:option("--seeds", "Run each with so many seeds (a trace: in so many pieces), for intervals (default: 1).")
    :argname("<n>"):convert(flags.parse_seeds)
  command:option("--warmup", "Do not count what arrives in the first so many seconds of a run.")
    :argname("<s>"):convert(flags.parse_warmup)
  command:option("--decisions", "Write a JSON line for each batch: time, queue, who was picked, why; and for waits.")
    :argname "<file>"
  command:option("--find-capacity", "Find the highest rate at which this share is on time, as 0.99, by speeding up.")
    :argname("<share>"):convert(flags.parse_share)
  command:flag("--bound", "Say how many answers any scheduler can give within --slo, at the most.")
  command:option("--json", "Write the rows as JSON (- : standard output, in place of the table)."):argname "<file>"
  command:option("--csv", "Write the rows as CSV (- : the same)."):argname "<file>"
  command:option("--plot", "Draw latency distributions and latency against throughput: .svg or .png.")
    :argname "<file>"
  command:option("--timeline", "Draw the queue and the batches over time: .svg or .png."):argname "<file>"
  command:option("--window", "What part of time --timeline shows, in seconds of the run (default: all).")
    :argname("<from:to>"):convert(flags.parse_window)
  command:option("--report", "Write one HTML page: the table, and pictures to zoom into and to compare.")
    :argname "<file>"
end

-- --- running ---------------------------------------------------------------------------

-- A line on a terminal: which run, and how far it is, once it is known how many arrivals there are.
local function new_progress(job, n)
  if not tbffi.is_terminal(2) then return function() end, function() end end
  local function say(i, records)
    local total = job.arrivals and job.records or job.trace.is_known and job.trace.rows
    local bar = ""
    if total then
      local done = math.min(1, records / total)
      local filled = math.floor(done * BAR_WIDTH)
      bar = ("[%s%s] %3d %%  "):format(("#"):rep(filled), ("."):rep(BAR_WIDTH - filled), math.floor(100 * done))
    end
    io.stderr:write(("\r\27[Krun %d of %d  %s%d records"):format(i, n, bar, records))
  end
  return say, function() io.stderr:write "\r\27[K" end
end

local function tell_errors(row)
  if row.policy_errors > 0 then
    io.stderr:write(("tokenbatcher: %s: the policy raised %d errors; fifo decided those rounds\n"):format(
      compare.label(row), math.ceil(row.policy_errors)))
  end
end

-- What is left to say when all has run.
local function tell_rest(job)
  for _, name in ipairs(job.slo and job.slo:unused_classes() or {}) do
    io.stderr:write(("tokenbatcher: --slo-class %s: no record is of this class\n"):format(name))
  end
  if job.trace and job.trace.bad > 0 then
    io.stderr:write(("tokenbatcher: %s: %d bad %s left out\n"):format(job.trace.path, job.trace.bad,
      job.trace.bad == 1 and "row was" or "rows were"))
  end
end

local function run_all(job, variants, timelines, n, decided)
  local rows, progress, clear = {}, new_progress(job, #variants)
  local note = flags.noting(clear)
  for _, variant in ipairs(variants) do
    local ok, message = experiment.check(job, variant)
    if not ok then return nil, message end
  end
  for i, variant in ipairs(variants) do
    progress(i, 0)
    if decided then decided:begin(variant.policy_text or "script") end
    local row, message = seeds.run(job, variant, n, {
      progress = function(records) progress(i, records) end, timeline = timelines[i], warn = note,
      decisions = decided,
    })
    clear()
    if not row then return nil, message end
    tell_errors(row)
    row.capacity = variant.capacity
    rows[i] = row
  end
  tell_rest(job)
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

-- Of a preset, what it is and what is known of it.
local function device_facts(device)
  if not device.name then return { { "device", device.text } } end
  local changed = device.factor ~= 1 and (", factor %.6g"):format(device.factor) or ""
  return {
    { "device", ("preset:%s: %s%s"):format(device.name, device.about, changed) },
    { "", "as " .. device.text }, { "", device.checked },
  }
end

-- What was run, as {name, text}.
local function facts(job, rows)
  local out = { { "arrivals", experiment.arrivals_text(job, rows[1].arrivals_span_s) } }
  local noisy = job.noise and ", noise: " .. job.noise.text or ""
  local times = job.device and device_facts(job.device) or { { "service", job.service.text .. " s" .. noisy } }
  for _, fact in ipairs(times) do out[#out + 1] = fact end
  out[#out + 1] = { "slo", job.slo and job.slo.text or job.base.slo and "the option slo"
    or "none: goodput counts all answers, but of records that have an slo of their own" }
  if job.warm_up_s then
    out[#out + 1] = { "warmup", ("%g s: who arrives before is simulated, and not counted"):format(job.warm_up_s) }
  end
  return out
end

local function header(job, rows)
  local lines = {}
  for i, fact in ipairs(facts(job, rows)) do lines[i] = ("%-9s %s\n"):format(fact[1], fact[2]) end
  return table.concat(lines) .. "\n"
end

local function notes_text(rows)
  local lines = {}
  for i, note in ipairs(seeds.notes(rows)) do lines[i] = "note      " .. note .. "\n" end
  return table.concat(lines)
end

local function labels_of(rows)
  local out = {}
  for i, row in ipairs(rows) do out[i] = compare.label(row) end
  return out
end

local function write_report(job, rows, timelines, path)
  local about = facts(job, rows)
  for _, note in ipairs(seeds.notes(rows)) do about[#about + 1] = { "note", note } end
  if #timelines == 0 then
    about[#about + 1] = { "timelines", ("left out: there are more than %d runs"):format(MAX_TIMELINES) }
  end
  return write_file(path, html.page(rows, about, timelines, job.slo_s))
end

-- With what, of what and by which command intervals were made.
local function provenance(args)
  if args.seeds == 1 then return nil end
  local version = tb._VERSION
  return {
    version = version, command = "tokenbatcher " .. table.concat(args.words, " "),
    trace_sha256 = args.trace and args.trace ~= "-" and sha256.of_file(args.trace) or nil,
  }
end

-- The table, intervals and what is to be said of them.
local function write_table(job, rows)
  io.stdout:write(header(job, rows), compare.text(rows))
  for _, text in ipairs { seeds.text(rows), notes_text(rows) } do
    if text ~= "" then io.stdout:write("\n", text) end
  end
end

-- The results to where they are asked for.
local function write_results(job, rows, timelines, args)
  local ok, message = true, nil
  if args.json then ok, message = write_file(args.json, output.json(rows, provenance(args))) end
  if ok and args.csv then ok, message = write_file(args.csv, output.csv(rows)) end
  if ok and args.plot then ok, message = gnuplot.draw(args.plot, plot.script(rows, job.slo_s)) end
  if ok and args.timeline then
    ok, message = gnuplot.draw(args.timeline, timeline_plot.script(timelines, labels_of(rows)))
  end
  if ok and args.report then ok, message = write_report(job, rows, timelines, args.report) end
  if ok and args.json ~= "-" and args.csv ~= "-" then write_table(job, rows) end
  return ok, message
end

local OUTPUTS = { "json", "csv", "plot", "timeline", "report", "decisions" }

-- What is read must not be written over, nor one result by another.
local function check_files(definition, args)
  local model = args.service and args.service:gsub("^@", "")
  local read = { { "trace", args.trace }, { "service model", model }, { "script", definition and definition.path } }
  for i, flag in ipairs(OUTPUTS) do
    local path = args[flag]
    for k = 1, path and 3 or 0 do
      local what, name = read[k][1], read[k][2]
      if name and tbffi.are_same_file(name, path) then return nil, ("--%s: %s is the %s"):format(flag, path, what) end
    end
    for k = 1, path and i - 1 or 0 do
      if args[OUTPUTS[k]] == path then
        return nil, ("--%s and --%s cannot both be %s"):format(OUTPUTS[k], flag, path)
      end
    end
  end
  return true
end

-- What cannot be drawn is said before anything runs.
local function check_pictures(args, runs)
  for _, flag in ipairs { "plot", "timeline" } do
    local ok, message = true, nil
    if args[flag] then ok, message = gnuplot.format_of(args[flag]) end
    if not ok then return nil, ("--%s: %s"):format(flag, message) end
  end
  if args.timeline and runs > timeline_plot.MAX_RUNS then
    return nil, ("--timeline draws up to %d runs, there are %d"):format(timeline_plot.MAX_RUNS, runs)
  end
  if args.window and not (args.timeline or args.report) then return nil, "--window is for --timeline and --report" end
  if args.plot or args.timeline then return gnuplot.check() end
  return true
end

-- One draw of noise says nothing: it is a range that is asked for.
local function check_seeds(args)
  local draws = args.noise and args.noise.kind == "blocks"
  args.seeds = args.seeds or draws and noise.LEAST_DRAWS or 1
  if not draws or args.seeds >= noise.LEAST_DRAWS then return true end
  return nil, ("--noise blocks needs --seeds of %d or more: it tells a range"):format(noise.LEAST_DRAWS)
end

--- @return number exit status, or nil and a message
-- What --find-capacity may not go with, or nil.
local function capacity_conflict(job, args)
  if not job.slo then return "--find-capacity: an --slo is needed" end
  if job.arrivals and job.arrivals.kind == "closed" then return "--find-capacity: closed clients have no rate" end
  for _, sweep in ipairs(args.sweep) do
    if sweep.name == experiment.SPEEDUP then return "--find-capacity varies speedup: --sweep something else" end
  end
end

-- Each variant at the highest rate that it can take. @return variants, a text; or nil and a message
local function find_capacity(job, variants, args)
  local problem = capacity_conflict(job, args)
  if problem then return nil, problem end
  local out, found, note = {}, {}, flags.noting(function() end)
  for i, variant in ipairs(variants) do
    local ok, one = pcall(capacity.find, variant, job.speedup, args.find_capacity, function(at)
      return seeds.run(job, at, args.seeds, { warn = note })
    end)
    if not ok then return nil, errors.message_of(one) end
    if type(one) == "table" then one.variant.capacity = capacity.figures(one, args.find_capacity) end
    local label = compare.label { policy = variant.policy_text or "the script's policy", settings = {} }
    for _, setting in ipairs(variant.settings) do label = ("%s %s=%s"):format(label, setting.name, setting.text) end
    found[i] = { label, one }
    if type(one) == "table" then out[#out + 1] = one.variant end
  end
  return out, capacity.text(found, args.find_capacity)
end

function M.run(definition, args)
  args.note = function(text) io.stderr:write("tokenbatcher: ", text, "\n") end
  local ok, problem = check_files(definition, args)
  if not ok then return nil, problem end
  ok, problem = check_seeds(args)
  if not ok then return nil, problem end
  local variants = experiment.variants(args.policy, args.sweep)
  args.passes = #variants * seeds.runs(args.trace ~= nil, args.seeds) * (args.find_capacity and 2 or 1)
  local job, message = experiment.new(definition, args)
  if not job then return nil, message end
  ok, problem = experiment.check_sweeps(args.sweep)
  if not ok then return nil, problem end
  if args.find_capacity then
    variants, problem = find_capacity(job, variants, args)
    if not variants then return nil, problem end
    local is_data = args.json == "-" or args.csv == "-"
    io[is_data and "stderr" or "stdout"]:write(problem, "\n")
    if #variants == 0 then
      ok, problem = write_file(args.json or "-", args.json and output.json {} or "")
      return ok and 0 or nil, problem
    end
  end
  local timelines = {}
  ok, problem = check_pictures(args, #variants)
  if not ok then return nil, problem end
  if args.timeline or args.report and #variants <= MAX_TIMELINES then
    for i = 1, #variants do timelines[i] = timeline.new(args.window) end
  end
  local rows
  local decided
  if args.decisions then
    if args.seeds > 1 then return nil, "--decisions is of one run: not with --seeds" end
    decided, message = decisions.open(args.decisions)
    if not decided then return nil, message end
  end
  rows, message = run_all(job, variants, timelines, args.seeds, decided)
  if decided and rows then ok, problem = decided:close() end
  if not rows or not ok then return nil, message or problem end
  ok, message = write_results(job, rows, timelines, args)
  if not ok then return nil, message end
  return flags.status(rows)
end

return M
