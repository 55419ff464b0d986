--- TEI's /predict: classes of texts, or of pairs of texts. "a" and ["a", "b"] (a pair) are one input, answered by one
-- list of {score, label}; [["a"], ["b", "c"]] are two.

local support = require "tokenbatcher.gateway.protocols.support"
local tei = require "tokenbatcher.gateway.protocols.tei"

-- A text, [text] or [text, text], always sent as a list.
local function read_one(value, where, name, most)
  local list = type(value) == "string" and { value } or value
  if not support.is_list(list) or #list > 2 or #list == 0 then
    return support.refuse("invalid_input", ("'%s' must be a string, or a list of one or two"):format(where), name)
  end
  local parts, cost = {}, 0
  for i, text in ipairs(list) do
    if type(text) ~= "string" then
      return support.refuse("invalid_input", ("'%s[%d]' must be a string"):format(where, i - 1), name)
    end
    local part, part_cost = support.of_text(text, ("%s[%d]"):format(where, i - 1), name, most)
    if not part then return nil, part_cost end
    parts[i], cost = part, cost + part_cost
  end
  return "[" .. table.concat(parts, ",") .. "]", cost
end

local function is_single(value)
  return type(value) == "string" or support.is_list(value) and type(value[1]) == "string"
end

return tei.new { name = "predict", path = "/predict", read_one = read_one, is_single = is_single }
