--- What people see of a run, on standard error: messages, progress, a summary.

local stats = require "tokenbatcher.core.stats"
local clock = require "tokenbatcher.runtime.clock"

local M = {}
local Report = {}
Report.__index = Report

local PROGRESS_EVERY_US = 200000
local CLEAR_LINE = "\r\27[K"
local MESSAGE_LIMIT = 200

--- @param shows_progress boolean
function M.new(shows_progress)
  return setmetatable({
    shows_progress = shows_progress, has_progress = false, started = 0, progress_at = 0,
  }, Report)
end

--- The run begins now.
function Report:start()
  self.started = clock.now_us()
end

--- Take the progress off the terminal.
function Report:clear()
  if self.has_progress then io.stderr:write(CLEAR_LINE) end
  self.has_progress = false
end

--- One line.
function Report:say(...)
  self:clear()
  io.stderr:write(...)
  io.stderr:write "\n"
end

local function elapsed_s(self, now)
  return math.max(1e-6, (now - self.started) / 1e6)
end

--- An answer was written: show how far it is, now and then.
function Report:progress(answers)
  local now = clock.now_us()
  if now < self.progress_at then return end
  self.progress_at = now + PROGRESS_EVERY_US
  self.has_progress = true
  local failed = answers.failed > 0 and (" (%d failed)"):format(answers.failed) or ""
  io.stderr:write(CLEAR_LINE, ("%d records done%s, %.0f/s"):format(answers.written, failed,
    answers.written / elapsed_s(self, now)))
end

local function counts(names, by_name)
  local parts = {}
  for _, name in ipairs(names) do
    if (by_name[name] or 0) > 0 then parts[#parts + 1] = ("%s %d"):format(name, by_name[name]) end
  end
  return table.concat(parts, ", ")
end

local function failures(self, answers)
  local codes = {}
  for code in pairs(answers.failures) do codes[#codes + 1] = code end
  table.sort(codes)
  local first = answers.first_failure
  local message = first.message:gsub("%c", " ")
  if #message > MESSAGE_LIMIT then message = message:sub(1, MESSAGE_LIMIT) .. "..." end
  self:say("failures     ", counts(codes, answers.failures))
  self:say(("             the first, line %d: %s: %s"):format(first.index, first.code, message))
end

--- How it went. @param batcher tokenbatcher.Batcher
function Report:summary(answers, batcher)
  local s = batcher.stats
  self:say(("records      %d (%d answered, %d failed) in %.2f s"):format(answers.written,
    answers.written - answers.failed, answers.failed, elapsed_s(self, clock.now_us())))
  if answers.failed > 0 then failures(self, answers) end
  local policy = batcher:option "resolved_policy"
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

return M
