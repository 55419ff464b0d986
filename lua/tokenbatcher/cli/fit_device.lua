--- tokenbatcher fit --device FOLDER: a simulated device that is as fast as a recorded run's server.

local fit = require "tokenbatcher.sim.device.fit"

local M = {}

local function percent(value) return ("%+.1f %%"):format(100 * value) end

local function limit_text(limits)
  return ("%d sequences, %d tokens an iteration, %s"):format(limits.seqs, limits.tokens,
    limits.kv and ("%d KV tokens"):format(limits.kv) or "no limit of the KV cache")
end

--- Print it. @return number exit status, or nil and a message
function M.run(folder, base_text)
  local fitted, message = fit.of_run(folder, base_text)
  if not fitted then return nil, message end
  local run, base = fitted.run, fitted.base
  io.stdout:write(
    ("device       %s\n"):format(fitted.device.text),
    ("base         %s (%s), times %.4f by the run's mean time of a token\n"):format(
      base.name and "preset:" .. base.name or base.text, fitted.why, fitted.factor / base.factor),
    ("run          %s, tensor parallel %d, %d requests%s; %s\n\n"):format(run.model, run.parallel,
      #run.requests, run.failed > 0 and (" (%d more have failed, left out)"):format(run.failed) or "",
      limit_text(fitted.device.limits)),
    ("%-12s %10s %12s %12s\n"):format("seconds", "measured", "as it was", "calibrated"))
  for i, figure in ipairs(fitted.measured) do
    io.stdout:write(("%-12s %10.4f %12s %12s\n"):format(figure[1], figure[2], percent(fitted.before[i]),
      percent(fitted.after[i])))
  end
  io.stdout:write(("%-12s %10s %12s %12s\n"):format("worst", "", ("%.1f %%"):format(100 * fitted.worst_before),
    ("%.1f %%"):format(100 * fitted.worst)))
  io.stderr:write("tokenbatcher: the factor was set on the run that it is compared with; another run tells more\n")
  return 0
end

return M
