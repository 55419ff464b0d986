-- A job is begun, ended by whatever, and gone on with: --output F with --resume, --overwrite, --retry-failed.

local job = dofile "tests/lua/cli/job_helper.lua"
local cli = job.cli

local OUT = function() return cli.path "out.jsonl" end

-- Ends the process in the midst of it, as kill -9 would, when record `n` is asked for the first time.
local function dying_at(n, more)
  return job.paid((more or "") .. " max_batch_size = 1,", ([[
    if records[1].n == %d and not io.open(%q) then
      io.open(%q, "w"):close()
      ffi.cdef "int raise(int signal);"
      ffi.C.raise(9)
    end]]):format(n, cli.path "died", cli.path "died"))
end

local function fresh(lines)
  job.input(lines)
  job.no_output()
  job.no_ledger()
  os.remove(cli.path "died")
end

local function script(text) return cli.file("script.lua", text) end

local function exists(name)
  local file = io.open(cli.path(name))
  if file then file:close() end
  return file ~= nil
end

local function refused(r, ...)
  assert.equal(2, r.status, r.err)
  for _, part in ipairs { ... } do assert.truthy(r.err:find(part, 1, true), r.err) end
end

-- Every second record fails at the first time, with the given Lua; later none does.
local function failing(how, more)
  return job.paid(more, ([[
    local is_first = not io.open(%q)
    if is_first then
      local failed = {}
      for i, r in ipairs(records) do
        if r.n %% 2 == 0 then failed[i] = true end
      end
      local results = {}
      for i, r in ipairs(records) do results[i] = failed[i] and tb.failure("not today") or r.n end
      %s
      return results
    end]]):format(cli.path "second", how or ""))
end

describe("A job", function()
  setup(cli.new_folder)
  before_each(function() os.remove(cli.path "second") end)
  teardown(cli.clean)

  describe("begins", function()
    it("with F, and ends with F.job beside it, whose first line has a hash of each of the first 1,000 lines", function()
      fresh(1200)
      assert.equal(0, job.run(script(job.paid())).status)
      assert.is_nil(job.flaw(OUT(), 1200, true))
      assert.is_false(exists "out.jsonl.journal")
      local first, rest = cli.read(cli.path "out.jsonl.job"):match "^([^\n]*)\n(.*)$"
      assert.equal("", rest)
      local hashes = {}
      for hash in first:match('"input":(%b[])'):gmatch '"(%x+)"' do hashes[#hashes + 1] = hash end
      assert.equal(1000, #hashes)
      local seen = {}
      for _, hash in ipairs(hashes) do
        assert.is_nil(seen[hash])
        seen[hash] = true
      end
    end)

    it("never over an output that is not empty, unless --overwrite says so", function()
      fresh(3)
      cli.file("out.jsonl", "paid for\n")
      refused(job.run(script(job.paid())), "is not empty", "--resume", "--overwrite")
      assert.equal("paid for\n", cli.read(OUT()))
      assert.equal(0, job.run(script(job.paid()), { "--overwrite" }).status)
      assert.is_nil(job.flaw(OUT(), 3, true))
    end)

    it("never over answers that wait in a journal, though the output is empty", function()
      fresh(5)
      local waiting = job.paid("max_batch_size = 1, max_concurrent_batches = 5,", [[
        if records[1].n == 1 then
          local function lines()
            return select(2, io.open(]] .. ("%q"):format(cli.path "out.jsonl.journal") .. [[):read("*a"):gsub("\n", ""))
          end
          while lines() < 5 do tb.sleep(0.001) end
          ffi.cdef "int raise(int signal);"
          ffi.C.raise(9)
        end]])
      job.run(script(waiting))
      assert.equal("", cli.read(OUT()))
      refused(job.run(script(job.paid())), "out.jsonl.journal holds answers", "--resume")
      assert.equal(0, job.run(script(job.paid()), { "--resume" }).status)
      assert.is_nil(job.flaw(OUT(), 5, true))
    end)

    it("never over a file that is no journal, though it is called so, unless --overwrite says so", function()
      for _, name in ipairs { "out.jsonl.journal", "out.jsonl.job" } do
        fresh(3)
        cli.file(name, "my job\n")
        refused(job.run(script(job.paid())), name .. " is no journal of a run", "--overwrite")
        assert.equal("my job\n", cli.read(cli.path(name)))
        assert.equal(0, job.run(script(job.paid()), { "--overwrite" }).status)
      end
    end)

    it("by a link that leads nowhere yet, and is gone on with by it", function()
      fresh(30)
      os.execute(("mkdir -p %s; ln -sf sub/real.jsonl %s"):format(cli.path "sub", cli.path "dangling.jsonl"))
      local path = script(dying_at(20))
      job.run(path, { "--output", cli.path "dangling.jsonl" })
      assert.equal(0, job.run(path, { "--resume", "--output", cli.path "dangling.jsonl" }).status)
      assert.is_nil(job.flaw(cli.path "sub/real.jsonl", 30, true))
      assert.is_true(exists "sub/real.jsonl.job")
    end)

    it("leaves the output alone when the script, its policy or its options are wrong", function()
      fresh(3)
      cli.file("out.jsonl", "paid for\n")
      for _, text in ipairs { "return {", "return {}", job.paid "policy = function() error 'no' end," } do
        assert.equal(2, job.run(script(text), { "--overwrite" }).status)
        assert.equal("paid for\n", cli.read(OUT()))
      end
      assert.equal(2, job.run(script(job.paid()), { "--overwrite", "--resume" }).status)
      assert.equal("paid for\n", cli.read(OUT()))
    end)

    it("never writes over its script, its input or its recording, by whatever name", function()
      fresh(3)
      local path = script(job.paid())
      os.execute(("cd %s && ln -sf in.jsonl soft.jsonl && ln -f in.jsonl hard.jsonl && ln -sf script.lua soft.lua")
        :format(cli.quote(cli.folder)))
      local before = { cli.read(cli.path "in.jsonl"), cli.read(path) }
      local roundabout = "../" .. cli.folder:match "[^/]*$" .. "/in.jsonl"
      for _, name in ipairs { "in.jsonl", "soft.jsonl", "hard.jsonl", "script.lua", "soft.lua", roundabout } do
        refused(cli.command { "run", path, "--input", cli.path "in.jsonl", "--output", cli.path(name), "--overwrite" },
          "cannot be the output")
      end
      cli.file("rec.jsonl", "recorded\n")
      os.execute(("ln -f %s %s"):format(cli.path "rec.jsonl", cli.path "rec2.jsonl"))
      refused(job.run(path, { "--record", OUT() }), "cannot be the recording")
      assert.is_false(exists "out.jsonl")
      refused(cli.command { "run", path, "--input", cli.path "in.jsonl", "--output", cli.path "rec.jsonl", "--record",
        cli.path "rec2.jsonl", "--overwrite" }, "cannot be the recording")
      assert.equal("recorded\n", cli.read(cli.path "rec.jsonl"))
      refused(cli.command { "run", path, "--input", cli.path "in.jsonl", "--output",
        cli.path "a", "--set", "record=" .. cli.path "a.journal" }, "cannot be the recording")
      assert.same(before, { cli.read(cli.path "in.jsonl"), cli.read(path) })
    end)

    it("alone: a second run with the same output is refused while the first one runs", function()
      fresh(1)
      local path = script(job.paid("", [[
        local second = io.popen(]] .. ("%q"):format(("%s run %s --input %s --output %s --resume 2>&1; echo $?"):format(
          cli.exe, cli.file("echo.lua", cli.ECHO), cli.path "in.jsonl", OUT())) .. [[):read "*a"
        io.open(]] .. ("%q"):format(cli.path "told") .. [[, "w"):write(second)]]))
      assert.equal(0, job.run(path).status)
      assert.truthy(cli.read(cli.path "told"):find "another run is writing to the output.*\n2\n$")
      assert.is_nil(job.flaw(OUT(), 1, true))
    end)
  end)

  describe("goes on", function()
    it("with the same command, again and again, and asks for nothing that is answered", function()
      fresh(100)
      local path = script(dying_at(40))
      job.run(path, { "--resume" })
      for _ = 1, 3 do
        assert.equal(0, job.run(path, { "--resume" }).status)
        assert.is_nil(job.flaw(OUT(), 100, true))
      end
      local _, all = job.ledger()
      assert.equal(100, all)
    end)

    it("says how much was there before, and what to type to go on", function()
      fresh(100)
      local path = script(dying_at(40))
      job.run(path)
      local r = job.run(path, { "--resume", "--max-failures", "1" })
      assert.truthy(r.err:find("before       39 (39 answered, 0 failed)", 1, true), r.err)
      assert.truthy(r.err:find("records      61 (61 answered, 0 failed)", 1, true), r.err)
    end)

    it("with lines that were appended to the input", function()
      fresh(10)
      local path = script(job.paid())
      job.run(path)
      job.input(25)
      assert.equal(0, job.run(path, { "--resume" }).status)
      assert.is_nil(job.flaw(OUT(), 25, true))
      local _, all = job.ledger()
      assert.equal(25, all)
      assert.is_true(exists "out.jsonl.job")
    end)

    it("not with another input: it names the first line that differs, and nothing is changed or asked", function()
      for _, args in ipairs { {}, { "--unordered" } } do
        fresh(1000)
        job.run(script(dying_at(900)), args)
        local before = { cli.read(OUT()), cli.read(cli.path "out.jsonl.journal") }
        local text = cli.read(cli.path "in.jsonl")
        cli.file("in.jsonl", (text:gsub('"n":700,', '"n":701,')))
        refused(job.run(script(job.paid()), { "--resume", unpack(args) }), "line 700 differs")
        cli.file("in.jsonl", text:match '^(.-\n){"n":500')
        refused(job.run(script(job.paid()), { "--resume", unpack(args) }), "it has no line 500")
        assert.same(before, { cli.read(OUT()), cli.read(cli.path "out.jsonl.journal") })
        local _, all = job.ledger()
        assert.equal(899, all)
      end
    end)

    -- Of 2,600 lines all are answered but those that were under way, of which 2,100 is one.
    local function begin_long(args)
      job.input(2600)
      job.no_ledger()
      local before = "if records[1].n == 2100 then tb.sleep(3) end " .. job.KILLER
      job.no_output()
      local path = script(job.paid("max_batch_size = 1, max_concurrent_batches = 4,", before))
      assert.equal(137, job.run_until(path, args, 2300))
    end

    it("not with an input that is another behind its first 1,000 lines: nothing of it is asked", function()
      for _, args in ipairs { {}, { "--unordered" } } do
        begin_long { "--resume", unpack(args) }
        local text, path = cli.read(cli.path "in.jsonl"), script(job.paid())
        local _, paid = job.ledger()
        for _, n in ipairs { 1001, 1999, 2100, 2101 } do
          cli.file("in.jsonl", (text:gsub('"n":' .. n .. ",", '"n":99999,')))
          local r = job.run(path, { "--resume", unpack(args) })
          refused(r, n < 2000 and "one of its lines 1001 to 2000 differs" or "one of its lines 2001 to ")
          assert.is_nil(r.err:find "to go on")
        end
        cli.file("in.jsonl", text:match '^(.-\n){"n":2050')
        refused(job.run(path, { "--resume", unpack(args) }), "it has no line 2050")
        local r = cli.shell(("timeout -k 1 60 %s run %s --output %s --resume %s"):format(cli.exe, path, OUT(),
          table.concat(args, " ")), (text:gsub('"n":2101,', '"n":99999,')))
        refused(r, "one of its lines 2001 to ")
        assert.equal(paid, (select(2, job.ledger())))
        cli.file("in.jsonl", text .. '{"n":2601,"text":"more"}\n')
        assert.equal(0, job.run(path, { "--resume", unpack(args) }).status)
        assert.is_nil(job.flaw(OUT(), 2601, #args == 0))
      end
    end)

    it("with standard input, which is read once", function()
      fresh(60)
      local path = script(dying_at(40))
      for _ = 1, 2 do
        cli.shell(("timeout -k 1 60 %s run %s --output %s --resume <%s"):format(cli.exe, path, OUT(),
          cli.path "in.jsonl"))
      end
      assert.is_nil(job.flaw(OUT(), 60, true))
      local r = cli.shell(("timeout -k 1 60 %s run %s --output %s --resume"):format(cli.exe, path, OUT()), "1\n")
      refused(r, "line 1 differs")
    end)

    it("in the order in which the output was written, and not otherwise", function()
      fresh(10)
      local path = script(dying_at(5))
      job.run(path)
      refused(job.run(path, { "--resume", "--unordered" }), "in the order of the input")
      fresh(10)
      job.run(path, { "--unordered" })
      refused(job.run(path, { "--resume" }), "--unordered")
    end)

    it("after a torn last line of the output, at whatever byte, and of the journal", function()
      fresh(12)
      job.run(script(job.paid()))
      local whole, header = cli.read(OUT()), cli.read(cli.path "out.jsonl.job")
      for size = 0, #whole, 7 do
        job.no_output()
        cli.file("out.jsonl", whole:sub(1, size))
        cli.file("out.jsonl.journal", header .. '{"index":12,"result":12}\n{"index":11,"res')
        assert.equal(0, job.run(script(job.paid()), { "--resume" }).status)
        assert.equal(whole, cli.read(OUT()))
        assert.equal(header, cli.read(cli.path "out.jsonl.job"))
      end
    end)

    it("where the first line of the journal was torn", function()
      fresh(12)
      job.run(script(dying_at(8)))
      local text = cli.read(cli.path "out.jsonl.journal")
      local torn, count = text:gsub('"%] ', '","12 ', 1)
      assert.equal(1, count)
      cli.file("out.jsonl.journal", torn)
      assert.equal(0, job.run(script(job.paid()), { "--resume" }).status)
      assert.is_nil(job.flaw(OUT(), 12, true))
    end)

    it("without a journal, by what stands in the output", function()
      for _, args in ipairs { {}, { "--unordered" } } do
        fresh(30)
        job.run(script(dying_at(20)), args)
        os.remove(cli.path "out.jsonl.journal")
        assert.equal(0, job.run(script(job.paid()), { "--resume", unpack(args) }).status)
        assert.is_nil(job.flaw(OUT(), 30, #args == 0))
        local _, all = job.ledger()
        assert.equal(30, all)
      end
    end)

    it("not over a file that is no output of a run, which stays as it is", function()
      fresh(3)
      cli.file("out.jsonl", '{"index":1,"result":1}\n{"my":"notes"}\n')
      refused(job.run(script(job.paid()), { "--resume" }), "line 2 is no answer of a run")
      assert.equal('{"index":1,"result":1}\n{"my":"notes"}\n', cli.read(OUT()))
    end)

    it("with a journal that does not grow with the job: what the output has is left out of it", function()
      fresh(4000)
      local path = script(job.paid("max_batch_size = 1, max_concurrent_batches = 16, batch_timeout_s = 0,", [[
        if records[1].n % 16 == 1 then tb.sleep(0.002) end
        MOST = math.max(MOST or 0, io.open(]] .. ("%q"):format(cli.path "out.jsonl.journal") .. [[):seek "end")
        if records[1].n == 4000 then io.stderr:write("journal ", MOST, "\n") end]])
        :gsub("results%[i%], ns%[i%] = r.n,", "results[i], ns[i] = ('x'):rep(10000),"))
      local r = job.run(path)
      assert.equal(0, r.status)
      local most = tonumber(r.err:match "journal (%d+)")
      assert.is_true(most > 15e6 and most < 20e6, most)
      local n = 0
      for line in io.lines(OUT()) do
        n = n + 1
        assert.equal(('{"index":%d,"result":"%s"}'):format(n, ("x"):rep(10000)), line)
      end
      assert.equal(4000, n)
    end)

    it("only with a file", function()
      fresh(3)
      refused(job.run(script(job.paid()), { "--resume", "--output", "/dev/null" }), "plain file")
      refused(cli.command({ "run", script(job.paid()), "--resume" }, ""), "--output")
    end)

    it("by a link to the output, too", function()
      fresh(30)
      os.execute(("ln -sf out.jsonl %s"):format(cli.path "link.jsonl"))
      local path = script(dying_at(20))
      job.run(path, { "--output", cli.path "link.jsonl" })
      assert.equal(0, job.run(path, { "--resume", "--output", cli.path "link.jsonl" }).status)
      assert.is_nil(job.flaw(OUT(), 30, true))
      assert.is_true(exists "out.jsonl.job")
    end)
  end)

  describe("with lines by the script's own encode", function()
    local ENCODE = [[encode = function(record, result, err)
      return err and "failed \"\\" .. record.n .. " \1" or "answer \"\\" .. result .. " \255"
    end,]]

    local function answers(count)
      local list = {}
      for i = 1, count do list[i] = 'answer "\\' .. i .. " \255" end
      return list
    end

    local function lines_of_output()
      local list = {}
      for line in io.lines(OUT()) do list[#list + 1] = line end
      return list
    end

    local function as_set(list)
      table.sort(list)
      return list
    end

    for name, args in pairs { ["in order"] = {}, unordered = { "--unordered" } } do
      it("goes on, pays once, and knows whose they are, " .. name, function()
        fresh(300)
        local more = ENCODE .. "max_concurrent_batches = 4,"
        local path = script(dying_at(200, more):gsub("local results, ns", [[
          if records[1].n %% 9 == 0 then tb.sleep(0.002) end
          local results, ns]]))
        job.run(path, args)
        assert.equal(0, job.run(path, { "--resume", unpack(args) }).status)
        assert.equal(0, job.run(path, { "--resume", unpack(args) }).status)
        local _, all = job.ledger()
        assert.is_true(all <= 304, all)
        local found, expected = lines_of_output(), answers(300)
        if #args > 0 then found, expected = as_set(found), as_set(expected) end
        assert.same(expected, found)
      end)

      it("asks again for what failed, " .. name, function()
        fresh(30)
        local path = script(failing(nil, ENCODE .. "max_batch_size = 4,"))
        assert.equal(1, job.run(path, args).status)
        cli.file("second", "")
        assert.equal(1, job.run(path, { "--resume", unpack(args) }).status)
        local _, all = job.ledger()
        assert.equal(0, all)
        assert.equal(0, job.run(path, { "--retry-failed", unpack(args) }).status)
        local found, expected = lines_of_output(), answers(30)
        if #args > 0 then found, expected = as_set(found), as_set(expected) end
        assert.same(expected, found)
        assert.equal(0, job.run(path, { "--retry-failed", unpack(args) }).status)
        local _, paid = job.ledger()
        assert.equal(15, paid)
      end)
    end

    it("not without its journal, nor by a script without an encode", function()
      fresh(30)
      job.run(script(dying_at(20, ENCODE)))
      refused(job.run(script(job.paid()), { "--resume" }), "with an encode, and this one has none")
      os.remove(cli.path "out.jsonl.journal")
      refused(job.run(script(job.paid(ENCODE)), { "--resume" }), "out.jsonl.journal is gone")
    end)
  end)

  describe("with error lines", function()
    for name, args in pairs { ["in order"] = {}, unordered = { "--unordered" } } do
      it("asks again with --retry-failed, all or by code, and every line is answered once, " .. name, function()
        fresh(40)
        local path = script(failing(nil, "max_batch_size = 8,"))
        local r = job.run(path, args)
        assert.equal(1, r.status)
        assert.truthy(r.err:find("the failed   tokenbatcher run .* %-%-retry%-failed\n"), r.err)
        cli.file("second", "")
        assert.equal(1, job.run(path, { "--resume", unpack(args) }).status)
        assert.equal(1, job.run(path, { "--retry-failed", "deadline,bad_input", unpack(args) }).status)
        local _, none = job.ledger()
        assert.equal(0, none)
        assert.equal(0, job.run(path, { "--retry-failed=inference_failed", unpack(args) }).status)
        assert.is_nil(job.flaw(OUT(), 40, #args == 0))
        local _, all = job.ledger()
        assert.equal(20, all)
        assert.is_false(exists "out.jsonl.journal.merged")
      end)

      it("loses nothing of what was answered when it is killed in between, " .. name, function()
        fresh(40)
        local path = script(failing(nil, "max_batch_size = 1,"))
        job.run(path, args)
        cli.file("second", "")
        job.run(script(dying_at(20)), { "--retry-failed", unpack(args) })
        local _, before = job.ledger()
        assert.equal(9, before)
        assert.equal(1, job.run(script(job.paid()), { "--resume", unpack(args) }).status)
        local _, same = job.ledger()
        assert.equal(9, same)
        assert.equal(0, job.run(script(job.paid()), { "--retry-failed", unpack(args) }).status)
        local _, all = job.ledger()
        assert.equal(20, all)
        assert.is_nil(job.flaw(OUT(), 40, #args == 0))
      end)
    end

    it("keeps the mode of an output that is written anew, and gives it to the journal", function()
      fresh(4)
      local path = script(failing())
      job.run(path)
      os.execute("chmod 600 " .. OUT())
      cli.file("second", "")
      assert.equal(0, job.run(path, { "--retry-failed" }).status)
      assert.equal("600\n600\n", cli.shell(("stat -c %%a %s %s.job"):format(OUT(), OUT())).out)
    end)

    it("writes the new error where it fails again", function()
      fresh(4)
      job.run(script(failing()))
      local r = job.run(script(cli.answering "require('tokenbatcher').failure 'nor tomorrow'"), { "--retry-failed" })
      assert.equal(1, r.status)
      local text = cli.read(OUT())
      local line = '{"index":2,"error":{"code":"inference_failed","message":"nor tomorrow"}}\n'
      assert.truthy(text:find(line, 1, true), text)
      assert.truthy(text:find('{"index":3,"result":3}', 1, true), text)
    end)

    it("refuses a code that there is not, and says the nearest", function()
      fresh(1)
      refused(job.run(script(job.paid()), { "--retry-failed=dead_line" }), "did you mean 'deadline'?")
    end)
  end)
end)
