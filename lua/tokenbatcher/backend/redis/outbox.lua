--- What is to be said of records, on its way to Redis: answers, and dead letters. Nothing leaves it before Redis has
-- it, however often Redis is away: a script that ran, and whose reply was lost, does nothing the second time.

local clock = require "tokenbatcher.runtime.clock"
local errors = require "tokenbatcher.base.errors"
local json = require "tokenbatcher.base.json"
local tasks = require "tokenbatcher.runtime.tasks"

local M = {}

local MOST = 64 -- records a script: Redis does nothing else meanwhile
local AGAIN_S = 0.2

--- @param w table  the worker, see source.lua
function M.new() return { first = 1, last = 0 } end

local function put(w, script, entry, words)
  local box = w.outbox
  entry.script, entry.words = script, words
  box.last = box.last + 1
  box[box.last] = entry
  w.bells.outbox:ring()
end

local function error_text(code, message)
  return ('{"code":%s,"message":%s}'):format(json.quote(code), json.quote(message))
end

local function milliseconds(us) return ("%.0f"):format(math.max(0, us / 1000)) end

-- By Redis's clock, since it was added; and by ours, since it began.
local function times(w, entry)
  local now = clock.now_us()
  local started_us = entry.started_us or now
  return milliseconds(w:redis_ms(started_us) * 1000 - entry.added_ms * 1000), milliseconds(now - started_us)
end

local function answer(w, entry, kind, text)
  local wait_ms, service_ms = times(w, entry)
  put(w, "answer", entry, { entry.id, kind, text, entry.deliveries, wait_ms, service_ms })
end

--- It gets no result. @param reason string  of the dead letter and of the answer
function M.bury(w, entry, reason, message)
  w.counts.dead = w.counts.dead + 1
  put(w, "dead", entry, { entry.id or "", error_text(reason, message), reason, entry.deliveries })
end

--- It has failed: where nobody waits for an answer, it is kept as a dead letter.
function M.fail(w, entry, code, message)
  w.counts.failed = w.counts.failed + 1
  w.failures[code] = (w.failures[code] or 0) + 1
  if entry.reply_to then return answer(w, entry, "error", error_text(code, message)) end
  M.bury(w, entry, code, message)
end

local function encoded(w, record, result)
  if not w.encode then return json.encode(result) end
  local ok, value = tasks.guarded("encode function", w.encode, record, result)
  if not ok then return nil, "encode raised: " .. errors.message_of(value) end
  if value == nil then return nil, "encode returned nil" end
  if type(value) == "string" then return value end
  return json.encode(value)
end

--- Its result.
function M.answer(w, entry, result)
  local text, message = encoded(w, entry.record, result)
  if not text then return M.fail(w, entry, "bad_output", "the result cannot be written: " .. message) end
  w.counts.answered = w.counts.answered + 1
  answer(w, entry, "result", text)
end

-- --- on its way --------------------------------------------------------------------

-- The first ones of one stream and kind, with what the script is to know of them.
local function chunk_of(w)
  local box = w.outbox
  local head = box[box.first]
  local chunk, keys, places = {}, { head.stream.name, head.stream.dead }, {}
  local arguments = { w.group, w.consumer, w.reply_ttl_ms }
  for i = box.first, math.min(box.last, box.first + MOST - 1) do
    local entry = box[i]
    if entry.stream ~= head.stream or entry.script ~= head.script then break end
    local place = 0
    if entry.reply_to then
      place = places[entry.reply_to]
      if not place then
        place = #keys + 1
        keys[place], places[entry.reply_to] = entry.reply_to, place
      end
    end
    arguments[#arguments + 1], arguments[#arguments + 2] = entry.sid, place
    for _, word in ipairs(entry.words) do arguments[#arguments + 1] = word end
    chunk[#chunk + 1] = entry
  end
  return chunk, keys, arguments
end

local function deliver(w)
  local chunk, keys, arguments = chunk_of(w)
  local n, err = w.command:run(chunk[1].script, keys, arguments)
  if err then return nil, err end
  local box = w.outbox
  for _ = 1, #chunk do
    box[box.first] = nil
    box.first = box.first + 1
  end
  if box.first > box.last then box.first, box.last = 1, 0 end
  w.counts.late = w.counts.late + #chunk - n
  for _, entry in ipairs(chunk) do w:forget(entry) end
  return true
end

--- The body of a task, until the worker closes and all is delivered.
function M.run(w)
  while not w.is_aborted do
    if w.outbox.first > w.outbox.last then
      if w.is_closing then return end
      w.bells.outbox:wait()
    elseif w.command:wait_ready() then
      local ok, err = deliver(w)
      if not ok then
        if err.code ~= "redis_unavailable" then w:warn("answers cannot be written: " .. err.message) end
        w.bells.outbox:wait(AGAIN_S)
      end
    else
      return
    end
  end
end

return M
