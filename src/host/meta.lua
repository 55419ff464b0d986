-- Build step: writes the file from which an editor's language server (LuaLS) knows the public API: names, types, units
-- and prose. Nothing in it is written twice: options come from the core's table, parameters from what ships, sentences
-- from the comment above each function. Here stand the types, and the fields of what is handed to users.
-- usage: luajit meta.lua > tokenbatcher.meta.lua   (in the checkout's folder, after make)

local estimators = require "tokenbatcher.estimator"
local options = require "tokenbatcher.core.options"
local policies = require "tokenbatcher.policy"
local submit_options = require "tokenbatcher.batching.submit_options"
local tb = require "tokenbatcher"

local FOLDER = "lua/tokenbatcher/"

-- --- what is public: the signature of each function, and the file that says what it does -------------------------

local CLASSES = {
  { class = "tokenbatcher.Batcher", var = "Batcher", from = "batching/batcher.lua", fields = {
      { "is_running", "boolean", "Does it accept records?" },
      { "stats", "tokenbatcher.Stats", "A snapshot, made when it is read." } },
    "start(): tokenbatcher.Batcher", "stop(opts?: {timeout_s: number})", "flush()",
    "set(given: tokenbatcher.Options)",
    { from = "batching/submission.lua",
      "submit(record: any, opts?: tokenbatcher.SubmitOptions): tokenbatcher.Future|nil, tokenbatcher.Err|nil",
      "try_submit(record: any, opts?: tokenbatcher.SubmitOptions): tokenbatcher.Future|nil, tokenbatcher.Err|nil",
      "submit_batch(records: any[], opts?: tokenbatcher.BatchSubmitOptions): "
        .. "tokenbatcher.Future[]|nil, tokenbatcher.Err|nil",
      "ask(record: any, opts?: tokenbatcher.SubmitOptions): any, tokenbatcher.Err|nil" } },
  { class = "tokenbatcher.Future", var = "Future", from = "runtime/future.lua",
    "await(timeout_s?: number): any, tokenbatcher.Err|nil", "cancel(): boolean", "done(): boolean" },
  { class = "tokenbatcher.Queue", var = "Queue", from = "core/view.lua", fields = {
      { "size", "integer", "How many records are queued: positions are 1 to size, in the order of arrival." },
      { "total_cost", "number", "Of all of them, tokens." },
      { "full", "boolean", "Some group fills a batch, or the queue can take no more." },
      { "bounded", "boolean", "The queue can take no more." },
      { "due", "boolean", "A record has waited for its batch_timeout_s, or half of its timeout_s." },
      { "draining", "boolean", "The batcher is being stopped." },
      { "idle_slots", "integer", "How many more batches may run now." } },
    "cost(i: integer): number", "age(i: integer): number", "priority(i: integer): number",
    "deadline(i: integer): number|nil", "slo(i: integer): number|nil", "key(i: integer): string",
    "group(i: integer): string", "alone(i: integer): boolean", "record(i: integer): any",
    "by_cost(): fun(): integer", "by_deadline(): fun(): integer", "by_priority(aging_s?: number): fun(): integer",
    "near(i: integer): fun(): integer", "keys(): fun(): string", "of(key: string): fun(): integer",
    "groups(): fun(): string", "of_group(group: string): fun(): integer",
    "full_of_group(group: string): boolean", "due_of_group(group: string): boolean" },
  { class = "tokenbatcher.Batch", var = "Batch", from = "core/view.lua", fields = {
      { "size", "integer", "Records added." }, { "cost", "number", "Of them, tokens, by the cost model." },
      { "budget", "number", "The most that it may cost, tokens." } },
    'add(i: integer): boolean, "budget"|"group"|"alone"|nil', "limit(tokens: number)" },
  { class = "tokenbatcher.Listener", var = "Listener", from = "listen/init.lua", fields = {
      { "address", "string|nil", "Where it listens, with the port that it got." },
      { "control", "string|nil", "unix:PATH, where options can be set." } },
    "close()" },
  { class = "tokenbatcher.Traces", var = "Traces", from = "listen/otel.lua", fields = {
      { "stats", "table", "A snapshot: {sent, dropped, kept (spans), requests}." } },
    "close()" },
  { class = "tokenbatcher.testing.Queue", var = "TestingQueue", from = "testing/init.lua", code = "Queue", fields = {
      { "now", "number", "The policy's clock, seconds." }, { "size", "integer", "Records that are queued." },
      { "warnings", "string[]", "What the engine would log of the policy, beside errors, which are raised." } },
    "add(given: table): integer", "pick(): table|nil, number|nil", "wait(seconds: number)", "done(batch: table)",
    "drain()" },
}

-- Of the module itself. Those whose comment stands in another file than init.lua name it.
local MODULE = { from = "init.lua",
  'run(fn: function, opts?: {clock: "real"|"virtual"}): any', "spawn(fn: function, ...: any): tokenbatcher.Future",
  "sleep(s: number)", "now(): number", "with(b: tokenbatcher.Batcher, fn: fun(batcher: tokenbatcher.Batcher)): any",
  "fd(): integer", "next_deadline(): number|nil", "step()", "exit_timeout(s: number)",
  { from = "batching/batcher.lua", "TokenBatcher(given: tokenbatcher.Options): tokenbatcher.Batcher",
    "DynamicBatcher(given: tokenbatcher.Options): tokenbatcher.Batcher" },
  { from = "batching/run.lua", "failure(reason: any, opts?: {refused: boolean}): table" },
  { from = "batching/prompt.lua", "Prompt(text: string): table" },
  { from = "listen/init.lua",
    "listen(given: tokenbatcher.listen.Options): tokenbatcher.Listener|nil, tokenbatcher.Err|nil" },
  { from = "listen/otel.lua", "otel(given: tokenbatcher.otel.Options): tokenbatcher.Traces" },
  { from = "runtime/future.lua", "gather(futures: tokenbatcher.Future[]): table, table" },
}

local MODULES = {
  { name = "metrics", from = "batching/metrics.lua", "prometheus(...: tokenbatcher.Batcher): string" },
  { name = "http", from = "backend/http/init.lua",
    "get(url: string, opts?: tokenbatcher.http.Options): table|nil, tokenbatcher.Err|nil",
    "post(url: string, opts?: tokenbatcher.http.Options): table|nil, tokenbatcher.Err|nil" },
  { name = "json", from = "base/json.lua", "decode(text: string): any, string|nil",
    "encode(value: any): string|nil, string|nil", "list(items: table): table" },
}

-- What `require "tokenbatcher.testing"` returns.
local TESTING = {
  { name = "testing", from = "testing/init.lua",
    "queue(records: table[], given?: tokenbatcher.Options, now?: number): tokenbatcher.testing.Queue" },
}

-- --- fields -------------------------------------------------------------------------------------------------------

local SUBMIT = {
  estimated_tokens = { "number", "Its cost, tokens; before estimated_cost and all estimators." },
  estimated_cost = { "number", "Its cost, tokens." },
  priority = { "number", "For policies that look at it; higher goes first (0)." },
  timeout_s = { "number", "Seconds, above 0: not handed to inference_fn by then, it fails (deadline)." },
  batch_timeout_s = { "number", "How long it may linger for others, seconds, in place of the option; fails nothing." },
  key = { "string", "Who it is of: fairness and blame." },
  trace = { "string", "Its trace context, a W3C traceparent: the batch's span is linked to it." },
  group = { "string", "What it may share a call with: equal groups only." },
}

local INFO = {
  { "id", "integer", "Of the batch." }, { "size", "integer", "Records in this call." },
  { "cost", "number", "Of them, tokens, by the cost model." }, { "costs", "number[]", "Of each, tokens." },
  { "keys", "string[]", 'Of each; "" for one without.' }, { "group", "string", 'Of all of them; "": none.' },
  { "reason", '"full"|"timeout"|"idle"|"drain"|"policy"', "Why the batch went." },
  { "attempt", "integer", "1; more where a failed batch is halved and tried again." },
  { "deadline", "number|nil", "The earliest of its records, on tb.now()'s clock." },
  { "timeout_at", "number|nil", "When inference_timeout_s is over, likewise." },
  { "traceparent", "string|nil", "The batch's trace context, to be sent along, where there is one." },
}
local INFO_SET = {
  { "usage", "table|nil", "To be set by the function: {total_tokens = n}, for policies and estimators." },
  { "requests", "integer|nil", "To be set by the function: how many requests it sent." },
  { "limits", "table|nil", "To be set by the function: what the provider says is left, for rate_limited." },
}

local REPORT = {
  { "id", "integer", "Of the batch." }, { "size", "integer", "Records." },
  { "cost", "number", "Tokens, by the cost model." }, { "padded", "number", "Records x the largest cost, tokens." },
  { "service_s", "number", "From dispatch to its end, seconds." }, { "failed", "boolean", "Did its call fail?" },
  { "usage", "table|nil", "What the backend reported." }, { "requests", "integer|nil", "Likewise." },
  { "calls", "integer", "Of inference_fn: more than one where the batch was halved." },
  { "limits", "table|nil", "What the provider said is left." }, { "now", "number", "Seconds, on the policy's clock." },
}

local ERR = {
  { "code", "string", "Stable: queue_full, oversize, batch_too_large, deadline, cancelled, inference_failed, "
    .. "inference_timeout, stopped, await_timeout, coroutine_failed; raised: bad_cost, bad_join, bad_group, bad_slo, "
    .. "not_running, deadlock; listen_failed; those of HTTP begin with http_, those of Redis with redis_." },
  { "message", "string", "For people." }, { "cause", "any", "What was raised or given, where known." },
  { "traceback", "string|nil", "Where known." },
}

local STATS = {
  total_submitted = "Records accepted.", total_completed = "Answered.", total_failed = "Failed.",
  total_cancelled = "Cancelled.", total_expired = "Past their deadline before they ran.",
  total_rejected = "Refused at submission.", total_oversize = "Above the budget, run alone or refused.",
  total_joined = "Callers whose record was in flight already (option join).",
  total_batches = "Batches that have ended.", total_batch_cost = "Of them, tokens.",
  avg_batch_size = "Records a batch.", avg_batch_cost = "Tokens a batch.",
  queue_size = "Records queued now.", queue_cost = "Of them, tokens.",
  waiting_submits = "Records that wait in line for room.",
  prefetched_batches = "Full batches cut ahead.", prefetched_records = "Records in them.",
  running_batches = "Batches that run now.", running_records = "Records in them.",
  abandoned_calls = "Calls that go on after their timeout.",
  oldest_queued_s = "How long the oldest queued record has waited, seconds.",
  oldest_running_s = "How long the oldest running batch has run, seconds.",
  busy_time_s = "Slot-seconds of running batches.", idle_time_s = "Slot-seconds without one.",
  utilization = "Busy over both, 0 to 1.",
  padding_ratio = "Records x the largest cost over the sum of costs, over all batches; 0: no batch yet.",
  policy_errors = "Rounds in which the policy failed, and fifo decided.",
  policy_overruled = "Rounds in which it named nobody though the queue was due.",
  dispatched = "Batches by why they went.",
  wait_s = "From the call of submit to dispatch, seconds.", service_s = "Of batches, seconds.",
  latency_s = "From the call of submit to the answer, seconds.",
  batch_size = "Records a batch.", batch_cost = "Tokens a batch.",
}

local POLICY = {
  { "form", "fun(queue: tokenbatcher.Queue, batch: tokenbatcher.Batch, now: number): number|nil",
    "Names the records of the next batch; adding none is \"not now\". A returned time: when to ask again." },
  { "on_complete?", "fun(report: tokenbatcher.Report)", "Hears how each batch went." },
}

-- --- reading comments -------------------------------------------------------------------------------------------

local function read(path)
  local file = assert(io.open(FOLDER .. path, "rb"))
  local text = file:read "*a"
  file:close()
  return text
end

-- What a comment calls the type of an answer, which is said already.
local TYPE_WORDS = { number = true, string = true, boolean = true, any = true, table = true }

-- The prose of a comment: what is said of parameters and of the answer goes to its own lines.
local function split_comment(lines)
  local text = table.concat(lines, "\n"):gsub("%-%-+ ?", "")
  local at = text:find "@%l+ "
  local prose, rest = at and text:sub(1, at - 1) or text, at and text:sub(at) or ""
  local said = { prose = prose:gsub("%s*$", ""), of = {} }
  for tag, what in (rest .. "@"):gmatch "@(%l+) ([^@]*)" do
    what = what:gsub("%s+", " "):gsub(" $", "")
    if tag == "param" then
      local name, words = what:match "^([%w_.]+) (.*)$"
      if name then said.of[name] = words:match "^%S+  ?(.*)$" or "" end
    elseif tag == "return" then
      what = (what .. " "):gsub("^(%S+) +", function(word)
        return TYPE_WORDS[word:match "^%l+"] and "" or word .. " "
      end)
      said.answer = what:gsub("%s+$", "")
    end
  end
  return said
end

-- name -> what its comment says, and its arguments, of a file's functions (of the class `var`, or of M).
local function comments_of(path, var)
  local found, lines = {}, {}
  for line in read(path):gmatch "([^\n]*)\n" do
    local name, arguments = line:match("^function " .. var .. "[.:]([%w_]+)(%b())")
    if not name then name, arguments = line:match "^function M[.:]([%w_]+)(%b())" end
    if not name then arguments = line:match "^return function(%b())" end
    if arguments then
      name = name or "*" -- the one thing that the file is
      found[name] = split_comment(lines)
      found[name].arguments = arguments:sub(2, -2):gsub("^self, ", "")
    end
    if line:find "^%-%-" then lines[#lines + 1] = line else lines = {} end
  end
  return found
end

-- --- writing ------------------------------------------------------------------------------------------------------

local out = {}
local function put(text, ...) out[#out + 1] = select("#", ...) > 0 and text:format(...) or text end

local function put_prose(text)
  for line in (text .. "\n"):gmatch "([^\n]*)\n" do put("---%s", line) end
end

-- "f(a: T, b?: U): V, W" -> name, {{name, type, is_optional}}, {types}
local function parse(signature)
  local name, inside, after = signature:match "^([%w_]+)(%b())(.*)$"
  local arguments, answers = {}, {}
  inside = inside:sub(2, -2)
  while inside ~= "" do
    local argument, optional, rest = inside:match "^([%w_.]+)(%??): (.*)$"
    local depth, i = 0, 1
    while i <= #rest and not (depth == 0 and rest:sub(i, i) == ",") do
      local c = rest:sub(i, i)
      depth = depth + (c:find "[({]" and 1 or c:find "[)}]" and -1 or 0)
      i = i + 1
    end
    arguments[#arguments + 1] = { name = argument, type = rest:sub(1, i - 1), is_optional = optional == "?" }
    inside = rest:sub(i + 2)
  end
  for answer in (after:gsub("^: ", "") .. ", "):gmatch "(.-), " do
    answers[#answers + 1] = answer ~= "" and answer or nil
  end
  return name, arguments, answers
end

local function put_function(signature, owner, colon, said, where)
  local name, arguments, answers = parse(signature)
  local names = {}
  for i, argument in ipairs(arguments) do names[i] = argument.name end
  assert(said, ("%s: no function '%s' with a comment"):format(where, name))
  local list = table.concat(names, ", ")
  assert(said.arguments == list, ("%s: %s(%s) takes (%s)"):format(where, name, list, said.arguments))
  put ""
  if said.prose ~= "" then put_prose(said.prose) end
  for _, argument in ipairs(arguments) do
    local words = said.of[argument.name]
    put("---@param %s%s %s%s", argument.name, argument.is_optional and "?" or "", argument.type,
      words and words ~= "" and " # " .. words or "")
  end
  for i, answer in ipairs(answers) do
    put("---@return %s%s", answer, i == 1 and said.answer and said.answer ~= "" and " # " .. said.answer or "")
  end
  put("function %s%s%s(%s) end", owner, colon, name, list)
end

local function put_functions(list, owner, colon, var)
  local comments = comments_of(list.from, var)
  for _, entry in ipairs(list) do
    if type(entry) == "table" then
      put_functions(entry, owner, colon, var)
    else
      put_function(entry, owner, colon, comments[entry:match "^[%w_]+"] or comments["*"], list.from)
    end
  end
end

local function put_class(name, fields)
  put ""
  put("---@class %s", name)
  for _, field in ipairs(fields) do
    put("---@field %s %s%s", field[1], field[2], field[3] and field[3] ~= "" and " # " .. field[3] or "")
  end
end

local OPTION_TYPES = { count = "integer", cost = "number", seconds = "number", number = "number", string = "string",
  boolean = "boolean", policy = "string|tokenbatcher.Policy|function", ["function"] = "function",
  slo = "number|string|function" }
local OWN_TYPES = {
  inference_fn = "fun(records: any[], info: tokenbatcher.Info): any[]",
  process_fn = "fun(records: any[], info: tokenbatcher.Info): any[]",
  token_estimator = "fun(record: any): number", cost_estimator = "fun(record: any): number",
  join = "fun(record: any): string|nil", log = "fun(level: string, text: string)",
}

local function option_fields()
  local fields = {}
  for _, entry in ipairs(options.list) do
    for _, name in ipairs { entry.token_name or entry.name, entry.token_name and entry.name } do
      local kind = OWN_TYPES[name] or OPTION_TYPES[entry.kind]
      if entry.kind == "choice" then kind = '"' .. table.concat(entry.choices, '"|"') .. '"' end
      local default = entry.default ~= nil and ("default %s"):format(entry.default) or "default none"
      local unit = entry.unit and entry.unit ~= "" and entry.unit .. ", " or ""
      fields[#fields + 1] = { name .. "?", kind, ("(%s%s) %s"):format(unit, default, entry.text) }
    end
  end
  return fields
end

local PARAMETER_TYPES = { count = "integer", number = "number", string = "string", boolean = "boolean",
  table = "table", ["function"] = "function", policy = "string|tokenbatcher.Policy|function",
  estimator = "string|function" }

local function parameter_fields(declared)
  local fields = {}
  for _, p in ipairs(declared) do
    local default = p.shown or p.default ~= nil and type(p.default) ~= "table" and tostring(p.default) or "none"
    if default == "" then default = "none" end
    local head = p.required and "required" or "default " .. default
    local kind = p.choices and '"' .. table.concat(p.choices, '"|"') .. '"' or PARAMETER_TYPES[p.kind]
    fields[#fields + 1] = { p.name .. (p.required and "" or "?"), kind,
      ("(%s%s)%s"):format(p.unit and p.unit .. ", " or "", head, p.text and " " .. p.text or "") }
  end
  return fields
end

local function submit_fields(class)
  local fields = {}
  for _, name in ipairs(submit_options.names(class)) do
    local it = assert(SUBMIT[name], "submit option without a sentence: " .. name)
    fields[#fields + 1] = { name .. "?", it[1], it[2] }
  end
  return fields
end

local function batch_submit_fields()
  local fields = submit_fields "TokenBatcher"
  for _, field in ipairs(fields) do
    if field[1]:find "^estimated_" then field[2], field[3] = "number[]", field[3]:gsub("^Its", "Of each, the") end
  end
  return fields
end

local function stats_fields()
  local of = tb.TokenBatcher({ inference_fn = function(records) return records end }).stats
  local names, fields = {}, {}
  for name in pairs(of) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    local kind = "number"
    if name == "dispatched" then
      kind = "table<string, integer>"
    elseif type(of[name]) == "table" then
      kind = "tokenbatcher.Distribution"
    end
    fields[#fields + 1] = { name, kind, assert(STATS[name], "a figure without a sentence: " .. name) }
  end
  return fields
end

local function put_shelf(kind, names, describe, answer)
  put ""
  put("---@class tokenbatcher.%s", kind)
  put("local %s = {}", kind)
  put("tb.%s = %s", kind, kind)
  for _, name in ipairs(names) do
    local about, declared = describe(name)
    if declared then put_class(("tokenbatcher.%s.%s"):format(kind, name), parameter_fields(declared)) end
    put ""
    put_prose(about)
    put("---@param given%s %s", (declared or name == "simulated") and "?" or "",
      declared and ("tokenbatcher.%s.%s"):format(kind, name) or "table")
    put("---@return %s", answer)
    put("function %s.%s(given) end", kind, name)
  end
end

local function about_policy(name)
  local module = policies.module(name)
  return module.about .. ".", module.parameters
end

local function about_estimator(name)
  local module = require("tokenbatcher.estimator." .. name)
  return module.about .. ".", module.parameters
end

-- Of the comment that a module begins with, the paragraph about tb.KIND.NAME, or else the first.
local function about_module(path, name)
  local paragraphs, comment = {}, {}
  for line in read(path):gmatch "([^\n]*)\n" do
    if not line:find "^%-%-" then break end
    comment[#comment + 1] = (line:gsub("^%-%-+ ?", ""))
  end
  for paragraph in (table.concat(comment, "\n") .. "\n\n"):gmatch "(.-)\n\n" do
    if name and paragraph:sub(1, #name) == name then return paragraph end
    paragraphs[#paragraphs + 1] = paragraph
  end
  return paragraphs[1]
end

local BACKEND_FILES = { http = "http_json" }
local function about_backend(name)
  return about_module("backend/" .. (BACKEND_FILES[name] or name) .. ".lua", "tb.backend." .. name)
end

local function about_redis(kind)
  return function(name)
    return about_module(("backend/%s/%s.lua"):format(name, kind)),
      require(("tokenbatcher.backend.%s.%s"):format(name, kind)).PARAMETERS
  end
end

local function put_module(module, is_on_ours)
  put ""
  put("---@class tokenbatcher.%s", module.name)
  put("local %s = {}", module.name)
  if is_on_ours then put("tb.%s = %s", module.name, module.name) end
  put_functions(module, module.name, ".", "M")
end

local function names_on(shelf) return getmetatable(shelf).names end

local function main()
  put "---@meta tokenbatcher"
  put("-- The public API of TokenBatcher %s, for editors. Generated: see src/host/meta.lua.", tb._VERSION)
  put_class("tokenbatcher.Err", ERR)
  put_class("tokenbatcher.Info", INFO)
  for _, field in ipairs(INFO_SET) do put("---@field %s %s # %s", field[1], field[2], field[3]) end
  put_class("tokenbatcher.Report", REPORT)
  put_class("tokenbatcher.Policy", POLICY)
  put_class("tokenbatcher.Options", option_fields())
  put_class("tokenbatcher.SubmitOptions", submit_fields "TokenBatcher")
  put_class("tokenbatcher.BatchSubmitOptions", batch_submit_fields())
  put_class("tokenbatcher.Distribution", { { "count", "integer" }, { "mean", "number" },
    { "p50", "number", "Within 3 %, as all percentiles." }, { "p90", "number" }, { "p99", "number" },
    { "max", "number" } })
  put_class("tokenbatcher.Stats", stats_fields())
  for _, class in ipairs(CLASSES) do
    put_class(class.class, class.fields or {})
    put("local %s = {}", class.var)
    put_functions(class, class.var, ":", class.code or class.var)
  end
  put ""
  put "---@class tokenbatcher"
  put "---@field _VERSION string"
  put "local tb = {}"
  put_functions(MODULE, "tb", ".", "M")
  put_class("tokenbatcher.http.Options", parameter_fields(require("tokenbatcher.backend.http").options))
  put_class("tokenbatcher.listen.Options", parameter_fields(require("tokenbatcher.listen").parameters))
  put_class("tokenbatcher.otel.Options", parameter_fields(require("tokenbatcher.listen.otel").parameters))
  for _, module in ipairs(MODULES) do put_module(module, true) end
  for _, module in ipairs(TESTING) do put_module(module, false) end
  put_shelf("policy", policies.names, about_policy, "tokenbatcher.Policy")
  put_shelf("estimator", estimators.names, about_estimator, "function")
  put_shelf("backend", names_on(tb.backend), about_backend, "function")
  put_shelf("source", names_on(tb.source), about_redis "source", "table")
  put_shelf("queue", names_on(tb.queue), about_redis "queue", "table")
  put ""
  put "return tb"
  io.write(table.concat(out, "\n"), "\n")
end

main()
