--- The virtual clock: nothing waits, time jumps to the next deadline. The same program
-- takes the same steps in the same order every time.

local M = {}

--- @return table  a pump, see pump/libev.lua; its clock starts at 0
function M.new()
  local now = 0
  local pump = { is_virtual = true }

  function pump.now() return now end

  function pump.wait(deadline)
    if deadline and deadline > now then now = math.ceil(deadline) end
  end

  function pump.close() end

  function pump.external() return false end

  return pump
end

return M
