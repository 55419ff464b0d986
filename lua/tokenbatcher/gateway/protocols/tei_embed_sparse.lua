--- TEI's /embed_sparse: for each input a list of {index, value}.

local tei = require "tokenbatcher.gateway.protocols.tei"

return tei.new { name = "embed_sparse", path = "/embed_sparse" }
