--- Loads a script for `run` and `check`. A script returns the options of a batcher, plus
-- optional decode(line) and encode(record, result, err); or
-- {options = {name = {help, default}}, setup = function(opt) return that table end},
-- and then the command line knows --name, typed by its default.

local errors = require "tokenbatcher.errors"
local options = require "tokenbatcher.options"

local M = {}

local function run_file(path)
  local file, message = io.open(path, "rb")
  if not file then return nil, message end
  local text = file:read "*a"
  file:close()
  if not text then return nil, path .. ": cannot be read (a directory?)" end
  local chunk
  chunk, message = loadstring(text:gsub("^#[^\n]*", ""), "@" .. path)
  if not chunk then return nil, message end
  if text:sub(1, 1) == "\27" then return nil, path .. ": is bytecode; scripts are text" end
  local traceback
  local ok, value = xpcall(chunk, function(err)
    traceback = debug.traceback(errors.text(err), 2)
    return err
  end)
  if ok then return value end
  return nil, type(value) == "string" and value or traceback
end

local TYPES = { number = true, string = true, boolean = true }

local function declared_option(path, name, spec)
  if type(name) ~= "string" or not name:find "^[%a][%w_]*$" then
    return nil, ("%s: a script option's name must be a word, got %s"):format(path, errors.show(name))
  end
  if type(spec) ~= "table" or type(spec[1]) ~= "string" or not TYPES[type(spec[2])] then
    return nil, ("%s: script option '%s' must be {help, default} with a default that is a number, a "
      .. "string or a boolean"):format(path, name)
  end
  return { name = name, flag = "--" .. name:gsub("_", "-"), help = spec[1], default = spec[2] }
end

local function declared_options(path, specs)
  local list = {}
  if specs == nil then return list end
  if type(specs) ~= "table" then return nil, path .. ": 'options' must be a table, got a " .. type(specs) end
  for name, spec in pairs(specs) do
    local option, message = declared_option(path, name, spec)
    if not option then return nil, message end
    list[#list + 1] = option
  end
  table.sort(list, function(a, b) return a.name < b.name end)
  return list
end

--- @return table {path, declared = list of {name, flag, help, default}, value}, or nil, message
function M.load(path)
  local value, message = run_file(path)
  if message then return nil, message end
  if type(value) ~= "table" then
    return nil, ("%s: a script must return a table of options, got %s"):format(path,
      value == nil and "nil" or "a " .. type(value))
  end
  if value.setup ~= nil and not options.is_callable(value.setup) then
    return nil, path .. ": 'setup' must be a function, got a " .. type(value.setup)
  end
  if value.options ~= nil and value.setup == nil then
    return nil, path .. ": 'options' needs a 'setup' function that makes the table from them"
  end
  local declared
  declared, message = declared_options(path, value.options)
  if not declared then return nil, message end
  return { path = path, declared = declared, value = value }
end

local function optional_function(path, given, name)
  local fn = given[name]
  if fn == nil or options.is_callable(fn) then return true end
  return nil, ("%s: '%s' must be a function, got a %s"):format(path, name, type(fn))
end

local function call_setup(definition, values)
  if not definition.value.setup then return definition.value end
  local ok, made = pcall(definition.value.setup, values)
  if not ok then return nil, errors.text(made) end
  if type(made) ~= "table" then
    return nil, definition.path .. ": 'setup' must return a table of options, got a " .. type(made)
  end
  return made
end

--- The batcher's options, and decode and encode.
-- @param values table  name -> value of the script's own options
-- @param overrides table  options set on the command line
-- @return table {options, decode, encode}, or nil and a message
function M.build(definition, values, overrides)
  local made, message = call_setup(definition, values)
  if not made then return nil, message end
  local out = { options = {}, decode = made.decode, encode = made.encode }
  for _, name in ipairs { "decode", "encode" } do
    local ok
    ok, message = optional_function(definition.path, made, name)
    if not ok then return nil, message end
  end
  for name, value in pairs(made) do
    if name ~= "decode" and name ~= "encode" then out.options[name] = value end
  end
  for name, value in pairs(overrides) do
    -- the name that was set wins over the pair's other name in the script
    local entry = options.by_name[name]
    out.options[entry.name] = nil
    if entry.token_name then out.options[entry.token_name] = nil end
    out.options[name] = value
  end
  return out
end

return M
