-- The first spec: plain busted runs PUC Lua, which has no ffi.

describe("the suite", function()
  it("runs on LuaJIT (busted --lua=luajit)", function()
    assert.is_table(jit)
    assert.matches("^LuaJIT", jit.version)
  end)
end)
