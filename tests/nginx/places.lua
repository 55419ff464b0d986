--- The made-up upstream of the queue's specs and measurements: a server of streams with so many places. What asks for
-- chat is answered with a stream of four events, over /set's ms (or so many as x-ms says), or as /release allows.
--
-- It counts how many it serves at once, and never refuses: a queue before it is there to keep to its places.
--   /set?ms=N&as=timed|held&places=N&waiting=N   waiting: what /metrics says; all counters begin anew
--   /release?streams=N     so many that are held may go on
--   /order                 whose streams have come, in this order: their Authorization without "Bearer "
--   /stats                 {now, most, over (came when all places were taken), came, done, aborted}
--   /metrics               vllm:num_requests_waiting, as a server of vLLM's has it

local cjson = require "cjson.safe"

local M = {}
local kept = ngx.shared.places

local EVENTS = 4

--- The stream that answers a request of this text, event by event.
function M.events_of(text)
  local out = {}
  for i = 1, EVENTS do
    out[i] = ('data: {"choices":[{"index":0,"delta":{"content":%s}}]}\n\n'):format(cjson.encode(i .. " " .. text))
  end
  out[EVENTS + 1] = "data: [DONE]\n\n"
  return out
end

local function come(who)
  local now, n = kept:incr("now", 1, 0), kept:incr("came", 1, 0)
  kept:set("who " .. n, who)
  if now > (kept:get "most" or 0) then kept:set("most", now) end
  if now > (kept:get "places" or math.huge) then kept:incr("over", 1, 0) end
end

local function leave(as)
  kept:incr("now", -1, 0)
  kept:incr(as, 1, 0)
end

local function wait_for_release()
  while kept:get "as" == "held" and kept:incr("released", -1, 0) < 0 do
    kept:incr("released", 1)
    ngx.sleep(0.005)
  end
end

function M.chat()
  ngx.req.read_body()
  local request = cjson.decode(ngx.req.get_body_data() or "") or {}
  local text = request.messages and request.messages[1].content or ""
  come((ngx.var.http_authorization or "-"):gsub("^Bearer ", ""))
  local is_over = false
  ngx.on_abort(function()
    if not is_over then leave "aborted" end
    is_over = true
    ngx.exit(499)
  end)
  ngx.header.content_type = "text/event-stream"
  local ms = tonumber(ngx.var.http_x_ms) or kept:get "ms" or 0
  for i, event in ipairs(M.events_of(text)) do
    if i == 2 then wait_for_release() end
    if i > 1 and i <= EVENTS then ngx.sleep(ms / 1000 / (EVENTS - 1)) end
    if i == EVENTS + 1 then -- the place is free with the last byte
      is_over = true
      leave "done"
    end
    ngx.print(event)
    ngx.flush(true)
  end
end

function M.set()
  local arg = ngx.req.get_uri_args()
  local now = kept:get "now" or 0
  kept:flush_all()
  kept:set("now", now)
  kept:set("ms", tonumber(arg.ms) or 0)
  kept:set("as", arg.as or "timed")
  kept:set("places", tonumber(arg.places) or math.huge)
  kept:set("waiting", tonumber(arg.waiting) or 0)
end

function M.waiting() kept:set("waiting", tonumber(ngx.var.arg_n) or 0) end

function M.release() kept:incr("released", tonumber(ngx.var.arg_streams), 0) end

function M.order()
  local out = {}
  for i = 1, kept:get "came" or 0 do out[i] = kept:get("who " .. i) or "?" end
  ngx.print(table.concat(out, " "))
end

function M.stats()
  local out = {}
  for _, name in ipairs { "now", "most", "over", "came", "done", "aborted" } do out[name] = kept:get(name) or 0 end
  ngx.print(cjson.encode(out))
end

function M.metrics()
  local waiting = kept:get "waiting" or 0
  if waiting < 0 then return ngx.exit(500) end
  ngx.print(("# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_running{model_name=\"m\"} 8.0\n"
    .. "vllm:num_requests_waiting{model_name=\"m\"} %.1f\n"):format(waiting))
end

return M
