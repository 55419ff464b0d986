--- Records for workers on other machines: submitted like to a batcher, answered through a stream of one's own.
--
--     local queue = tb.queue.redis { url = "redis://127.0.0.1:6379", stream = "S" }
--     local future = queue:submit({ text = "What is 2+2?" }, { estimated_tokens = 5, timeout_s = 30 })
--     print(future:await())
--     queue:stop()
--
-- A future settles once, whatever happens to Redis or to workers: a record whose entry is gone, and whose answer is
-- not there, is added again (replies.lua), and a second answer is ignored. `run` ends when every record has its
-- answer; stop() waits for them.
--
-- In nginx it is the same: made once in each worker, submitted to from any request, answered by two connections that
-- live in timers. A worker that exits (QUIT, a reload) goes when its last record has its answer.
--
-- An item is a record without an answer: {id, number, future, words, sid, is_sending, sent_us}.

local backoff = require "tokenbatcher.base.backoff"
local clock = require "tokenbatcher.runtime.clock"
local connection = require "tokenbatcher.backend.redis.connection"
local errors = require "tokenbatcher.base.errors"
local Future = require "tokenbatcher.runtime.future"
local host = require "tokenbatcher.runtime.host"
local json = require "tokenbatcher.base.json"
local loop = require "tokenbatcher.runtime.loop"
local message = require "tokenbatcher.backend.redis.message"
local names = require "tokenbatcher.backend.redis.names"
local parameters = require "tokenbatcher.base.parameters"
local pause = require "tokenbatcher.backend.redis.pause"
local process_ffi = require "tokenbatcher.backend.redis.process_ffi"
local replies = require "tokenbatcher.backend.redis.replies"
local tasks = require "tokenbatcher.runtime.tasks"
local urls = require "tokenbatcher.backend.redis.url"

local M = {}

--- @class tokenbatcher.redis.Queue
local Queue = {}
Queue.__index = Queue

M.PARAMETERS = {
  { name = "url", kind = "string", default = urls.DEFAULT },
  { name = "stream", kind = "string", required = true },
  { name = "window", kind = "count", default = 1000, min = 1, max = 1000000 },
  { name = "producer", kind = "string" }, -- names the reply stream; default: a new name
  { name = "on_full", kind = "string", default = "wait", choices = { "wait", "reject" } },
  { name = "max_record_bytes", kind = "count", default = message.MOST_RECORD, min = 1, max = 268435456 },
  { name = "reconcile_s", kind = "number", default = 2, min = 0.05, max = 3600, unit = "seconds" },
  { name = "connect_timeout_s", kind = "number", default = 10, above = 0, max = 86400, unit = "seconds" },
  { name = "log", kind = "function" },
}

-- Not for everybody: keeps answers in Redis until keep() says that they are somewhere else; goes on where a
-- producer of the same name has ended.
local OWN = {
  { name = "holds_answers", kind = "boolean", default = false },
  { name = "resumes", kind = "boolean", default = false },
}

--- @param given table  see M.PARAMETERS  @param own table|nil  see OWN: of the command line
function M.new(given, own)
  local is_nginx = rawget(_G, "ngx") ~= nil
  if not is_nginx then require "tokenbatcher.backend.redis.redis_ffi" end -- to learn early that hiredis is missing
  local p = parameters.read("queue.redis", M.PARAMETERS, given)
  own = parameters.read("queue.redis", OWN, own)
  local to, problem = urls.parse(p.url)
  if not to then errors.misuse("queue.redis: " .. problem) end
  local nonce = ("%06x%06x"):format(backoff.random() * 2 ^ 24, backoff.random() * 2 ^ 24)
  local producer = p.producer or process_ffi.name(nonce)
  if p.producer and is_nginx then
    errors.misuse "queue.redis: in nginx each worker is a producer of its own, also after a reload: give no `producer`"
  end
  if p.stream == "" or #p.stream > 400 or p.stream:find "[{}%z]" or #producer > 100 then
    errors.misuse "queue.redis: a stream's name has 1 to 400 bytes, without { and }, a producer's at most 100"
  end
  local self = setmetatable({
    to = to, producer = producer, window = p.window, max_record_bytes = p.max_record_bytes,
    may_wait = p.on_full == "wait", reconcile_s = p.reconcile_s, connect_timeout_s = p.connect_timeout_s, log = p.log,
    holds_answers = own.holds_answers, resumes = own.resumes,
    stream = p.stream, reply = names.reply(p.stream, producer),
    items = {}, unsettled = 0, line = {}, line_first = 1, line_last = 0, number = 0, last_id = "0-0",
    admitted = 0, is_open = false, is_leaving = false,
    kept = {}, early = {}, adopted = {}, done = {},
    bells = { reconcile = pause.bell(), room = pause.bell(), all = pause.bell() }, is_stopped = false,
    counts = { submitted = 0, answered = 0, failed = 0, again = 0, seconds = 0 },
  }, Queue)
  return self
end

--- For its parts: say it.
function Queue:warn(text)
  if self.log then self.log("warn", text)
  elseif not host.log("warn", text) then io.stderr:write("tokenbatcher: ", text, "\n") end
end

-- --- room ------------------------------------------------------------------------------

-- First come, first served: a submit that finds no room stands in line.
local function wait_for_room(self)
  local bell = pause.bell()
  self.line_last = self.line_last + 1
  self.line[self.line_last] = bell
  bell:wait()
  self.admitted = self.admitted - 1
end

-- Those who were let in and have not gone on yet take their room, too.
local function has_room(self)
  return self.unsettled + self.admitted < self.window
end

-- The next ones in line may go, as far as there is room (or the queue is stopped: each learns it).
local function admit_next(self)
  while self.line_first <= self.line_last and (self.is_stopped or has_room(self)) do
    local bell = self.line[self.line_first]
    self.line[self.line_first] = nil
    self.line_first, self.admitted = self.line_first + 1, self.admitted + 1
    bell:ring()
  end
end

-- --- life ------------------------------------------------------------------------------

local function open(self)
  if self.is_open then return end
  self.is_open = true
  self.command = connection.new(self.to, { name = self.producer, scripts = { "gone", "mine" },
    on_open = function() replies.reopened(self) end,
    on_lost = function(why, was_ready)
      if was_ready and not self.is_stopped then
        self:warn(("the connection to Redis at %s is lost: %s"):format(self.to.shown, why))
      end
      if self.reader and was_ready then self.reader:lose(why) end
    end })
  self.reader = connection.new(self.to, { name = self.producer, silence_s = 4.5 })
  loop.attach(self)
  tasks.start(replies.read, { n = 1, self }, replies.ended)
  tasks.start(replies.reconcile, { n = 1, self }, replies.ended)
end

--- Connect, and find what a producer of this name has left. submit() does the first by itself.
-- @return true; or nil and an err
function Queue:connect()
  tasks.require_suspend "queue:connect"
  open(self)
  if not self.command:wait_ready(self.connect_timeout_s) then
    local why = self.command.why or "no answer"
    self:close()
    return nil, errors.new("redis_unavailable", ("cannot connect to Redis at %s: %s"):format(self.to.shown, why))
  end
  if self.resumes then return replies.adopt(self) end
  return true
end

-- The next record opens it again, unless it is stopped.
local function disconnect(self)
  if not self.is_open then return end
  self.is_open = false
  loop.detach(self)
  self.reader:quit()
  self.command:quit()
  self.bells.reconcile:ring()
end

--- The end of it: what has no answer fails (stopped).
function Queue:close()
  if self.is_stopped then return end
  self.is_stopped = true
  for _, item in pairs(self.items) do
    self:settle(item, nil, errors.new("stopped", "the queue was stopped"))
  end
  admit_next(self)
  disconnect(self)
  for _, bell in pairs(self.bells) do bell:ring() end
end

--- Wait until every record has its answer; with {timeout_s}, what is left then is taken back and fails (stopped).
function Queue:stop(opts)
  local timeout_s = opts and opts.timeout_s
  if timeout_s and not (type(timeout_s) == "number" and timeout_s >= 0) then
    errors.misuse("stop: timeout_s must be a number of seconds >= 0, got " .. errors.show(timeout_s))
  end
  if self.is_stopped then return end
  self.is_stopping = true
  if self.unsettled > 0 then tasks.require_suspend "stop" end
  local until_us = timeout_s and clock.now_us() + timeout_s * 1e6
  while self.unsettled > 0 and not self.is_stopped and (not until_us or clock.now_us() < until_us) do
    self.bells.all:wait(until_us and math.max(0, (until_us - clock.now_us()) / 1e6))
  end
  if self.is_stopped then return end
  for _, item in pairs(self.items) do replies.take_back(self, item) end
  if self.is_open and self.command.is_ready and tasks.can_suspend() then
    replies.clear_early(self)
    self.command:call("DEL", self.reply) -- all that is in it was handed on
  end
  self:close()
end

-- --- as a member of the loop: run() waits for `unsettled` ------------------------------------

function Queue.turn() end
function Queue.next_us() return nil end

-- The body of a task: nothing is on its way, all that is in the reply stream was handed on.
local function leave(self)
  if self.command.is_ready then self.command:call("DEL", self.reply) end
  self.is_leaving = false
  if self.unsettled + self.admitted == 0 then disconnect(self) end
end

--- In each turn of an nginx worker that exits: connections would keep it. (A record that comes even now opens them.)
function Queue:flush()
  if self.is_leaving or not self.is_open or self.unsettled + self.admitted > 0 then return end
  self.is_leaving = true
  tasks.start(leave, { n = 1, self }, replies.ended)
end

function Queue.excuse() end
function Queue.has_timed_calls() return false end
function Queue:abandon() self:close() end

-- --- records -----------------------------------------------------------------------------------

local KNOWN = { estimated_tokens = "number", estimated_cost = "number", key = "string", group = "string",
  priority = "number", timeout_s = "number", batch_timeout_s = "number", id = "string" }
local OPTION_NAMES = { "batch_timeout_s", "estimated_cost", "estimated_tokens", "group", "id", "key", "priority",
  "timeout_s" }

local function check_options(opts)
  if opts == nil then return end
  if type(opts) ~= "table" then errors.misuse("submit: options must be a table, got a " .. type(opts)) end
  for name, value in pairs(opts) do
    local kind = KNOWN[name]
    if not kind then
      errors.misuse(("submit: unknown option '%s'; did you mean '%s'?"):format(errors.text(name),
        errors.nearest(errors.text(name), OPTION_NAMES)))
    end
    local is_bad = type(value) ~= kind or kind == "string" and #value > message.MOST_NAME
      or kind == "number" and not (value == value and math.abs(value) < 1e12 and (name == "priority" or value >= 0))
    if is_bad then
      errors.misuse(("submit: option '%s' must be a %s%s, got %s"):format(name, kind,
        kind == "string" and " of at most 512 bytes" or name ~= "priority" and " >= 0" or "", errors.show(value)))
    end
  end
end

local function whole(value) return ("%.0f"):format(math.ceil(value)) end

local function words_of(self, id, text, opts)
  local words = { "XADD", self.stream, "*", "v", "1", "id", id, "reply_to", self.reply, "record", text }
  local function put(name, value)
    if value == nil then return end
    words[#words + 1], words[#words + 2] = name, value
  end
  if opts then
    local cost = opts.estimated_tokens or opts.estimated_cost
    put("cost", cost and whole(cost))
    put("key", opts.key)
    put("group", opts.group)
    put("priority", opts.priority and ("%.14g"):format(opts.priority))
    put("timeout_ms", opts.timeout_s and whole(math.max(1, opts.timeout_s * 1000)))
    put("batch_timeout_ms", opts.batch_timeout_s and whole(opts.batch_timeout_s * 1000))
  end
  return words
end

--- For its parts: the item has its answer.
function Queue:settle(item, value, err)
  if self.items[item.id] ~= item then return end
  self.items[item.id] = nil
  self.unsettled = self.unsettled - 1
  if err then self.counts.failed = self.counts.failed + 1 else self.counts.answered = self.counts.answered + 1 end
  Future.settle(item.future, value, err)
  admit_next(self)
  if self.unsettled == 0 then self.bells.all:ring() end
end

--- Called by future:cancel(): whoever has not begun it does not.
function Queue:cancel_record(future)
  local item = self.items[future[Future.ID]]
  if not item then return false end
  replies.take_back(self, item)
  self:settle(item, nil, errors.new("cancelled", "the record was cancelled"))
  return true
end

local function full(self)
  return errors.new("queue_full", ("%d records have no answer yet (window = %d)"):format(self.unsettled, self.window))
end

local function text_of(self, record, is_text)
  if record == nil then errors.misuse "submit: the record is nil" end
  local text, problem = record, nil
  if not is_text then text, problem = json.encode(record) end
  if not text then errors.misuse("submit: the record cannot be written as JSON: " .. problem) end
  if #text > self.max_record_bytes then
    return nil, errors.new("oversize", ("the record has %d bytes, and %d are allowed (max_record_bytes)"):format(#text,
      self.max_record_bytes))
  end
  return text
end

local function enlist(self, text, opts)
  local id = opts and opts.id
  self.number = self.number + 1
  if not id then
    id = ("%s:%d"):format(self.producer, self.number)
  elseif self.items[id] then
    errors.misuse("submit: a record with the id " .. errors.show(id) .. " has no answer yet")
  end
  local item = { id = id, future = Future.new(self, id), words = words_of(self, id, text, opts), is_sending = false,
    number = self.number }
  self.items[id] = item
  self.unsettled = self.unsettled + 1
  self.counts.submitted = self.counts.submitted + 1
  return item
end

-- @param is_text boolean  the record is JSON already
local function submit(self, record, opts, is_text)
  check_options(opts)
  if self.is_stopping or self.is_stopped then errors.raise("not_running", "the queue is stopped") end
  local text, err = text_of(self, record, is_text)
  if not text then return nil, err end
  open(self)
  if not has_room(self) or self.line_first <= self.line_last then
    if not (self.may_wait and tasks.can_suspend()) then return nil, full(self) end
    wait_for_room(self)
    if self.is_stopped then return nil, errors.new("stopped", "the queue was stopped") end
  end
  local item = enlist(self, text, opts)
  replies.begin(self, item)
  admit_next(self)
  return item.future
end

--- Hand in a record: any value that JSON can hold. Waits for room (on_full = "wait").
-- @param opts table|nil  estimated_tokens or estimated_cost, key, group, priority, timeout_s, batch_timeout_s; id: the
-- record's own name, which no other record of this producer has
-- @return future, or nil and an err (queue_full, oversize, stopped). What its await returns is the result; or nil
-- and an err: what the worker says, and dead_letter, bad_record, redis_error
function Queue:submit(record, opts) return submit(self, record, opts, false) end

--- The same for a record that is JSON already.
function Queue:submit_json(text, opts) return submit(self, text, opts, true) end

--- How many records, of whomever, no worker has taken. @return number, or nil and an err
function Queue:backlog(group)
  local length, err = self.command:call("XLEN", self.stream)
  if not length then return nil, err end
  local pending = self.command:call("XPENDING", self.stream, group)
  return length - (pending and pending[1] or 0)
end

--- The answers of these records are kept somewhere else: Redis may forget them (of a queue that holds answers).
function Queue:keep(ids) replies.keep(self, ids) end

return M
