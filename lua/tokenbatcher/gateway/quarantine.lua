--- Groups of records (a model, its fields, a credential) whose calls the upstream takes and does not answer: the
-- connection ends, or the time does. That says little of the upstream and much of the group, so it does not open the
-- upstream's circuit: each such group has a circuit of its own, and no other notices.
--
-- Nor does one input that the upstream breaks off at, sent again and again, close its group: a call that was cut off is
-- halved until the input is alone (calls.lua), and of calls with one input, different ones are counted. A call that
-- timed out is not halved, each half would take as long; it is counted as it is.

local circuit = require "tokenbatcher.backend.retry.circuit"

local M = {}
local Quarantine = {}
Quarantine.__index = Quarantine

local MOST_GROUPS = 256 -- in trouble at once: of their names clients may make as many as they like

--- @param p table  of circuit.new
function M.new(p)
  return setmetatable({ p = p, groups = {}, order = {} }, Quarantine)
end

local function forget(self, group)
  self.groups[group] = nil
  for i, name in ipairs(self.order) do
    if name == group then return table.remove(self.order, i) end
  end
end

-- The group's trouble, made where it has none; nil: nothing is held against anybody.
local function trouble_of(self, group)
  local known = self.groups[group]
  if known or self.p.pause_after == 0 then return known end
  if #self.order >= MOST_GROUPS then forget(self, self.order[1]) end
  known = { circuit = circuit.new(self.p), bodies = {} }
  self.groups[group] = known
  self.order[#self.order + 1] = group
  return known
end

--- Before a call. @return a role for what follows; or nil, and seconds until one may be asked for again
function Quarantine:enter(group)
  local known = self.groups[group]
  if not known then return "call" end
  local role = known.circuit:enter()
  if role then return role end
  return nil, known.circuit:describe({}).next_probe_s or self.p.probe_s
end

--- Is it uncertain whether a call of the group is answered?
function Quarantine:is_doubtful(group)
  local known = self.groups[group]
  return known ~= nil and known.circuit.state ~= "closed"
end

--- The call was answered, whatever it says.
function Quarantine:answered(group)
  if self.groups[group] then forget(self, group) end
end

--- The call has told nothing of the group.
function Quarantine:give_back(group, role)
  if self.groups[group] then self.groups[group].circuit:give_back(role) end
end

--- The upstream took the call and did not answer.
-- @param call table  is_cut (it ended the connection), inputs (how many), body, why
function Quarantine:failed(group, role, call)
  if call.is_cut and call.inputs > 1 and role ~= "probe" then return end -- it is halved
  local known = trouble_of(self, group)
  if not known then return end
  local is_known = call.is_cut and known.bodies[call.body]
  if is_known and role ~= "probe" then return end
  if call.is_cut and role ~= "probe" then known.bodies[call.body] = true end -- no more than open the circuit
  known.circuit:failed(role, { is_away = false, is_final = true, why = call.why })
end

return M
