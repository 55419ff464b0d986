--- A connection to Redis as tasks see it: a source of the loop (see loop.add_source) that suspends the task of
-- each command until its reply has come. When it is lost, those who wait are told (redis_unavailable), and
-- it is opened again by itself: after up to 50 ms, 100 ms, 200 ms ... 5 s, at random.
--
-- A reply is a value: a string, a number, false for nil, a list. An error is nil and an err:
--   redis_unavailable  not connected, lost meanwhile (whether Redis has done it nobody knows), or Redis says that
--                      it cannot now: LOADING, READONLY, MISCONF, ...
--   redis_error        anything else that Redis says; err.redis is its first word, as in WRONGTYPE

local backoff = require "tokenbatcher.base.backoff"
local clock = require "tokenbatcher.runtime.clock"
local errors = require "tokenbatcher.base.errors"
local loop = require "tokenbatcher.runtime.loop"
local redis_ffi = require "tokenbatcher.backend.redis.redis_ffi"
local scripts = require "tokenbatcher.backend.redis.scripts"
local tasks = require "tokenbatcher.runtime.tasks"
local tbffi = require "tokenbatcher.core.ffi"

local C = redis_ffi.lib

local M = {}
local Connection = {}
Connection.__index = Connection

local BACKOFF = { first_s = 0.05, most_s = 5 }
local CONNECT_S, SILENCE_S = 5, 3

-- It may be otherwise in a moment.
local PASSES = { LOADING = true, BUSY = true, READONLY = true, MISCONF = true, TRYAGAIN = true, MASTERDOWN = true,
  CLUSTERDOWN = true, UNBLOCKED = true, NOREPLICAS = true }
-- Another Redis may be found at the same address.
local ENDS = { READONLY = true, MASTERDOWN = true }

-- What Redis says, as an err. Of an unknown command it quotes the arguments.
local function error_of(text)
  local word = text:match "^(%u+)"
  local err = errors.new(PASSES[word] and "redis_unavailable" or "redis_error",
    "Redis says: " .. text:gsub(", with args.*$", ""):gsub("%c", " "):sub(1, 200))
  err.redis = word
  return err
end

--- @param to table  see url.parse  @param opts table  name: for CLIENT SETNAME; silence_s; may_block: see
-- unblock(); on_open(), on_lost(text): called within a turn, they must not suspend; scripts: names of those used
function M.new(to, opts)
  if not (clock.pump and clock.pump.attach) then
    errors.misuse "Redis needs the real clock and the libev loop, within tokenbatcher.run"
  end
  local self = setmetatable({
    handle = redis_ffi.connection(), to = to, name = opts.name, may_block = opts.may_block,
    scripts = opts.scripts or {}, sha = {}, on_open = opts.on_open, on_lost = opts.on_lost,
    waiting = {}, first = 1, last = 0, is_ready = false, attempts = 0, retry_at = nil,
    waiters = {}, is_closed = false, pump = clock.pump,
    address = { unix_socket = to.unix_socket, host = to.host, port = to.port, connect_timeout_s = CONNECT_S,
      silence_s = opts.silence_s or SILENCE_S },
  }, Connection)
  local ok, message = self.pump.attach(C.tb_redis_fd(self.handle))
  if not ok then error("tokenbatcher: the loop cannot wait for Redis: " .. message, 0) end
  loop.add_source(self)
  self:open()
  return self
end

-- --- commands ----------------------------------------------------------------------

local function write(handle, ...)
  local n = select("#", ...)
  if C.tb_redis_begin(handle, n) ~= 0 then return false end
  for i = 1, n do
    local word = select(i, ...)
    if type(word) ~= "string" then word = ("%.14g"):format(word) end
    C.tb_redis_word(handle, word, #word)
  end
  return true
end

local function write_list(handle, words, n)
  if C.tb_redis_begin(handle, n) ~= 0 then return false end
  for i = 1, n do
    local word = words[i]
    if type(word) ~= "string" then word = ("%.14g"):format(word) end
    C.tb_redis_word(handle, word, #word)
  end
  return true
end

-- Who is told of the next reply: fn(value, err).
local function expect(self, fn)
  self.last = self.last + 1
  self.waiting[self.last] = fn
  clock.notify()
end

local function unavailable(self, why)
  return errors.new("redis_unavailable", ("Redis at %s: %s"):format(self.to.shown, why))
end

--- Write a command; fn(value, err) is called within a turn, and must not suspend.
-- @param words table  strings and numbers
-- @return boolean  false: it was not written, fn is not called
function Connection:send(words, fn)
  if not self.is_ready or not write_list(self.handle, words, #words) then return false end
  expect(self, fn)
  return true
end

local function wait_for(self, words)
  local task = tasks.waiter()
  local value, err
  local sent = self:send(words, function(got, problem)
    value, err = got, problem
    tasks.wake(task)
  end)
  if not sent then return nil, unavailable(self, self.why or "not connected") end
  tasks.suspend(task, "redis")
  return value, err
end

--- Perform a command, suspending the running task. @return value; or nil and an err
function Connection:call(...)
  tasks.require_suspend "redis"
  return wait_for(self, { ... })
end

--- The same, with the words in a list.
function Connection:call_list(words)
  tasks.require_suspend "redis"
  return wait_for(self, words)
end

-- EVALSHA sha n keys arguments.
local function script_words(first, second, keys, arguments)
  local words = { first, second, #keys, unpack(keys) }
  local n = #words
  for i = 1, #arguments do words[n + i] = arguments[i] end
  return words
end

--- Run one of our scripts. @param keys table  @param arguments table  lists
function Connection:run(name, keys, arguments)
  local sha = self.sha[name]
  if sha then
    local value, err = wait_for(self, script_words("EVALSHA", sha, keys, arguments))
    if not err or err.redis ~= "NOSCRIPT" then return value, err end
  end
  return wait_for(self, script_words("EVAL", scripts[name], keys, arguments))
end

-- --- life -----------------------------------------------------------------------------

local function wake_waiters(self)
  local list = self.waiters
  self.waiters = {}
  for _, task in ipairs(list) do tasks.wake(task) end
end

--- Suspend until it is connected and greeted. @param timeout_s number|nil  @param is_enough function|nil  asked at
-- each stir(): whether to wait no longer  @return true; false: it is closed, the time has passed, or it is enough
function Connection:wait_ready(timeout_s, is_enough)
  local deadline = timeout_s and clock.now_us() + timeout_s * 1e6
  while not self.is_ready and not self.is_closed do
    if is_enough and is_enough() then return false end
    if deadline and clock.now_us() >= deadline then return false end
    local task = tasks.waiter()
    local timer = deadline and tasks.await_timer(task, deadline)
    self.waiters[#self.waiters + 1] = task
    tasks.suspend(task, "redis")
    if timer then tasks.cancel_timer(timer) end
  end
  return self.is_ready
end

--- Have Redis answer the command that blocks on another connection now. @param other Connection  with may_block
function Connection:unblock(other)
  if other.is_ready and other.client_id then
    self:send({ "CLIENT", "UNBLOCK", other.client_id }, function() end)
  end
end

--- Wake those who wait in wait_ready: something else has changed.
function Connection:stir() wake_waiters(self) end

-- What fails of a greeting ends the connection: nothing else could go well.
local function greet(self)
  local to = self.to
  local function must(value, err)
    if value == nil then self:lose(err.message) end
  end
  local function put(fn, ...)
    if write(self.handle, ...) then expect(self, fn) end
  end
  if to.password and to.user then put(must, "AUTH", to.user, to.password)
  elseif to.password then put(must, "AUTH", to.password) end
  if to.db > 0 then put(must, "SELECT", to.db) end
  if self.name then put(function() end, "CLIENT", "SETNAME", self.name) end
  if self.may_block then put(function(id) self.client_id = id end, "CLIENT", "ID") end
  for _, name in ipairs(self.scripts) do
    put(function(sha) self.sha[name] = sha end, "SCRIPT", "LOAD", scripts[name])
  end
  put(function(value, err)
    if value == nil then return self:lose(err.message) end
    self.is_ready, self.attempts, self.why = true, 0, nil
    if self.on_open then self.on_open() end
    wake_waiters(self)
  end, "PING")
end

function Connection:open()
  self.retry_at = nil
  local refusal = redis_ffi.open(self.handle, self.address)
  if refusal == C.TB_REDIS_EMEMORY then return self:lose "out of memory or descriptors" end
  if refusal ~= 0 then return self:lose "its address cannot be one" end
  greet(self)
end

--- Give it up as it is, and begin anew after a while. @param why string
function Connection:lose(why)
  if self.is_closed or self.retry_at then return end
  local waiting, first, last = self.waiting, self.first, self.last
  local was_ready = self.is_ready
  self.waiting, self.first, self.last, self.is_ready, self.why = {}, 1, 0, false, why
  C.tb_redis_close(self.handle)
  self.retry_at = clock.now_us() + 1e6 * backoff.wait_s(self.attempts, nil, BACKOFF)
  self.attempts = math.min(self.attempts + 1, 20)
  local err = unavailable(self, why)
  for i = first, last do waiting[i](nil, err) end
  if self.on_lost then self.on_lost(why, was_ready) end
end

local function shut(self)
  self.is_closed, self.is_ready, self.retry_at = true, false, nil
  self.pump.detach(C.tb_redis_fd(self.handle))
  redis_ffi.close(self.handle)
end

--- For good. Those who wait are told.
function Connection:quit()
  if self.is_closed then return end
  self:lose "closed"
  shut(self)
  wake_waiters(self)
end

-- --- for the loop -----------------------------------------------------------------------

local function deliver(self, value)
  local fn = self.waiting[self.first]
  self.waiting[self.first] = nil
  self.first = self.first + 1
  if self.first > self.last then self.first, self.last = 1, 0 end
  if type(value) == "table" and value.err then
    local err = error_of(value.err)
    fn(nil, err)
    if ENDS[err.redis] then self:lose(err.message) end
  else
    fn(value)
  end
end

function Connection:turn(now)
  if self.is_closed then return end
  if self.retry_at then
    if now >= self.retry_at then self:open() end
    return
  end
  local n = C.tb_redis_turn(self.handle)
  while n > 0 and not self.retry_at and not self.is_closed do
    deliver(self, redis_ffi.take(self.handle))
    n = n - 1
  end
  if not self.retry_at and not self.is_closed and C.tb_redis_state(self.handle) == C.TB_REDIS_CLOSED then
    self:lose(tbffi.text(C.tb_redis_error(self.handle)))
  end
end

function Connection:next_us()
  if self.is_closed then return nil end
  if self.retry_at then return self.retry_at end
  if C.tb_redis_state(self.handle) == C.TB_REDIS_CLOSED then return clock.pump.now() end -- it could not even begin
  local at = tonumber(C.tb_redis_next(self.handle))
  return at >= 0 and at or nil
end

function Connection:excuse(us)
  if not self.is_closed then C.tb_redis_excuse(self.handle, math.floor(us)) end
end

--- The run has ended: nobody waits any more.
function Connection:close()
  if not self.is_closed then shut(self) end
end

function Connection:is_busy() return not self.is_closed and (self.last >= self.first or #self.waiters > 0) end

return M
