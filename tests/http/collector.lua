-- A collector of traces: takes bodies of OTLP/HTTP in JSON, and looks whether they are what they should be. Part of
-- the fault server.

local cjson = require "cjson"

local M = { spans = {}, bodies = {}, problems = {} }

local ATTRIBUTES = { ["tokenbatcher.batcher"] = "stringValue", ["tokenbatcher.policy"] = "stringValue",
  ["tokenbatcher.batch.reason"] = "stringValue", ["tokenbatcher.batch.size"] = "intValue",
  ["tokenbatcher.batch.cost"] = "doubleValue", ["tokenbatcher.batch.attempts"] = "intValue",
  ["tokenbatcher.batch.failed"] = "intValue", ["tokenbatcher.batch.group"] = "stringValue",
  ["error.type"] = "stringValue", ["http.response.status_code"] = "intValue" }

local FIELDS = {}
for name in ("traceId spanId parentSpanId name kind startTimeUnixNano endTimeUnixNano attributes links "
  .. "droppedLinksCount status"):gmatch "%S+" do FIELDS[name] = true end

local function check(is_fine, ...)
  if not is_fine then error(table.concat({ ... }, " "), 0) end
end

local function check_id(value, digits, what)
  check(type(value) == "string" and #value == digits and value:find "^[%da-f]+$" and value:find "[^0]", what, "is no",
    tostring(digits), "hexadecimal digits:", tostring(value))
end

local function check_time(value, what)
  check(type(value) == "string" and value:find "^%d+$" and #value == 19, what, "is no text of nanoseconds")
  local off_s = math.abs(tonumber(value:sub(1, 10)) - os.time())
  check(off_s < 3600, what, "is", tostring(off_s), "s away from now")
end

local function values_of(attributes)
  local out = {}
  for _, it in ipairs(attributes) do
    local kind, value = next(it.value)
    local wanted = it.key == "service.name" and "stringValue" or ATTRIBUTES[it.key]
    check(wanted == kind and next(it.value, kind) == nil, "attribute", it.key, "is a", kind)
    check(out[it.key] == nil, "attribute", it.key, "is there twice")
    check(type(value) == (kind == "doubleValue" and "number" or "string"), "attribute", it.key, "is a", type(value))
    if kind == "intValue" then
      check(value:find "^%-?%d+$", "attribute", it.key, "is no whole number:", value)
      value = tonumber(value)
    end
    out[it.key] = value
  end
  return out
end

local function read_span(it)
  for name in pairs(it) do check(FIELDS[name], "a span has a field", name) end
  check_id(it.traceId, 32, "traceId")
  check_id(it.spanId, 16, "spanId")
  if it.parentSpanId ~= nil then check_id(it.parentSpanId, 16, "parentSpanId") end
  check(it.name == "batch" and it.kind == 1, "name or kind")
  check_time(it.startTimeUnixNano, "startTimeUnixNano")
  check_time(it.endTimeUnixNano, "endTimeUnixNano")
  check(it.startTimeUnixNano <= it.endTimeUnixNano, "it ends before it begins")
  check(#it.links <= 128, "too many links")
  for _, link in ipairs(it.links) do
    check_id(link.traceId, 32, "a link's traceId")
    check_id(link.spanId, 16, "a link's spanId")
  end
  check(type(it.droppedLinksCount) == "number", "droppedLinksCount")
  check(it.status.code == nil or it.status.code == 2, "status")
  it.attributes = values_of(it.attributes)
  return it
end

local function take(request)
  check(request.method == "POST" and request.headers["content-type"] == "application/json", "no POST of JSON")
  local body = cjson.decode(request.body)
  local resource = body.resourceSpans[1]
  local scope = resource.scopeSpans[1]
  check(#body.resourceSpans == 1 and #resource.scopeSpans == 1, "one resource, one scope")
  check(scope.scope.name == "tokenbatcher" and type(scope.scope.version) == "string", "scope")
  check(#scope.spans >= 1 and #scope.spans <= 512, tostring(#scope.spans), "spans in a block")
  local service = values_of(resource.resource.attributes)["service.name"]
  for _, it in ipairs(scope.spans) do
    local span = read_span(it)
    span.service = service
    M.spans[#M.spans + 1] = span
  end
end

--- Take a request's body. @return what is wrong with it, or nil
function M.take(request)
  M.bodies[#M.bodies + 1] = request.body
  local ok, problem = pcall(take, request)
  if ok then return nil end
  M.problems[#M.problems + 1] = tostring(problem)
  return tostring(problem)
end

return M
