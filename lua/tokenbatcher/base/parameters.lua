--- Parameters of what ships (policies, estimators, backends): declared as a list of
-- {name, default, kind, min, max, above, unit, text, shown, choices, required}, validated like a batcher's
-- options. `shown` stands for the default in lists ("": nothing does).
--
-- kind: "number", "count", "string", "boolean", "table", "policy", "estimator", "function"; a
-- string may have `choices`. A default of nil means none, unless the parameter is `required`.

local errors = require "tokenbatcher.base.errors"
local kinds = require "tokenbatcher.base.kinds"

local M = {}

local function names_of(declared)
  local names = {}
  for i, p in ipairs(declared) do names[i] = p.name end
  return names
end

local function find(declared, name)
  for _, p in ipairs(declared) do
    if p.name == name then return p end
  end
end

--- What a value must be: "a number of seconds above 0".
function M.expected(p)
  if p.choices then return "one of " .. table.concat(p.choices, ", ") end
  if p.kind == "count" then return ("a whole number from %.14g to %.14g"):format(p.min, p.max) end
  if p.kind ~= "number" then return (p.kind:find "^[aeiou]" and "an " or "a ") .. p.kind end
  local unit = p.unit and " of " .. p.unit or ""
  if p.min and p.max then return ("a number%s from %.14g to %.14g"):format(unit, p.min, p.max) end
  if p.above then return ("a number%s above %.14g"):format(unit, p.above) end
  return ("a number%s >= %.14g"):format(unit, p.min or 0)
end

local function number_fits(p, value)
  if type(value) ~= "number" or value ~= value or value == math.huge then return false end
  if p.above then return value > p.above end
  return value >= (p.min or 0) and value <= (p.max or math.huge)
end

local function is_among(value, list)
  for _, known in ipairs(list) do
    if known == value then return true end
  end
  return false
end

local function fits(p, value)
  if p.choices then return is_among(value, p.choices) end
  if p.kind == "count" then return number_fits(p, value) and value % 1 == 0 end
  if p.kind == "number" then return number_fits(p, value) end
  if p.kind == "policy" or p.kind == "estimator" then return kinds.resolve(p.kind, value) end
  return type(value) == p.kind
end

local function by_text(a, b) return errors.text(a) < errors.text(b) end

local function sorted(given)
  local keys = {}
  for key in pairs(given) do keys[#keys + 1] = key end
  table.sort(keys, by_text)
  return keys
end

local KINDS = { "number", "count", "string", "boolean", "table", "policy", "estimator", "function" }

-- One of somebody's own parameters, with what he has left out; or nil and what is wrong.
local function declare_one(p)
  if type(p) ~= "table" or type(p.name) ~= "string" then return nil, "must be a table with a name" end
  local out = {}
  for field, value in pairs(p) do out[field] = value end
  out.kind = p.kind or p.choices and "string" or type(p.default) ~= "nil" and type(p.default) or "number"
  if not is_among(out.kind, KINDS) then
    return nil, ("'%s' must be of a kind, one of %s, got %s"):format(p.name, table.concat(KINDS, ", "),
      errors.show(out.kind))
  end
  for _, bound in ipairs { "min", "max", "above" } do
    if p[bound] ~= nil and type(p[bound]) ~= "number" then
      return nil, ("'%s': %s must be a number, got %s"):format(p.name, bound, errors.show(p[bound]))
    end
  end
  if out.kind == "count" then out.min, out.max = p.min or 0, p.max or 2 ^ 53 end
  if out.default ~= nil and not fits(out, out.default) then
    return nil, ("'%s': its default must be %s, got %s"):format(p.name, M.expected(out), errors.show(out.default))
  end
  return out
end

--- Parameters as somebody else has declared them, checked: a copy, with what was left out (a kind is that
-- of the default). @param list any  @return list, or nil and a message
function M.declare(who, list)
  if list == nil then return {} end
  if type(list) ~= "table" then return nil, ("%s: 'parameters' must be a list, got a %s"):format(who, type(list)) end
  local out = {}
  for i = 1, #list do
    local p, problem = declare_one(list[i])
    if not p then return nil, ("%s: 'parameters': number %d %s"):format(who, i, problem) end
    out[i] = p
  end
  if next(list, #list > 0 and #list or nil) ~= nil then
    return nil, ("%s: 'parameters' must be a list of {name = ..., default = ..., ...}"):format(who)
  end
  return out
end

--- @param who string  for messages: "policy 'fair'"
-- @return table  every parameter by name (a policy as policies.resolve returns it), or nil
--   and a message
function M.check(who, declared, given)
  if given == nil then given = {} end
  if type(given) ~= "table" then return nil, who .. ": parameters must be a table, got a " .. type(given) end
  local out = {}
  for _, p in ipairs(declared) do out[p.name] = p.default end
  for _, name in ipairs(sorted(given)) do
    local p = find(declared, name)
    if not p then
      local nearest = #declared > 0 and ("; did you mean '%s'?"):format(errors.nearest(errors.text(name),
        names_of(declared))) or "; it has none"
      return nil, ("%s: unknown parameter '%s'%s"):format(who, errors.text(name), nearest)
    end
    local fitting, why = fits(p, given[name])
    if not fitting then
      why = why and ": " .. why or (" must be %s, got %s"):format(M.expected(p), errors.show(given[name]))
      return nil, ("%s: parameter '%s'%s"):format(who, name, why)
    end
    out[name] = p.kind == "policy" and fitting or given[name] -- a file is read once
  end
  for _, p in ipairs(declared) do
    if p.required and out[p.name] == nil then
      return nil, ("%s: parameter '%s' is missing: it must be %s"):format(who, p.name, M.expected(p))
    end
  end
  return out
end

--- The same, raising at the caller's line.
function M.read(who, declared, given)
  local out, message = M.check(who, declared, given)
  if not out then errors.misuse(message) end
  return out
end

return M
