-- Where the shared library is looked for.

local cli = dofile "tests/lua/cli_helper.lua"

local function load_from(folder, cpath)
  return cli.shell(([[env -u LUA_PATH -u LUA_CPATH -u TOKENBATCHER_LIB luajit -e '
    package.path = "%s/?.lua;%s/?/init.lua;" .. package.path
    package.cpath = "%s"
    print(require("tokenbatcher.core.ffi").path)']]):format(folder, folder, cpath))
end

describe("the library", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  it("is found in a folder of package.cpath, where LuaRocks puts it", function()
    os.execute(("mkdir -p %s/there && cp -r lua %s/modules && cp %s/libtokenbatcher.so %s/there/"):format(cli.folder,
      cli.folder, cli.exe:match "^(.*)/", cli.folder))
    local r = load_from(cli.path "modules", cli.path "there/?.so")
    if r.out:find("/usr/local/lib/", 1, true) then return pending "skipped: one is installed in /usr/local" end
    assert.equal("", r.err)
    assert.equal(cli.path "there/libtokenbatcher.so" .. "\n", r.out)
  end)

  it("and those beside it are found by their versioned names, where only programs are run", function()
    local build = cli.exe:match "^(.*)/"
    os.execute(("mkdir -p %s/run && cp %s/*.so.0 %s/run/"):format(cli.folder, build, cli.folder))
    local r = cli.shell(([[TOKENBATCHER_LIB=%s/run/libtokenbatcher.so.0 luajit -e '
      print(require("tokenbatcher.core.ffi").path, require("tokenbatcher.backend.threads_ffi").path,
        require("tokenbatcher.base.json").lost(), require("tokenbatcher.base.json").encode { [1] = "x" })']])
      :format(cli.folder))
    assert.equal(("%s/run/libtokenbatcher.so.0\t%s/run/libtokenbatcher_script.so.0\tnil\t[\"x\"]\n")
      :format(cli.folder, cli.folder), r.out, r.err)
    r = cli.shell(([[cd / && LD_LIBRARY_PATH=%s/run luajit -e '
      package.path = "%s/?.lua;%s/?/init.lua;" .. package.path
      print(require("tokenbatcher.core.ffi").path)']]):format(cli.folder, cli.path "modules", cli.path "modules"))
    if r.out:find("/usr/local/lib/", 1, true) then return pending "skipped: one is installed in /usr/local" end
    assert.equal("libtokenbatcher.so.0\n", r.out, r.err)
  end)

  it("is not taken from the current folder", function()
    os.execute(("mkdir -p %s/here && cp -r lua %s/alone && cp %s/libtokenbatcher.so %s/here/"):format(cli.folder,
      cli.folder, cli.exe:match "^(.*)/", cli.folder))
    local exe = cli.shell(([[cd %s/here && env -u LUA_PATH -u LUA_CPATH -u TOKENBATCHER_LIB luajit -e '
      package.path = "../alone/?.lua;../alone/?/init.lua;" .. package.path
      print(require("tokenbatcher.core.ffi").path)']]):format(cli.folder))
    if exe.out:find "^/" then return pending "skipped: one is installed" end
    assert.truthy(exe.err:find("cannot load libtokenbatcher.so", 1, true), exe.out .. exe.err)
  end)

  it("of HTTP is not taken from the current folder by a lone copy of the program", function()
    os.execute(("mkdir -p %s/lone %s/trap && cp %s %s/lone/"):format(cli.folder, cli.folder, cli.exe, cli.folder))
    -- a library that says so when it is loaded
    local source = cli.path "trap.c"
    local file = assert(io.open(source, "w"))
    file:write('#include <stdio.h>\n__attribute__((constructor)) static void on(void) '
      .. '{ puts("TRAPPED"); fflush(stdout); }\n')
    file:close()
    assert.equal(0, os.execute(("gcc -shared -fPIC -o %s/trap/libtokenbatcher_http.so %s"):format(cli.folder, source)))
    file = assert(io.open(cli.path "trap/script.lua", "w"))
    file:write [[
      local tb = require "tokenbatcher"
      return { inference_fn = function(records)
        local r, err = tb.http.get "http://127.0.0.1:1/"
        return { r and "?" or err.code }
      end }]]
    file:close()
    for _, cpath in ipairs { "-u LUA_CPATH", "LUA_CPATH='./?.so;trap/?.so;?.so;;'" } do
      local r = cli.shell(([[cd %s/trap && echo '{}' | env -u LD_LIBRARY_PATH %s ../lone/tokenbatcher run script.lua]])
        :format(cli.folder, cpath))
      assert.is_nil((r.out .. r.err):find "TRAPPED", r.out .. r.err)
    end
  end)

  it("that is nowhere is an error that lists every path tried", function()
    local r = load_from(cli.path "modules", cli.path "nowhere/?.so")
    if r.status == 0 then return pending "skipped: one is installed" end
    assert.truthy(r.err:find(cli.path "nowhere/libtokenbatcher.so", 1, true), r.err)
    assert.truthy(r.err:find(cli.path "modules/tokenbatcher/base/../../../build/libtokenbatcher.so", 1, true), r.err)
    assert.truthy(r.err:find("TOKENBATCHER_LIB", 1, true), r.err)
  end)
end)
