--- tb.backend.threads{script, threads, options, max_memory_mb}: an inference function that
-- runs another script's inference_fn in worker threads, so that it may block. Batches wait
-- for a free worker; max_concurrent_batches says how many are under way at once.
--
-- The batch's coroutine is suspended meanwhile. Answers are taken when the descriptor of the
-- pool (src/script/threads.h) is readable, which the loop watches while batches are under
-- way. Threads start with the first batch, and end when the batcher stops. A call that outlives
-- inference_timeout_s cannot be stopped: another thread takes its thread's place, and the call
-- counts as abandoned until its thread ends it. At most threads + 16 such calls are kept (R5):
-- beyond that batches fail at once, until one ends.

local clock = require "tokenbatcher.runtime.clock"
local errors = require "tokenbatcher.base.errors"
local exact = require "tokenbatcher.base.exact_ffi"
local inference = require "tokenbatcher.batching.run"
local tasks = require "tokenbatcher.runtime.tasks"
local script_folder = require "tokenbatcher.base.script_folder"
local script_ffi = require "tokenbatcher.backend.threads_ffi"
local tbffi = require "tokenbatcher.core.ffi"

local has_buffer, buffer = pcall(require, "string.buffer")
local C = script_ffi.lib

local ANSWERS = 64
local MEBIBYTE = 2 ^ 20
local NAMES = { "script", "threads", "options", "max_memory_mb" }

local answers = tbffi.new("tb_answer[?]", ANSWERS)
local numbers = tbffi.new "tb_threads_numbers"

-- --- options ----------------------------------------------------------------

local function is_count(value, most)
  return type(value) == "number" and value >= 1 and value <= most and value % 1 == 0
end

local function bad(text)
  errors.misuse("threads: " .. text)
end

local function check_names(given)
  if type(given) ~= "table" then bad("options must be a table, got a " .. type(given)) end
  local known = {}
  for _, name in ipairs(NAMES) do known[name] = true end
  for key in pairs(given) do
    if not known[key] then
      bad(("unknown option '%s'; did you mean '%s'?"):format(errors.text(key), errors.nearest(errors.text(key), NAMES)))
    end
  end
end

local function check(given)
  check_names(given)
  if type(given.script) ~= "string" then bad("option 'script' must be the path of a Lua file, got "
    .. errors.show(given.script)) end
  if given.threads ~= nil and not is_count(given.threads, C.TB_THREADS_MAX) then
    bad(("option 'threads' must be a whole number from 1 to %d, got %s"):format(C.TB_THREADS_MAX,
      errors.show(given.threads)))
  end
  local memory = given.max_memory_mb
  if memory ~= nil and not (type(memory) == "number" and memory >= 1 and memory <= 2 ^ 20) then
    bad("option 'max_memory_mb' must be a number from 1 to 1048576, got " .. errors.show(memory))
  end
  if given.options ~= nil and type(given.options) ~= "table" then
    bad("option 'options' must be a table, got a " .. type(given.options))
  end
end

-- What can be seen without running it.
local function check_script(path)
  local chunk, message = loadfile(path, "t")
  if not chunk then bad("cannot load the script: " .. message) end
end

local function check_clock()
  if clock.pump and clock.pump.is_virtual then
    bad 'they need the real clock and cannot run under clock = "virtual"'
  end
end

-- --- the backend --------------------------------------------------------------

--- @class tokenbatcher.Threads
local Threads = {}
Threads.__index = Threads

-- The threads end when no batch is under way, unless another comes first.
local function rest_if_idle(self)
  if not self.may_rest or next(self.tasks) then return end
  self.may_rest = false
  C.tb_threads_rest(self.pool)
end

local function take_all(self)
  repeat
    local n = C.tb_threads_take(self.pool, answers, ANSWERS)
    for i = 0, n - 1 do
      local job = answers[i].job
      local answer = { is_ok = answers[i].is_ok == 1, bytes = script_ffi.take_bytes(answers[i]) }
      local task = self.tasks[job] or self.adrift[job]
      self.tasks[job], self.adrift[job] = nil, nil
      if task then tasks.wake(task, answers[i].is_given_up == 0 and answer or nil) end
    end
  until n < ANSWERS
end

-- Have take_all() called when there are answers, as long as a batch is under way or a call goes
-- on that was given up; for the latter nobody waits.
local function watch(self)
  local pump = clock.pump
  if self.watched_by == pump then return end
  if not pump.watch then bad "they need the libev loop: tokenbatcher.run, or step()" end
  if self.pump ~= pump then self.pump, self.adrift = pump, {} end -- those were of another run
  local ok, message = pump.watch(C.tb_threads_fd(self.pool), function()
    self.watched_by = nil
    take_all(self)
    if next(self.tasks) or next(self.adrift) then watch(self) end
    rest_if_idle(self)
  end, function() return next(self.tasks) ~= nil end)
  if not ok then error("threads: the loop cannot wait for them: " .. message, 0) end
  self.watched_by = pump
end

-- Nobody waits for a batch any more. While its run is not closed, its slot is taken anyway,
-- and the worker may as well finish. The task goes on when the call has ended.
local function give_up(self, job, task)
  if not (self.tasks[job] and task.run and task.run.over) then return end
  self.tasks[job] = nil
  if C.tb_threads_abandon(self.pool, job) == 1 then
    self.adrift[job] = task
  else
    tasks.wake(task, nil)
  end
end

local function refuse(self, code)
  if code ~= C.TB_THREADS_HANG then error("threads: no thread can be started, or too many batches wait for one", 0) end
  error(("threads: %d calls that were given up still run, as many as may (threads + %d): no batch is begun until one "
    .. "of them ends"):format(self:stats().hanging, C.TB_THREADS_SPARE), 0)
end

-- Hand bytes to a worker; suspends until its answer has come.
local function perform(self, bytes)
  tasks.require_wanted "call"
  watch(self)
  local task = tasks.waiter()
  local job = C.tb_threads_submit(self.pool, bytes, #bytes)
  if job < 0 then refuse(self, job) end
  self.tasks[job], self.may_rest = task, false
  task.on_abandon = function() give_up(self, job, task) end
  local answer = tasks.suspend(task, "threads")
  task.on_abandon = nil
  return answer or tasks.raise_cancelled(task, "call")
end

local function encode_batch(records, info)
  local ok, bytes = exact.sent(buffer.encode, {
    records = records,
    info = {
      id = info.id, size = info.size, cost = info.cost, costs = info.costs, keys = info.keys,
      group = info.group, reason = info.reason, attempt = info.attempt, deadline = info.deadline,
    },
  })
  if ok then return bytes end
  error("threads: the records cannot travel to a thread: " .. errors.text(bytes), 0)
end

local function read(answer, info)
  if not answer.is_ok then
    error("a worker thread failed: " .. (answer.bytes or "out of memory"), 0)
  end
  local said = buffer.decode(answer.bytes)
  if not said.ok then error(errors.new("inference_failed", said.message, said.message, said.traceback), 0) end
  info.usage, info.requests = said.usage, said.requests
  if said.failure then return inference.failure(said.failure.reason) end
  for i, failure in pairs(said.failures or {}) do said.results[i] = inference.failure(failure.reason) end
  return said.results, said.second
end

function Threads:__call(records, info)
  check_clock()
  tasks.require_suspend "threads"
  return read(perform(self, encode_batch(records, info)), info)
end

--- @return table  threads (running), busy, waiting (batches that no thread has begun),
-- abandoned (ever), hanging (of those, still run)
function Threads:stats()
  C.tb_threads_read(self.pool, numbers)
  return {
    threads = numbers.threads, busy = numbers.busy, waiting = numbers.waiting, abandoned = numbers.abandoned,
    hanging = numbers.hanging,
  }
end

--- A batcher has stopped, or has another inference function now: join the threads, as soon
-- as no batch of another one, or of before, is under way.
function Threads:on_stop()
  self.may_rest = true
  rest_if_idle(self)
end

--- @param given table  script: a file as for `tokenbatcher run`, whose inference_fn is used;
-- threads: how many (4); options: of the script's own; max_memory_mb: what each thread's Lua
-- may hold, at the price of its compiler (none)
-- @return tokenbatcher.Threads  for inference_fn
return function(given)
  if not has_buffer then
    errors.misuse "threads: this LuaJIT has no string.buffer: it is older than 2.1 of June 2021"
  end
  check(given)
  check_clock()
  local path = script_folder.resolve(given.script)
  check_script(path)
  local ok, setup = pcall(buffer.encode, {
    script = path, options = given.options or {}, path = package.path, cpath = package.cpath,
  })
  if not ok then bad("option 'options' must hold plain values: " .. errors.text(setup)) end
  local memory_bytes = (given.max_memory_mb or 0) * MEBIBYTE
  local pool = script_ffi.threads(setup, given.threads or 4, memory_bytes)
  if not pool then bad "out of memory or descriptors" end
  return setmetatable({ pool = pool, tasks = {}, adrift = {}, may_rest = false }, Threads)
end
