-- Jobs against a provider that goes away, limits, breaks off and overloads, and keeps a ledger of what was paid.

local P = dofile "tests/lua/cli/provider_helper.lua"
local cli, job = P.cli, P.job

local missing = P.missing()
if missing then
  describe("A job against a provider", function()
    it("is tested", function() pending("skipped: " .. missing) end)
  end)
  return
end

local OUT = "out.jsonl"

describe("A job against a provider", function()
  local provider
  setup(cli.new_folder)
  teardown(cli.clean)
  after_each(function()
    if provider then provider.stop() end
    provider = nil
  end)

  local function begin(lines, options)
    job.no_output()
    job.input(lines)
    provider = P.provider(options)
  end

  local function assert_answered(r, lines)
    assert.equal(0, r.status, r.err)
    assert.is_nil(P.flaw(cli.path(OUT), lines, true))
  end

  -- Every line is answered, each input was paid for, and none twice but those whose answer was cut.
  local function assert_paid_once(r, lines)
    assert_answered(r, lines)
    local paid, seen = provider.ask "/ledger", provider.ask "/stats"
    assert.equal(lines, paid.distinct)
    assert.equal(seen.cut, paid.twice)
    local _, all = job.ledger()
    assert.equal(paid.paid, all)
    return seen
  end

  -- The summary's count of requests and retries.
  local function requests_of(r)
    local requests, retries = r.err:match "requests +(%d+) %((%d+) of them retries"
    return tonumber(requests), tonumber(retries)
  end

  -- libcurl repeats by itself, and tells nobody, what was reset on a connection that had been used before.
  local function assert_counted(r, seen, calls)
    local requests, retries = requests_of(r)
    assert.equal(requests - calls, retries)
    local untold = seen.requests - requests
    assert.is_true(untold >= 0 and untold <= seen.resets, seen.requests .. " requests, told are " .. requests)
    assert.is_true(retries >= seen.busy)
  end

  it("answers each line of a chat once, whatever the server does to requests", function()
    begin(600, { "busy=0.05", "reset=0.05", "cut=0.05", "drip=0.05", "delay_ms=1" })
    local r = job.run(P.script(provider, "chat"))
    local seen = assert_paid_once(r, 600)
    for _, name in ipairs { "busy", "resets", "cut", "dripped" } do assert.is_true(seen[name] > 10, name) end
    assert_counted(r, seen, 600)
  end)

  it("answers each line of embeddings once, whatever the server does to requests", function()
    begin(2000, { "busy=0.1", "reset=0.1", "cut=0.1", "drip=0.1" })
    local r = job.run(P.script(provider, "embeddings", "max_batch_size = 16, max_concurrent_batches = 8,"))
    local seen = assert_paid_once(r, 2000)
    for _, name in ipairs { "busy", "resets", "cut", "dripped" } do assert.is_true(seen[name] > 3, name) end
    assert_counted(r, seen, 2000 / 16)
  end)

  for endpoint, more in pairs { chat = "", embeddings = "max_batch_size = 8, max_concurrent_batches = 8," } do
    it("waits while the server is away, and burns no line of " .. endpoint, function()
      begin(800, { "outage_every=200", "outage_s=0.4", "delay_ms=1" })
      local r = job.run(P.script(provider, endpoint, more, "retries = 1"))
      local seen = assert_paid_once(r, 800)
      assert.equal(3, seen.outages)
      assert.matches("the server was away [1-9]", r.err)
      -- Who waits does not hammer: each call is tried twice, then one at a time probes.
      assert.is_true(seen.requests + seen.connections < 1800, seen.requests .. " and " .. seen.connections)
    end)
  end

  it("waits, too, when it is gone on with while the server is away", function()
    begin(800, { "outage_every=200", "outage_s=0.4", "delay_ms=1" })
    local script = P.script(provider, "chat", "", "retries = 1")
    assert.equal(137, P.run_until(provider, script, {}, 190))
    provider.ask "/outage"
    assert_answered(job.run(script, { "--resume" }), 800)
    assert.is_true(provider.ask("/ledger").twice <= 16)
  end)

  it("keeps to a server's bucket of requests: what it says is left is what goes out", function()
    begin(300, { "requests=40", "requests_per_s=400", "delay_ms=1" })
    local r = job.run(P.script(provider, "chat", "max_concurrent_batches = 16,"), { "--requests-per-minute", "100000" })
    local seen = assert_paid_once(r, 300)
    assert.is_true(seen.limited <= 16, seen.limited .. " were refused")
    assert.equal(300 + seen.limited, seen.requests)
  end)

  it("keeps to a server's bucket of tokens", function()
    begin(600, { "tokens=400", "tokens_per_s=6000", "delay_ms=1" })
    local more = "max_batch_size = 8, max_concurrent_batches = 8, "
      .. "token_estimator = function(r) return #r.text / 4 + 1 end,"
    local r = job.run(P.script(provider, "embeddings", more), { "--tokens-per-minute", "10000000" })
    local seen = assert_paid_once(r, 600)
    assert.is_true(seen.limited <= 8, seen.limited .. " were refused")
  end)

  it("without a limit of its own comes back when a limited server says so", function()
    begin(40, { "requests=10", "requests_per_s=10" }) -- a tenth of what the slowest machine sends
    local r = job.run(P.script(provider, "chat", "max_concurrent_batches = 4,", "retries = 50"))
    local seen = assert_paid_once(r, 40)
    assert.is_true(seen.limited > 0)
    local _, retries = requests_of(r)
    assert.equal(seen.limited, retries)
  end)

  it("never sends more in a minute than it may", function()
    begin(300)
    local script = cli.read(P.script(provider, "chat"))
    local session = cli.start(script, { "--requests-per-minute", "100", "--input", cli.path "in.jsonl" })
    provider.ask "/wait/100/answered"
    session:kill "TERM"
    session:message "finishing"
    session:kill "TERM"
    assert.equal(1, session:finish().status)
    local paid = provider.ask "/ledger"
    assert.equal(100, paid.paid)
    assert.equal(100, paid.distinct)
  end)

  it("does not ask again where the quota is used up, and --retry-failed pays for the rest", function()
    begin(300, { "quota_every=50" })
    local script = P.script(provider, "chat")
    local r = job.run(script)
    assert.equal(1, r.status)
    assert.matches("insufficient_quota", r.err)
    assert.is_nil(P.flaw(cli.path(OUT), 300, true, function(index) return index % 50 == 0 end))
    assert.equal(6, provider.ask("/stats").quota)
    provider.ask "/pay"
    assert_paid_once(job.run(script, { "--retry-failed" }), 300)
  end)
end)

describe("A job against a provider that is killed with -9", function()
  local LINES, KILLS = 3000, 3
  local provider
  setup(cli.new_folder)
  teardown(cli.clean)
  after_each(function() provider.stop() end)

  local function kill_and_go_on(endpoint, more, args)
    job.no_output()
    job.input(LINES)
    provider = P.provider { "outage_every=1100", "outage_s=0.2", "cut=0.02", "busy=0.02", "reset=0.02", "delay_ms=1" }
    local script, killed = P.script(provider, endpoint, more), 0
    for i = 1, KILLS do
      local status = P.run_until(provider, script, { "--resume", unpack(args) }, LINES * i / (KILLS + 1))
      if status == 137 then killed = killed + 1 end
    end
    return job.run(script, { "--resume", unpack(args) }), killed
  end

  local JOBS = {
    chat = { more = "max_concurrent_batches = 32,", in_flight = 32 },
    embeddings = { more = "max_batch_size = 16, max_concurrent_batches = 8,", in_flight = 128 },
  }
  for endpoint, kind in pairs(JOBS) do
    for name, args in pairs { ["in order"] = {}, unordered = { "--unordered" } } do
      it(("answers each line of %s once, and pays twice at most for what was under way, %s"):format(endpoint, name),
        function()
          local r, killed = kill_and_go_on(endpoint, kind.more, args)
          assert.equal(0, r.status, r.err)
          assert.equal(KILLS, killed)
          assert.is_nil(P.flaw(cli.path(OUT), LINES, #args == 0))
          local paid, seen = provider.ask "/ledger", provider.ask "/stats"
          assert.equal(LINES, paid.distinct)
          local told = paid.twice .. " paid twice, " .. seen.cut .. " cut"
          assert.is_true(paid.twice - seen.cut <= KILLS * kind.in_flight, told)
        end)
    end
  end
end)
