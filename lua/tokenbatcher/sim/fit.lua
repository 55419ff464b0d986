--- Fits what a batch takes to a recording: time = a + b x tokens, or a + b x tokens + c x padded, over the
-- batches that ran whole. It refuses to guess where a and b cannot be told apart.
--
-- What counts is the relative error, since a small batch that is 10 % off is as wrong as a large one: weighted least
-- squares with weights 1 / fitted^2, again and again until the fit stands (the quasi-likelihood of a gamma model,
-- McCullagh and Nelder, 1989). What comes out is then made larger or smaller by one factor, so that all batches
-- together take as long as they did: a run that is replayed is as busy as it was. No term is negative: a batch
-- cannot take less than nothing, nor a token. Of all choices of terms that come out so, the one with the least error
-- is taken.

local formats = require "tokenbatcher.sim.trace.formats"
local json = require "tokenbatcher.base.json"
local lines_of = require "tokenbatcher.sim.trace.lines"

local abs, ceil, log, max, sqrt = math.abs, math.ceil, math.log, math.max, math.sqrt

local M = {}

local ENOUGH = 3 -- batches, at the least, for each number that is fitted
local ROUNDS, STANDS = 100, 1e-12 -- of weights; a change that is none
local LEAST_S = 1e-9 -- stands for a fitted time of nothing
local SLOW = 2 -- times as long as usual for its work
local APART = 5 -- batches of usual speed between two episodes of slowness
local LAGS = { 1, 2, 5, 10, 20 }
local EPISODES, BATCHES = 20, 1000 -- at the least for a p99

-- --- reading --------------------------------------------------------------------

local function is_number(value)
  return type(value) == "number" and value >= 0 and value < math.huge
end

-- Did this batch run whole?
local function is_whole(value)
  return value.failed == 0 and not value.calls and is_number(value.tokens) and is_number(value.padded)
    and is_number(value.service_s) and is_number(value.at)
end

-- Its lines but for the first, or nil and a message.
local function open(path)
  local lines, message = lines_of.open(path)
  if not lines then return nil, "cannot open the recording: " .. message end
  local first = lines:next_text()
  local format
  if first then format, message = formats.detect(first) end
  if format == formats.recording then return lines end
  lines:close()
  if not first then return nil, ("the recording %s is empty"):format(path) end
  return nil, format and ("%s is no recording, but %s"):format(path, format.name) or path .. " " .. message
end

local COLUMNS = { "at_s", "tokens", "padded", "seconds" }

-- The same batches in the order of their starts; they are written when they end.
local function by_start(batches)
  local order, at_s, is_sorted = {}, batches.at_s, true
  for i = 1, batches.n do
    order[i] = i
    is_sorted = is_sorted and (i == 1 or at_s[i] >= at_s[i - 1])
  end
  if is_sorted then return batches end
  table.sort(order, function(a, b)
    if at_s[a] ~= at_s[b] then return at_s[a] < at_s[b] end
    return a < b
  end)
  for _, name in ipairs(COLUMNS) do
    local column, sorted = batches[name], {}
    for i = 1, batches.n do sorted[i] = column[order[i]] end
    batches[name] = sorted
  end
  return batches
end

-- The batches that ran whole, in columns: {n, at_s, tokens, padded, seconds (lists), left_out (how many did
-- not), first_at_s (when the first record arrived, or nil)}. Raises where it cannot be read.
local function batches_of(lines)
  local out, n = { at_s = {}, tokens = {}, padded = {}, seconds = {}, left_out = 0 }, 0
  for line in lines.next_text, lines do
    local is_batch = line:find '"batch"' ~= nil
    local value = (is_batch or not out.first_at_s) and json.decode(line)
    if type(value) == "table" and value.batch == nil then
      out.first_at_s = out.first_at_s or is_number(value.at) and value.at or nil
    elseif type(value) == "table" and is_whole(value) then
      n = n + 1
      out.at_s[n], out.tokens[n], out.padded[n], out.seconds[n] = value.at, value.tokens, value.padded, value.service_s
    elseif type(value) == "table" then
      out.left_out = out.left_out + 1
    end
  end
  out.n = n
  return by_start(out)
end

-- @return see batches_of; or nil and a message
local function read(path)
  local ok, lines, message = pcall(open, path)
  if not (ok and lines) then return nil, ok and message or lines end
  local out
  ok, out = pcall(batches_of, lines)
  lines:close()
  if not ok then return nil, out end
  return out
end

-- --- least squares ------------------------------------------------------------------

-- Solve a symmetric system by elimination with pivots; nil if it is singular.
local function solve(matrix, right, n)
  for i = 1, n do
    local pivot = i
    for r = i + 1, n do
      if abs(matrix[r][i]) > abs(matrix[pivot][i]) then pivot = r end
    end
    matrix[i], matrix[pivot], right[i], right[pivot] = matrix[pivot], matrix[i], right[pivot], right[i]
    if abs(matrix[i][i]) < 1e-12 then return nil end
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

-- The terms of batches; what is fitted is a factor for each.
local function terms_of(batches)
  local ones = {}
  for i = 1, batches.n do ones[i] = 1 end
  return { ones, batches.tokens, batches.padded }
end

-- Sums of products of the first n terms, each divided by its mean, and of the seconds, under weights 1 / fitted^2.
local function moments(batches, terms, n, scale, fitted)
  local xx, xy, yy = {}, {}, 0
  for i = 1, n do
    xx[i], xy[i] = {}, 0
    for k = 1, n do xx[i][k] = 0 end
  end
  for at = 1, batches.n do
    local w, y = 1 / max(LEAST_S, fitted(at)) ^ 2, batches.seconds[at]
    yy = yy + w * y * y
    for i = 1, n do
      local x = terms[i][at] / scale[i]
      xy[i] = xy[i] + w * x * y
      for k = 1, n do xx[i][k] = xx[i][k] + w * x * terms[k][at] / scale[k] end
    end
  end
  return xx, xy, yy
end

-- The least squares over some of the terms. @param chosen table  their numbers
-- @return factors of all n terms (0 where not chosen), and the error; nil where it has a negative one
local function over(chosen, n, xx, xy, yy)
  local m, matrix, right = #chosen, {}, {}
  local unit = xx[1][1]
  for i = 1, m do
    matrix[i], right[i] = {}, xy[chosen[i]] / unit
    for k = 1, m do matrix[i][k] = xx[chosen[i]][chosen[k]] / unit end
  end
  local found = solve(matrix, right, m)
  if not found then return nil end
  local factors, off = {}, yy
  for i = 1, n do factors[i] = 0 end
  for i = 1, m do
    if found[i] < 0 then return nil end
    factors[chosen[i]] = found[i]
    off = off - found[i] * xy[chosen[i]]
  end
  return factors, off
end

-- The best factors of n terms, none negative: every choice of terms is tried.
local function best_factors(n, xx, xy, yy)
  local best, least
  for mask = 2 ^ n - 1, 1, -1 do
    local chosen = {}
    for i = 1, n do
      if math.floor(mask / 2 ^ (i - 1)) % 2 == 1 then chosen[#chosen + 1] = i end
    end
    local factors, off = over(chosen, n, xx, xy, yy)
    if factors and (not least or off < least - 1e-12 * yy) then best, least = factors, off end
  end
  return best
end

local function mean_of(column)
  local sum = 0
  for i = 1, #column do sum = sum + column[i] end
  return sum / #column
end

-- @return the factors of the first n terms
local function fit(batches, n)
  local terms, scale, factors = terms_of(batches), {}, nil
  for i = 1, n do scale[i] = max(LEAST_S, mean_of(terms[i])) end
  local function fitted(at)
    local sum = 0
    for i = 1, n do sum = sum + factors[i] * terms[i][at] / scale[i] end
    return sum
  end
  factors = best_factors(n, moments(batches, terms, n, scale, function() return 1 end))
  for _ = 1, ROUNDS do
    local former = factors
    factors = best_factors(n, moments(batches, terms, n, scale, fitted))
    local change = 0
    for i = 1, n do change = max(change, abs(factors[i] - former[i])) end
    if change <= STANDS then break end
  end
  local expected = 0
  for at = 1, batches.n do expected = expected + fitted(at) end
  local share = mean_of(batches.seconds) / max(LEAST_S, expected / batches.n)
  for i = 1, n do factors[i] = factors[i] / scale[i] * share end
  return factors
end

-- What keeps terms from being told apart, or nil.
local function confusion(batches, with_padding)
  local tokens, padded, n = batches.tokens, batches.padded, batches.n
  local mean, spread = { mean_of(tokens), mean_of(padded) }, { 0, 0 }
  local together = 0
  for i = 1, n do
    local x, y = tokens[i] - mean[1], padded[i] - mean[2]
    spread[1], spread[2], together = spread[1] + x * x, spread[2] + y * y, together + x * y
  end
  local function is_flat(i) return sqrt(spread[i]) <= 1e-9 * max(1, mean[i]) * sqrt(n) end
  if is_flat(1) then
    return "in the recording %s all batches cost the same: what a batch and what a token takes cannot be told apart"
  end
  if with_padding and (is_flat(2) or abs(together) > (1 - 1e-6) * sqrt(spread[1] * spread[2])) then
    return "in the recording %s tokens and padded tokens go together: their parts cannot be told apart"
  end
end

-- --- judging ----------------------------------------------------------------------------

local function percentile(sorted, share) return sorted[max(1, ceil(share * #sorted))] end

-- How far the model is off: R2, root mean square, 90th percentiles of the absolute and the relative error.
local function judge_errors(fitted, batches)
  local mean, squares, all, offs, relative = mean_of(batches.seconds), 0, 0, {}, {}
  for i = 1, batches.n do
    local model, seconds = fitted.seconds(batches.tokens[i], batches.padded[i]), batches.seconds[i]
    local off = abs(seconds - model)
    squares, all = squares + off * off, all + (seconds - mean) ^ 2
    offs[i], relative[i] = off, off / max(LEAST_S, model)
  end
  table.sort(offs)
  table.sort(relative)
  fitted.r2 = all > 0 and 1 - squares / all or 1
  fitted.rmse_s, fitted.p90_s = sqrt(squares / batches.n), percentile(offs, 0.9)
  fitted.p90_relative = percentile(relative, 0.9)
end

-- How what is off goes on from batch to batch: autocorrelations of the logarithms of the ratios.
local function autocorrelations(ratios)
  local logs, sum, n = {}, 0, #ratios
  for i, ratio in ipairs(ratios) do
    logs[i] = log(max(1e-6, ratio))
    sum = sum + logs[i]
  end
  local mean, all, out = sum / n, 0, {}
  for i = 1, n do all = all + (logs[i] - mean) ^ 2 end
  for i, lag in ipairs(LAGS) do
    local together = 0
    for k = lag + 1, n do together = together + (logs[k] - mean) * (logs[k - lag] - mean) end
    out[i] = { lag = lag, value = all > 1e-12 * n and n > lag and together / all or nil }
  end
  return out
end

-- Episodes of slowness: batches that take more than twice as long as usual for their work, those with fewer
-- than five others between them taken together.
local function judge_slowness(fitted, batches)
  local ratios = {}
  for i = 1, batches.n do
    ratios[i] = batches.seconds[i] / max(LEAST_S, fitted.seconds(batches.tokens[i], batches.padded[i]))
  end
  local sorted = {}
  for i, ratio in ipairs(ratios) do sorted[i] = ratio end
  table.sort(sorted)
  local usual, episodes, last, busy, slow = percentile(sorted, 0.5), 0, -math.huge, 0, 0
  for i, seconds in ipairs(batches.seconds) do
    busy = busy + seconds
    if ratios[i] > SLOW * usual then
      if i - last > APART then episodes = episodes + 1 end
      last, slow = i, slow + seconds
    end
  end
  fitted.episodes, fitted.slow_share = episodes, busy > 0 and slow / busy or 0
  fitted.autocorrelation = autocorrelations(ratios)
  if episodes > 0 and episodes < EPISODES then
    fitted.too_short = ("%d episode%s of slowness; some %d are needed"):format(episodes, episodes == 1 and "" or "s",
      EPISODES)
  elseif episodes == 0 and batches.n < BATCHES then
    fitted.too_short = ("%d batches, and none of them slow; some %d batches are needed"):format(batches.n, BATCHES)
  end
end

local function text_of(a, b, c)
  local text = ("%.9g + %.9g*tokens"):format(a, b)
  return c and ("%s + %.9g*padded"):format(text, c) or text
end

--- @param with_padding boolean  fit c x padded, too
-- @return {a, b, c (none below 0), text, seconds = function(tokens, padded), n, left_out, r2, rmse_s, p90_s,
-- p90_relative, episodes (of slowness), slow_share (of busy time), autocorrelation (list of {lag, value or nil}),
-- too_short (why it says little of a p99, or nil), batches (by start: see read)}, or nil and a message
function M.of_recording(path, with_padding)
  local batches, message = read(path)
  if not batches then return nil, message end
  local terms = with_padding and 3 or 2
  if batches.n < ENOUGH * terms then
    return nil, ("the recording %s has %d batches that ran whole; %d are needed"):format(path, batches.n,
      ENOUGH * terms)
  end
  local problem = confusion(batches, with_padding)
  if problem then return nil, problem:format(path) end
  local factors = fit(batches, terms)
  local a, b, c = factors[1], factors[2], factors[3]
  local fitted = {
    a = a, b = b, c = c, n = batches.n, left_out = batches.left_out, text = text_of(a, b, c), batches = batches,
    seconds = function(tokens, padded) return a + b * tokens + (c or 0) * padded end,
  }
  judge_errors(fitted, batches)
  judge_slowness(fitted, batches)
  return fitted
end

return M
