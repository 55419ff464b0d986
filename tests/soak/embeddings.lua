-- A real embedding model (tests/http/model_server.lua) behind examples/embeddings.lua. First
-- the vectors: all 1,319 GSM8K questions, each vector beside the one got alone. Then a
-- table: the same mix of short and long texts, batched in five ways.
-- usage: luajit embeddings.lua [QUESTIONS]     (environment: B, TB_SHARED)

package.path = package.path .. ";./?.lua"
local cjson = require "cjson"
local model = require "tests.http.model_server"
local tb = require "tokenbatcher"

local B = os.getenv "B" or "build"
local GUARD_S, TOLERANCE = 1800, 1e-5
local QUESTIONS = tonumber(arg and arg[1])
local SHORT_TO_LONG, MIX = 15, 480

-- --- vectors, through the command line ------------------------------------------------

local function vectors(server, input, settings)
  local output = os.tmpname()
  local command = "%s/tokenbatcher run examples/embeddings.lua --base-url %s --input %s --output %s %s 2>%s.err"
  local status = os.execute(command:format(B, server.url, input, output, settings, output))
  assert(status == 0, "tokenbatcher run failed: see " .. output .. ".err")
  local list = {}
  for line in io.lines(output) do list[#list + 1] = cjson.decode(line).result end
  local seconds = io.open(output .. ".err"):read("*a"):match "in ([%d.]+) s"
  os.remove(output)
  os.remove(output .. ".err")
  return list, tonumber(seconds)
end

local function compare_vectors(server)
  local input, questions = os.tmpname(), model.questions(QUESTIONS)
  local file = io.open(input, "w")
  for _, question in ipairs(questions) do file:write(cjson.encode { text = question }, "\n") end
  file:close()
  local alone, alone_s = vectors(server, input, "--set max_batch_size=1")
  local batched, batched_s = vectors(server, input, "")
  os.remove(input)
  assert(#alone == #questions and #batched == #questions, "an answer is missing")
  local largest = 0
  for i = 1, #questions do largest = math.max(largest, model.difference(alone[i], batched[i])) end
  print(("%d questions: alone %.1f s, batched %.1f s; the largest difference of two numbers is %.1e")
    :format(#questions, alone_s, batched_s, largest))
  assert(largest <= TOLERANCE, "a batched vector is another than the one got alone")
end

-- --- the table ------------------------------------------------------------------------

-- First sentences, and every SHORT_TO_LONG + 1st text four questions long.
local function mixed_texts()
  local questions, texts = model.questions(), {}
  for i = 1, MIX do
    if i % (SHORT_TO_LONG + 1) == 0 then
      texts[i] = table.concat(questions, " ", i, i + 3)
    else
      texts[i] = questions[i]:match "^.-[.?]" or questions[i]
    end
  end
  return texts
end

local ROWS = {
  { "one by one", { policy = "fifo", max_batch_size = 1 } },
  { "fixed count of 32", { policy = "fifo", max_batch_size = 32, target_batch_tokens = 1e9 } },
  { "token budget of 1,000, sum", { policy = "fifo", target_batch_tokens = 1000 } },
  { "token budget of 1,000, padded", { policy = "fifo", target_batch_tokens = 1000, cost_model = "padded" } },
  { "length_bucketed, budget of 1,000, padded", { policy = "length_bucketed", target_batch_tokens = 1000,
    cost_model = "padded" } },
}

local function options_of(server, changes)
  local script = dofile "examples/embeddings.lua"
  local values = {}
  for name, spec in pairs(script.options) do values[name] = spec[2] end
  values.base_url = server.url
  local options = script.setup(values)
  options.max_batch_size, options.cost_model, options.policy = 256, nil, nil
  for name, value in pairs(changes) do options[name] = value end
  return options
end

local function measure(server, changes, texts)
  return tb.run(function()
    local batcher = tb.TokenBatcher(options_of(server, changes))
    batcher:start()
    local started = tb.now()
    local _, errs = tb.gather(batcher:submit_batch(texts))
    local took = tb.now() - started
    batcher:stop()
    local _, err = next(errs)
    assert(not err, err)
    return took, batcher.stats
  end)
end

local function print_table(server)
  local texts, bytes = mixed_texts(), 0
  for _, text in ipairs(texts) do bytes = bytes + #text end
  print(("%d texts, one in %d long, %.0f bytes on average"):format(#texts, SHORT_TO_LONG + 1, bytes / #texts))
  print(("%-42s %8s %10s %9s %14s"):format("", "requests", "wall time", "padding", "largest batch"))
  for _, row in ipairs(ROWS) do
    local took, stats = measure(server, row[2], texts)
    print(("%-42s %8d %8.1f s %9.2f %14d"):format(row[1], stats.total_batches, took, stats.padding_ratio,
      stats.batch_size.max))
  end
end

local server, missing = model.start(GUARD_S)
if not server then
  print("skipped: " .. missing)
  return
end
local ok, message = pcall(function()
  compare_vectors(server)
  print_table(server)
end)
server.stop()
assert(ok, message)
