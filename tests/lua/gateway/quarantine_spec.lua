-- What a group's quarantine keeps: as many inputs as open its circuit, and none of the probes' afterwards.

local circuit = require "tokenbatcher.backend.retry.circuit"
local parameters = require "tokenbatcher.base.parameters"
local quarantine = require "tokenbatcher.gateway.quarantine"
local tb = require "tokenbatcher"

it("a quarantine keeps no inputs of failed probes", function()
  tb.run(function()
    local p = parameters.read("circuit", circuit.options, { pause_after = 3, probe_s = 1, max_probe_s = 1 })
    local held = quarantine.new(p)
    local n = 0
    local function fail(role)
      n = n + 1
      held:failed("g", role, { is_cut = true, inputs = 1, body = "body " .. n, why = "closed" })
    end
    for _ = 1, 3 do fail(assert(held:enter "g")) end
    for _ = 1, 20 do
      tb.sleep(5)
      local role = assert(held:enter "g")
      assert.equal("probe", role)
      fail(role)
    end
    local kept = 0
    for _ in pairs(held.groups.g.bodies) do kept = kept + 1 end
    assert.equal(3, kept)
  end, { clock = "virtual" })
end)
