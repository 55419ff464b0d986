-- Pictures that do not lie: curves are steps that read the goodput at the SLO, sweeps are lines of their own, a
-- band is the range of the seeds, no batch hides another.

local html = require "tokenbatcher.sim.html"
local json = require "tokenbatcher.base.json"
local plot = require "tokenbatcher.sim.plot"
local sweeps = require "tokenbatcher.sim.sweeps"
local timelines = require "tokenbatcher.sim.timeline"
local timeline_plot = require "tokenbatcher.sim.timeline_plot"
local experiment = require "tokenbatcher.sim.experiment"

-- A row as far as pictures look at it. @param settings string  "a=1 b=2"
local function row_of(policy, settings, more)
  local row = { policy = policy, settings = {}, records = 100, completed = 100, goodput = 0.5, throughput = 10,
    latency_s = { mean = 1, p50 = 1, p90 = 2, p99 = 3, max = 4 }, latency_curve = { { 1e6, 0.5 }, { 2e6, 1 } } }
  for name, value in settings:gmatch "(%S+)=(%S+)" do table.insert(row.settings, { name, value }) end
  for name, value in pairs(more or {}) do row[name] = value end
  return row
end

local function lines_of(rows)
  local out = {}
  for i, line in ipairs(sweeps.lines(rows)) do
    local values = {}
    for k, row in ipairs(line.rows) do values[k] = ("%g"):format(line.value_of[row]) end
    out[i] = line.label .. ": " .. table.concat(values, " ")
  end
  return out
end

describe("lines of a sweep", function()
  it("go along speedup, in its order, one for each other setting and policy", function()
    local rows = {}
    for _, policy in ipairs { "fifo", "eager" } do
      for _, speedup in ipairs { 4, 1, 2 } do
        for _, size in ipairs { 8, 16, 32, 64 } do
          rows[#rows + 1] = row_of(policy, ("speedup=%g max_batch_size=%d"):format(speedup, size))
        end
      end
    end
    local lines = lines_of(rows)
    assert.equal(8, #lines)
    assert.equal("fifo max_batch_size=8 (along speedup): 1 2 4", lines[1])
    assert.equal("eager max_batch_size=64 (along speedup): 1 2 4", lines[8])
  end)

  it("go along the option with most values, where those are numbers", function()
    assert.same({ "fifo a=1 (along b): 1 2 3", "fifo a=2 (along b): 1 2 3" }, lines_of { row_of("fifo", "a=1 b=3"),
      row_of("fifo", "a=1 b=1"), row_of("fifo", "a=1 b=2"), row_of("fifo", "a=2 b=1"), row_of("fifo", "a=2 b=2"),
      row_of("fifo", "a=2 b=3") })
    assert.same({ "fifo cost_model=sum: 0", "fifo cost_model=padded: 0" },
      lines_of { row_of("fifo", "cost_model=sum"), row_of("fifo", "cost_model=padded") })
  end)

  it("have marks of their own, alike for like settings, and colours by policy where there are several", function()
    local rows = { row_of("fifo", "speedup=1 a=1"), row_of("fifo", "speedup=1 a=2"), row_of("eager", "speedup=1 a=1"),
      row_of("eager", "speedup=1 a=2") }
    local looks = sweeps.looks(rows)
    assert.same({ 1, 1, 2, 2 }, { looks[rows[1]].colour, looks[rows[2]].colour, looks[rows[3]].colour,
      looks[rows[4]].colour })
    assert.same({ 1, 2, 1, 2 }, { looks[rows[1]].mark, looks[rows[2]].mark, looks[rows[3]].mark, looks[rows[4]].mark })
    local lines = sweeps.lines { row_of("fifo", "cost_model=sum"), row_of("fifo", "cost_model=padded") }
    assert.is_true(lines[1].colour ~= lines[2].colour and lines[1].mark ~= lines[2].mark)
    lines = sweeps.lines { row_of("fifo", ""), row_of("eager", "") }
    assert.is_true(lines[1].colour ~= lines[2].colour and lines[1].mark ~= lines[2].mark)
  end)
end)

describe("a distribution of latency", function()
  it("is drawn in steps from 0, and reads the goodput at the SLO", function()
    -- The middle of a bucket may be on the other side of the SLO than the answers in it.
    local curve = { { 0.9e6, 0.6 }, { 1.0005e6, 0.7 }, { 3e6, 1 } }
    local row = row_of("fifo", "", { goodput = 0.634, latency_curve = curve })
    local points = plot.points_of(row, 1)
    assert.same({ { 0.9, 60 }, { 1, 63.4 }, { 1.0005, 70 }, { 3, 100 } }, points)
    row.goodput = 0.005
    assert.same({ { 0.9, 0.5 }, { 1, 0.5 }, { 1.0005, 70 }, { 3, 100 } }, plot.points_of(row, 1))
    local script = plot.script({ row }, 1)
    assert.truthy(script:find("with steps", 1, true))
    assert.is_nil(script:find("$curve1 using 1:2 with lines", 1, true))
    local first = script:match "%$curve1 << EOD\n([^\n]+)\n"
    assert.truthy(first:find "^%S+ 0$", first)
  end)

  it("has marks where no other has, so that of two that came to the same both are seen", function()
    local script = plot.script({ row_of("fifo", ""), row_of("eager", "") }, nil)
    local function marks(i)
      local block, out = script:match("%$marks" .. i .. " << EOD\n(.-)EOD"), {}
      for share in block:gmatch "%S+ (%S+)\n" do out[#out + 1] = share end
      return table.concat(out, " ")
    end
    assert.same({ "25 50 75", "37.5 62.5 87.5" }, { marks(1), marks(2) })
    assert.truthy(script:find("pt 7 ps 1.2 title 'fifo'", 1, true))
    assert.truthy(script:find("pt 5 ps 0.9 title 'eager'", 1, true))
  end)

  it("ends below 100 % where not all were answered", function()
    local points = plot.points_of(row_of("fifo", "", { completed = 40, goodput = 0.2 }), nil)
    assert.near(40, points[#points][2], 1e-9)
  end)

  it("of several seeds is their mean, with a band from the lowest to the highest", function()
    local seeds = { row_of("fifo", "", { latency_curve = { { 1e6, 1 } } }),
      row_of("fifo", "", { latency_curve = { { 3e6, 1 } } }) }
    local mean, band = plot.points_of_seeds(seeds, nil, 0.5, 5)
    for i, point in ipairs(mean) do
      local x = point[1]
      assert.near(x < 1 and 0 or x < 3 and 50 or 100, point[2], 1e-9)
      assert.same({ x, x < 3 and 0 or 100, x < 1 and 0 or 100 }, band[i])
    end
    seeds[1].goodput, seeds[2].goodput = 0.1, 0.3
    local at_slo
    for _, point in ipairs((plot.points_of_seeds(seeds, 0.777, 0.5, 5))) do
      if point[1] == 0.777 then at_slo = point[2] end
    end
    assert.near(20, at_slo, 1e-9)
    local script = plot.script({ row_of("fifo", "", { per_seed = seeds, seeds = { kind = "seeds" } }) }, nil)
    assert.truthy(script:find("with filledcurves fs transparent", 1, true))
    assert.truthy(script:find("with yerrorbars", 1, true))
    assert.truthy(script:find("range of 2 seeds", 1, true))
    script = plot.script({ row_of("fifo", "", { per_seed = seeds, seeds = { kind = "pieces" } }) }, nil)
    assert.truthy(script:find("range of 2 pieces of the trace'", 1, true))
  end)
end)

describe("a timeline", function()
  it("gives each of the batches that run at once a row of its own", function()
    local timeline = timelines.new(nil)
    for _, b in ipairs { { 0, 5 }, { 1, 2 }, { 2, 6 }, { 5, 7 }, { 3, 4 } } do
      timeline:batch(b[1] * 1e6, b[2] * 1e6, 1, 0, 10)
    end
    local bars, lanes = timeline:bars()
    local got = {}
    for i, bar in ipairs(bars) do got[i] = ("%g-%g:%d"):format(bar[1], bar[2], bar[6]) end
    assert.equal(3, lanes)
    assert.same({ "0-5:1", "1-2:2", "2-6:2", "3-4:3", "5-7:1" }, got)
  end)

  it("of more batches than are kept has the largest of each piece of time for each reason", function()
    local timeline = timelines.new(nil)
    for i = 0, timelines.KEPT do timeline:batch(i * 1e4, i * 1e4 + 5e3, i % 7 + 1, i % 2, 10) end
    local bars, lanes, width_s = timeline:bars()
    assert.is_nil(lanes)
    assert.is_true(width_s > 0 and #bars <= 2000)
    local most = { 0, 0 }
    for _, bar in ipairs(bars) do most[bar[4]] = math.max(most[bar[4]], bar[3]) end
    assert.same({ 7, 7 }, most)
  end)

  it("has every change of the queue, and what was queued before its window", function()
    local timeline = timelines.new { from = 2, to = 5 }
    for second, depth in ipairs { 3, 4, 4, 1, 0, 9 } do timeline:queued(second * 1e6, depth) end
    assert.same({ { 2, 3 }, { 2, 4 }, { 4, 1 }, { 5, 0 } }, (timeline:depths()))
  end)

  it("is drawn with the small bars in front, so that none hides another", function()
    local timeline = timelines.new(nil)
    timeline:batch(0, 1e6, 2, 0, 10)
    timeline:batch(1e6, 2e6, 8, 1, 10)
    timeline:batch(2e6, 3e6, 4, 0, 10)
    local sizes = {}
    local block = timeline_plot.script({ timeline }, { "one" }):match "%$bars1 << EOD\n(.-)EOD"
    for size in block:gmatch "%S+ %S+ %S+ %S+ 0 (%d+) %d+\n" do
      sizes[#sizes + 1] = tonumber(size)
    end
    assert.same({ 8, 4, 2 }, sizes)
  end)
end)

describe("the page of a report", function()
  local function page_of(label)
    local args = { set = {}, given = {}, arrivals = "poisson:rate=50,tokens=100", limit = 300, slo = 0.1 }
    local job = assert(experiment.new(nil, args))
    local timeline = timelines.new(nil)
    local row = assert(experiment.run(job, { settings = {}, policy_text = label }, { timeline = timeline }))
    return html.page({ row }, { { "arrivals", "some" } }, { timeline }, 0.1), row
  end

  it("has all that it draws inside, as JSON, and loads nothing", function()
    local page, row = page_of "fifo"
    local data = assert(json.decode(page:match '<script type="application/json" id=data>(.-)</script>'))
    local run = data.runs[1]
    assert.equal(row.batches, #run.batches.from)
    assert.same({ #run.batches.from, #run.batches.from }, { #run.batches.cost, #run.batches.lane })
    assert.equal(#data.figures, #run.values)
    local at_slo = 0
    for i, x in ipairs(run.curve.x) do at_slo = x <= 0.1 and run.curve.y[i] or at_slo end
    assert.near(100 * row.goodput, at_slo, 1e-9)
    local records = 0
    for _, size in ipairs(run.batches.size) do records = records + size end
    assert.equal(300, records)
    for _, what in ipairs { "src=", "href=", "http:", "https:", "import(" } do
      assert.is_nil(page:find(what, 1, true))
    end
  end)

  it("takes names for text, whatever is in them", function()
    local page = page_of '</script><b onclick="x">'
    assert.is_nil(page:find("<b onclick", 1, true))
    local data = assert(json.decode(page:match '<script type="application/json" id=data>(.-)</script>'))
    assert.equal('</script><b onclick="x">', data.runs[1].label)
  end)
end)
