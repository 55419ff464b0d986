--- The flags of `run` and `work` with which a batcher can be looked at, and changed, while it runs: see listen/.

local address = require "tokenbatcher.listen.address"
local errors = require "tokenbatcher.base.errors"
local listen = require "tokenbatcher.listen"

local M = {}

local function parse_address(text)
  local place, message = address.parse(text)
  if not place then return nil, "--listen: " .. message end
  return text
end

local function parse_control(text)
  if text:find "^unix:." then return text end
  return nil, ("--listen-control needs unix:PATH (who may change options is who may open the file), got '%s'")
    :format(text)
end

local function parse_host(text)
  if address.host_of(text) == text:lower() then return text end
  return nil, ("--listen-host needs a name without a port, got '%s'"):format(text)
end

local function names_of(list)
  local names = {}
  for i, p in ipairs(list) do names[i] = p.name end
  return names
end

-- {name, seconds}
local function parse_health(text)
  local name, value = text:match "^([%w_]+)=(.*)$"
  local names, s = names_of(listen.HEALTH), tonumber(value)
  if name and errors.nearest(name, names) == name and s and s > 0 and s <= 1e9 then return { name, s } end
  return nil, ("--listen-health needs %s=SECONDS, got '%s'"):format(table.concat(names, "=SECONDS or "), text)
end

--- @param command table  argparse's
function M.declare(command)
  local function add(name, argname, text, convert)
    return command:option(name, text):argname(argname):convert(convert)
  end
  add("--listen", "<address>", "Serve a page, /metrics, /health and /ready: 127.0.0.1:9464, [::1]:0 (0: any "
    .. "free port) or unix:PATH.", parse_address)
  command:flag("--listen-remote", "Let --listen take an address that other machines reach: nobody is asked who he is.")
  add("--listen-host", "<name>", "A name, beside localhost and the address itself, by which --listen is asked; may be "
    .. "repeated.", parse_host):count "*"
  add("--listen-health", "<age=s>", "When /health says 503: oldest_queued_s=60, oldest_running_s=300; may be "
    .. "repeated.", parse_health):count "*"
  add("--listen-control", "<unix:path>", "Take changes of options, by POST /set to this socket of mode 0600.",
    parse_control)
end

M.GROUP = { "To be looked at", "--listen", "--listen-remote", "--listen-host", "--listen-health", "--listen-control",
  "--otel-endpoint" }

local function given_of(job, complete)
  local args, health = job.args, {}
  for _, limit in ipairs(args.listen_health) do health[limit[1]] = limit[2] end
  return {
    address = args.listen, control = args.listen_control, batchers = { job.batcher }, remote = args.listen_remote,
    hosts = args.listen_host, health = health, complete = complete, metrics = job.metrics,
    log = function(_, text) job.report:say("tokenbatcher: ", text) end,
  }
end

local function say(job, listener)
  if listener.address then
    local is_file = listener.address:find "^unix:"
    job.report:say("tokenbatcher: listening at ", is_file and "" or "http://", listener.address, is_file and "" or "/")
  end
  if listener.control then job.report:say("tokenbatcher: options can be set at ", listener.control) end
end

--- Listen, if that is asked for; within the run, which ends it.
-- @param job table  args, batcher, report; metrics: see listen
-- @param complete function|nil  may change options that are to be set
-- @return true, or nil and a message
function M.open(job, complete)
  local args = job.args
  if not (args.listen or args.listen_control) then return true end
  local ok, listener, err = pcall(listen.open, given_of(job, complete),
    { who = "--listen", remote = "Add --listen-remote" })
  if not ok then return nil, errors.message_of(listener) end
  if not listener then return nil, err.message end
  say(job, listener)
  return true
end

return M
