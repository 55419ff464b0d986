--- Where our libraries are looked for.
--
-- Search order: what a C program of ours says (`tokenbatcher.library`, a file), or
-- TOKENBATCHER_LIB (a file); the build folder beside this module or the program; the installed
-- place (below the prefix; in a folder of package.cpath, where LuaRocks puts it); the system's
-- loader; never the current folder. Where only programs are run a library has no name but that
-- with its version, NAME.so.0: beside a named file, and to the system's loader, that is tried, too.

local M = {}

local VERSION = ".0" -- of the SONAMEs, see the Makefile

-- Whoever can write into the current folder must not thereby run code in who works there: it is
-- never looked in, and the executable takes no relative template of package.cpath at all.
local function is_trusted(template)
  if not template:find("?", 1, true) or not template:find "/" then return false end
  if package.loaded["tokenbatcher.linked"] then return template:sub(1, 1) == "/" end
  return not template:find "^%./+%?"
end

--- In a checkout this file is in lua/tokenbatcher/base/, a library in build/; installed, it is in
-- PREFIX/share/lua/5.1/tokenbatcher/base/, a library in PREFIX/lib/. TOKENBATCHER_LIB names the
-- main library; the others are beside it.
-- @param library string  a file name  @param main string  that of the main library
-- @param program_folder string|nil  the folder of the program that these modules are embedded in
-- @return a list of files, the last two for the system's loader to find
function M.candidates(library, main, program_folder)
  local named = package.loaded["tokenbatcher.library"] or os.getenv "TOKENBATCHER_LIB"
  if named and library == main then return { named } end
  if named then
    local sibling = (named:match "^.*/" or "") .. library
    return { sibling, sibling .. VERSION }
  end
  local beside, installed
  if program_folder then
    beside = program_folder
    installed = beside .. "/../lib/"
  else
    local folder = debug.getinfo(1, "S").source:match "^@(.*)[/\\][^/\\]*$" or "."
    beside, installed = folder .. "/../../../build", folder .. "/../../../../../lib/"
  end
  local list = { beside .. "/" .. library, installed .. library, "/usr/local/lib/" .. library }
  for template in package.cpath:gmatch "[^;]+" do
    if is_trusted(template) then list[#list + 1] = (template:gsub("%?", (library:gsub("%.so$", "")))) end
  end
  list[#list + 1] = library
  list[#list + 1] = library .. VERSION
  return list
end

return M
