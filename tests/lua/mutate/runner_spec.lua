-- The runner of mutants (tests/mutate): on a tree of one file and one test it must find what it is there to find; and
-- a sample of the real ones must be seen by the real tests.

local CODE = [[
local M = {}
function M.larger(a, b) if a > b then return a end return b end
function M.count(n)
  local i = 0
  while i < n do i = i + 1 end
  return i
end
function M.wait() return os.execute "sleep 0" end
return M
]]

local TEST = [[
local code = dofile "code.lua"
assert(code.larger(1, 2) == 2 and code.larger(2, 1) == 2)
assert(code.count(3) == 3)
code.wait()
]]

local SUITES = [[
return {
  copy = "code.lua test.lua", suite_of = function() return "toy" end,
  suites = { toy = { build = "luajit -bl code.lua >/dev/null", tests = { "luajit test.lua" } } },
}
]]

local KILLED = "- if a > b then\n+ if a < b then\n"
local EQUIVALENT = "- if a > b then\n+ if a >= b then\n= of two that are equal it is one which is returned\n"

local function write(path, text)
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
end

local function execute(command)
  local pipe = assert(io.popen(command .. " 2>&1; status=$?; echo; echo $status"))
  local text = pipe:read "*a"
  pipe:close()
  local said, status = text:match "^(.*)\n(%d+)\n$"
  return tonumber(status), said
end

describe("the runner of mutants", function()
  local folder

  before_each(function()
    folder = assert(io.popen("mktemp -d"):read "*l")
    for name, text in pairs { ["code.lua"] = CODE, ["test.lua"] = TEST, ["suites.lua"] = SUITES } do
      write(folder .. "/" .. name, text)
    end
  end)
  after_each(function() os.execute("rm -rf " .. folder) end)

  -- Run it over these mutants of code.lua. @return exit status, what it says
  local function run(mutants, options)
    write(folder .. "/list.txt", "# a list\n\n== code.lua\n" .. mutants)
    return execute(("luajit tests/mutate/run.lua --tree %s --suites %s/suites.lua --scratch %s/scratch %s %s/list.txt")
      :format(folder, folder, folder, options or "", folder))
  end

  local function says(expected, said) assert.truthy(said:find(expected, 1, true), said) end

  it("is content when all are killed, but for one in twenty that is equivalent", function()
    local status, said = run((KILLED .. "\n"):rep(19) .. EQUIVALENT)
    assert.equal(0, status, said)
    says("mutants   20: 19 killed (0 of them by the limit of processor time, 0 by waiting for ever), "
      .. "1 survived (1 equivalent), 0 did not build\nkilled    95.0 %", said)
    says("equivalent code.lua:2\n    - if a > b then\n    + if a >= b then\n    = of two that are equal", said)
    assert.equal(1, (run((KILLED .. "\n"):rep(18) .. EQUIVALENT))) -- 94.7 %
  end)

  it("tells of one that survives, with place and difference, however many were killed", function()
    local status, said = run((KILLED .. "\n"):rep(30) .. "- while i < n do\n+ while i ~= n do\n")
    assert.equal(1, status)
    says("SURVIVED code.lua:5\n    - while i < n do\n    + while i ~= n do", said)
    says("killed    96.8 %", said)
  end)

  it("tells of one that is said to be equivalent, and is killed", function()
    local status, said = run(KILLED .. "= nobody can tell\n")
    assert.equal(1, status)
    says("KILLED, though it is said to be equivalent, by ", said)
  end)

  it("names what is not there, there twice or no change, and runs nothing", function()
    local status, said = run("- if b > a then\n+ if a < b then\n\n- return\n+ do return end\n\n"
      .. "- while i < n\n+ while i < n\n")
    assert.equal(2, status)
    says(folder .. "/list.txt:4: the old text is not in code.lua: if b > a then", said)
    says(folder .. "/list.txt:7: the old text is 5 times in code.lua: return", said)
    says(folder .. "/list.txt:10: the new text is the old one", said)
    assert.is_nil(said:find("killed", 1, true))
  end)

  it("finds old text whatever its white space, over several lines", function()
    local status, said = run("- local i = 0\n      while   i < n do\n+ local i = 1\n  while i < n do\n")
    assert.equal(1, status) -- count(3) is 3 all the same
    says("SURVIVED code.lua:4", said)
  end)

  it("counts none that does not build as killed", function()
    local status, said = run((KILLED .. "\n"):rep(30) .. "- local i = 0\n+ local i = = 0\n")
    assert.equal(1, status)
    says("DOES NOT BUILD code.lua:4", said)
    says("30 killed", said)
  end)

  it("ends one that never ends, by its processor time, and one that waits for ever, by the clock", function()
    local status, said = run("- i = i + 1\n+ i = i\n", "--limit 1 --wall 100")
    assert.equal(0, status, said)
    says("1 killed (1 of them by the limit of processor time, 0 by waiting for ever)", said)
    status, said = run("- sleep 0\n+ sleep 1000\n", "--wall 1")
    assert.equal(0, status, said)
    says("1 killed (0 of them by the limit of processor time, 1 by waiting for ever)", said)
  end)

  it("stops where the tree as it is fails, does not build or takes too long", function()
    write(folder .. "/test.lua", TEST .. "error 'broken'\n")
    local status, said = run(KILLED)
    assert.equal(2, status)
    says("toy: the tree as it is fails (1): luajit test.lua", said)
    says("broken", said)
    write(folder .. "/test.lua", TEST .. "local ends = os.clock() + 0.7\nrepeat until os.clock() > ends\n")
    status, said = run(KILLED, "--limit 1")
    assert.equal(2, status)
    says("of 1 s, which is more than half", said)
  end)

  it("sees that a sample of the real mutants is killed, and that one is not, which none can", function()
    local status, said = execute("luajit tests/mutate/run.lua --scratch build/mutants-sample tests/mutate/sample.txt")
    os.execute "rm -rf build/mutants-sample"
    assert.equal(0, status, said)
    says("mutants   20: 19 killed", said)
    says("1 survived (1 equivalent)", said)
  end)
end)
