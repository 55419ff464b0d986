--- The fields of options.lua as each host wants them declared: Kong's lists of fields, APISIX's JSON schema. The host
-- then refuses what does not fit, and names it, before a gateway is made.

local options = require "tokenbatcher.gateway.plugin.options"

local M = {}

-- --- Kong -----------------------------------------------------------------------------------------

local KONG_TYPES = { count = "integer", list = "array" }
local kong_fields

local function kong_type(p)
  local out = { type = KONG_TYPES[p.kind] or p.kind, default = p.default, one_of = p.choices, match = p.pattern,
    required = p.required or p.default ~= nil or nil }
  if p.kind == "number" or p.kind == "count" then
    out.between, out.gt = { p.min or p.above or 0, p.max or 2 ^ 53 }, p.above
  elseif p.kind == "record" then
    out.fields, out.required = kong_fields(p.fields), not p.is_optional -- then what is left out is filled in
  elseif p.kind == "list" then
    out.elements, out.len_min, out.len_max = kong_type(p.of), p.least, p.most
  elseif p.kind == "map" then
    out.keys, out.values = { type = "string" }, p.of and kong_type(p.of) or { type = "string",
      referenceable = p.is_secret, encrypted = p.is_secret }
  end
  if p.kind == "string" and p.is_secret then out.referenceable, out.encrypted = true, true end
  return out
end

function kong_fields(fields)
  local out = {}
  for i, p in ipairs(fields) do out[i] = { [p.name] = kong_type(p) } end
  return out
end

--- The record `config` of a plugin's schema.
function M.kong()
  local checks = {}
  for i, it in ipairs(options.conditions) do
    checks[i] = { conditional = { if_field = it.field, if_match = { eq = it.value }, then_field = it.needed,
      then_match = { required = true } } }
  end
  return { type = "record", fields = kong_fields(options.fields), entity_checks = checks,
    custom_validator = options.check }
end

-- --- APISIX ---------------------------------------------------------------------------------------

local JSON_TYPES = { count = "integer", list = "array", record = "object", map = "object" }
local json_object

local function json_type(p)
  if p.kind == "record" then return json_object(p.fields) end
  local out = { type = JSON_TYPES[p.kind] or p.kind, enum = p.choices, pattern = p.regex }
  if type(p.default) ~= "table" then out.default = p.default end
  if p.kind == "number" or p.kind == "count" then
    out.minimum, out.exclusiveMinimum, out.maximum = p.min, p.above, p.max
  elseif p.kind == "list" then
    out.items, out.minItems, out.maxItems = json_type(p.of), p.least, p.most
  elseif p.kind == "map" then
    out.additionalProperties = p.of and json_type(p.of) or { type = "string" }
  end
  return out
end

function json_object(fields)
  local properties, required = {}, {}
  for _, p in ipairs(fields) do
    properties[p.name] = json_type(p)
    if p.required then required[#required + 1] = p.name end
  end
  return { type = "object", properties = properties, required = required[1] and required or nil,
    additionalProperties = false }
end

--- The schema of a plugin's configuration. What one field asks of another is left to options.check(): APISIX says of
-- "if" and "then" that they did not match, and not what.
function M.json() return json_object(options.fields) end

--- The secrets, as paths ("upstream.api_key").
function M.secrets()
  local out = {}
  local function walk(fields, prefix)
    for _, p in ipairs(fields) do
      if p.is_secret then out[#out + 1] = prefix .. p.name end
      if p.kind == "record" then walk(p.fields, prefix .. p.name .. ".") end
    end
  end
  walk(options.fields, "")
  return out
end

return M
