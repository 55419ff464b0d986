-- Output never holds up the loop, and ends with a whole line whatever happens to it.

local job = dofile "tests/lua/cli/job_helper.lua"
local cli = job.cli

-- Runs a command whose standard output is one end of a socket pair, or a pipe that does not block; reads the other end
-- when a file is there. usage: luajit reader.lua socket|nonblocking GATE COMMAND...
local READER = [[
local ffi = require "ffi"
ffi.cdef "int pipe(int *); int socketpair(int, int, int, int *); int fork(void); int dup2(int, int); int close(int);"
ffi.cdef "int fcntl(int, int, ...); int execvp(const char *, char *const *); ssize_t read(int, void *, size_t);"
ffi.cdef "int waitpid(int, int *, int); int usleep(unsigned);"
local C, ends = ffi.C, ffi.new "int[2]"
local kind, gate = arg[1], arg[2]
if kind == "socket" then C.socketpair(1, 1, 0, ends) else C.pipe(ends) end
if kind == "nonblocking" then C.fcntl(ends[1], 4, ffi.cast("int", 2048)) end
local child = C.fork()
if child == 0 then
  C.dup2(ends[1], 1)
  C.close(ends[0])
  local words = ffi.new("char *[?]", #arg - 1)
  for i = 3, #arg do words[i - 3] = ffi.cast("char *", arg[i]) end
  C.execvp(arg[3], words)
  os.exit(127)
end
C.close(ends[1])
while not io.open(gate) do C.usleep(1000) end
local buffer = ffi.new "char[65536]"
while true do
  local n = tonumber(C.read(ends[0], buffer, 65536))
  if n <= 0 then break end
  io.write(ffi.string(buffer, n))
end
local status = ffi.new "int[1]"
C.waitpid(child, status, 0)
os.exit(math.floor(status[0] / 256))
]]

-- Answers with a KB each, within 0.2 s, and opens the gate when the last is asked.
local function long_answers(last)
  return ([[local tb = require "tokenbatcher"
    local asked = 0
    return { max_batch_size = 10, max_concurrent_batches = 4, inference_timeout_s = 0.2, batch_timeout_s = 0,
      inference_fn = function(records)
        local results = {}
        for i, r in ipairs(records) do
          results[i], asked = r .. " " .. ("x"):rep(1000), asked + 1
        end
        tb.sleep(0.001)
        if asked == %d then io.open(%q, "w"):close() end
        return results
      end }]]):format(last, cli.path "gate")
end

local function is_whole(lines, count)
  for i = 1, count do
    local expected = ('^{"index":%d,"result":"%d x+"}$'):format(i, i)
    if not lines[i] or not lines[i]:find(expected) then return false, lines[i] end
  end
  return #lines == count
end

local function luajit() return os.getenv "LUAJIT" or "luajit" end

describe("Output of tokenbatcher run", function()
  setup(cli.new_folder)
  before_each(function() os.remove(cli.path "gate") end)
  teardown(cli.clean)

  for _, kind in ipairs { "socket", "nonblocking", "blocking" } do
    it("whose reader pauses makes no answer a timeout, and loses none: a " .. kind .. " descriptor", function()
      local path = cli.file("script.lua", long_answers(3000))
      local r = cli.shell(("seq 1 3000 >%s; timeout -k 1 60 %s %s %s %s %s run %s --input %s"):format(cli.path "in",
        luajit(), cli.file("reader.lua", READER), kind, cli.path "gate", cli.exe, path, cli.path "in"))
      assert.is_true(is_whole(r.lines, 3000))
      assert.equal(0, r.status)
      assert.truthy(r.err:find("records      3000 (3000 answered, 0 failed)", 1, true), r.err)
    end)
  end

  it("that nobody reads stops the reading of the input, so that memory is bounded", function()
    local path = cli.file("script.lua", ([[local tb = require "tokenbatcher"
      local asked, seen, unchanged = 0, 0, 0
      local function watch()
        while unchanged < 200 do
          tb.sleep(0)
          unchanged = asked == seen and unchanged + 1 or 0
          seen = asked
        end
        io.stderr:write("asked ", asked, "\n")
        io.open(%q, "w"):close()
      end
      local is_watched = false
      return { max_batch_size = 10, max_queue_size = 50, batch_timeout_s = 0, inference_fn = function(records)
        asked = asked + #records
        if not is_watched then tb.spawn(watch) end
        is_watched = true
        local results = {}
        for i, r in ipairs(records) do results[i] = r .. " " .. ("x"):rep(10000) end
        return results
      end }]]):format(cli.path "gate"))
    local r = cli.shell(("seq 1 3000 >%s; timeout -k 1 60 %s %s blocking %s %s run %s --input %s"):format(cli.path "in",
      luajit(), cli.file("reader.lua", READER), cli.path "gate", cli.exe, path, cli.path "in"))
    assert.is_true(is_whole(r.lines, 3000))
    local asked = tonumber(r.err:match "asked (%d+)")
    assert.is_true(asked < 400, asked)
  end)

  it("into a file that may not grow ends with 2, names its last line, which is whole, and is gone on with", function()
    for name, args in pairs { ["in order"] = {}, unordered = { "--unordered" } } do
      job.input(5000)
      job.no_output()
      job.no_ledger()
      local path = cli.file("script.lua", job.paid("max_batch_size = 7, max_concurrent_batches = 4,", [[
        if records[1].n % 3 == 0 then tb.sleep(0.001) end]]))
      local words = { cli.exe, unpack(job.words(path, args)) }
      local r = cli.shell("ulimit -f 60; timeout -k 1 60 " .. table.concat(words, " ")) -- 30,720 bytes
      assert.equal(2, r.status)
      assert.truthy(r.err:find("tokenbatcher: cannot write [^\n]*: File too large"), r.err)
      assert.truthy(r.err:find("to go on     tokenbatcher run", 1, true), r.err)
      local text = cli.read(cli.path "out.jsonl")
      assert.equal("\n", text:sub(-1))
      assert.equal(tonumber(r.err:match "ends with its line (%d+), which is whole"), select(2, text:gsub("\n", "")))
      assert.equal(0, job.run(path, { "--resume", unpack(args) }).status)
      assert.is_nil(job.flaw(cli.path "out.jsonl", 5000, name == "in order"))
      local _, all = job.ledger()
      assert.is_true(all <= 5000 + 5 * 7, all)
    end
  end)

  it("into a journal that may not grow ends with 2, and what is in the output stays", function()
    job.input(3)
    job.no_output()
    local words = { cli.exe, unpack(job.words(cli.file("script.lua", job.paid()))) }
    local r = cli.shell("ulimit -f 8; timeout -k 1 60 " .. table.concat(words, " "))
    assert.equal(2, r.status)
    assert.truthy(r.err:find("out.jsonl.journal", 1, true), r.err)
  end)

  it("takes a named pipe, with a reader that comes late", function()
    local path = cli.file("script.lua", long_answers(100))
    local command = "mkfifo %s; seq 1 100 >%s; timeout -k 1 60 %s run %s --input %s --output %s & cat %s; wait"
    local r = cli.shell(command:format(cli.path "named", cli.path "in", cli.exe, path, cli.path "in", cli.path "named",
      cli.path "named"))
    assert.is_true(is_whole(r.lines, 100))
  end)

  it("R5: is written though a call blocks the loop for a while", function()
    job.input(3)
    job.no_output()
    local block = "local began = os.clock() while os.clock() - began < 0.1 do end"
    local r = job.run(cli.file("script.lua", job.paid("max_batch_size = 1,", block)))
    assert.equal(0, r.status, r.err)
    assert.is_nil(job.flaw(cli.path "out.jsonl", 3, true))
  end)

  it("is written to its disk now and then, and at the end, where --sync says so", function()
    if os.execute "strace -o /dev/null true 2>/dev/null" ~= 0 then return pending "skipped: no strace(1)" end
    job.input(10)
    local path = cli.file("script.lua", job.paid())
    local function syncs(args)
      job.no_output()
      local r = cli.shell(("timeout -k 1 60 strace -f -e trace=fsync -o %s %s run %s --input %s --output %s %s"):format(
        cli.path "trace", cli.exe, path, cli.path "in.jsonl", cli.path "out.jsonl", args))
      assert.equal(0, r.status)
      return select(2, cli.read(cli.path "trace"):gsub("fsync%(", ""))
    end
    assert.is_true(syncs "--sync 0.1" > 0)
    assert.equal(0, syncs "--sync 0")
  end)

  it("is written to its disk with what waits for an earlier answer, in its journal", function()
    if os.execute "strace -o /dev/null true 2>/dev/null" ~= 0 then return pending "skipped: no strace(1)" end
    job.input(10)
    job.no_output()
    -- The first answer comes when the journal has been to the disk with the others.
    local trace = cli.path "trace"
    local wait = ([[
    while records[1].n == 1 and not io.open(%q):read "*a":find "fsync%%([^\n]*%%.journal>%%)" do tb.sleep(0.01) end]])
      :format(trace)
    local path = cli.file("script.lua", job.paid("max_batch_size = 1, max_concurrent_batches = 10,", wait))
    local words = table.concat(job.words(path, { "--sync", "0.1" }), " ")
    local r = cli.shell(("timeout -k 1 60 strace -f -y -e trace=fsync -o %s %s %s"):format(trace, cli.exe, words))
    assert.equal(0, r.status, r.err)
    assert.is_nil(job.flaw(cli.path "out.jsonl", 10, true))
  end)
end)
