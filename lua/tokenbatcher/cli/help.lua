--- What --help shows beside each flag's own line: flags by groups, examples; and what was meant by words that the
-- command does not know.

local errors = require "tokenbatcher.base.errors"
local listen_flags = require "tokenbatcher.cli.listen_flags"
local options = require "tokenbatcher.core.options"

local M = {}

local RECORDS = { "What a record is", "--id-field", "--key-field", "--group-field", "--priority-field",
  "--timeout-field", "--batch-timeout-field" }
local FILES = { "Files", "--input", "--output", "--unordered", "--resume", "--overwrite", "--retry-failed",
  "--max-failures", "--sync" }
local PACE = { "How fast", "--concurrency", "--requests-per-minute", "--tokens-per-minute" }
local ARRIVALS = { "What arrives", "--trace", "--columns", "--time-unit", "--arrivals", "--speedup", "--limit",
  "--strict" }
local SERVER = { "What serves", "--service", "--device", "--fail-rate", "--noise", "--straggle" }

-- Of each command, titles and their flags, in the order shown. What is in none stands under "Options".
local GROUPS = {
  run = { FILES, PACE, RECORDS, listen_flags.GROUP },
  check = { PACE, RECORDS },
  work = { { "Redis", "--redis", "--stream", "--group", "--consumer", "--lease", "--ahead", "--max-deliveries",
    "--reply-ttl", "--max-record-bytes" }, listen_flags.GROUP },
  send = { { "Redis", "--redis", "--stream", "--id", "--window", "--max-backlog", "--timeout" }, FILES, RECORDS },
  simulate = { ARRIVALS, SERVER,
    { "What is tried", "--policy", "--sweep", "--set", "--seed", "--seeds" },
    { "What counts as on time", "--slo", "--slo-class", "--bound", "--find-capacity" },
    { "What is written", "--json", "--csv", "--plot", "--timeline", "--window", "--report", "--decisions" } },
  tune = { ARRIVALS, SERVER },
}

-- Of each command, what it is for and the words after "tokenbatcher".
local EXAMPLES = {
  run = {
    { "A job that can go on however it ended.",
      "run script.lua --input prompts.jsonl --output answers.jsonl --resume" },
    { "The failed ones once more, at most 60 requests a minute.",
      "run script.lua --input p.jsonl --output a.jsonl --retry-failed --requests-per-minute=60" },
    { "With a page to look at it, and its metrics for Prometheus.",
      "run script.lua --input prompts.jsonl --output answers.jsonl --listen 127.0.0.1:9464" },
    { "Another budget and policy, for this time.",
      "run script.lua --set target_batch_tokens=8000 --set policy=length_bucketed" },
  },
  check = {
    { "Is the script sound?", "check script.lua" },
    { "What would this file cost, and which of its lines are bad?", "check script.lua --input prompts.jsonl" },
  },
  policies = { { "What the parameters of one mean.", "policies on_time" } },
  simulate = {
    { "Two policies on a recorded hour, within a second.",
      'simulate --trace hour.csv --service "0.05 + 0.00004*tokens" --slo 1 --policy fifo --policy on_time:slo_s=1' },
    { "A policy of your own on made-up bursts, with a picture.",
      'simulate --arrivals "gamma:rate=50,cv=4,tokens=lognormal(6,1)" --policy ./mine.lua --plot curves.svg' },
    { "How much traffic can a vLLM server take?",
      "simulate --trace hour.csv --device preset:rtx4090-llama3.1-8b --slo \"ttft <= 1\" --find-capacity 0.99" },
  },
  tune = { { "The settings with which most answers are on time.",
    'tune --trace hour.csv --service "0.05 + 0.00004*tokens" --slo 1' } },
  fit = {
    { "A service model from a recording of run --record.", "fit recording.jsonl" },
    { "A device from a benchmark's folder.", "fit --device FOLDER" },
  },
  work = { { "A worker, one of as many as you like.",
    "work script.lua --redis redis://10.0.0.5:6379 --stream prompts" } },
  send = { { "A file to those workers, its answers to another.",
    "send --redis redis://10.0.0.5:6379 --stream prompts --input prompts.jsonl --output answers.jsonl" } },
  queue = { { "For a script.", "queue --stream prompts --json" } },
  dead = { { "Why were they given up?", "dead list --stream prompts" } },
}

--- The examples of a command as text, for --help and the manual page; nil: it has none.
function M.examples(name)
  local lines = {}
  for _, example in ipairs(EXAMPLES[name] or {}) do
    lines[#lines + 1] = "  tokenbatcher " .. example[2]
    lines[#lines + 1] = "      " .. example[1]
  end
  return lines[1] and "Examples:\n" .. table.concat(lines, "\n")
end

local function options_by_name(command)
  local by_name = {}
  for _, option in ipairs(command._options) do
    for _, alias in ipairs(option._aliases) do by_name[alias] = option end
  end
  return by_name
end

--- Sort a command's flags into its groups, and add its examples. @param command table  argparse's
function M.finish(name, command)
  local by_name = options_by_name(command)
  for _, group in ipairs(GROUPS[name] or {}) do
    local members = {}
    for i = 2, #group do members[#members + 1] = by_name[group[i]] end
    if members[1] then command:group(group[1], unpack(members)) end
  end
  local examples = M.examples(name)
  if examples then command:epilog(command._epilog and examples .. "\n\n" .. command._epilog or examples) end
end

--- `help` and `help COMMAND` are ways to say --help.
function M.words(args)
  if args[1] ~= "help" then return args end
  local out = { unpack(args, 2) }
  out[#out + 1] = "--help"
  return out
end

-- --- what was meant -----------------------------------------------------------------------------------------------

local function commands_with(parser, flag, but)
  local names = {}
  for _, command in ipairs(parser._commands) do
    local name = command._aliases[1]
    if name ~= but and options_by_name(command)[flag] then names[#names + 1] = name end
  end
  return names
end

-- What comes after the flag, as it would be given to --set.
local function value_after(args, flag)
  for i, word in ipairs(args) do
    if word == flag then return args[i + 1] and args[i + 1]:sub(1, 2) ~= "--" and args[i + 1] or "..." end
    if word:sub(1, #flag + 1) == flag .. "=" then return word:sub(#flag + 2) end
  end
  return "..."
end

--- What a user may have meant by a flag that the command does not have. @param message string  argparse's
-- @return string  a sentence, or ""
function M.meant(parser, args, message)
  local flag = message:match "^unknown option '(%-%-[%w-]+)'"
  if not flag or message:find "Did you mean" then return "" end
  local option = flag:sub(3):gsub("%-", "_")
  local has_set = false
  for _, command in ipairs(parser._commands) do
    has_set = has_set or command._aliases[1] == args[1] and options_by_name(command)["--set"] ~= nil
  end
  if has_set and options.by_name[option] then
    return ("\nIt is an option of the batcher: --set %s=%s"):format(option, value_after(args, flag))
  end
  local names = commands_with(parser, flag, args[1])
  if names[1] then return ("\n%s: %s"):format(#names == 1 and "Another command has it" or "Other commands have it",
    table.concat(names, ", ")) end
  return ""
end

local NO_SCRIPTS = { csv = true, json = true, jsonl = true, ndjson = true, gz = true, tsv = true, txt = true }
local FLAG_FOR = { run = "--input", check = "--input", work = nil, simulate = "--trace", tune = "--trace" }

--- What a file that is no script may be. @return string  a sentence, or ""
function M.no_script(command, path)
  local ending = path:match "%.(%w+)$"
  if not NO_SCRIPTS[ending] then return "" end
  local flag = FLAG_FOR[command]
  return ("\nThe script is a Lua file; a file of %s is given by %s%s"):format(
    flag == "--trace" and "arrivals" or "records", flag and flag .. " " or "send --input ", errors.text(path))
end

return M
