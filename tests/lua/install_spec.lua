-- make install: what it puts where, and that all of it works from there.

local cli = dofile "tests/lua/cli_helper.lua"

-- As a user would from another shell: not a part of the make that runs the tests.
local function install(variables, target)
  local r = cli.shell(("env -u MAKEFLAGS -u MAKELEVEL make -s %s B=%s %s"):format(target or "install",
    cli.quote(cli.build), variables))
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

  it("gives them libraries to link in: the core into a static program, engines into one that needs none of ours",
    function()
      local source = cli.file("static.c", '#include <tokenbatcher_ev.h>\n#include <stdio.h>\n'
        .. 'int main(void) { printf("%s\\n", TB_VERSION); return tb_ev_now() < 0; }\n')
      local flags = "$(PKG_CONFIG_PATH=" .. prefix .. "/lib/pkgconfig pkg-config --cflags --libs --static %s)"
      local r = installed(("cc -static %s -o %s " .. flags):format(source, cli.path "static", "tokenbatcher"))
      assert.equal(0, r.status, r.err)
      assert.equal(require("tokenbatcher")._VERSION .. "\n", installed(cli.path "static").out)
      r = installed(("cc %s/examples/embed.c -o %s " .. flags):format(cli.root, cli.path "alone",
        "tokenbatcher-engine-static"))
      assert.equal(0, r.status, r.err)
      assert.not_matches("tokenbatcher", installed("ldd " .. cli.path "alone").out)
      r = installed(("timeout -s KILL 60 %s %s/examples/embed.lua"):format(cli.path "alone", cli.root))
      assert.matches("\n8 records answered\nstopped\n$", r.out, r.err)
    end)

  it("exports what the headers name and nothing else, under versioned names", function()
    local headers = installed(("cat %s/include/*.h %s/src/script/threads.h"):format(prefix, cli.root)).out
    for _, name in ipairs { "", "_http", "_redis", "_listen", "_script", "_json" } do
      local file = ("%s/lib/libtokenbatcher%s.so"):format(prefix, name)
      local r = installed("nm -D --defined-only " .. file)
      local n = 0
      for symbol in r.out:gmatch "[TDRBVW] ([%w_]+)" do
        local is_named = headers:find("%f[%w_]" .. symbol .. "%(") or symbol:find "^tb_%l*_?cdef$"
          or symbol == "luaopen_tokenbatcher_json"
        assert.truthy(is_named, symbol .. " in " .. file)
        n = n + 1
      end
      assert.is_true(n > 0, r.out .. r.err)
      r = installed("objdump -p " .. file)
      assert.truthy(r.out:find(("SONAME +libtokenbatcher%s%%.so%%.0\n"):format(name)), r.out)
      assert.equal(("libtokenbatcher%s.so.0\n"):format(name), installed("readlink " .. file).out)
    end
  end)

  it("says its version in the headers as in Lua", function()
    local version = {}
    for part in require("tokenbatcher")._VERSION:gmatch "%d+" do version[#version + 1] = part end
    local header = cli.read(prefix .. "/include/tokenbatcher.h")
    for i, name in ipairs { "MAJOR", "MINOR", "PATCH" } do
      assert.equal(version[i], header:match("TB_VERSION_" .. name .. " (%d+)"))
    end
    assert.equal(require("tokenbatcher")._VERSION, header:match 'define TB_VERSION "([^"]*)"')
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
    local commands = cli.command({ "--help" }).out:match "Commands:\n(.-)\n\n"
    for command in commands:gmatch "   (%l+) " do
      assert.truthy(page:find("tokenbatcher " .. command .. " ", 1, true), command)
    end
    assert.truthy(page:find("\\-\\-unordered", 1, true))
  end)

  it("puts everything below DESTDIR, be there spaces in it, with PREFIX in what it says", function()
    local stage = cli.path "a  stage"
    install(("DESTDIR=%s PREFIX=/usr"):format(cli.quote(stage)))
    local r = cli.shell("cd " .. cli.quote(stage) .. " && find . -type f -o -type l | sort")
    for _, file in ipairs { "bin/tokenbatcher", "include/tokenbatcher_engine.h", "lib/libtokenbatcher.a",
      "lib/libtokenbatcher.so", "lib/libtokenbatcher_script.so", "lib/pkgconfig/tokenbatcher-engine.pc",
      "lib/pkgconfig/tokenbatcher.pc", "share/lua/5.1/tokenbatcher/init.lua", "share/man/man1/tokenbatcher.1",
      "share/tokenbatcher/meta/tokenbatcher.lua", "share/bash-completion/completions/tokenbatcher",
      "share/zsh/site-functions/_tokenbatcher" } do
      assert.truthy(r.out:find("./usr/" .. file .. "\n", 1, true), file .. " is not in\n" .. r.out)
    end
    assert.matches("^prefix=/usr\n", cli.read(stage .. "/usr/lib/pkgconfig/tokenbatcher-engine.pc"))
  end)

  it("puts libraries into LIBDIR, and uninstall leaves nothing behind", function()
    local stage = cli.path "staged"
    local place = ("DESTDIR=%s PREFIX=/usr LIBDIR=/usr/lib/some-triplet"):format(stage)
    install(place)
    local libraries = stage .. "/usr/lib/some-triplet"
    local pc = cli.read(libraries .. "/pkgconfig/tokenbatcher.pc")
    assert.matches("\nlibdir=/usr/lib/some%-triplet\n", pc)
    assert.equal("libtokenbatcher.so.0\n", cli.shell("readlink " .. libraries .. "/libtokenbatcher.so").out)
    local r = cli.shell(("cd / && LD_LIBRARY_PATH=%s LUA_PATH='%s/usr/share/lua/5.1/?.lua;"
      .. "%s/usr/share/lua/5.1/?/init.lua' luajit -e 'print(require(\"tokenbatcher\")._VERSION)'")
      :format(libraries, stage, stage))
    assert.equal(require("tokenbatcher")._VERSION .. "\n", r.out, r.err)
    local other = libraries .. "/libother.so"
    cli.shell("touch " .. other)
    install(place, "uninstall")
    assert.equal(other .. "\n", cli.shell("find " .. stage .. " -not -type d").out)
  end)

  it("make dist: a tarball of what is committed builds, and says what has changed", function()
    if cli.shell("git rev-parse --git-dir").status ~= 0 then return pending "skipped: this is no git checkout" end
    local r = cli.shell(("env -u MAKEFLAGS -u MAKELEVEL make -s dist B=%s"):format(cli.path "dist"))
    assert.equal(0, r.status, r.err)
    local name = "tokenbatcher-" .. require("tokenbatcher")._VERSION
    r = cli.shell(("cd %s && tar xzf %s.tar.gz && cd %s && ls"):format(cli.path "dist", name, name))
    assert.equal("CHANGES\nLICENSE\nMakefile\nREADME.md\nexamples\ninclude\nlua\nsrc\ntests\n", r.out, r.err)
    assert.matches("^TokenBatcher [%d.]+: changes since [^\n]+\n\n%d+%-%d+%-%d+  ",
      cli.read(cli.path("dist/" .. name .. "/CHANGES")))
    r = cli.shell(("cd %s/%s && env -u MAKEFLAGS -u MAKELEVEL -u LUA_PATH make -s build/libtokenbatcher.so && ls build")
      :format(cli.path "dist", name))
    assert.equal(0, r.status, r.err)
    assert.matches("libtokenbatcher.so.0\n", r.out)
    r = cli.shell(("cd %s/%s && env -u MAKEFLAGS -u MAKELEVEL GIT_CEILING_DIRECTORIES=/ make -s dist")
      :format(cli.path "dist", name))
    assert.matches("no git checkout", r.err)
  end)
end)
