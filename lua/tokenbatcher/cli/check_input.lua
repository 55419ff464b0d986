--- tokenbatcher check --input: a whole file through a script's decode, estimator and policy, on the virtual
-- clock, with an inference function that does nothing: what a run would have to do, before it costs anything.

local clock = require "tokenbatcher.runtime.clock"
local decode = require "tokenbatcher.cli.decode"
local errors = require "tokenbatcher.base.errors"
local input = require "tokenbatcher.cli.input"
local per_record = require "tokenbatcher.cli.per_record"
local tb = require "tokenbatcher"

local M = {}

local MOST_NAMED = 5 -- bad lines
local LONGEST_S = 1e8

local function same(records) return records end

--- A function that does nothing, used as the given one wants to be: its defaults, its groups.
function M.stand_in(fn)
  if type(fn) ~= "table" then return same end
  local own = { defaults = fn.defaults, max_records = fn.max_records, name = fn.name }
  if fn.group then own.group = function(_, record) return fn:group(record) end end
  return setmetatable(own, { __call = function(_, records) return records end })
end

-- What an inference function would say of a record, where it can tell without asking anybody.
local function problem_of(fn, record)
  return type(fn) == "table" and errors.is_callable(fn.problem) and fn:problem(record) or nil
end

local function bad_line(found, number, message)
  found.bad = found.bad + 1
  if #found.named < MOST_NAMED then found.named[#found.named + 1] = { number = number, message = message } end
end

-- One line of the input. What is refused for its cost is a bad line, too.
local function take(found, batcher, made, line, number)
  local record, message = decode.record(made.decode, line)
  local opts
  if not message then opts, message = per_record.options(record, made.submit_options, found.fields) end
  if message then return bad_line(found, number, "bad_input: " .. message) end
  message = problem_of(found.fn, record)
  if message then return bad_line(found, number, "inference_failed: " .. message) end
  local ok, cost = pcall(batcher.estimate, batcher, record)
  if not ok then return bad_line(found, number, errors.message_of(cost)) end
  found.tokens, found.most = found.tokens + cost, math.max(found.most, cost)
  local future, err = batcher:submit(record, opts)
  if not future then return bad_line(found, number, errors.text(err)) end
end

local function read_all(found, batcher, made, source)
  while true do
    local line, message = source:next()
    if message then error(message, 0) end
    if not line then return end
    if line:find "%S" then
      found.lines = found.lines + 1
      take(found, batcher, made, line, source.number)
    end
  end
end

local function run(given, made, source, fields)
  local found = { fields = fields, fn = made.options.inference_fn or made.options.process_fn, lines = 0, bad = 0,
    named = {}, tokens = 0, most = 0 }
  local batcher = tb.TokenBatcher(given)
  batcher:start()
  read_all(found, batcher, made, source)
  batcher:stop { timeout_s = LONGEST_S }
  found.stats, found.s, found.budget = batcher.stats, clock.now_us() / 1e6, batcher:option "target_batch_cost"
  return found
end

--- @param made table  see script.build  @param fields table|nil  see per_record.fields_of
-- @return table {lines, bad, named, tokens, most, stats, s, budget}, or nil and a message
function M.read(path, made, fields)
  local source, message = input.open(path)
  if not source then return nil, message end
  local options = {}
  for name, value in pairs(made.options) do options[name] = value end
  options.inference_fn = M.stand_in(options.inference_fn or options.process_fn)
  options.process_fn, options.record, options.log = nil, nil, function() end
  local ok, found = pcall(tb.run, function() return run(options, made, source, fields) end, { clock = "virtual" })
  if ok then return found end
  return nil, errors.message_of(found)
end

--- Say what was found. @param report function(mark, ...)  @return boolean  without a bad line
function M.tell(found, report)
  local s = found.stats
  report(found.bad == 0 and "ok" or "note", ("input: %d lines, %d of them bad"):format(found.lines, found.bad))
  for _, line in ipairs(found.named) do report("note", ("line %d: %s"):format(line.number, line.message)) end
  if found.bad > #found.named then report("note", ("... and %d more bad lines"):format(found.bad - #found.named)) end
  report("ok", ("tokens: %.0f in all, by the estimator; the largest record %.0f of %.0f"):format(found.tokens,
    found.most, found.budget))
  report("ok", ("batches: %d, of %.1f records and %.0f tokens on average"):format(s.total_batches, s.avg_batch_size,
    s.avg_batch_cost))
  if found.s >= 1 then report("note", ("the policy lets them go in %.0f s at the least"):format(found.s)) end
  return found.bad == 0
end

return M
