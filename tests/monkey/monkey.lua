--- monkey.lua - calls every public function and method, with arguments of every type, on the virtual clock.
--
--     luajit tests/monkey/monkey.lua SEED CALLS      (exit 0: nothing found; with MONKEY_TALKS=1 each call is written)
--
-- Whatever comes: no crash, no hang, no counter that drifts, no record without an outcome, and no error out of the
-- inside of a module: an error names what was wrong with the call. What is called is found in the modules and in the
-- guides, so that a new function is, too.

package.path = "tests/monkey/?.lua;" .. package.path
local options = require "tokenbatcher.core.options"
local tb = require "tokenbatcher"
local testing = require "tokenbatcher.testing"
local tbffi = require "tokenbatcher.core.ffi"
local V = require "values"

local seed, most_calls = tonumber(arg[1]) or 1, tonumber(arg[2]) or 10000
local talks = os.getenv "MONKEY_TALKS" and io.stderr
local random, one_of, once_in = math.random, V.one_of, V.once_in
math.randomseed(seed)

-- --- what must not happen --------------------------------------------------------

local calls, now_calling = 0, "nothing"

local function found(text)
  io.stdout:write(("monkey: seed %d, call %d: %s: %s\n"):format(seed, calls, now_calling, text))
  os.exit(1)
end

-- What Lua and the FFI say of code that is wrong.
local INTERNAL = { "attempt to ", "bad argument #", "cannot convert", "table index is ", "stack overflow", "invalid ",
  "not enough memory", "table overflow", "number expected", "string length", "wrong number of", "assertion failed",
  "too many results", "cannot resume", "unable to", "size of C type", "missing declaration", "C stack" }

-- An error out of the inside of a module of ours?
local function is_internal(text)
  if type(text) ~= "string" then return false end
  if text:find "^assertion failed" then return true end
  local said = text:match "tokenbatcher/[%w_/%-]+%.lua:%d+: (.*)"
  for _, beginning in ipairs(INTERNAL) do
    if said and said:sub(1, #beginning) == beginning then return true end
  end
  return false
end

local function check_error(name, err, depth)
  local text = type(err) == "table" and rawget(err, "message") or err
  if is_internal(text) then found(name .. ": " .. text) end
  if type(err) == "table" and (depth or 0) < 5 then check_error(name, rawget(err, "cause"), (depth or 0) + 1) end
end

-- --- what there is at hand ---------------------------------------------------------

local batchers, futures, things, counted = {}, {}, {}, {}

local function keep(list, value, most)
  if #list < most then list[#list + 1] = value else list[random(most)] = value end
end

function V.thing()
  local from = one_of { batchers, futures, things }
  return #from > 0 and one_of(from) or nil
end

local function handle_of(batcher) return rawget(batcher, "_handle") end

local function check_batcher(batcher)
  local broken = tbffi.lib.tb_verify(handle_of(batcher))
  if broken ~= nil then found(tbffi.text(broken)) end
  local s = batcher.stats
  local sum = s.queue_size + s.prefetched_records + s.running_records + s.total_completed + s.total_failed
    + s.total_cancelled + s.total_expired
  if s.total_submitted ~= sum then found(("submitted %d, accounted for %d"):format(s.total_submitted, sum)) end
  return s
end

local Future = getmetatable(require("tokenbatcher.runtime.future").new(false, false)).__index

local retire -- see below

-- Few at once: of those that make room for others, each is stopped, and must have come out even.
local function keep_batcher(batcher)
  if counted[batcher] then return end
  counted[batcher] = true
  if #batchers < 8 then
    batchers[#batchers + 1] = batcher
  else
    local place = random(8)
    if pcall(tb.spawn, retire, batchers[place]) then batchers[place] = batcher else counted[batcher] = nil end
  end
end

local function is_future(value)
  local meta = type(value) == "table" and getmetatable(value)
  return type(meta) == "table" and rawget(meta, "__index") == Future
end

-- Everything that comes back is looked at, and may be handed in again.
local function keep_result(name, value)
  if type(value) == "table" and getmetatable(value) and rawget(value, "_class") then
    keep_batcher(value)
  elseif is_future(value) then
    keep(futures, value, 64)
    if name == "tb.spawn" then tb.spawn(Future.await, value) end -- an error that nobody awaits is the run's
  elseif type(value) == "table" or type(value) == "function" then
    keep(things, value, 32)
  end
end

-- --- options that make sense, every other time ----------------------------------------

local function numbers(low, high) return function() return low + random() * (high - low) end end
local function whole(low, high) return function() return random(low, high) end end

local function answer(records)
  if once_in(4) then tb.sleep(random() / 10) end
  if once_in(10) then error("the device is unwell", 0) end
  if once_in(10) then return V.any() end
  local out = {}
  for i = 1, #records do out[i] = once_in(20) and tb.failure(V.any()) or records[i] or "" end
  return out
end

local call_within -- see below

local function policy_table()
  return {
    form = function(queue, batch, now)
      keep(things, queue, 32)
      keep(things, batch, 32)
      for _ = 1, random(0, 3) do call_within(queue, batch) end
      for i = 1, queue.size do
        if once_in(2) then batch:add(i) end
      end
      return once_in(2) and now + random() or V.any()
    end,
    on_complete = once_in(2) and V.any_function() or nil,
  }
end

local function policy()
  local shipped = { "fifo", "eager", "length_bucketed", "priority", "fair", "deadline", "adaptive", "one_group",
    "on_time", "rate_limited" }
  if once_in(3) then return policy_table() end
  if once_in(3) then return function() return policy_table() end end
  return one_of(shipped)
end

local GOOD = {
  inference_fn = function() return answer end,
  process_fn = function() return answer end,
  target_batch_tokens = whole(1, 200), target_batch_cost = whole(1, 200), max_batch_size = whole(1, 20),
  min_batch_size = whole(1, 4), batch_timeout_s = numbers(0, 0.2), max_queue_size = whole(1, 40),
  max_queue_cost = whole(1, 400), prefetch_batches = whole(0, 4), max_concurrent_batches = whole(1, 4),
  inference_timeout_s = numbers(0.01, 0.2), max_wait_s = numbers(0, 1), max_abandoned_calls = whole(0, 3),
  abandon_s = numbers(0.1, 1), suspect_s = numbers(0, 1), policy = policy,
  on_full = function() return one_of { "wait", "reject" } end,
  on_error = function() return one_of { "fail", "bisect" } end,
  on_oversize = function() return one_of { "alone", "reject" } end,
  cost_model = function() return one_of { "sum", "padded" } end,
  join = function() return tostring end,
  token_estimator = function() return function() return random(0, 30) end end,
  cost_estimator = function() return function() return random(0, 30) end end,
  name = function() return one_of { "a", "b" } end,
  record = function() return nil end, -- files are not a monkey's business
  log = function() return function(_, text) check_error("log", text) end end,
  estimated_tokens = numbers(0, 50), estimated_cost = numbers(0, 50), priority = whole(-2, 2),
  timeout_s = numbers(0.001, 1), key = function() return one_of { "k1", "k2", "k3" } end,
  group = function() return one_of { "g1", "g2" } end, slo_s = numbers(0, 1), waited_s = numbers(0, 1),
  cost = whole(0, 50),
  field = function() return "text" end, clock = function() return "virtual" end, refused = function() return true end,
  base_s = numbers(0, 0.1), per_token_s = numbers(0, 0.001), quantum = whole(1, 50), aging_s = numbers(0.1, 2),
  requests_per_minute = whole(1, 6000), tokens_per_minute = whole(1, 60000), latency_target_s = numbers(0.1, 1),
}

local OPTION_NAMES = {}
local SUBMIT_NAMES = { "estimated_tokens", "estimated_cost", "priority", "timeout_s", "batch_timeout_s", "key",
  "group" }
local MORE_NAMES = { "timeout_s", "refused", "clock", "field", "base_s", "per_token_s", "quantum", "aging_s", "slo_s",
  "waited_s", "cost", "requests_per_minute", "tokens_per_minute", "latency_target_s", "inner", "base", "ratio", "fn",
  "url", "base_url", "model", "script", "threads", "stream", "group", "consumer", "path", "method", "body", "headers",
  "attempts" }
for _, option in ipairs(options.list) do
  if option.name ~= "record" then OPTION_NAMES[#OPTION_NAMES + 1] = option.name end
  if option.token_name then OPTION_NAMES[#OPTION_NAMES + 1] = option.token_name end
end
table.sort(OPTION_NAMES)

local function batcher_options()
  local out = V.options(OPTION_NAMES, GOOD)
  if not once_in(10) then out.inference_fn = out.inference_fn or answer end
  if type(out.log) ~= "function" then out.log = GOOD.log() end
  return out
end

local function some_table()
  local kind = random(4)
  if kind == 1 then return batcher_options() end
  if kind == 2 then return V.options(SUBMIT_NAMES, GOOD) end
  if kind == 3 then return V.options(MORE_NAMES, GOOD) end
  local list = {}
  for i = 1, random(0, 5) do list[i] = once_in(2) and V.options(MORE_NAMES, GOOD) or V.thing() or V.any() end
  return list
end

local function list_of(make)
  local list = {}
  for i = 1, random(0, 5) do list[i] = make() end
  return list
end

local function submit_options() return V.options(SUBMIT_NAMES, GOOD) end
local function small() return random() / 20 end
local function record() return one_of { "a", "bb", 7, V.any() } end
local function more_options() return V.options(MORE_NAMES, GOOD) end
local ARRIVAL_NAMES = { "cost", "key", "group", "priority", "waited_s", "timeout_s", "slo_s" }
local function arrival() return V.options(ARRIVAL_NAMES, GOOD) end
local function some_settings() return V.options(OPTION_NAMES, GOOD) end

-- What a call is usually handed, where that is more than options by name.
local SHAPES = {
  ["batcher:submit"] = { record, submit_options }, ["batcher:try_submit"] = { record, submit_options },
  ["batcher:ask"] = { record, submit_options }, ["batcher:set"] = { some_settings },
  ["batcher:submit_batch"] = { function() return list_of(record) end, function()
    local opts = submit_options()
    if once_in(2) then opts.estimated_tokens = list_of(GOOD.estimated_tokens) end
    return opts
  end },
  ["batcher:stop"] = { function() return { timeout_s = small() } end },
  ["future:await"] = { small }, ["tb.sleep"] = { small },
  ["tb.exit_timeout"] = { function() return one_of { 30, V.any() } end },
  ["tb.with"] = { function() return one_of(batchers) end, V.any_function }, ["tb.spawn"] = { V.any_function },
  ["tb.gather"] = { function() return list_of(function() return #futures > 0 and one_of(futures) or nil end) end },
  ["tb.metrics.prometheus"] = { function() return one_of(batchers) end, function() return one_of(batchers) end },
  ["tb.json.decode"] = { function() return one_of { '{"a":[1,2.5e3,null,"\\u00e9"]}', "[", '"x', "nul", "1e999" } end },
  ["testing.queue"] = { function() return list_of(arrival) end, function() return { policy = policy() } end,
    whole(1, 100) },
  ["testing_queue:add"] = { arrival }, ["testing_queue:wait"] = { numbers(0, 2) },
  ["testing_queue:done"] = { function() return V.thing() end },
  ["tb.backend.retrying"] = { function() return { fn = answer, attempts = 2 } end },
  ["tb.TokenBatcher"] = { batcher_options }, ["tb.DynamicBatcher"] = { batcher_options },
}

local function shaped_arguments(shape)
  local out = { n = #shape }
  for i, make in ipairs(shape) do
    if once_in(8) then out[i] = V.any() else out[i] = make() end
  end
  return out
end

-- @param name string|nil  of what is called
local function arguments(name)
  local shape = SHAPES[name] or name and { more_options }
  if shape and not once_in(3) then return shaped_arguments(shape) end
  local out = { n = random(0, 3) }
  for i = 1, out.n do
    if once_in(2) then out[i] = some_table() else out[i] = V.any() end
  end
  return out
end

-- --- what may be called --------------------------------------------------------------

-- Methods of a batcher, and functions of a module behind a module, that no guide names are nobody's business but the
-- modules' own, which know what they hand in. What a guide names is called: a new one is found.
local guides = {}
local texts = io.popen "cat lua/tokenbatcher/README.md lua/tokenbatcher/*/README.md"
for word in texts:read("*a"):gmatch "[%w_.:]+" do guides[word:gsub("^[^:]*:", ":")] = true end
texts:close()

local function is_public(name)
  local module, method = name:match "^([%w_]+):([%w_]+)$"
  if module == "batcher" then return guides[":" .. method] end
  return not name:find "^tb%.[%w_]+%.[%w_]+$" or guides[name] or name:find "^tb%.policy" or name:find "^tb%.estimator"
    or name:find "^tb%.backend" or name:find "^tb%.source" or name:find "^tb%.queue"
end

local targets = {}
local function add_target(name, call)
  if not is_public(name) or name == "tb.run" then return end -- that one is under way
  local target = { name = name, call = call, times = 0 }
  targets[#targets + 1] = target
end

local function sorted_names(of)
  local out = {}
  for name in pairs(of) do
    if type(name) == "string" and name:sub(1, 1) ~= "_" then out[#out + 1] = name end
  end
  table.sort(out)
  return out
end

-- Names that a shelf loads when they are asked for: it says which there are.
local function shelf_names(shelf)
  local ok, text = pcall(function() return shelf["?"] end)
  local list = not ok and type(text) == "string" and text:match "it has: (.*)$"
  local out = {}
  for name in (list or ""):gmatch "[%w_]+" do out[#out + 1] = name end
  return out
end

local function add_module(path, module)
  for _, name in ipairs(sorted_names(module)) do
    local value = module[name]
    if type(value) == "function" then
      add_target(path .. "." .. name, function(args) return value(unpack(args, 1, args.n)) end)
    elseif type(value) == "table" then
      local names = getmetatable(value) and shelf_names(value) or {}
      for _, each in ipairs(names) do local _ = value[each] end
      if path == "tb" then add_module(path .. "." .. name, value) end
    end
  end
end

-- The methods behind a metatable's __index, be it a table or a function over one.
local function methods_of(object, upvalue)
  local index = debug.getmetatable(object).__index
  if type(index) == "table" then return index end
  for i = 1, 20 do
    local name, value = debug.getupvalue(index, i)
    if name == upvalue then return value end
  end
  error("no methods found of " .. upvalue)
end

local function add_methods(prefix, methods, self)
  for _, name in ipairs(sorted_names(methods)) do
    if type(methods[name]) == "function" then
      add_target(prefix .. ":" .. name, function(args)
        local object = not once_in(12) and self() or V.any()
        local method = methods[name]
        return method(object, unpack(args, 1, args.n))
      end)
    end
  end
end

local within = {}

local function add_within(prefix, methods)
  for _, name in ipairs(sorted_names(methods)) do
    within[#within + 1] = { name = prefix .. ":" .. name, times = 0, call = function(object, args)
      return methods[name](object, unpack(args, 1, args.n))
    end, of = prefix }
  end
end

local function remember(name, ok, ...)
  for i = 1, math.min(select("#", ...), 3) do
    local value = select(i, ...)
    if not ok or i == 2 then check_error(name, value) end
    keep_result(name, value)
  end
  return ok, ...
end

-- A method of the queue or the batch, within a decision; an iterator is walked.
function call_within(queue, batch)
  local target = one_of(within)
  local args = arguments()
  if once_in(2) then args[1], args.n = random(0, 6), math.max(1, args.n) end
  if once_in(4) then args[1], args.n = one_of { "", "k1", "g1" }, math.max(1, args.n) end
  local object = target.of == "queue" and queue or batch
  if once_in(20) then object = V.any() end
  target.times, calls = target.times + 1, calls + 1
  local before = now_calling
  now_calling = target.name
  local ok, step, state, position = remember(target.name, pcall(target.call, object, args))
  if ok and type(step) == "function" and debug.getinfo(step, "S").source:find "tokenbatcher/" then
    for _ = 1, random(0, 8) do
      ok, position = remember(target.name, pcall(step, state, position))
      if not ok or position == nil then break end
    end
  end
  now_calling = before
end

local function find_targets()
  rawset(tb, "http", tb.http)
  rawset(tb, "json", tb.json)
  add_module("tb", tb)
  add_module("testing", testing)
  local batcher = tb.TokenBatcher { inference_fn = answer }
  add_methods("batcher", methods_of(batcher, "Batcher"), function() return one_of(batchers) end)
  add_methods("future", Future, function() return #futures > 0 and one_of(futures) or V.any() end)
  local queue = testing.queue({ { cost = 1 } }, { policy = { form = function(queue, batch)
    add_within("queue", methods_of(queue, "Queue"))
    add_within("batch", methods_of(batch, "Batch"))
  end } })
  queue:wait(10)
  queue:pick()
  local methods = methods_of(queue, "Queue")
  add_methods("testing_queue", methods, function()
    if not once_in(10) then return queue end
    queue = testing.queue(list_of(function() return { cost = random(0, 9) } end), { policy = policy() })
    return queue
  end)
  if #targets < 40 or #within < 15 then found(("only %d and %d functions were found"):format(#targets, #within)) end
end

-- --- the monkey -----------------------------------------------------------------------

function retire(batcher)
  if batcher.is_running then
    batcher:set { inference_fn = answer, policy = "fifo", log = GOOD.log(), join = false }
    batcher:stop { timeout_s = 1 }
  end
  counted[batcher] = nil
  local s = check_batcher(batcher)
  if s.queue_size + s.running_records + s.waiting_submits + s.prefetched_records > 0 then
    found "something is left in a stopped batcher"
  end
  if batcher.unsettled ~= 0 then found(("%d records have not settled"):format(batcher.unsettled)) end
end

local function work(batcher)
  if not batcher.is_running then
    pcall(batcher.start, batcher)
    return
  end
  for _ = 1, random(4) do
    remember("try_submit", pcall(batcher.try_submit, batcher, one_of { "a", "bb", 7 }, V.options(SUBMIT_NAMES, GOOD)))
  end
end

local function one_call()
  local target = targets[random(#targets)]
  local args = arguments(target.name)
  target.times, calls = target.times + 1, calls + 1
  now_calling = target.name
  if talks then talks:write(calls, " ", target.name, "\n") end
  local future = tb.spawn(function() remember(target.name, pcall(target.call, args)) end)
  if once_in(3) then future:await(random() / 20) end
end

local function new_batcher()
  local ok, batcher = pcall(tb[one_of { "TokenBatcher", "DynamicBatcher" }], batcher_options())
  if not ok then
    check_error("a batcher's options", batcher)
  else
    keep_batcher(batcher)
  end
end

local function play()
  find_targets()
  new_batcher()
  keep_batcher(tb.TokenBatcher { inference_fn = answer, log = GOOD.log() })
  while calls < most_calls do
    one_call()
    if once_in(4) then work(one_of(batchers)) end
    if once_in(40) then new_batcher() end
    if once_in(10) then tb.sleep(random() / 50) end
    if once_in(100) then check_batcher(one_of(batchers)) end
  end
  for _, batcher in ipairs(batchers) do retire(batcher) end
end

tb.run(play, { clock = "virtual" })
if next(counted) then found "a batcher has not ended" end
local count = 0
for _, of in ipairs { targets, within } do
  for _, target in ipairs(of) do
    if target.times == 0 then found(target.name .. " was never called") end
    count = count + 1
  end
end
print(("monkey: %d calls of %d functions, seed %d: nothing found"):format(calls, count, seed))
