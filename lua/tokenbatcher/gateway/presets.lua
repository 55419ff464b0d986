--- What is known of servers: where their paths are, and how many inputs they take unless told otherwise.
--
-- The url of an upstream is a server ("http://tei:8080"), and then its paths are where such servers have them; or it
-- has a path, and then it is what OpenAI's clients call base_url: it ends with /v1 where the server's paths begin so.

local M = {}

-- root: where /v1/embeddings is below a url without a path. probe: what answers where all is well.
local PRESETS = {
  openai = { root = "/v1", probe = "/v1/models", max_inputs = 2048 },
  vllm = { root = "/v1", probe = "/health", max_inputs = 2048 },
  tei = { root = "/v1", probe = "/health", max_inputs = 32 }, -- its --max-client-batch-size
  infinity = { root = "", probe = "/health", max_inputs = 2048 },
}

--- Their names, sorted.
M.names = { "infinity", "openai", "tei", "vllm" }

function M.max_inputs(name) return PRESETS[name].max_inputs end

function M.probe_path(name) return PRESETS[name].probe end

--- What goes into the request line.
-- @param place table  of address.parse: path and query of the url
-- @param path string  /v1/... as OpenAI has it, or a path of the server's own; with or without a query
function M.target(name, place, path)
  local base = place.path:gsub("/+$", "")
  local rest, query = path:match "^([^?]*)(.*)$"
  local below_v1 = rest:match "^/v1(/.*)$"
  local target
  if not below_v1 then
    target = base:gsub("/v%d+$", "") .. rest
  elseif base ~= "" then
    target = base .. below_v1
  else
    target = PRESETS[name].root .. below_v1
  end
  if place.query == "" or query == "" then return target .. place.query .. query end
  return target .. place.query .. "&" .. query:sub(2)
end

return M
