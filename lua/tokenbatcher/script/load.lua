--- script: loads scripts (what `run`, `check` and C programs share)
-- and holds the Lua halves of what src/script runs them in: the engine of a C program and the
-- worker threads. It knows base, core, runtime, batching, what ships and backend; sim, the command line
-- and gateways know it. It reads no standard stream and prints nothing.
--
-- This file loads a script for `run`, `check` and engines. A script returns the options of a batcher, plus
-- optional decode(line), encode(record, result, err) and submit_options(record); or
-- {options = {name = {help, default}}, setup = function(opt) return that table end},
-- and then the command line knows --name, typed by its default.
--
-- A script's folder is where its `require`, its policies and its threads' scripts are looked for.

local errors = require "tokenbatcher.base.errors"
local options = require "tokenbatcher.core.options"
local script_folder = require "tokenbatcher.base.script_folder"
require "tokenbatcher.estimator" -- a script names
require "tokenbatcher.policy" -- what ships

local M = {}

local TYPES = { number = true, string = true, boolean = true }
local OURS = { "decode", "encode", "submit_options" } -- beside the options of the batcher
local IS_OURS = {}
for _, name in ipairs(OURS) do IS_OURS[name] = true end
-- Flags of the command line itself, which no script may take.
local TAKEN = {}
for name in ([[help input output record sample set unordered resume retry_failed overwrite id_field key_field
  group_field priority_field timeout_field batch_timeout_field max_failures requests_per_minute tokens_per_minute
  concurrency sync]]):gmatch "%S+" do TAKEN[name] = true end

local function read_file(path)
  local file, message = io.open(path, "rb")
  if not file then return nil, message end
  local text, problem = file:read "*a"
  file:close()
  if not text then return nil, path .. ": " .. (problem or "cannot be read") end
  if text:sub(1, 1) == "\27" then return nil, path .. ": is bytecode; a script must be text" end
  return text
end

-- --- modules of the script's folder ----------------------------------------

local not_of_scripts -- what was loaded before any script was

local function add_to_path(folder)
  local root = folder == "/" and "" or folder
  local templates = ("%s/?.lua;%s/?/init.lua;"):format(root, root)
  if package.path:sub(1, #templates) ~= templates then package.path = templates .. package.path end
  return templates
end

-- A script that is loaded again loads its modules again. @return table  what is forgotten, by name
local function forget_modules(templates)
  local forgotten = {}
  if not not_of_scripts then
    not_of_scripts = {}
    for name in pairs(package.loaded) do not_of_scripts[name] = true end
  end
  for name, module in pairs(package.loaded) do
    if not not_of_scripts[name] and not package.preload[name] and package.searchpath(name, templates) then
      forgotten[name] = module
    end
  end
  for name in pairs(forgotten) do package.loaded[name] = nil end
  return forgotten
end

-- Call a part of a script: names of files in it are of its folder.
local function call_in(folder, fn, ...)
  local outer = script_folder.set(folder)
  local ok, value = pcall(fn, ...)
  script_folder.set(outer)
  return ok, value
end

local function run_file(path)
  local text, message = read_file(path)
  if not text then return nil, message end
  local chunk
  chunk, message = load((text:gsub("^#[^\n]*", "")), "@" .. path, "t")
  if not chunk then return nil, message end
  local folder = script_folder.of(path)
  local forgotten = forget_modules(add_to_path(folder))
  local ok, value = call_in(folder, chunk)
  if ok then return value end
  for name, module in pairs(forgotten) do package.loaded[name] = module end
  return nil, type(value) == "string" and value or ("%s: raised %s"):format(path, errors.text(value))
end

-- --- the script's own options ---------------------------------------------

local function declared_option(path, name, spec)
  if type(name) ~= "string" or not name:find "^%a[%w_]*$" then
    return nil, ("%s: a script option's name must be a word, got %s"):format(path, errors.show(name))
  end
  local flag = "--" .. name:gsub("_", "-")
  if TAKEN[name] then
    return nil, ("%s: script option '%s' clashes with the command line's own %s; give it another name")
      :format(path, name, flag)
  end
  if type(spec) ~= "table" or type(spec[1]) ~= "string" or not TYPES[type(spec[2])] then
    return nil, ("%s: script option '%s' must be {help, default} with a default that is a number, a "
      .. "string or a boolean"):format(path, name)
  end
  return { name = name, flag = flag, help = spec[1], default = spec[2] }
end

local function declared_options(path, specs)
  local list = {}
  if specs == nil then return list end
  if type(specs) ~= "table" then return nil, path .. ": 'options' must be a table, got a " .. type(specs) end
  local names = {}
  for name in pairs(specs) do names[#names + 1] = name end
  table.sort(names, function(a, b) return tostring(a) < tostring(b) end)
  for _, name in ipairs(names) do
    local option, message = declared_option(path, name, specs[name])
    if not option then return nil, message end
    list[#list + 1] = option
  end
  return list
end

-- What stands beside 'setup' would be ignored: most likely it belongs into its table.
local function check_shape(path, value)
  if value.setup == nil then
    if value.options == nil then return true end
    return nil, path .. ": 'options' needs a 'setup' function that makes the table from them"
  end
  if not options.is_callable(value.setup) then
    return nil, path .. ": 'setup' must be a function, got a " .. type(value.setup)
  end
  for name in pairs(value) do
    if name ~= "setup" and name ~= "options" then
      return nil, ("%s: '%s' stands beside 'setup'; it belongs into the table that 'setup' returns")
        :format(path, errors.text(name))
    end
  end
  return true
end

-- A policy in place of a script, or nil. A script has an inference function, or sets options.
local function policy_instead(path, value)
  local is_policy = type(value) == "function" or type(value) == "table" and value.inference_fn == nil
    and value.process_fn == nil and (value.form ~= nil or value.new ~= nil and value.setup == nil)
  if not is_policy then return nil end
  return ("%s: %s, not a script: give it to one, as in tokenbatcher check SCRIPT --set policy=%s"):format(path,
    type(value) == "function" and "a function, as a policy may be" or "a policy", path)
end

--- @return table {path, declared = list of {name, flag, help, default}, value}, or nil, message
function M.load(path)
  local value, message = run_file(path)
  message = message or policy_instead(path, value)
  if message then return nil, message end
  if type(value) ~= "table" then
    return nil, ("%s: a script must return a table of options, got %s"):format(path,
      value == nil and "nil" or "a " .. type(value))
  end
  local ok
  ok, message = check_shape(path, value)
  if not ok then return nil, message end
  local declared
  declared, message = declared_options(path, value.options)
  if not declared then return nil, message end
  return { path = path, declared = declared, value = value }
end

--- A text as a value of the script's own option, by the type of its default.
-- @param name string  @param text string  @param shown string|nil  how the user named it
-- @return value, or nil and a message
function M.option_value(definition, name, text, shown)
  local names = {}
  for _, option in ipairs(definition.declared) do
    names[#names + 1] = option.name
    if option.name == name then
      local kind, value = type(option.default), text
      if kind == "number" then value = tonumber(text) end
      if kind == "boolean" and (text == "true" or text == "false") then value = text == "true" end
      if type(value) == kind and value == value then return value end
      return nil, ("%s needs %s, got '%s'"):format(shown or "option '" .. name .. "'",
        kind == "number" and "a number" or "true or false", text)
    end
  end
  if #names == 0 then
    return nil, ("%s: the script declares no options, but '%s' is given"):format(definition.path, name)
  end
  return nil, ("%s: unknown option '%s'; did you mean '%s'?"):format(definition.path, name, errors.nearest(name, names))
end

-- The script's own options: what was given, defaults for the rest. A script that was
-- reloaded may declare others than when the command line was read.
local function option_values(definition, given)
  local values, is_declared = {}, {}
  for _, option in ipairs(definition.declared) do
    local value = given[option.name]
    if value == nil then value = option.default end
    if type(value) ~= type(option.default) then
      return nil, ("%s: %s is a %s now, but was given as a %s"):format(definition.path, option.flag,
        type(option.default), type(value))
    end
    values[option.name], is_declared[option.name] = value, true
  end
  for name in pairs(given) do
    if not is_declared[name] then
      return nil, ("%s: the option '%s', which was given, is no longer there"):format(definition.path, name)
    end
  end
  return values
end

-- --- the batcher's options ------------------------------------------------

local function call_setup(definition, given)
  local values, message = option_values(definition, given)
  if not values then return nil, message end
  if not definition.value.setup then return definition.value end
  local ok, made = call_in(script_folder.of(definition.path), definition.value.setup, values)
  if not ok then return nil, ("%s: 'setup' raised: %s"):format(definition.path, errors.message_of(made)) end
  if type(made) ~= "table" then
    return nil, ("%s: 'setup' must return a table of options, got %s"):format(definition.path,
      made == nil and "nil" or "a " .. type(made))
  end
  return made
end

local function check_functions(path, made)
  for _, name in ipairs(OURS) do
    local fn = made[name]
    if fn ~= nil and not options.is_callable(fn) then
      return nil, ("%s: '%s' must be a function, got a %s"):format(path, name, type(fn))
    end
  end
  return true
end

-- Names that are nobody's, with the nearest of all names that a script may use.
local function check_names(path, made)
  local unknown = {}
  for name in pairs(made) do
    if not options.by_name[name] and not IS_OURS[name] then
      unknown[#unknown + 1] = errors.text(name)
    end
  end
  if #unknown == 0 then return true end
  table.sort(unknown)
  local known = { unpack(OURS) }
  for name in pairs(options.by_name) do known[#known + 1] = name end
  table.sort(known)
  return nil, ("%s: unknown option '%s'; did you mean '%s'?"):format(path, unknown[1],
    errors.nearest(unknown[1], known))
end

--- The batcher's options, and decode, encode and submit_options.
-- @param given table  name -> value of the script's own options that were given
-- @param overrides table  a list of {option, value} set on the command line; the last wins
-- @return table {options, decode, encode, submit_options}, or nil and a message
function M.build(definition, given, overrides)
  local made, message = call_setup(definition, given)
  if not made then return nil, message end
  local ok
  ok, message = check_functions(definition.path, made)
  if ok then ok, message = check_names(definition.path, made) end
  if not ok then return nil, message end
  local out = { options = {} }
  for name, value in pairs(made) do
    if IS_OURS[name] then out[name] = value else out.options[name] = value end
  end
  local policy = out.options.policy
  if type(policy) == "string" and policy:find "[/.]" then -- a file: see policies.resolve
    out.options.policy = script_folder.resolve(policy, script_folder.of(definition.path))
  end
  for _, pair in ipairs(overrides) do
    -- the name that was set wins over the pair's other name in the script
    local entry = options.by_name[pair[1]]
    out.options[entry.name] = nil
    if entry.token_name then out.options[entry.token_name] = nil end
    out.options[pair[1]] = pair[2]
  end
  return out
end

return M
