--- Reads a server's answer: pairs its items with the inputs, and trusts nothing. Whatever is wrong is one
-- sentence about the whole answer.
--
-- Items are paired by their index. Where none has one, the order is that of the inputs; where some have,
-- theirs must say the same.

local json = require "tokenbatcher.base.json"

local M = {}

local EXCERPT = 160 -- bytes
local MARK = "\239\187\191" -- a byte order mark

--- The beginning of a text for messages: on one line, bounded.
function M.excerpt(text)
  local short = text:sub(1, EXCERPT):gsub("[%c\127-\255]+", " ")
  return #text > EXCERPT and short .. " ..." or short
end

--- @return any value, or nil and a message
function M.decode(text)
  if text:sub(1, #MARK) == MARK then text = text:sub(#MARK + 1) end
  local value, message = json.decode(text)
  if message then return nil, "is not JSON (" .. tostring(message) .. ")" end
  return value
end

--- Nothing, or JSON's null.
function M.is_none(value)
  return value == nil or type(value) == "userdata"
end
local is_none = M.is_none

--- JSON's 1e999 is read as infinity.
function M.is_finite(value)
  return type(value) == "number" and value - value == 0
end

--- What is below a path, a list of names; nil: there is nothing.
function M.at(value, path)
  for _, name in ipairs(path) do
    if type(value) ~= "table" then return nil end
    value = value[name]
  end
  if is_none(value) then return nil end
  return value
end

-- --- which item is whose ----------------------------------------------------------------------

local function check_index(index, n, taken)
  if type(index) ~= "number" then return ("has the index %s, which is no number"):format(tostring(index):sub(1, 20)) end
  if index % 1 ~= 0 or index < 0 or index >= n then
    return ("has the index %.14g, which is none of 0 to %d"):format(index, n - 1)
  end
  if taken[index + 1] then return ("has the index %d, which another has, too"):format(index) end
end

-- The place of each item, or nil and what is wrong.
local function places_of(list, n, index_name)
  local places, taken, without, moved = {}, {}, nil, nil
  for i = 1, #list do
    local item = list[i]
    if type(item) ~= "table" then return nil, ("is wrong: item %d is not an object"):format(i) end
    local index = item[index_name]
    if is_none(index) then
      without = without or i
      places[i] = i
    else
      local problem = check_index(index, n, taken)
      if problem then return nil, ("is wrong: item %d %s"):format(i, problem) end
      places[i], taken[index + 1] = index + 1, true
      if index + 1 ~= i then moved = i end
    end
  end
  if without and moved then
    return nil, ("is wrong: item %d has no index, and item %d has another than its place"):format(without, moved)
  end
  return places
end

--- @param list any  what the answer holds  @param n number  of inputs  @param index_name string|nil
-- @param value_of function  (item) -> its value, or nil and what is wrong
-- @return values, for each input, in order; or nil and what is wrong with the answer
function M.pair(list, n, index_name, value_of)
  if #list ~= n then return nil, ("has %d items for %d inputs"):format(#list, n) end
  local places, problem
  if index_name then
    places, problem = places_of(list, n, index_name)
    if not places then return nil, problem end
  end
  local values = {}
  for i = 1, n do
    local value, why = value_of(list[i])
    if is_none(value) then return nil, ("is wrong: item %d %s"):format(i, why or "has no value") end
    values[places and places[i] or i] = value
  end
  return values
end

-- --- whole answers -------------------------------------------------------------------------------

local function usage_of(answer, path)
  local usage = M.at(answer, path)
  if type(usage) == "number" then return { total_tokens = usage } end
  return type(usage) == "table" and usage or nil
end

local function itself(item)
  if is_none(item) then return nil, "is null" end
  return item
end

local function read_list(answer, endpoint, n, raw)
  local list = M.at(answer, endpoint.list)
  if type(list) ~= "table" or #list == 0 and next(list) ~= nil then
    return nil, endpoint.list[1] and ("has no list '%s'"):format(table.concat(endpoint.list, ".")) or "is no list"
  end
  local values, problem = M.pair(list, n, endpoint.index, raw and itself or endpoint.value_of)
  if not values then return nil, problem end
  if not raw and endpoint.check_all then
    problem = endpoint.check_all(values)
    if problem then return nil, problem end
  end
  return values
end

--- @param body string  @param inputs table  what was asked for: see records.lua  @param endpoint table  see
-- endpoints.lua  @param raw boolean  give items instead of what they hold
-- @return values (for each input, in order) and usage or nil; or nil, nil and what is wrong
function M.read(body, inputs, endpoint, raw)
  local answer, problem = M.decode(body)
  if problem then return nil, nil, problem end
  local values
  if endpoint.has_lists then
    values, problem = read_list(answer, endpoint, #inputs, raw)
  else
    local value
    value, problem = endpoint.read(answer, inputs[1], raw)
    values = not is_none(value) and { value } or nil
  end
  if not values then return nil, nil, problem end
  return values, usage_of(answer, endpoint.usage or { "usage" })
end

return M
