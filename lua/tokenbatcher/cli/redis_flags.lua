--- The commands that have to do with Redis, as argparse knows them: work, send, queue, dead.

local listen_flags = require "tokenbatcher.cli.listen_flags"
local otel_flags = require "tokenbatcher.cli.otel_flags"
local run_flags = require "tokenbatcher.cli.run_flags"
local urls = require "tokenbatcher.backend.redis.url"

local M = {}

local number = run_flags.number_from

local ENVIRONMENT = [[
A password may be in the environment, TOKENBATCHER_REDIS_PASSWORD, instead of the URL.]]

local WORK_HELP = [[
Runs SCRIPT's inference function over records from Redis Streams, on as many machines as run
this command: a worker takes records while it has room, and writes each answer to the stream
that the record names. SCRIPT is one for run, and must set inference_timeout_s: a call that
hangs would hold its records for ever. Redis must be 7.0 or later, with maxmemory-policy
noeviction.]]

local WORK_SIGNALS = [[
SIGINT or SIGTERM: finish what runs, give back the rest, exit; a second one stops at once (what
is not answered goes to other workers when the lease has passed; exit status 1); a third one
aborts (128 + signal). SIGHUP: reload SCRIPT. Exit status: 0 all answered, 1 some records
failed, 2 usage, script or Redis error.

]] .. ENVIRONMENT

local SEND_HELP = [[
Sends JSON lines to the workers of a stream and writes their answers as run does: one line for
each line read, in order, {"index":1,"result":...} or
{"index":1,"error":{"code":...,"message":...}}. With --output F, --resume goes on with F
however the command ended; it needs the --id of then (said at its start), by which answers are
found that came meanwhile.]]

local QUEUE_HELP = [[
What is in a stream: records that nobody has taken (backlog), that workers hold (pending),
workers, the age of the oldest record, dead letters.]]

local DEAD_HELP = [[
Dead letters: records that workers have given up, with the reason. list (as JSON lines), retry
(back into the stream) or drop, all of them or those with the IDs that list shows.]]

local function url(text)
  local to, message = urls.parse(text)
  if not to then return nil, "--redis: " .. message end
  return text
end

local function option(command, name, argname, text, convert)
  return command:option(name, text):argname(argname):convert(convert or function(value) return value end)
end

local function add_redis(command)
  option(command, "--redis", "<url>", "Where Redis is: redis://[user:password@]host[:port][/db] or "
    .. "redis+unix:///path (default: " .. urls.DEFAULT .. ").", url):default(urls.DEFAULT):show_default(false)
end

local function add_group(command)
  option(command, "--group", "<name>", "The consumer group of the workers (default: tb)."):default "tb"
    :show_default(false)
end

local function declare_work(parser, help, definition)
  local command = parser:command("work", WORK_HELP):epilog(WORK_SIGNALS)
    :summary("Run a script's inference function over records from Redis.")
  help.common(command, definition)
  add_redis(command)
  option(command, "--stream", "<key>", "The stream; may be repeated: then those named first go first."):count "*"
  add_group(command)
  option(command, "--consumer", "<name>", "This worker's name, which no other has (default: HOST-PID-NONCE).")
  option(command, "--lease", "<s>", "A worker that is silent for so long loses its records (default: 60).",
    number("--lease", 0.3)):default(60):show_default(false)
  option(command, "--ahead", "<n>", "Batches to read ahead; 1 pays where a batch takes less than 50 ms (default: 0).",
    number("--ahead", 0, true)):default(0):show_default(false)
  option(command, "--max-deliveries", "<n>", "Starts before a record is a dead letter (default: 4).",
    number("--max-deliveries", 1, true)):default(4):show_default(false)
  option(command, "--reply-ttl", "<s>", "Answers that nobody reads stay so long (default: 3600).",
    number("--reply-ttl", 1)):default(3600):show_default(false)
  option(command, "--max-record-bytes", "<n>", "Larger records become dead letters (default: 1048576).",
    number("--max-record-bytes", 1, true)):default(1048576):show_default(false)
  listen_flags.declare(command)
  otel_flags.declare(command)
end

local function declare_send(parser, help)
  local command = parser:command("send", SEND_HELP):summary("Send JSON lines to workers, write their answers.")
    :epilog(ENVIRONMENT)
  help.help(command)
  add_redis(command)
  option(command, "--stream", "<key>", "The stream.")
  option(command, "--id", "<name>", "The name of this job: its records are called NAME:LINE (default: a new one).")
  option(command, "--window", "<n>", "The most records without an answer (default: 1000).",
    number("--window", 1, true)):default(1000):show_default(false)
  option(command, "--max-backlog", "<n>", "Send nothing while so many records, of whomever, are untaken.",
    number("--max-backlog", 1, true))
  option(command, "--timeout", "<s>", "A record that is not begun after so long fails (deadline).",
    number("--timeout", 0.001))
  run_flags.declare_files(command)
  run_flags.declare_fields(command)
end

local function declare_queue(parser, help)
  local command = parser:command("queue", QUEUE_HELP):summary("Show what is in a stream."):epilog(ENVIRONMENT)
  help.help(command)
  add_redis(command)
  option(command, "--stream", "<key>", "The stream.")
  add_group(command)
  command:flag("--json", "As JSON.")
end

local function declare_dead(parser, help)
  local command = parser:command("dead", DEAD_HELP):summary("List, retry or drop dead letters."):epilog(ENVIRONMENT)
  help.help(command)
  add_redis(command)
  option(command, "--stream", "<key>", "The stream.")
  command:argument("action", "list, retry or drop."):choices { "list", "retry", "drop" }
  command:argument("ids", "IDs of dead letters (default: all)."):args "*"
end

--- @param help table  help(command), common(command, definition): see init.lua
function M.declare(parser, help, definition)
  declare_work(parser, help, definition)
  declare_send(parser, help)
  declare_queue(parser, help)
  declare_dead(parser, help)
end

return M
