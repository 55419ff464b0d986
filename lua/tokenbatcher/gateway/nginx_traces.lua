--- Batches as spans of OpenTelemetry inside nginx (option otel): each worker sends its own.

local clock = require "tokenbatcher.runtime.clock"
local otel = require "tokenbatcher.listen.otel"

local ngx = ngx -- luacheck: ignore

local M = {}

local LOOK_S = 1
local TIMEOUT_S = 5 -- a worker that leaves waits for a request to the collector

--- In a worker, once its gateway has been started.
function M.start(gateway)
  local p, batchers = gateway.config.otel, {}
  if not p then return end
  for i, line in ipairs(gateway.lines) do batchers[i] = line.batcher end
  local given = { log = gateway.complaints.log, is_leaving = ngx.worker.exiting, names_secret = gateway.secret,
    timeout_s = TIMEOUT_S }
  for name, value in pairs(p) do given[name] = value end
  local exporter = otel.new(given, batchers).exporter
  -- A timer that waits comes at once when the worker is to leave.
  ngx.timer.every(LOOK_S, function(is_premature)
    if is_premature then exporter:flush() else exporter:tick(clock.now_us()) end
  end)
end

return M
