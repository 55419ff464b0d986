--- Options of a batcher, read from the core's one table of them: names, defaults,
-- bounds, units, sentences. Validation, --help and the guide's table come from it.

local errors = require "tokenbatcher.base.errors"
local kinds = require "tokenbatcher.base.kinds"
local numbers = require "tokenbatcher.base.number_text"
local tbffi = require "tokenbatcher.core.ffi"
local C = tbffi.lib

local M = {}

local KINDS = {
  [tonumber(C.TB_KIND_COUNT)] = "count",
  [tonumber(C.TB_KIND_COST)] = "cost",
  [tonumber(C.TB_KIND_SECONDS)] = "seconds",
  [tonumber(C.TB_KIND_NUMBER)] = "number",
  [tonumber(C.TB_KIND_CHOICE)] = "choice",
  [tonumber(C.TB_KIND_POLICY)] = "policy",
  [tonumber(C.TB_KIND_FUNCTION)] = "function",
  [tonumber(C.TB_KIND_STRING)] = "string",
  [tonumber(C.TB_KIND_BOOLEAN)] = "boolean",
  [tonumber(C.TB_KIND_SLO)] = "slo",
}

local function split(text)
  local out = {}
  for word in (text or ""):gmatch "[^|]+" do out[#out + 1] = word end
  return out
end

--- Every option in the order of the table: {index, name, token_name, kind, choices,
-- unit, text, default, min, max}; default is nil for "none".
M.list = {}
--- name or token_name -> entry of `list`.
M.by_name = {}
for i = 0, C.tb_option_count() - 1 do
  local o = C.tb_option_at(i)
  local entry = {
    index = i,
    name = tbffi.text(o.name),
    token_name = tbffi.text(o.token_name),
    kind = KINDS[tonumber(o.kind)],
    choices = split(tbffi.text(o.choices)),
    unit = tbffi.text(o.unit),
    text = tbffi.text(o.text),
    min = o.min,
    max = o.max,
  }
  if o.has_default ~= 0 then
    entry.default = o.fallback
    if #entry.choices > 0 then entry.default = entry.choices[o.fallback + 1] end
  end
  M.list[#M.list + 1] = entry
  M.by_name[entry.name] = entry
  if entry.token_name then M.by_name[entry.token_name] = entry end
end

--- The largest cost there is.
M.MAX_COST = M.by_name.default_cost.max

--- Names that a class knows, in table order. DynamicBatcher has no token names.
local function known_names(class)
  local names = {}
  for _, entry in ipairs(M.list) do
    names[#names + 1] = entry.name
    if class == "TokenBatcher" then names[#names + 1] = entry.token_name end
  end
  return names
end

local function number_text(value) return numbers.rounded(value, 14) end

local function expectation(entry)
  local from, to = number_text(entry.min), number_text(entry.max)
  if entry.kind == "choice" then return '"' .. table.concat(entry.choices, '" or "') .. '"' end
  if entry.kind == "function" then return "a function" end
  if entry.kind == "policy" then return "a policy" end
  if entry.kind == "string" then return "a string" end
  if entry.kind == "boolean" then return "true or false" end
  local noun = entry.kind == "seconds" and "a number of seconds" or entry.kind == "number" and "a number"
    or "a whole number"
  return ("%s from %s to %s"):format(noun, from, to)
end

M.is_callable = errors.is_callable

local function policy_number(resolved)
  if not resolved.in_core then return tonumber(C.TB_POLICY_SCRIPT) end
  return tonumber(resolved.name == "eager" and C.TB_POLICY_EAGER or C.TB_POLICY_FIFO)
end

local function choice_index(entry, value)
  for i, word in ipairs(entry.choices) do
    if word == value then return i - 1 end
  end
end

-- The number that the core takes for a value of this option, or nil if it has none.
local function to_number(entry, value)
  if entry.kind == "choice" then return choice_index(entry, value) end
  return type(value) == "number" and value or nil
end

local function fits_kind(entry, value, scratch)
  if entry.kind == "function" then return M.is_callable(value) end
  if entry.kind == "string" or entry.kind == "boolean" then return type(value) == entry.kind end
  local number = to_number(entry, value)
  return number ~= nil and C.tb_config_set(scratch, entry.index, number) == 0
end

local function fail(class, text)
  return nil, class .. ": " .. text
end

local function bad_value(class, key, entry, value)
  local hint = ""
  if entry.kind == "choice" and type(value) == "string" then
    hint = "; did you mean " .. errors.show(errors.nearest(value, entry.choices)) .. "?"
  end
  return fail(class, ("option '%s' must be %s, got %s%s"):format(key, expectation(entry),
    type(value) == "number" and number_text(value) or type(value) == "string" and errors.show(value)
      or "a " .. type(value), hint))
end

--- For an option that has no default, `false` means none again.
local function is_unset(entry, value)
  return value == false and entry.default == nil and entry.name ~= "inference_fn"
    and entry.name ~= "process_fn"
end

local function resolve_policy(class, entry, value)
  local resolved, message = kinds.resolve("policy", value)
  if resolved then return entry, resolved end
  return fail(class, ("option '%s' must be a policy: %s"):format(entry.name, message))
end

local function resolve_slo(class, key, entry, value)
  local resolved, message = kinds.resolve("slo", value)
  if resolved then return entry, resolved end
  return fail(class, ("option '%s' %s"):format(key, message))
end

-- The entry, and for a policy or an slo what it was resolved to; or nil and a message.
local function check_one(class, key, value, scratch)
  local entry = type(key) == "string" and M.by_name[key] or nil
  if class == "DynamicBatcher" and entry and key == entry.token_name then entry = nil end
  if not entry then
    local nearest = errors.nearest(errors.text(key), known_names(class))
    return fail(class, ("unknown option '%s'; did you mean '%s'?"):format(errors.text(key), nearest))
  end
  if entry.kind == "policy" then return resolve_policy(class, entry, value) end
  if entry.kind == "slo" and not is_unset(entry, value) then return resolve_slo(class, key, entry, value) end
  if is_unset(entry, value) or fits_kind(entry, value, scratch) then return entry end
  return bad_value(class, key, entry, value)
end

--- Keys of `given` in a fixed order, so that of two errors the same is always named.
local function sorted_keys(given)
  local keys = {}
  for key in pairs(given) do keys[#keys + 1] = key end
  table.sort(keys, function(a, b) return errors.text(a) < errors.text(b) end)
  return keys
end

--- Validate options given by a user, and merge them into copies of the present ones.
-- @param class string  "TokenBatcher" or "DynamicBatcher"
-- @param given table  what the user wrote
-- @param config cdata  tb_config, changed in place (pass a copy)
-- @param values table  name -> value of everything that is set, changed in place (a copy);
--   resolved_policy is what its policy was resolved to, once (see policies.resolve), resolved_slo its slo (slo.lua)
-- @return true, or nil and a message that names the option
function M.merge(class, given, config, values)
  if type(given) ~= "table" then return fail(class, "options must be a table, got a " .. type(given)) end
  local scratch = tbffi.new "tb_config"
  for _, key in ipairs(sorted_keys(given)) do
    local entry, second = check_one(class, key, given[key], scratch)
    if not entry then return nil, second end
    local shadowed = key == entry.name and entry.token_name and class == "TokenBatcher"
      and given[entry.token_name] ~= nil
    if not shadowed then
      local value = given[key]
      if is_unset(entry, value) then
        C.tb_config_unset(config, entry.index)
        values[entry.name] = nil
        if entry.kind == "slo" then values.resolved_slo = nil end
      else
        if entry.kind == "slo" then values.resolved_slo = second end
        if entry.kind == "policy" then values.resolved_policy = second end
        local number = entry.kind == "policy" and policy_number(second) or to_number(entry, value)
        if number and entry.kind ~= "slo" then C.tb_config_set(config, entry.index, number) end
        values[entry.name] = value
      end
    end
  end
  if C.tb_config_check(config) == C.TB_EMINMAX then
    return fail(class, ("option 'min_batch_size' (%d) is above 'max_batch_size' (%d)")
      :format(config.min_batch_size, config.max_batch_size))
  end
  return true
end

--- All defaults: a tb_config and the table of values.
function M.defaults()
  local config, values = tbffi.new "tb_config", {}
  C.tb_config_init(config)
  for _, entry in ipairs(M.list) do values[entry.name] = entry.default end
  values.resolved_policy = kinds.resolve("policy", values.policy)
  return config, values
end

-- Is an option given, by this name or the pair's other?
local function is_given(given, name)
  local entry = M.by_name[name]
  if not entry then return given[name] ~= nil end
  return given[entry.name] ~= nil or entry.token_name ~= nil and given[entry.token_name] ~= nil
end

--- `given`, and where it sets nothing what its inference function asks for: one that is a callable table
-- may have `defaults`, options by name. @return table  the same where it has none
function M.with_defaults(given)
  local fn = type(given) == "table" and (given.inference_fn or given.process_fn)
  local defaults = type(fn) == "table" and fn.defaults
  if type(defaults) ~= "table" then return given end
  local out = {}
  for name, value in pairs(given) do out[name] = value end
  for name, value in pairs(defaults) do
    if not is_given(given, name) then out[name] = value end
  end
  return out
end

--- `given` with everything it does not name set back to its default: what a fresh
-- batcher with these options would have.
function M.complete(given)
  local out = {}
  for key, value in pairs(M.with_defaults(given)) do out[key] = value end
  for _, entry in ipairs(M.list) do
    local is_function_name = entry.name == "inference_fn" or entry.name == "process_fn"
    if out[entry.name] == nil and not (entry.token_name and out[entry.token_name] ~= nil)
      and not is_function_name then
      out[entry.name] = entry.default == nil and false or entry.default
    end
  end
  return out
end

--- A string from a command line as a value of the option. @return value, or nil and a message
-- @param who string|nil  begins the message; "--set"
function M.parse(name, text, who)
  who = who or "--set"
  local entry = M.by_name[name]
  if not entry then
    return fail(who, ("unknown option '%s'; did you mean '%s'?"):format(name,
      errors.nearest(name, known_names "TokenBatcher")))
  end
  if entry.kind == "function" then return fail(who, ("option '%s' is a function"):format(name)) end
  local value = text
  if entry.kind == "policy" then return kinds.parse("policy", text) end
  if entry.kind ~= "choice" and entry.kind ~= "string" then value = tonumber(text) or text end
  if entry.kind == "boolean" and (text == "true" or text == "false") then value = text == "true" end
  if text == "none" and entry.default == nil then value = false end
  local ok, message = check_one(who, name, value, tbffi.new "tb_config")
  if not ok then return nil, message end
  return value
end

local function cell(entry)
  if entry.default == nil then return "none" end
  return type(entry.default) == "number" and number_text(entry.default) or entry.default
end

local function range(entry)
  if entry.kind == "choice" then return table.concat(entry.choices, ", ") end
  if entry.kind == "function" or entry.kind == "string" then return entry.kind end
  if entry.kind == "boolean" then return "true, false" end
  if entry.kind == "policy" then return "name, file, table, function" end
  if entry.kind == "slo" then return "number, expression, function" end
  return number_text(entry.min) .. " .. " .. number_text(entry.max)
end

--- The guide's table of options, in Markdown.
function M.markdown()
  local lines = { "| option | default | values | unit | meaning |", "|---|---|---|---|---|" }
  for _, entry in ipairs(M.list) do
    local name = "`" .. entry.name .. "`"
    if entry.token_name then name = "`" .. entry.token_name .. "`, " .. name end
    lines[#lines + 1] = ("| %s | %s | %s | %s | %s |"):format(name, cell(entry), range(entry),
      entry.unit, entry.text)
  end
  return table.concat(lines, "\n") .. "\n"
end

return M
