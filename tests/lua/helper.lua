--- What the specs share: runs on the virtual clock, batchers that note their calls.

local tb = require "tokenbatcher"
local tbffi = require "tokenbatcher.core.ffi"

local M = {}

--- Run fn on the virtual clock; a failed assertion in it fails the test as itself.
-- @param clock string|nil  "virtual" by default
function M.run(fn, clock)
  local results = { pcall(tb.run, fn, { clock = clock or "virtual" }) }
  if results[1] then return unpack(results, 2) end
  local err = results[2]
  local cause = type(err) == "table" and err.cause
  if type(cause) == "table" and rawget(cause, "message") then error(cause, 0) end
  error(tostring(err), 0)
end

--- A spec whose body runs on the virtual clock.
function M.virtually(fn)
  return function() M.run(fn) end
end

local function copy(list)
  local out = {}
  for i = 1, #list do out[i] = list[i] end
  return out
end
M.copy = copy

--- An inference function that answers "re:" .. record, and the list of its calls, each
-- {records, size, cost, costs, reason, attempt, at, ended}.
-- @param takes_s number|function|nil  how long a call lasts; a function of (records, info)
function M.recorder(takes_s)
  local calls = {}
  local function infer(records, info)
    local call = {
      records = copy(records), size = info.size, cost = info.cost, costs = copy(info.costs),
      reason = info.reason, attempt = info.attempt, deadline = info.deadline, id = info.id, at = tb.now(),
    }
    calls[#calls + 1] = call
    local s = type(takes_s) == "function" and takes_s(records, info) or takes_s
    if s then tb.sleep(s) end
    call.ended = tb.now()
    local results = {}
    for i, record in ipairs(records) do results[i] = "re:" .. tostring(record) end
    return results
  end
  return infer, calls
end

--- A record that runs for a while, so that the slot is taken: for tests of who waits for room,
-- which nobody does for long while a slot is idle (F2). It counts as submitted.
-- Needs H.start { takes = ... }.
function M.occupy(batcher)
  local future = batcher:submit("busy", { estimated_cost = 1 })
  batcher:flush()
  tb.sleep(0)
  return future
end

--- A started batcher around a recorder. `options.takes` is how long a call lasts, in
-- seconds; `options.class` is the constructor's name.
-- @return batcher, calls
function M.start(options)
  local given = {}
  for name, value in pairs(options or {}) do given[name] = value end
  local takes, class = given.takes, given.class or "TokenBatcher"
  given.takes, given.class = nil, nil
  local infer, calls = M.recorder(takes)
  if not (given.inference_fn or given.process_fn) then given.inference_fn = infer end
  local batcher = tb[class](given)
  batcher:start()
  return batcher, calls
end

--- Submit each of `costs` as a record "r1", "r2", ... of that cost. @return list of futures
function M.submit_costs(batcher, costs)
  local futures = {}
  for i, cost in ipairs(costs) do
    futures[i] = batcher:submit("r" .. i, { estimated_cost = cost })
  end
  return futures
end

--- The sizes of calls, in order: {3, 1}.
function M.sizes(calls)
  local out = {}
  for i, call in ipairs(calls) do out[i] = call.size end
  return out
end

--- The records of calls, in order, each batch joined: {"r1 r2", "r3"}.
function M.batches(calls)
  local out = {}
  for i, call in ipairs(calls) do out[i] = table.concat(call.records, " ") end
  return out
end

--- The line of the caller: for errors that must name it.
function M.line()
  return debug.getinfo(2, "l").currentline
end

--- pcall, and the raised value as text.
function M.message(fn, ...)
  local ok, err = pcall(fn, ...)
  return not ok and tostring(err) or nil, err
end

--- The conservation identity (C5), from public numbers.
function M.is_conserved(stats)
  return stats.total_submitted == stats.queue_size + stats.prefetched_records + stats.running_records
    + stats.total_completed + stats.total_failed + stats.total_cancelled + stats.total_expired
end

--- What the core itself finds broken, or nil.
function M.broken(batcher)
  return tbffi.text(tbffi.lib.tb_verify(batcher._handle))
end

--- How many descriptors this process has open. Counted by itself: what a child would count has the pipe
-- to the child in it, or has not.
function M.open_descriptors()
  local n = 0
  for fd = 0, 1023 do
    local file = io.open("/proc/self/fdinfo/" .. fd)
    if file then
      n = n + 1
      file:close()
    end
  end
  return n
end

return M
