--- Batches as spans of OpenTelemetry: a tracer of a batcher (see batching/tracing.lua), and spans as OTLP's JSON has
-- them.
--
-- A batch is a span of kind internal: what it asks of a server may be one request, many or none, and those are the
-- server's spans below it. It is linked to the contexts of its records. If all records have the same one it is below
-- that, or else it begins a trace of its own: a call that serves several requests is a part of none of them.
--
-- THE SPECIAL PROBLEM OF WORDS. Spans go to another program and are kept there. So there is nothing in them that a
-- record, a key or a server has said: a failure is a code of ours, and a group a pseudonym.

local clock = require "tokenbatcher.runtime.clock"
local failures = require "tokenbatcher.listen.failures"
local json = require "tokenbatcher.base.json"
local pseudonym = require "tokenbatcher.base.pseudonym"
local traceparent = require "tokenbatcher.base.traceparent"
local version = require "tokenbatcher.base.version"
local wall = require "tokenbatcher.base.wall_clock_ffi"

local M = {}
local Tracer = {}
Tracer.__index = Tracer

local INTERNAL, ERROR = 1, 2 -- of OTLP's enums: a kind, a status

-- --- a batch --------------------------------------------------------------------------------

local function new_id(self, what)
  local id
  repeat
    self.n = self.n + 1
    id = pseudonym.hash(self.secret, what .. self.n)
  until id:find "[^0]"
  return id
end

local function is_any_sampled(links)
  for i = 1, #links do
    local _, _, is_sampled = traceparent.parse(links[i])
    if is_sampled then return true end
  end
  return false
end

-- The first 52 bits of a trace's own part, as a number from 0 to below 1.
local function share_of(trace) return tonumber(trace:sub(20, 32), 16) / 2 ^ 52 end

--- A batch goes. @return its context
function Tracer:began(run)
  local trace, parent
  if run.common then trace, parent = traceparent.parse(run.common) end
  trace = trace or new_id(self.ids, "t") .. new_id(self.ids, "t")
  local id, is_sampled = new_id(self.ids, "s"), is_any_sampled(run.links)
  if not run.links[1] then is_sampled = share_of(trace) < self.ratio end
  if is_sampled then run.span = { trace = trace, id = id, parent = parent } end
  return traceparent.format(trace, id, is_sampled)
end

local function policy_of(run)
  local decision = run.decision
  local name = decision and decision.name or run.batcher:option("resolved_policy").name
  return name:match "[^/]*$" -- of a file the name alone
end

--- A batch is over: nothing of its records is kept.
function Tracer:ended(run, now_us)
  local span = run.span
  if not span or not self.exporter:has_room(self.counts) then return end
  span.of, span.links, span.dropped_links = self, run.links, run.links.dropped
  span.end_us = wall.now_us() - math.max(0, clock.now_us() - now_us)
  span.start_us = span.end_us - (now_us - run.started_us)
  span.size, span.cost, span.reason, span.attempts = run.size, run.cost, run.reason, run.attempt or 1
  span.failed, span.policy = run.failed, policy_of(run)
  if run.group ~= "" then span.group = pseudonym.hash(self.names_secret, run.group) end
  if run.failed > 0 then span.code, span.status = select(2, failures.sentence(run.err)) end
  self.exporter:add(span)
end

function Tracer:drained() self.exporter:drained() end

--- @param given table  batcher, exporter, ratio, ids {secret, n}: shared by tracers of one process; names_secret: of
-- pseudonyms
function M.tracer(given)
  return setmetatable({ exporter = given.exporter, ratio = given.ratio, ids = given.ids,
    names_secret = given.names_secret, batcher = given.batcher, counts = { sent = 0, dropped = 0 } }, Tracer)
end

-- --- JSON ---------------------------------------------------------------------------------------

local function text(name, value)
  return ('{"key":"%s","value":{"stringValue":%s}}'):format(name, json.quote(value))
end

local function whole(name, value) return ('{"key":"%s","value":{"intValue":"%d"}}'):format(name, value) end

local function number(name, value) return ('{"key":"%s","value":{"doubleValue":%.14g}}'):format(name, value) end

local function attributes(span)
  local out = {
    text("tokenbatcher.batcher", span.of.batcher:option "name" or ""), text("tokenbatcher.policy", span.policy),
    text("tokenbatcher.batch.reason", span.reason), whole("tokenbatcher.batch.size", span.size),
    number("tokenbatcher.batch.cost", span.cost), whole("tokenbatcher.batch.attempts", span.attempts),
    whole("tokenbatcher.batch.failed", span.failed),
  }
  if span.group then out[#out + 1] = text("tokenbatcher.batch.group", span.group) end
  if span.code then out[#out + 1] = text("error.type", span.code) end
  if span.status then out[#out + 1] = whole("http.response.status_code", span.status) end
  return table.concat(out, ",")
end

local function links(span)
  local out = {}
  for i, context in ipairs(span.links) do
    local trace, id = traceparent.parse(context)
    out[i] = ('{"traceId":"%s","spanId":"%s"}'):format(trace, id)
  end
  return table.concat(out, ",")
end

-- (Nanoseconds are more than a number holds.)
local function span_text(span)
  local parent = span.parent and ('"parentSpanId":"%s",'):format(span.parent) or ""
  local status = span.code and ('{"code":%d,"message":%s}'):format(ERROR, json.quote(span.code)) or "{}"
  return ('{"traceId":"%s","spanId":"%s",%s"name":"batch","kind":%d,"startTimeUnixNano":"%.0f000",'
    .. '"endTimeUnixNano":"%.0f000","attributes":[%s],"links":[%s],"droppedLinksCount":%d,"status":%s}'):format(
    span.trace, span.id, parent, INTERNAL, span.start_us, span.end_us, attributes(span), links(span),
    span.dropped_links, status)
end

--- A request's body.
function M.body(service_name, spans)
  local texts = {}
  for i, span in ipairs(spans) do texts[i] = span_text(span) end
  return ('{"resourceSpans":[{"resource":{"attributes":[%s]},"scopeSpans":[{"scope":{"name":"tokenbatcher",'
    .. '"version":%s},"spans":[%s]}]}]}'):format(text("service.name", service_name), json.quote(version),
    table.concat(texts, ","))
end

return M
