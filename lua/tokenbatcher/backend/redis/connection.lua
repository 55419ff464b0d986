--- A connection to Redis as tasks see it: it suspends the task of each command until its reply has come. When it is
-- lost, those who wait are told (redis_unavailable), and it is opened again by itself: after up to 50 ms, 100 ms,
-- 200 ms ... 5 s, at random.
--
-- What carries the bytes is its link: by_hiredis.lua on our own loop, by_cosocket.lua in nginx. A link has
-- open(address), which returns what is wrong at once, or nothing; write(words, n); shut(), until the next open();
-- again(at_us): call the connection's open() then; free(). It calls take(value) with each reply, in order, and
-- lose(why).
--
-- A reply is a value: a string, a number, false for nil, a list. An error is nil and an err:
--   redis_unavailable  not connected, lost meanwhile (whether Redis has done it nobody knows), or Redis says that
--                      it cannot now: LOADING, READONLY, MISCONF, ...
--   redis_error        anything else that Redis says; err.redis is its first word, as in WRONGTYPE

local backoff = require "tokenbatcher.base.backoff"
local clock = require "tokenbatcher.runtime.clock"
local errors = require "tokenbatcher.base.errors"
require "tokenbatcher.runtime.loop" -- gives the clock its pump
local scripts = require "tokenbatcher.backend.redis.scripts"
local tasks = require "tokenbatcher.runtime.tasks"

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

local function new_link(connection)
  if clock.pump and clock.pump.attach then
    return require("tokenbatcher.backend.redis.by_hiredis").new(connection)
  elseif rawget(_G, "ngx") then
    return require("tokenbatcher.backend.redis.by_cosocket").new(connection)
  end
  errors.misuse "Redis needs the real clock and the libev loop, within tokenbatcher.run"
end

--- @param to table  see url.parse  @param opts table  name: for CLIENT SETNAME; silence_s; may_block: see
-- unblock(); on_open(), on_lost(text): called where they must not suspend; scripts: names of those used
function M.new(to, opts)
  local self = setmetatable({
    to = to, name = opts.name, may_block = opts.may_block,
    scripts = opts.scripts or {}, sha = {}, on_open = opts.on_open, on_lost = opts.on_lost,
    waiting = {}, first = 1, last = 0, is_ready = false, attempts = 0, retry_at = nil,
    waiters = {}, is_closed = false,
    address = { unix_socket = to.unix_socket, host = to.host, port = to.port, connect_timeout_s = CONNECT_S,
      silence_s = opts.silence_s or SILENCE_S },
  }, Connection)
  self.link = new_link(self)
  self:open()
  return self
end

-- --- commands ----------------------------------------------------------------------

-- Who is told of the next reply: fn(value, err).
local function expect(self, fn)
  self.last = self.last + 1
  self.waiting[self.last] = fn
end

local function unavailable(self, why)
  return errors.new("redis_unavailable", ("Redis at %s: %s"):format(self.to.shown, why))
end

--- Write a command; fn(value, err) must not suspend.
-- @param words table  strings and numbers
-- @return boolean  false: it was not written, fn is not called
function Connection:send(words, fn)
  if not self.is_ready or not self.link:write(words, #words) then return false end
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
    local words = { ... }
    if self.link:write(words, #words) then expect(self, fn) end
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
  local refusal = self.link:open(self.address)
  if refusal then return self:lose(refusal) end
  greet(self)
end

--- Give it up as it is, and begin anew after a while. @param why string
function Connection:lose(why)
  if self.is_closed or self.retry_at then return end
  local waiting, first, last = self.waiting, self.first, self.last
  local was_ready = self.is_ready
  self.waiting, self.first, self.last, self.is_ready, self.why = {}, 1, 0, false, why
  self.link:shut()
  self.retry_at = clock.now_us() + 1e6 * backoff.wait_s(self.attempts, nil, BACKOFF)
  self.attempts = math.min(self.attempts + 1, 20)
  local err = unavailable(self, why)
  for i = first, last do waiting[i](nil, err) end
  if self.on_lost then self.on_lost(why, was_ready) end
  if self.retry_at then self.link:again(self.retry_at) end
end

--- The run has ended: nobody waits any more.
function Connection:shut()
  if self.is_closed then return end
  self.is_closed, self.is_ready, self.retry_at = true, false, nil
  self.link:free()
end

--- For good. Those who wait are told.
function Connection:quit()
  if self.is_closed then return end
  self:lose "closed"
  self:shut()
  wake_waiters(self)
end

-- --- for the link -----------------------------------------------------------------------

--- A reply has come.
function Connection:take(value)
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

--- Does a command wait for its reply?
function Connection:is_owed() return self.last >= self.first end

--- Does anybody wait for anything of it?
function Connection:is_busy() return not self.is_closed and (self:is_owed() or #self.waiters > 0) end

return M
