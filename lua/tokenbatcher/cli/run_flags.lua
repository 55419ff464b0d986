--- The flags of `tokenbatcher run` that make a job of it: what they take, and what they mean.

local errors = require "tokenbatcher.base.errors"
local per_record = require "tokenbatcher.cli.per_record"
local script = require "tokenbatcher.script.load"
local tb = require "tokenbatcher"

local M = {}

-- Codes of error lines, for --retry-failed.
M.CODES = { "bad_cost", "bad_input", "bad_output", "bad_record", "cancelled", "dead_letter", "deadline",
  "inference_failed", "inference_timeout", "oversize", "queue_full", "redis_error", "stopped" }

--- How a flag's number is read, for argparse.
local function number_from(flag, least, is_whole)
  return function(text)
    local value = tonumber(text)
    if value and value >= least and value < math.huge and (not is_whole or value % 1 == 0) then return value end
    return nil, ("%s needs a %snumber from %.14g, got '%s'"):format(flag, is_whole and "whole " or "", least, text)
  end
end
M.number_from = number_from

-- {number} or {percent}.
local function parse_failures(text)
  local digits, is_percent = text:match "^([%d.]+)(%%?)$"
  local value = tonumber(digits)
  if value and is_percent == "%" and value > 0 and value <= 100 then return { percent = value } end
  if value and is_percent == "" and value >= 1 and value % 1 == 0 then return { number = value } end
  return nil, ("--max-failures needs a number from 1, or a share as in 5%%, got '%s'"):format(text)
end

local function parse_codes(text)
  if text == "all" then return { all = true } end
  local codes = {}
  for code in text:gmatch "[^,]+" do
    if errors.nearest(code, M.CODES) ~= code then
      return nil, ("--retry-failed: there is no error code '%s'; did you mean '%s'?"):format(code,
        errors.nearest(code, M.CODES))
    end
    codes[code] = true
  end
  if next(codes) == nil then return nil, "--retry-failed needs error codes, or nothing" end
  return codes
end

local function parse_id_field(name)
  local ok, message = per_record.check_id_field(name)
  if not ok then return nil, message end
  return name
end

local function is_list_of_codes(word)
  for code in word:gmatch "[^,]+" do
    if code ~= "all" and errors.nearest(code, M.CODES) ~= code then return false end
  end
  return true
end

--- --retry-failed stands alone or has codes: both become one word.
function M.join_words(args)
  local out, i = {}, 1
  while i <= #args do
    local word = args[i]
    if word == "--retry-failed" then
      local follows = args[i + 1]
      local has_codes = follows and is_list_of_codes(follows)
      word = "--retry-failed=" .. (has_codes and follows or "all")
      if has_codes then i = i + 1 end
    end
    out[#out + 1] = word
    i = i + 1
  end
  return out
end

local function add(command, name, argname, text, convert)
  return command:option(name, text):argname(argname):convert(convert or function(value) return value end)
end

--- Flags that say what the batcher is to know of records, and how fast they may go: `check` has them, too.
-- @param command table  argparse's
function M.declare_records(command)
  add(command, "--requests-per-minute", "<n>", "Keep to it, whatever the policy: rate_limited, with the script's "
    .. "policy inside.", number_from("--requests-per-minute", 1))
  add(command, "--tokens-per-minute", "<n>", "The same for tokens.", number_from("--tokens-per-minute", 1))
  add(command, "--concurrency", "<n>", "So many calls at a time; the same as --set max_concurrent_batches=N.",
    number_from("--concurrency", 1, true))
  M.declare_fields(command)
end

--- What fields of a record mean: `send` has them, too.
function M.declare_fields(command)
  add(command, "--id-field", "<name>", "The field of a record that is its own id, carried into the answer (default: "
    .. "custom_id).", parse_id_field)
  add(command, "--key-field", "<name>", "The field that says whose a record is, for fair and for blame.")
  add(command, "--group-field", "<name>", "The field that says which records may share a call.")
  add(command, "--priority-field", "<name>", "The field with a record's priority.")
  add(command, "--timeout-field", "<name>", "The field with the seconds that a record may wait for its call.")
  add(command, "--batch-timeout-field", "<name>", "The field with the seconds that a record may linger for others.")
end

--- Where records come from and answers go, and how a job is gone on with: `send` has them, too.
function M.declare_files(command)
  add(command, "--input", "<file>", "Read from a file, which may be compressed by gzip (default, and -: standard "
    .. "input).")
  add(command, "--output", "<file>", "Write to a file (default, and -: standard output).")
  command:flag("--unordered", "Write answers as they come, not in input order.")
  command:flag("--resume", "Go on with the output: what is answered in it, or in its journal, is not asked again.")
  command:flag("--overwrite", "Begin anew, though the output is not empty.")
  add(command, "--retry-failed", "[<codes>]", "As --resume, and ask again where there is an error line, or one of "
    .. "these codes (as in deadline,inference_timeout).", parse_codes)
  add(command, "--max-failures", "<n>", "Stop when so many have failed, or (5%) such a share of what is done, at "
    .. "least of 100.", parse_failures)
  add(command, "--sync", "<s>", "Have the output written to its disk every so many seconds (default: 5; 0: as the "
    .. "system does).", number_from("--sync", 0)):default(5)
end

--- @param run table  argparse's command
function M.declare(run)
  M.declare_files(run)
  add(run, "--record", "<file>",
    "Write arrivals and batches to a file, for simulate and fit; the same as --set record=F.")
  M.declare_records(run)
end

--- What follows from the flags together. @return true, or nil and a message
function M.complete(args)
  args.retry_codes = args.retry_failed
  args.resume = args.resume or args.retry_failed ~= nil
  if args.resume and args.overwrite then return nil, "--resume goes on, --overwrite begins anew: give one of them" end
  if args.resume and (not args.output or args.output == "-") then
    return nil, "--resume needs --output: a file to go on with"
  end
  M.complete_records(args)
  return true
end

--- The same of the flags of declare_records().
function M.complete_records(args)
  args.fields = per_record.fields_of(args)
  if args.concurrency then table.insert(args.overrides, { "max_concurrent_batches", args.concurrency }) end
end

--- Limits for a minute go around the policy. @param options table  whose policy it is; changed
function M.limit(options, args)
  if not args.requests_per_minute and not args.tokens_per_minute then return end
  options.policy = tb.policy.rate_limited {
    requests_per_minute = args.requests_per_minute, tokens_per_minute = args.tokens_per_minute, inner = options.policy,
  }
end

--- What a script has made, as the flags have it. @return made, or nil and a message; see script.build
function M.build(definition, args)
  local made, message = script.build(definition, args.given, args.overrides)
  if not made then return nil, message end
  M.limit(made.options, args)
  local fn = made.options.inference_fn or made.options.process_fn
  if type(fn) == "table" and errors.is_callable(fn.set_aside) then fn:set_aside(per_record.names_of(args)) end
  return made
end

return M
