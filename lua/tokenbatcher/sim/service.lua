--- How long a batch takes, in place of an inference function. A model is written as
--
--   an expression   0.02 + 0.00005 * tokens      (compiled once)
--   a Lua file      service.lua, which returns function(batch) -> seconds
--   a recording     @run.jsonl, fitted: a + b x tokens (see fit.lua)
--   what fit wrote  @model.txt, the output of tokenbatcher fit
--
-- Names in an expression, and fields of `batch`: tokens (the sum of the records' costs),
-- padded (records x the largest), records, max_tokens (the largest), output_tokens (the sum),
-- max_output_tokens (the largest), kv_steps (of a server that decodes the whole batch token by token: the
-- tokens that it reads from its KV cache, over all records and steps). A model that asks for one of the last
-- three where outputs are not known is an error.

local errors = require "tokenbatcher.base.errors"
local expression = require "tokenbatcher.base.expression"
local fit = require "tokenbatcher.sim.fit"

local M = {}

--- What a model may depend on, in the order of the arguments of its function.
M.names = { "tokens", "padded", "records", "max_tokens", "output_tokens", "max_output_tokens", "kv_steps" }

--- Stands in when nothing else is said; the same as tb.backend.simulated{}.
M.default = "0.02 + 0.00005*tokens"

local NAMED_OUTPUTS = { output_tokens = true, max_output_tokens = true, kv_steps = true }

local function asks_outputs(text)
  for name in pairs(NAMED_OUTPUTS) do
    if expression.names(text, name) then return true end
  end
  return false
end

-- What a user's function finds of outputs that are not known.
local unknown = { __index = function(_, name)
  if NAMED_OUTPUTS[name] then error(("asks for batch.%s, and there are arrivals without outputs"):format(name), 0) end
end }

-- A user's function of a table, called with one that is used again and again. What it raises names its file.
local function adapt(fn, path)
  local batch = setmetatable({}, unknown)
  return function(tokens, padded, records, max_tokens, output_tokens, max_output_tokens, kv_steps)
    batch.tokens, batch.padded, batch.records, batch.max_tokens = tokens, padded, records, max_tokens
    local is_known = output_tokens >= 0
    batch.output_tokens = is_known and output_tokens or nil
    batch.max_output_tokens = is_known and max_output_tokens or nil
    batch.kv_steps = is_known and kv_steps or nil
    local ok, value = pcall(fn, batch)
    if not ok then error(("--service %s raised: %s"):format(path, errors.text(value)), 0) end
    return value
  end
end

local function load_file(path)
  local chunk, message = loadfile(path, "t")
  if not chunk then return nil, message end
  local ok, value = pcall(chunk)
  if not ok then return nil, ("%s raised: %s"):format(path, errors.text(value)) end
  if not errors.is_callable(value) then
    return nil, ("%s must return a function of a batch, got %s"):format(path,
      value == nil and "nil" or "a " .. type(value))
  end
  return adapt(value, path)
end

local MODEL_LINE = "^service%s+(%S.-)%s*$"

-- The model in a file that begins as the output of tokenbatcher fit does, or nil.
local function model_in(path)
  local file = io.open(path, "rb")
  local first = file and file:read "*l"
  if file then file:close() end
  return first and first:match(MODEL_LINE)
end

local function of_expression(text)
  local fn, message = expression.compile(text, M.names)
  if not fn then return nil, ("--service '%s': %s (names: %s)"):format(text, message, table.concat(M.names, ", ")) end
  return { text = text, seconds = fn, asks_outputs = asks_outputs(text) }
end

local function of_recording(path)
  local model = model_in(path)
  if model then return of_expression(model) end
  local fitted, message = fit.of_recording(path)
  if not fitted then return nil, "--service " .. message end
  return { text = fitted.text, seconds = fitted.seconds, asks_outputs = false, fitted = fitted }
end

--- @param text string  as above
-- @return table {text, seconds = function(tokens, padded, ...) (outputs: -1 where not known), asks_outputs, fitted (of
-- a recording: see fit.lua)}, or nil and a message
function M.parse(text)
  if text:sub(1, 1) == "@" then return of_recording(text:sub(2)) end
  if not text:find "%.lua$" then return of_expression(text) end
  local fn, message = load_file(text)
  if not fn then return nil, "--service: " .. message end
  return { text = text, seconds = fn, asks_outputs = false }
end

return M
