--- TEI's /embed: vectors as lists of numbers, byte for byte as the upstream wrote them.

local tei = require "tokenbatcher.gateway.protocols.tei"

return tei.new { name = "embed", path = "/embed", are_vectors = true }
