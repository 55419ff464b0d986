-- What the command line says of itself: flags by groups, examples, what was meant; the manual page and completion.

local cli = dofile "tests/lua/cli_helper.lua"

local function says(args, ...)
  local r = cli.command(args)
  for _, text in ipairs { ... } do assert.truthy((r.out .. r.err):find(text, 1, true), r.out .. r.err) end
  return r
end

local function commands()
  local names = {}
  local list = cli.command({ "--help" }).out:match "Commands:\n(.-)\n\n"
  for name in list:gmatch "   (%l+) " do names[#names + 1] = name end
  return names
end

describe("help:", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  it("`help` and `help COMMAND` say what --help says", function()
    assert.equal(cli.command({ "--help" }).out, cli.command({ "help" }).out)
    assert.equal(0, cli.command({ "help" }).status)
    assert.equal(cli.command({ "run", "--help" }).out, cli.command({ "help", "run" }).out)
    assert.equal(2, says({ "help", "rum" }, "unknown command 'rum'", "Did you mean 'run'").status)
  end)

  it("every flag of run, simulate and send stands in a group; only a few stand under others", function()
    for name, most in pairs { run = 4, simulate = 2, send = 2 } do
      local others = cli.command({ name, "--help" }).out:match "Other options:\n(.-)\n\n"
      local _, n = others:gsub("\n?   %-", "")
      assert.is_true(n <= most, name .. ":\n" .. others)
    end
  end)

  it("examples are of every command that needs words, and what they say is understood", function()
    for _, name in ipairs(commands()) do
      local text = cli.command({ name, "--help" }).out
      if name ~= "devices" then assert.truthy(text:find "\nExamples:\n  tokenbatcher ", name) end
      local examples = text:match "Examples:\n(.-)\n\n" or text:match "Examples:\n(.*)$" or ""
      for line in examples:gmatch "  tokenbatcher ([^\n]*)" do
        assert.equal(name, line:match "^%l+")
        for flag in line:gmatch "%f[%S]%-%-[%l-]+" do
          assert.truthy(text:find("\n   " .. flag:gsub("%-", "%%-") .. " "), name .. " has no " .. flag)
        end
      end
    end
  end)

  it("a flag that is an option of the batcher is told as --set", function()
    local script = cli.file("script.lua", "return { inference_fn = function(r) return r end }")
    assert.equal(2, says({ "run", "--policy", "eager", script }, "unknown option '--policy'",
      "--set policy=eager").status)
    says({ "run", "--max-batch-size=5", script }, "--set max_batch_size=5")
    says({ "check", script, "--batch-timeout-s" }, "--set batch_timeout_s=...")
  end)

  it("a flag of another command is told where it belongs", function()
    local script = cli.file("script.lua", "return { inference_fn = function(r) return r end }")
    says({ "check", "--trace", "x", script }, "Other commands have it: simulate, tune")
    says({ "fit", "--bound", "x" }, "Another command has it: simulate")
  end)

  it("a file that is no script is told as what it is", function()
    local trace = cli.file("hour.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n")
    assert.equal(2, says({ "simulate", trace }, "arrivals is given by --trace " .. trace).status)
    local records = cli.file("prompts.jsonl", "{}\n")
    assert.equal(2, says({ "run", records }, "records is given by --input " .. records).status)
    assert.falsy(cli.command({ "run", cli.file("broken.lua", "return {") }).err:find "is given by")
  end)

  it("no line is wider than a page of 104 columns", function()
    for _, name in ipairs(commands()) do
      for line in cli.command({ name, "--help" }).out:gmatch "[^\n]+" do
        assert.is_true(#line <= 104, name .. ": " .. line)
      end
    end
  end)
end)

local function built(target)
  local r = cli.shell(("env -u MAKEFLAGS -u MAKELEVEL make -s B=%s %s"):format(cli.quote(cli.build), cli.quote(target)))
  assert.equal(0, r.status, r.err)
  return target
end

describe("for the shell:", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  it("the manual page has its sections, each said once", function()
    local page = cli.read(built(cli.build .. "/tokenbatcher.1"))
    for _, section in ipairs { "NAME", "SYNOPSIS", "DESCRIPTION", "EXAMPLES", "EXIT STATUS", "FILES", "TRACE FORMATS",
      "ENVIRONMENT" } do
      local _, n = page:gsub("\n%.SH " .. section .. "\n", "")
      assert.equal(1, n, section)
    end
    for _, name in ipairs(commands()) do
      assert.truthy(page:find("\n.SH TOKENBATCHER " .. name:upper(), 1, true), name)
    end
    assert.truthy(page:match("SH TRACE FORMATS\n(.-)%.SH"):find "Mooncake")
    assert.truthy(page:match("SH EXAMPLES\n(.-)%.SH"):find "tokenbatcher simulate")
  end)

  -- What bash would offer for the last of these words.
  local function offers(...)
    local words = { ... }
    for i, word in ipairs(words) do words[i] = cli.quote(word) end
    local script = cli.file("complete.sh",
      (". %s\nCOMP_WORDS=(%s)\nCOMP_CWORD=%d\n_tokenbatcher\necho ${COMPREPLY[*]}\n"):format(
        cli.quote(cli.build .. "/tokenbatcher.bash"), table.concat(words, " "), #words - 1))
    local r = cli.shell("bash " .. cli.quote(script))
    assert.equal("", r.err)
    return (r.out:gsub("\n$", ""))
  end

  it("bash completes commands, flags, options, policies and files", function()
    built(cli.build .. "/tokenbatcher.bash")
    assert.equal("simulate", offers("tokenbatcher", "si"))
    assert.equal("run", offers("tokenbatcher", "help", "ru"))
    assert.equal("--resume --retry-failed --record --requests-per-minute", offers("tokenbatcher", "run", "--re"))
    assert.equal("target_batch_cost= target_batch_tokens=", offers("tokenbatcher", "run", "--set", "ta"))
    assert.equal("one_group on_time", offers("tokenbatcher", "run", "--set", "policy", "=", "on"))
    assert.equal("wait reject", offers("tokenbatcher", "run", "--set", "on_full", "="))
    assert.equal("fifo fair", offers("tokenbatcher", "simulate", "--policy", "f"))
    assert.matches("^preset:rtx4090", offers("tokenbatcher", "simulate", "--device", "preset:rtx4"))
    assert.equal("", offers("tokenbatcher", "simulate", "--seed", "1"))
    assert.equal("README.md", offers("tokenbatcher", "run", "READ"))
    local offered = " " .. offers("tokenbatcher", "") .. " "
    for _, name in ipairs(commands()) do assert.truthy(offered:find(" " .. name .. " ", 1, true), offered) end
  end)

  it("zsh takes its completion", function()
    local file = built(cli.build .. "/tokenbatcher.zsh")
    assert.matches("^#compdef tokenbatcher\n", cli.read(file))
    assert.falsy(cli.read(file):find('%-%-seed%[[^\n]*_files'))
    if cli.shell("command -v zsh").status ~= 0 then return pending "skipped: no zsh" end
    assert.equal("", cli.shell("zsh -n " .. cli.quote(file)).err)
  end)
end)
