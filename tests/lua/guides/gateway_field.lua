-- luacheck: ignore
-- A field of what gateway.new takes.
local tb = require "tokenbatcher"
local given = { upstreams = { { url = "http://127.0.0.1:1" } },
-- here
}
tb.run(function() assert(require("tokenbatcher.gateway").new(given)) end)
