--- Reads an answer of an OpenAI-compatible server: pairs its items with the inputs by their
-- `index`, and trusts nothing. Whatever is wrong is one sentence about the whole answer.

local json = require "tokenbatcher.base.json"

local M = {}

local EXCERPT = 160 -- bytes

--- The beginning of a text for messages: on one line, bounded.
function M.excerpt(text)
  local short = text:sub(1, EXCERPT):gsub("[%c\127-\255]+", " ")
  return #text > EXCERPT and short .. " ..." or short
end

--- @return any value, or nil and a message
function M.decode(text)
  local value, message = json.decode(text)
  if message then return nil, "is not JSON (" .. tostring(message) .. ")" end
  return value
end

-- JSON's 1e999 is read as infinity.
local function is_finite(value)
  return type(value) == "number" and value - value == 0
end

local function embedding_of(item)
  local vector = item.embedding
  if type(vector) ~= "table" or #vector == 0 then return nil, "has no embedding that is a list of numbers" end
  for i = 1, #vector do
    if not is_finite(vector[i]) then return nil, ("has an embedding whose element %d is no number"):format(i) end
  end
  return vector
end

local function text_of(item)
  if type(item.text) == "string" then return item.text end
  return nil, "has no text"
end

--- By endpoint: the field with the texts, the list in the answer, what an item holds, and is that a text.
M.endpoints = {
  embeddings = { input = "input", list = "data", value_of = embedding_of },
  completions = { input = "prompt", list = "choices", value_of = text_of, is_text = true },
}

-- The place of an item among n inputs, or nil and what is wrong.
local function place_of(item, n, taken)
  local index = item.index
  if type(index) ~= "number" then return nil, "has no index" end
  if index % 1 ~= 0 or index < 0 or index >= n then
    return nil, ("has the index %.14g, which is none of 0 to %d"):format(index, n - 1)
  end
  if taken[index + 1] ~= nil then return nil, ("has the index %d, which another has, too"):format(index) end
  return index + 1
end

local function read_item(item, n, values, endpoint, raw)
  if type(item) ~= "table" then return nil, "is not an object" end
  local place, problem = place_of(item, n, values)
  if not place then return nil, problem end
  if raw then
    values[place] = item
    return true
  end
  values[place], problem = endpoint.value_of(item)
  return values[place] ~= nil, problem
end

-- A model's vectors are of one length.
local function check_lengths(vectors)
  for i = 2, #vectors do
    if #vectors[i] ~= #vectors[1] then
      return nil, ("has embeddings of %d and of %d numbers"):format(#vectors[1], #vectors[i])
    end
  end
  return true
end

--- @param body string  @param n number  of inputs  @param endpoint table  of M.endpoints
-- @param raw boolean  give items instead of what they hold
-- @return values (for each input, in order) and usage or nil; or nil, nil and what is wrong
function M.read(body, n, endpoint, raw)
  local answer, problem = M.decode(body)
  if problem then return nil, nil, problem end
  local list = type(answer) == "table" and answer[endpoint.list]
  if type(list) ~= "table" then return nil, nil, ("has no list '%s'"):format(endpoint.list) end
  if #list ~= n then return nil, nil, ("has %d items for %d inputs"):format(#list, n) end
  local values = {}
  for i = 1, n do
    local ok, why = read_item(list[i], n, values, endpoint, raw)
    if not ok then return nil, nil, ("is wrong: item %d %s"):format(i, why) end
  end
  if endpoint.value_of == embedding_of and not raw then
    local ok, why = check_lengths(values)
    if not ok then return nil, nil, why end
  end
  return values, type(answer.usage) == "table" and answer.usage or nil
end

return M
