--- OpenAI's /v1/moderations: a text, or a list of texts. A list of objects (images) is one input, which an
-- upstream takes alone: it is passed on.

local json = require "tokenbatcher.base.json"
local support = require "tokenbatcher.gateway.protocols.support"

local M = { name = "moderations", paths = { "/v1/moderations", "/moderations" }, upstream_path = "/v1/moderations" }

local APART = { input = true }

local function read_one(value, where, name, most)
  if type(value) == "string" then return support.of_text(value, where, name, most) end
  return support.refuse("invalid_input", ("'%s' must be a string"):format(where), name)
end

function M.read(asked, body, limits)
  local model, problem = support.model(body, false)
  if model == false then return nil, problem end
  local first = support.is_list(body.input) and body.input[1]
  if type(first) == "table" and not support.is_list(first) then return nil, support.PASS end
  local is_fine
  is_fine, problem = support.inputs(asked, body.input, "input", limits, read_one)
  if not is_fine then return nil, problem end
  asked.head, problem = support.head(body, APART)
  if not asked.head then return nil, problem end
  asked.model = model
  return true
end

M.request = support.request_of "input"

function M.cut(body, n)
  local items, usage, about = support.cut_object(body, n, "results")
  if not items then return nil, usage end
  for i = 1, n do items[i] = json.encode(items[i]) end
  return items, usage, about
end

function M.answer(asked, results)
  local items = {}
  for i, result in ipairs(results) do items[i] = result.item end
  return ('{"id":%s,"model":%s,"results":[%s]}\n'):format(support.quoted("modr-" .. asked.id),
    results[1].about.model or support.quoted(asked.model or ""), table.concat(items, ","))
end

return M
