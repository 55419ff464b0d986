--- Who waits: the key by which the policy `fair` shares an upstream. It is what the client says of itself
-- (Authorization, else x-api-key), else its address; always as a salted hash.
--
-- A key that nobody checks costs nothing to invent, and each would get a share. So an address has at most
-- MOST_KEYS at a time; what comes beyond shares one of the address. The addresses themselves are bounded, too.

local clock = require "tokenbatcher.runtime.clock"
local errors = require "tokenbatcher.base.errors"
local pseudonym = require "tokenbatcher.base.pseudonym"

local M = {}
local Fairness = {}
Fairness.__index = Fairness

local IDLE_US = 60 * 1e6 -- a key that was not seen for so long makes room for another
local MOST_ADDRESSES = 5000 -- twice as many are remembered
local MOST_HASHES = 4096

local FROM = {
  authorization = function(request) return request.headers.authorization end,
  ["x-api-key"] = function(request) return request.headers["x-api-key"] end,
  consumer = function(request) return request.consumer end,
  ip = function() return nil end,
}

local OF_HEADER = "^header:([%l%d_-]+)$"

--- What may be given for `key`, but for a function.
M.names = { "authorization", "consumer", "header:NAME", "ip", "x-api-key" }

--- Is it one of them? NAME is a header's, in lower case.
function M.is_name(key) return FROM[key] ~= nil or type(key) == "string" and key:find(OF_HEADER) ~= nil end

--- @param given table  key (one of the names, a function(request), or nil),
-- most_keys of an address (0: no limit), is_verified: keys are checked before they come here; knows(name), or nil: is
-- it one that the configuration names?
function M.new(secret, given)
  local header = type(given.key) == "string" and given.key:match(OF_HEADER)
  return setmetatable({ secret = secret, key = given.key, header = header, most_keys = given.most_keys,
    is_verified = given.is_verified, knows = given.knows,
    young = {}, old = {}, n_young = 0, hashes = {}, n_hashes = 0 }, Fairness)
end

local function hash(self, text)
  local known = self.hashes[text]
  if known then return known end
  if self.n_hashes >= MOST_HASHES then self.hashes, self.n_hashes = {}, 0 end
  known = pseudonym.hash(self.secret, text)
  self.hashes[text], self.n_hashes = known, self.n_hashes + 1
  return known
end

-- Who has an address of IPv6 has all of its network.
local function network_of(address)
  if not address or not address:find(":", 1, true) or address:find "^unix:" then return address or "" end
  local groups = {}
  for group in (address:match "^(.-)::" or address):gmatch "%x+" do groups[#groups + 1] = group end
  return table.concat(groups, ":", 1, math.min(4, #groups)) .. "::"
end

-- What is remembered of an address: {keys = name -> when it was last seen, n}.
local function entry_of(self, network)
  local entry = self.young[network]
  if entry then return entry end
  if self.n_young >= MOST_ADDRESSES then self.old, self.young, self.n_young = self.young, {}, 0 end
  entry = self.old[network] or { keys = {}, n = 0 }
  self.young[network], self.n_young = entry, self.n_young + 1
  return entry
end

local function forget_idle(entry, now)
  for name, seen_us in pairs(entry.keys) do
    if now - seen_us > IDLE_US then entry.keys[name], entry.n = nil, entry.n - 1 end
  end
end

local function may_have(self, entry, name, now)
  if not entry.keys[name] then
    if entry.n >= self.most_keys then forget_idle(entry, now) end
    if entry.n >= self.most_keys then return false end
    entry.n = entry.n + 1
  end
  entry.keys[name] = now
  return true
end

-- @return the name, and has it been checked by somebody
local function name_of(self, request)
  local key = self.key
  if key == nil then
    return request.headers.authorization or request.headers["x-api-key"], self.is_verified
  end
  if self.header then return request.headers[self.header], self.is_verified end
  if type(key) == "string" then return FROM[key](request), self.is_verified or key == "consumer" end
  local ok, name = pcall(key, request)
  if not ok then error("gateway: the function fairness_key raised: " .. errors.text(name), 0) end
  return name and tostring(name), true
end

--- @param request table  headers, address, consumer
-- @return string  16 hexadecimal digits; and the name that they are of, if it is not the address
function Fairness:of(request)
  local name, is_checked = name_of(self, request)
  local network = network_of(request.address)
  if name and not is_checked and self.knows then is_checked = self.knows(name) end
  if name and (is_checked or self.most_keys == 0
    or may_have(self, entry_of(self, network), hash(self, "key " .. name), clock.now_us())) then
    return hash(self, "key " .. name), name
  end
  return hash(self, "address " .. network)
end

return M
