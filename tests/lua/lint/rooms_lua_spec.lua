-- The lint rule about the rooms of lua/tokenbatcher: what it must find is planted here.

local lint = dofile "tests/lua/lint_helper.lua"

describe("lint, rooms of lua/tokenbatcher:", function()
  local root

  before_each(function() root = lint.copy_of "lua examples" end)
  after_each(function() lint.remove(root) end)

  local function breaches() return lint.run("luajit tests/lint/rooms_lua.lua " .. root) end

  -- A new module whose text is this, and what is said of it, without its name.
  local function said_of(module, text)
    local path = "lua/tokenbatcher/" .. module .. ".lua"
    lint.write(root, path, text)
    local said = breaches():gsub(path:gsub("%p", "%%%0") .. ":", "")
    return said
  end

  it("has nothing to say of the tree as it is", function()
    assert.equal("", breaches())
  end)

  describe("who requires whom:", function()
    it("a room above is refused, when the module is loaded and later", function()
      assert.equal("1: core may not know runtime: tokenbatcher.runtime.clock\n",
        said_of("core/planted", 'local clock = require "tokenbatcher.runtime.clock"\nreturn clock'))
      assert.equal("2: batching may not know policy: tokenbatcher.policy\n",
        said_of("core/planted", "return 1") .. said_of("batching/planted", [[return function()
          return require('tokenbatcher.policy') end]]))
    end)

    it("it is found behind pcall and in long brackets, and not in comments and other strings", function()
      assert.equal("1: base may not know core: tokenbatcher.core.stats\n"
        .. "2: base may not know sim: tokenbatcher.sim.fit\n", said_of("base/planted",
        'local a = pcall(require, "tokenbatcher.core.stats")\nlocal b = require [[tokenbatcher.sim.fit]]\n'
          .. '-- require "tokenbatcher.cli"\n--[[ require "tokenbatcher.cli" ]]\n'
          .. 'return "require \'tokenbatcher.cli\'"'))
    end)

    it("a room beside it is refused", function()
      assert.equal("1: a file that ships knows base and its own support/, not tokenbatcher.estimator.chars\n",
        said_of("policy/planted", 'return require "tokenbatcher.estimator.chars"'))
      assert.equal("1: gateway may not know sim: tokenbatcher.sim.fit\n",
        said_of("policy/planted", "return 1") .. said_of("gateway/planted", 'return require "tokenbatcher.sim.fit"'))
    end)

    it("a name that is built later must begin with a room that may be known", function()
      assert.equal("1: base may not know policy: tokenbatcher.policy.\n2: tokenbatcher. names no room\n"
        .. "3: require of a name that cannot be read here\n",
        said_of("base/planted", 'local a = require("tokenbatcher.policy." .. x)\n'
          .. 'local b = require("tokenbatcher." .. x)\nreturn require(x)'))
      assert.equal("", said_of("base/planted", 'return function(x) return require("tokenbatcher.base." .. x) end'))
    end)

    it("a room above may not be named by another way either", function()
      assert.equal("1: names a room above: tokenbatcher.sim.fit\n",
        said_of("core/planted", 'return package.loaded["tokenbatcher.sim.fit"]'))
    end)

    it("the face is for the command line alone, and may not know that", function()
      assert.equal("1: only cli may require 'tokenbatcher' itself\n",
        said_of("script/planted", 'return require "tokenbatcher"'))
      lint.write(root, "lua/tokenbatcher/script/planted.lua", "return 1")
      lint.write(root, "lua/tokenbatcher/init.lua", 'return require "tokenbatcher.cli"')
      assert.equal("lua/tokenbatcher/init.lua:1: face may not know cli: tokenbatcher.cli\n", breaches())
    end)

    it("examples know the face alone", function()
      lint.write(root, "examples/planted.lua", 'return require "tokenbatcher", require "tokenbatcher.core.ffi"')
      assert.equal("examples/planted.lua:1: an example knows 'tokenbatcher' alone, not tokenbatcher.core.ffi\n",
        breaches())
    end)

    it("every module is in a room that the list names, and is there", function()
      assert.equal("1: is in no room that is known\n", said_of("planted", "return 1"))
      lint.run(("rm %s/lua/tokenbatcher/planted.lua"):format(root))
      assert.equal("1: tokenbatcher.base.gone: there is no such module\n",
        said_of("core/planted", 'return require "tokenbatcher.base.gone"'))
    end)

    it("the FFI is for core/ffi and files named _ffi, JSON's decoder for base/json, argparse for cli", function()
      assert.equal("1: ffi is not for this file\n2: cjson is not for this file\n3: argparse is not for this file\n"
        .. "4: socket is not ours, and nobody here may know it\n",
        said_of("backend/planted", 'local a = require "ffi"\nlocal b = require "cjson"\nlocal c = require "argparse"\n'
          .. 'local d = require "socket"\nlocal e = require "bit"'))
      assert.equal("", said_of("backend/planted", "") .. said_of("backend/planted_ffi", 'return require "ffi"'))
    end)

    it("a policy knows its queue, base and support/ alone", function()
      assert.equal("1: a file that ships knows base and its own support/, not tokenbatcher.core.stats\n"
        .. "2: a file that ships knows base and its own support/, not tokenbatcher.batching.policies\n"
        .. "3: a file that ships knows base and its own support/, not tokenbatcher.policy.fifo\n",
        said_of("policy/planted", 'local a = require "tokenbatcher.core.stats"\n'
          .. 'local b = require "tokenbatcher.batching.policies"\nlocal c = require "tokenbatcher.policy.fifo"\n'
          .. 'return require "tokenbatcher.policy.support.round_robin", require "tokenbatcher.base.errors"'))
    end)
  end)

  describe("whose fields:", function()
    it("a field of another room's object is neither read nor written", function()
      assert.equal("1: _handle is a field of another room's object\n2: _mine is a field of another room's object\n"
        .. "3: _records is a field of another room's object\n4: _warn is a field of another room's object\n",
        said_of("script/planted", 'local a = batcher._handle\nfuture._mine = a\nlocal c = self["_records"]\n'
          .. "b:_warn(c)"))
    end)

    it("a room's own are: assigned on self, in a constructor, or methods", function()
      assert.equal("", said_of("script/planted", "self._a, self._b = 1, 2\nlocal c = { _c = 3 }\n"
        .. "function M:_d() return a._a + b._b + c._c + c:_d() end"))
    end)

    it("an object of another room is not forged", function()
      assert.equal("1: _handle is a field of batching's\n",
        said_of("sim/planted", "return { _handle = 1 }"))
    end)
  end)

  describe("a room's first file:", function()
    it("is one of each room", function()
      assert.equal("1: is not the first file: lua/tokenbatcher/core/ffi.lua is\n",
        said_of("core/planted", "--- core: the core\nreturn 1"))
      lint.run(("sed -i 1s/cli/the/ %s/lua/tokenbatcher/cli/init.lua"):format(root))
      assert.equal("lua/tokenbatcher/cli/answers.lua:1: no file of cli begins with '--- cli: '\n",
        said_of("core/planted", "return 1"))
    end)
  end)

  describe("what is put into modules:", function()
    local FUTURE = 'local Future = require "tokenbatcher.runtime.future"\n'

    it("no function, in any of the ways to write it", function()
      assert.equal("2: puts the function again into the module tokenbatcher.runtime.future\n"
        .. "3: puts the function more into the module tokenbatcher.runtime.future\n"
        .. "4: puts the function new into the module tokenbatcher.runtime.future\n"
        .. "6: puts the function mine into the module tokenbatcher.runtime.future\n",
        said_of("runtime/planted", FUTURE .. "function Future.again() end\nfunction Future:more() end\n"
          .. "Future.new = function() end\nlocal function mine() end\nFuture.mine = mine"))
    end)

    it("nothing at all from another room", function()
      assert.equal("2: assigns limit of the module tokenbatcher.runtime.future\n",
        said_of("batching/planted", FUTURE .. "Future.limit = 1"))
      assert.equal("", said_of("batching/planted", "") .. said_of("runtime/planted", FUTURE .. "Future.limit = 1"))
    end)

    it("but into what a module has made", function()
      assert.equal("", said_of("batching/planted", FUTURE .. 'local future = Future.new(false, false)\nfuture.x = 1\n'
        .. 'local made = require("tokenbatcher.runtime.future").new(1, 2)\nmade.y = 1\n'
        .. "if Future.limit == 1 then return Future.limit end"))
    end)
  end)
end)
