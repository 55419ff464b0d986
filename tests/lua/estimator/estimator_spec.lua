-- Estimators: chars, words and learned, through real batchers on the virtual clock.

local tb = require "tokenbatcher"
local H = dofile "tests/lua/helper.lua"
local virtually = H.virtually

-- The costs of the records, as a batcher charges them.
local function costs_of(estimator, records)
  local costs = {}
  local batcher = H.start { token_estimator = estimator, policy = "eager", inference_fn = function(batch, info)
    for i in ipairs(batch) do costs[#costs + 1] = info.costs[i] end
    return batch
  end }
  for _, record in ipairs(records) do batcher:submit(record) end
  batcher:stop()
  return costs
end

-- What submit raises for the record.
local function refusal(estimator, record)
  local batcher = H.start { token_estimator = estimator }
  local message, err = H.message(batcher.submit, batcher, record)
  assert.equal(0, batcher.stats.total_submitted)
  batcher:stop()
  return message, err
end

local function assert_bad_cost(estimator, record, part)
  local message, err = refusal(estimator, record)
  assert.equal("bad_cost", err.code)
  assert.truthy(message:find(part, 1, true), message)
end

local function assert_refused(fn, ...)
  local message = H.message(fn)
  for _, part in ipairs { "estimator_spec.lua:", ... } do assert.truthy(message:find(part, 1, true), message) end
end

describe("tb.estimator.chars", function()
  it("counts bytes / 4 of a string, or of a table's field text, rounded up", virtually(function()
    local records = { "", "a", "four", "12345", { text = "What is 2+2?" } }
    assert.same({ 0, 1, 1, 2, 3 }, costs_of(tb.estimator.chars {}, records))
  end))

  it("takes another field and another ratio", virtually(function()
    local records = { { prompt = "12345678", text = "x" } }
    assert.same({ 4 }, costs_of(tb.estimator.chars { field = "prompt", ratio = 2 }, records))
  end))

  it("needs no table of parameters", virtually(function()
    assert.same({ 2 }, costs_of(tb.estimator.chars(), { "12345" }))
  end))

  it("raises bad_cost that names the field which is missing or no text", virtually(function()
    assert_bad_cost(tb.estimator.chars {}, { prompt = "x" }, "'text'")
    assert_bad_cost(tb.estimator.chars { field = "prompt" }, { text = "x" }, "'prompt'")
    assert_bad_cost(tb.estimator.chars {}, { text = 7 }, "'text'")
    assert_bad_cost(tb.estimator.chars {}, 7, "'text'")
    assert_bad_cost(tb.estimator.words {}, { prompt = "x" }, "'text'")
    assert_bad_cost(tb.estimator.learned { base = "words", field = "body" }, { text = "x" }, "'body'")
  end))
end)

describe("tb.estimator.words", function()
  it("counts runs of what is not white space, times 1.33, rounded up", virtually(function()
    local records = { "", "  ", "one", "one two", "\tone\n two  three ", { text = "what, really?" } }
    assert.same({ 0, 0, 2, 3, 4, 3 }, costs_of(tb.estimator.words {}, records))
  end))

  it("takes another field and another ratio", virtually(function()
    assert.same({ 6 }, costs_of(tb.estimator.words { field = "q", ratio = 3 }, { { q = "one two" } }))
  end))
end)

describe("the parameters of an estimator", function()
  it("are validated at the caller's line: an unknown one is refused with the nearest name", function()
    assert_refused(function() return (tb.estimator.chars { ration = 4 }) end, "'chars'", "'ration'", "'ratio'")
    assert_refused(function() return (tb.estimator.words { fild = "q" }) end, "estimator 'words'", "'fild'", "'field'")
    assert_refused(function() return (tb.estimator.learned { bas = "q" }) end, "estimator 'learned'", "'bas'", "'base'")
    assert_refused(function() return (tb.estimator.chars { "text" }) end, "'1'")
  end)

  it("of a wrong type or range are refused, and the value named", function()
    for _, ratio in ipairs { 0, -1, math.huge, 0 / 0, "4" } do
      assert_refused(function() return (tb.estimator.chars { ratio = ratio }) end, "'ratio'", "above 0")
    end
    assert_refused(function() return (tb.estimator.chars { field = 7 }) end, "'field'", "a string", "7")
    assert_refused(function() return (tb.estimator.chars "text") end, "must be a table", "string")
  end)

  it("base: an unknown name, or what cannot be called, is refused", function()
    assert_refused(function() return (tb.estimator.learned { base = "char" }) end, "'base'", "'char'", "'chars'")
    assert_refused(function() return (tb.estimator.learned { base = {} }) end, "'base'", "a callable table")
    assert_refused(function() return (tb.estimator.learned { base = 7 }) end, "'base'", "7")
  end)

  it("field is refused beside a base that is a function, which would not see it", function()
    assert_refused(function() return (tb.estimator.learned { base = print, field = "q" }) end, "'field'", "by name")
  end)

  it("an estimator that does not ship is an error that lists what does", function()
    assert_refused(function() return (tb.estimator.tokens) end, "'tokens'", "chars, words, learned")
  end)
end)

-- Prompts of 1 to 60 words, the same each time; the truth is 1.7 tokens a word, which no
-- estimator knows.
local function corpus()
  local state = 7
  return function()
    state = (state * 16807) % 2147483647
    local words = {}
    for i = 1, 1 + state % 60 do words[i] = ("word"):sub(1, 1 + (state + i) % 4) end
    return table.concat(words, " ")
  end
end

local function truth(text)
  local _, words = text:gsub("%S+", "")
  return words * 1.7
end

-- An inference function that reports true counts, and what it saw in each batch.
local function reporting(count)
  local batches = {}
  return function(records, info)
    local tokens = 0
    for _, record in ipairs(records) do tokens = tokens + count(record) end
    batches[#batches + 1] = { charged = info.cost, truth = tokens }
    tb.sleep(0.01)
    info.usage = { total_tokens = tokens }
    return records
  end, batches
end

-- By how much the charge of the last `n` batches is off, as a share of the truth.
local function error_of(batches, n)
  local charged, tokens = 0, 0
  for i = #batches - n + 1, #batches do
    charged, tokens = charged + batches[i].charged, tokens + batches[i].truth
  end
  return math.abs(charged / tokens - 1)
end

local function assert_learns(estimator, options, count)
  local infer, batches = reporting(count or truth)
  local given = { token_estimator = estimator, inference_fn = infer, max_batch_size = 16, max_queue_size = 16 }
  for name, value in pairs(options or {}) do given[name] = value end
  local batcher, text = H.start(given), corpus()
  while batcher.stats.total_batches < 70 do batcher:submit(text()) end
  batcher:stop()
  local learned = { unpack(batches, 1, 70) }
  assert.truthy(error_of({ learned[1] }, 1) > 0.2, "there was nothing to learn")
  assert.truthy(error_of(learned, 20) < 0.05, "off by " .. error_of(learned, 20))
end

describe("tb.estimator.learned", function()
  it("begins with its base: chars", virtually(function()
    assert.same({ 2, 1 }, costs_of(tb.estimator.learned {}, { "12345", { text = "a" } }))
  end))

  it("is within 5 % of the truth after 50 batches, from what the backend reports", virtually(function()
    assert_learns(tb.estimator.learned {})
    assert_learns(tb.estimator.learned { base = "words" })
  end))

  it("learns downwards, and where most records cost a token or two and rounding counts", virtually(function()
    assert_learns(tb.estimator.learned { base = function(text) return 8 * truth(text) end })
    assert_learns(tb.estimator.learned { base = function(text) return #text / 50 end }, nil,
      function(text) return math.ceil(#text / 20) end)
  end))

  it("is not misled by a deep queue, whose records were charged by older factors", virtually(function()
    assert_learns(tb.estimator.learned {}, { max_queue_size = 640, max_concurrent_batches = 4 })
  end))

  it("follows a truth that changes", virtually(function()
    local tokens_per_word = 1
    local infer, batches = reporting(function(text) return truth(text) * tokens_per_word end)
    local batcher = H.start { token_estimator = tb.estimator.learned {}, inference_fn = infer, max_batch_size = 16,
      max_queue_size = 16 }
    local text = corpus()
    while #batches < 100 do batcher:submit(text()) end
    tokens_per_word = 2.5
    while #batches < 200 do batcher:submit(text()) end
    batcher:stop()
    assert.truthy(error_of(batches, 20) < 0.05, "off by " .. error_of(batches, 20))
  end))

  it("takes its base by name with a field, as a function, or as a callable table", virtually(function()
    assert.same({ 3 }, costs_of(tb.estimator.learned { base = "words", field = "q" }, { { q = "one two" } }))
    assert.same({ 42 }, costs_of(tb.estimator.learned { base = function() return 41.5 end }, { "x" }))
    local callable = setmetatable({ n = 5 }, { __call = function(self) return self.n end })
    assert.same({ 5 }, costs_of(tb.estimator.learned { base = callable }, { "x" }))
  end))

  it("reports what its base cannot estimate as the base's answer", virtually(function()
    assert_bad_cost(tb.estimator.learned { base = function() end }, "x", "nil")
    assert_bad_cost(tb.estimator.learned { base = function() return "many" end }, "x", '"many"')
    assert_bad_cost(tb.estimator.learned { base = function() error "no idea" end }, "x", "no idea")
  end))

  it("learns from records that came with a cost of their own, too, whatever they are", virtually(function()
    local estimator = tb.estimator.learned {}
    local batcher = H.start { token_estimator = estimator, inference_fn = function(records, info)
      info.usage = { total_tokens = 30 }
      return records
    end }
    batcher:submit(true, { estimated_tokens = 10 }):await()
    assert.equal(3, estimator.factor)
    assert.equal(3, estimator "four")
    batcher:stop()
  end))

  local RUBBISH = {
    ["no table"] = 7, ["a string"] = "100", ["an empty table"] = {}, ["a string in it"] = { total_tokens = "100" },
    ["zero"] = { total_tokens = 0 }, ["a negative"] = { total_tokens = -5 }, ["nan"] = { total_tokens = 0 / 0 },
    ["infinity"] = { total_tokens = math.huge }, ["far beyond reason"] = { total_tokens = 1e300 },
    ["a table in it"] = { total_tokens = {} }, ["false"] = false,
  }
  for name, usage in pairs(RUBBISH) do
    it("ignores usage that is rubbish: " .. name, virtually(function()
      local estimator = tb.estimator.learned {}
      local log = {}
      local batcher = H.start { token_estimator = estimator, log = function(_, text) log[#log + 1] = text end,
        inference_fn = function(records, info)
          info.usage = usage
          return records
        end }
      for _ = 1, 3 do assert.equal("12345678", batcher:submit("12345678"):await()) end
      batcher:stop()
      assert.equal(1, estimator.factor)
      assert.same({}, log)
    end))
  end

  it("learns nothing from a batch that costs nothing", virtually(function()
    local estimator = tb.estimator.learned {}
    local batcher = H.start { token_estimator = estimator, inference_fn = (reporting(function() return 5 end)) }
    batcher:submit(""):await()
    batcher:stop()
    assert.equal(1, estimator.factor)
  end))
end)

describe("an estimator of one's own", function()
  it("may be a callable table; observe gets it, the costs, the usage and the records of each batch",
    virtually(function()
      local seen = {}
      local estimator = setmetatable({ observe = function(self, costs, usage, records)
        seen[#seen + 1] = { is_self = self == seen.estimator, costs = H.copy(costs), usage = usage,
          records = H.copy(records) }
      end }, { __call = function(_, record) return #record end })
      seen.estimator = estimator
      local batcher = H.start { token_estimator = estimator, batch_timeout_s = 0.01,
        inference_fn = function(records, info)
          info.usage = { total_tokens = 99 }
          return records
        end }
      tb.gather(batcher:submit_batch { "a", "bbb" })
      batcher:stop()
      assert.same({ { is_self = true, costs = { 1, 3 }, usage = { total_tokens = 99 }, records = { "a", "bbb" } } },
        { seen[1] })
      assert.equal(1, #seen)
    end))

  it("without observe, or without usage, is not told", virtually(function()
    local calls = 0
    local silent = setmetatable({ observe = function() calls = calls + 1 end }, { __call = function() return 1 end })
    assert.same({ 1 }, costs_of(silent, { "x" }))
    assert.equal(0, calls)
    local batcher = H.start { token_estimator = setmetatable({}, { __call = function() return 4 end }),
      inference_fn = (reporting(function() return 1 end)) }
    assert.equal("x", batcher:submit("x"):await())
    batcher:stop()
  end))

  it("whose observe raises is logged each time, and harms nothing", virtually(function()
    for _, raised in ipairs { "bad day", { code = 7 }, false } do
      local log = {}
      local estimator = setmetatable({ observe = function() error(raised, 0) end },
        { __call = function() return 4 end })
      local batcher = H.start { token_estimator = estimator, log = function(_, text) log[#log + 1] = text end,
        inference_fn = (reporting(function() return 1 end)) }
      for i = 1, 2 do assert.equal(i, batcher:submit(i):await()) end
      batcher:stop()
      assert.equal(2, #log)
      assert.truthy(log[1]:find("the estimator's observe raised", 1, true), log[1])
      if raised == "bad day" then assert.truthy(log[1]:find("bad day", 1, true), log[1]) end
      local stats = batcher.stats
      assert.same({ 2, 0, 0 }, { stats.total_completed, stats.total_failed, stats.policy_errors })
      assert.truthy(H.is_conserved(stats))
    end
  end))

  it("set while running counts for the records after it", virtually(function()
    local batcher, calls = H.start { token_estimator = tb.estimator.chars {}, batch_timeout_s = 0.01 }
    batcher:submit "12345678"
    batcher:set { token_estimator = tb.estimator.words { ratio = 10 } }
    batcher:submit "12345678"
    batcher:stop()
    assert.same({ 2, 10 }, calls[1].costs)
  end))
end)
