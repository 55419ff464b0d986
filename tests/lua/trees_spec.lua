-- Every tree that is installed stands on its own: each of its modules is required in a process
-- that finds nothing else, neither lua-cjson nor argparse. It loads, or says in one sentence what
-- it is for or what is missing.

local cli = dofile "tests/lua/cli_helper.lua"

local NO_NGINX = "^tokenbatcher: this module is for nginx workers %(OpenResty%), and this is none$"
local NO_REDIS = "^tokenbatcher: cannot load libtokenbatcher_redis%.so; tried:.*%(Redis needs hiredis, [^\n]*%)$"
local NO_MICROHTTPD = "^tokenbatcher: cannot load libtokenbatcher_listen%.so; tried:.*%(listening needs libmicrohttpd, "
  .. "[^\n]*%)$"
local NO_CURL = "^tokenbatcher: cannot load libtokenbatcher_http%.so; tried:.*%(HTTP needs libcurl 4, [^\n]*%)$"
local NO_SCRIPT = "^tokenbatcher: cannot load %S+/libtokenbatcher_script%.so, which must lie beside %S+: "

local NEEDS_NGINX = {
  ["tokenbatcher.runtime.host.nginx"] = NO_NGINX,
  ["tokenbatcher.runtime.host.nginx_worker"] = NO_NGINX,
  ["tokenbatcher.runtime.pump.nginx"] = NO_NGINX,
}

local HOSTED = { -- by the gateways of others
  ["kong.plugins.tokenbatcher.schema"] = "module 'kong%.db%.schema%.typedefs' not found",
  ["apisix.plugins.tokenbatcher"] = "module 'apisix%.core' not found",
}

local function make(target, variables)
  local r = cli.shell(("env -u MAKEFLAGS -u MAKELEVEL make -s %s B=%s %s"):format(target, cli.quote(cli.build),
    variables))
  assert.equal(0, r.status, r.err)
end

-- A process of its own, in which there are the modules of the tree and nothing else.
local function alone(tree, program)
  return ("cd / && env -i PATH=\"$PATH\" LUA_PATH='%s/?.lua;%s/?/init.lua' LUA_CPATH='%s' %s")
    :format(tree.lua, tree.lua, tree.cpath, program)
end

local function modules_of(tree)
  local r = cli.shell(("cd %s && find . -name '*.lua' | LC_ALL=C sort"):format(tree.lua))
  local out = {}
  for _, path in ipairs(r.lines) do
    out[#out + 1] = path:gsub("^%./", ""):gsub("%.lua$", ""):gsub("/init$", ""):gsub("/", ".")
  end
  return out
end

-- Requires every module; what each of them says, by its name ("" if it loads).
local function require_all(tree)
  local names, said = modules_of(tree), {}
  local one = cli.file("one.lua", 'local ok, err = pcall(require, (...)) if not ok then print(err) end')
  local all = alone(tree, ([[sh -c 'for name; do echo "MODULE $name"; luajit %s "$name" 2>&1; done' all %s]])
    :format(one, table.concat(names, " ")))
  local name
  for _, line in ipairs(cli.shell(all).lines) do
    if line:find "^MODULE " then
      name = line:match "%S+$"
      said[name] = ""
    else
      said[name] = said[name] .. line .. "\n"
    end
  end
  return names, said
end

local function assert_stands_alone(tree, exceptions)
  local names, said = require_all(tree)
  assert.is_true(#names > 50)
  for _, name in ipairs(names) do
    local text = (said[name] or "was not tried"):gsub("\n$", "")
    if exceptions[name] then assert.matches(exceptions[name], text) else assert.equal("", text, name) end
  end
  for name in pairs(exceptions) do assert.truthy(said[name], name .. " is not in the tree") end
end

local PROGRAM = [[
local tb = require "tokenbatcher"
print(tb.run(function()
  local batcher = tb.TokenBatcher { inference_fn = function(records) return records end, policy = "deadline",
    token_estimator = tb.estimator.chars {} }
  return tb.with(batcher, function() return (batcher:submit "answered"):await() end)
end))
print(package.loaded.cjson, package.loaded.argparse)
]]

local function with(...)
  local out = {}
  for _, more in ipairs { ... } do
    for name, pattern in pairs(more) do out[name] = pattern end
  end
  return out
end

describe("an installed tree on its own:", function()
  local installed, rock

  setup(function()
    cli.new_folder()
    local prefix = cli.path "opt"
    make("install", "DESTDIR= PREFIX=" .. prefix)
    installed = { prefix = prefix, lua = prefix .. "/share/lua/5.1", cpath = "" }
    rock = { lua = cli.path "rock/share", cpath = cli.path "rock/lib" .. "/?.so" }
    make("install-rock", ("LUADIR=%s LIBDIR=%s"):format(rock.lua, cli.path "rock/lib"))
  end)
  teardown(cli.clean)

  it("every module of `make install` loads, or says what it needs", function()
    assert_stands_alone(installed, with(NEEDS_NGINX, HOSTED, {
      ["tokenbatcher.cli"] = "^tokenbatcher: the command line needs lua%-argparse, which is not installed %b()$",
      ["tokenbatcher.cli.run"] = "^tokenbatcher: `run` is for the executable, whose signals it handles$",
      ["tokenbatcher.cli.work"] = "^tokenbatcher: `work` is for the executable, whose signals it handles$",
      ["tokenbatcher.cli.send"] = "^tokenbatcher: `run` is for the executable, whose signals it handles$",
    }))
  end)

  it("every module of a rock loads, or says what it needs", function()
    assert_stands_alone(rock, NEEDS_NGINX)
    for _, part in ipairs { "http", "redis", "listen", "script" } do
      local library = cli.path("rock/lib/libtokenbatcher_" .. part .. ".so")
      assert(os.rename(library, library .. ".away"))
    end
    assert_stands_alone(rock, with(NEEDS_NGINX, {
      ["tokenbatcher.backend.http.http_ffi"] = NO_CURL, ["tokenbatcher.backend.http.client"] = NO_CURL,
      ["tokenbatcher.backend.redis.redis_ffi"] = NO_REDIS, ["tokenbatcher.backend.redis.by_hiredis"] = NO_REDIS,
      ["tokenbatcher.backend.redis.source"] = NO_REDIS,
      ["tokenbatcher.listen.listen_ffi"] = NO_MICROHTTPD, ["tokenbatcher.listen.server"] = NO_MICROHTTPD,
      ["tokenbatcher.listen.events"] = NO_MICROHTTPD,
      ["tokenbatcher.backend.threads_ffi"] = NO_SCRIPT, ["tokenbatcher.backend.threads"] = NO_SCRIPT,
    }))
    for _, part in ipairs { "http", "redis", "listen", "script" } do
      local library = cli.path("rock/lib/libtokenbatcher_" .. part .. ".so")
      assert(os.rename(library .. ".away", library))
    end
  end)

  it("luarocks makes the rock, and its modules load", function()
    if cli.shell("command -v luarocks").status ~= 0 then return pending "skipped: no luarocks" end
    local source, tree = cli.path "source", cli.path "luarocks"
    cli.shell(("mkdir %s && cp -r Makefile lua src include tests %s/"):format(source, source))
    local r = cli.shell(("cd %s && env -u MAKEFLAGS -u MAKELEVEL -u LUA_PATH -u LUA_CPATH HOME=%s luarocks "
      .. "--lua-version=5.1 --tree=%s make lua/tokenbatcher-scm-1.rockspec"):format(source, cli.folder, tree))
    assert.equal(0, r.status, r.out .. r.err)
    local made = { lua = tree .. "/share/lua/5.1", cpath = tree .. "/lib/lua/5.1/?.so" }
    assert_stands_alone(made, NEEDS_NGINX)
    r = cli.shell(("cd %s && env -u LUA_PATH -u LUA_CPATH HOME=%s luarocks --lua-version=5.1 --tree=%s make "
      .. "lua/kong-plugin-tokenbatcher-scm-1.rockspec"):format(source, cli.folder, tree))
    assert.equal(0, r.status, r.out .. r.err)
    local of_kong = "kong.plugins.tokenbatcher.schema"
    assert_stands_alone(made, with(NEEDS_NGINX, { [of_kong] = HOSTED[of_kong] }))
  end)

  it("a module that needs what is not there is found", function()
    for text, needed in pairs {
      ['return require "cjson"'] = "module 'cjson' not found",
      ['return require "tokenbatcher.cli"'] = "module 'tokenbatcher.cli' not found",
      ["return ngx.timer"] = "attempt to index global 'ngx'",
    } do
      local file = assert(io.open(rock.lua .. "/tokenbatcher/planted.lua", "w"))
      file:write(text)
      file:close()
      local _, said = require_all(rock)
      os.remove(rock.lua .. "/tokenbatcher/planted.lua")
      assert.truthy(said["tokenbatcher.planted"]:find(needed, 1, true), said["tokenbatcher.planted"])
    end
  end)

  it("a rock has everything but the command line", function()
    local is_there = {}
    for _, name in ipairs(modules_of(rock)) do is_there[name] = true end
    for _, name in ipairs(modules_of(installed)) do
      local is_ours = name:find "^tokenbatcher" and not name:find "^tokenbatcher%.cli"
      assert.equal(is_ours ~= nil and is_ours ~= false, is_there[name] or false, name)
    end
  end)

  it("a batcher runs in both, and loads neither lua-cjson nor argparse", function()
    local program = cli.file("program.lua", PROGRAM)
    for _, tree in ipairs { installed, rock } do
      local r = cli.shell(alone(tree, "luajit " .. program))
      assert.equal("answered\nnil\tnil\n", r.out, r.err)
    end
  end)

  it("JSON needs no lua-cjson in either", function()
    local program = cli.file("json.lua", [[
      local json = require("tokenbatcher").json
      print(json.encode(json.decode '{"b":[],"a":18446744073709551615}'))]])
    for _, tree in ipairs { installed, rock } do
      local r = cli.shell(alone(tree, "luajit " .. program))
      assert.equal('{"b":[],"a":18446744073709551615}\n', r.out, r.err)
    end
  end)

  it("who asks for JSON where there is no library for it is told so", function()
    local program = cli.file("json.lua", 'print(pcall(require("tokenbatcher").json.decode, "1"))')
    local library = cli.path "rock/lib/libtokenbatcher_json.so"
    assert(os.rename(library, library .. ".away"))
    local r = cli.shell(alone(rock, "luajit " .. program))
    assert(os.rename(library .. ".away", library))
    assert.matches("^false\ttokenbatcher: JSON is decoded by libtokenbatcher_json.so or by lua%-cjson, and neither is "
      .. "there; tried:\n", r.out)
    assert.truthy(r.out:find(library, 1, true), r.out)
  end)

  it("the library needs libev, and nothing else that is not the system's", function()
    local r = cli.shell(("ldd %s/lib/libtokenbatcher.so"):format(installed.prefix))
    for name in r.out:gmatch "(lib%S+)%.so%S* =>" do
      assert.is_true(({ libev = true, libm = true, libc = true })[name] or false, name)
    end
    assert.truthy(r.out:find "libev")
  end)

  it("a C program runs a script that decodes no JSON without any module of Lua's", function()
    local r = cli.shell(("cc -std=c11 %s/examples/embed.c -o %s -I%s/include -L%s/lib -Wl,-rpath,%s/lib "
      .. "-ltokenbatcher_script -ltokenbatcher -lluajit-5.1 -lev"):format(cli.root, cli.path "embed", installed.prefix,
      installed.prefix, installed.prefix))
    assert.equal(0, r.status, r.err)
    r = cli.shell(("cd / && env -i LUA_PATH=none LUA_CPATH=none timeout -s KILL 60 %s %s/examples/embed.lua")
      :format(cli.path "embed", cli.root))
    assert.matches("\n8 records answered\nstopped\n$", r.out, r.err)
  end)
end)
