--- A request of a gateway waits in the queue of its line: who it is, what it will cost, and what becomes of it.

local estimate = require "tokenbatcher.gateway.queue.estimate"
local reading = require "tokenbatcher.gateway.reading"

local M = {}

-- The part of Authorization that is the key, as people write it into `weights`.
local function bare(name) return name:match "^%a+ +(.-) *$" or name end

--- Is a name one that has a weight? Who has one needs no bound on how many there are.
-- @param list table  of upstreams, as config.lua reads them  @return function(name) -> boolean
function M.knows(list)
  local known = {}
  for _, upstream in ipairs(list) do
    for name in pairs(upstream.queue and upstream.queue.weights or {}) do known[name] = true end
  end
  return function(name) return known[name] or known[bare(name)] or false end
end

local function weight_of(weights, name)
  return name and (weights[name] or weights[bare(name)]) or 1
end

-- A user's function. @return number or nil; raises what is no number
local function priority_of(fn, request)
  local value = fn and fn(request)
  if value == nil or type(value) == "number" and value == value then return value end
  error("gateway: the function priority returned no number but a " .. type(value), 0)
end

local function leave_when_it_leaves(gateway, request, ticket)
  request:on_abort(function()
    if request.is_over then return end
    request.is_over = true
    ticket.queue:leave(ticket)
    gateway:count("pass", 499)
  end)
end

--- Wait for a place upstream; suspends. What it holds is in request.ticket, for gateway:over().
-- @param line table  that has a queue
-- @return true; or nil and a problem
function M.wait(gateway, line, request)
  local queue = line.queue
  local bytes, problem = reading.receive(request, gateway.limits)
  if not bytes then return nil, problem end
  local max_wait_s
  max_wait_s, problem = reading.max_wait_of(request.headers)
  if problem then return nil, problem end
  local key, name = gateway.fairness:of(request)
  local p = queue.config
  local ticket
  ticket, problem = queue:enter { key = key, weight = weight_of(p.weights, name), max_wait_s = max_wait_s,
    cost = estimate.cost(bytes > 0 and request:text() or "", p.default_tokens, p.most_tokens),
    priority = priority_of(p.priority, request) }
  if not ticket then return nil, problem end
  request.ticket = ticket
  if request.on_abort then leave_when_it_leaves(gateway, request, ticket) end
  gateway.on_change()
  return queue:wait(ticket)
end

--- Give back what it holds. Posts only, and does nothing a second time. @return boolean  did it hold anything?
function M.over(request)
  local ticket = request.ticket
  if not ticket then return false end
  request.ticket = nil
  ticket.queue:leave(ticket)
  return true
end

return M
