--- What the protocols share: reading lists of inputs, and what of a body stands beside them.
--
-- A protocol is {name, paths, presets (nil: all), read, request, cut, answer}:
--
--   read(asked, body, limits) -> true, with {inputs (JSON texts), costs, head, ...} put into `asked`; or nil and a
--     problem; or nil, PASS where the request is not one that can be batched, and goes on as it is. `head` is all that
--     is not an input: what is equal there may share a call
--   request(head, inputs) -> the body of a call
--   cut(body, n) -> the items of the answer in the order of the inputs, usage {prompt, completion} or nil, and what
--     else the answer says {model (JSON), created}; or nil and what is wrong with it
--   answer(asked, results) -> the body for who asked; or nil and what is wrong with an item. A result is {item, prompt,
--     completion, about}

local errors = require "tokenbatcher.base.errors"
local json = require "tokenbatcher.base.json"
local problems = require "tokenbatcher.gateway.problems"

local M = { PASS = "pass" }

local MOST_HEAD = 16384 -- bytes: beyond, a request travels alone
local MOST_TOKEN = 2 ^ 31
local MOST_MODEL = 256

local function refuse(code, message, param) return nil, problems.new(400, code, message, param) end
M.refuse = refuse

--- The estimated tokens of a text.
function M.cost_of_text(text) return #text / 4 + 1 end

local function is_token(value)
  return type(value) == "number" and value >= 0 and value < MOST_TOKEN and value % 1 == 0
end

--- Is it a JSON list? (An empty one is known by its mark, others by what they hold.)
function M.is_list(value)
  if type(value) ~= "table" then return false end
  local mark = getmetatable(value)
  if type(mark) == "table" and mark.__jsontype then return mark.__jsontype == "array" end
  return value[1] ~= nil
end
local is_list = M.is_list

local function too_costly(where, name)
  return refuse("oversize", ("'%s' is larger than the gateway takes"):format(where), name)
end

--- A text as an input. @param most number  tokens  @return JSON text and cost; or nil and a problem
function M.of_text(text, where, name, most)
  if text == "" then return refuse("empty_input", ("'%s' must not be empty"):format(where), name) end
  local cost = M.cost_of_text(text)
  if cost > most then return too_costly(where, name) end
  return json.encode(text), cost
end
local of_text = M.of_text

-- A list of token ids is one input.
local function of_tokens(list, where, name, most)
  if #list > most then return too_costly(where, name) end
  for i = 1, #list do
    if not is_token(list[i]) then
      return refuse("invalid_input", ("'%s[%d]' must be a token: a whole number from 0"):format(where, i - 1), name)
    end
  end
  return "[" .. table.concat(list, ",") .. "]", #list
end

-- @param most number  tokens of an input  @return JSON text and cost; or nil and a problem
local function of_one(value, where, name, most)
  if type(value) == "string" then return of_text(value, where, name, most) end
  if is_list(value) and #value > 0 then return of_tokens(value, where, name, most) end
  if is_list(value) then return refuse("empty_input", ("'%s' must not be empty"):format(where), name) end
  return refuse("invalid_input", ("'%s' must be a string or a list of tokens"):format(where), name)
end

-- A list of inputs.
local function read_list(asked, list, name, limits, read_one)
  local most = limits.inputs
  if #list > most then
    return refuse("too_many_inputs", ("'%s' holds %d inputs, and at most %d are taken"):format(name, #list, most), name)
  end
  local inputs, costs, sum = {}, {}, 0
  for i = 1, #list do
    local text, cost = read_one(list[i], ("%s[%d]"):format(name, i - 1), name, limits.input_cost)
    if not text then return nil, cost end
    inputs[i], costs[i], sum = text, cost, sum + cost
    if sum > limits.list_cost then
      return nil, problems.new(413, "batch_too_large", ("'%s' is larger than the gateway's queue: send it in parts")
        :format(name), name)
    end
  end
  asked.inputs, asked.costs = inputs, costs
  return true
end

--- The inputs that a field holds: a text, a list of texts, a list of tokens, or a list of such lists.
-- @param asked table  gets inputs and costs  @param value any  of the field  @param name string  the field's
-- @param limits table  inputs (of a list), input_cost and list_cost (tokens)
-- @param read_one function|nil  (value, where, name, most tokens) -> JSON text, cost; or nil and a problem
-- @return true; or nil and a problem
function M.inputs(asked, value, name, limits, read_one)
  read_one = read_one or of_one
  if type(value) == "string" or is_list(value) and type(value[1]) == "number" then
    local text, cost = read_one(value, name, name, limits.input_cost)
    if not text then return nil, cost end
    asked.inputs, asked.costs = { text }, { cost }
    return true
  end
  if is_list(value) and #value > 0 then return read_list(asked, value, name, limits, read_one) end
  return refuse(is_list(value) and "empty_input" or "invalid_input",
    ("'%s' must be a string, a list of tokens, or a list of 1 to %d of these"):format(name, limits.inputs), name)
end

local function field_text(body, name) return json.encode(name) .. ":" .. json.encode(body[name]) end

local function sorted_fields(body, names)
  table.sort(names)
  local parts, bytes = {}, 0
  for i, name in ipairs(names) do
    parts[i] = field_text(body, name)
    bytes = bytes + #parts[i]
    if bytes > MOST_HEAD then return nil, M.PASS end
  end
  return table.concat(parts, ",")
end

--- All fields but some, in one order, as the inside of a JSON object.
-- @param but table  name -> true  @return string; or nil and PASS where that is too much to compare
function M.head(body, but)
  local first, names
  for name in pairs(body) do
    if not but[name] then
      if first then
        names = names or { first }
        names[#names + 1] = name
      end
      first = first or name
    end
  end
  if names then return sorted_fields(body, names) end
  local text = first and field_text(body, first) or ""
  if #text > MOST_HEAD then return nil, M.PASS end
  return text
end

--- The body of a call: the inputs as a list, and the head.
function M.request_of(name)
  local before = '{"' .. name .. '":['
  return function(head, inputs)
    return before .. table.concat(inputs, ",") .. (head == "" and "]}" or "]," .. head .. "}")
  end
end

--- A field that is null means that it is not there.
function M.drop_null(body, name)
  if body[name] == json.null then body[name] = nil end
end

--- A model's name, which stands in groups and messages. @param is_needed boolean
-- @return string or nil; false and a problem
function M.model(body, is_needed)
  M.drop_null(body, "model")
  local model = body.model
  if model == nil and not is_needed then return nil end
  if type(model) == "string" and #model >= 1 and #model <= MOST_MODEL and not model:find "%c" then return model end
  return false, problems.new(400, "invalid_model",
    ("'model' must be a string of 1 to %d bytes without control characters, got %s"):format(MOST_MODEL,
      model == nil and "none" or type(model) == "string" and errors.show(model:gsub("%c", "?")) or "a " .. type(model)),
    "model")
end

--- The list of an answer that is an object, its items as values. @param index_field string|nil
-- @return items in the order of the inputs, usage, {model, created}; or nil and what is wrong
function M.cut_object(body, n, list_field, index_field)
  local answer = json.decode(body)
  local list = type(answer) == "table" and answer[list_field]
  if not is_list(list) then return nil, ("no list '%s' in it"):format(list_field) end
  if #list ~= n then return nil, ("%d item%s for %d inputs"):format(#list, #list == 1 and "" or "s", n) end
  local items = {}
  for i = 1, n do
    local item = list[i]
    if type(item) ~= "table" then return nil, "an item that is no object" end
    local place = index_field and item[index_field] or i - 1
    if type(place) ~= "number" or place % 1 ~= 0 or place < 0 or place >= n or items[place + 1] then
      return nil, "indexes that are not those of the inputs"
    end
    items[place + 1] = item
  end
  local created = answer.created
  return items, M.usage(answer.usage), { model = type(answer.model) == "string" and json.encode(answer.model) or nil,
    created = type(created) == "number" and created >= 0 and created < 2 ^ 53 and created or nil }
end

local function count(value)
  return type(value) == "number" and value >= 0 and value < 2 ^ 53 and math.floor(value) or nil
end

--- What an upstream has counted, as far as it is numbers. @return {prompt, completion} or nil
function M.usage(usage)
  if type(usage) ~= "table" then return nil end
  local total = count(usage.total_tokens)
  local prompt = count(usage.prompt_tokens) or total
  return prompt and { prompt = prompt, completion = math.max(0, count(usage.completion_tokens) or
    total and total - prompt or 0) } or nil
end

--- A text as JSON, for answers.
function M.quoted(text) return json.encode(text) or json.quote(text) end

return M
