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
for command in help:match("Commands:\n(.*)"):gmatch "\n?   (%l+) " do
  print((".SH TOKENBATCHER %s"):format(command:upper()))
  verbatim(output_of(command .. " --help"))
end
section("ENVIRONMENT", roff "LUA_PATH, LUA_CPATH: where a script's require looks, besides the modules inside.")
section("EXAMPLES", ".nf\n" .. roff [[
tokenbatcher run script.lua --input prompts.jsonl --output answers.jsonl
tokenbatcher run script.lua --set target_batch_tokens=8000 --set policy=length_bucketed
tokenbatcher check script.lua]] .. "\n.fi")
