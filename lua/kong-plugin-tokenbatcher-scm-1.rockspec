-- luarocks make lua/kong-plugin-tokenbatcher-scm-1.rockspec     (in a checkout, behind that of tokenbatcher)
rockspec_format = "3.0"
package = "kong-plugin-tokenbatcher"
version = "scm-1"
source = { url = "." }
description = {
  summary = "Batches requests of many clients to an embedding server, inside Kong",
  detailed = [[
    Requests to an OpenAI-compatible server that arrive close together go upstream as one; each
    client gets its own answer, or its own error.
  ]],
  license = "MIT",
}
supported_platforms = { "linux" }
dependencies = { "lua == 5.1", "tokenbatcher" }
build = {
  type = "none",
  install = {
    lua = {
      ["kong.plugins.tokenbatcher.handler"] = "lua/kong/plugins/tokenbatcher/handler.lua",
      ["kong.plugins.tokenbatcher.schema"] = "lua/kong/plugins/tokenbatcher/schema.lua",
    },
  },
  copy_directories = {},
}
