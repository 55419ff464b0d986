--- tokenbatcher send: JSON lines to the workers of a stream, their answers as run writes them. It is run with a queue
-- in place of a batcher: input, output, journal, --resume and signals are run's.

local clock = require "tokenbatcher.runtime.clock"
local errors = require "tokenbatcher.base.errors"
local flags = require "tokenbatcher.cli.run_flags"
local pause = require "tokenbatcher.backend.redis.pause"
local run = require "tokenbatcher.cli.run"
local backoff = require "tokenbatcher.base.backoff"
local queues = require "tokenbatcher.backend.redis.queue"

local M = {}

local GROUP = "tb"
local BACKLOG_S = 0.25 -- how often it is looked at

local function nonce() return ("%06x%06x"):format(backoff.random() * 2 ^ 24, backoff.random() * 2 ^ 24) end

-- --- the queue, as run.lua knows a batcher ---------------------------------------------

local Remote = {}
Remote.__index = Remote

function Remote:start()
  local ok, err = self.queue:connect()
  if not ok then error(err, 0) end
end

function Remote:stop() self.queue:stop() end

function Remote:option(name) return name == "max_queue_size" and self.queue.window or nil end

function Remote.cancel_queued() end -- what was sent is under way

function Remote.was_policy_disabled() return false end

function Remote.lacks_keys() return false end

--- For the summary.
function Remote:lines()
  local counts = self.queue.counts
  local lines = { ("sent         %d records%s"):format(counts.submitted, counts.again > 0
    and (", %d of them again"):format(counts.again) or "") }
  if counts.seconds > 0 then lines[2] = ("             %d second answers ignored"):format(counts.seconds) end
  return lines
end

-- --- records ----------------------------------------------------------------------------

-- Others' records count, too.
local function wait_for_backlog(job)
  local most = job.args.max_backlog
  if not most then return end
  local now = clock.now_us()
  if now < (job.backlog_at or 0) and (job.sent_since or 0) < most / 10 then
    job.sent_since = (job.sent_since or 0) + 1
    return
  end
  local queue = job.batcher.queue
  while not queue.is_stopped do
    local n = queue:backlog(GROUP)
    if n and n < most then break end
    pause.bell():wait(BACKLOG_S)
  end
  job.backlog_at, job.sent_since = clock.now_us() + BACKLOG_S * 1e6, 1
end

-- A record that is asked again has another name: the answer that it had may still be in Redis.
local function name_of(job, entry)
  local name = ("%s:%d"):format(job.args.id, entry.index)
  return entry.again and name .. ".r" .. job.nonce or name
end

local function submit(job, line, opts, entry)
  wait_for_backlog(job)
  opts = opts or {}
  opts.id = name_of(job, entry)
  opts.timeout_s = opts.timeout_s or job.args.timeout
  return job.batcher.queue:submit_json(line, opts)
end

local function new_job(args, queue)
  local job
  job = {
    args = args, batcher = setmetatable({ queue = queue }, Remote), current = {}, status = function() end,
    nonce = nonce(),
    submit = function(line, opts, entry) return submit(job, line, opts, entry) end,
    on_kept = function(entries)
      local ids = {}
      for i, entry in ipairs(entries) do ids[i] = name_of(job, entry) end
      queue:keep(ids)
    end,
  }
  return job
end

local function check(args)
  if not args.stream then return nil, "send needs --stream: where the workers read" end
  local ok, message = flags.complete(args)
  if not ok then return nil, message end
  if args.resume and not args.id then return nil, "--resume needs the --id that the job had" end
  if args.id and (#args.id > 80 or args.id:find "[^%w%._-]") then
    return nil, "--id needs at most 80 letters, digits, dots, dashes and underscores"
  end
  return true
end

--- @param args table  redis, stream and what else redis_flags.lua declares
-- @return number exit status: as run's
function M.run(_, args)
  local ok, message = check(args)
  if not ok then return nil, message end
  if not args.id then
    args.id = nonce()
    if args.output and args.output ~= "-" then
      io.stderr:write("tokenbatcher: this job's name, for --resume, is --id ", args.id, "\n")
    end
    table.insert(args.words, "--id=" .. args.id) -- so that "to go on" says it
  end
  local queue
  ok, queue = pcall(queues.new, { url = args.redis, stream = args.stream, window = args.window, producer = args.id },
    { holds_answers = true, resumes = args.resume })
  if not ok then return nil, (errors.text(queue):gsub("^queue.redis: ", "")) end
  return run.perform(new_job(args, queue))
end

return M
