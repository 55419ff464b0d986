--- Requests that nginx passes on while they hold a slot: found again when they are over.
--
-- THE SPECIAL PROBLEM OF REDIRECTS. ngx.exec and error_page take ngx.ctx away, and what `set` has set is set anew. What
-- stays is which request of which connection it is (of HTTP/2, which stream): no two live at once.

local ngx = ngx -- luacheck: ignore

local M = {}
local Passed = {}
Passed.__index = Passed

function M.new() return setmetatable({ requests = {}, n = 0 }, Passed) end

local function name() return ngx.var.connection .. "-" .. ngx.var.connection_requests end

--- This one goes upstream, and may hold a slot.
function Passed:keep(request)
  if not request.ticket then return end
  self.requests[name()], self.n = request, self.n + 1
end

--- It is over. @return the request, or nil: it holds nothing
function Passed:take()
  if self.n == 0 then return nil end
  local which = name()
  local request = self.requests[which]
  if request then self.requests[which], self.n = nil, self.n - 1 end
  return request
end

return M
