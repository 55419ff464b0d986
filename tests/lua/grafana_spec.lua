-- The dashboard and the alert rules of examples/grafana ask only for what is really exposed: metrics, and labels that
-- those metrics have, by the pages of a batcher, of a worker and of a gateway.

local cli = dofile "tests/lua/cli_helper.lua"
local gateways = dofile "tests/lua/gateway_helper.lua"
local figures = require "tokenbatcher.backend.redis.figures"
local pages = require "tokenbatcher.gateway.pages"
local snapshots = require "tokenbatcher.gateway.snapshot"
local tb = require "tokenbatcher"

local DASHBOARD, ALERTS = "examples/grafana/dashboard.json", "examples/grafana/alerts.yml"

-- Labels that Prometheus adds by itself, or that stand in the result of a histogram.
local OF_PROMETHEUS = { instance = true, job = true }

local function page_of_batcher()
  return tb.run(function()
    local batcher = tb.TokenBatcher { inference_fn = function(records) return records end, name = "a" }
    tb.with(batcher, function() batcher:ask("x") end)
    return tb.metrics.prometheus(batcher)
  end, { clock = "virtual" })
end

local function page_of_worker()
  return figures.text { consumer = "w", group = "tb", failures = { deadline = 1 },
    counts = { answered = 1, failed = 1, dead = 0, claimed = 0, lost = 0, late = 0, released = 0 } }
end

local function page_of_gateway()
  local page
  local upstream = gateways.upstream(function() return { status = 200, headers = {},
    body = '{"object":"list","data":[{"object":"embedding","index":0,"embedding":[1]}],"model":"m"}' } end)
  gateways.run({ queue = { slots = 2, gate = {} } }, { upstream }, function(gateway)
    local status = gateways.handle(gateway, gateways.request("/v1/embeddings", '{"model":"m","input":"x"}'))
    assert.equal(200, status)
    local snapshot, sum = snapshots.take(gateway), {}
    snapshots.add(sum, snapshot, false)
    local _, _, text = pages.metrics(gateway, { { id = 0, sum = sum, live = { snapshot } } })
    page = text
  end)
  return page
end

-- metric -> set of its labels, of pages.
local function exposed(...)
  local out = {}
  for _, page in ipairs { ... } do
    for name, labels in page:gmatch "\n?(tokenbatcher_[%w_]+)(%b{})" do
      out[name] = out[name] or {}
      for label in labels:gmatch '([%w_]+)="' do out[name][label] = true end
    end
  end
  return out
end

-- Every metric of an expression with the labels that are asked of it; of `by (...)` those of the metric that follows.
local function asked(expression)
  local out = {}
  local grouped = {}
  for list in expression:gmatch "by %(([^)]*)%)" do
    for label in list:gmatch "[%w_]+" do grouped[#grouped + 1] = label end
  end
  for name, rest in expression:gmatch "(tokenbatcher_[%w_]+)([^%w_][^%w_]?)" do
    local labels = {}
    local inside = rest:sub(1, 1) == "{" and expression:match(name .. "(%b{})") or "{}"
    for label in inside:gmatch "([%w_]+)=~?!?\"" do labels[#labels + 1] = label end
    out[#out + 1] = { name = name, labels = labels }
  end
  return out, grouped
end

local function expressions()
  local out = {}
  for _, panel in ipairs(tb.json.decode(cli.read(DASHBOARD)).panels) do
    for _, target in ipairs(panel.targets or {}) do out[#out + 1] = { panel.title, target.expr } end
  end
  -- A rule's expression goes on, after ">", in the lines that are indented more.
  local name, text
  for line in cli.read(ALERTS):gmatch "[^\n]+" do
    name = line:match "%- alert: (%w+)" or name
    local begun = line:match "^        expr: (.*)$"
    if text and line:find "^          " then
      text = text .. " " .. line
    elseif text then
      out[#out + 1], text = { name, text }, nil
    end
    text = begun or text
  end
  return out
end

-- What is wrong with an expression, or nil.
local function wrong(expression, there)
  local metrics, grouped = asked(expression)
  if #metrics == 0 then return "asks for nothing of ours" end
  local all = {}
  for _, it in ipairs(metrics) do
    local labels = there[it.name]
    if not labels then return it.name .. " is not exposed" end
    for _, label in ipairs(it.labels) do
      if not (labels[label] or OF_PROMETHEUS[label]) then return it.name .. " has no label " .. label end
    end
    for label in pairs(labels) do all[label] = true end
  end
  for _, label in ipairs(grouped) do
    if not (all[label] or OF_PROMETHEUS[label] or label == "le") then return "nothing has the label " .. label end
  end
end

describe("examples/grafana", function()
  local there

  setup(function() there = exposed(page_of_batcher(), page_of_worker(), page_of_gateway()) end)

  it("asks for what is exposed, and for labels that it has", function()
    local n = 0
    for _, it in ipairs(expressions()) do
      assert.is_nil(wrong(it[2], there), it[1] .. ": " .. it[2])
      n = n + 1
    end
    local _, panels = cli.read(DASHBOARD):gsub('"expr": ', "")
    local _, alerts = cli.read(ALERTS):gsub("expr: ", "")
    assert.equal(panels + alerts, n)
    assert.is_true(panels > 40 and alerts >= 8)
  end)

  it("would be seen to ask for something else", function()
    assert.matches("is not exposed", wrong('sum(rate(tokenbatcher_submited_total{name=~"x"}[5m]))', there))
    assert.matches("has no label code", wrong('sum(tokenbatcher_slots{code="200"})', there))
    assert.matches("nothing has the label nam", wrong('sum by (nam) (tokenbatcher_slots{name="a"})', there))
    assert.matches("nothing of ours", wrong('up', there))
    assert.is_nil(wrong('histogram_quantile(0.5, sum by (le) (rate(tokenbatcher_wait_seconds_bucket{name="a"}[5m])))',
      there))
  end)

  it("has the rows that operators look for, each with panels that say what they show", function()
    local rows, before = {}, nil
    for _, panel in ipairs(tb.json.decode(cli.read(DASHBOARD)).panels) do
      if panel.type == "row" then
        rows[#rows + 1] = panel.title
      else
        assert.is_true(#panel.targets > 0, panel.title)
      end
      assert.is_true(not before or before.type ~= "row" or panel.type ~= "row")
      before = panel
    end
    assert.same({ "Traffic", "Queue", "Batches", "Latency", "Upstream", "Workers" }, rows)
  end)

  it("has alerts with a summary and a description", function()
    local alerts = cli.read(ALERTS)
    local _, n = alerts:gsub("\n      %- alert: ", "")
    assert.is_true(n >= 8)
    for _, word in ipairs { "summary: ", "description: ", "severity: " } do
      assert.equal(n, select(2, alerts:gsub(word, "")), word)
    end
  end)
end)
