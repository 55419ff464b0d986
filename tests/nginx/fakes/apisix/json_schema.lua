--- A validator of the part of JSON Schema that the plugin for APISIX uses, written for the specs. As APISIX's own, it
-- puts defaults into what it is given. A keyword that it does not know is an error, or nobody would notice one that is
-- not heeded.

local M = {}

local KNOWN = { type = true, enum = true, default = true, properties = true, required = true,
  additionalProperties = true, items = true, minItems = true, maxItems = true, minimum = true, maximum = true,
  exclusiveMinimum = true, pattern = true }

local check

local function fits_type(kind, value)
  if kind == nil then return true end
  if kind == "integer" then return type(value) == "number" and value % 1 == 0 end
  if kind == "object" or kind == "array" then return type(value) == "table" end
  return type(value) == kind
end

local function check_number(schema, value)
  local wrong = "expected " .. value .. " to be "
  if schema.minimum and value < schema.minimum then return wrong .. "at least " .. schema.minimum end
  if schema.maximum and value > schema.maximum then return wrong .. "at most " .. schema.maximum end
  if schema.exclusiveMinimum and value <= schema.exclusiveMinimum then
    return wrong .. "greater than " .. schema.exclusiveMinimum
  end
end

local function check_list(schema, value)
  if schema.minItems and #value < schema.minItems then return "expect array to have at least " .. schema.minItems end
  if schema.maxItems and #value > schema.maxItems then return "expect array to have at most " .. schema.maxItems end
  for i, item in ipairs(schema.items and value or {}) do
    local problem = check(schema.items, item)
    if problem then return ("failed to validate item %d: %s"):format(i, problem) end
  end
end

local function check_object(schema, value)
  for name, inner in pairs(schema.properties or {}) do
    if value[name] == nil and inner.default ~= nil then value[name] = inner.default end
    local problem = value[name] ~= nil and check(inner, value[name])
    if problem then return ('property "%s" validation failed: %s'):format(name, problem) end
  end
  for _, name in ipairs(schema.required or {}) do
    if value[name] == nil then return ('property "%s" is required'):format(name) end
  end
  local more = schema.additionalProperties
  for name, item in pairs(more ~= nil and value or {}) do
    if not (schema.properties and schema.properties[name]) then
      if more == false then return "additional properties forbidden, found " .. tostring(name) end
      local problem = check(more, item)
      if problem then return ('property "%s" validation failed: %s'):format(name, problem) end
    end
  end
end

function check(schema, value)
  for keyword in pairs(schema) do assert(KNOWN[keyword] or keyword == "encrypt_fields", "keyword " .. keyword) end
  if not fits_type(schema.type, value) then
    return ("wrong type: expected %s, got %s"):format(schema.type, type(value))
  end
  if schema.enum then
    local found = false
    for _, known in ipairs(schema.enum) do found = found or known == value end
    if not found then return "matches none of the enum values" end
  end
  if schema.pattern and not value:find(schema.pattern) then return "failed to match pattern" end -- the same in Lua
  local problem
  if type(value) == "number" then problem = check_number(schema, value) end
  if type(value) == "table" then
    problem = schema.type == "array" and check_list(schema, value) or check_object(schema, value)
  end
  return problem
end

--- @return true; or false and what is wrong
function M.check(schema, value)
  local problem = check(schema, value)
  if problem then return false, problem end
  return true
end

--- Raises unless a path ("upstream.api_key") leads to a property of the schema.
function M.assert_path(schema, path)
  for name in path:gmatch "[^.]+" do
    schema = assert(schema.properties and schema.properties[name], path .. " is in no configuration")
  end
end

return M
