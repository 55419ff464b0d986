--- tb.Prompt(text): a record that knows its own cost.

local errors = require "tokenbatcher.base.errors"

local Prompt = {}
Prompt.__index = Prompt

--- About four bytes to a token. @return number  floor(#text / 4) + 1
function Prompt:estimate_tokens()
  return math.floor(#self.text / 4) + 1
end

--- @param text string
return function(text)
  if type(text) ~= "string" then errors.misuse("Prompt: text must be a string, got a " .. type(text)) end
  return setmetatable({ text = text }, Prompt)
end
