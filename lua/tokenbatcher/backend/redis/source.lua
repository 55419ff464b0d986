--- Records from Redis: a worker. It takes them from streams, hands them to a batcher, and writes their answers where
-- their producers read them. Any number of workers share the streams; each record is answered once.
--
--     tb.run(function()
--       local batcher = tb.TokenBatcher(options)
--       batcher:start()
--       local source = tb.source.redis { url = "redis://127.0.0.1:6379", stream = "S" }
--       source:feed(batcher)      -- until source:stop() is called somewhere else
--       batcher:stop()
--     end)
--
-- A worker w is this, and what its parts (intake, holding, outbox) know it by: held, records by their id in the
-- stream; by_future; queued and queued_cost, what is not in a batch yet; unrun, what is to be given back.

local clock = require "tokenbatcher.runtime.clock"
local connection = require "tokenbatcher.backend.redis.connection"
local errors = require "tokenbatcher.base.errors"
local backoff = require "tokenbatcher.base.backoff"
local holding = require "tokenbatcher.backend.redis.holding"
local intake = require "tokenbatcher.backend.redis.intake"
local message = require "tokenbatcher.backend.redis.message"
local names = require "tokenbatcher.backend.redis.names"
local outbox = require "tokenbatcher.backend.redis.outbox"
local parameters = require "tokenbatcher.base.parameters"
local pause = require "tokenbatcher.backend.redis.pause"
local process_ffi = require "tokenbatcher.backend.redis.process_ffi"
require "tokenbatcher.backend.redis.redis_ffi" -- to learn early that hiredis is missing
local server = require "tokenbatcher.backend.redis.server"
local spawn = require "tokenbatcher.runtime.spawn"
local tasks = require "tokenbatcher.runtime.tasks"
local urls = require "tokenbatcher.backend.redis.url"
local Future = require "tokenbatcher.runtime.future"

local M = {}

--- @class tokenbatcher.redis.Source
local Source = {}
Source.__index = Source

M.PARAMETERS = {
  { name = "url", kind = "string", default = urls.DEFAULT },
  { name = "stream", kind = "string" },
  { name = "streams", kind = "table" }, -- in place of `stream`: a list, read in this order
  { name = "group", kind = "string", default = "tb" },
  { name = "consumer", kind = "string" }, -- default: HOST-PID-NONCE
  { name = "lease_s", kind = "number", default = 60, min = 0.3, max = 86400, unit = "seconds" },
  { name = "ahead", kind = "count", default = 0, min = 0, max = 16 },
  { name = "max_deliveries", kind = "count", default = 4, min = 1, max = 1000 },
  { name = "reply_ttl_s", kind = "number", default = 3600, above = 0, max = 31536000, unit = "seconds" },
  { name = "max_record_bytes", kind = "count", default = message.MOST_RECORD, min = 1, max = 268435456 },
  { name = "connect_timeout_s", kind = "number", default = 10, above = 0, max = 86400, unit = "seconds" },
  { name = "decode", kind = "function" }, -- decode(text) -> record, or nil and a message; default: JSON
  { name = "encode", kind = "function" }, -- encode(record, result) -> a string, or a value that becomes JSON
  { name = "options", kind = "function" }, -- options(record, opts): fills in what is not given; or nil and a message
  { name = "log", kind = "function" }, -- log(level, text); default: standard error
}

local function stream_names(p)
  local list = p.streams or { p.stream }
  if #list == 0 then errors.misuse "source.redis: a stream is needed: stream = \"S\"" end
  for i, name in ipairs(list) do
    if type(name) ~= "string" or name == "" or #name > 400 or name:find "[{}%z]" then
      errors.misuse("source.redis: a stream's name has 1 to 400 bytes, without { and }, got " .. errors.show(name))
    end
    for k = 1, i - 1 do
      if list[k] == name then errors.misuse("source.redis: the stream " .. errors.show(name) .. " is named twice") end
    end
  end
  return list
end

local function stream_of(name, group, p)
  return {
    name = name, dead = names.dead(name), sweep = names.sweep(name, group), cursor = "0-0",
    rules = { prefix = names.reply_prefix(name), most_record = p.max_record_bytes,
      decode = p.decode or message.from_json },
  }
end

--- @param given table  see M.PARAMETERS
function M.new(given)
  if rawget(_G, "ngx") then
    errors.misuse "source.redis: a worker is a process of its own (tokenbatcher work), not nginx"
  end
  local p = parameters.read("source.redis", M.PARAMETERS, given)
  local to, problem = urls.parse(p.url)
  if not to then errors.misuse("source.redis: " .. problem) end
  local nonce = ("%06x"):format(math.floor(backoff.random() * 2 ^ 24))
  local self = setmetatable({
    to = to, group = p.group, consumer = p.consumer or process_ffi.name(nonce), lease_s = p.lease_s,
    ahead = p.ahead, max_deliveries = p.max_deliveries, reply_ttl_ms = math.ceil(p.reply_ttl_s * 1000),
    connect_timeout_s = p.connect_timeout_s, encode = p.encode, options = p.options, log = p.log,
    streams = {}, by_name = {}, held = {}, by_future = {}, unrun = {}, outbox = outbox.new(),
    bells = { intake = pause.bell(), beat = pause.bell(), outbox = pause.bell(), main = pause.bell() },
    queued = 0, queued_cost = 0, unsettled = 0, sweep_at = 0, sweeps = 0, suspect_number = 0, skew_us = nil,
    is_stopping = false, is_closing = false, is_over = false, is_aborted = false,
    counts = { answered = 0, failed = 0, dead = 0, lost = 0, late = 0, claimed = 0, released = 0 }, failures = {},
  }, Source)
  for i, name in ipairs(stream_names(p)) do
    self.streams[i] = stream_of(name, p.group, p)
    self.by_name[name] = self.streams[i]
  end
  return self
end

--- For its parts: say it.
function Source:warn(text)
  if text == self.last_warning and clock.now_us() < self.warned_at + 5e6 then return end
  self.last_warning, self.warned_at = text, clock.now_us()
  if self.log then self.log("warn", text) else io.stderr:write("tokenbatcher: ", text, "\n") end
end

--- For its parts: a record waits for a batch; it does not any more.
function Source:queue(entry, cost)
  entry.queued_cost = cost
  self.queued, self.queued_cost = self.queued + 1, self.queued_cost + cost
end

function Source:unqueue(entry)
  if not entry.queued_cost then return end
  self.queued, self.queued_cost = self.queued - 1, self.queued_cost - entry.queued_cost
  entry.queued_cost = nil
end

--- For its parts: it is no concern of ours any more.
function Source:forget(entry)
  if self.held[entry.sid] == entry then self.held[entry.sid] = nil end
end

--- For its parts: Redis's clock, milliseconds since 1970, at a time of ours (default: now).
function Source:redis_ms(at_us)
  return ((at_us or clock.now_us()) + (self.skew_us or 0)) / 1000
end

--- For its parts: what time is it there?
function Source:ask_time()
  local before = clock.now_us()
  local reply = self.command:call "TIME"
  if not reply then return end
  local theirs = tonumber(reply[1]) * 1e6 + tonumber(reply[2])
  self.skew_us = theirs - (before + clock.now_us()) / 2
end

--- For its parts: the groups, from the beginning of their streams. @return true, or nil and an err
function Source:make_groups()
  for _, stream in ipairs(self.streams) do
    local value, err = self.command:call("XGROUP", "CREATE", stream.name, self.group, "0", "MKSTREAM")
    local is_there = value or err.redis == "BUSYGROUP" or err.redis == "OOM" and server.has_group(self.command,
      stream.name, self.group)
    if not is_there then return nil, err end
  end
  return true
end

-- --- life --------------------------------------------------------------------------------

local SCRIPTS = { "answer", "dead", "beat", "start", "release", "claim", "leave" }

local function open(self)
  -- First, and so first in each turn: while Redis writes answers, the next batch would wait.
  self.reader = connection.new(self.to, { name = self.consumer, silence_s = 4.5, may_block = true })
  -- A Redis that is silent on one connection is so on both; the reader's own silence is what it waits for.
  self.command = connection.new(self.to, {
    name = self.consumer, scripts = SCRIPTS,
    on_lost = function(why, was_ready)
      if not was_ready then return end
      if not self.is_over then self:warn(("the connection to Redis at %s is lost: %s"):format(self.to.shown, why)) end
      self.reader:lose(why)
    end,
    on_open = function() self.bells.beat:ring() end,
  })
end

local function close(self)
  self.is_over = true
  self.bells.beat:ring()
  if self.reader then self.reader:quit() end
  if self.command then self.command:quit() end
end

--- Connect, look whether this Redis will do, and make the groups. feed() does it, too.
-- @return true; or nil and an err
function Source:connect()
  if self.command then return true end
  tasks.require_suspend "source:connect"
  open(self)
  local limit = clock.now_us() + self.connect_timeout_s * 1e6
  if not self.command:wait_ready(self.connect_timeout_s) then
    local err = errors.new("redis_unavailable", ("cannot connect to Redis at %s: %s"):format(self.to.shown,
      self.command.why or "no answer"))
    close(self)
    return nil, err
  end
  local ok, err = server.check(self.command, function(text) self:warn(text) end, limit)
  if ok then ok, err = self:make_groups() end
  if not ok then
    close(self)
    return nil, err
  end
  self:ask_time()
  return true
end

-- A part that fails is a fault of ours: the worker ends, and says so.
local function part(self, fn)
  return spawn.spawn(function()
    local ok, err = xpcall(fn, function(value) return debug.traceback(errors.text(value), 2) end, self)
    if ok then return end
    self.failure = self.failure or err
    self:stop_soon()
    self.bells.main:ring()
  end)
end

-- What has not begun is not begun; what runs is waited for.
local function drain(self)
  for _, entry in pairs(self.held) do
    if entry.future and not entry.started_us then entry.future:cancel() end
  end
  while self.unsettled > 0 and not self.is_aborted and not self.failure do
    self.bells.intake:wait(1)
  end
end

local function leave(self)
  if self.is_aborted or not self.command.is_ready then return end
  local list = self.unrun
  self.unrun = {}
  holding.release(self, list)
  for _, stream in ipairs(self.streams) do
    self.command:run("leave", { stream.name, stream.dead }, { self.group, self.consumer, 0 })
  end
end

--- Hand records to a batcher that is running, until stop(). Then what runs is finished and answered, and what
-- is not begun is given back. @return true; or nil and an err: it could not connect, or was abandoned
function Source:feed(batcher)
  local ok, err = self:connect()
  if not ok then return nil, err end
  if self.batcher then errors.misuse "source:feed: a source is fed from once" end
  self.batcher = batcher
  self.ended = Future.new(false, false)
  batcher:gate(function(futures, n) holding.gate(self, futures, n) end)
  local beats, answers = part(self, holding.run), part(self, outbox.run)
  part(self, intake.run):await()
  drain(self)
  self.is_closing = true
  self.bells.outbox:ring()
  answers:await()
  leave(self)
  batcher:gate(nil)
  close(self)
  beats:await()
  Future.settle(self.ended, true)
  if self.failure then error(self.failure, 0) end
  if self.is_aborted then return nil, errors.new("stopped", "the source was abandoned") end
  return true
end

--- Begin to stop, from anywhere.
function Source:stop_soon()
  self.is_stopping = true
  for _, bell in pairs(self.bells) do bell:ring() end
  if not self.command then return end
  self.command:unblock(self.reader)
  self.command:stir()
  self.reader:stir()
end

--- Stop: what runs is finished and answered. Waits for it.
function Source:stop()
  self:stop_soon()
  if self.ended then self.ended:await() end
end

--- Stop at once: what is not answered is another worker's when the lease has passed.
function Source:abandon()
  self.is_aborted = true
  self:stop_soon()
  close(self)
end

return M
