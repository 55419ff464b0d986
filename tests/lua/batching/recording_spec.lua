-- The option `record`: what it writes, that it costs nothing of what is accepted, that the simulator
-- replays it, and that fit finds the device behind it.

local cli = dofile "tests/lua/cli_helper.lua"
local experiment = require "tokenbatcher.sim.experiment"
local fit = require "tokenbatcher.sim.fit"
local H = dofile "tests/lua/helper.lua"
local json = require "tokenbatcher.base.json"
local random = require "tokenbatcher.sim.random"
local tb = require "tokenbatcher"

local function lines_of(path)
  local out = {}
  for line in io.lines(path) do out[#out + 1] = assert(json.decode(line)) end
  return out
end

describe("the option record", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  it("writes arrivals with cost, key, priority and timeout, and batches", H.virtually(function()
    local path = cli.path "r.jsonl"
    local batcher = H.start { record = path, record_keys = true, name = "mine", takes = 0.5,
      policy = "eager", max_batch_size = 2 }
    tb.sleep(1.25)
    batcher:submit("a", { estimated_tokens = 10, key = 'say "hi"\n\255', priority = -2, timeout_s = 9 })
    batcher:submit_batch({ "b", "c" }, { estimated_tokens = { 30, 2.5 } })
    batcher:stop()
    local lines = lines_of(path)
    assert.same({ tokenbatcher_recording = 1, name = "mine" }, lines[1])
    assert.same({ at = 1.25, turn = 1, cost = 10,
      key = 'say "hi"\n\239\191\189', priority = -2, timeout_s = 9 }, lines[2])
    assert.same({ at = 1.25, turn = 1, cost = 30 }, lines[3])
    assert.same({ at = 1.25, turn = 1, cost = 2.5 }, lines[4])
    assert.same({ batch = lines[5].batch, at = 1.25, records = 2, tokens = 40, padded = 60, cost = 40, service_s = 0.5,
      failed = 0, reason = "full" }, lines[5])
    assert.same({ 1.75, 1 }, { lines[6].at, lines[6].records })
    assert.equal(6, #lines)
  end))

  it("counts what failed in a batch, and what was refused among the arrivals", H.virtually(function()
    local path = cli.path "r.jsonl"
    local batcher = H.start { record = path, max_queue_size = 3, inference_fn = function()
      return { 1, tb.failure "no", 3 }
    end }
    for i = 1, 3 do batcher:submit(i) end
    assert.is_nil(batcher:try_submit(4))
    assert.is_nil(batcher:try_submit(5, { estimated_tokens = 7 }))
    batcher:stop()
    local lines = lines_of(path)
    assert.same({ 7, 7, 1 }, { #lines, lines[6].cost, lines[7].failed })
  end))

  it("goes on in the same file after stop and start, with times that never go back", function()
    local path, batcher = cli.path "r.jsonl", nil
    for _ = 1, 3 do
      H.run(function()
        batcher = batcher or H.start { record = path }
        if not batcher.is_running then batcher:start() end
        tb.sleep(0.5)
        batcher:submit "x"
        batcher:stop()
      end)
    end
    local lines, last, arrivals = lines_of(path), 0, 0
    for i = 2, #lines do
      if lines[i].cost and not lines[i].batch then
        assert.is_true(lines[i].at >= last)
        last, arrivals = lines[i].at, arrivals + 1
      end
    end
    assert.same({ 3, 7 }, { arrivals, #lines })
  end)

  it("begins, changes and ends with set", H.virtually(function()
    local one, two = cli.path "one.jsonl", cli.path "two.jsonl"
    local batcher = H.start {}
    batcher:submit "before"
    batcher:set { record = one }
    batcher:submit "first"
    batcher:set { record = one, max_batch_size = 9 } -- nothing changes for the recording
    batcher:submit "first"
    batcher:set { record = two }
    batcher:submit "second"
    batcher:set { record = false }
    batcher:submit "after"
    batcher:stop()
    assert.same({ 3, 2 }, { #lines_of(one), #lines_of(two) })
  end))

  it("a file that cannot be written is an error at start and set, and nothing has changed", H.virtually(function()
    local batcher = tb.TokenBatcher { inference_fn = H.recorder(), record = "/nowhere/r.jsonl" }
    local message = H.message(batcher.start, batcher)
    assert.truthy(message:find("'record': /nowhere/r.jsonl: No such file", 1, true), message)
    assert.is_false(batcher.is_running)
    batcher = H.start { max_batch_size = 5 }
    message = H.message(batcher.set, batcher, { record = "/dev/full", max_batch_size = 6 })
    assert.truthy(message:find("/dev/full: No space left", 1, true), message)
    assert.equal(5, batcher._config.max_batch_size)
    batcher:stop()
  end))

  it("two batchers cannot write over each other's file", H.virtually(function()
    local path = cli.path "r.jsonl"
    local first = H.start { record = path }
    local second = tb.TokenBatcher { inference_fn = H.recorder(), record = path }
    assert.truthy(H.message(second.start, second):find("is being recorded to already", 1, true))
    first:stop()
    second:start()
    second:stop()
  end))

  it("nor by another name of it", H.virtually(function()
    local path, link = cli.path "one.jsonl", cli.path "link.jsonl"
    local first = H.start { record = path }
    assert.equal(0, os.execute(("ln -s %s %s; ln %s %s"):format(path, link, path, cli.path "hard.jsonl")))
    for _, name in ipairs { cli.folder .. "/./one.jsonl", link, cli.path "hard.jsonl" } do
      local second = tb.TokenBatcher { inference_fn = H.recorder(), record = name }
      assert.truthy(H.message(second.start, second):find("is being recorded to already", 1, true), name)
      assert.is_false(second.is_running)
    end
    first:submit "x"
    first:stop()
    assert.equal(3, #lines_of(path))
  end))

  it("nor while another process records to it", function()
    local path = cli.path "r.jsonl"
    local session = cli.start(cli.ECHO, { "--record", path, "--set", "policy=eager" })
    session:send "1\n"
    session:line() -- it records now
    local second = cli.run(cli.ECHO, "2\n", { "--record", path })
    assert.equal(2, second.status)
    assert.truthy(second.err:find("is being recorded to already", 1, true), second.err)
    session:close_input()
    assert.equal(0, session:finish().status)
    local lines = lines_of(path)
    assert.same({ 3, 1 }, { #lines, lines[1].tokenbatcher_recording })
  end)

  it("who writes over what another has recorded is told so, and the other cannot go on", H.virtually(function()
    local path, log = cli.path "turns.jsonl", {}
    local first = H.start { record = path, name = "first" }
    first:submit "x"
    first:stop()
    local second = H.start { record = cli.folder .. "/./turns.jsonl", log = function(_, text) log[#log + 1] = text end }
    assert.equal(1, #log)
    assert.truthy(log[1]:find("to which TokenBatcher 'first' has recorded, is written anew", 1, true), log[1])
    assert.truthy(H.message(first.start, first):find("was recorded to by another batcher meanwhile", 1, true))
    second:submit "x"
    second:stop()
    assert.truthy(H.message(first.start, first):find("was recorded to by another batcher meanwhile", 1, true))
    assert.is_false(first.is_running)
    second:start()
    second:submit "x"
    second:stop()
    assert.equal(5, #lines_of(path)) -- nothing that second has recorded is lost
    first:set { record = cli.path "elsewhere.jsonl" }
    first:start()
    first:stop()
  end))

  it("does not go on in a file that was changed, and begins one anew that was moved away", H.virtually(function()
    local path = cli.path "moved.jsonl"
    local batcher = H.start { record = path }
    batcher:submit "x"
    batcher:stop()
    assert(os.rename(path, cli.path "kept.jsonl"))
    batcher:start()
    batcher:submit "x"
    batcher:stop()
    assert.same({ 3, 3 }, { #lines_of(path), #lines_of(cli.path "kept.jsonl") })
    cli.file("moved.jsonl", "mine\n")
    assert.truthy(H.message(batcher.start, batcher):find("has changed since it was recorded to", 1, true))
    assert.equal("mine\n", cli.read(path))
  end))

  it("is its owner's alone to read, even where the file was there before", H.virtually(function()
    for _, path in ipairs { cli.path "new.jsonl", cli.file("old.jsonl", "old") } do
      H.start({ record = path }):stop()
      local pipe = io.popen("stat -c %a " .. path)
      assert.equal("600", pipe:read "*l")
      pipe:close()
      assert.equal(1, #lines_of(path))
    end
  end))

  it("holds keys and groups as hashes, and others in the next recording", H.virtually(function()
    local seen = {}
    for i = 1, 2 do
      local path = cli.path("keys" .. i .. ".jsonl")
      local batcher = H.start { record = path }
      for _, key in ipairs { "alice", "bob", "alice" } do batcher:submit("x", { key = key }) end
      batcher:stop()
      assert.is_nil(cli.read(path):find "alice")
      local lines = lines_of(path)
      assert.equal(lines[2].key, lines[4].key)
      assert.not_equal(lines[2].key, lines[3].key)
      assert.matches("^%x+$", lines[2].key)
      seen[i] = lines[2].key
    end
    assert.not_equal(seen[1], seen[2])
  end))

  it("holds them as they are with record_keys, from set on, too", H.virtually(function()
    local path = cli.path "plain.jsonl"
    local batcher = H.start { record = path }
    batcher:submit("x", { key = "alice" })
    batcher:set { record_keys = true }
    batcher:submit("x", { key = "alice" })
    batcher:stop()
    local lines = lines_of(path)
    assert.not_equal("alice", lines[2].key)
    assert.equal("alice", lines[3].key)
    local message = H.message(tb.TokenBatcher, { inference_fn = print, record_keys = "yes" })
    assert.truthy(message:find("'record_keys' must be true or false, got \"yes\"", 1, true), message)
  end))

  it("pseudonyms are SipHash-2-4 of its authors' own examples", function()
    local pseudonym, bytes = require "tokenbatcher.base.pseudonym", {}
    for i = 0, 15 do bytes[i + 1] = string.char(i) end
    local secret = table.concat(bytes)
    assert.equal("726fdb47dd0e0e31", pseudonym.hash(secret, ""))
    for size, hash in pairs { [1] = "74f839c593dc67fd", [7] = "ab0200f58b01d137", [8] = "93f5f5799a932462",
      [15] = "a129ca6149be45e5" } do
      assert.equal(hash, pseudonym.hash(secret, secret:sub(1, size)))
    end
    assert.not_equal(pseudonym.secret(), pseudonym.secret())
  end)

  it("those that one decision has seen have one turn, on the real clock, and replay as they went", function()
    local path, sizes = cli.path "turns.jsonl", {}
    H.run(function()
      local batcher = H.start { record = path, policy = "eager" }
      for burst = 1, 20 do
        local futures = {}
        for i = 1, 1 + burst do futures[i] = batcher:submit(i) end
        tb.gather(futures)
      end
      batcher:stop()
    end, "real")
    local turns = {}
    for _, line in ipairs(lines_of(path)) do
      if line.turn then turns[line.turn] = (turns[line.turn] or 0) + 1 end
      if line.batch then sizes[#sizes + 1] = line.records end
    end
    assert.same(turns, sizes)
    assert.equal(20, #sizes)
    local job = assert(experiment.new(nil, { trace = path, service = "1e-9", given = {}, set = {} }))
    local row = assert(experiment.run(job, { settings = {}, policy = "eager" }))
    assert.same({ 230, 20, 21 }, { row.completed, row.batches, row.batch_size.max })
  end)

  it("carries group, batch_timeout_s and slo, which the simulator reads", H.virtually(function()
    local path = cli.path "more.jsonl"
    local batcher = H.start { record = path, record_keys = true }
    batcher._recording:arrival(2e6, 3, { group = "g", batch_timeout_s = 0.25, timeout_s = 4 }, nil, 1.5)
    batcher._recording:arrival(2e6, 3, nil, "theirs")
    batcher._recording:arrival(2e6, 3)
    batcher:stop()
    local lines = lines_of(path)
    lines[2].at = nil
    assert.same({ turn = 1, cost = 3, group = "g", batch_timeout_s = 0.25, timeout_s = 4, slo = 1.5 }, lines[2])
    assert.equal("theirs", lines[3].group)
    local source = assert(require("tokenbatcher.sim.trace").open(path, {})):source(1)
    assert.same({ "g", 250000, 4000000, 1500000 },
      { source.group, source.batch_timeout_us, source.timeout_us, source.slo_us })
    source:take()
    assert.same({ "theirs", 0, 0, 0 }, { source.group, source.batch_timeout_us, source.timeout_us, source.slo_us })
    source:take()
    assert.is_nil(source.group)
  end))

  it("a disk that fills up is told of once, and every record is answered", function()
    local log = {}
    local path = cli.path "full.jsonl"
    H.run(function()
      local batcher = H.start { record = path, log = function(_, text) log[#log + 1] = text end }
      local file = batcher._recording.file
      batcher._recording.file = setmetatable({}, { __index = {
        write = function() return nil, "No space left on device" end, close = function() return file:close() end } })
      local futures = {}
      for i = 1, 100 do futures[i] = batcher:submit(i) end
      local results = tb.gather(futures)
      assert.equal("re:100", results[100])
      batcher:stop()
    end)
    assert.equal(1, #log)
    assert.truthy(log[1]:find("recording has ended: " .. path .. ": No space left", 1, true), log[1])
  end)

  it("%p in its name is the number of the process", H.virtually(function()
    local batcher = H.start { record = cli.path "w%p.jsonl" }
    batcher:stop()
    local pid = io.open("/proc/self/stat"):read "*n"
    assert.equal(1, #lines_of(cli.path("w" .. pid .. ".jsonl")))
  end))
end)

describe("a recorded run and its simulation", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  local DEVICE = { base_s = 0.03, per_token_s = 0.0002 }

  -- Poisson traffic over a device, recorded.
  local function record(path, options, n, tokens)
    local stream = random.new(3, "traffic")
    options.record = path
    options.inference_fn = options.inference_fn or tb.backend.simulated(DEVICE)
    return H.run(function()
      local batcher = tb.TokenBatcher(options)
      batcher:start()
      for _ = 1, n do
        tb.sleep(0.02 * stream:exponential())
        batcher:submit({}, { estimated_tokens = tokens and tokens(stream) or math.ceil(60 * stream:exponential()) })
      end
      batcher:stop()
      return batcher.stats
    end)
  end

  local function simulated(path, policy)
    local job = assert(experiment.new(nil, { trace = path, service = "@" .. path, given = {},
      set = { { "target_batch_tokens", 1000 } } }))
    return assert(experiment.run(job, { settings = {}, policy = policy }))
  end

  it("agree: mean batch size within 5 %, p99 latency within 10 %, with the fitted model and noise", function()
    local stream = random.new(9, "noise")
    for _, policy in ipairs { "fifo", "eager", "length_bucketed", "adaptive" } do
      local path = cli.path(policy .. ".jsonl")
      local stats = record(path, { policy = policy, target_batch_tokens = 1000, inference_fn = function(records, info)
        tb.sleep((DEVICE.base_s + DEVICE.per_token_s * info.cost) * (0.95 + 0.1 * stream:uniform()))
        return records
      end }, 5000)
      local row = simulated(path, policy)
      assert.is_true(math.abs(row.batch_size.mean / stats.avg_batch_size - 1) < 0.05,
        ("%s: %.3f, simulated %.3f"):format(policy, stats.avg_batch_size, row.batch_size.mean))
      assert.is_true(math.abs(row.latency_s.p99 / stats.latency_s.p99 - 1) < 0.1,
        ("%s: %.4f, simulated %.4f"):format(policy, stats.latency_s.p99, row.latency_s.p99))
    end
  end)

  it("fit finds the device, with its error; padding, too", function()
    local path = cli.path "f.jsonl"
    record(path, { target_batch_tokens = 1000 }, 3000)
    local fitted = assert(fit.of_recording(path))
    assert.near(0.03, fitted.a, 1e-5)
    assert.near(0.0002, fitted.b, 1e-8)
    assert.is_true(fitted.r2 > 0.99999 and fitted.rmse_s < 1e-5 and fitted.p90_s < 1e-5)
    record(path, { target_batch_tokens = 1000, inference_fn = function(records, info)
      local largest = 0
      for _, cost in ipairs(info.costs) do largest = math.max(largest, cost) end
      tb.sleep(0.01 + 0.0001 * info.cost + 0.0003 * largest * #records)
      return records
    end }, 3000)
    fitted = assert(fit.of_recording(path, true))
    assert.near(0.01, fitted.a, 1e-5)
    assert.near(0.0001, fitted.b, 1e-7)
    assert.near(0.0003, fitted.c, 1e-7)
  end)

  it("fit refuses to guess", function()
    local path = cli.path "g.jsonl"
    record(path, { max_batch_size = 1 }, 200, function() return 50 end)
    assert.truthy(select(2, fit.of_recording(path)):find("all batches cost the same", 1, true))
    record(path, { max_batch_size = 1 }, 200)
    assert.truthy(select(2, fit.of_recording(path, true)):find("cannot be told apart", 1, true))
    record(path, { max_batch_size = 1 }, 3)
    assert.truthy(select(2, fit.of_recording(path)):find("has 3 batches that ran whole; 6 are needed", 1, true))
    assert.truthy(select(2, fit.of_recording "/nowhere"):find("/nowhere", 1, true))
    assert.truthy(select(2, fit.of_recording "/tmp"):find("/tmp: Is a directory", 1, true))
    assert.truthy(select(2, fit.of_recording(cli.file("x", ""))):find("is empty", 1, true))
    assert.truthy(select(2, fit.of_recording(cli.file("x", "hello"))):find("no trace of a known format", 1, true))
    assert.truthy(select(2, fit.of_recording(cli.file("x",
      "TIMESTAMP,ContextTokens,GeneratedTokens"))):find("Azure CSV", 1, true))
  end)

  it("agree on groups and own lingers: who shares a call, and when it goes", function()
    local path, gone = cli.path "groups.jsonl", {}
    H.run(function()
      local batcher = tb.TokenBatcher { record = path, batch_timeout_s = 10, inference_fn = function(records)
        tb.sleep(1)
        return records
      end }
      batcher:start()
      batcher:submit(1, { group = "a" })
      batcher:submit(2, { group = "a", batch_timeout_s = 0.5 })
      tb.sleep(20)
      batcher:submit(3, { group = "b" })
      batcher:submit(4, { group = "b", batch_timeout_s = 0 })
      batcher:submit(5)
      tb.sleep(60)
      batcher:stop()
    end)
    for _, line in ipairs(lines_of(path)) do
      if line.batch then gone[#gone + 1] = ("%d at %.1f"):format(line.records, line.at) end
    end
    assert.same({ "2 at 0.5", "2 at 20.0", "1 at 30.0" }, gone)
    local job = assert(experiment.new(nil, { trace = path, service = "1", given = {},
      set = { { "batch_timeout_s", 10 } } }))
    local row = assert(experiment.run(job, { settings = {} }))
    assert.same({ 5, 3 }, { row.completed, row.batches })
    assert.near((1.5 + 1.5 + 1 + 1 + 2) / 5, row.latency_s.mean, 0.01) -- it drains after the last arrival
  end)

  it("run --record writes over nothing that is read, nor over the answers", function()
    local script, input = cli.file("s.lua", cli.ECHO), cli.file("in.jsonl", "1\n2\n")
    local function refuses(path, output, what)
      local result = cli.command { "run", script, "--input", input, "--output", output, "--record", path }
      assert.equal(2, result.status, result.out .. result.err)
      assert.truthy(result.err:find(what .. ".* cannot be the recording")
        or result.err:find("the recording .*cannot be " .. what), result.err)
    end
    refuses(cli.folder .. "/./in.jsonl", cli.path "out.jsonl", "the input")
    refuses(script, cli.path "out.jsonl", "the script")
    refuses(cli.path "out.jsonl", cli.path "out.jsonl", "the output")
    cli.file("out.jsonl", "")
    refuses(cli.folder .. "/./out.jsonl", cli.path "out.jsonl", "the output")
    assert.equal("1\n2\n", cli.read(input))
    assert.equal(cli.ECHO, cli.read(script))
  end)

  it("check writes nothing to the file that a script's record names", function()
    local path = cli.file("precious.jsonl", "precious\n")
    local result = cli.check(("return { record = %q, inference_fn = print }"):format(path))
    assert.equal(0, result.status, result.out)
    assert.equal("precious\n", cli.read(path))
  end)

  it("run --record, fit and simulate work together on the command line", function()
    local prompts, stream = {}, random.new(5, "prompts")
    for i = 1, 400 do prompts[i] = ('{"text":"%s"}'):format(("x"):rep(math.ceil(200 * stream:exponential()))) end
    local script, path = "examples/simulated_accelerator.lua", cli.path "cli.jsonl"
    local result = cli.command({ "run", script, "--record", path, "--per-token-s", "0.00002", "--base-s", "0.005",
      "--set", "max_batch_size=16", "--unordered" }, table.concat(prompts, "\n"))
    assert.equal(0, result.status, result.err)
    local fitted = cli.command { "fit", path }
    assert.equal(0, fitted.status, fitted.err)
    assert.truthy(fitted.out:find "^service%s+[%d.e+-]+ %+ [%d.e+-]+%*tokens\nbatches%s+%d+")
    local replayed = cli.command { "simulate", script, "--trace", path, "--service", "@" .. path, "--json", "-" }
    assert.equal(0, replayed.status, replayed.err)
    assert.truthy(replayed.out:find('"records":400,"completed":400,', 1, true), replayed.out)
    result = cli.command({ "run", script, "--record", "/nowhere/x.jsonl" }, prompts[1])
    assert.equal(2, result.status)
    assert.truthy(result.err:find("/nowhere/x.jsonl", 1, true))
  end)
end)
