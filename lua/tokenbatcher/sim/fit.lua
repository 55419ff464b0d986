--- Fits what a batch takes to a recording: time = a + b x tokens, or a + b x tokens + c x padded,
-- by least squares over the batches that ran whole. It refuses to guess where a and b cannot be
-- told apart.

local formats = require "tokenbatcher.sim.formats"
local json = require "tokenbatcher.base.json"

local M = {}

local ENOUGH = 3 -- batches, at the least, for each number that is fitted
local KEPT = 100000 -- errors kept for their percentile; of more, every other one

-- --- reading --------------------------------------------------------------------

local function is_number(value)
  return type(value) == "number" and value >= 0 and value < math.huge
end

local function observation(value)
  if type(value) ~= "table" or value.batch == nil then return nil end
  local is_whole = value.failed == 0 and not value.calls
  if not (is_whole and is_number(value.tokens) and is_number(value.padded) and is_number(value.service_s)) then
    return nil, true
  end
  return { 1, value.tokens, value.padded, value.service_s }
end

-- fn(observation) for each batch that ran whole. @return how many were left out, or nil and a message
local function each_batch(path, fn)
  local file, message = io.open(path, "rb")
  if not file then return nil, "cannot open the recording: " .. message end
  local first, problem = file:read "*l"
  local format
  if not first then
    file:close()
    return nil, problem and ("cannot read the recording %s: %s"):format(path, problem)
      or ("the recording %s is empty"):format(path)
  end
  format, message = formats.detect((first:gsub("\r$", "")))
  if format ~= formats.recording then
    file:close()
    return nil, format and ("%s is no recording, but %s"):format(path, format.name) or path .. " " .. message
  end
  local left_out = 0
  for line in file:lines() do
    local value = line:find '"batch"' and json.decode(line)
    local seen, failed = observation(value)
    if seen then fn(seen) elseif failed then left_out = left_out + 1 end
  end
  file:close()
  return left_out
end

-- --- least squares ------------------------------------------------------------------

-- Solve a symmetric system by elimination with pivots; nil if it is singular.
local function solve(matrix, right, n)
  for i = 1, n do
    local pivot = i
    for r = i + 1, n do
      if math.abs(matrix[r][i]) > math.abs(matrix[pivot][i]) then pivot = r end
    end
    matrix[i], matrix[pivot], right[i], right[pivot] = matrix[pivot], matrix[i], right[pivot], right[i]
    if math.abs(matrix[i][i]) < 1e-9 then return nil end
    for r = i + 1, n do
      local factor = matrix[r][i] / matrix[i][i]
      for c = i, n do matrix[r][c] = matrix[r][c] - factor * matrix[i][c] end
      right[r] = right[r] - factor * right[i]
    end
  end
  local out = {}
  for i = n, 1, -1 do
    local sum = right[i]
    for c = i + 1, n do sum = sum - matrix[i][c] * out[c] end
    out[i] = sum / matrix[i][i]
  end
  return out
end

-- Means, and products of what deviates from them, in one pass (Welford, 1962).
local function new_moments()
  return { n = 0, mean = { 0, 0, 0 }, m = { { 0, 0, 0 }, { 0, 0, 0 }, { 0, 0, 0 } } }
end

-- x: tokens, padded, seconds.
local function observe(moments, x1, x2, x3)
  local x, before = { x1, x2, x3 }, {}
  moments.n = moments.n + 1
  for i = 1, 3 do
    before[i] = x[i] - moments.mean[i]
    moments.mean[i] = moments.mean[i] + before[i] / moments.n
  end
  for i = 1, 3 do
    for k = 1, 3 do moments.m[i][k] = moments.m[i][k] + before[i] * (x[k] - moments.mean[k]) end
  end
end

-- Slopes of seconds over the first `n` of tokens and padded, each scaled to its own spread.
local function slopes(moments, n)
  local matrix, right, scale = {}, {}, {}
  for i = 1, n do
    scale[i] = math.sqrt(moments.m[i][i])
    if scale[i] <= 1e-9 * math.max(1, moments.mean[i]) * math.sqrt(moments.n) then return nil end
  end
  for i = 1, n do
    matrix[i] = {}
    for k = 1, n do matrix[i][k] = moments.m[i][k] / (scale[i] * scale[k]) end
    right[i] = moments.m[i][3] / scale[i]
  end
  if n == 2 and math.abs(matrix[1][2]) > 1 - 1e-6 then return nil end -- as good as the same
  local out = solve(matrix, right, n)
  for i = 1, out and n or 0 do out[i] = out[i] / scale[i] end
  return out
end

-- --- fitting ----------------------------------------------------------------------------

local function text_of(a, b, c)
  local text = ("%.9g + %.9g*tokens"):format(a, b)
  return c and ("%s + %.9g*padded"):format(text, c) or text
end

-- How far the model is off: R2, root mean square, 90th percentile of the absolute error.
local function judge(path, fitted, moments)
  local squares, offs, step, seen = 0, {}, 1, 0
  each_batch(path, function(o)
    local off = math.abs(o[4] - fitted.seconds(o[2], o[3]))
    squares, seen = squares + off * off, seen + 1
    if seen % step == 0 then offs[#offs + 1] = off end
    if #offs < KEPT then return end
    local kept = {}
    for i = 2, #offs, 2 do kept[#kept + 1] = offs[i] end
    offs, step = kept, 2 * step
  end)
  table.sort(offs)
  fitted.r2 = moments.m[3][3] > 0 and 1 - squares / moments.m[3][3] or 1
  fitted.rmse_s = math.sqrt(squares / moments.n)
  fitted.p90_s = offs[math.ceil(0.9 * #offs)]
  return fitted
end

--- @param with_padding boolean  fit c x padded, too
-- @return {a, b, c, text, seconds = function(tokens, padded), n, left_out, r2, rmse_s, p90_s}, or nil and a message
function M.of_recording(path, with_padding)
  local moments, n = new_moments(), with_padding and 2 or 1
  local left_out, message = each_batch(path, function(o) observe(moments, o[2], o[3], o[4]) end)
  if not left_out then return nil, message end
  local needed = ENOUGH * (n + 1)
  if moments.n < needed then
    return nil, ("the recording %s has %d batches that ran whole; %d are needed"):format(path, moments.n, needed)
  end
  if not slopes(moments, 1) then
    return nil, ("in the recording %s all batches cost the same: what a batch and what a token takes cannot be told "
      .. "apart"):format(path)
  end
  local slope = slopes(moments, n)
  if not slope then
    return nil, ("in the recording %s tokens and padded tokens go together: their parts cannot be told apart")
      :format(path)
  end
  local b, c = slope[1], slope[2]
  local a = moments.mean[3] - b * moments.mean[1] - (c or 0) * moments.mean[2]
  local fitted = {
    a = a, b = b, c = c, n = moments.n, left_out = left_out, text = text_of(a, b, c),
    seconds = function(tokens, padded) return a + b * tokens + (c or 0) * padded end,
  }
  return judge(path, fitted, moments)
end

return M
