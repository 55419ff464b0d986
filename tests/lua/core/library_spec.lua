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

  it("that is nowhere is an error that lists every path tried", function()
    local r = load_from(cli.path "modules", cli.path "nowhere/?.so")
    if r.status == 0 then return pending "skipped: one is installed" end
    assert.truthy(r.err:find(cli.path "nowhere/libtokenbatcher.so", 1, true), r.err)
    assert.truthy(r.err:find(cli.path "modules/tokenbatcher/core/../../../build/libtokenbatcher.so", 1, true), r.err)
    assert.truthy(r.err:find("TOKENBATCHER_LIB", 1, true), r.err)
  end)
end)
