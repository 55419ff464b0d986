--- Spans on their way to a collector, in blocks, by HTTP. Nobody waits for it: spans lie in a bounded queue, one
-- request is under way at a time, and what the collector does not take is dropped and counted.
--
-- A block goes when it is whole, or when its first span has waited for PERIOD_S. A block that the collector could not
-- take now (no connection, no answer in time, status 429, 502, 503 or 504) is sent again, after as long as it has
-- asked for (Retry-After), or 1 s, 2 s, ... up to 30 s; any other answer but 2xx drops the block.

local clock = require "tokenbatcher.runtime.clock"
local Future = require "tokenbatcher.runtime.future"
local http = require "tokenbatcher.backend.http"
local json = require "tokenbatcher.base.json"
local spawn = require "tokenbatcher.runtime.spawn"
local spans = require "tokenbatcher.listen.spans"
local tasks = require "tokenbatcher.runtime.tasks"

local M = {}

--- Spans that are kept, those under way included.
M.MOST = 2048
--- Of a block: so many spans, and no more once these have so many links.
M.BLOCK, M.LINKS = 512, 4096
--- Seconds that a span waits for others; that a flush may take; that a request may.
M.PERIOD_S, M.FLUSH_S, M.TIMEOUT_S = 5, 2, 10

local LONGEST_WAIT_S, MOST_BYTES = 30, 64 * 1024
local LONGEST_ASKED_S = 300
local AGAIN = { [429] = true, [502] = true, [503] = true, [504] = true }

local Exporter = {}
Exporter.__index = Exporter

--- @param given table  url, headers, service_name, log(level, text); is_leaving(): does this process end? (then spans
-- do not wait); timeout_s: of a request (TIMEOUT_S)
function M.new(given)
  return setmetatable({ url = given.url, headers = given.headers, service_name = given.service_name, log = given.log,
    timeout_s = given.timeout_s or M.TIMEOUT_S, is_leaving = given.is_leaving or function() return false end,
    queue = {}, first = 1, n = 0, kept = 0, due_us = 0, retry_us = 0, failures = 0, requests = 0, is_sending = false,
    is_closed = false }, Exporter)
end

-- --- what is lost -------------------------------------------------------------------------------

-- The log hears of the first trouble, the page of metrics of all.
local function tell(self, why)
  if self.was_told then return end
  self.was_told = true
  self.log("warn", ("otel: %s: %s; up to %d spans are kept, others dropped and counted in "
    .. "tokenbatcher_trace_spans_dropped_total (this is said once)"):format(http.shown(self.url), why, M.MOST))
end

local function count_block(self, block, what)
  for _, span in ipairs(block) do
    local counts = span.of.counts
    counts[what] = counts[what] + 1
  end
  self.kept = self.kept - #block
end

-- --- a block ------------------------------------------------------------------------------------

local function take_block(self)
  local block, links = {}, 0
  while self.n > 0 and #block < M.BLOCK and links < M.LINKS do
    local span = self.queue[self.first]
    self.queue[self.first] = nil
    self.first, self.n = self.first + 1, self.n - 1
    block[#block + 1], links = span, links + #span.links
  end
  self.due_us = clock.now_us() + M.PERIOD_S * 1e6
  return block
end

-- How many spans an answer of 200 says it has refused. (Whole numbers of 64 bits are texts in OTLP's JSON.)
local function refused_in(body, most)
  local answer = #body > 2 and json.decode(body)
  local partial = type(answer) == "table" and answer.partialSuccess
  local n = type(partial) == "table" and tonumber(partial.rejectedSpans) or 0
  return n > 0 and math.min(math.floor(n), most) or 0
end

local function finish(self, block, response)
  local n = refused_in(response.body, #block)
  if n > 0 then
    tell(self, ("it has refused %d spans"):format(n))
    local refused = {}
    for i = 1, n do refused[i] = table.remove(block) end
    count_block(self, refused, "dropped")
  end
  count_block(self, block, "sent")
end

-- Not now. @param asked_s number|nil  what the collector has asked for
local function put_off(self, why, asked_s)
  self.failures = self.failures + 1
  local wait_s = asked_s and math.min(asked_s, LONGEST_ASKED_S) or math.min(2 ^ (self.failures - 1), LONGEST_WAIT_S)
  self.retry_us = clock.now_us() + wait_s * 1e6
  tell(self, why)
end

-- One request. @return boolean  may another follow?
local function send_block(self, timeout_s)
  local block = self.block or take_block(self)
  self.block, self.requests = block, self.requests + 1
  local ok, response, err = pcall(http.post, self.url, { body = spans.body(self.service_name, block),
    headers = self.headers, timeout_s = timeout_s, connect_timeout_s = timeout_s, max_response_bytes = MOST_BYTES })
  if self.is_closed then return false end -- they are counted
  if ok and not response and err.code ~= "http_too_large" then
    put_off(self, "it does not answer (" .. err.code .. ")")
  elseif ok and response and AGAIN[response.status] then
    put_off(self, ("it takes no spans now (status %d)"):format(response.status), response.retry_after_s)
  else
    self.block, self.failures = nil, 0
    if ok and response and response.status >= 200 and response.status < 300 then
      finish(self, block, response)
    else
      tell(self, ok and response and ("it refuses spans (status %d)"):format(response.status)
        or ok and "it answers too much" or "they cannot be sent")
      count_block(self, block, "dropped")
    end
    return ok
  end
  return false
end

local function send_all(self, is_all, until_us)
  local is_going = true
  while is_going and (self.block or self.n >= M.BLOCK or self.n > 0 and (is_all or clock.now_us() >= self.due_us)) do
    local left_s = until_us and (until_us - clock.now_us()) / 1e6 or self.timeout_s
    if left_s <= 0.001 or self.is_closed then return end
    is_going = send_block(self, math.min(self.timeout_s, left_s))
  end
end

-- --- when -------------------------------------------------------------------------------------

local function ended(task, ok)
  local self = task.exporter
  self.is_sending = false
  if not ok then put_off(self, "sending spans failed") end
  Future.settle(self.idle, true)
end

-- Begin to send, beside all else. @param until_us number|nil  when this must have ended
local function begin(self, is_all, until_us)
  if self.is_sending or self.is_closed then return end
  self.is_sending, self.idle = true, Future.new(false, false)
  tasks.start(send_all, { n = 3, self, is_all, until_us }, ended).exporter = self
  clock.notify()
end

--- When tick() is needed next, microseconds, or nil.
function Exporter:next_us()
  if self.is_sending or self.is_closed then return nil end
  if self.block then return self.retry_us end
  if self.n == 0 then return nil end
  return math.max(self.n >= M.BLOCK and 0 or self.due_us, self.retry_us)
end

--- To be called now and then.
function Exporter:tick(now_us)
  local at = self:next_us()
  if at and at <= now_us then begin(self, false) end
end

--- Is there room for one more span? If not, it is counted as dropped. @param counts table  of its tracer
function Exporter:has_room(counts)
  if self.kept < M.MOST and not self.is_closed then return true end
  counts.dropped = counts.dropped + 1
  tell(self, "more spans than it takes")
  return false
end

--- One more span, for which there is room; waits for nothing.
function Exporter:add(span)
  local now = clock.now_us()
  if self.n == 0 then self.due_us = now + M.PERIOD_S * 1e6 end
  self.n, self.kept = self.n + 1, self.kept + 1
  self.queue[self.first + self.n - 1] = span
  if self.n >= M.BLOCK and now >= self.retry_us then begin(self, false) end
  if self.is_leaving() and now >= self.retry_us then begin(self, true, now + M.FLUSH_S * 1e6) end
end

--- Send what is there, for FLUSH_S at most; suspends. What cannot be sent stays.
function Exporter:flush()
  local until_us = clock.now_us() + M.FLUSH_S * 1e6
  local was_tried = false
  while (self.n > 0 or self.block) and not (was_tried or self.is_closed) and clock.now_us() < until_us do
    if not self.is_sending then
      was_tried = true
      begin(self, true, until_us)
    end
    self.idle:await(math.max(0, until_us - clock.now_us()) / 1e6)
  end
end

--- A batcher has stopped: what there is goes now, and keeps the run going for as long as a flush may take.
function Exporter:drained()
  if self.is_closed or self.is_leaving() or not (self.n > 0 or self.block) then return end
  spawn.start(function() self:flush() end, { n = 0 }, function() end)
end

--- No more. What has not been sent is dropped, and counted.
function Exporter:close()
  if self.is_closed then return end
  self.is_closed = true
  local left = self.block or {}
  self.block = nil
  while self.n > 0 do
    for _, span in ipairs(take_block(self)) do left[#left + 1] = span end
  end
  if #left == 0 then return end
  count_block(self, left, "dropped")
  tell(self, ("%d were left when it was closed"):format(#left))
end

return M
