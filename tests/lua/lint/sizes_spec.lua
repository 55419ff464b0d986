-- The lint rule about sizes: what it must find is planted here.

local lint = dofile "tests/lua/lint_helper.lua"

describe("lint, sizes:", function()
  local root

  before_each(function() root = lint.copy_of "src lua tests examples" end)
  after_each(function() lint.remove(root) end)

  local function large() return lint.run("sh tests/lint/sizes.sh " .. root) end

  it("have nothing to say of the tree as it is", function()
    assert.equal("", large())
  end)

  it("find a file of more than 400 lines, in C and in Lua", function()
    lint.write(root, "src/core/long.h", ("\n"):rep(401))
    lint.write(root, "lua/tokenbatcher/sim/long.lua", ("\n"):rep(401))
    lint.write(root, "examples/long.lua", ("\n"):rep(401))
    lint.write(root, "examples/right.lua", ("\n"):rep(400))
    assert.equal("examples/long.lua: 401 lines\nlua/tokenbatcher/sim/long.lua: 401 lines\n"
      .. "src/core/long.h: 401 lines\n", large())
  end)

  it("find a function of more than 70 lines, in C and in Lua", function()
    lint.write(root, "src/core/long.c", "int f(void);\nint f(void)\n{" .. ("\n"):rep(69) .. "    return 0; }\n")
    lint.write(root, "lua/tokenbatcher/sim/long.lua", "return function()" .. ("\n"):rep(70) .. "end\n")
    lint.write(root, "examples/right.lua", "return function()" .. ("\n"):rep(69) .. "end\n")
    assert.equal("lua/tokenbatcher/sim/long.lua:1: a function of 71 lines\n"
      .. "src/core/long.c:2: f has 71 lines\n", large())
  end)
end)
