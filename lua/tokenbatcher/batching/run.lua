--- One batch through the inference function: call it, judge what it returns, settle
-- every future, bisect if asked to. It never pairs by anything but position, and a
-- record that has settled meanwhile (cancelled, timed out) is simply passed over.
--
-- A run is what turn.lua has read of a batch (see read_run there); `over` is set when the core has closed it
-- (timeout, stop) or it has ended, `err` is of the last of its records that failed, `depth` how often it was halved.

local clock = require "tokenbatcher.runtime.clock"
local errors = require "tokenbatcher.base.errors"
local Future = require "tokenbatcher.runtime.future"
local tasks = require "tokenbatcher.runtime.tasks"
local tbffi = require "tokenbatcher.core.ffi"
local C = tbffi.lib
local STATE, ID = Future.STATE, Future.ID
local fulfil = Future.fulfil

local M = {}

local COMPLETED, FAILED, EXPIRED = tonumber(C.TB_COMPLETED), tonumber(C.TB_FAILED), tonumber(C.TB_EXPIRED)

local described = tbffi.new "tb_batch" -- a further call, as the core describes it

local Failure = {}

--- What inference_fn returns in the place of a result to fail that record alone.
-- @param reason any  usually a string; becomes the err's message and cause
-- @param opts table|nil  refused: true where the record itself is at fault, tried by itself (R7)
function M.failure(reason, opts)
  if opts ~= nil and type(opts) ~= "table" then
    errors.misuse("failure: options must be a table, got a " .. type(opts))
  end
  return setmetatable({ reason = reason, refused = opts and opts.refused == true or nil }, Failure)
end

--- The err of a record whose deadline has passed.
function M.expired()
  return errors.new("deadline", "the record's deadline passed before it was handed to inference_fn")
end

function M.is_failure(value)
  return getmetatable(value) == Failure
end

function M.reason_of(failure)
  return failure.reason
end

local function failure_err(failure)
  local reason = failure.reason
  if reason == nil then return errors.new("inference_failed", "inference_fn failed this record") end
  return errors.new("inference_failed", errors.message_of(reason), reason)
end

-- Is there a number above n among the keys? One step of next() for a plain list.
local function reaches_beyond(results, n)
  if results[n + 1] ~= nil then return true end
  if rawget(results, n) == nil then return false end -- a metatable answers
  local key = next(results, n)
  while key ~= nil and not (type(key) == "number" and key > n) do key = next(results, key) end
  return key ~= nil
end

-- Positions 1..n hold no nil, and there is nothing behind them.
local function is_list_of(results, n)
  for i = 1, n do
    if results[i] == nil then return false end
  end
  return not reaches_beyond(results, n)
end

-- Bounded, since a metatable may have an answer for every position.
local function count_of(results, n)
  local count, limit = 0, math.max(n + 1, #results)
  while count < limit and results[count + 1] ~= nil do count = count + 1 end
  for key in pairs(results) do
    if type(key) == "number" and key > count + 1 then return nil, count + 1 end
  end
  return count
end

--- What is wrong with the results of a batch of n records. nil: nothing.
local function complaint(results, second, n)
  local is_table = type(results) == "table" and getmetatable(results) ~= Failure
  if is_table and is_list_of(results, n) then return nil end
  local batch = (" for a batch of %d record%s"):format(n, n == 1 and "" or "s")
  if not is_table then
    local what = results == nil and "nil" or "a " .. type(results)
    if getmetatable(results) == Failure then what = "a single failure" end
    local why = second ~= nil and ": " .. errors.message_of(second) or " (a list of results is expected)"
    return "inference_fn returned " .. what .. batch .. why
  end
  local count, hole = count_of(results, n)
  if count then return ("inference_fn returned %d results"):format(count) .. batch end
  return ("inference_fn returned a list with a hole at position %d"):format(hole) .. batch
end

--- Fail the records first..last of a run that have not settled, each with its own err.
local function fail_range(run, first, last, message, cause, traceback)
  local now = clock.now_us()
  for i = first, last do
    local future = run.futures[i]
    if not future[STATE] then
      C.tb_settle(run.batcher._handle, future[ID], FAILED, now)
      run.failed, run.err = run.failed + 1, errors.new("inference_failed", message, cause, traceback)
      run.batcher:settle(future, nil, run.err)
    end
  end
end

-- The record at this position failed by itself.
local function blame(run, at)
  run.blamed = run.blamed or {}
  run.blamed[at] = true
end

-- A failure fails its record alone.
local function settle_failure(run, at, future, failure, now)
  C.tb_settle(run.batcher._handle, future[ID], FAILED, now)
  run.failed, run.err = run.failed + 1, failure_err(failure)
  if failure.refused then blame(run, at) end
  run.batcher:settle(future, nil, run.err)
end

-- A whole batch: the core completes what has not failed in one call, at its end (tb_batch_finish).
local function settle_all(run, results, n)
  local futures, answered = run.futures, 0
  for i = 1, n do
    local future, result = futures[i], results[i]
    local is_pending = not future[STATE]
    if is_pending and getmetatable(result) == Failure then
      settle_failure(run, i, future, result, clock.now_us())
    elseif is_pending then
      fulfil(future, result)
      answered = answered + 1
    end
  end
  run.answered = answered
  run.batcher.unsettled = run.batcher.unsettled - answered
end

-- A part of one: positions[i] is the place in the run of results[i].
local function settle_part(run, positions, results, n)
  local now, batcher = clock.now_us(), run.batcher
  for i = 1, n do
    local at, result = positions[i], results[i]
    local future = run.futures[at]
    if not future[STATE] and getmetatable(result) == Failure then
      settle_failure(run, at, future, result, now)
    elseif not future[STATE] then
      batcher:settle(future, result, nil)
      run.answered = run.answered + 1
      C.tb_settle(batcher._handle, future[ID], COMPLETED, now)
    end
  end
end

local function make_info(run, attempt, records, costs, cost, deadline, keys)
  run.info = {
    id = run.id, size = #records, cost = cost, costs = costs, keys = keys, group = run.group, reason = run.reason,
    attempt = attempt, deadline = deadline, traceparent = run.traceparent,
    timeout_at = run.timeout_s > 0 and clock.now_us() / 1e6 + run.timeout_s or nil,
  }
  return run.info
end

-- xpcall's handler: what was raised, and the traceback of where.
local function remember_traceback(value)
  return { value = value, traceback = debug.traceback(errors.text(value), 2) }
end

--- Call inference_fn. @return results, or nil, message, cause, traceback
local function call(run, records, info, n)
  local ok, results, second = xpcall(run.fn, remember_traceback, records, info)
  if not ok then
    if type(results) ~= "table" then results = { value = results } end -- the handler itself failed
    local raised = results.value
    local traceback = errors.is_err(raised) and raised.traceback or results.traceback
    return nil, errors.message_of(raised), raised, traceback
  end
  local message = complaint(results, second, n)
  if message then return nil, message, second end
  return results
end

-- The batch was closed while the call ran: its answer is ignored, an error is not kept
-- silent, unless all it says is that the call was called off.
local function report_late(run, message, cause)
  if errors.is_err(cause) and cause.code == "cancelled" then return end
  if message then run.batcher:_warn("an abandoned inference call failed: " .. message) end
end

-- --- bisecting ----------------------------------------------------------

-- Those of positions[first..last] that still want an answer. A record past its
-- deadline fails here, between two calls.
local function still_wanted(run, positions, first, last)
  local wanted, now = {}, clock.now_us()
  for i = first, last do
    local at = positions[i]
    local future = run.futures[at]
    if not future[STATE] then
      local deadline = tonumber(C.tb_record_deadline(run.batcher._handle, future[ID]))
      if deadline >= 0 and deadline <= now then
        C.tb_settle(run.batcher._handle, future[ID], EXPIRED, now)
        run.batcher:settle(future, nil, M.expired())
      else
        wanted[#wanted + 1] = at
      end
    end
  end
  return wanted
end

-- Every attempt has an info of its own; what backends put into those adds up.
local function add_usage(sum, usage)
  if type(usage) ~= "table" then return sum end
  sum = sum or {}
  for name, value in pairs(usage) do
    if type(value) == "number" then sum[name] = (sum[name] or 0) + value end
  end
  return sum
end

local function remember_info(run)
  local before = run.info
  run.earlier_requests = (run.earlier_requests or 0) + (tonumber(rawget(before, "requests")) or 1)
  run.earlier_usage = add_usage(run.earlier_usage, rawget(before, "usage"))
end

--- What the backend reported of the whole batch. @return usage or nil, requests or nil, limits (the last) or nil
function M.totals(run)
  local info = run.info -- a user's code has had it
  local usage, requests, limits = rawget(info, "usage"), rawget(info, "requests"), rawget(info, "limits")
  if not run.earlier_requests then return usage, requests, limits end
  return add_usage(run.earlier_usage, usage), run.earlier_requests + (tonumber(requests) or 1), limits
end

-- A policy that keeps to limits has a say in each further call: wait until it may go. Meanwhile no call
-- runs, so that none can be late.
local function wait_for_room(run, positions, first, last)
  local cost, handle = 0, run.batcher._handle
  for i = first, last do
    if not run.futures[positions[i]][STATE] then cost = cost + run.costs[positions[i]] end
  end
  local at_s = cost > 0 and run.decision and run.decision:may_call(cost, clock.now_us())
  while at_s and not run.over do
    local at_us, now = at_s * 1e6, clock.now_us()
    if run.timeout_s > 0 then at_us = math.min(at_us, now + run.timeout_s * 0.5e6) end
    tasks.sleep_until(at_us)
    if run.over then return end
    C.tb_batch_retry(handle, run.id, clock.now_us())
    at_s = run.decision:may_call(cost, clock.now_us())
  end
end

local function attempt_half(run, positions)
  local n = #positions
  local records, costs, keys, ids = {}, {}, {}, tbffi.new("double[?]", n)
  for i, at in ipairs(positions) do
    records[i], costs[i], keys[i], ids[i - 1] = run.records[at], run.costs[at], run.keys[at], run.futures[at][ID]
  end
  run.attempt = run.attempt + 1
  remember_info(run)
  C.tb_batch_half(run.batcher._handle, run.id, ids, n, described, clock.now_us())
  local deadline = tonumber(described.deadline_us)
  return call(run, records, make_info(run, run.attempt, records, costs, described.cost,
    deadline >= 0 and deadline / 1e6 or nil, keys), n)
end

-- The records at `positions` failed together: halve them, left half first. A record
-- that fails alone is the culprit.
local function bisect(run, positions, failed, depth)
  local n = #positions
  if n == 1 then
    blame(run, positions[1])
    return fail_range(run, positions[1], positions[1], failed.message, failed.cause, failed.traceback)
  end
  run.depth = math.max(run.depth or 0, depth)
  local middle = math.ceil(n / 2)
  for half = 1, 2 do
    local first, last = half == 1 and 1 or middle + 1, half == 1 and middle or n
    wait_for_room(run, positions, first, last)
    if run.over then return end
    local wanted = still_wanted(run, positions, first, last)
    if #wanted > 0 then
      local results, message, cause, traceback = attempt_half(run, wanted)
      if run.over then return report_late(run, message, cause) end
      if results then
        settle_part(run, wanted, results, #wanted)
      else
        bisect(run, wanted, { message = message, cause = cause, traceback = traceback }, depth + 1)
        if run.over then return end
      end
    end
  end
end

local function bisect_all(run, failed)
  local positions = {}
  for i = 1, run.size do
    positions[i] = i
    run.futures[i].is_kept = true -- it is looked at after it has settled: see quick.lua
  end
  run.attempt = 1
  bisect(run, positions, failed, 1)
end

-- --- the whole batch ----------------------------------------------------

local function copy(list)
  local out = {}
  for i = 1, #list do out[i] = list[i] end
  return out
end

-- (Where nobody has a key, one list serves all batches.)
local function copy_of_keys(keys)
  return getmetatable(keys) and keys or copy(keys)
end

--- Have all of its records settled while it runs?
function M.is_unwanted(run)
  for i = 1, run.size do
    if not run.futures[i][STATE] then return false end
  end
  return true
end

-- Who feeds the batcher may have a last say: see Batcher:gate.
local function may_go(run)
  run.gate(run.futures, run.size)
  return not run.over and not M.is_unwanted(run)
end

--- The body of the coroutine that runs a batch.
function M.body(run)
  if run.gate and not may_go(run) then return end
  local records, costs = run.records, run.costs
  local may_bisect = run.on_error == "bisect" and run.size > 1
  local keys = run.keys
  if may_bisect then -- its lists are inference_fn's to change
    records, costs, keys = copy(records), copy(costs), copy_of_keys(keys)
  end
  local results, message, cause, traceback = call(run, records,
    make_info(run, 1, records, costs, run.cost, run.deadline, keys), run.size)
  if run.over then return report_late(run, message, cause) end
  if results then
    settle_all(run, results, run.size)
  elseif may_bisect then
    bisect_all(run, { message = message, cause = cause, traceback = traceback })
  else
    fail_range(run, 1, run.size, message, cause, traceback)
  end
end

--- Every record of the run that is still unsettled fails with this code.
function M.close(run, code, message)
  run.over = true
  for i = 1, run.size do
    local future = run.futures[i]
    if not future[STATE] then
      run.failed, run.err = run.failed + 1, errors.new(code, message)
      run.batcher:settle(future, nil, run.err)
    end
  end
end

return M
