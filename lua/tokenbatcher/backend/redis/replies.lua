--- How a producer sends, and gets its answers. Its reply stream is read, and what was handed on is deleted there.
--
-- Every few seconds, and after each reconnect, it reconciles: which of its entries are gone? Then it reads its
-- reply stream from the beginning; whatever is still without an answer is added again. That is sound because the
-- answer is written and the entry deleted in one step. In between it reads from where it has read to; an answer
-- that an older clock (a new master's) has put before that is found when it reads from the beginning.

local clock = require "tokenbatcher.runtime.clock"
local errors = require "tokenbatcher.base.errors"
local json = require "tokenbatcher.base.json"
local pause = require "tokenbatcher.backend.redis.pause"

local M = {}

local BLOCK_MS, COUNT = 1000, 500
local ASKED = 256 -- ids a script
local SCANNED = 500 -- entries a script
local DELETED = 500 -- ids a command
local YOUNG_US = 1e6 -- what was sent so lately is not asked for
local AGAIN_S = 0.3

local function ignore() end

-- Deleted in its reply stream, with others of this turn: see flush().
local function forget(queue, sid)
  queue.done[#queue.done + 1] = sid
end

local function flush(queue)
  local done = queue.done
  if #done == 0 then return end
  for first = 1, #done, DELETED do
    queue.command:send({ "XDEL", queue.reply, unpack(done, first, math.min(#done, first + DELETED - 1)) }, ignore)
  end
  queue.done = {}
end

-- --- sending ------------------------------------------------------------------------------

local function sent(queue, item, sid, err)
  item.is_sending = false
  if queue.items[item.id] ~= item then
    if sid then queue.command:send({ "XDEL", queue.stream, sid }, ignore) end -- cancelled meanwhile
    return
  end
  if sid then
    item.sid, item.sent_us = sid, clock.now_us()
  elseif err.redis == "OOM" then
    if queue.may_wait then return end -- reconcile tries again
    queue:settle(item, nil, errors.new("queue_full", "Redis has no memory left"))
  elseif err.code ~= "redis_unavailable" then
    queue:settle(item, nil, err)
  end
end

local function send(queue, item)
  item.sid, item.is_sending = nil, true
  if not queue.command:send(item.words, function(sid, err) sent(queue, item, sid, err) end) then
    item.is_sending = false -- sent when the connection is there
  end
end

--- A new item: its answer may be there already, of a producer that ended.
function M.begin(queue, item)
  local early = queue.early[item.id]
  if early then
    queue.early[item.id] = nil
    M.deliver(queue, early.sid, early.fields)
    return flush(queue)
  end
  local sid = queue.adopted[item.id]
  if sid then
    queue.adopted[item.id] = nil
    item.sid, item.sent_us = sid, 0
    return
  end
  send(queue, item)
end

--- Nobody wants its answer any more.
function M.take_back(queue, item)
  if item.sid and queue.command.is_ready then queue.command:send({ "XDEL", queue.stream, item.sid }, ignore) end
end

-- --- answers --------------------------------------------------------------------------------

local function as_table(fields)
  local out = {}
  for i = 1, #fields, 2 do out[fields[i]] = fields[i + 1] end
  return out
end

local function error_of(text)
  local value = json.decode(text)
  local is_known = type(value) == "table" and type(value.code) == "string" and type(value.message) == "string"
  if is_known then return errors.new(value.code, value.message) end
  return errors.new("inference_failed", "the worker's error cannot be read")
end

-- Of a producer that goes on: the record may not have been read yet. @return boolean  whether it is held
local function hold_early(queue, id, sid, fields)
  local early = queue.early[id]
  if not early then queue.early[id] = { sid = sid, fields = fields } end
  return not early or early.sid == sid
end

--- An answer has come. @param sid string  its id in the reply stream
function M.deliver(queue, sid, fields)
  local answer = as_table(fields)
  local item = queue.items[answer.id or ""]
  if not item then
    if queue.kept[answer.id or ""] == sid then return end -- it waits for keep()
    if queue.resumes and hold_early(queue, answer.id or "", sid, fields) then return end
    queue.counts.seconds = queue.counts.seconds + 1
    return forget(queue, sid)
  end
  if queue.holds_answers then queue.kept[item.id] = sid else forget(queue, sid) end
  if answer.error then return queue:settle(item, nil, error_of(answer.error)) end
  local value, problem = nil, "the answer has no result"
  if answer.result then value, problem = json.decode(answer.result) end
  if problem and answer.result then value = answer.result end -- a script's own encode: not JSON
  if value == nil then return queue:settle(item, nil, errors.new("inference_failed", problem)) end
  queue:settle(item, value)
end

--- Answers that are kept somewhere else now. @param ids table  a list
function M.keep(queue, ids)
  for _, id in ipairs(ids) do
    local sid = queue.kept[id]
    queue.kept[id] = nil
    if sid then forget(queue, sid) end
  end
  flush(queue)
end

-- --- reading ---------------------------------------------------------------------------------

local function take(queue, entries)
  for _, entry in ipairs(entries) do M.deliver(queue, entry[1], entry[2]) end
  flush(queue)
  return entries[#entries][1]
end

--- The body of a task: answers as they come.
function M.read(queue)
  local reader = queue.reader
  while reader:wait_ready() do
    local from = queue.last_id
    local reply, err = reader:call("XREAD", "COUNT", COUNT, "BLOCK", BLOCK_MS, "STREAMS", queue.reply, from)
    if err then
      if err.code ~= "redis_unavailable" and not reader.is_closed then queue:warn(err.message) end
      pause.bell():wait(AGAIN_S)
    elseif reply then
      local last = take(queue, reply[1][2])
      if queue.last_id == from then queue.last_id = last end
    end
  end
end

-- All that is in the reply stream. @return true, or nil and an err
local function read_all(queue)
  local from = "0-0"
  repeat
    local reply, err = queue.command:call("XREAD", "COUNT", COUNT, "STREAMS", queue.reply, from)
    if err then return nil, err end
    local entries = reply and reply[1][2] or {}
    if entries[1] then from = take(queue, entries) end
  until #entries < COUNT
  return true
end

-- --- reconciling ------------------------------------------------------------------------------

-- Items that were sent, by the ids of their entries.
local function sent_items(queue)
  local by_sid, sids, now = {}, {}, clock.now_us()
  for _, item in pairs(queue.items) do
    if item.sid and now - item.sent_us > YOUNG_US then
      by_sid[item.sid] = item
      sids[#sids + 1] = item.sid
    end
  end
  return by_sid, sids
end

local function by_number(a, b) return a.number < b.number end

local function find_gone(queue)
  local by_sid, sids = sent_items(queue)
  local gone = {}
  for first = 1, #sids, ASKED do
    local list = { unpack(sids, first, math.min(#sids, first + ASKED - 1)) }
    local missing, err = queue.command:run("gone", { queue.stream }, list)
    if err then return nil, err end
    for _, sid in ipairs(missing) do gone[#gone + 1] = by_sid[sid] end
  end
  table.sort(gone, by_number)
  return gone
end

local function send_again(queue, item)
  queue.counts.again = queue.counts.again + 1
  send(queue, item)
end

-- In the order in which they were submitted.
local function unsent(queue)
  local list = {}
  for _, item in pairs(queue.items) do
    if not item.sid and not item.is_sending then list[#list + 1] = item end
  end
  table.sort(list, by_number)
  return list
end

-- @return true, or nil and an err
local function reconcile(queue)
  for _, item in ipairs(unsent(queue)) do send(queue, item) end
  local gone, err = find_gone(queue)
  if not gone then return nil, err end
  local is_due = #gone > 0 or queue.must_read_all
  if not is_due then return true end
  local ok
  ok, err = read_all(queue)
  if not ok then return nil, err end
  queue.must_read_all = false
  for _, item in ipairs(gone) do
    if queue.items[item.id] == item and not item.is_sending then send_again(queue, item) end
  end
  return true
end

--- The body of a task.
function M.reconcile(queue)
  local command = queue.command
  while not command.is_closed do
    queue.bells.reconcile:wait(queue.reconcile_s)
    if command.is_ready then
      local ok, err = reconcile(queue)
      if not ok and err.code ~= "redis_unavailable" and not command.is_closed then queue:warn(err.message) end
    end
  end
end

--- The connection is there, again perhaps.
function M.reopened(queue)
  queue.must_read_all, queue.last_id = true, "0-0"
  queue.bells.reconcile:ring()
end

--- The end of a task: it has failed by a fault of ours.
function M.ended(task, ok, err)
  if ok then return end
  task.arguments[1]:warn(("queue.redis: %s\n%s"):format(errors.text(err), task.traceback or ""))
end

-- --- going on ------------------------------------------------------------------------------------

--- What a producer of this name has left: answers, and records that have none yet. @return true, or nil and an err
function M.adopt(queue)
  local from = "-"
  repeat
    local reply, err = queue.command:run("mine", { queue.stream }, { from, SCANNED, queue.reply })
    if err then return nil, err end
    for i = 1, #reply[2], 2 do queue.adopted[reply[2][i + 1]] = reply[2][i] end
    from = reply[1]
  until from == ""
  return read_all(queue)
end

--- Answers that were handed on by the producer that ended, just before it could delete them.
function M.clear_early(queue)
  for _, early in pairs(queue.early) do forget(queue, early.sid) end
  queue.early = {}
  flush(queue)
end

return M
