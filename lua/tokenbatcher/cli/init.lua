--- cli: the command line, tokenbatcher run | check | policies | simulate | tune | fit | devices | work | send | queue |
-- dead | help; a file for each.
-- It may know all of ours and argparse, and nobody knows it but src/host, which starts it: a rock
-- does without. Only here are standard streams read and written.
--
-- Exit 0 all good, 1 some records failed, 2 usage or script error.

local has_argparse, argparse = pcall(require, "argparse")
if not has_argparse then
  error("tokenbatcher: the command line needs lua-argparse, which is not installed (Debian: lua-argparse)", 0)
end
local help = require "tokenbatcher.cli.help"
local listen_flags = require "tokenbatcher.cli.listen_flags"
local otel_flags = require "tokenbatcher.cli.otel_flags"
local options = require "tokenbatcher.core.options"
local redis_flags = require "tokenbatcher.cli.redis_flags"
local run_flags = require "tokenbatcher.cli.run_flags"
local script = require "tokenbatcher.script.load"
local tb = require "tokenbatcher"

local M = {}

local EXIT_USAGE = 2
local LOADS_SCRIPT = { run = true, check = true, simulate = true, tune = true, work = true }
local HAS_HELP = { policies = true, fit = true, devices = true, send = true, queue = true, dead = true }
local SIMULATIONS = { "simulate", "tune" } -- their script is optional
-- All other flags take a value.
local IS_FLAG = { ["--unordered"] = true, ["--resume"] = true, ["--overwrite"] = true, ["--padded"] = true,
  ["--strict"] = true, ["--bound"] = true, ["--listen-remote"] = true, ["--help"] = true, ["-h"] = true }
local WIDTH, MARGIN = 104, 34

local RUN_HELP = [[
Runs SCRIPT's inference function over JSON lines. SCRIPT returns the options of a batcher
(a Lua table), plus optional decode(line), encode(record, result, err) and submit_options(record).
One line is written for each line read: {"index":1,"result":...} or
{"index":1,"error":{"code":...,"message":...}}; index is the line number, and a record's
custom_id follows it. Blank lines are skipped; a bad line becomes an error line. What SCRIPT
prints goes to standard error.

With --output F, nothing that was paid for is lost: answers that wait for an earlier one are
in F.journal, and the same command with --resume goes on where it ended, however it ended.]]

local CHECK_HELP = [[
Loads SCRIPT as run would, tries its decode, its token estimator and its policy on one record, and
says what is missing. With --input, on all of a file: how many lines, which are bad, how many
tokens and batches. The inference function is not called. Exit status: 0, 1 with bad lines, or 2.]]

local POLICIES_HELP = [[
Lists the policies that ship, with their parameters and defaults; for one of them, what each
parameter means. A policy chooses who goes into the next batch: --set policy=NAME, or
policy=NAME:parameter=value,... or a file of your own, policy=./mine.lua; in a script, it is
the option 'policy'.]]

local SIGNALS_HELP = [[
SIGINT or SIGTERM: finish what was read, then exit; a second one stops at once, and what is
answered is kept (exit status 1); a third one aborts (128 + signal). SIGHUP: reload SCRIPT, and
its policy if that is a file. Exit status: 0 all answered, 1 some records failed, are not
answered, or a policy was disabled, 2 usage or script error.]]

local function fail(text)
  io.stderr:write("tokenbatcher: ", text, "\n")
  return EXIT_USAGE
end

-- --- finding the script, whose options are flags, too -------------------------

local function takes_next_word(word)
  return not IS_FLAG[word] and not word:find("=", 1, true)
end

--- The first word after the command that is neither a flag nor a flag's value.
local function script_of(args)
  local i = 2
  while i <= #args do
    local word = args[i]
    if word == "--" then return args[i + 1] end
    if word == "-" or word:sub(1, 1) ~= "-" then return word end
    i = i + (takes_next_word(word) and 2 or 1)
  end
end

-- A negative number is a value, not a flag: "--seed -1" becomes "--seed=-1".
local function join_negative_numbers(args)
  local out = {}
  for i, word in ipairs(args) do
    local before = args[i - 1]
    if word:find "^%-%.?%d" and before and before:sub(1, 2) == "--" and takes_next_word(before) then
      out[#out] = before .. "=" .. word
    else
      out[#out + 1] = word
    end
  end
  return out
end

local function wants_help(args)
  for _, word in ipairs(args) do
    if word == "--help" or word == "-h" then return true end
  end
  return false
end

-- --- values -------------------------------------------------------------------

-- --set name=value, checked against the table of options.
local function parse_setting(text)
  local name, value = text:match "^([^=]+)=(.*)$"
  if not name then return nil, "--set needs option=value, got '" .. text .. "'" end
  local parsed, message = options.parse(name, value)
  if parsed == nil then return nil, message end
  return { name, parsed }
end

local function typed(definition, option)
  return function(text) return script.option_value(definition, option.name, text, option.flag) end
end

-- --- the parser -----------------------------------------------------------------

-- Write it and leave.
local function show(text)
  local ok, message = io.stdout:write(text, "\n")
  if ok then ok, message = io.stdout:flush() end
  os.exit(ok and 0 or fail("cannot write to standard output: " .. message))
end

local function add_help(command)
  command:add_help(false)
  command:flag("-h --help", "Show this help."):action(function() show(command:get_help()) end)
end

-- A flag of the script that the command has, too, is called --script-NAME there.
local function add_script_options(command, definition)
  local taken = {}
  for _, option in ipairs(command._options) do
    for _, alias in ipairs(option._aliases) do taken[alias] = true end
  end
  for _, option in ipairs(definition and definition.declared or {}) do
    local default = type(option.default) == "string" and '"' .. option.default .. '"' or tostring(option.default)
    local flag = taken[option.flag] and option.flag:gsub("^%-%-", "--script-") or option.flag
    command:option(flag, ("%s (the script's; default: %s)"):format(option.help, default))
      :argname("<" .. type(option.default) .. ">"):target("script_" .. option.name):convert(typed(definition, option))
  end
end

local function options_help()
  local lines = { "Options for --set (policies with parameters, as fair:quantum=500: see tokenbatcher policies):" }
  for _, entry in ipairs(options.list) do
    if entry.kind ~= "function" then
      local default = entry.default == nil and "none"
        or type(entry.default) == "number" and ("%.14g"):format(entry.default) or entry.default
      local names = entry.name .. (entry.token_name and ", " .. entry.token_name or "")
      local values = entry.kind == "choice" and " (" .. table.concat(entry.choices, " or ") .. ")" or ""
      lines[#lines + 1] = ("  %s = %s%s%s\n      %s"):format(names, default,
        entry.unit ~= "" and " " .. entry.unit or "", values, entry.text)
    end
  end
  return table.concat(lines, "\n")
end

local function add_set(command)
  command:option("--set", "Set an option of the batcher, in place of the script's; may be repeated.")
    :argname("<option=value>"):count("*"):convert(parse_setting)
end

local function add_common(command, definition)
  add_help(command)
  command:argument("script", "A Lua file; see examples/.")
  command:argument("extra"):args("*"):hidden(true)
  add_set(command)
  add_script_options(command, definition)
end

local function add_simulations(parser, definition)
  for _, name in ipairs(SIMULATIONS) do
    local module = require("tokenbatcher.cli." .. name)
    local command = parser:command(name, module.HELP):summary(module.SUMMARY):epilog(module.EPILOG)
    add_help(command)
    command:argument("script", "A Lua file as for run: its options and policy are taken."):args "?"
    command:argument("extra"):args("*"):hidden(true)
    add_set(command)
    module.declare(command)
    add_script_options(command, definition)
  end
  local fit = require "tokenbatcher.cli.fit"
  local command = parser:command("fit", fit.HELP):summary(fit.SUMMARY)
  add_help(command)
  fit.declare(command)
  local devices = require "tokenbatcher.cli.devices"
  add_help(parser:command("devices", devices.HELP):summary(devices.SUMMARY))
end

--- The parser of the command line. @param definition table|nil  a script's (script/load.lua), whose flags it takes, too
function M.parser(definition)
  local parser = argparse("tokenbatcher", "Batches records within a token budget and runs inference over them.")
  parser:command_target "command"
  parser:help_max_width(WIDTH):usage_max_width(WIDTH):help_description_margin(MARGIN)
  add_help(parser)
  parser:flag("-v --version", "Print the version."):action(function() show("tokenbatcher " .. tb._VERSION) end)
  local run = parser:command("run", RUN_HELP):summary("Run a script's inference function over JSON lines.")
    :epilog(SIGNALS_HELP .. "\n\n" .. options_help())
  add_common(run, definition)
  run_flags.declare(run)
  listen_flags.declare(run)
  otel_flags.declare(run)
  local check = parser:command("check", CHECK_HELP):summary("Load a script, try it on one record, say what is missing.")
  add_common(check, definition)
  run_flags.declare_records(check)
  local list = parser:command("policies", POLICIES_HELP):summary("List the policies that ship.")
  add_help(list)
  list:argument("name", "One of them."):args "?"
  check:option("--sample", "The line of input to try (default: a made-up one)."):argname "<line>"
  check:option("--input", "Go through a file (-: standard input), and tell of its lines, tokens and batches.")
    :argname "<file>"
  add_simulations(parser, definition)
  redis_flags.declare(parser, { help = add_help, common = add_common }, definition)
  for _, command in ipairs(parser._commands) do help.finish(command._aliases[1], command) end
  parser:epilog "tokenbatcher help COMMAND, or COMMAND --help: its flags, with examples."
  return parser
end

-- --- main -------------------------------------------------------------------------

local function collect(parsed, definition)
  parsed.given, parsed.overrides = {}, parsed.set
  if parsed.record then table.insert(parsed.set, { "record", parsed.record }) end
  for _, option in ipairs(definition and definition.declared or {}) do
    parsed.given[option.name] = parsed["script_" .. option.name]
  end
  return parsed
end

-- Standard output carries the answers: what a script prints must not end up among them.
local function print_to_stderr()
  io.output(io.stderr)
  rawset(_G, "print", function(...)
    local words = {}
    for i = 1, select("#", ...) do words[i] = tostring((select(i, ...))) end
    io.stderr:write(table.concat(words, "\t"), "\n")
  end)
end

local function load_script(args)
  local path = script_of(args)
  if not LOADS_SCRIPT[args[1]] or not path then return nil end
  local definition, message = script.load(path)
  return definition, message and "cannot load the script: " .. message .. help.no_script(args[1], path)
end

--- @param args string[]  the words after the program's name
-- @return number  exit status
function M.main(args)
  args = run_flags.join_words(join_negative_numbers(help.words(args)))
  print_to_stderr()
  local definition, problem = load_script(args)
  if problem then
    local status = fail(problem)
    if not wants_help(args) then return status end -- help without the script's options is still some
  end
  local parser = M.parser(definition)
  local ok, parsed = parser:pparse(args)
  if not ok then
    local is_command = LOADS_SCRIPT[args[1]] or HAS_HELP[args[1]]
    return fail(("%s%s\n(tokenbatcher %s--help shows the usage)"):format(parsed, help.meant(parser, args, parsed),
      is_command and args[1] .. " " or ""))
  end
  if parsed.extra and parsed.extra[1] then
    return fail(("one script is enough: '%s' follows '%s'"):format(parsed.extra[1], parsed.script))
  end
  local command = require("tokenbatcher.cli." .. parsed.command)
  parsed.words = args
  local status, message = command.run(definition, collect(parsed, definition))
  return status or fail(message)
end

return M
