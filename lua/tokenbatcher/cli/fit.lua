--- tokenbatcher fit: what a batch took, from a recording, as a service model.

local fit = require "tokenbatcher.sim.fit"

local M = { SUMMARY = "Fit a service model to a recording." }

M.HELP = [[
Fits what a batch takes to the batches of a recording (run --record, option record), by
least squares: seconds = a + b x tokens, or with --padded a + b x tokens + c x padded
(records x the largest). Batches in which a record failed are left out. Prints the model,
ready for simulate --service, and its error. Where all batches cost the same it refuses: a
and b cannot be told apart then. Exit status: 0 or 2.]]

--- @param command an argparse command
function M.declare(command)
  command:argument("recording", "A file that --record wrote.")
  command:flag("--padded", "Fit what padding takes, too.")
end

--- @return number exit status, or nil and a message
function M.run(_, args)
  local fitted, message = fit.of_recording(args.recording, args.padded)
  if not fitted then return nil, message end
  io.stdout:write(
    ("service      %s\n"):format(fitted.text),
    ("batches      %d (%d in which a record failed left out)\n"):format(fitted.n, fitted.left_out),
    ("R2           %.4f\n"):format(fitted.r2),
    ("error        rms %.3f ms, p90 %.3f ms\n"):format(1e3 * fitted.rmse_s, 1e3 * fitted.p90_s))
  if fitted.a < 0 then
    io.stderr:write("tokenbatcher: what any batch takes came out below zero; small batches may, too\n")
  end
  return 0
end

return M
