-- make install: what it puts where, and that all of it works from there.

local cli = dofile "tests/lua/cli_helper.lua"

-- As a user would from another shell: not a part of the make that runs the tests.
local function install(variables)
  local r = cli.shell(("env -u MAKEFLAGS -u MAKELEVEL make -s install B=%s %s"):format(cli.quote(cli.build), variables))
  assert.equal(0, r.status, r.err)
end

describe("make install", function()
  local prefix

  setup(function()
    cli.new_folder()
    prefix = cli.path "opt/tb"
    install("DESTDIR= PREFIX=" .. prefix)
  end)
  teardown(cli.clean)

  local function installed(line)
    local away = "cd / && unset LUA_PATH LUA_CPATH TOKENBATCHER_LIB && export LD_LIBRARY_PATH=" .. prefix .. "/lib && "
    return cli.shell(away .. line)
  end

  it("gives C programs all they need: the example builds with pkg-config, and runs", function()
    local source = cli.root .. "/examples/embed.c"
    local r = installed(("cc -std=c11 -Wall -Wextra -Werror %s -o %s "
      .. "$(PKG_CONFIG_PATH=%s/lib/pkgconfig pkg-config --cflags --libs tokenbatcher-engine)")
      :format(source, cli.path "embed", prefix))
    assert.equal(0, r.status, r.err)
    r = installed(("timeout -s KILL 60 %s %s/examples/embed.lua"):format(cli.path "embed", cli.root))
    assert.equal(0, r.status, r.err)
    assert.matches("\n8 records answered\nstopped\n$", r.out)
    r = installed("ldd " .. cli.path "embed")
    assert.truthy(r.out:find(prefix .. "/lib/libtokenbatcher_script.so", 1, true), r.out)
  end)

  it("gives C programs the core alone, too", function()
    local source = cli.file("core.c", '#include <tokenbatcher_ev.h>\n#include <stdio.h>\n'
      .. 'int main(void) { printf("%s\\n", tb_error_name(TB_EFULL)); return tb_ev_now() < 0; }\n')
    local r = installed(("cc -std=c11 %s -o %s "
      .. "$(PKG_CONFIG_PATH=%s/lib/pkgconfig pkg-config --cflags --libs tokenbatcher)")
      :format(source, cli.path "core", prefix))
    assert.equal(0, r.status, r.err)
    assert.equal("queue_full\n", installed(cli.path "core").out)
  end)

  it("has headers that a C++ compiler takes", function()
    local source = cli.file("all.cc",
      "#include <tokenbatcher_engine.h>\n#include <tokenbatcher_ev.h>\nint main() { return 0; }\n")
    if cli.shell("command -v c++").status ~= 0 then return pending "skipped: no C++ compiler" end
    local r = installed(("c++ -std=c++11 -Wall -Wextra -Werror -fsyntax-only -I%s/include %s"):format(prefix, source))
    assert.equal(0, r.status, r.err)
  end)

  it("gives Lua its modules, which find the installed library", function()
    local program = cli.file("program.lua", 'print(require("tokenbatcher.core.ffi").path) '
      .. 'print(require("tokenbatcher").run(function() return 7 end))')
    local r = installed(("LUA_PATH='%s/share/lua/5.1/?.lua;%s/share/lua/5.1/?/init.lua' luajit %s")
      :format(prefix, prefix, program))
    assert.equal(0, r.status, r.err)
    assert.truthy(r.lines[1]:find(prefix, 1, true), r.out)
    assert.equal("7", r.lines[2])
  end)

  it("installs the program and its manual page, which names every command", function()
    local r = installed(("echo '{}' | env -i %s/bin/tokenbatcher run %s/examples/simulated_accelerator.lua --base-s 0")
      :format(prefix, cli.root))
    assert.equal(0, r.status, r.err)
    assert.matches('^{"index":1', r.out)
    local page = cli.read(prefix .. "/share/man/man1/tokenbatcher.1")
    local commands = cli.command({ "--help" }).out:match "Commands:\n(.*)"
    for command in commands:gmatch "   (%l+) " do
      assert.truthy(page:find("tokenbatcher " .. command .. " ", 1, true), command)
    end
    assert.truthy(page:find("\\-\\-unordered", 1, true))
  end)

  it("puts everything below DESTDIR, be there spaces in it, with PREFIX in what it says", function()
    local stage = cli.path "a  stage"
    install(("DESTDIR=%s PREFIX=/usr"):format(cli.quote(stage)))
    local r = cli.shell("cd " .. cli.quote(stage) .. " && find . -type f | sort")
    for _, file in ipairs { "bin/tokenbatcher", "include/tokenbatcher_engine.h", "lib/libtokenbatcher.a",
      "lib/libtokenbatcher.so", "lib/libtokenbatcher_script.so", "lib/pkgconfig/tokenbatcher-engine.pc",
      "lib/pkgconfig/tokenbatcher.pc", "share/lua/5.1/tokenbatcher/init.lua", "share/man/man1/tokenbatcher.1" } do
      assert.truthy(r.out:find("./usr/" .. file .. "\n", 1, true), file .. " is not in\n" .. r.out)
    end
    assert.matches("^prefix=/usr\n", cli.read(stage .. "/usr/lib/pkgconfig/tokenbatcher-engine.pc"))
  end)
end)
