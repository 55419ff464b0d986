--- TokenBatcher: records from many producers go in, batches within a token budget come
-- out, one inference function runs over each, every producer gets its own answer.
--
--     local tb = require "tokenbatcher"
--     tb.run(function()
--       local batcher = tb.TokenBatcher{ inference_fn = fn, target_batch_tokens = 32000 }
--       batcher:start()
--       print(batcher:submit("What is 2+2?", {estimated_tokens = 5}):await())
--       batcher:stop()
--     end)
--
-- Misuse raises at the caller's line; failure returns nil, err (see errors.lua).

local batcher = require "tokenbatcher.batching.batcher"
local clock = require "tokenbatcher.runtime.clock"
local errors = require "tokenbatcher.base.errors"
local estimators = require "tokenbatcher.estimator"
local Future = require "tokenbatcher.runtime.future"
local host = require "tokenbatcher.runtime.host"
local runs = require "tokenbatcher.batching.run"
local loop = require "tokenbatcher.runtime.loop"
local options = require "tokenbatcher.core.options"
local policies = require "tokenbatcher.policy"
local spawn = require "tokenbatcher.runtime.spawn"
local tasks = require "tokenbatcher.runtime.tasks"

--- @class tokenbatcher
local M = {
  _VERSION = require "tokenbatcher.base.version",
  TokenBatcher = batcher.TokenBatcher,
  DynamicBatcher = batcher.DynamicBatcher,
  Prompt = require "tokenbatcher.batching.prompt",
  failure = runs.failure,
  gather = Future.gather,
}

local function require_function(fn, name)
  if not options.is_callable(fn) then errors.misuse(name .. ": a function is needed, got a " .. type(fn)) end
end

local function pump_of(opts)
  if opts == nil then return require("tokenbatcher.runtime.pump.libev").new() end
  if type(opts) ~= "table" then errors.misuse("run: options must be a table, got a " .. type(opts)) end
  for key in pairs(opts) do
    if key ~= "clock" then
      errors.misuse(("run: unknown option '%s'; did you mean 'clock'?"):format(errors.text(key)))
    end
  end
  local which = opts.clock or "real"
  if which ~= "real" and which ~= "virtual" then
    errors.misuse('run: clock must be "real" or "virtual", got ' .. errors.show(which))
  end
  return require("tokenbatcher.runtime.pump." .. (which == "real" and "libev" or "virtual")).new()
end

--- Run fn as a coroutine until it and all it spawned are done and every accepted record
-- has settled. Raises at once what fn raises, with its traceback; `deadlock` when
-- coroutines wait and nothing can wake them. Cannot be nested.
-- @param fn function
-- @param opts table|nil  clock: "real" (default) or "virtual", where nothing waits
-- @return what fn returns
function M.run(fn, opts)
  require_function(fn, "run")
  return loop.run(fn, pump_of(opts))
end

--- Run fn(...) in a coroutine. @return future of its result
function M.spawn(fn, ...)
  require_function(fn, "spawn")
  if tasks.context() then errors.misuse("spawn cannot be called inside a " .. tasks.context()) end
  if not clock.pump then loop.outside() end
  return spawn.spawn(fn, ...)
end

--- Suspend the running coroutine. @param s number  seconds, >= 0; 0: until the next turn
function M.sleep(s)
  if type(s) ~= "number" or not (s >= 0 and s < clock.LONGEST_S) then
    errors.misuse("sleep: a number of seconds >= 0 is needed, got " .. errors.show(s))
  end
  tasks.require_suspend "sleep"
  tasks.sleep_until(clock.now_us() + s * 1e6)
end

--- Seconds, monotonic, of any origin; within a virtual run its clock.
function M.now()
  return clock.now_us() / 1e6
end

--- Start a batcher, call fn(batcher), stop it. If fn raises, queued records are cancelled,
-- running ones awaited, and the error is raised again. @return what fn returns
function M.with(b, fn)
  if not batcher.is_batcher(b) then errors.misuse("with: a batcher is needed, got a " .. type(b)) end
  require_function(fn, "with")
  tasks.require_suspend "with"
  b:start()
  local results = { n = 0 }
  local function keep(ok, ...)
    results.n, results.ok = select("#", ...), ok
    for i = 1, results.n do results[i] = (select(i, ...)) end
  end
  local traceback
  keep(xpcall(fn, function(value)
    traceback = debug.traceback(errors.text(value), 2)
    return value
  end, b))
  if not results.ok then b:cancel_queued() end
  b:stop()
  if results.ok then return unpack(results, 1, results.n) end
  if errors.is_err(results[1]) then results[1].traceback = results[1].traceback or traceback end
  host.remember_traceback(results[1], traceback)
  error(results[1], 0)
end

--- For a host that owns the loop: a descriptor that polls readable when there is work, or
-- the next deadline has come.
function M.fd()
  return loop.outside().fd()
end

--- When step() is needed next, on the clock of now(): seconds, or nil.
function M.next_deadline()
  loop.outside()
  local at = loop.next_us()
  return at and at / 1e6
end

--- One turn of the loop; never blocks.
function M.step()
  loop.step()
end

--- In nginx: how long an exiting worker waits for what its batchers still hold (default 30).
-- From its QUIT on everything queued is due at once, and records still come in; after this
-- time what is left fails (`stopped`), so that no worker stays for ever.
-- @param s number  seconds
function M.exit_timeout(s)
  if type(s) ~= "number" or not (s >= 0 and s < clock.LONGEST_S) then
    errors.misuse("exit_timeout: a number of seconds >= 0 is needed, got " .. errors.show(s))
  end
  host.set_exit_timeout(s)
end

-- tb.policy.NAME and the like load a small file on first use.
local function shelf(kind, names, load)
  return setmetatable({}, { names = names, __index = function(self, name)
    for _, known in ipairs(names) do
      if name == known then
        self[name] = load(name)
        return self[name]
      end
    end
    errors.misuse(("tokenbatcher.%s has no '%s'; it has: %s"):format(kind, errors.text(name),
      table.concat(names, ", ")))
  end })
end

--- Inference functions that ship.
M.backend = shelf("backend", { "simulated", "openai", "http", "requests", "retrying", "threads" }, function(name)
  if name == "http" then return require "tokenbatcher.backend.http_json" end
  return require("tokenbatcher.backend." .. name)
end)

--- Where records come from, beside those who submit them: tb.source.redis{...} feeds a batcher.
M.source = shelf("source", { "redis" }, function(name)
  return function(given) return require("tokenbatcher.backend." .. name .. ".source").new(given) end
end)

--- Where records go that other processes work on: tb.queue.redis{...} is submitted to like a batcher.
M.queue = shelf("queue", { "redis" }, function(name)
  return function(given) return require("tokenbatcher.backend." .. name .. ".queue").new(given) end
end)

--- Policies that ship: tb.policy.NAME{...} is a value for the option `policy`.
M.policy = shelf("policy", policies.names, function(name)
  return function(given) return policies.shipped(name, given) end
end)

--- Estimators that ship: tb.estimator.NAME{...} is a value for `token_estimator`.
M.estimator = shelf("estimator", estimators.names, function(name)
  return function(given) return estimators.shipped(name, given) end
end)

--- tb.metrics.prometheus(batcher, ...): a metrics page.
M.metrics = require "tokenbatcher.batching.metrics"

-- tb.http and tb.otel need libcurl, tb.listen libmicrohttpd, tb.json a library of its own: loaded on first use. A name
-- that is not there is a slip of the pen.
return setmetatable(M, errors.strict("tokenbatcher", function(self, name)
  if name == "http" then
    self.http = require "tokenbatcher.backend.http"
  elseif name == "json" then
    self.json = require "tokenbatcher.base.json"
  elseif name == "listen" then
    self.listen = require("tokenbatcher.listen").listen
  elseif name == "otel" then
    self.otel = require("tokenbatcher.listen.otel").otel
  end
  return rawget(self, name)
end))
