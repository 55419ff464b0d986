--- What may be read of batchers over HTTP: the page, figures, health. Nothing here changes anything.
--
-- THE SPECIAL PROBLEM OF DNS REBINDING. A page in a browser of this machine may have its own name point here, and is
-- then of one origin with us: it could read all. Its name gives it away, which the browser sends as Host. So a Host
-- is taken that is the address that was reached, localhost, or a name that somebody has allowed. A number cannot be
-- made to point elsewhere.

local address = require "tokenbatcher.listen.address"
local errors = require "tokenbatcher.base.errors"
local metrics = require "tokenbatcher.batching.metrics"
local page = require "tokenbatcher.listen.page"
local replies = require "tokenbatcher.listen.replies"
local state = require "tokenbatcher.listen.state"

local M = {}
local Routes = {}
Routes.__index = Routes

-- --- the pages ----------------------------------------------------------------------------

local pages = {}

pages["/"] = function()
  return 200, replies.headers_of_page(page.headers()), page.html()
end

pages["/metrics"] = function(self)
  return replies.text(200, "text/plain; version=0.0.4", metrics.prometheus(unpack(self.batchers)) .. self.more())
end

--- 503 once the oldest record queued, or the oldest call running, is older than its limit.
pages["/health"] = function(self)
  local oldest, status = { oldest_queued_s = 0, oldest_running_s = 0 }, 200
  for _, batcher in ipairs(self.batchers) do
    local stats = batcher.stats
    for name, age in pairs(oldest) do oldest[name] = math.max(age, stats[name]) end
  end
  for name, limit in pairs(self.health) do
    if oldest[name] > limit then status = 503 end
  end
  return replies.text(status, "application/json", ('{"status":"%s","oldest_queued_s":%.3f,"oldest_running_s":%.3f}\n')
    :format(status == 200 and "ok" or "stuck", oldest.oldest_queued_s, oldest.oldest_running_s))
end

-- Would its inference function call anybody? (One that asks a server has a circuit that may be open.)
local function has_upstream(batcher)
  local fn = batcher:option "inference_fn" or batcher:option "process_fn"
  if type(fn) ~= "table" or not errors.is_callable(fn.status) then return true end
  local ok, status = pcall(fn.status, fn)
  return not (ok and type(status) == "table" and status.state == "open")
end

--- 503 while no batcher would take and send a record.
pages["/ready"] = function(self)
  local is_any_running = false
  for _, batcher in ipairs(self.batchers) do
    if batcher:state() == "running" then
      if has_upstream(batcher) then return replies.json(200, { status = "ready" }) end
      is_any_running = true
    end
  end
  return replies.json(503, { status = is_any_running and "no upstream" or "not running" })
end

pages["/stats.json"] = function(self, request, server)
  local after = tonumber(server:argument(request, "after") or "")
  return replies.text(200, "application/json", (self:state(after)) .. "\n")
end

pages["/events"] = function(self, request)
  local headers = replies.headers("text/event-stream", "X-Accel-Buffering: no\n")
  if request.method == "HEAD" then return 200, headers, "" end
  if self.events:is_full() then
    return replies.refusal(503, "as many read events as may: ask for stats.json", "Retry-After: 10\n")
  end
  return 200, headers, self.events:beginning(), true
end

-- --- who may ask ----------------------------------------------------------------------------

local function is_host_ours(self, request, server)
  if server.is_file then return true end -- no browser gets there
  local host = address.host_of(request.host)
  return host ~= nil and (host == "localhost" or host == request.local_host or self.hosts[host] == true)
end

--- Answer a request: see server.lua.
function Routes:serve(request, server)
  if not is_host_ours(self, request, server) then
    return replies.refusal(403, "the Host of the request is not where this listens; see the option hosts")
  end
  local fn = pages[request.path]
  if not fn then return replies.refusal(404, "there is no such page; there are: /, /events, /health, /metrics, "
    .. "/ready, /stats.json") end
  if request.method ~= "GET" and request.method ~= "HEAD" then
    return replies.refusal(405, "this is only read: GET and HEAD", "Allow: GET, HEAD\n")
  end
  return fn(self, request, server)
end

--- The state as JSON without an end of line, and the time that it is of. @param after number|nil  see state.of
function Routes:state(after)
  local now = state.of(self.watches, { after = after })
  return state.text(now), now.now
end

--- @param given table  batchers, watches (of each), health (limits by name), hosts (a set), events (of events.lua),
-- more: a function that returns what else is on /metrics
function M.new(given)
  return setmetatable(given, Routes)
end

return M
