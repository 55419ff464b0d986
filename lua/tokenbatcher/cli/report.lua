--- What people see of a run, on standard error: messages, progress, a summary.

local clock = require "tokenbatcher.runtime.clock"
local progress = require "tokenbatcher.cli.progress"
local stats = require "tokenbatcher.core.stats"

local M = {}
local Report = {}
Report.__index = Report

local MESSAGE_LIMIT = 200

--- @param is_terminal boolean  may progress be shown over and over?  @param job table  see run.lua
function M.new(is_terminal, job)
  return setmetatable({ job = job, progress = progress.new(is_terminal, job), started = 0 }, Report)
end

--- The run begins now.
function Report:start()
  self.started = clock.now_us()
  self.progress:start()
end

--- Take the progress off the terminal.
function Report:clear() self.progress:clear() end

--- One line.
function Report:say(...)
  self:clear()
  io.stderr:write(...)
  io.stderr:write "\n"
end

-- --- the summary ------------------------------------------------------------------

local function counts(names, by_name)
  local parts = {}
  for _, name in ipairs(names) do
    if (by_name[name] or 0) > 0 then parts[#parts + 1] = ("%s %d"):format(name, by_name[name]) end
  end
  return table.concat(parts, ", ")
end

local function codes_of(failures)
  local codes = {}
  for code in pairs(failures) do codes[#codes + 1] = code end
  table.sort(codes)
  return codes
end

local function failures(self, answers)
  local first = answers.first_failure
  local message = first.message:gsub("%c", " ")
  if #message > MESSAGE_LIMIT then message = message:sub(1, MESSAGE_LIMIT) .. "..." end
  self:say("failures     ", counts(codes_of(answers.failures), answers.failures))
  self:say(("             the first, line %d: %s: %s"):format(first.index, first.code, message))
end

-- What was in the output before.
local function earlier(self, job)
  local state = job.state
  if not state then return end
  self:say(("before       %d (%d answered, %d failed)"):format(job.earlier, job.earlier - state.failed, state.failed))
  if state.failed > 0 then
    self:say("             failed: ", counts(codes_of(state.failures), state.failures))
  end
end

local function requests(self, status)
  if not status then return end
  local away = (status.opened or 0) > 0 and (", the server was away %d time%s"):format(status.opened,
    status.opened == 1 and "" or "s") or ""
  local unsent = (status.unsent or 0) > 0 and (", %d more could not be sent"):format(status.unsent) or ""
  self:say(("requests     %d (%d of them retries%s%s)"):format(status.requests or 0, status.retries or 0, unsent, away))
  local usage = status.usage
  if not usage then return end
  local from = tonumber(usage.prompt_tokens or usage.input_tokens)
  local to = tonumber(usage.completion_tokens or usage.output_tokens)
  if from or to then
    self:say(("tokens       %.0f in, %.0f out, as the server counted them"):format(from or 0, to or 0))
  elseif usage.total_tokens then
    self:say(("tokens       %.0f, as the server counted them"):format(usage.total_tokens))
  end
end

local function batches(self, batcher)
  local s, policy = batcher.stats, batcher:option "resolved_policy"
  if not policy.in_core or s.policy_errors + s.policy_overruled > 0 then
    self:say(("policy       %s: policy_errors %d, policy_overruled %d%s"):format(policy.name, s.policy_errors,
      s.policy_overruled, batcher:was_policy_disabled() and "; it was disabled, fifo decided" or ""))
  end
  if s.total_batches == 0 then return end
  self:say(("batches      %d (%s)"):format(s.total_batches, counts(stats.REASONS, s.dispatched)))
  self:say(("batch size   mean %.1f records, p99 %d"):format(s.avg_batch_size, s.batch_size.p99))
  self:say(("batch cost   mean %.1f of %.0f tokens, p99 %d"):format(s.avg_batch_cost,
    batcher:option "target_batch_cost", s.batch_cost.p99))
  self:say(("utilization  %.1f %%"):format(100 * s.utilization))
  self:say(("latency      p50 %.1f ms, p99 %.1f ms"):format(1e3 * s.latency_s.p50, 1e3 * s.latency_s.p99))
end

local PLAIN = "^[%w%-_./=:,%%@+]+$"

local function shell_word(word)
  if word:find(PLAIN) then return word end
  return "'" .. word:gsub("'", [['\'']]) .. "'"
end

local ALWAYS_LEFT_OUT = { ["--overwrite"] = true, ["--resume"] = true }

-- The command line once more, with what makes it go on.
local function command(words, flag)
  local out = { "tokenbatcher" }
  for _, word in ipairs(words) do
    if not ALWAYS_LEFT_OUT[word] and not word:find "^%-%-retry%-failed=" then out[#out + 1] = shell_word(word) end
  end
  out[#out + 1] = flag
  return table.concat(out, " ")
end

local function what_now(self, job)
  if not job.file or job.input.is_other then return end
  local failed = job.answers.failed + (job.state and job.state.failed or 0)
  if not job.is_complete then
    self:say("to go on     ", command(job.words, "--resume"), job.input_path and "" or "   (with the same input)")
  elseif failed > 0 then
    self:say(("the failed   %s"):format(command(job.words, "--retry-failed")))
  end
end

--- How it went.
function Report:summary()
  local job = self.job
  local answers = job.answers
  self:say(("records      %d (%d answered, %d failed) in %.2f s"):format(answers.written,
    answers.written - answers.failed, answers.failed, math.max(1e-6, (clock.now_us() - self.started) / 1e6)))
  if answers.failed > 0 then failures(self, answers) end
  earlier(self, job)
  requests(self, job.status())
  if job.batcher.lines then
    for _, line in ipairs(job.batcher:lines()) do self:say(line) end
  else
    batches(self, job.batcher)
  end
  what_now(self, job)
end

--- What to type, for a run that has nothing else to say.
function Report:what_now() what_now(self, self.job) end

return M
