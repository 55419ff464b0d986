--- The Lua half of an engine for C programs (include/tokenbatcher_engine.h): a script's
-- batcher on a loop that the program owns. src/script/bridge.c calls what new() returns, from
-- outside of all coroutines, and calls the program back itself: nothing here does.
--
-- A record has an id of the C half's: slot + generation, below 2^53.

local batcher_class = require "tokenbatcher.batching.batcher"
local clock = require "tokenbatcher.runtime.clock"
local errors = require "tokenbatcher.base.errors"
local Future = require "tokenbatcher.runtime.future"
local loop = require "tokenbatcher.runtime.loop"
local options = require "tokenbatcher.core.options"
local quick = require "tokenbatcher.batching.quick"
local refusals = require "tokenbatcher.batching.refusals"
local script = require "tokenbatcher.script.load"
local spawn = require "tokenbatcher.runtime.spawn"
local submission = require "tokenbatcher.batching.submission"
local submit_options = require "tokenbatcher.script.submit_options"
local tasks = require "tokenbatcher.runtime.tasks"
local tbffi = require "tokenbatcher.core.ffi"

local C, SLOTS = tbffi.lib, tbffi.SLOTS
local ID = Future.ID

local M = {}

-- Of include/tokenbatcher_engine.h.
local ESCRIPT, EINPUT, ELISTEN = -101, -102, -104
local EOPTION = tonumber(C.TB_EOPTION)

-- A batch dispatched in one turn runs in the next: worth no way through the program's loop.
local TURNS = 8

local CODES = { bad_cost = tonumber(C.TB_ECOST), not_running = tonumber(C.TB_ENOTRUNNING) }

--- Run a function of the script's on one value. @return value, or nil and a message
local function convert(name, fn, ...)
  local ok, value, _, message = tasks.guarded(name .. " function", fn, ...)
  if not ok then return nil, name .. " raised: " .. errors.message_of(value) end
  if value == nil then
    return nil, name .. " returned nil" .. (message ~= nil and ": " .. errors.message_of(message) or "")
  end
  return value
end

-- What is wrong with a result, or nil and the bytes.
local function bytes_of(self, id, result)
  local encode = self.encode
  if not encode then
    if type(result) == "string" then return nil, result end
    return ("the result is a %s; a script without 'encode' must answer with strings"):format(type(result))
  end
  local bytes, message = convert("encode", encode, self.records[id % SLOTS], result)
  if message then return message end
  if type(bytes) == "string" then return nil, bytes end
  return ("encode returned a %s, not a string"):format(type(bytes))
end

-- The script's own options, from a list of name, text, name, text ...
-- @return table name -> value, or nil, message and EOPTION
local function own_options(definition, list)
  local given = {}
  for i = 1, #list, 2 do
    local value, message = script.option_value(definition, list[i], list[i + 1])
    if value == nil then return nil, message, EOPTION end
    given[list[i]] = value
  end
  return given
end

local function made_by(path, settings)
  local definition, message = script.load(path)
  if not definition then return nil, message end
  local given, problem, code = own_options(definition, settings)
  if not given then return nil, problem, code end
  return script.build(definition, given, {})
end

-- Start is a coroutine's to call; it has run when step() returns.
local function start(batcher)
  local starting = spawn.spawn(function()
    local ok, err = pcall(batcher.start, batcher)
    return not ok and errors.text(err) or nil
  end)
  loop.step()
  return Future.outcome(starting)
end

-- What C knows. `finished` are futures to be told of and `finished_ids` theirs, from `first` to `last`; `live` is
-- future by slot, until C has been told, and (for encode) `records` likewise. `ids` to `tracebacks` are what take()
-- has filled. A future's id of C is looked up in `names`, by the slot in the core of its record, which stays its own
-- until it has settled; one without a record in the core has it as its tag.
local Engine = {}
Engine.__index = Engine

-- With a place for each: a table that is full is made anew for every field that is set to nil.
local function no_options()
  return { estimated_tokens = 0, priority = 0, timeout_s = 0, batch_timeout_s = 0, key = "", group = "" }
end

local function new_engine(batcher, made, log)
  local self = setmetatable({
    batcher = batcher, decode = made.decode, encode = made.encode, submit_options = made.submit_options, log = log,
    is_stopped = false, fd = loop.outside().fd(), live = {}, records = {}, names = {},
    finished = {}, finished_ids = {}, first = 1, last = 0,
    opts = no_options(), ids = {}, texts = {}, codes = {}, messages = {}, tracebacks = {},
  }, Engine)
  self.on_settled = function(future)
    local last = self.last + 1
    self.last, self.finished[last], self.finished_ids[last] = last, future, self:name_of(future)
    clock.notify()
  end
  return self
end

function Engine:name_of(future)
  local record = future[ID]
  return record and self.names[record % SLOTS] or future.tag
end

local function watch(self, future, id)
  local record = future[ID]
  self.live[id % SLOTS] = future
  if record then self.names[record % SLOTS] = id else future.tag = id end
  Future.on_settled(future, self.on_settled)
  return 0
end

-- Who called from another thread learns of it by an answer.
local function refuse(self, id, submitted_us, code, message, name)
  if submitted_us == 0 then return code, message end
  local future = Future.new(false, false)
  Future.settle(future, nil, errors.new(name, message))
  return watch(self, future, id)
end

--- What follows submitted_us may be nil. @param submitted_us number  0: called from the loop's own thread
-- @return 0, or a code and a message
function Engine:submit(id, bytes, submitted_us, tokens, priority, timeout_s, batch_timeout_s, key, group)
  local record, opts = bytes, self.opts
  if self.decode then
    local message
    record, message = convert("decode", self.decode, bytes)
    if message then return refuse(self, id, submitted_us, EINPUT, message, "bad_input") end
  end
  opts.estimated_tokens, opts.priority, opts.key, opts.group = tokens, priority, key, group
  opts.timeout_s, opts.batch_timeout_s = timeout_s, batch_timeout_s
  if self.submit_options then -- what the program says wins
    local _, message = submit_options.ask(self.submit_options, record, opts)
    if message then return refuse(self, id, submitted_us, EINPUT, message, "bad_input") end
  end
  local ok, future, err, code = pcall(submission.enter, self.batcher, record, opts, submitted_us)
  if ok and future then
    if self.encode then self.records[id % SLOTS] = record end
    return watch(self, future, id)
  end
  if ok then return refuse(self, id, submitted_us, code, err.message, err.code) end
  err = future -- bad_cost and not_running are raised
  local name = errors.is_err(err) and err.code or "inference_failed" -- want of memory
  return refuse(self, id, submitted_us, CODES[name] or ESCRIPT, errors.message_of(err), name)
end

-- @return its future; nil: it is to be handed in with care; nil, code and message: it was refused
local function hand_in_plain(self, bytes, submitted_us, tokens)
  local batcher = self.batcher
  if self.decode or self.submit_options or not quick.is_open(batcher, bytes) then return nil end
  if submitted_us == 0 then return quick.hand_in(batcher, bytes, tokens) end
  local future, code = quick.hand_in_called(batcher, bytes, tokens, submitted_us)
  if future or code == CODES.not_running then return future end
  return nil, code, refusals.of(batcher, code)
end

--- The same for a record of which the program says its bytes and what it costs. @param tokens number  a cost
function Engine:submit_plain(id, bytes, submitted_us, tokens)
  local future, code, err = hand_in_plain(self, bytes, submitted_us, tokens)
  if code then return refuse(self, id, submitted_us, code, err.message, err.code) end
  if not future then return self:submit(id, bytes, submitted_us, tokens) end
  if self.encode then self.records[id % SLOTS] = bytes end
  return watch(self, future, id)
end

--- One turn. @return number of records to take, number waiting in line, is it stopped, a
-- message when a coroutine of the script's has failed
function Engine:turn()
  local ok, err = pcall(loop.step, TURNS)
  local message = not ok and (errors.is_err(err) and err.traceback or errors.text(err)) or nil
  return self.last - self.first + 1, self.batcher:waiting(), self.is_stopped, message
end

-- Only of one without bytes does C read more than those.
local function put_failure(self, i, err, message)
  self.texts[i] = false
  self.codes[i] = err and err.code or "bad_output"
  self.messages[i] = err and err.message or message
  self.tracebacks[i] = err and err.traceback or false
end

local function put_answer(self, i, id, future)
  local result, err = Future.outcome(future)
  local message, bytes
  if err == nil then message, bytes = bytes_of(self, id, result) end
  self.ids[i] = id
  if bytes then self.texts[i] = bytes else put_failure(self, i, err, message) end
end

--- Up to `max` answers, into the lists. @return their number
function Engine:take(max)
  local n, first = math.min(max, self.last - self.first + 1), self.first
  local finished, ids, live, records = self.finished, self.finished_ids, self.live, self.records
  for i = 1, n do
    local at = first + i - 1
    local future, id = finished[at], ids[at]
    finished[at] = nil
    put_answer(self, i, id, future)
    local slot = id % SLOTS
    live[slot] = nil
    if records[slot] ~= nil then records[slot] = nil end
  end
  self.first = first + n
  if self.first > self.last then self.first, self.last = 1, 0 end
  return n
end

--- @return boolean  whether it changed anything
function Engine:cancel(id)
  local future = self.live[id % SLOTS]
  return future ~= nil and not future:done() and self:name_of(future) == id and future:cancel()
end

--- @param timeout_s number  below 0: none
function Engine:stop(timeout_s)
  spawn.spawn(function()
    self.batcher:stop { timeout_s = timeout_s >= 0 and timeout_s or nil }
    if self.listener then self.listener:close() end
    self.is_stopped = true
  end)
end

--- Fail at once what has no answer.
function Engine:abandon()
  self.batcher:abandon(clock.now_us())
end

-- batcher:set's table from a list of name, text, name, text ..., or nil and a message.
local function batcher_options(list)
  local given = {}
  for i = 1, #list, 2 do
    local value, message = options.parse(list[i], list[i + 1], "set")
    if value == nil then return nil, message end
    given[list[i]] = value
  end
  return given
end

--- Change options of the batcher, all or none. @return 0, or a code and a message
function Engine:set(list)
  local given, message = batcher_options(list)
  if not given then return EOPTION, message end
  local ok, err = pcall(self.batcher.set, self.batcher, given)
  if ok then return 0 end
  return EOPTION, errors.message_of(err)
end

--- Listen, until the engine has stopped. @return 0 and the address, or a code and a message
function Engine:listen(address)
  if self.listener then return ELISTEN, "it listens already, at " .. self.listener.address end
  local ok, listener, err = pcall(function()
    return require("tokenbatcher.listen").open({ address = address, batchers = { self.batcher }, log = self.log },
      { who = "tb_engine_listen", remote = "Only `run`, `work` and Lua can be told" })
  end)
  if not ok then return EOPTION, errors.message_of(listener) end
  if not listener then return ELISTEN, err.message end
  self.listener = listener
  return 0, listener.address
end

--- Fill the tb_stats at this address. @return policy_errors, policy_overruled
function Engine:stats(address)
  return self.batcher:fill_stats(tbffi.at("tb_stats *", address))
end

--- @param path string  the script
-- @param settings table  a list of name, text, name, text ... for the script's own options
-- @param log function  log(level, text), for whom the script names nobody
-- @return table  an engine, with the methods and lists that src/script/bridge.c knows; or nil, a message and
-- a code (none: ESCRIPT)
function M.new(path, settings, log)
  local made, message, code = made_by(path, settings)
  if not made then return nil, message, code end
  if made.options.log == nil then made.options.log = log end
  local ok, batcher = pcall(batcher_class.TokenBatcher, made.options)
  if not ok then return nil, path .. ": " .. errors.text(batcher) end
  message = start(batcher)
  if message then return nil, path .. ": " .. message end
  return new_engine(batcher, made, log)
end

return M
