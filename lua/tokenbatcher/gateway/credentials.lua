--- Who pays: which credential goes upstream with a request.
--
--   "config"       the upstream's own, whoever asks
--   "passthrough"  what the client sent (Authorization, x-api-key, api-key; OpenAI-Organization and OpenAI-Project,
--                  which say who pays, too). Who pays by one credential shares no call with another's: a salted hash
--                  of it is part of the group
--   a table        {[a client's key] = the key to send for it, or true: the upstream's own}; others are refused

local problems = require "tokenbatcher.gateway.problems"
local pseudonym = require "tokenbatcher.base.pseudonym"

local M = {}
local Credentials = {}
Credentials.__index = Credentials

local MOST_KNOWN = 4096 -- hashes kept for later

local NAMES = { "authorization", "x-api-key", "api-key", "openai-organization", "openai-project" }

--- The upstream's own credential: nothing of the client's goes along.
local OWN = { headers = {} }

--- @param auth string|table  as above  @param secret string  of pseudonym.secret()
function M.new(auth, secret)
  return setmetatable({ auth = auth, secret = secret, known = {}, count = 0 }, Credentials)
end

-- Two hashes of 64 bits: no two credentials have both in common.
local function name_of(self, text)
  return pseudonym.hash(self.secret, "1" .. text) .. pseudonym.hash(self.secret, "2" .. text)
end

local function remember(self, text, credential)
  if self.count >= MOST_KNOWN then self.known, self.count = {}, 0 end
  self.known[text], self.count = credential, self.count + 1
  return credential
end

local function passed_through(self, headers)
  local authorization, x_api_key, api_key = headers.authorization, headers["x-api-key"], headers["api-key"]
  local organization, project = headers["openai-organization"], headers["openai-project"]
  local text = (authorization or "") .. "\n" .. (x_api_key or "") .. "\n" .. (api_key or "") .. "\n"
    .. (organization or "") .. "\n" .. (project or "")
  return self.known[text] or remember(self, text, { id = name_of(self, text),
    headers = { authorization = authorization or nil, ["x-api-key"] = x_api_key or nil, ["api-key"] = api_key or nil,
      ["openai-organization"] = organization or nil, ["openai-project"] = project or nil } })
end

--- The key that a client sent, without a scheme such as Bearer, or nil.
local function client_key(headers)
  local authorization = headers.authorization
  if authorization then return authorization:match "^%a+ +(.-) *$" or authorization end
  return headers["x-api-key"] or headers["api-key"]
end

local function looked_up(self, headers)
  local key = client_key(headers)
  local to_send = key and self.auth[key]
  if to_send == true then return OWN end
  if not to_send then
    return nil, problems.new(401, "invalid_api_key", key and "the API key is not known here"
      or "an API key is needed: Authorization: Bearer ...")
  end
  return self.known[to_send] or remember(self, to_send, { id = name_of(self, to_send),
    headers = { authorization = "Bearer " .. to_send } })
end

--- @param headers table  of the request, lower-case names
-- @return {id (nil: the upstream's own), headers to send}, or nil and a problem
function Credentials:of(headers)
  if self.auth == "config" then return OWN end
  if self.auth == "passthrough" then return passed_through(self, headers) end
  return looked_up(self, headers)
end

--- The headers of a request that is passed on: name -> value, false where there must be none.
-- @param own table|nil  what the upstream's own credential is
function Credentials.to_pass(_, credential, own)
  local out = {}
  for _, name in ipairs(NAMES) do out[name] = false end
  for name, value in pairs(credential.id and credential.headers or own or {}) do out[name] = value end
  return out
end

--- Is what a client says of itself checked before it is believed?
function Credentials:are_verified() return type(self.auth) == "table" end

--- Is what the upstream says of the credential (401, 403) for the client to read?
function Credentials:are_the_clients() return self.auth == "passthrough" end

--- The keys that no client may see. @param list string[]  to add them to
function Credentials:add_secrets(list)
  if type(self.auth) ~= "table" then return end
  for _, key in pairs(self.auth) do
    if type(key) == "string" then list[#list + 1] = key end
  end
end

return M
