-- Keeps a guide's table of options equal to the code's.
-- usage: luajit readme_options.lua --check FILE    exit 1 if they differ
--        luajit readme_options.lua --write FILE    put the table in
local BEGIN, END = "<!-- options: generated, see tests/readme_options.lua -->\n", "<!-- end of options -->"

local mode, path = arg[1], arg[2]
local file = assert(io.open(path, "rb"))
local text = file:read "*a"
file:close()

local first, last = text:find(BEGIN, 1, true)
local stop = first and text:find(END, last, true)
assert(stop, path .. " has no place for the table of options")

local wanted = require("tokenbatcher.core.options").markdown()
if text:sub(last + 1, stop - 1) == wanted then os.exit(0) end
if mode ~= "--write" then
  io.stderr:write("lint: the table of options in ", path, " is not what the code says; run\n",
    "    luajit tests/readme_options.lua --write ", path, "\n")
  os.exit(1)
end
file = assert(io.open(path, "wb"))
file:write(text:sub(1, last), wanted, text:sub(stop))
file:close()
