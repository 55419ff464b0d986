-- Runs spec files inside an nginx worker, on the pump of nginx: its light threads, its
-- semaphores, its timers. Only the clock is another: virtual, as in tb.run{clock = "virtual"}.
-- It jumps when nginx has run whatever it had to run and nothing happens any more.
--
-- A subset of busted is enough for these files: describe, it, before_each, pending, luassert.
--
-- @return function(files, is_skipped, report)  see the end

local errors = require "tokenbatcher.base.errors"
local Future = require "tokenbatcher.runtime.future"
local host = require "tokenbatcher.runtime.host"
local loop = require "tokenbatcher.runtime.loop"
local tb = require "tokenbatcher"

local pump = require "tokenbatcher.runtime.pump.nginx"
local now, activity = 0, 0

local function count(object, name)
  local original = object[name]
  object[name] = function(...)
    activity = activity + 1
    return original(...)
  end
end
count(host, "resume")
count(host, "start")
count(pump, "wake")

local turn_of_nginx_semaphore = require("ngx.semaphore").new(0)
local function go_on() turn_of_nginx_semaphore:post(1) end

-- (ngx.sleep(0) complains in Debian's nginx.)
local function turn_of_nginx()
  ngx.timer.at(0, go_on)
  turn_of_nginx_semaphore:wait(1)
end

-- Some turns of nginx's loop in which nothing of ours happened.
local QUIET = 4
local function until_quiet()
  local quiet, seen = 0, activity
  while quiet < QUIET do
    turn_of_nginx()
    quiet = activity == seen and quiet + 1 or 0
    seen = activity
  end
end

local stuck = 0 -- how often in a row the pump had nothing to wait for

local real = { now = pump.now, let_run = pump.let_run, idle = pump.idle }
local virtual = { let_run = until_quiet }

function virtual.now() return now end

function virtual.idle(at)
  local seen = activity
  until_quiet()
  if activity ~= seen then
    stuck = 0
    return
  end
  stuck = at and 0 or stuck + 1
  if at and at > now then now = math.ceil(at) end
end

local function use(clock)
  for name, fn in pairs(clock) do pump[name] = fn end
end
use(virtual)

-- --- tb.run ---------------------------------------------------------------------

local spawned
local spawn = tb.spawn
tb.spawn = function(...)
  local future = spawn(...)
  if spawned then spawned[#spawned + 1] = future end
  return future
end

local function raise(err)
  local value = err.cause
  if type(value) == "string" then error(err.traceback or value, 0) end
  if errors.is_err(value) then
    value.traceback = value.traceback or err.traceback
    error(value, 0)
  end
  error(err, 0)
end

local function all_done(list)
  for i = 1, #list do
    if not list[i]:done() then return false end
  end
  return loop.unsettled() == 0
end

-- How often in a row nothing could go on before that is a deadlock: the pump, too, waits
-- for quiet in the middle of a turn.
local PATIENCE = 5

local function wait_for_all(main)
  local idle = 0
  stuck = 0
  while not (main:done() and main[Future.STATE] == "failed") and not all_done(spawned) do
    until_quiet()
    idle = not loop.is_busy() and idle + 1 or 0
    if stuck > PATIENCE or idle > PATIENCE then return not all_done(spawned) end
  end
end

-- Those who still sleep end, so that the next run begins with nothing.
local function clean_up()
  loop.abandon()
  local jumps = 0
  repeat
    until_quiet()
    jumps = jumps + 1
  until not loop.is_busy() or jumps > 20000
  assert(jumps <= 20000, "somebody sleeps for ever")
  until_quiet()
end

tb.run = function(fn, opts)
  spawned, now = {}, 0
  use((not opts or opts.clock == "real") and real or virtual)
  local results
  local main = tb.spawn(function()
    results = { fn() }
  end)
  local is_deadlock = wait_for_all(main)
  local list = spawned
  spawned = nil
  now = pump.now()
  use(virtual)
  clean_up()
  main.awaited = false
  for _, future in ipairs(list) do
    if future[Future.STATE] == "failed" and not future.awaited then raise(future[Future.HELD]) end
  end
  if is_deadlock then error(errors.new("deadlock", "nothing can go on"), 0) end
  return unpack(results)
end

-- --- describe and it --------------------------------------------------------------

local SKIP = { message = "skipped" } -- raised by pending()

-- nginx's coroutine.create takes no C functions.
local coroutines = setmetatable({
  create = function(fn) return coroutine.create(function(...) return fn(...) end) end,
}, { __index = coroutine })

local function collect(file, is_skipped, report)
  local path, before = {}, { [0] = {} }
  local env = setmetatable({ assert = require "luassert", coroutine = coroutines }, { __index = _G })

  function env.describe(name, body)
    path[#path + 1], before[#path + 1] = name, {}
    body()
    path[#path], before[#path] = nil, nil
  end

  function env.before_each(fn) table.insert(before[#path], fn) end
  env.setup = function(fn) fn() end
  env.teardown = function() end

  function env.pending() error(SKIP, 0) end

  function env.it(name, body)
    local full = table.concat(path, " ") .. " " .. name
    if is_skipped(full) then return report("skipped", full) end
    local ok, err = pcall(function()
      for depth = 0, #path do
        for _, fn in ipairs(before[depth]) do fn() end
      end
      body()
    end)
    if ok then return report("passed", full) end
    if err == SKIP then return report("skipped", full) end
    report("failed", full, errors.text(err))
  end

  local chunk = assert(loadfile(file))
  setfenv(chunk, env)
  chunk()
end

--- @param is_skipped function(name) -> boolean
-- @param report function("passed" | "failed" | "skipped", name, message)
return function(files, is_skipped, report)
  for _, file in ipairs(files) do
    local ok, err = pcall(collect, file, is_skipped, report)
    if not ok then report("failed", file, errors.text(err)) end
  end
end
