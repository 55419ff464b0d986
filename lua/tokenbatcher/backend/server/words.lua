--- What of a server's words people may see. They may repeat what was sent: the key, which nobody may
-- see, and texts of other records, which the record that gets the error must not show.

local answers = require "tokenbatcher.backend.server.answer"
local base64 = require "tokenbatcher.backend.server.base64"

local M = {}
local Words = {}
Words.__index = Words

local SECRET_WORDS = { "auth", "key", "token", "secret", "cookie", "sig" } -- in a header's or a parameter's name
local LEAST = 4 -- bytes of a secret, or of a text, that can be told from chance

-- --- secrets ------------------------------------------------------------------------------

local function is_secret(name)
  for _, word in ipairs(SECRET_WORDS) do
    if name:lower():find(word, 1, true) then return true end
  end
  return false
end

local function add(secrets, text)
  if text and #text >= LEAST then secrets[#secrets + 1] = text end
end

-- The key, what headers such as Azure's api-key or a cookie hold, and what is secret in a URL.
local function secrets_of(headers, url, key)
  local secrets = { key }
  for name, value in pairs(headers) do
    if is_secret(name) then add(secrets, (tostring(value):gsub("^%a+ +", ""))) end -- without a scheme, such as Bearer
  end
  local login = url:match "^%w+://([^/?#]*)@"
  if login then
    add(secrets, base64.encode(login))
    add(secrets, login:match ":(.*)$" or login)
  end
  for name, value in url:gmatch "[?&]([^=&#]*)=([^&#]*)" do
    if is_secret(name) then add(secrets, value) end
  end
  table.sort(secrets, function(a, b) return #a > #b or #a == #b and a < b end) -- one may be part of another
  return secrets
end

local function replace(text, part)
  return (text:gsub(part:gsub("%p", "%%%0"), "(the key)"))
end

-- Also where JSON escapes it, or where the text ends within it.
local function redact_one(text, key)
  text = replace(replace(text, key), (key:gsub("/", "\\/")))
  for n = #key - 1, LEAST, -1 do
    if text:sub(-n) == key:sub(1, n) then return text:sub(1, -n - 1) .. "(the key)" end
  end
  return text
end

--- @return string  text without any of the secrets
function Words:redact(text)
  for _, key in ipairs(self.secrets) do text = redact_one(text, key) end
  return text
end

-- --- texts of records -----------------------------------------------------------------------

local WINDOW = 12 -- bytes: two texts that share more than twice as many share one of every other's pieces

-- Do the words repeat a part of the text?
local function repeats(words, text)
  if #text < LEAST then return false end
  if #text <= 2 * WINDOW then return words:find(text, 1, true) ~= nil end
  for at = 1, #words - WINDOW + 1, WINDOW do
    if text:find(words:sub(at, at + WINDOW - 1), 1, true) then return true end
  end
  return false
end

local LEFT_OUT = "(its words repeat a text, and are not shown)"

--- The beginning of the server's words, for an error that goes to all of `texts`: where they repeat one
-- of several, nobody gets to see them.
function Words:excerpt(words, texts)
  words = answers.excerpt(self:redact(words))
  if #texts < 2 then return words end
  for i = 1, #texts do
    if repeats(words, texts[i]) then return LEFT_OUT end
  end
  return words
end

--- @param headers table  as a user gave them  @param url string  @param key string|nil
function M.new(headers, url, key)
  return setmetatable({ secrets = secrets_of(headers, url, key) }, Words)
end

return M
