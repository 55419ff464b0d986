-- Every file in examples/ runs as its head comment says, and prints what it promises.

local cli = dofile "tests/lua/cli_helper.lua"

local PROMPTS = { "--input", "examples/prompts.jsonl" }

-- Scripts for luajit: what their output has in it.
local PROGRAMS = {
  quickstart = { "answer to: What is 2%+2%?", "inference_failed: that is no question",
    "4 submitted, 3 completed, 1 failed, %d batches" },
  own_loop = { "answer:%s+HELLO FROM MY OWN LOOP", "next deadline:%s+nil" },
  virtual_clock = { "fifo +10 ", "eager +100 " },
  compare_policies = { "fifo +%d+ ", "length_bucketed +%d+ ", "shortest_first.lua +%d+ " },
  cascade = { "the filter answered 375 of 500 records", "the model  answered 125 of 125 records" },
  luv_loop = { "1%s+TICK 1\n", "5%s+TICK 5\n", "5 records in %d batches\n$" },
  threads = { "only waits +%d+ ", "on the loop +%d+ ", "in 1 thread +%d+ ", "in 4 threads +%d+ ",
    "4 threads do %d%.%d times as much as 1" },
  per_tenant = { "fifo +anna +0 ", "fair +anna +1%d%d%d ", "fair +bulk +3%d%d%d%d " },
}

-- Scripts for tokenbatcher run: arguments, input, and what the output has in it.
local SCRIPTS = {
  simulated_accelerator = { { "--base-s", "0", "--per-token-s", "0", unpack(PROMPTS) }, nil, '^{"index":1,"result":{',
    '\n{"index":240,"result":{[^\n]*}\n$' },
  failures = { {}, "4\n-1\n9\n", '{"index":1,"result":2}\n{"index":2,"error":{.*no real root of %-1' },
  plain_text = { {}, "to be\nor not to be\n", "^to be\t2\nor not to be\t4\n$" },
  custom_policy = { PROMPTS, nil, '^{"index":1,"result":{',
    '\n{"index":240,"result":{"text":"What is a hash table%?"' },
  custom_estimator = { PROMPTS, nil, '^{"index":1,"result":{"charged":44,"tokens":78}}', '\n{"index":240,"result":{' },
  blocking = { {}, "1\n2\n", '^{"index":1,"result":"seen 1"}\n{"index":2,"result":"seen 2"}\n$' },
  embed = { {}, "to be\nor not\n", "^to be: 2 words, in a batch of 2\nor not: 2 words, in a batch of 2\n$" },
  exact_tokens = { PROMPTS, nil, '^{"index":1,"result":{"tokens":%d+}}', '\n{"index":240,"result":{"tokens":6}}' },
}

-- Those that need a server have specs of their own.
local ELSEWHERE = { embeddings = "real_model_spec" }

local STATUS = { failures = 1 }

local function assert_output(r, patterns, first)
  for i = first, #patterns do
    assert.truthy(r.out:find(patterns[i]), ("'%s' is not in:\n%s\n%s"):format(patterns[i], r.out, r.err))
  end
end

local function missing_for(name)
  if name == "luv_loop" and os.execute [[luajit -e 'require "luv"' 2>/dev/null]] ~= 0 then return "no lua-luv" end
  if name ~= "exact_tokens" then return nil end
  if os.execute "command -v node >/dev/null" ~= 0 then return "no node" end
  if os.execute [[node -e 'require("tiktoken")' 2>/dev/null]] ~= 0 then return "no npm package tiktoken" end
end

describe("examples/", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  for name, patterns in pairs(PROGRAMS) do
    it(name .. ".lua runs with luajit", function()
      local missing = missing_for(name)
      if missing then return pending("skipped: " .. missing) end
      local r = cli.shell("luajit examples/" .. name .. ".lua")
      assert.equal("", r.err)
      assert.equal(0, r.status)
      assert_output(r, patterns, 1)
    end)
  end

  for name, row in pairs(SCRIPTS) do
    it(name .. ".lua passes check, and answers", function()
      local missing = missing_for(name)
      if missing then return pending("skipped: " .. missing) end
      local path = "examples/" .. name .. ".lua"
      local checked = cli.command { "check", path }
      assert.equal(0, checked.status, checked.out)
      local r = cli.command({ "run", path, unpack(row[1]) }, row[2])
      assert.equal(STATUS[name] or 0, r.status, r.err)
      assert_output(r, row, 3)
    end)
  end

  it("embed.c, of fewer than 100 lines, compiles and gets every answer on its own loop", function()
    local r = cli.shell(("cc -std=c11 -Wall -Wextra -Werror -Iinclude examples/embed.c -o %s -L%s -Wl,-rpath,%s "
      .. "-ltokenbatcher_script -ltokenbatcher -lluajit-5.1 -lev -pthread && timeout -s KILL 60 %s examples/embed.lua")
      :format(cli.path "embed", cli.build, cli.build, cli.path "embed"))
    assert.equal(0, r.status, r.err)
    assert_output(r, { "from the loop: that is the question: 4 words, in a batch of %d\n",
      "from the other thread: or not to be: 4 words, in a batch of %d\n", "\n8 records answered\nstopped\n$" }, 1)
    assert.equal(10, #r.lines)
    assert.is_true(select(2, cli.read("examples/embed.c"):gsub("\n", "")) < 100)
    r = cli.shell(cli.path "embed" .. " /no/such.lua")
    assert.equal(1, r.status)
    assert.matches("/no/such.lua", r.err)
  end)

  it("foreign_libev.c compiles, and drives a batcher on its own loop", function()
    local r = cli.shell(("cc -std=c11 -Wall -Wextra -Werror examples/foreign_libev.c -o %s "
      .. "$(pkg-config --cflags --libs luajit) -lev && timeout -s KILL 60 %s")
      :format(cli.path "foreign", cli.path "foreign"))
    assert.equal(0, r.status, r.err)
    assert_output(r, { "^tick 1 in a batch of %d\n", "tick 5 in a batch of %d\ndone, and nothing is due: yes\n$" }, 1)
  end)

  it("exact_tokens.lua says what it needs where that is missing", function()
    local needed = {}
    for i, tool in ipairs { "sh", "rm", "mkfifo", "timeout" } do
      needed[i] = ("ln -s $(command -v %s) %s"):format(tool, cli.path(tool))
    end
    os.execute(table.concat(needed, "; "))
    local r = cli.shell(("PATH=%s %s run examples/exact_tokens.lua"):format(cli.folder, cli.quote(cli.exe)))
    assert.equal(2, r.status)
    assert.truthy(r.err:find("npm install tiktoken@1.0.22 (node did not start)", 1, true), r.err)
    if os.execute "command -v node >/dev/null" ~= 0 then return end
    r = cli.shell(("NODE_PATH= %s run %s/examples/exact_tokens.lua"):format(cli.quote(cli.exe), cli.quote(cli.root)))
    if r.status == 0 then return end -- the package is installed here
    assert.equal(2, r.status)
    assert.truthy(r.err:find("Cannot find module 'tiktoken'", 1, true), r.err)
  end)

  it("has a test for each file", function()
    local pipe = io.popen "ls examples"
    for file in pipe:lines() do
      local name = file:match "^(.*)%.lua$"
      if name then assert.truthy(PROGRAMS[name] or SCRIPTS[name] or ELSEWHERE[name], file) end
    end
    pipe:close()
  end)

  it("has a head comment in each file that says how to run it", function()
    for name in pairs(PROGRAMS) do
      assert.truthy(cli.read("examples/" .. name .. ".lua"):find("luajit examples/" .. name), name)
    end
    for name in pairs(SCRIPTS) do
      assert.truthy(cli.read("examples/" .. name .. ".lua"):find("tokenbatcher run examples/" .. name), name)
    end
  end)
end)
