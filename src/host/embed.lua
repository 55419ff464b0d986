-- Build step: writes a C file that holds every Lua module of ours as bytes, for the
-- executable and for libtokenbatcher_script.
-- usage: luajit embed.lua lua/tokenbatcher/init.lua ... > modules.c
-- argparse, which the command line needs, is taken from where Lua finds it.

local function module_name(path)
  return (path:gsub("^lua/", ""):gsub("%.lua$", ""):gsub("/init$", ""):gsub("/", "."))
end

local function emit(index, path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "*a"
  file:close()
  local bytes = {}
  for i = 1, #text do bytes[i] = text:byte(i) .. (i % 24 == 0 and ",\n" or ",") end
  io.write(("static const unsigned char module_%d[] = {%s0};\n"):format(index, table.concat(bytes)))
  return #text
end

local modules = {}
for _, path in ipairs(arg) do modules[#modules + 1] = { name = module_name(path), path = path, chunk = path } end
local argparse = assert(package.searchpath("argparse", package.path))
modules[#modules + 1] = { name = "argparse", path = argparse, chunk = "argparse.lua" }

io.write '#include "state.h"\n'
for i, module in ipairs(modules) do module.size = emit(i, module.path) end
io.write "const struct tb__module tb__modules[] = {\n"
for i, module in ipairs(modules) do
  io.write(('  {"%s", "@%s", module_%d, %d},\n'):format(module.name, module.chunk, i, module.size))
end
io.write "  {NULL, NULL, NULL, 0}\n};\n"
