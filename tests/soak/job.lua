-- A job of a million lines over a server that is away for three seconds of each minute, killed ten times and gone on
-- with: every line is answered once, in order and unordered, and what was paid twice was under way.
-- usage: luajit tests/soak/job.lua [LINES]   (environment: B)

local job = dofile "tests/lua/cli/job_helper.lua"
local cli = job.cli

local LINES = tonumber(arg[1]) or 1000000
local KILLS, BATCH, CALLS = 10, 64, 16

local CALL = [[
    tb.sleep(records[1].n %% 7 == 0 and 0.2 or 0.1)
    if os.time() %% 60 < 3 then error "the server is away" end]]

-- The server's answers are raised errors while it is away; each call is made again until it answers.
local function script()
  local text = job.paid(("max_batch_size = %d, max_concurrent_batches = %d,"):format(BATCH, CALLS),
    CALL:gsub("%%%%", "%%") .. job.KILLER)
  text = text:gsub("inference_fn = function",
    "inference_fn = tb.backend.retrying { attempts = 100, max_backoff_s = 1, function")
  return cli.file("script.lua", (text:gsub("end,\n}$", "end },\n}")))
end

local function check(what, is_so)
  if is_so then return end
  io.stderr:write("job.lua: ", what, "\n")
  os.exit(1)
end

local function run(args)
  job.no_output()
  job.no_ledger()
  local path, killed = script(), 0
  for i = 1, KILLS do
    local status = job.run_until(path, { "--resume", unpack(args) }, math.floor(LINES * (i - 0.5) / KILLS), 600)
    if status == 137 then killed = killed + 1 end
  end
  local words = table.concat(job.words(path, { "--resume", unpack(args) }), " ")
  local r = cli.shell(("timeout -k 1 600 %s %s"):format(cli.exe, words))
  check("exit status " .. tostring(r.status) .. "\n" .. r.err, r.status == 0)
  local flaw = job.flaw(cli.path "out.jsonl", LINES, #args == 0)
  check(flaw, not flaw)
  local _, paid = job.ledger()
  local twice = paid - LINES
  check(twice .. " were paid twice", twice <= KILLS * BATCH * CALLS)
  print(("%s: %d lines, killed %d times, %d paid twice (%d were under way at most)"):format(
    args[1] or "in order", LINES, killed, twice, KILLS * BATCH * CALLS))
  io.write(r.err)
end

cli.new_folder()
job.input(LINES)
run {}
run { "--unordered" }
cli.clean()
