--- Answers: status, headers and body, with what every answer has (its request's id) and what a browser asks for (CORS).

local problems = require "tokenbatcher.gateway.problems"

local M = {}

local EXPOSED = "x-request-id, retry-after"
local MOST_HEADERS = 1024 -- bytes of a browser's list of headers that is said back

function M.headers() return { ["content-type"] = "application/json" } end

--- @return status, headers, body
function M.problem(problem)
  local headers = M.headers()
  for name, value in pairs(problem.headers or {}) do headers[name] = value end
  local wait_s = problem.retry_after_s
  if wait_s then headers["retry-after"] = ("%d"):format(math.max(1, math.ceil(wait_s))) end
  return problem.status, headers, problems.body(problem)
end

-- The origin that an answer names, or nil: a browser then keeps it from the page.
local function origin_of(cors, request)
  local origin = cors and request.headers.origin
  if not origin then return nil end
  if cors.origins["*"] then return "*" end
  return cors.origins[origin] and origin or nil
end

--- The headers of an answer to a browser's question whether it may ask, or nil: that is no such question.
function M.preflight(cors, request)
  local wanted = request.headers["access-control-request-method"]
  if request.method ~= "OPTIONS" or not wanted or not origin_of(cors, request) then return nil end
  local asked = request.headers["access-control-request-headers"]
  if asked and (#asked > MOST_HEADERS or asked:find "[^%w ,_-]") then asked = nil end
  return { ["access-control-allow-methods"] = "GET, POST, OPTIONS", ["access-control-allow-headers"] = asked
    or "authorization, content-type", ["access-control-max-age"] = tostring(cors.max_age_s) }
end

--- Put in what every answer has. @return status, headers, body
function M.finish(cors, request, id, status, headers, body)
  headers["x-request-id"] = id
  local origin = origin_of(cors, request)
  if origin then
    headers["access-control-allow-origin"], headers["access-control-expose-headers"] = origin, EXPOSED
  end
  if cors and not cors.origins["*"] then headers.vary = "origin" end
  return status, headers, body
end

return M
