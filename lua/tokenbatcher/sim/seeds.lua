--- How sure are the figures? Several runs in place of one, and what they say together.
--
-- Arrivals that are made up are made again with other seeds: seed k is the same for every policy, so that policies are
-- compared by their differences over the same arrivals, in which what the arrivals did has no part. A trace
-- has happened once. It is cut into as many pieces, run each for itself (from an empty queue), and the pieces stand
-- for runs, as far as one hour can for others like it; the figures themselves are those of the whole trace.
-- Where only the device draws lots (--noise blocks), the whole trace runs with other lots.
--
-- An interval is the mean and Student's t times the standard error: of independent runs it holds the true mean in 95
-- of 100 cases, of a p99 in fewer, where runs are short or the device is near its limit: hence the notes.

local compare = require "tokenbatcher.sim.compare"
local experiment = require "tokenbatcher.sim.experiment"
local measure = require "tokenbatcher.sim.measure"

local M = {}

local LATE, BUSY = 100, 0.85 -- answers behind a p99; share of the time: what a note is made of
local LABEL_WIDTH, CELL_WIDTH = 30, 21

-- --- intervals --------------------------------------------------------------------

-- The 97.5th percentile of Student's t for 1 .. 30 degrees of freedom.
local T = { 12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604,
  2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518,
  2.0484, 2.0452, 2.0423 }
local Z = 1.959964

-- Beyond the table by the expansion of Cornish and Fisher.
local function student_t(freedom)
  return T[freedom] or Z + (Z ^ 3 + Z) / (4 * freedom) + (5 * Z ^ 5 + 16 * Z ^ 3 + 3 * Z) / (96 * freedom ^ 2)
end

--- Mean of values, and half of its 95 % interval. @param values number[]  @return mean, half (nil of a single one)
function M.interval(values)
  local n, sum, squares = #values, 0, 0
  if n == 0 then return nil end
  for i = 1, n do sum = sum + values[i] end
  local mean = sum / n
  if n == 1 then return mean end
  for i = 1, n do squares = squares + (values[i] - mean) ^ 2 end
  return mean, student_t(n - 1) * math.sqrt(squares / (n - 1) / n)
end

-- --- rows -------------------------------------------------------------------------

-- What a figure rests on: a run in which there was none of it has 0 there, which is no figure.
local RESTS_ON = { latency_s = "completed", ttft_s = "completed", e2e_s = "completed", wait_s = "batches",
  batch_size = "batches", batch_cost = "batches", padding_ratio = "batches" }
local OF_FURTHER_TOKENS = { tpot_s = true, tbt_max_s = true }

local function is_measured(row, name)
  if OF_FURTHER_TOKENS[name] then return row.has_tpot ~= false end
  return not RESTS_ON[name] or row[RESTS_ON[name]] ~= 0
end

-- A figure of a run, or nil: it has none.
local function value_of(row, name, part)
  local value = row[name]
  if part and value then value = value[part] end
  return type(value) == "number" and value or nil
end

-- Of the runs that have measured it.
local function measured_of(rows, name, part)
  local out = {}
  for _, row in ipairs(rows) do out[#out + 1] = is_measured(row, name) and value_of(row, name, part) or nil end
  return out
end

-- The same; where no run has, what they say all the same.
local function values_of(rows, name, part)
  local out = measured_of(rows, name, part)
  if #out > 0 then return out end
  for _, row in ipairs(rows) do out[#out + 1] = value_of(row, name, part) end
  return out
end

-- A row of what pick(values) makes of every number in rows.
local function each_number(rows, pick)
  local out = {}
  for _, field in ipairs(measure.FIELDS) do
    if type(field) == "string" then
      out[field] = pick(values_of(rows, field))
    elseif rows[1][field[1]] then
      out[field[1]] = {}
      for _, part in ipairs(field[2]) do out[field[1]][part] = pick(values_of(rows, field[1], part)) end
    end
  end
  return out
end

local function mean_row(rows)
  local out = each_number(rows, function(values) return (M.interval(values)) end)
  for name, value in pairs(rows[1]) do
    if out[name] == nil and type(value) ~= "number" then out[name] = value end
  end
  out.arrivals_span_s, out.arrivals = rows[1].arrivals_span_s, rows[1].arrivals
  for _, row in ipairs(rows) do
    out.policy_disabled, out.has_tpot = out.policy_disabled or row.policy_disabled, out.has_tpot or row.has_tpot
  end
  return out
end

-- --- runs -------------------------------------------------------------------------

-- What run i of n is a part of, see experiment.run.
local function part_of(job, kind, i, n)
  if kind == "pieces" then
    local total = job.trace.rows
    local first = math.floor(total * (i - 1) / n)
    return { first = first, count = math.floor(total * i / n) - first, seed = i - 1 }
  end
  return { first = 0, count = job.arrivals and job.records or nil, seed = i - 1 }
end

local function kind_of(job)
  if job.arrivals then return "seeds" end
  return job.noise and job.noise.draws and "draws" or "pieces"
end

--- How many runs over the arrivals there will be for a variant.
function M.runs(job_is_trace, n)
  return n == 1 and 1 or job_is_trace and n + 1 or n
end

--- Like experiment.run, n times. @param n number  1: the very same
-- @return a row, with per_seed (the n rows), half_width (a row of numbers) and seeds {n, kind ("seeds", "pieces", or
-- "draws": of noise), first, is_range (it is told how far the runs are apart)}; or nil and a message
function M.run(job, variant, n, how)
  local whole, message
  local kind = kind_of(job)
  if n == 1 or kind == "pieces" then
    whole, message = experiment.run(job, variant, how)
    if not whole or n == 1 then return whole, message end
    if job.trace.rows < n then
      return nil, ("--seeds: a trace of %d rows has no %d pieces"):format(job.trace.rows, n)
    end
  end
  local rows = {}
  for i = 1, n do
    local is_shown = i == 1 and not whole
    rows[i], message = experiment.run(job, variant, { part = part_of(job, kind, i, n), warn = how.warn,
      timeline = is_shown and how.timeline or nil, progress = how.progress })
    if not rows[i] then return nil, message end
  end
  local row = whole or mean_row(rows)
  row.per_seed, row.seeds = rows, { n = n, kind = kind, first = job.seed,
    is_range = job.noise ~= nil and job.noise.draws }
  row.half_width = each_number(rows, function(values) return (select(2, M.interval(values))) end)
  return row
end

-- --- what people read ----------------------------------------------------------------

-- {heading, field, part, factor}
local COLUMNS = {
  { "goodput %", "goodput", nil, 100 }, { "mean s", "latency_s", "mean", 1 }, { "p99 s", "latency_s", "p99", 1 },
  { "records/s", "throughput", nil, 1 },
}
local DEVICE_COLUMNS = {
  { "goodput %", "goodput", nil, 100 }, { "ttft mean s", "ttft_s", "mean", 1 }, { "ttft p99 s", "ttft_s", "p99", 1 },
  { "tpot mean s", "tpot_s", "mean", 1 },
}

-- As many places behind the point as make two digits of `grain`.
local function places_for(grain)
  if grain <= 0 then return 3 end
  return math.min(6, math.max(0, 1 - math.floor(math.log10(grain))))
end

local function interval_text(values, factor)
  local mean, half = M.interval(values)
  if not mean then return "-" end
  if not half then return ("%.3f (one run)"):format(mean * factor) end
  local form = "%." .. places_for(half * factor) .. "f"
  return (form .. " +-" .. form):format(mean * factor, half * factor)
end

-- The difference is sure if its interval does not hold 0.
local function difference_text(values, factor)
  local mean, half = M.interval(values)
  if not half then return "-" end
  local form = places_for(half * factor)
  return ("%+." .. form .. "f +-%." .. form .. "f%s"):format(mean * factor, half * factor,
    math.abs(mean) > half and "*" or " ")
end

-- The middle of all runs, and where 90 of 100 are.
local function range_text(values, factor)
  if #values == 0 then return "-" end
  table.sort(values)
  local function at(share) return factor * values[math.max(1, math.ceil(share * #values - 1e-9))] end
  local form = "%." .. places_for(at(0.95) - at(0.05)) .. "f"
  return (form .. " (" .. form .. " to " .. form .. ")"):format(at(0.5), at(0.05), at(0.95))
end

local function line(label, width, cells)
  local text = ("%-" .. width .. "s"):format(label)
  if #label > width then text = label .. "\n" .. (" "):rep(width) end
  for _, one in ipairs(cells) do text = text .. (" %" .. CELL_WIDTH .. "s"):format(one) end
  return (text:gsub("%s+$", ""))
end

local function of_row(row, column)
  return measured_of(row.per_seed, column[2], column[3])
end

local function differences(row, base, column)
  local name, part, out = column[2], column[3], {}
  for i, one in ipairs(row.per_seed) do
    local other = base.per_seed[i]
    local is_pair = other and is_measured(one, name) and is_measured(other, name)
    local a, b = is_pair and value_of(one, name, part), is_pair and value_of(other, name, part)
    if a and b then out[#out + 1] = a - b end
  end
  return out
end

-- Lines of a block. @param values function(row, column)  @param text function(values, factor)
local function block(out, rows, width, values, text)
  local headings, columns = {}, rows[1].ttft_s and DEVICE_COLUMNS or COLUMNS
  for i, column in ipairs(columns) do headings[i] = column[1] end
  out[#out + 1] = line("", width, headings)
  for _, row in ipairs(rows) do
    local cells = {}
    for i, column in ipairs(columns) do cells[i] = text(values(row, column), column[4]) end
    out[#out + 1] = line(compare.label(row), width, cells)
  end
end

local KINDS = {
  seeds = "%d seeds, %.14g to %.14g", pieces = "%d pieces of the trace, each for itself",
  draws = "%d draws of the noise, seeds %.14g to %.14g",
}
local PAIRS = { seeds = "seed by seed", pieces = "piece by piece", draws = "draw by draw" }

--- The intervals of rows, and of the differences to the first; "" where there is one run of each.
function M.text(rows)
  local seeds, width = rows[1].seeds, 12
  if not seeds then return "" end
  for _, row in ipairs(rows) do width = math.max(width, math.min(LABEL_WIDTH, #compare.label(row))) end
  local what = KINDS[seeds.kind]:format(seeds.n, seeds.first, seeds.first + seeds.n - 1)
  local out = { what .. (seeds.is_range and ": the middle one, and where 90 of 100 are"
    or ": means, and half of their 95 % intervals") }
  block(out, rows, width, of_row, seeds.is_range and range_text or interval_text)
  if #rows > 1 then
    out[#out + 1] = ("\nless %s, %s over the same arrivals (*: the interval does not hold 0)"):format(
      compare.label(rows[1]), PAIRS[seeds.kind])
    block(out, { unpack(rows, 2) }, width, function(row, column) return differences(row, rows[1], column) end,
      difference_text)
  end
  return table.concat(out, "\n") .. "\n"
end

-- Which rows are meant, for people, and how many they are.
local function labels(rows, is_meant)
  local out = {}
  for _, row in ipairs(rows) do
    if is_meant(row) then out[#out + 1] = compare.label(row) end
  end
  local text = table.concat(out, ", ")
  if #out == #rows and #rows > 1 then text = "all rows" end
  return #text <= LABEL_WIDTH and text or ("%d of %d rows"):format(#out, #rows), #out
end

--- What keeps the figures of rows from being trusted: a list of sentences.
function M.notes(rows)
  local out, least = {}, math.huge
  local function is_short(row) return row.completed > 0 and row.completed / 100 < LATE end
  for _, row in ipairs(rows) do
    if is_short(row) then least = math.min(least, math.ceil(row.completed / 100)) end
  end
  local who, n = labels(rows, is_short)
  if n > 0 then
    out[1] = ("p99 rests on the %d slowest answers (%s); at the least %d, of %d, make one to trust"):format(least, who,
      LATE, 100 * LATE)
  end
  who, n = labels(rows, function(row) return row.utilization > BUSY end)
  if n > 0 then
    out[#out + 1] = ("busy above %.0f %% (%s): latencies hang on how long the run is, and intervals are too narrow")
      :format(100 * BUSY, who)
  end
  return out
end

return M
