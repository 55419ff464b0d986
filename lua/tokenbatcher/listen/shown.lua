--- A batcher's options, its policy and its keys as they may be shown.

local errors = require "tokenbatcher.base.errors"
local options = require "tokenbatcher.core.options"
local pseudonym = require "tokenbatcher.base.pseudonym"
local utf8 = require "tokenbatcher.base.utf8"

local M = {}

local MOST_BYTES, MOST_OF_NAME = 160, 64 -- of a text, of a key's name
local MOST_PARAMETERS = 12

--- A text of one line and bounded length that JSON takes.
function M.text(text, most)
  most = most or MOST_BYTES
  text = utf8.clean(errors.text(text):sub(1, 2 * most)):gsub("%c", " ")
  if #text <= most then return text end
  return text:sub(1, most - 3):gsub("[\192-\255]?[\128-\191]*$", "") .. "..."
end

local function value_text(value)
  if type(value) == "number" then return ("%.14g"):format(value) end
  if type(value) == "string" or type(value) == "boolean" then return M.text(tostring(value)) end
  return "(a " .. type(value) .. ")"
end

local function parameters_text(parameters)
  local names, out = {}, {}
  for name in pairs(parameters or {}) do names[#names + 1] = errors.text(name) end
  table.sort(names)
  for i = 1, math.min(#names, MOST_PARAMETERS) do
    out[i] = M.text(names[i]) .. "=" .. value_text(parameters[names[i]])
  end
  return table.concat(out, ",")
end

--- The name of a policy; of a file its own alone, for where it lies is nobody's business.
function M.policy(name)
  name = errors.text(name)
  return M.text(name:match "[^/]+$" or name)
end

--- The name of a batcher's policy, without its parameters.
function M.policy_name(batcher)
  return M.policy(batcher:option("resolved_policy").name)
end

-- The policy as it would be written: name, or name:parameter=value,...
local function policy_text(batcher)
  local resolved = batcher:option "resolved_policy"
  local of = resolved.of or resolved
  local parameters = parameters_text(of.parameters or of.given)
  return M.policy_name(batcher) .. (parameters ~= "" and ":" .. parameters or "")
end

local function slo_text(value)
  return type(value) == "table" and "by key or priority" or value_text(value)
end

local TEXTS = {
  ["function"] = function(_, value)
    local name = type(value) == "table" and rawget(value, "name")
    return type(name) == "string" and M.text(name) or "(a " .. type(value) .. ")"
  end,
  policy = policy_text,
  slo = function(_, value) return slo_text(value) end,
}

--- What is in force, in the order of the table of options: list of {name, text, unit or nil}.
function M.options(batcher)
  local out = {}
  for _, entry in ipairs(options.list) do
    local value = batcher:option(entry.name)
    if value ~= nil or entry.kind == "policy" then
      local text = (TEXTS[entry.kind] or function(_, it) return value_text(it) end)(batcher, value)
      out[#out + 1] = { entry.name, text, entry.unit }
    end
  end
  return out
end

--- What is different: list of texts, "max_batch_size: 64 to 32". @param given table  what was set: a function that is
-- another one looks the same
function M.changes(former, now, given)
  local before, out, seen = {}, {}, {}
  for _, it in ipairs(former) do before[it[1]] = it[2] end
  for _, it in ipairs(now) do
    seen[it[1]] = true
    if before[it[1]] ~= it[2] then
      out[#out + 1] = ("%s: %s to %s"):format(it[1], before[it[1]] or "none", it[2])
    elseif given[it[1]] ~= nil and options.by_name[it[1]].kind == "function" then
      out[#out + 1] = it[1] .. ": another one"
    end
  end
  for _, it in ipairs(former) do
    if not seen[it[1]] then out[#out + 1] = ("%s: %s to none"):format(it[1], it[2]) end
  end
  return out
end

--- A key or a group as it may be shown.
function M.name(batcher, secret, name)
  if batcher:option "record_keys" then return M.text(name, MOST_OF_NAME) end
  return pseudonym.hash(secret, name)
end

return M
