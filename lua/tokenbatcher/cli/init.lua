--- The command line: tokenbatcher run | check. Exit 0 all good, 1 some records failed,
-- 2 usage or script error.

local argparse = require "argparse"
local options = require "tokenbatcher.options"
local script = require "tokenbatcher.cli.script"
local tb = require "tokenbatcher"

local M = {}

local EXIT_USAGE = 2
local TAKES_VALUE = { ["--input"] = true, ["-i"] = true, ["--output"] = true, ["-o"] = true,
  ["--set"] = true, ["-s"] = true, ["--sample"] = true }

local RUN_HELP = [[
Runs SCRIPT's inference function over JSON lines. SCRIPT returns the options of a batcher
(a Lua table), plus optional decode(line) and encode(record, result, err). One line is written
for each line read: {"index":1,"result":...} or {"index":1,"error":{"code":...,"message":...}};
index is the line number. Blank lines are skipped; a bad line becomes an error line.]]

local SIGNALS_HELP = [[
SIGINT or SIGTERM: finish what was read, then exit; a second one aborts (128 + signal).
SIGHUP: reload SCRIPT. Exit status: 0 all answered, 1 some records failed, 2 usage or script error.]]

local function fail(text)
  io.stderr:write("tokenbatcher: ", text, "\n")
  return EXIT_USAGE
end

--- The first word that is neither an option nor an option's value.
local function script_of(args)
  local i = 2
  while i <= #args do
    local word = args[i]
    if TAKES_VALUE[word] then i = i + 1 elseif word:sub(1, 1) ~= "-" then return word end
    i = i + 1
  end
end

-- --set name=value, checked against the table of options.
local function parse_setting(text)
  local name, value = text:match "^([^=]+)=(.*)$"
  if not name then return nil, "--set needs option=value, got '" .. text .. "'" end
  local parsed, message = options.parse(name, value)
  if parsed == nil then return nil, message end
  return { name, parsed }
end

local function typed(option)
  return function(text)
    if type(option.default) == "number" then
      local value = tonumber(text)
      if not value then return nil, ("%s needs a number, got '%s'"):format(option.flag, text) end
      return value
    elseif type(option.default) == "boolean" then
      if text == "true" or text == "false" then return text == "true" end
      return nil, ("%s needs true or false, got '%s'"):format(option.flag, text)
    end
    return text
  end
end

local function add_script_options(command, definition)
  for _, option in ipairs(definition and definition.declared or {}) do
    command:option(option.flag, ("%s (default: %s)"):format(option.help, tostring(option.default)))
      :argname("<" .. type(option.default) .. ">"):target("script_" .. option.name):convert(typed(option))
  end
end

local function options_help()
  local lines = { "Options for --set:" }
  for _, entry in ipairs(options.list) do
    if entry.kind ~= "function" then
      local default = entry.default == nil and "none"
        or type(entry.default) == "number" and ("%.14g"):format(entry.default) or entry.default
      local names = entry.name .. (entry.token_name and ", " .. entry.token_name or "")
      lines[#lines + 1] = ("  %s = %s%s\n      %s"):format(names, default,
        entry.unit ~= "" and " " .. entry.unit or "", entry.text)
    end
  end
  return table.concat(lines, "\n")
end

local function add_common(command, definition)
  command:argument("script", "A Lua file; see examples/.")
  command:option("-s --set", "Set an option of the batcher, in place of the script's.")
    :argname("<option=value>"):count("*"):convert(parse_setting)
  add_script_options(command, definition)
end

local function new_parser(definition)
  local parser = argparse("tokenbatcher", "Batches records within a token budget and runs inference over them.")
  parser:command_target "command"
  parser:flag("-v --version", "Print the version."):action(function()
    print("tokenbatcher " .. tb._VERSION)
    os.exit(0)
  end)
  local run = parser:command("run", RUN_HELP):epilog(SIGNALS_HELP .. "\n\n" .. options_help())
  add_common(run, definition)
  run:option("-i --input", "Read from a file (default: standard input)."):argname "<file>"
  run:option("-o --output", "Write to a file (default: standard output)."):argname "<file>"
  run:flag("-u --unordered", "Write answers as they come, not in input order.")
  local check = parser:command("check", "Load SCRIPT, try its estimator and policy on one record, say what is missing.")
  add_common(check, definition)
  check:option("--sample", "The line of input to try (default: a made-up one)."):argname "<line>"
  return parser
end

local function collect(parsed, definition)
  parsed.values, parsed.overrides = {}, {}
  for _, option in ipairs(definition.declared) do
    local given = parsed["script_" .. option.name]
    if given == nil then given = option.default end
    parsed.values[option.name] = given
  end
  for _, pair in ipairs(parsed.set) do parsed.overrides[pair[1]] = pair[2] end
  return parsed
end

local function wants_help(args)
  for _, word in ipairs(args) do
    if word == "--help" or word == "-h" then return true end
  end
  return false
end

--- @param args string[]  the words after the program's name
-- @return number  exit status
function M.main(args)
  local command, path = args[1], script_of(args)
  local definition, problem
  if (command == "run" or command == "check") and path then
    definition, problem = script.load(path)
    if not definition and not wants_help(args) then return fail("cannot load the script: " .. problem) end
  end
  local ok, parsed = new_parser(definition):pparse(args)
  if not ok then return fail(parsed .. "\n(tokenbatcher --help shows the usage)") end
  collect(parsed, definition)
  local status, message = require("tokenbatcher.cli." .. parsed.command).run(definition, parsed)
  if not status then return fail(message) end
  return status
end

return M
