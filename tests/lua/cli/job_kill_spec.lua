-- kill -9 at ten moments of a job of 20,000 lines, whose server keeps a ledger of what was paid.

local job = dofile "tests/lua/cli/job_helper.lua"
local cli = job.cli

local LINES, KILLS = 20000, 10

-- Which calls are slow is told by the records, so that answers come out of order; the straggler holds up all that
-- follows for as long as 3,000 others take.
local SLOW = [[
    if records[1].n % 7 == 0 then tb.sleep(0.002) end
    if records[1].n == 4001 then tb.sleep(0.5) end]]

local IN_FLIGHT = 8 * 16

-- Moments that are spread, and the same in each run of the spec.
local function moments(seed)
  local list = {}
  for i = 1, KILLS do
    seed = (seed * 16807) % 2147483647
    list[i] = math.floor(LINES * (i - 1) / KILLS) + seed % math.floor(LINES / KILLS / 2) + 1
  end
  return list
end

local function kill_ten_times(args, seed)
  job.input(LINES)
  job.no_output()
  job.no_ledger()
  local options = "max_batch_size = 16, max_concurrent_batches = 8,"
  local script = cli.file("script.lua", job.paid(options, SLOW .. job.KILLER))
  local killed = 0
  for _, lines in ipairs(moments(seed)) do
    if job.run_until(script, { "--resume", unpack(args) }, lines) == 137 then killed = killed + 1 end
  end
  local r = job.run(script, { "--resume", unpack(args) })
  local times, all = job.ledger()
  return r, killed, times, all
end

describe("A job of 20,000 lines that is killed ten times", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  for name, args in pairs { ["in order, with a straggler"] = {}, unordered = { "--unordered" } } do
    it("answers every line once, and pays twice at most for what was under way, " .. name, function()
      local r, killed, times, all = kill_ten_times(args, #args + 7)
      assert.equal(0, r.status, r.err)
      assert.is_nil(job.flaw(cli.path "out.jsonl", LINES, #args == 0))
      assert.equal(KILLS, killed)
      for n = 1, LINES do assert.truthy(times[n], n) end
      assert.is_true(all - LINES <= KILLS * IN_FLIGHT, (all - LINES) .. " were paid twice")
      assert.is_nil(io.open(cli.path "out.jsonl.journal"))
      assert.truthy(io.open(cli.path "out.jsonl.job"))
    end)
  end
end)
