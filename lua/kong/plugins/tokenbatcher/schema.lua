--- The schema of the plugin `tokenbatcher` for Kong: gateway/plugin/options.lua says what may be given.

local schemas = require "tokenbatcher.gateway.plugin.schemas"
local typedefs = require "kong.db.schema.typedefs"

return {
  name = "tokenbatcher",
  fields = {
    { protocols = typedefs.protocols_http },
    { config = schemas.kong() },
  },
}
