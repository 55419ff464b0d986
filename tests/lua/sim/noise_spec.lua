-- --noise: the slowness of a recorded device comes back at the same times, and pieces of it by lot.

local cli = dofile "tests/lua/cli_helper.lua"
local experiment = require "tokenbatcher.sim.experiment"
local H = dofile "tests/lua/helper.lua"
local noise = require "tokenbatcher.sim.noise"
local policies = require "tokenbatcher.policy"
local random = require "tokenbatcher.sim.random"
local seeds = require "tokenbatcher.sim.seeds"
local tb = require "tokenbatcher"

-- Batches at at[i] that took slow[i] times 1 ms a token, of 1000 tokens each.
local function fitted_of(at, slow)
  local batches = { n = #at, at_s = at, seconds = slow, tokens = {}, padded = {}, first_at_s = 0 }
  for i = 1, #at do batches.tokens[i], batches.padded[i] = 1000, 1000 end
  return { batches = batches, seconds = function(tokens) return tokens * 0.001 end }
end

describe("noise", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  it("stretches work along the path as it was recorded, over its ends and again from its beginning", function()
    local replay = assert(noise.new(assert(noise.parse "replay"), fitted_of({ 0, 2, 6 }, { 1, 4, 2 })))
    local walk = replay.walk(1)
    assert.near(1, walk:stretch(0, 1), 1e-12) -- all of it at the usual speed
    assert.near(1 + 2, walk:stretch(1, 1.5), 1e-12) -- one second of it done when the device slows down to a quarter
    assert.near(3.2, walk:stretch(2.5, 0.8), 1e-12)
    assert.near(2, walk:stretch(6, 1), 1e-12) -- to the end at 8
    assert.near(1 + 1, walk:stretch(7, 1.5), 1e-12) -- half a unit until 8, then from the beginning
    assert.near(4, walk:stretch(8 * 100 + 2, 1), 1e-9)
    local other = replay.walk(2)
    assert.near(1, other:stretch(0, 1), 1e-12) -- no lots are drawn
  end)

  it("of batches that ran side by side is their mean speed", function()
    local both = assert(noise.new(noise.parse "replay", fitted_of({ 0, 1, 6 }, { 4, 1, 0 })))
    local walk = both.walk(1)
    assert.near(1, walk:stretch(0, 0.25), 1e-9) -- alone: four times as long
    assert.near(0.5, walk:stretch(1, 0.5 * (1 / 4 + 1) / 2), 1e-9)
    assert.near(1, walk:stretch(2.5, 0.25), 1e-9)
    local _, message = noise.new(noise.parse "replay", fitted_of({ 0 }, { 0 }))
    assert.truthy(message:find("no batch of the recording took any time", 1, true))
  end)

  it("in blocks is another one for each seed, of the same speeds, and the same for a seed", function()
    local at, slow = {}, {}
    for i = 1, 200 do
      at[i], slow[i] = i == 1 and 0 or at[i - 1] + slow[i - 1], i % 20 == 0 and 8 or 1
    end
    local blocks = assert(noise.new(assert(noise.parse "blocks:5s"), fitted_of(at, slow)))
    local function total(seed)
      local walk, sum = blocks.walk(seed), 0
      for i = 0, 4999 do sum = sum + walk:stretch(i, 0.05) end
      return sum
    end
    local one, two = total(1), total(2)
    assert.equal(one, total(1))
    assert.not_equal(one, two)
    -- eight seconds of 27 are slow: 0.05 s of work take 0.4 s there
    assert.near(5000 * (0.05 * 19 + 0.4 * 8) / 27, one, 0.15 * one)
    assert.near(one, two, 0.2 * one)
  end)

  it("is refused without a recording, in blocks longer than it, and where it is no kind", function()
    local _, message = noise.new(noise.parse "replay", nil)
    assert.truthy(message:find("--service @RECORDING", 1, true))
    _, message = noise.new(noise.parse "blocks", fitted_of({ 0, 2 }, { 1, 1 }))
    assert.truthy(message:find("longer than the recording of 3 s", 1, true), message)
    for _, text in ipairs { "replays", "blocks:", "blocks:0s", "blocks:x", "blocks:-3", "" } do
      local parsed = noise.parse(text)
      assert.is_true(parsed == nil or text == "blocks:", text)
    end
    local result = cli.command { "simulate", "--arrivals", "constant:rate=1", "--noise", "replay" }
    assert.equal(2, result.status)
    assert.truthy(result.err:find("--noise needs --service @RECORDING", 1, true), result.err)
  end)

  -- A device that is up to six times slower in some seconds, recorded on the virtual clock.
  local function record(path, policy, slots)
    local stream = random.new(6, "traffic")
    return H.run(function()
      local origin = tb.now()
      local function slowness()
        local s = (tb.now() - origin) % 7
        return s > 5.5 and 2 + 4 * (s - 5.5) or 1
      end
      local batcher = tb.TokenBatcher { record = path, policy = policy, target_batch_tokens = 1000,
        max_concurrent_batches = slots or 1, inference_fn = function(records, info)
          tb.sleep((0.01 + 0.0001 * info.cost) * slowness())
          return records
        end }
      batcher:start()
      for _ = 1, 4000 do
        tb.sleep(0.012 / (slots or 1) * stream:exponential())
        batcher:submit({}, { estimated_tokens = math.ceil(60 * stream:exponential()) })
      end
      batcher:stop()
      return batcher.stats
    end)
  end

  it("replayed over its own recording gives back what was recorded, the p99, too, of several slots, too", function()
    for _, case in ipairs { { "eager" }, { "fifo" }, { "deadline:slo_s=0.2" }, { "eager", 2 }, { "fifo", 4 } } do
      local policy, slots = case[1], case[2]
      local path = cli.path "slow.jsonl"
      local stats = record(path, policies.parse(policy), slots)
      local function simulate(kind)
        local job = assert(experiment.new(nil, { trace = path, service = "@" .. path, given = {}, noise = kind and
          noise.parse(kind), set = { { "target_batch_tokens", 1000 }, { "max_concurrent_batches", slots or 1 } } }))
        return assert(experiment.run(job, { settings = {}, policy = policies.parse(policy) }))
      end
      local row, plain = simulate "replay", simulate()
      for _, figure in ipairs { "mean", "p50", "p90", "p99" } do
        local expected, got = stats.latency_s[figure], row.latency_s[figure]
        assert.is_true(math.abs(got / expected - 1) < 0.1, ("%s %s: %.4f, replayed %.4f"):format(policy, figure,
          expected, got))
      end
      assert.is_true(math.abs(row.batches / stats.total_batches - 1) < 0.02)
      if policy == "eager" then assert.is_true(plain.latency_s.p99 < 0.8 * stats.latency_s.p99) end
    end
  end)

  it("in blocks runs twenty times at the least, over a trace, too, and prints the range", function()
    local path = cli.path "slow.jsonl"
    record(path, "eager")
    local args = { "simulate", "--trace", path, "--service", "@" .. path, "--noise", "blocks:5s", "--policy", "eager",
      "--limit", "1000" }
    local result = cli.command(args)
    assert.equal(0, result.status, result.err)
    assert.truthy(result.out:find("tokens s, noise: blocks of 5 s\n", 1, true), result.out)
    local heading = "\n20 draws of the noise, seeds 1 to 20: the middle one, and where 90 of 100 are\n"
    assert.truthy(result.out:find(heading, 1, true), result.out)
    assert.truthy(result.out:find "\neager%s+[%d.]+ %([%d.]+ to [%d.]+%)", result.out)
    assert.equal(result.out, cli.command(args).out)
    args[#args + 1], args[#args + 2] = "--seeds", "5"
    assert.truthy(cli.command(args).err:find("needs --seeds of 20 or more", 1, true))
  end)

  it("of a piece of a trace is that of its own time", function()
    local lines = { '{"tokenbatcher_recording":1}' }
    for i = 1, 400 do
      local tokens, is_slow = 50 + i % 90, i > 200
      lines[#lines + 1] = ('{"at":%d,"turn":%d,"cost":%d}'):format(i, i, tokens)
      lines[#lines + 1] = ('{"batch":%d,"at":%d,"records":1,"tokens":%d,"padded":%d,"cost":%d,"service_s":%.6f,'
        .. '"failed":0}'):format(i, i, tokens, tokens, tokens, 0.001 * tokens * (is_slow and 3 or 1))
    end
    local path = cli.file("halves.jsonl", table.concat(lines, "\n") .. "\n")
    local job = assert(experiment.new(nil, { trace = path, service = "@" .. path, given = {}, set = {},
      noise = noise.parse "replay" }))
    local row = assert(seeds.run(job, { settings = {}, policy = "eager" }, 2, {}))
    assert.near(3, row.per_seed[2].latency_s.mean / row.per_seed[1].latency_s.mean, 0.15)
  end)
end)
