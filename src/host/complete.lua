-- Build step: writes what bash or zsh needs to complete the command line: commands, their flags, and the values of
-- those that have names (options of the batcher, policies, devices). All is read from the program's own parser.
-- usage: luajit complete.lua bash|zsh   (in the checkout's folder, after make)

local cli = require "tokenbatcher.cli"
local options = require "tokenbatcher.core.options"
local policies = require "tokenbatcher.policy"
local presets = require "tokenbatcher.sim.device.presets"

local PROGRAM = "tokenbatcher"

local function policy_names()
  local words = {}
  for i, name in ipairs(policies.names) do words[i] = name end
  return words
end

local function device_names()
  local words = {}
  for i, name in ipairs(presets.names()) do words[i] = "preset:" .. name end
  return words
end

local function setting_names()
  local words = {}
  for _, entry in ipairs(options.list) do
    if entry.kind ~= "function" then
      words[#words + 1] = entry.name .. "="
      if entry.token_name then words[#words + 1] = entry.token_name .. "=" end
    end
  end
  return words
end

-- name -> what may follow its "=".
local function setting_values()
  local values = {}
  for _, entry in ipairs(options.list) do
    if entry.kind == "policy" then
      values[entry.name] = policy_names()
    elseif entry.kind == "boolean" then
      values[entry.name] = { "true", "false" }
    elseif entry.choices[1] then
      values[entry.name] = entry.choices
    end
  end
  return values
end

local NAMED = { ["--policy"] = policy_names, ["--device"] = device_names, ["--set"] = setting_names,
  ["--sweep"] = setting_names, ["--vary"] = setting_names }

-- What follows a flag: "file", a list of words, or "" where nobody can say.
local function value_of(option)
  local names = NAMED[option._aliases[#option._aliases]]
  if names then return names() end
  local shown = option._argname
  shown = type(shown) == "table" and shown[1] or shown or ""
  return (shown:find "file" or shown:find "script") and "file" or ""
end

-- --- bash -----------------------------------------------------------------------------------------------------------

local out = {}
local function put(text, ...) out[#out + 1] = select("#", ...) > 0 and text:format(...) or text end

local function takes_value(option) return option._maxargs ~= 0 end

local function put_bash_command(command)
  local flags, by_value = {}, {}
  for _, option in ipairs(command._options) do
    for _, alias in ipairs(option._aliases) do flags[#flags + 1] = alias end
    if takes_value(option) then
      local value = value_of(option)
      local key = type(value) == "table" and table.concat(value, " ") or value
      by_value[key] = by_value[key] or {}
      table.insert(by_value[key], option._aliases[#option._aliases])
    end
  end
  put("    %s)", command._aliases[1])
  put("      flags='%s'", table.concat(flags, " "))
  put "      case $prev in"
  local keys = {}
  for key in pairs(by_value) do keys[#keys + 1] = key end
  table.sort(keys)
  for _, key in ipairs(keys) do
    local kind = key == "file" and "kind=file" or key == "" and "kind=none" or ("kind=words words='%s'"):format(key)
    put("        %s) %s ;;", table.concat(by_value[key], "|"), kind)
  end
  put "      esac ;;"
end

local function bash(parser)
  put("# bash completion for %s. Generated: see src/host/complete.lua.", PROGRAM)
  put("_%s() {", PROGRAM)
  put "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]}"
  put "  local flags='' kind='' words='' name=''"
  put "  COMPREPLY=()"
  put "  # NAME=VALUE comes as three words."
  put "  if [[ $cur == = ]]; then name=$prev cur=''; elif [[ $prev == = ]]; then name=${COMP_WORDS[COMP_CWORD-2]}; fi"
  put "  case $name in"
  local values, names = setting_values(), {}
  for setting in pairs(values) do names[#names + 1] = setting end
  table.sort(names)
  for _, setting in ipairs(names) do
    put("    %s) COMPREPLY=($(compgen -W '%s' -- \"$cur\")); return ;;", setting, table.concat(values[setting], " "))
  end
  put "  esac"
  put "  if [[ $name == --* ]]; then prev=$name; elif [[ -n $name ]]; then return; fi"
  local commands = {}
  for i, command in ipairs(parser._commands) do commands[i] = command._aliases[1] end
  put "  if ((COMP_CWORD == 1)); then"
  put("    COMPREPLY=($(compgen -W '%s help --help --version' -- \"$cur\"))", table.concat(commands, " "))
  put "    return"
  put "  fi"
  put "  case $command in"
  put("    help) COMPREPLY=($(compgen -W '%s' -- \"$cur\")); return ;;", table.concat(commands, " "))
  for _, command in ipairs(parser._commands) do put_bash_command(command) end
  put "    *) return ;;"
  put "  esac"
  put "  case $kind in"
  put "    file) COMPREPLY=($(compgen -f -- \"$cur\")) ;;"
  put "    words)"
  put "      COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))"
  put "      [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null ;;"
  put "    none) ;;"
  put("    *) if [[ $cur == -* ]]; then COMPREPLY=($(compgen -W \"$flags\" -- \"$cur\"))")
  put("       elif [[ $command == policies ]]; then COMPREPLY=($(compgen -W '%s' -- \"$cur\"))",
    table.concat(policy_names(), " "))
  put "       else COMPREPLY=($(compgen -f -- \"$cur\")); fi ;;"
  put "  esac"
  put "  return 0"
  put "}"
  put("complete -o filenames -F _%s %s", PROGRAM, PROGRAM)
end

-- --- zsh ------------------------------------------------------------------------------------------------------------

-- argparse writes zsh's; it takes every value for a file.
local function zsh(parser)
  local of = {}
  for _, command in ipairs(parser._commands) do
    for _, option in ipairs(command._options) do of[option._aliases[#option._aliases]] = value_of(option) end
  end
  put("%s", (parser:get_zsh_complete():gsub('([^\n]*"%*?%-%-[^\n]*): :_files"', function(head)
    local value = of[head:match '(%-%-[%w-]+)%[']
    if type(value) == "table" then return ('%s: :(%s)"'):format(head, table.concat(value, " "):gsub(":", "\\:")) end
    return value == "" and head .. ': : "' or nil
  end)))
end

local WRITERS = { bash = bash, zsh = zsh }
local write = assert(WRITERS[arg[1]], "usage: complete.lua bash|zsh")
write(cli.parser())
io.write(table.concat(out, "\n"), "\n")
