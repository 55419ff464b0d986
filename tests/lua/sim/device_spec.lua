-- A simulated server of continuous batching: who takes part in an iteration, how long it takes, what a
-- client sees; jumps come to the same as steps, and the whole to what real servers did.

local made_up = require "tokenbatcher.sim.arrivals"
local compare = require "tokenbatcher.sim.compare"
local devices = require "tokenbatcher.sim.device"
local experiment = require "tokenbatcher.sim.experiment"
local fit = require "tokenbatcher.sim.device.fit"
local policies = require "tokenbatcher.policy"
local presets = require "tokenbatcher.sim.device.presets"
local random = require "tokenbatcher.sim.random"
local runs = require "tokenbatcher.sim.device.run"

local RUNS = "../shared/data/vllm_runs/"

local function device(text) return assert(devices.parse(text)) end

-- What each of {at (s), prompt, output} saw: lists of ttft, tpot, e2e in seconds; and the server.
local function serve(spec, requests, is_stepping)
  local rows = {}
  for i, r in ipairs(requests) do rows[i] = { at_us = r[1] * 1e6, prompt = r[2], output = r[3] } end
  return runs.simulate(rows, device(spec), is_stepping)
end

local function near(expected, got, what)
  assert.is_true(math.abs(got - expected) <= 1e-9 * math.max(1, math.abs(expected)),
    ("%s: %.12g expected, got %.12g"):format(what, expected, got))
end

local function simulate(args, set, policy)
  local job_args = { set = {}, given = {} }
  for name, value in pairs(args) do job_args[name] = value end
  for name, value in pairs(set or {}) do table.insert(job_args.set, { name, value }) end
  local job, message = experiment.new(nil, job_args)
  if not job then return nil, message end
  local variant = { settings = {}, policy_text = policy, policy = policy and assert(policies.parse(policy)) }
  return experiment.run(job, variant, { warn = args.warn })
end

describe("an iteration", function()
  it("takes what its terms say: prompt tokens, sequences, KV tokens", function()
    -- Prompt of 10 in one iteration: 1 + 10 x 0.1. Then two of one sequence: 1 + 0.5 + 0.01 x 11, and x 12.
    local rows = serve("continuous:a=1,b=0.1,c=0.5,d=0.01", { { 0, 10, 3 } })
    near(2, rows[1].ttft, "first token")
    near(2 + 1.61 + 1.62, rows[1].e2e, "last token")
    near((1.61 + 1.62) / 2, rows[1].tpot, "time per token")
  end)

  it("takes the optional terms: over the knee, for each sequence, when any decodes, for context", function()
    local rows = serve("continuous:a=1,b=0,c=0,d=0,knee=6,over=0.1,head=0.01,decode=2,context=0.001,tokens=8,seqs=8",
      { { 0, 10, 2 } })
    -- 8 of the prompt: 1 + 0.1 x 2 + 0.01 + 0.001 x 8 x 4; the other 2: 1 + 0.01 + 0.001 x 2 x 9.
    near(1.242 + 1.028, rows[1].ttft, "two chunks")
    near(1.242 + 1.028 + 3.01, rows[1].e2e, "and a token")
  end)

  it("of a table takes what was measured, between by a straight line, and more if others decode", function()
    local found = presets.find "h100-llama2-70b-tp8"
    local spec = "preset:h100-llama2-70b-tp8"
    local rows = serve(spec, { { 0, 1536, 1 } })
    near((found.table.seconds[4] + found.table.seconds[5]) / 2, rows[1].ttft, "half way")
    rows = serve(spec, { { 0, 128, 2 }, { 0.01, 512, 1 } }) -- the second one while the first decodes
    near(found.table.seconds[1] + 1.1 * found.table.seconds[3], rows[2].e2e + 0.01, "mixed")
  end)
end)

describe("continuous batching", function()
  it("lets who comes in join at the next iteration", function()
    local rows = serve("continuous:a=1,b=0,c=0,d=0", { { 0, 5, 4 }, { 1.5, 5, 2 } })
    near(4, rows[1].e2e, "first")
    near(2 + 1 - 1.5, rows[2].ttft, "second")
  end)

  it("cuts a prompt into chunks of what an iteration may hold", function()
    local rows, server = serve("continuous:a=1,b=0,c=0,d=0,tokens=100,seqs=4", { { 0, 250, 1 } })
    near(3, rows[1].ttft, "three chunks")
    assert.are.equal(3, server.iterations)
  end)

  it("has no more sequences than seqs, in order of arrival", function()
    local rows = serve("continuous:a=1,b=0,c=0,d=0,seqs=2", { { 0, 1, 3 }, { 0, 1, 3 }, { 0, 1, 1 } })
    near(3, rows[2].e2e, "second")
    near(4, rows[3].e2e, "third waits for a place")
  end)

  it("preempts the last one when blocks run out, and computes it anew", function()
    -- Four blocks of 4: two sequences of 4 tokens each hold one. Each takes a second with its token 5; their token 9
    -- wants a third. The first gets that of the second, which comes back when the first has ended.
    local rows, server = serve("continuous:a=1,b=0,c=0,d=0,kv=16,block=4,seqs=4", { { 0, 4, 8 }, { 0, 4, 8 } })
    near(8, rows[1].e2e, "first")
    -- Five tokens each by 5 s; at 8 s it is computed anew, which makes its sixth at 9 s.
    near(11, rows[2].e2e, "second")
    assert.are.equal(1, server.preemptions)
    assert.are.equal(16, server:kv_peak())
    near(4, server.tbt_max_us / 1e6, "longest pause")
  end)

  it("preempts nobody where output is reserved", function()
    local rows, server = serve("continuous:a=1,b=0,c=0,d=0,kv=16,block=4,seqs=4,admit=reserve",
      { { 0, 4, 8 }, { 0, 4, 8 } })
    near(8, rows[1].e2e, "first")
    near(16, rows[2].e2e, "second waits until its blocks are free")
    assert.are.equal(0, server.preemptions)
    rows = serve("continuous:a=1,b=0,c=0,d=0,kv=48,block=4,seqs=4,admit=reserve,max_output=20",
      { { 0, 4, 8 }, { 0, 4, 8 }, { 0, 4, 8 } })
    near(8, rows[2].e2e, "two fit beside each other")
    near(16, rows[3].e2e, "what is reserved is the most that may come")
  end)

  it("stops who is not wanted any more", function()
    local server = device("continuous:a=1,b=0,c=0,d=0,seqs=1"):new()
    local first, second, third = server:admit(5, 100, 0), server:admit(5, 1, 0), server:admit(5, 1, 0)
    assert.is_false(server:run_to(2.5e6))
    server:abort(first, 2.5e6)
    server:abort(second, 2.5e6)
    assert.is_true(server:run_to(math.huge))
    assert.are.same({ 1, third }, { server.ended_count, server.ended[1] })
    near(4e6, server.now_us, "third, at once when the iteration of the first has ended")
  end)
end)

describe("a jump", function()
  local function random_requests(stream, n, gap_s)
    local out, at = {}, 0
    for i = 1, n do
      at = at + stream:exponential() * gap_s
      local prompt, output = 1 + math.floor(stream:uniform() * 120), 1 + math.floor(stream:uniform() * 200)
      out[i] = { math.floor(at * 1e6) / 1e6, prompt, output }
    end
    return out
  end

  it("comes to the same as steps: chunks, few places, few blocks, reserving", function()
    local stream = random.new(7, "jumps")
    local base = "continuous:a=10ms,b=0.1ms,c=0.2ms,d=0.003ms,knee=20,over=0.3ms,head=0.05ms,decode=1ms,context=1us"
    local saved = 0
    for k, limits in ipairs { "", ",seqs=4,tokens=64", ",kv=640", ",kv=1200,seqs=64,tokens=128", ",kv=900,block=7",
      ",kv=2000,admit=reserve", ",kv=330,block=1", ",kv=2000,admit=reserve,max_output=250,seqs=9,tokens=50" } do
      for _, gap_s in ipairs { 0.05, 0.5, 3 } do
        local requests = random_requests(stream, 60, gap_s)
        local jumped, fast = serve(base .. limits, requests)
        local stepped, slow = serve(base .. limits, requests, true)
        for i = 1, #requests do
          near(stepped[i].ttft, jumped[i].ttft, ("case %d, request %d, first token"):format(k, i))
          near(stepped[i].e2e, jumped[i].e2e, ("case %d, request %d, last token"):format(k, i))
        end
        assert.are.same({ slow.iterations, slow.preemptions, slow:kv_peak() },
          { fast.iterations, fast.preemptions, fast:kv_peak() })
        near(slow.tbt_max_us, fast.tbt_max_us, "longest pause")
        assert.are.equal(slow.segments, slow.iterations)
        saved = saved + slow.segments - fast.segments
      end
    end
    assert.is_true(saved > 1000)
  end)

  it("is cut for who comes behind one that was given up in the line", function()
    for _, is_stepping in ipairs { false, true } do
      local server = device("continuous:a=1,b=0,c=0,d=0,seqs=2,kv=64"):new(is_stepping)
      server:admit(5, 40, 0)
      local waits = server:admit(50, 10, 0) -- there is no room for it beside the first
      assert.is_false(server:run_to(5.5e6))
      server:abort(waits, 5.5e6)
      server:run_to(7.5e6)
      local last = server:admit(5, 2, 7.5e6)
      assert.is_true(server:run_to(math.huge))
      assert.are.equal(last, server.ended[1])
      near(9, server.first_us[last] / 1e6, "first token, an iteration after the one in which it came")
    end
  end)

  it("is cut where somebody is given up", function()
    for _, is_stepping in ipairs { false, true } do
      local server = device("continuous:a=1,b=0,c=0,d=0.001,seqs=2"):new(is_stepping)
      local first, second = server:admit(5, 100, 0), server:admit(5, 20, 0)
      server:run_to(7.3e6)
      server:abort(first, 7.3e6)
      server:run_to(math.huge)
      assert.are.equal(second, server.ended[1])
      -- KV tokens of the 19 iterations that decode: 6 .. 24 of the second, 6 .. 12 of the first, gone after 8 s.
      near(20 + 0.001 * (285 + 63), server.last_us[second] / 1e6, "second")
    end
  end)
end)

describe("a batcher before a device", function()
  local DEVICE = "continuous:a=16ms,b=0.03ms,c=0.04ms,d=0.0002ms,kv=20000"

  it("changes nothing while it has a slot for each: what the device does is all there is", function()
    local arrivals = "poisson:rate=3,tokens=uniform(10,600),output=uniform(1,300)"
    local row = assert(simulate({ arrivals = arrivals, limit = 500, device = DEVICE }))
    local source = made_up.source(assert(made_up.parse(arrivals)), 1, 1, 500)
    local requests = {}
    while not source.is_done do
      requests[#requests + 1] = { source.at_us / 1e6, math.ceil(source.cost), math.max(1, source.output) }
      source:take()
    end
    local rows, server = serve(DEVICE, requests)
    local sum = { ttft = 0, e2e = 0 }
    for _, one in ipairs(rows) do sum.ttft, sum.e2e = sum.ttft + one.ttft, sum.e2e + one.e2e end
    assert.is_true(math.abs(sum.ttft / 500 - row.ttft_s.mean) < 1e-6)
    assert.is_true(math.abs(sum.e2e / 500 - row.e2e_s.mean) < 1e-6)
    assert.are.same({ 500, server.preemptions, server:kv_peak() },
      { row.completed, row.preemptions, row.kv_peak_tokens })
    assert.is_true(math.abs(row.latency_s.mean - row.e2e_s.mean) < 2e-6) -- an answer is its last token
  end)

  it("has no more records there than it has slots", function()
    local args = { arrivals = "constant:rate=1000,tokens=100,output=20", limit = 200, device = DEVICE }
    local all, few = assert(simulate(args)), assert(simulate(args, { max_concurrent_batches = 2 }))
    assert.is_true(all.kv_peak_tokens > 10000)
    assert.are.equal(2 * 128, few.kv_peak_tokens) -- 119 tokens each, in blocks of 16
    assert.is_true(few.ttft_s.p99 > all.ttft_s.p99)
  end)

  -- Nobody joins a batch that runs, so it takes what a closed form says.
  it("that gathers records waits for the slowest: kv_steps gives the time of such a batch exactly", function()
    local set = { max_batch_size = 8, max_concurrent_batches = 1, target_batch_tokens = 1e9 }
    local arrivals = { arrivals = "poisson:rate=20,tokens=gamma(300,1),output=uniform(1,200)", limit = 400 }
    local by_device = { device = "continuous:a=14ms,b=0.08ms,c=0.09ms,d=0.0002ms,tokens=1000000000" }
    local by_service = { service = "0.014*max_output_tokens + 0.00008*tokens + 0.00009*(output_tokens - records) + "
      .. "0.0000002*kv_steps" }
    for name, value in pairs(arrivals) do by_device[name], by_service[name] = value, value end
    local one, other = assert(simulate(by_device, set)), assert(simulate(by_service, set))
    assert.are.equal(one.batches, other.batches)
    assert.is_true(math.abs(one.latency_s.mean / other.latency_s.mean - 1) < 1e-5)
    assert.is_true(one.e2e_s.mean < one.latency_s.mean) -- who is done early waits for its batch
  end)

  it("gives up a batch after inference_timeout_s, and so does the device", function()
    local row = assert(simulate({ arrivals = "constant:rate=0.1,tokens=10,output=100", limit = 3, device =
      "continuous:a=1,b=0,c=0,d=0,seqs=1" }, { inference_timeout_s = 5 }))
    assert.are.same({ 0, 3 }, { row.completed, row.failed })
    assert.are.equal(0, row.ttft_s.max)
  end)

  it("says nothing of what nobody has seen: times of tokens where each answer is one, of answers where there are none",
    function()
      local function cells(output, kv)
        local row = assert(simulate { arrivals = "constant:rate=1,tokens=100,output=" .. output, limit = 3,
          device = "continuous:a=10ms,b=0,c=0,d=0,kv=" .. kv, warn = function() end })
        for _, block in ipairs(compare.blocks { row }) do
          if block[1] == "device" then
            local out = {}
            for i, column in ipairs(block[2]) do out[i] = compare.cell(row, column) end
            return table.concat(out, " ")
          end
        end
      end
      assert.equal("0.010 0.010 0.010 0.0100 0.0100 0.0100 0.020 0.020 0.010 0 112", cells(2, 1000))
      assert.equal("0.010 0.010 0.010 - - - 0.010 0.010 - 0 112", cells(1, 1000))
      assert.equal("- - - - - - - - - 0 0", cells(2, 16))
    end)

  it("fails records that the cache can never hold, and says how many", function()
    local said = {}
    local row = assert(simulate({ arrivals = "constant:rate=1,tokens=uniform(10,200),output=1", limit = 100,
      device = "continuous:a=1ms,b=0,c=0,d=0,kv=112", warn = function(text) said[#said + 1] = text end }))
    assert.are.equal(100, row.completed + row.failed)
    assert.is_true(row.failed > 20 and row.failed < 80)
    assert.are.same({ row.failed .. " records do not fit the KV cache of the device (kv=112 tokens); their batches "
      .. "failed" }, said)
  end)

  it("is refused where outputs are not known", function()
    local row, message = simulate { arrivals = "poisson:rate=1,tokens=10", limit = 5, device = DEVICE }
    assert.is_nil(row)
    assert.truthy(message:find("--device asks for outputs", 1, true))
  end)
end)

describe("a description of a device", function()
  local function refused(text, what)
    local found, message = devices.parse(text)
    assert.is_nil(found)
    assert.truthy(message:find(what, 1, true), message)
  end

  it("that is wrong is refused by name", function()
    refused("rtx", "preset:NAME is needed")
    refused("preset:rtx4090-llama3-8b", "did you mean 'rtx4090-llama3.1-8b'")
    refused("preset:rtx4090-llama3.1-8b,a=1", "unknown name 'a'")
    refused("continuous:a=1,b=1,c=1", "d is missing")
    refused("continuous:a=1,b=1,c=1,d=1,kvs=5", "did you mean 'kv'")
    refused("continuous:a=1min,b=1,c=1,d=1", "a=1min: a time of 0 or more")
    refused("continuous:a=-1,b=1,c=1,d=1", "a=-1: a time of 0 or more")
    refused("continuous:a=nan,b=1,c=1,d=1", "a=nan: a time of 0 or more")
    refused("continuous:a=1,a=1,b=1,c=1,d=1", "a is given twice")
    refused("continuous:a=1,b=1,c=1,d=1,knee=5", "knee (tokens) and over")
    refused("continuous:a=1,b=1,c=1,d=1,seqs=64,tokens=32", "tokens=32 is below seqs=64")
    refused("continuous:a=1,b=1,c=1,d=1,max_output=32", "max_output is for admit=reserve")
    refused("continuous:a=1,b=1,c=1,d=1,admit=all", "one of known, reserve")
  end)

  it("may have units, and its text is a description again", function()
    local one = device "continuous:a=16.5ms,b=33us,c=0.00004,d=0.2us,kv=1000,seqs=8,factor=2"
    assert.are.equal("continuous:a=33ms,b=0.066ms,c=0.08ms,d=0.0004ms,seqs=8,tokens=2048,kv=1000,block=16,admit=known",
      one.text)
    assert.are.equal(one.text, device(one.text).text)
    for _, name in ipairs(presets.names()) do
      local preset = device("preset:" .. name)
      assert.are.equal(preset.text, device(preset.text).text)
      assert.truthy(preset.checked:find "checked")
    end
  end)
end)

describe("a real run", function()
  local function need_runs()
    local file = io.open(RUNS .. "rtx4090_llama31_8b/meta.json", "rb")
    if not file then pending "skipped: no ../shared/data" end
    file:close()
  end

  it("of vLLM on an RTX 4090 comes out within 5 % on all twelve figures, as the preset is", function()
    need_runs()
    local fitted = assert(fit.of_run(RUNS .. "rtx4090_llama31_8b"))
    assert.are.equal("rtx4090-llama3.1-8b", fitted.base.name)
    assert.are.equal(12, #fitted.measured)
    assert.is_true(fitted.worst_before < 0.05, "worst " .. fitted.worst_before)
  end)

  it("of vLLM on an RTX PRO 6000 comes out within 5 % with one factor", function()
    need_runs()
    local fitted = assert(fit.of_run(RUNS .. "rtxpro6000_llama31_8b"))
    assert.are.equal("rtxpro6000-llama3.1-8b", fitted.base.name)
    assert.is_true(fitted.worst < 0.05, "worst " .. fitted.worst)
    assert.is_true(fitted.factor > 1.05 and fitted.factor < 1.1)
  end)

  it("steps as it jumps", function()
    need_runs()
    local run, spec = assert(runs.read(RUNS .. "rtx4090_llama31_8b")), device "preset:rtx4090-llama3.1-8b"
    local jumped, fast = runs.simulate(run.requests, spec)
    local stepped, slow = runs.simulate(run.requests, spec, true)
    for i = 1, #jumped do near(stepped[i].e2e, jumped[i].e2e, "request " .. i) end
    assert.is_true(fast.segments * 5 < slow.segments)
    assert.is_true(fast.preemptions > 150)
  end)
end)

describe("fitting a device", function()
  local folder

  local function write(name, text)
    local file = assert(io.open(folder .. "/" .. name, "wb"))
    file:write(text)
    file:close()
  end

  before_each(function()
    folder = os.tmpname()
    os.remove(folder)
    os.execute("mkdir " .. folder)
  end)
  after_each(function() os.execute("rm -r " .. folder) end)

  -- A run of a simulated server that nobody has told of.
  local function write_run(spec, meta)
    local stream, at, requests = random.new(3, "requests"), 0, {}
    for i = 1, 100 do
      at = at + stream:exponential() * 0.2
      requests[i] = { at, 1 + math.floor(stream:uniform() * 900), 2 + math.floor(stream:uniform() * 300) }
    end
    local rows, lines = serve(spec, requests), {}
    for i, r in ipairs(requests) do
      lines[i] = ('{"input_toks":%d,"output_toks":%d,"queued_ts":%.9f,"first_token_ts":%.9f,"last_token_ts":%.9f}')
        :format(r[2], r[3], 100 + r[1], 100 + r[1] + rows[i].ttft, 100 + r[1] + rows[i].e2e)
    end
    write("requests.jsonl", table.concat(lines, "\n") .. "\n")
    write("meta.json", meta)
  end

  it("finds the factor, takes the limits of the run, and prints a device that gives the run's figures", function()
    write_run("preset:rtx4090-llama3.1-8b,factor=1.7,seqs=32,kv=16000,tokens=512", '{"model":"meta-llama/Llama-3.1-8B",'
      .. '"engine_kwargs":{"tensor_parallel_size":1,"max_num_seqs":32,"max_num_batched_tokens":512},'
      .. '"kv_cache":{"num_kv_tokens":16000,"block_size":16},"hardware":{"device_name":"NVIDIA GeForce RTX 4090"}}')
    local fitted = assert(fit.of_run(folder))
    assert.is_true(math.abs(fitted.factor - 1.7) < 5e-3) -- who is preempted changes by jumps
    assert.is_true(fitted.worst < 0.05 and fitted.worst_before > 0.3)
    assert.truthy(fitted.device.text:find "^continuous:a=28%.1")
    assert.truthy(fitted.device.text:find("seqs=32,tokens=512,kv=16000", 1, true))
  end)

  it("of a model that no preset has takes the shape that comes closest", function()
    write_run("preset:rtxpro6000-qwen3-32b-tp2,factor=0.8", '{"model":"someone/Other-30B","engine_kwargs":'
      .. '{"tensor_parallel_size":2,"max_num_seqs":128,"max_num_batched_tokens":2048}}')
    local fitted = assert(fit.of_run(folder))
    assert.are.equal("rtxpro6000-qwen3-32b-tp2", fitted.base.name)
    assert.truthy(fitted.why:find "comes closest")
    fitted = assert(fit.of_run(folder, "continuous:a=1ms,b=0.002ms,c=0.002ms,d=0"))
    assert.are.equal("given", fitted.why)
  end)

  it("says what is wrong with a folder", function()
    local function refused(what)
      local found, message = fit.of_run(folder)
      assert.is_nil(found)
      assert.truthy(message:find(what, 1, true), message)
    end
    refused "meta.json"
    write("meta.json", "[1")
    refused "meta.json: no JSON object"
    write("meta.json", '{"model":"x","hardware":null}')
    refused "requests.jsonl"
    write("requests.jsonl", "")
    refused "has no requests"
    write("requests.jsonl", '{"input_toks":5}\n')
    refused "requests.jsonl:1: output_toks is no number"
    write("requests.jsonl", '{"input_toks":5,"output_toks":1,"queued_ts":5,"first_token_ts":4,"last_token_ts":6}\n')
    refused "requests.jsonl:1: its times are out of order"
    write("requests.jsonl", '{"input_toks":5,"output_toks":1,"queued_ts":5,"first_token_ts":6,"last_token_ts":6}\n')
    refused "no request with two output tokens"
    write("meta.json", '{"model":"x","engine_kwargs":{"tensor_parallel_size":"two"}}')
    refused "meta.json: engine_kwargs.tensor_parallel_size is 'two', no number above 0"
    write("meta.json", '{"model":"x","engine_kwargs":{"tensor_parallel_size":2,"data_parallel_size":2}}')
    refused "data_parallel_size is 2: its requests went to 2 servers, and a device is one"
    write("meta.json", '{"model":"x","kv_cache":{"num_kv_tokens":[]}}')
    refused "kv_cache.num_kv_tokens is a list or an object"
    write("meta.json", '{"engine_kwargs":{"tensor_parallel_size":2}}')
    refused "it names no model"
  end)

  local META = '{"model":"meta-llama/Llama-3.1-8B","engine_kwargs":{"tensor_parallel_size":1,"max_num_seqs":32},'
    .. '"kv_cache":{"num_kv_tokens":16000,"block_size":16}}'

  local function lines_of(name)
    local out = {}
    for line in io.lines(folder .. "/" .. name) do out[#out + 1] = line end
    return out
  end

  it("finds the same whatever order the requests are in, and leaves out and counts those that failed", function()
    write_run("preset:rtx4090-llama3.1-8b,factor=1.7,seqs=32,kv=16000", META)
    local expected = assert(fit.of_run(folder))
    assert.are.equal(0, expected.run.failed)
    local lines, turned = lines_of "requests.jsonl", {}
    for i, line in ipairs(lines) do turned[#lines + 1 - i] = line end
    table.insert(turned, 1, '{"request_id":"b","input_toks":9,"output_toks":9,"arrival_time":null,"queued_ts":null,'
      .. '"scheduled_ts":null,"first_token_ts":null,"last_token_ts":null}')
    table.insert(turned, 40, '{"input_toks":9,"output_toks":0,"queued_ts":101,"first_token_ts":0,"last_token_ts":0}')
    table.insert(turned, 50, '{"input_toks":9,"output_toks":5,"queued_ts":101,"first_token_ts":102,"last_token_ts":103,'
      .. '"error":"gone"}')
    write("requests.jsonl", table.concat(turned, "\r\n"))
    local fitted = assert(fit.of_run(folder))
    assert.are.equal(expected.device.text, fitted.device.text)
    assert.are.same({ 3, 100 }, { fitted.run.failed, #fitted.run.requests })
    write("requests.jsonl", turned[1] .. "\n" .. turned[40] .. "\n" .. turned[2] .. "\n")
    local found, message = fit.of_run(folder)
    assert.is_nil(found)
    assert.truthy(message:find("2 of 3 requests have failed", 1, true), message)
  end)

  it("finds the limits of a run where vLLM says them in another place, and its model", function()
    write_run("preset:rtx4090-llama3.1-8b,factor=1.7,seqs=32,kv=16000", META)
    local expected = assert(fit.of_run(folder))
    write("meta.json", '{"engine_kwargs":{"model":"/models/Llama-3.1-8B/","max_num_seqs":null},"hardware":{},'
      .. '"kv_cache":{},"resolved_config":{"cache_config":{"num_gpu_blocks":1000,"block_size":16},"scheduler_config":'
      .. '{"max_num_seqs":32,"max_num_batched_tokens":2048}}}')
    local fitted = assert(fit.of_run(folder))
    assert.are.equal(expected.device.text, fitted.device.text)
    assert.are.same({ "rtx4090-llama3.1-8b", 1 }, { fitted.base.name, fitted.run.parallel })
  end)

  it("refuses a run whose times are plainly in another unit", function()
    write_run("preset:rtx4090-llama3.1-8b,seqs=32,kv=16000", META)
    local lines = lines_of "requests.jsonl"
    for unit, word in pairs { [1000] = "slow", [0.001] = "fast" } do
      local changed = {}
      for i, line in ipairs(lines) do
        changed[i] = line:gsub('(_ts":)([%d.]+)', function(name, s) return name .. ("%.9f"):format(s * unit) end)
      end
      write("requests.jsonl", table.concat(changed, "\n"))
      local found, message = fit.of_run(folder)
      assert.is_nil(found)
      assert.truthy(message:find(("more than 64 times as %s as the device: are its times in seconds?"):format(word), 1,
        true), message)
    end
  end)
end)
