--- tokenbatcher policies: what ships, one line each; or the parameters of one.

local errors = require "tokenbatcher.base.errors"
local parameters = require "tokenbatcher.base.parameters"
local policies = require "tokenbatcher.policy"

local M = {}

local WIDTH = 53 -- of the column with names and parameters

-- What stands for the default in lists; "" for nothing.
local function default_of(p)
  if p.shown then return p.shown end
  if p.default == nil then return "none" end
  return type(p.default) == "string" and '"' .. p.default .. '"' or ("%.14g"):format(p.default)
end

--- "fair{quantum = target/8}"; just the name for what takes no table, being in the core.
local function signature(name)
  if policies.is_in_core(name) then return name end
  local parts = {}
  for i, p in ipairs(policies.module(name).parameters) do
    local default = default_of(p)
    parts[i] = p.name .. (default ~= "" and " = " .. default or "")
  end
  return name .. "{" .. table.concat(parts, ", ") .. "}"
end

local function list()
  for _, name in ipairs(policies.names) do
    io.stdout:write(("%-" .. WIDTH .. "s  %s\n"):format(signature(name), policies.module(name).about))
  end
end

local function describe(name)
  local module, settings = policies.module(name), {}
  io.stdout:write(signature(name), "\n    ", module.about, "\n")
  for i, p in ipairs(module.parameters) do
    local default = default_of(p)
    io.stdout:write(("\n%s: %s (default: %s)\n    %s\n"):format(p.name, parameters.expected(p),
      default ~= "" and default or "none", p.text))
    settings[i] = p.name .. "=..."
  end
  local given = settings[1] and ":" .. table.concat(settings, ",") or ""
  io.stdout:write("\ntokenbatcher run SCRIPT --set policy=", name, given, "\n")
end

--- @param args table  name: a policy, or nil for the list
-- @return number exit status, or nil and a message
function M.run(_, args)
  local name = args.name
  if not name then
    list()
    return 0
  end
  for _, known in ipairs(policies.names) do
    if known == name then
      describe(name)
      return 0
    end
  end
  local near = errors.near(name, policies.names)
  if near then return nil, ("no policy '%s' ships; did you mean '%s'?"):format(name, near) end
  if name:find "[/.]" then
    return nil, ("no policy '%s' ships; one of your own is tried by tokenbatcher check SCRIPT --set policy=%s"):format(
      name, name)
  end
  return nil, ("no policy '%s' ships; there are %s"):format(name, table.concat(policies.names, ", "))
end

return M
