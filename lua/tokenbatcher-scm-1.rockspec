-- luarocks make lua/tokenbatcher-scm-1.rockspec     (in a checkout; see src/README.md)
rockspec_format = "3.0"
package = "tokenbatcher"
version = "scm-1"
source = { url = "." }
description = {
  summary = "Batches records of many producers within a token budget",
  detailed = [[
    Records from many producers go in, batches within a token budget come out, one inference
    function runs over each, every producer gets its own answer. For LuaJIT and OpenResty.
  ]],
  license = "MIT",
}
supported_platforms = { "linux" }
dependencies = { "lua == 5.1" }
external_dependencies = { LIBEV = { header = "ev.h" } } -- and what is at hand: RapidJSON, libcurl, LuaJIT's headers
build = {
  type = "make",
  build_target = "rock",
  build_variables = { LUA_INCDIR = "$(LUA_INCDIR)" },
  install_target = "install-rock",
  install_variables = { LUADIR = "$(LUADIR)", LIBDIR = "$(LIBDIR)" },
  copy_directories = {},
}
