--- Runs what the guides show. A comment right before a block says how it is tried, and the page as it is read shows
-- nothing of that:
--
--   <!-- test: KIND[, FLAG ...] -->
--
-- KIND
--   session              lines with "$ " are commands of the shell, the others what they print; "..." stands for any
--                        lines, or for the rest of one
--   commands             each line is a command that must succeed
--   prints COMMAND       the block is what COMMAND prints
--   output               the block is what the block before it printed
--   file NAME            the block is that file, for the blocks after it
--   text of PATH         the block stands in that file of the checkout, as it is
--   lua [with NAME]      a program; NAME: tests/lua/guides/NAME.lua, with the block in the place of "-- here"
--   busted               a spec
--   c with NAME          the same of tests/lua/guides/NAME.c, compiled, linked and run; a line of dots is left out
--   c++ with NAME        the same of tests/lua/guides/NAME.cc
--   nginx with NAME      the same of tests/lua/guides/NAME.conf, taken by nginx -t
--   redis                a configuration that redis-server starts with
--   usage                the flags of "tokenbatcher COMMAND [SCRIPT]", or of a start.sh, are those of its --help
--   figures of TARGET    what `make TARGET` has printed on some machine: the target exists
--   in FILE              that file, a spec or a script of tests/, reads this guide and tries the block itself, or runs
--                        the block's first command
--   picture              there is nothing to run
-- FLAG
--   roughly              of what is printed, numbers may differ, and so the width of columns
--   needs FILE           a file that is not included: where GUIDE_DATA, a folder, has it (see tests/README.md)
--   needs COMMAND()      a program that not every machine has
--   server NAME          M.servers.NAME runs meanwhile, in the place of 127.0.0.1:8080, :8081 and :9464
--
-- The blocks of a guide run in a folder of its own, a copy of the checkout, one after the other.

local cli = dofile "tests/lua/cli_helper.lua"

local M = { cli = cli }

local DIRECTIVE = "^<!%-%- test: (.-) %-%->$"
local TRIED = "tests/lua/guides/"

-- --- reading --------------------------------------------------------------------------------------------------------

local function parse_directive(text)
  local words = {}
  for word in (text .. ", "):gmatch "(.-), " do words[#words + 1] = word end
  local how = { kind = words[1]:match "^%S+", of = words[1]:match "^%S+ (.*)$", needs = {} }
  for i = 2, #words do
    local flag, value = words[i]:match "^(%S+) ?(.*)$"
    assert(flag == "roughly" or flag == "needs" or flag == "server", "no such flag: " .. words[i])
    if flag == "needs" then how.needs[#how.needs + 1] = value else how[flag] = value end
  end
  return how
end

--- The blocks of a guide, fenced or indented. @return {guide, line, text, how (nil: nobody says)}[]
function M.blocks(guide)
  local blocks, number, how, fence, open, before = {}, 0, nil, false, nil, ""
  local function begin()
    open = { guide = guide, line = number, lines = {}, how = how }
    blocks[#blocks + 1], how = open, nil
  end
  for line in (cli.read(guide) .. "\n"):gmatch "([^\n]*)\n" do
    number = number + 1
    if line:find "^```" then
      fence = not fence
      if fence then begin() else open = nil end
    elseif fence then
      open.lines[#open.lines + 1] = line
    elseif line:find "^    %S" and (open or before == "" or before:find(DIRECTIVE)) then
      if not open then begin() end
      open.lines[#open.lines + 1] = line:sub(5)
    else
      open = nil
      how = line:match(DIRECTIVE) and parse_directive(line:match(DIRECTIVE)) or line == "" and how or nil
    end
    before = line
  end
  for _, block in ipairs(blocks) do block.text = table.concat(block.lines, "\n") .. "\n" end
  return blocks
end

-- --- the folder, and who else is there --------------------------------------------------------------------------

--- A folder in which a guide's commands are typed: a copy of the checkout, with what was built.
function M.checkout()
  cli.new_folder()
  cli.shell(("cp -Rp README.md LICENSE Makefile src lua include tests examples %s && ln -s %s %s/build"):format(
    cli.folder, cli.quote(cli.build), cli.folder))
  local data = os.getenv "GUIDE_DATA"
  if data then cli.shell(("cp -nRL %s/* %s/"):format(cli.quote(data), cli.folder)) end
end

--- Why a block cannot be tried here, or nil.
function M.missing(block)
  for _, what in ipairs(block.how.needs) do
    local command = what:match "^(.-)%(%)$"
    if command and cli.shell("command -v " .. command).status ~= 0 then return "no " .. command end
    if not command and not cli.exists(cli.path(what)) then return "GUIDE_DATA has no " .. what end
  end
end

-- A server of tests/http: its first line is its ports and its pid. @return port, function that stops it
local function process(command)
  local pipe = io.popen("unset LD_PRELOAD; exec timeout 120 luajit " .. command)
  local numbers = {}
  for number in pipe:read("*l"):gmatch "%d+" do numbers[#numbers + 1] = number end
  return numbers[1], function()
    os.execute("kill " .. numbers[#numbers])
    pipe:close()
  end
end

local function fault_server() return process "tests/http/fault_server.lua" end

M.servers = { limited = fault_server, fine = fault_server } -- `fine`: at /ok, where it has no faults

function M.servers.chat()
  local records = {} -- it knows them by their numbers
  for i = 1, 240 do records[i] = ('{"text":"question %d"}\n'):format(i) end
  cli.file("prompts.jsonl", table.concat(records))
  return process "tests/http/job_server.lua /dev/null delay_ms=20"
end

function M.servers.gateway()
  local nginx = dofile "tests/nginx/server.lua"
  local gateway = nginx.gateway {}
  return gateway.port, function() gateway:stop() end
end

-- A run that can be looked at and changed, of a script whose input never ends.
function M.servers.listening()
  cli.file("script.lua", "return { inference_fn = function(records) return records end, target_batch_tokens = 20 }")
  local command = "cd %s && rm -f in out* && mkfifo in && "
    .. "sh -c 'echo $$; exec timeout 120 %s run script.lua --input in --output out --listen 127.0.0.1:0 "
    .. "--listen-control unix:control.sock' 3<>in 2>&1"
  local pipe = io.popen(command:format(cli.folder, cli.exe))
  local pid, port = pipe:read "*n", nil
  for line in pipe:lines() do
    port = line:match "listening at http://127%.0%.0%.1:(%d+)/" or port
    if line:find "options can be set" then break end
  end
  return port, function()
    os.execute("kill " .. pid)
    pipe:close()
  end
end

local function with_server(name, fn)
  if not name then return fn(function(text) return text end) end
  local port, stop = assert(M.servers[name], name)()
  local to = "127.0.0.1:" .. port .. (name == "fine" and "/ok" or "")
  local ok, message = pcall(fn, function(text) return (text:gsub("127%.0%.0%.1:[89][04][86][014]", to)) end)
  stop()
  if not ok then error(message, 0) end
end

local GUARD_S = 120

local function run(command)
  local path = cli.file("command.sh", command .. "\n")
  return cli.shell(("cd %s && PATH=%s:$PATH LUA_PATH='%s/lua/?.lua;%s/lua/?/init.lua;;' timeout %d sh %s"):format(
    cli.folder, cli.quote(cli.build), cli.root, cli.root, GUARD_S, path))
end

local function must(command)
  local r = run(command)
  if r.status ~= 0 then error(("%s: exit status %d\n%s%s"):format(command, r.status, r.out, r.err), 0) end
  return r.out .. r.err
end

-- --- comparing ------------------------------------------------------------------------------------------------------

local function masked(line)
  return (line:gsub("(%d)e[-+]?%d+", "%1"):gsub("%f[%w]%d[%d.]*%f[%W]", "0"):gsub("%s+", " "):gsub("%-(%s)", "%1")
    :gsub("[-+]*0", "0"))
end

-- The lines of a text that are not empty.
local function lines_of(text, roughly)
  local lines = {}
  for line in text:gmatch "[^\n]+" do lines[#lines + 1] = roughly and masked(line) or line end
  return lines
end

-- A shown line may end in dots, for what is left out of it.
local function is_alike(shown, printed)
  if shown == printed then return true end
  return shown:sub(-3) == "..." and shown ~= "..." and printed:sub(1, #shown - 3) == shown:sub(1, -4)
end

local function is_at(piece, printed, at)
  for i, line in ipairs(piece) do
    if not printed[at + i - 1] or not is_alike(line, printed[at + i - 1]) then return false end
  end
  return true
end

--- Fail unless the pieces of `shown` between lines of dots are in what was printed, in order.
function M.compare(shown, text, roughly)
  local printed, at = lines_of(text, roughly), 1
  for piece in ("\n" .. shown):gsub("\n%.%.%.\n", "\n\0\n"):gsub("\n%.%.%.$", "\n\0"):gmatch "%Z+" do
    piece = lines_of(piece, roughly)
    while at <= #printed and not is_at(piece, printed, at) do at = at + 1 end
    if piece[1] and at > #printed then
      error(("not printed, or not in this order:\n%s\nbut:\n%s"):format(table.concat(piece, "\n"),
        table.concat(printed, "\n")), 0)
    end
    at = at + #piece
  end
end

-- --- kinds ----------------------------------------------------------------------------------------------------------

-- The commands of a session, each with what is shown of its output.
local function commands_of(block)
  local out, goes_on = {}, false
  for _, line in ipairs(block.lines) do
    local command = line:match "^%$ (.*)$"
    if goes_on then
      out[#out].command = out[#out].command .. "\n" .. line
    elseif command then
      out[#out + 1] = { command = command, shown = "" }
    else
      local last = assert(out[#out], "a session begins with $")
      last.shown = last.shown .. line .. "\n"
    end
    goes_on = (command or goes_on) and line:find "\\$" ~= nil
  end
  return out
end

local function plain_commands(block)
  local out, goes_on = {}, false
  for _, line in ipairs(block.lines) do
    if goes_on then out[#out] = out[#out] .. "\n" .. line else out[#out + 1] = line end
    goes_on = line:find "\\$" ~= nil
  end
  return out
end

-- tests/lua/guides/NAME.KIND with the block in it.
local function filled(block, ending)
  local name = block.how.of and block.how.of:match "^with (.*)$"
  if not name then return block.text end
  local frame = cli.read(TRIED .. name .. "." .. ending)
  local from, to = frame:find "[^\n]*%f[%w]here%f[%W][^\n]*\n"
  assert(from, name .. "." .. ending .. " has no line that says: here")
  return frame:sub(1, from - 1) .. block.text .. frame:sub(to + 1)
end

local KINDS = {}

-- All commands in one shell, each followed by a mark and its status.
function KINDS.session(block, at)
  local commands, script = commands_of(block), {}
  for i, it in ipairs(commands) do script[i] = "{ " .. it.command .. "\n} 2>&1; printf '\\001%d\\n' $?" end
  local printed, i = run(at("{ " .. table.concat(script, "\n") .. "\n}")).out, 0
  for text, status in printed:gmatch "(.-)\1(%d+)\n" do
    i = i + 1
    local it = commands[i]
    if it.shown == "" and status ~= "0" then error(it.command .. "\n" .. text, 0) end
    M.compare(at(it.shown), text, block.how.roughly)
  end
  assert(i == #commands, "the shell ended early:\n" .. printed)
end

function KINDS.commands(block, at)
  for _, command in ipairs(plain_commands(block)) do block.printed = (block.printed or "") .. must(at(command)) end
end

function KINDS.prints(block, at)
  local r = run(at(block.how.of))
  block.printed = r.out .. r.err
  M.compare(at(block.text), block.printed, block.how.roughly)
end

function KINDS.output(block)
  M.compare(block.text, assert(block.before.printed, "the block before it printed nothing"), block.how.roughly)
end

function KINDS.file(block)
  cli.file(block.how.of, block.text)
end

KINDS["text"] = function(block)
  local path = block.how.of:match "^of (.*)$"
  local text = block.text:gsub("^%-%- examples/[^\n]*\n", "")
  assert(cli.read(path):find(text, 1, true), path .. " does not read so")
end

function KINDS.lua(block, at)
  block.printed = must("timeout 60 luajit " .. cli.quote(cli.file("block.lua", at(filled(block, "lua")))))
end

function KINDS.busted(block)
  must("timeout 60 busted --lua=luajit " .. cli.quote(cli.file("block_spec.lua", block.text)))
end

function KINDS.c(block)
  local text = filled({ how = block.how, text = block.text:gsub("\n%.%.%.\n", "\n") }, "c")
  cli.file("block.c", text)
  block.printed = must("cc -std=c11 -Wall -Werror -Iinclude -pthread block.c -o block -Wl,-E -Lbuild "
    .. "-ltokenbatcher_script -ltokenbatcher -Wl,-rpath,build -lev $(pkg-config --libs luajit) && timeout 60 ./block")
end

KINDS["c++"] = function(block)
  cli.file("block.cc", filled(block, "cc"))
  block.printed = must("c++ -std=c++17 -Wall -Werror -Iinclude -pthread block.cc -o block -Wl,-E -Lbuild "
    .. "-ltokenbatcher_script -ltokenbatcher -Wl,-rpath,build -lev $(pkg-config --libs luajit) && timeout 60 ./block")
end

function KINDS.nginx(block)
  cli.file("block.conf", filled(block, "conf"))
  must("cp examples/openresty/gateway.conf . && mkdir -p logs && PATH=$PATH:/usr/sbin "
    .. "nginx -t -q -p $PWD -e stderr -c $PWD/block.conf")
end

-- The help of the command that a line begins, or goes on with.
local function help_of(line, former)
  local command = line:match "tokenbatcher (%l+)"
  local starter = line:match "(examples/%S+/start%.sh)"
  if starter then
    local r = run(("sh %s --help"):format(starter))
    return r.out .. r.err
  end
  if not command then return former end
  local script = line:match "examples/%S+%.lua"
  return must(("tokenbatcher %s %s --help"):format(command, script or ""))
end

function KINDS.usage(block)
  local help
  for _, line in ipairs(block.lines) do
    line = (" " .. line):gsub("%s#.*", "")
    help = help_of(line, help)
    for flag in line:gmatch "%-%-%l[%l-]+" do
      local is_there = help and help:find("[%[\n ]" .. flag:gsub("%-", "%%-") .. "[ \n]")
      assert(is_there, "no such flag: " .. flag .. "\n" .. line)
    end
  end
end

function KINDS.figures(block)
  local target = block.how.of:match "^of (.*)$"
  assert(cli.shell("make -n " .. target).status == 0, "no target " .. target)
end

KINDS["in"] = function(block)
  local text, command = cli.read(block.how.of), block.lines[1]:gsub("%s+#.*", "")
  assert(text:find(block.guide, 1, true) or text:find(command, 1, true), block.how.of .. " does not try it")
end

-- A configuration that a Redis starts with.
function KINDS.redis(block)
  cli.file("redis.conf", block.text:gsub("%s+#[^\n]*", "") .. "port 0\nunixsocket redis.sock\ndaemonize no\n")
  must("{ timeout 60 redis-server ./redis.conf >/dev/null & } && "
    .. "timeout 30 sh -c 'until redis-cli -s redis.sock ping >/dev/null 2>&1; do :; done' && "
    .. "redis-cli -s redis.sock config get maxmemory-policy | grep -q noeviction && "
    .. "redis-cli -s redis.sock shutdown nosave")
end

function KINDS.picture() end

--- Try a block. Raises what is wrong with it.
function M.try(block)
  local kind = assert(KINDS[block.how.kind], "no such kind: " .. tostring(block.how.kind))
  with_server(block.how.server, function(at) kind(block, at) end)
end

return M
