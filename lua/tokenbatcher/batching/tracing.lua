--- Traces: a record may have a trace context (the option `trace` of submit), and a batcher a tracer, for whom a batch
-- is a span. A batch has a context of its own if there is a tracer, or else that of its records if all of them have
-- the same one; it is info.traceparent, which backends send along.
--
-- A batcher that has no tracer, and no record of which ever had a context, pays one comparison for a batch.

local errors = require "tokenbatcher.base.errors"

local M = {}

--- A batch is linked to so many contexts at most.
M.LINKS = 128

--- From now on a tracer is told of batches, and gives each its context; false: nobody is. There is one at most, and
-- it must not raise, suspend nor call the batcher but to read. It has
--   began(run)        a batch goes (run: see run.lua; links: see below); @return its context, for info.traceparent
--   ended(run, now)   it is over; its records have settled
--   drained()         the batcher has stopped
--   counts            {sent, dropped}: spans, for metrics
function M.trace(self, tracer)
  if tracer and self._tracer then errors.misuse(tostring(self) .. " is traced already") end
  self._tracer = tracer
  self._is_traced = tracer ~= false or self._is_traced
end

--- A future of a record that was submitted with these options. @return it
function M.mark(self, future, opts)
  if opts and opts.trace then future.trace, self._is_traced = opts.trace, true end
  return future
end

-- Take up a context.
local function add(links, seen, context)
  if seen[context] then return end
  seen[context] = true
  if #links < M.LINKS then links[#links + 1] = context else links.dropped = links.dropped + 1 end
end

-- The contexts of a record: of who submitted it, and of those who have joined. @return boolean  has everybody one?
local function add_all(links, seen, future)
  local callers = future.callers
  if not callers then
    if future.trace then add(links, seen, future.trace) end
    return future.trace ~= nil
  end
  local have_all = true
  for i = 1, #callers do
    if callers[i].trace then add(links, seen, callers[i].trace) else have_all = false end
  end
  return have_all
end

--- A batch goes: run.links are the different contexts of its records, with `dropped`, how many there are beyond
-- LINKS; run.common the one that all of them have, or nil; run.traceparent its own.
function M.begin(self, run)
  local links, seen, have_all = { dropped = 0 }, {}, true
  for i = 1, run.size do
    if not add_all(links, seen, run.futures[i]) then have_all = false end
  end
  run.links, run.common = links, have_all and not links[2] and links[1] or nil
  run.traceparent = self._tracer and self._tracer:began(run) or run.common
end

return M
