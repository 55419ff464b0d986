--- tb.otel{...}: batches as spans, sent to a collector of OpenTelemetry by OTLP/HTTP in JSON. See README.md here.
--
--     tb.run(function()
--       local batcher = tb.TokenBatcher{ ... }
--       local traces = tb.otel{ endpoint = "http://127.0.0.1:4318/v1/traces", batchers = { batcher } }
--       ...
--       traces:close()                   -- or the end of the run does it
--     end)
--
-- It keeps a run going for two seconds at most: when a batcher has stopped, what there is goes.

local batcher_class = require "tokenbatcher.batching.batcher"
local clock = require "tokenbatcher.runtime.clock"
local errors = require "tokenbatcher.base.errors"
local exporters = require "tokenbatcher.listen.exporter"
local http = require "tokenbatcher.backend.http"
local loop = require "tokenbatcher.runtime.loop"
local parameters = require "tokenbatcher.base.parameters"
local pseudonym = require "tokenbatcher.base.pseudonym"
local spans = require "tokenbatcher.listen.spans"
local tasks = require "tokenbatcher.runtime.tasks"

local M = {}

--- Where to, and what of. A gateway takes these.
M.COMMON = {
  { name = "endpoint", kind = "string", default = "http://127.0.0.1:4318/v1/traces" }, -- a URL; /v1/traces if no path
  { name = "headers", kind = "table", default = {}, shown = "none" }, -- of each request, such as a key
  { name = "service_name", kind = "string", default = "tokenbatcher" },
  { name = "ratio", kind = "number", default = 1, min = 0, max = 1 }, -- of batches without any context: sampled
}

M.parameters = {
  { name = "batchers", kind = "table", required = true }, -- a list, or one
  { name = "log", kind = "function" }, -- log(level, text); without it: standard error
}
for i = #M.COMMON, 1, -1 do table.insert(M.parameters, 1, M.COMMON[i]) end

--- What was given, checked and ready. Raises, and quotes neither a header's value nor credentials.
-- @param who string  for messages
function M.check(who, declared, given)
  local p = parameters.read(who, declared, given)
  http.check_url(who .. ": endpoint", p.endpoint)
  if not p.endpoint:find "^%w+://[^/?#]*/." then p.endpoint = p.endpoint:gsub("/$", "") .. "/v1/traces" end
  http.check_headers(who .. ": headers", p.headers)
  local headers = { ["Content-Type"] = "application/json" }
  for name, value in pairs(p.headers) do
    if name:lower() == "content-type" then
      errors.misuse(who .. ": the header 'content-type' is set by the exporter")
    end
    headers[name] = value
  end
  p.headers = headers
  return p
end

local function batchers_of(given)
  local list = batcher_class.is_batcher(given) and { given } or given
  for i, it in ipairs(list) do
    if not batcher_class.is_batcher(it) then errors.misuse(("otel: batchers[%d] is no batcher"):format(i)) end
  end
  if #list == 0 then errors.misuse "otel: batchers must be a batcher or a list of them" end
  return list
end

local function log_to_stderr(_, text) io.stderr:write("tokenbatcher: ", text, "\n") end

--- @class tokenbatcher.Traces
--- @field stats table  sent, dropped, kept (spans), requests
local Traces = {}
local meta = { __index = function(self, name)
  if name ~= "stats" then return Traces[name] end
  local out = { sent = 0, dropped = 0, kept = self.exporter.kept, requests = self.exporter.requests }
  for _, tracer in ipairs(self.tracers) do
    out.sent, out.dropped = out.sent + tracer.counts.sent, out.dropped + tracer.counts.dropped
  end
  return out
end }

-- No more, and nothing waits.
local function forget(self)
  if self.is_closed then return end
  self.is_closed = true
  self.exporter:close()
  for _, tracer in ipairs(self.tracers) do tracer.batcher:trace(false) end
end

--- Batches are traced no more. What there is goes first: it suspends for two seconds at most. Twice is fine.
function Traces:close()
  if self.is_closed then return end
  if tasks.can_suspend() then self.exporter:flush() end
  if self.source then loop.remove_source(self.source) end
  forget(self)
end

--- Trace batchers, for who drives it himself. @param p table  of check(), log; is_leaving and timeout_s (see
-- exporter.lua), names_secret (of pseudonyms)
function M.new(p, batchers)
  local exporter = exporters.new { url = p.endpoint, headers = p.headers, service_name = p.service_name,
    log = p.log or log_to_stderr, is_leaving = p.is_leaving, timeout_s = p.timeout_s }
  local self = setmetatable({ exporter = exporter, tracers = {}, is_closed = false, source = false }, meta)
  local ids = { secret = assert(pseudonym.secret()), n = 0 }
  for i, batcher in ipairs(batchers) do
    local tracer = spans.tracer { batcher = batcher, exporter = exporter, ratio = p.ratio, ids = ids,
      names_secret = p.names_secret or ids.secret }
    batcher:trace(tracer)
    self.tracers[i] = tracer
  end
  return self
end

-- The loop's side.
local function source_of(self)
  local exporter, source = self.exporter, { is_onlooker = true }
  function source.turn(_, now) exporter:tick(now) end
  function source.next_us() return exporter:next_us() end
  function source.is_busy() return false end
  function source.excuse() end
  function source.close() forget(self) end
  return source
end

--- Batches as spans, sent to a collector, on the batchers' loop. Misuse raises.
-- @return a handle
function M.otel(given)
  local p = M.check("otel", M.parameters, given)
  local batchers = batchers_of(p.batchers)
  if not clock.pump then loop.outside() end
  if clock.pump.is_virtual then errors.misuse "otel needs the real clock: nothing is sent under the virtual one" end
  if not clock.pump.attach then errors.misuse "otel is for libev's loop; in nginx the gateway has an option for it" end
  http.load()
  local self = M.new(p, batchers)
  self.source = source_of(self)
  loop.add_source(self.source)
  return self
end

return M
