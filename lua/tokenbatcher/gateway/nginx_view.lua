--- The live page inside nginx: /tb/, /tb/stats.json and /tb/events.

local View = require "tokenbatcher.gateway.view"

local ngx = ngx -- luacheck: ignore

local M = {}

local MOST_READERS = 16 -- of events, in a worker: others ask once a second

--- In a worker, once its board has been joined. @return the view
function M.start(gateway, dict, board)
  local view = View.new { gateway = gateway, dict = dict, board = board, bytes = dict:capacity(),
    workers = ngx.worker.count() }
  ngx.timer.every(View.PERIOD_S, function(is_premature)
    if not is_premature then view:put() end
  end)
  return view
end

-- By loopback, or by an address of its own; one of IPv4 may have come to a socket of IPv6.
local function is_of_this_machine(from, to)
  local number = from:lower():gsub("^::ffff:", "")
  return number:find "^127%." ~= nil or from == "::1" or from:find "^unix:" ~= nil or from == to
end

-- Who asks from this machine asks by a number or as localhost: a page of somebody else's, whose name was made to point
-- here, does not read along.
local function is_of_another_name()
  local var = ngx.var
  if not is_of_this_machine(var.remote_addr or "", var.server_addr) then return false end
  local host = (var.http_host or ""):lower():gsub(":%d*$", "")
  return not (host == "localhost" or host:find "^[%d.]+$" or host:find "^%[[%x:.]+%]$")
end

local readers = 0

-- As long as the client stays: what nothing is sent to would never be found to have left.
local function stream(view)
  local after
  while not ngx.worker.exiting() do
    local text = view:text(after, ngx.sleep)
    after = tonumber(text:match '"now":([%d.]+)')
    if not (ngx.print("event: state\ndata: ", text, "\n\n") and ngx.flush(true)) then return end
    ngx.sleep(View.PERIOD_S)
  end
end

local function events(view)
  local header = ngx.header
  header["content-type"], header["cache-control"], header["x-accel-buffering"] = "text/event-stream", "no-store", "no"
  if ngx.req.get_method() == "HEAD" then return end
  readers = readers + 1
  local ok, err = pcall(stream, view)
  readers = readers - 1
  if not ok then error(err, 0) end
end

local function send(status, headers, body)
  ngx.status = status
  for name, value in pairs(headers) do ngx.header[name] = value end
  ngx.header["content-length"] = #body
  if ngx.req.get_method() ~= "HEAD" then ngx.print(body) end
end

--- @param path string  what is behind /tb/  @return nil, or a status to refuse with
function M.serve(view, path)
  local method = ngx.req.get_method()
  if method ~= "GET" and method ~= "HEAD" then return 405 end
  if is_of_another_name() then return 403 end
  if path == "events" then
    if readers >= MOST_READERS then return 503 end
    return events(view)
  end
  local status, headers, body = view:page(path, tonumber(ngx.var.arg_after), ngx.sleep)
  if not status then return 404 end
  send(status, headers, body)
end

return M
