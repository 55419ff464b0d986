--- Small numbers for key strings, for as long as a record that is not dispatched yet has
-- the key: an idle key takes no memory. 0 is "", a record without a key.

local M = {}
local Keys = {}
Keys.__index = Keys

function M.new()
  return setmetatable({ ids = { [""] = 0 }, names = { [0] = "" }, uses = {}, free = {}, last = 0 }, Keys)
end

--- The number of a key, for one more record. @param name string
function Keys:take(name)
  local id = self.ids[name]
  if not id then
    id = table.remove(self.free)
    if not id then
      self.last = self.last + 1
      id = self.last
    end
    self.ids[name], self.names[id], self.uses[id] = id, name, 0
  end
  if id > 0 then self.uses[id] = self.uses[id] + 1 end
  return id
end

--- One record with this number less.
function Keys:give(id)
  if id == 0 then return end
  local left = self.uses[id] - 1
  self.uses[id] = left
  if left > 0 then return end
  self.ids[self.names[id]], self.names[id], self.uses[id] = nil, nil, nil
  self.free[#self.free + 1] = id
end

function Keys:name(id) return self.names[id] end

function Keys:id(name) return self.ids[name] end

return M
