-- tokenbatcher run: compressed input, "-", values kept as they came, one line a record.

local cli = dofile "tests/lua/cli_helper.lua"

local ECHO = cli.ECHO

describe("tokenbatcher run", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  describe("--input F that is gzip", function()
    local plain, packed

    setup(function()
      local lines = {}
      for i = 1, 3000 do lines[i] = ('{"n":%d,"text":"line %d of %x"}'):format(i, i, i * 2654435761 % 2 ^ 32) end
      plain = cli.file("plain.jsonl", table.concat(lines, "\n") .. "\n")
      packed = plain .. ".gz"
      assert.equal(0, cli.shell("gzip -k " .. plain).status)
    end)

    local function answers(path)
      return cli.run(ECHO, "", { "--input", path })
    end

    it("is read as what was compressed", function()
      local r = answers(packed)
      assert.equal(0, r.status, r.err)
      assert.equal(answers(plain).out, r.out)
      assert.equal(r.out, cli.run(ECHO, cli.read(packed)).out)
      assert.equal(r.out, cli.run(ECHO, cli.read(packed), { "--input", "-", "--output", "-" }).out)
    end)

    it("may be several files, one after the other, with zeros behind", function()
      local r = answers(cli.file("two.gz", cli.read(packed) .. cli.read(packed) .. ("\0"):rep(70000)))
      assert.equal(0, r.status, r.err)
      assert.equal(6000, #r.lines)
    end)

    it("and was cut off: exit status 2, what could be read is answered, the line is named", function()
      local whole = cli.read(packed)
      for _, size in ipairs { 5, 1000, #whole - 1 } do
        local r = answers(cli.file("cut.gz", whole:sub(1, size)))
        assert.equal(2, r.status)
        local line = r.err:match "the gzip data ends too early %(after line (%d+)%)"
        assert.equal(#r.lines, tonumber(line), r.err)
      end
    end)

    it("and is corrupt: exit status 2, and how far it got is said", function()
      local whole = cli.read(packed)
      for _, at in ipairs { 3, 2000, #whole - 6 } do
        local r = answers(cli.file("bad.gz", whole:sub(1, at - 1) .. ("\255"):rep(3) .. whole:sub(at + 3)))
        assert.equal(2, r.status)
        assert.matches("corrupt gzip data.* %(after line %d+%)", r.err)
      end
      local r = answers(cli.file("junk.gz", whole .. "junk"))
      assert.equal(2, r.status)
      assert.equal(3000, #r.lines)
      assert.matches("corrupt gzip data: incorrect header check (after line 3000)", r.err, 1, true)
    end)

    it("is told by its first two bytes, however they come", function()
      -- the first alone: the others are written once it has been read from the pipe
      local writer = cli.file("writer.lua", [[
        local ffi = require "ffi"
        ffi.cdef "int ioctl(int fd, unsigned long request, ...); int poll(void *fds, unsigned long n, int timeout_ms);"
        local FIONREAD, left = 0x541B, ffi.new "int[1]"
        local text = assert(io.open(arg[1], "rb")):read "*a"
        io.stdout:setvbuf "no"
        io.write(text:sub(1, 1))
        repeat
          ffi.C.poll(nil, 0, 1)
          assert(ffi.C.ioctl(1, FIONREAD, left) == 0)
        until left[0] == 0
        io.write(text:sub(2))]])
      local r = cli.shell(("luajit %s %s | timeout 60 %s run %s"):format(writer, packed, cli.exe,
        cli.file("script.lua", ECHO)))
      assert.equal(3000, #r.lines, r.err)
      assert.matches("bad_input", cli.run(ECHO, "\31").out)
    end)
  end)

  it("writes what it read as it came: lists, order, large integers, -0", function()
    local line = '{"z":[],"a":{},"id":18446744073709551615,"m":[-0,{"q":null,"b":[[]]}]}'
    assert.equal('{"index":1,"result":' .. line .. "}\n", cli.run(ECHO, line).out)
    local encode = "return { encode = function(record) return { id = record.id, n = record.m } end,"
    local script = ECHO:gsub("return {", encode, 1)
    assert.equal('{"id":18446744073709551615,"n":[-0,{"q":null,"b":[[]]}]}\n', cli.run(script, line).out)
  end)

  it("writes one line a record, whatever encode returns", function()
    local script = [[return {
      inference_fn = function(records) return records end,
      encode = function(record) return record end,
    }]]
    local r = cli.run(script, [["plain"
"with a break\n"
"two\nlines"
"{\n \"b\": 1,\n \"a\": []\n}"
]])
    assert.same({ "plain", "with a break", '"two\\nlines"', '{"b":1,"a":[]}' }, r.lines)
    assert.equal(0, r.status)
  end)

  it("gives scripts tb.json, which keeps things as they came, too", function()
    local script = [[
      local json = require("tokenbatcher").json
      return {
        inference_fn = function(records) return records end,
        decode = function(line) return json.decode(line) end,
        encode = function(record) return json.encode { got = record, list = json.list {}, none = json.null } end,
      }]]
    assert.equal('{"got":{"z":[],"a":1},"list":[],"none":null}\n', cli.run(script, '{"z":[],"a":1}').out)
  end)
end)
