--- What who looks at a batcher from outside may know: methods of a batcher (batcher.lua).

local clock = require "tokenbatcher.runtime.clock"
local tbffi = require "tokenbatcher.core.ffi"

local C = tbffi.lib

local M = {}

local KINDS = { wait = C.TB_OF_WAIT, service = C.TB_OF_SERVICE, latency = C.TB_OF_LATENCY, size = C.TB_OF_BATCH_SIZE,
  cost = C.TB_OF_BATCH_COST }

--- From now on a watcher is told what happens; false: nobody is. There is one at most, and it must not raise, suspend
-- nor call the batcher but to read. It has
--   ended(run, now_us)  a batch is over; its records have settled (run: see run.lua; not to be kept)
--   turned(now_us)      what has come in is about to be decided on, or nothing has
--   changed(given)      set{given} holds now
--   next_us             while records are unsettled, a turn is wanted at this time at the latest
function M.watch(self, watcher)
  self._watcher = watcher
end

--- The batches that run: runs (see run.lua) in the order in which they began. Not to be kept.
function M.running(self)
  local out = {}
  for _, run in pairs(self._runs) do out[#out + 1] = run end
  table.sort(out, function(a, b) return a.started_us < b.started_us or a.started_us == b.started_us and a.id < b.id end)
  return out
end

local STATES = { [tonumber(C.TB_STOPPED)] = "stopped", [tonumber(C.TB_RUNNING)] = "running" }

--- "running", "draining" or "stopped".
function M.state(self)
  return STATES[tonumber(C.tb_state(self._handle))] or "draining"
end

--- How many values since the start were at most each of `bounds`.
-- @param what string  "wait", "service", "latency" (microseconds), "size" (records) or "cost" (tokens)
-- @param out table|nil  where to  @return number[]
function M.distribution(self, what, bounds, out)
  out = out or {}
  for i = 1, #bounds do out[i] = C.tb_stats_at_most(self._handle, KINDS[what], bounds[i]) end
  return out
end

--- Fill a tb_stats. @return policy_errors, policy_overruled
function M.fill_stats(self, raw)
  C.tb_stats_read(self._handle, raw, self.is_running and clock.now_us() or 0)
  return self._policy.errors, self._policy.overruled
end

return M
