--- Whose each vector of an upstream's answer is.
--
-- This file says what is each input's in an upstream's answer, as the bytes that it came as: numbers are not made of a
-- vector on its way through (src/vectors; 32 x 1536 floats would block a worker for some 20 ms).
--
-- Nothing of the answer is trusted: what is handed out was held to JSON's grammar, is as many values as there are
-- inputs, paired by their index, and a vector is a list of finite numbers, or base64 of 32-bit floats, as long as the
-- others. What is wrong is a clause that quotes nothing of the answer: "has 3 items for 4 inputs".

local json = require "tokenbatcher.base.json"
local utf8 = require "tokenbatcher.base.utf8"
local vectors_ffi = require "tokenbatcher.gateway.vectors_ffi"

local C = vectors_ffi.lib
local sub = string.sub

local M = {}

local EMBEDDINGS = vectors_ffi.shape("data", "embedding", "index", true)
local LISTS = vectors_ffi.shape(nil, nil, nil, true)
local TOP_LEVEL = vectors_ffi.shape(nil, nil, nil, false)

local named = {} -- list -> its shape

local function reason(problem, answer, n)
  if problem == C.TB_VECTORS_ECOUNT then
    return ("has %d item%s for %d input%s"):format(answer.items, answer.items == 1 and "" or "s", n,
      n == 1 and "" or "s")
  end
  local text = vectors_ffi.sentence(problem)
  if problem == C.TB_VECTORS_EJSON then return ("%s (byte %d)"):format(text, answer.at + 1) end
  if problem <= C.TB_VECTORS_EITEM and problem > C.TB_VECTORS_EDEEP then
    return ("%s (item %d)"):format(text, answer.item + 1)
  end
  return text
end

local MOST_TOKENS = 1e15

-- Numbers of the answer's "usage", by name; nil where there are none.
local function usage_of(text)
  local usage, good = json.decode(text), nil
  for name, value in pairs(type(usage) == "table" and usage or {}) do
    if type(value) == "number" and value >= 0 and value <= MOST_TOKENS then
      good = good or {}
      good[name] = value
    end
  end
  return good
end

local function model_of(text)
  return not utf8.first_error(text) and text or nil
end

local function cut(body, n, shape)
  local spans, found, answer = vectors_ffi.cut(body, shape, n)
  if not spans then return nil, reason(found, answer, n) end
  local values = {}
  for i = 1, n do
    local begin = spans[i - 1].begin
    values[i] = sub(body, begin + 1, begin + spans[i - 1].size)
  end
  local usage, model = found.usage, found.model
  return values, usage.size > 0 and usage_of(sub(body, usage.begin + 1, usage.begin + usage.size)) or nil,
    model.size > 0 and model_of(sub(body, model.begin + 1, model.begin + model.size)) or nil
end

--- The vectors of an answer {"data": [{"index", "embedding"}, ...], "usage", "model"}.
-- @param n number  of inputs
-- @return list  raw JSON in the order of the inputs, lists or base64 in quotes; usage (numbers by name) or nil; model
-- (a string as JSON) or nil. Or nil and what is wrong.
function M.cut(body, n)
  return cut(body, n, EMBEDDINGS)
end

--- The same of an answer that is a list of vectors, such as that of TEI's /embed.
function M.lists(body, n)
  return cut(body, n, LISTS)
end

--- The items of an answer, whatever they are, as raw JSON.
-- @param list string|nil  the field with the list, whose items are objects, paired by `index` where they have one; nil:
-- the answer is the list, in order
-- @return as cut()
function M.items(body, n, list)
  local shape = TOP_LEVEL
  if list then
    shape = named[list] or vectors_ffi.shape(list, nil, "index", false)
    named[list] = shape
  end
  local at = utf8.first_error(body)
  if at then return nil, ("is not UTF-8 (byte %d)"):format(at) end
  return cut(body, n, shape)
end

--- Is it a vector: a list of finite numbers, or base64 of them?
function M.is_vector(raw)
  return cut("[" .. raw .. "]", 1, LISTS) ~= nil
end

--- Is this value a string, as a vector in base64 is?
function M.is_text(raw)
  return raw:byte() == 34
end

--- A list of numbers as base64 of the nearest 32-bit floats, in quotes. What was printed of a 32-bit float becomes that
-- float.
-- @return string, or nil and what is wrong
function M.to_base64(raw)
  local text, problem = vectors_ffi.convert(C.tb_vectors_to_base64, raw)
  if text then return text end
  if problem == C.TB_VECTORS_EFINITE then return nil, "has a number that no 32-bit float holds" end
  return nil, vectors_ffi.sentence(problem)
end

--- Base64 in quotes as a list of numbers, each exactly the 32-bit float that it was.
-- @return string, or nil and what is wrong
function M.to_floats(raw)
  local text, problem = vectors_ffi.convert(C.tb_vectors_to_floats, raw)
  if text then return text end
  return nil, vectors_ffi.sentence(problem)
end

return M
