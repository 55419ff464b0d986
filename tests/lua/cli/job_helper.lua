--- What the specs of jobs share: a server whose every call is written to a ledger before it is answered, and what
-- an output must be.

local cli = dofile "tests/lua/cli_helper.lua"

local M = { cli = cli }

--- A script that answers {n = i, ...} with i, in batches. Each record that is answered is a line of the ledger,
-- appended in one write before the answer. @param more string|nil  more fields of the script, Lua
-- @param before string|nil  Lua, run for each call: records, tb
function M.paid(more, before)
  return ([[
local tb, ffi = require "tokenbatcher", require "ffi"
pcall(ffi.cdef, "int open(const char *path, int flags, ...); ssize_t write(int fd, const char *bytes, size_t size);")
local LEDGER = %q
local ledger = ffi.C.open(LEDGER, 1 + 64 + 1024, ffi.cast("int", 420)) -- append
return {
  batch_timeout_s = 0.001, %s
  inference_fn = function(records)
    local results, ns = {}, {}
    %s
    for i, r in ipairs(records) do results[i], ns[i] = r.n, r.n .. "\n" end
    local text = table.concat(ns)
    assert(ffi.C.write(ledger, text, #text) == #text)
    return results
  end,
}]]):format(cli.path "ledger", more or "", before or "")
end

function M.no_ledger() os.remove(cli.path "ledger") end

--- How often each n was paid for. @return table n -> times, number in all
function M.ledger()
  local times, all = {}, 0
  local file = io.open(cli.path "ledger", "rb")
  for line in file and file:lines() or function() end do
    local n = tonumber(line)
    times[n] = (times[n] or 0) + 1
    all = all + 1
  end
  if file then file:close() end
  return times, all
end

--- Lines {"n":1,"text":"..."} to {"n":COUNT}; answered, line i is {"index":i,"result":i}.
function M.input(count, name)
  local file = assert(io.open(cli.path(name or "in.jsonl"), "wb"))
  for i = 1, count do file:write(('{"n":%d,"text":"line %d of the input"}\n'):format(i, i)) end
  file:close()
  return cli.path(name or "in.jsonl")
end

--- Is each of the lines 1 to count answered, once? @return string|nil  what is wrong
function M.flaw(path, count, is_ordered)
  local seen, n = {}, 0
  for line in io.lines(path) do
    n = n + 1
    local index, result = line:match '^{"index":(%d+),"result":(%d+)}$'
    if not index or index ~= result then return ("line %d is %s"):format(n, line) end
    index = tonumber(index)
    if seen[index] then return ("%d is answered twice"):format(index) end
    if is_ordered and index ~= n then return ("line %d answers %d"):format(n, index) end
    seen[index] = true
  end
  if n ~= count then return ("%d lines of %d"):format(n, count) end
end

--- The command line of a run over in.jsonl into out.jsonl.
function M.words(script, args)
  return { "run", script, "--input", cli.path "in.jsonl", "--output", cli.path "out.jsonl", unpack(args or {}) }
end

function M.run(script, args)
  return cli.command(M.words(script, args))
end

function M.no_output()
  os.execute(("rm -f %s %s.*"):format(cli.path "out.jsonl", cli.path "out.jsonl"))
end

--- Lua for `before`: when so many lines are in the ledger, kill -9 comes within 3 ms, from a timer: at whatever the
-- run is about then.
M.KILLER = [[
    KILL_AT = KILL_AT or tonumber(os.getenv "KILL_AT")
    PAID = PAID or select(2, (io.open(LEDGER) and io.open(LEDGER):read "*a" or ""):gsub("\n", ""))
    PAID = PAID + #records
    if KILL_AT and PAID >= KILL_AT then
      KILL_AT = nil
      ffi.cdef "int timer_create(int clock, void *event, void **timer);"
      ffi.cdef "int timer_settime(void *timer, int flags, const long *value, void *old);"
      local event, timer = ffi.new("int[16]", { 0, 0, 9, 0 }), ffi.new "void *[1]" -- SIGKILL
      assert(ffi.C.timer_create(1, event, timer) == 0)
      local after_ns = (PAID * 7919) % 3000000 + 1
      assert(ffi.C.timer_settime(timer[0], 0, ffi.new("long[4]", { 0, 0, 0, after_ns }), nil) == 0)
    end]]

--- Run until kill -9 comes, soon after the ledger has so many lines; see KILLER.
-- @return number  exit status, 137 where it came
function M.run_until(script, args, lines, guard_s)
  local words = { cli.exe, unpack(M.words(script, args)) }
  for i, word in ipairs(words) do words[i] = cli.quote(word) end
  return cli.shell(("KILL_AT=%d timeout -k 1 %d %s"):format(lines, guard_s or 60, table.concat(words, " "))).status
end

return M
