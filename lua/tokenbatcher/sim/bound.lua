--- What no scheduler can exceed, clairvoyant ones included: the most records that can be answered within their SLOs.
--
-- It is a bound, not a plan. A batch in which somebody is answered on time lasts no longer than his SLO, so it holds
-- no more than C = min(budget, (slo - a) / b) tokens, and each record in it can be charged its tokens' share of a, a x
-- cost / C, beside b x cost: no device time is charged twice. What is left are jobs of that much work, each to be done
-- between its arrival and its due time, one after another, by one machine as fast as all slots together. How many
-- of them can be in time is known exactly where due times come in the order of arrivals (Kise, Ibaraki and Mine,
-- 1978); where SLOs differ, each due time is raised to the latest one before it, which only helps.

local tbffi = require "tokenbatcher.core.ffi"

local Bound = {}
Bound.__index = Bound

local max, min = math.max, math.min

local M = {}

-- --- what a batch takes, at the least -----------------------------------------------------

-- The next factor of a product, from `at` on. @return number or name, where it ends
local function factor_at(text, at)
  local number = text:match("^%d+%.?%d*[eE][+-]?%d+", at) or text:match("^%d+%.?%d*", at) or text:match("^%.%d+", at)
  local word = number or text:match("^[%a_][%w_]*", at)
  return word and (tonumber(number) or word), word and at + #word
end

-- A product of numbers and names. @return coefficient, names, where it ends; nil: it is none
local function product_at(text, at)
  local coefficient, names, divides = 1, {}, false
  while true do
    local factor, to = factor_at(text, at)
    if not factor or divides and type(factor) ~= "number" or divides and factor == 0 then return nil end
    if type(factor) == "number" then
      coefficient = divides and coefficient / factor or coefficient * factor
    else
      names[#names + 1] = factor
    end
    local sign = text:sub(to, to)
    if sign ~= "*" and sign ~= "/" then return coefficient, names, to end
    at, divides = to + 1, sign == "/"
  end
end

-- Where a term goes whose only name is this; padded is never less than tokens.
local PLACES = { tokens = "b", padded = "b", records = "per_record", output_tokens = "per_output" }

--- A service model as a + b x tokens + more that is not negative.
-- @param text string  an expression of service.lua
-- @return {a, b, per_record, per_output}, seconds; or nil: it is no sum of products
function M.terms(text)
  local terms, at = { a = 0, b = 0, per_record = 0, per_output = 0 }, 1
  text = text:gsub("%s+", "")
  while true do
    local coefficient, names, to = product_at(text, at)
    if not coefficient then return nil end
    local place = #names == 0 and "a" or #names == 1 and PLACES[names[1]]
    if place then terms[place] = terms[place] + coefficient end
    if to > #text then return terms end
    if text:sub(to, to) ~= "+" then return nil end
    at = to + 1
  end
end

-- --- jobs ------------------------------------------------------------------------------------

-- The kept jobs so far, by arrival: start, release, work, all in microseconds.
local function new_kept()
  return { n = 0, capacity = 0, start = nil, release = nil, work = nil }
end

local function reserve(kept)
  if kept.n < kept.capacity then return end
  local capacity = max(1024, 2 * kept.capacity)
  for _, name in ipairs { "start", "release", "work" } do
    local grown = tbffi.new("double[?]", capacity)
    for i = 0, kept.n - 1 do grown[i] = kept[name][i] end
    kept[name] = grown
  end
  kept.capacity = capacity
end

-- The last one is late: the one goes without which the others are done earliest.
local function remove_one(kept)
  local start, release, work, last = kept.start, kept.release, kept.work, kept.n - 1
  local before = last > 0 and start[last - 1] + work[last - 1] or release[last]
  local gain, out = start[last] + work[last] - before, last
  local slack = start[last] - release[last] -- by how much all behind can move up, at the most
  for i = last - 1, 0, -1 do
    if slack <= gain then break end -- no other can gain more
    local this = min(work[i], slack)
    if this > gain then gain, out = this, i end
    slack = min(slack, start[i] - release[i])
  end
  local free = out > 0 and start[out - 1] + work[out - 1] or -math.huge
  for i = out, last - 1 do
    release[i], work[i] = release[i + 1], work[i + 1]
    start[i] = max(free, release[i])
    free = start[i] + work[i]
  end
  kept.n = last
end

-- Work of all slots' time that a record owns if it is on time, or nil: it cannot be.
local function work_us(terms, budget, slots, cost, output, slo_us)
  local bare = 1e6 * (terms.b * cost + terms.per_record + terms.per_output * max(0, output))
  local a_us = 1e6 * terms.a
  if a_us + bare > slo_us + 1e-3 then return nil end
  local room = terms.b > 0 and min(budget, (slo_us - a_us) / (1e6 * terms.b)) or budget
  return (bare + a_us * (room > 0 and min(1, cost / room) or 1)) / slots
end

--- @param next function  () -> time of arrival and slo in microseconds (math.huge: no slo), cost, output (below 0: not
-- known) of the next record by time; nil: there are no more
-- @param terms table  see terms()  @param budget number  tokens  @param slots number
-- @return how many can be on time, of how many
function M.count(next, terms, budget, slots)
  local kept, all, due_us, always = new_kept(), 0, -math.huge, 0
  for at_us, slo_us, cost, output in next do
    all = all + 1
    local work = work_us(terms, budget, slots, cost, output, slo_us)
    if slo_us == math.huge then
      always = always + 1
    elseif work then
      reserve(kept)
      local n = kept.n
      local free = n > 0 and kept.start[n - 1] + kept.work[n - 1] or -math.huge
      due_us = max(due_us, at_us + slo_us)
      kept.release[n], kept.work[n], kept.start[n], kept.n = at_us, work, max(free, at_us), n + 1
      if kept.start[n] + work > due_us + 1e-3 then remove_one(kept) end
    end
  end
  return kept.n + always, all
end

-- --- of a simulation --------------------------------------------------------------------------

-- Why there is no sound bound of it, or nil.
local function refusal(job)
  if not job.slo then return "an --slo is needed" end
  if not job.slo:is_time() then return "an --slo of seconds is needed, not a condition over answers" end
  if job.device then return "there is none before a --device, which has batches of its own" end
  if job.noise then return "--noise can make batches faster than the model" end
  if job.straggle and job.straggle.factor < 1 then return "--straggle makes some batches faster than the model" end
  if job.arrivals and job.arrivals.kind == "closed" then return "closed clients come when they are answered" end
end

--- @param job table  see experiment.lua
-- @return an object with share(), or nil and a message: where it would not be sound
function M.of_job(job)
  local why = refusal(job)
  if why then return nil, "--bound: " .. why end
  local fitted = job.service.fitted
  local terms = fitted and { a = fitted.a, b = fitted.b + (fitted.c or 0), per_record = 0, per_output = 0 }
    or not job.service.text:find "%.lua$" and M.terms(job.service.text)
  if not terms then
    return nil, ("--bound: the service model must be a sum of products that are not negative, as "
      .. "0.02 + 0.00005*tokens; of '%s' no bound is known"):format(job.service.text)
  end
  return setmetatable({ slo = job.slo, terms = terms, known = {} }, Bound)
end

--- The share of all arrivals that can be answered on time at the most.
-- @param open function  () -> a source of the arrivals, see trace.lua
-- @param config cdata  tb_config: budget and slots  @param speedup number  @param part table|nil  see experiment.run
-- @param from_us number  those that arrive before do not count: the more can be done for the others
function Bound:share(open, config, speedup, part, from_us)
  local budget, slots = config.target_batch_cost, config.max_concurrent_batches
  local name = ("%.17g %.17g %d %s %s %s"):format(speedup, budget, slots, part and part.first or "", part and part.count
    or "", part and part.seed or "")
  if self.known[name] then return self.known[name] end
  local source, slo = open(), self.slo
  local good, all = M.count(function()
    while source.at_us < from_us do source:take() end
    if source.at_us == math.huge then return nil end
    local at_us, slo_us, cost, output = source.at_us, slo:of(source), math.ceil(source.cost), source.output
    source:take()
    return at_us, slo_us, cost, output
  end, self.terms, budget, slots)
  self.known[name] = all > 0 and good / all or 0
  return self.known[name]
end

return M
