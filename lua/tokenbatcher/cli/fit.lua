--- tokenbatcher fit: what a batch took, from a recording, as a service model.

local fit = require "tokenbatcher.sim.fit"
local fit_device = require "tokenbatcher.cli.fit_device"

local M = { SUMMARY = "Fit a service model to a recording, or a device to a run." }

M.HELP = [[
Fits what a batch takes to the batches of a recording (run --record, option record): seconds =
a + b x tokens, or with --padded a + b x tokens + c x padded (records x the largest), none of them
negative, by least squares of the relative error. Batches in which a record failed are left out.
Prints the model, ready for simulate --service (as text, or this output as @FILE), its error, how
slowness goes on from batch to batch, how many episodes of it there were (batches more than twice as
long as usual for their work), and whether the recording says enough for a p99. Where all batches cost
the same it refuses: a and b cannot be told apart then. Exit status: 0 or 2.

With --device FOLDER, a run of a real server of continuous batching (meta.json and requests.jsonl, as
LLMServingSim's benchmark of vLLM writes them) in place of a recording: takes the device that ships for
its model, or --base, sets one factor so that the mean time of a token is the run's, and prints the
device, ready for simulate --device, with the error of all that a client sees.]]

--- @param command an argparse command
function M.declare(command)
  command:argument("recording", "A file that --record wrote."):args "?"
  command:option("--device", "Fit a device to this run, in place of a recording."):argname "<folder>"
  command:option("--base", "The device to begin with (default: by the run's model), as for simulate --device.")
    :argname "<device>"
  command:flag("--padded", "Fit what padding takes, too.")
end

local function autocorrelation(fitted)
  local parts = {}
  for i, one in ipairs(fitted.autocorrelation) do
    parts[i] = one.value and ("%.2f (%d)"):format(one.value, one.lag) or ("- (%d)"):format(one.lag)
  end
  return table.concat(parts, ", ")
end

--- @return number exit status, or nil and a message
function M.run(_, args)
  if args.device then
    if args.recording or args.padded then return nil, "fit: a recording, or --device FOLDER, not both" end
    return fit_device.run(args.device, args.base)
  end
  if not args.recording then return nil, "fit: a recording, or --device FOLDER, is needed" end
  if args.base then return nil, "fit: --base is for --device" end
  local fitted, message = fit.of_recording(args.recording, args.padded)
  if not fitted then return nil, message end
  io.stdout:write(
    ("service      %s\n"):format(fitted.text),
    ("batches      %d (%d in which a record failed left out)\n"):format(fitted.n, fitted.left_out),
    ("R2           %.4f\n"):format(fitted.r2),
    ("error        rms %.3f ms, p90 %.3f ms, relative p90 %.1f %%\n"):format(1e3 * fitted.rmse_s, 1e3 * fitted.p90_s,
      100 * fitted.p90_relative),
    ("slowness     %d episode%s, %.1f %% of the busy time\n"):format(fitted.episodes,
      fitted.episodes == 1 and "" or "s", 100 * fitted.slow_share),
    ("it goes on   autocorrelation (lag in batches) %s\n"):format(autocorrelation(fitted)),
    ("p99          %s\n"):format(fitted.too_short and "too short a recording: " .. fitted.too_short
      or "the recording is long enough to speak of it"))
  return 0
end

return M
