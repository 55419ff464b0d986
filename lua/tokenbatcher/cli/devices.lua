--- tokenbatcher devices: the simulated servers that ship, what they are made of, and what was checked.

local devices = require "tokenbatcher.sim.device"
local presets = require "tokenbatcher.sim.device.presets"

local M = { SUMMARY = "List the devices that ship, for simulate --device preset:NAME." }

M.HELP = [[
Lists the devices that ship: servers of continuous batching on a GPU with a model, where their times
come from, and what was checked against a real run. simulate --device preset:NAME uses one,
fit --device FOLDER calibrates one to a run of yours.]]

--- @return number exit status
function M.run()
  for i, name in ipairs(presets.names()) do
    local device = assert(devices.parse("preset:" .. name))
    io.stdout:write(i > 1 and "\n" or "", name, "\n")
    for _, line in ipairs { device.about, device.checked, device.text } do io.stdout:write("    ", line, "\n") end
  end
  return 0
end

return M
