--- The flag of `run` and `work` with which batches are sent to a collector of OpenTelemetry: see listen/.

local errors = require "tokenbatcher.base.errors"
local otel = require "tokenbatcher.listen.otel"

local M = {}

--- @param command table  argparse's
function M.declare(command)
  command:option("--otel-endpoint", "Send batches as spans to this collector, by OTLP/HTTP: http://127.0.0.1:4318. Of "
    .. "the environment, OTEL_EXPORTER_OTLP_HEADERS and OTEL_SERVICE_NAME count."):argname "<url>"
end

local function decoded(text)
  return (text:gsub("%%(%x%x)", function(digits) return string.char(tonumber(digits, 16)) end))
end

-- "name=value,name=value", the values as in URLs. They may be secret: nothing of them is quoted.
local function headers_of(text)
  local headers = {}
  for item in (text or ""):gmatch "[^,]+" do
    if item:find "%S" then
      local name, value = item:match "^%s*([^=%s]+)%s*=%s*(.-)%s*$"
      if not name then errors.misuse "OTEL_EXPORTER_OTLP_HEADERS must be name=value,name=value (it is not shown)" end
      headers[name] = decoded(value)
    end
  end
  return headers
end

local function set(name)
  local value = os.getenv(name)
  return value ~= "" and value or nil
end

local function open(job)
  return otel.otel { endpoint = job.args.otel_endpoint, batchers = { job.batcher },
    headers = headers_of(set "OTEL_EXPORTER_OTLP_HEADERS"), service_name = set "OTEL_SERVICE_NAME",
    log = function(_, text) job.report:say("tokenbatcher: ", text) end }
end

--- Trace the batches, if that is asked for; within the run, which ends it.
-- @param job table  args, batcher, report
-- @return true, or nil and a message
function M.open(job)
  if not job.args.otel_endpoint then return true end
  local ok, err = pcall(open, job)
  if ok then return true end
  return nil, (errors.message_of(err):gsub("otel: endpoint:", "--otel-endpoint:"))
end

return M
