--- What the routes of TEI (text-embeddings-inference) share: `inputs` instead of `input`, no model, and an answer
-- that is a list with an item for each input.

local support = require "tokenbatcher.gateway.protocols.support"
local vectors = require "tokenbatcher.gateway.vectors"

local M = {}

local APART = { inputs = true }
local BRACKET = ("["):byte()

--- @param given table  name, path; are_vectors: each item is a list of numbers; read_one, is_single
function M.new(given)
  local protocol = { name = given.name, paths = { given.path }, upstream_path = given.path, presets = { tei = true } }

  function protocol.read(asked, body, limits)
    local value = body.inputs
    asked.is_single = given.is_single and given.is_single(value)
    local is_fine, problem = support.inputs(asked, asked.is_single and { value } or value, "inputs", limits,
      given.read_one)
    if not is_fine then return nil, problem end
    asked.head, problem = support.head(body, APART)
    if not asked.head then return nil, problem end
    return true
  end

  protocol.request = support.request_of "inputs"

  function protocol.cut(body, n)
    if given.are_vectors then return vectors.lists(body, n) end
    local items, problem = vectors.items(body, n)
    if not items then return nil, problem end
    for i = 1, n do
      if items[i]:byte() ~= BRACKET then return nil, "an item that is no list" end
    end
    return items
  end

  function protocol.answer(asked, results)
    if asked.is_single then return results[1].item .. "\n" end
    local items = {}
    for i, result in ipairs(results) do items[i] = result.item end
    return "[" .. table.concat(items, ",") .. "]\n"
  end

  return protocol
end

return M
