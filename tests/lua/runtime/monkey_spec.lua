--- Every public function and method, with arguments of every type: see tests/monkey/monkey.lua. In a process of its
-- own, which may crash or hang.

local CALLS = 100000

describe("whatever is called, with whatever arguments", function()
  it("no crash, no hang, no counter that drifts, and errors that say what was wrong with the call", function()
    local pipe = io.popen(("timeout 600 luajit tests/monkey/monkey.lua %d %d 2>&1; echo \"exit $?\""):format(1, CALLS))
    local text = pipe:read "*a"
    pipe:close()
    assert.is_truthy(text:find("exit 0\n$"), text)
    assert.is_truthy(text:find("functions, seed 1: nothing found", 1, true), text)
  end)
end)
