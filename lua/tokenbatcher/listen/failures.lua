--- What may be said of a failure to whoever looks: a sentence of ours, by the code of the err and the status of the
-- server, and nothing that a record, a server or a user's code has said. The log has the rest.

local errors = require "tokenbatcher.base.errors"

local M = {}

-- Codes of ours, of the batcher and of what ships as inference functions.
local SENTENCES = {
  inference_timeout = "inference_fn did not answer within inference_timeout_s",
  stopped = "the batcher was stopped before the answer came",
  cancelled = "the call was called off",
  coroutine_failed = "a coroutine of the call failed",
  http_status = "the server refused",
  http_timeout = "the server did not answer in time",
  http_connect = "the server could not be connected to",
  http_tls = "no TLS with the server: its certificate or the handshake",
  http_broken = "the connection broke",
  http_too_large = "the server's answer is larger than is taken",
  bad_response = "the server answered something else than was asked for",
  upstream_open = "the server is left alone for a while: its circuit is open",
  server_away = "the server is away",
  not_tried = "not tried, since the server would take nothing",
  redis_unavailable = "Redis could not be reached",
  redis_error = "Redis refused a command",
  out_of_memory = "memory ran out",
}

local RAISED, RETURNED = "inference_fn raised an error (the log has it)",
  "inference_fn failed the record or returned no list of as many results"

local function field(value, name)
  if type(value) ~= "table" then return nil end
  return rawget(value, name)
end

local function status_of(value)
  local status = field(value, "status")
  return type(status) == "number" and status % 1 == 0 and status >= 100 and status <= 599 and status or nil
end

--- @param err any  of a record that failed
-- @return sentence; a code of ours; the server's status, or nil
function M.sentence(err)
  local cause = field(err, "cause")
  local status = status_of(cause) or status_of(err)
  for _, it in ipairs { cause or false, err or false } do
    local code = field(it, "code")
    local sentence = type(code) == "string" and SENTENCES[code]
    if sentence then return status and ("%s (status %d)"):format(sentence, status) or sentence, code, status end
  end
  if status then return ("%s (status %d)"):format(SENTENCES.http_status, status), "http_status", status end
  local is_raised = errors.is_err(err) and err.traceback ~= nil
  return is_raised and RAISED or RETURNED, "inference_failed", nil
end

return M
