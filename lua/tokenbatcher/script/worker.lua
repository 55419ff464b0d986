--- What runs in a worker thread (src/script/worker.c): a script's inference function, one
-- batch after the other. Batches come and answers go as bytes of LuaJIT's string.buffer.
--
-- A script is loaded when its worker gets the first batch, and again for each batch as long
-- as that fails.

local buffer = require "string.buffer"
local errors = require "tokenbatcher.base.errors"
local exact = require "tokenbatcher.base.exact_ffi"
local runs = require "tokenbatcher.batching.run"
local script = require "tokenbatcher.script.load"

local M = {}

local NO_MEMORY = "not enough memory"

local function load_function(path, given)
  local definition, message = script.load(path)
  if not definition then return nil, message end
  local made
  made, message = script.build(definition, given, {})
  if not made then return nil, message end
  local fn = made.options.inference_fn or made.options.process_fn
  if not fn then return nil, path .. ": the script has no inference_fn" end
  if not errors.is_callable(fn) then
    return nil, ("%s: inference_fn must be a function, got a %s"):format(path, type(fn))
  end
  return fn
end

local traceback
local function remember_traceback(value)
  traceback = debug.traceback(errors.text(value), 2)
  return value
end

-- A failure is no plain value: its reason travels beside the list. Only what is a failure is
-- replaced; a copy, since the list may be the script's own.
local function split_failures(results)
  if type(results) ~= "table" or runs.is_failure(results) then return results end
  local plain, failures = results, nil
  for i = 1, #results do
    if runs.is_failure(results[i]) then
      if not failures then
        plain, failures = {}, {}
        for key, value in pairs(results) do plain[key] = value end
      end
      plain[i], failures[i] = false, { reason = runs.reason_of(results[i]) }
    end
  end
  return plain, failures
end

-- An answer in bytes, or a complaint about it in bytes.
local function encoded(answer)
  local ok, bytes = exact.sent(buffer.encode, answer)
  if ok then return bytes end
  return buffer.encode { message = "inference_fn's results cannot leave its thread: " .. errors.text(bytes) }
end

local function answer_of(fn, batch)
  local info = batch.info
  local ok, results, second = xpcall(fn, remember_traceback, batch.records, info)
  if not ok then
    local message, raised_at = errors.message_of(results), traceback
    traceback = nil -- where memory or stack runs out, the handler does not, and would leave an old one
    if message == NO_MEMORY then collectgarbage() end
    return { message = message, traceback = raised_at }
  end
  local answer = { ok = true, usage = info.usage, requests = info.requests }
  if second ~= nil then answer.second = errors.message_of(second) end
  if runs.is_failure(results) then
    answer.failure = { reason = runs.reason_of(results) }
  else
    answer.results, answer.failures = split_failures(results)
  end
  return answer
end

--- @param setup string  encoded: {script, options, path, cpath}
-- @param is_limited boolean  Is memory? LuaJIT's compiler does not survive every want of it.
-- @return function(bytes) -> bytes  runs one batch; raises only when memory runs out
function M.new(setup, is_limited)
  if is_limited then
    jit.off()
    jit.flush()
  end
  setup = buffer.decode(setup)
  package.path, package.cpath = setup.path, setup.cpath
  local fn
  return function(bytes)
    local message
    if not fn then fn, message = load_function(setup.script, setup.options) end
    if not fn then return encoded { message = message } end
    return encoded(answer_of(fn, buffer.decode(bytes)))
  end
end

return M
