--- A validator of Kong's kind of schemas, written for the specs: as strict with a schema as Kong's own is (an attribute
-- that a type does not have is an error), and with a configuration (an unknown field, a wrong type, a range, a field
-- that another one asks for), which it returns filled in with its defaults.

local M = {}

local COMMON = { type = true, required = true, default = true, custom_validator = true }
local ATTRIBUTES = {
  string = { one_of = true, match = true, referenceable = true, encrypted = true, len_min = true },
  number = { one_of = true, between = true, gt = true },
  integer = { one_of = true, between = true, gt = true },
  boolean = {},
  array = { elements = true, len_min = true, len_max = true },
  set = { elements = true, len_min = true, len_max = true },
  map = { keys = true, values = true },
  record = { fields = true, entity_checks = true },
}

local function one_field(entry)
  local name, field = next(entry)
  assert(type(name) == "string" and next(entry, name) == nil, "a field must be a table with one name")
  return name, field
end

--- Raises what is wrong with a schema.
function M.check_schema(field, where)
  local known = assert(ATTRIBUTES[field.type], where .. ": no such type: " .. tostring(field.type))
  for attribute in pairs(field) do
    assert(COMMON[attribute] or known[attribute], ("%s: a %s has no attribute %s"):format(where, field.type, attribute))
  end
  assert(field.type ~= "record" or field.fields, where .. ": a record needs fields")
  assert((field.type ~= "array" and field.type ~= "set") or field.elements, where .. ": needs elements")
  assert(field.type ~= "map" or (field.keys and field.values), where .. ": a map needs keys and values")
  for _, part in ipairs { "elements", "keys", "values" } do
    if field[part] then M.check_schema(field[part], where .. "." .. part) end
  end
  for _, entry in ipairs(field.fields or {}) do
    local name, inner = one_field(entry)
    M.check_schema(inner, where .. "." .. name)
  end
  for _, check in ipairs(field.entity_checks or {}) do
    local it = assert(check.conditional, where .. ": a check that is not known here")
    assert(it.if_field and it.if_match and it.then_field and it.then_match, where .. ": conditional")
  end
end

local validate

local function is_among(value, list)
  for _, known in ipairs(list) do
    if known == value then return true end
  end
end

local function fits_type(kind, value)
  if kind == "integer" then return type(value) == "number" and value % 1 == 0 end
  if kind == "number" or kind == "string" or kind == "boolean" then return type(value) == kind end
  return type(value) == "table"
end

local function check_scalar(field, value)
  if field.one_of and not is_among(value, field.one_of) then
    return "expected one of: " .. table.concat(field.one_of, ", ")
  end
  if field.gt and value <= field.gt then return "value must be greater than " .. field.gt end
  if field.between and (value < field.between[1] or value > field.between[2]) then
    return ("value should be between %d and %d"):format(field.between[1], field.between[2])
  end
  if field.match and not value:match(field.match) then return "invalid value: " .. value end
  if field.type == "string" and value == "" and (field.len_min or 1) > 0 then return "length must be at least 1" end
end

local function check_list(field, value, where, errors)
  local out = {}
  if field.len_min and #value < field.len_min then errors[where] = "length must be at least " .. field.len_min end
  if field.len_max and #value > field.len_max then errors[where] = "length must be at most " .. field.len_max end
  for i, item in ipairs(value) do out[i] = validate(field.elements, item, where .. "." .. i, errors) end
  return out
end

local function check_map(field, value, where, errors)
  local out = {}
  for key, item in pairs(value) do
    validate(field.keys, key, where, errors)
    out[key] = validate(field.values, item, where .. "." .. key, errors)
  end
  return out
end

local function check_record(field, value, where, errors)
  local out, known = {}, {}
  for _, entry in ipairs(field.fields) do
    local name, inner = one_field(entry)
    known[name] = true
    out[name] = validate(inner, value[name], where .. "." .. name, errors)
  end
  for name in pairs(value) do
    if not known[name] then errors[where .. "." .. tostring(name)] = "unknown field" end
  end
  for _, check in ipairs(field.entity_checks or {}) do
    local it = check.conditional
    if out[it.if_field] == it.if_match.eq and it.then_match.required and out[it.then_field] == nil then
      errors[where .. "." .. it.then_field] = "required field missing"
    end
  end
  return out
end

local function copied(value)
  if type(value) ~= "table" then return value end
  local out = {}
  for name, item in pairs(value) do out[name] = copied(item) end
  return out
end

function validate(field, value, where, errors)
  if value == nil then value = copied(field.default) end
  if value == nil and field.required and field.type == "record" then value = {} end
  if value == nil then
    if field.required then errors[where] = "required field missing" end
    return nil
  end
  if not fits_type(field.type, value) then
    errors[where] = "expected a " .. field.type
    return nil
  end
  if field.type == "array" or field.type == "set" then return check_list(field, value, where, errors) end
  if field.type == "map" then return check_map(field, value, where, errors) end
  if field.type ~= "record" then
    errors[where] = check_scalar(field, value)
    return value
  end
  local out = check_record(field, value, where, errors)
  if field.custom_validator and not next(errors) then
    local ok, message = field.custom_validator(out)
    if not ok then errors[where] = message end
  end
  return out
end

local function field_named(schema, name)
  for _, entry in ipairs(schema.fields) do
    local found, field = one_field(entry)
    if found == name then return field end
  end
  error("no field " .. name)
end

--- @param schema table  a plugin's  @return the configuration with its defaults; or nil and {path = what is wrong}
function M.config(schema, given)
  local field, errors = field_named(schema, "config"), {}
  M.check_schema(field, "config")
  local out = validate(field, given, "config", errors)
  if next(errors) then return nil, errors end
  return out
end

return M
