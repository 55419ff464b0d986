-- Build step: writes the manual page from what the program itself says, so that it cannot
-- fall behind.  usage: luajit man.lua build/tokenbatcher > tokenbatcher.1

local exe = assert(arg[1], "usage: man.lua PROGRAM")

local function output_of(arguments)
  local pipe = assert(io.popen(("'%s' %s"):format(exe, arguments)))
  local text = pipe:read "*a"
  pipe:close()
  assert(text ~= "", exe .. " " .. arguments .. " says nothing")
  return text
end

local function roff(text)
  return (text:gsub("\\", "\\e"):gsub("%-", "\\-"):gsub("^([.'])", "\\&%1"):gsub("\n([.'])", "\n\\&%1"))
end

local function section(name, text)
  print(".SH " .. name)
  print(text)
end

local function verbatim(text)
  print(".nf")
  io.write(roff(text))
  print ".fi"
end

local help = output_of "--help"
local version = output_of("--version"):match "%S+ (%S+)"

print((".TH TOKENBATCHER 1 \"\" \"tokenbatcher %s\" \"User commands\""):format(version))
section("NAME", "tokenbatcher \\- batch records within a token budget and run inference over them")
section("SYNOPSIS", ".B tokenbatcher\n.I command\n.RI [ argument... ]")
section("DESCRIPTION", roff [[
A script, a Lua file, says how records are batched and what runs over each batch. What follows is
what the program itself answers to --help.]])

-- What --help says of a command, without its examples and, of simulate, the formats, which have their sections.
local examples, formats = {}, nil
for command in help:match("Commands:\n(.-)\n\n"):gmatch "\n?   (%l+) " do
  local text = output_of(command .. " --help")
  local shown, rest = text:match "^(.-\n)Examples:\n(.*)$"
  if shown then
    local example, after = rest:match "^(.-)\n\n(.*)$"
    examples[#examples + 1] = example or rest:gsub("\n$", "")
    text = after and shown .. after or shown
  end
  local from, to = text:find "\nTraces, known by.-\n\n"
  if from then
    formats = formats or text:sub(from + 1, to - 2)
    text = text:sub(1, from) .. text:sub(to)
  end
  print((".SH TOKENBATCHER %s"):format(command:upper()))
  verbatim(text)
end
assert(formats and examples[1], "--help has no formats, or no examples")

print ".SH EXAMPLES"
verbatim(table.concat(examples, "\n") .. "\n")
section("EXIT STATUS", roff [[
0: all went well. 1: some records failed or are not answered, lines were bad (check), or a policy was disabled.
2: a mistake in the command, a script or a file; nothing was lost. 128 + signal: after the third SIGINT or SIGTERM.]])
section("FILES", roff [[
F.journal, beside --output F: answers that wait for an earlier one, and what --resume needs; gone when all is done.
A recording (--record, option record; mode 0600): JSON lines of arrivals and batches; keys and groups are hashed.]])
print ".SH TRACE FORMATS"
verbatim(formats .. "\n")
section("ENVIRONMENT", roff [[
LUA_PATH, LUA_CPATH: where a script's require looks, besides the modules inside.
TOKENBATCHER_LIB: a folder with our libraries, before all other places.
TOKENBATCHER_REDIS_PASSWORD: the password of --redis, where the URL has none.]])
