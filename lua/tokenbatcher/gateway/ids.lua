--- Names of requests: a client's own where it sent a usable one, else one that is made.

local pseudonym = require "tokenbatcher.base.pseudonym"

local M = {}
local Ids = {}
Ids.__index = Ids

local MOST = 128

--- A maker of names, whose names no other's are like: a worker needs one of its own.
function M.new()
  local secret = assert(pseudonym.secret())
  return setmetatable({ beginning = "tb-" .. pseudonym.hash(secret, "id"):sub(1, 10), n = 0 }, Ids)
end

function Ids:new()
  self.n = self.n + 1
  return ("%s-%x"):format(self.beginning, self.n)
end

--- @param given string|nil  the client's x-request-id
function Ids:of(given)
  if given and #given <= MOST and given:find "^[%w_.:/+=@-]+$" then return given end
  return self:new()
end

return M
