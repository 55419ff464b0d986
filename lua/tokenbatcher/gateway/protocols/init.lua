--- The protocols that can be batched, and whose a path is.

local M = {}

local NAMES = { "embeddings", "moderations", "completions", "tei_embed", "tei_embed_sparse", "tei_predict" }

--- Every protocol, in one order.
M.list = {}
for i, name in ipairs(NAMES) do M.list[i] = require("tokenbatcher.gateway.protocols." .. name) end

local by_path = {}
for _, protocol in ipairs(M.list) do
  for _, path in ipairs(protocol.paths) do by_path[path] = protocol end
end

--- @return protocol, or nil: the path is not one that is batched
function M.of_path(path) return by_path[path] end

return M
