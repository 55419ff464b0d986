--- Fits a device to a recorded run: the shape of a known one, times one factor, so that the mean time of a
-- token is that of the run. The figures that it then gives are compared with those of the run.

local devices = require "tokenbatcher.sim.device"
local presets = require "tokenbatcher.sim.device.presets"
local runs = require "tokenbatcher.sim.device.run"

local M = {}

local FROM, TO, HALVINGS = 1 / 64, 64, 24
local TPOT_MEAN = 5 -- its place among the figures

local function relative(measured, simulated)
  local out, worst = {}, 0
  for i, figure in ipairs(measured) do
    out[i] = figure[2] > 0 and simulated[i][2] / figure[2] - 1 or 0
    worst = math.max(worst, math.abs(out[i]))
  end
  return out, worst
end

local function figures_of(run, device)
  local rows, message = runs.simulate(run.requests, device)
  if not rows then return nil, message end
  return runs.figures(rows)
end

-- The factor at which the mean time of a token is that of the run. It grows with the factor.
local function calibrate(run, device, measured)
  local low, high = math.log(FROM), math.log(TO)
  for at, name in pairs { [low] = "fast", [high] = "slow" } do
    local figures, message = figures_of(run, device:with(math.exp(at)))
    if not figures then return nil, message end
    local is_beyond = figures[TPOT_MEAN][2] > measured[TPOT_MEAN][2]
    if is_beyond == (at == low) then
      return nil, ("a token takes %.3g s there in the mean, more than %d times as %s as the device: are its times in "
        .. "seconds?"):format(measured[TPOT_MEAN][2], TO, name)
    end
  end
  for _ = 1, HALVINGS do
    local middle = (low + high) / 2
    local figures, message = figures_of(run, device:with(math.exp(middle)))
    if not figures then return nil, message end
    if figures[TPOT_MEAN][2] < measured[TPOT_MEAN][2] then low = middle else high = middle end
  end
  return math.exp((low + high) / 2)
end

-- One base with the run's limits, calibrated, with its errors before and after.
local function try(run, base, limits, measured)
  local as_is = base:with(base.factor, limits)
  local before, message = figures_of(run, as_is)
  if not before then return nil, message end
  local factor
  factor, message = calibrate(run, as_is, measured)
  if not factor then return nil, message end
  local fitted = as_is:with(factor)
  local out = { base = base, device = fitted, factor = factor }
  out.before, out.worst_before = relative(measured, before)
  out.after, out.worst = relative(measured, figures_of(run, fitted))
  return out
end

local function bases_of(run, base_text)
  if base_text then
    local base, message = devices.parse(base_text)
    if not base then return nil, message:gsub("^%-%-device", "--base") end
    return { base }, "given"
  end
  local names = presets.serving(run.model, run.gpu, run.parallel)
  local why = #names > 0 and "the preset of its model" or "no preset has its model; of all, the one that comes closest"
  local limits = run.limits
  if #names == 0 then
    names = presets.names()
    limits.kv = limits.kv or false -- that of another card says nothing
  end
  local out = {}
  for i, name in ipairs(names) do out[i] = assert(devices.parse("preset:" .. name)) end
  return out, why
end

--- @param folder string  see run.lua  @param base_text string|nil  a device as for --device; nil: by the run's model
-- @return {device, base, factor, why, run, measured (figures), before, after (relative errors), worst_before, worst},
-- or nil and a message
function M.of_run(folder, base_text)
  local run, message = runs.read(folder)
  if not run then return nil, message end
  local measured = runs.figures(run.requests)
  if measured[TPOT_MEAN][2] <= 0 then
    return nil, ("the run %s has no request with two output tokens: nothing to set the factor by"):format(folder)
  end
  local bases, why = bases_of(run, base_text)
  if not bases then return nil, why end
  local best, problem
  for _, base in ipairs(bases) do
    local tried
    tried, problem = try(run, base, run.limits, measured)
    if tried and (not best or tried.worst < best.worst) then best = tried end
  end
  if not best then return nil, ("the run %s: %s"):format(folder, problem) end
  best.run, best.measured, best.why = run, measured, why
  return best
end

return M
