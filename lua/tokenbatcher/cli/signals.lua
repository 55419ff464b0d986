--- Signals of a run. The first SIGINT or SIGTERM drains, the second stops at once: what is answered is kept. A
-- third one never comes here: see src/host/main.c.

local clock = require "tokenbatcher.runtime.clock"

local M = {}

local SIGHUP = 1
local END_SIGNALS = { [2] = "SIGINT", [15] = "SIGTERM" }

local function drain(job)
  job.report:say("tokenbatcher: ", job.ended_by,
    ": finishing what was read; once more stops at once, what is answered is kept")
  job.input:interrupt()
end

local function stop_at_once(job)
  if job.ended_at_once then return end
  job.ended_at_once = true
  job.report:say("tokenbatcher: ", job.ended_by, ": stopping at once; once more aborts")
  job.answers.gives_up = true
  job.answers:close()
end

local function on_end_signal(job, signum)
  local is_first = not job.ended_by
  job.ended_by = END_SIGNALS[signum]
  if is_first then drain(job) else stop_at_once(job) end
end

--- @param handlers table  reload(job)
function M.install(job, handlers)
  local pump = clock.pump
  for signum in pairs(END_SIGNALS) do
    pump.signal(signum, function() on_end_signal(job, signum) end)
  end
  pump.signal(SIGHUP, function() handlers.reload(job) end)
  job.process.count_end_signals()
end

return M
