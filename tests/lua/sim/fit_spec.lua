-- fit: the device behind a recording, what it says of its own certainty, and that the simulator takes
-- whatever it wrote.

local cli = dofile "tests/lua/cli_helper.lua"
local fit = require "tokenbatcher.sim.fit"
local random = require "tokenbatcher.sim.random"
local service = require "tokenbatcher.sim.service"

-- A recording of batches, 0.1 s apart. @param seconds function(tokens, i)
local function recording(name, n, seconds)
  local stream, lines = random.new(4, name), { '{"tokenbatcher_recording":1}' }
  for i = 1, n do
    local tokens = 1 + math.floor(2000 * stream:uniform())
    lines[#lines + 1] = ('{"at":%.6f,"cost":%d}'):format(i / 10, tokens)
    lines[#lines + 1] = ('{"batch":%d,"at":%.6f,"records":1,"tokens":%d,"padded":%d,"cost":%d,"service_s":%.6f,'
      .. '"failed":0}'):format(i, i / 10, tokens, tokens, tokens, seconds(tokens, i))
  end
  return cli.file(name, table.concat(lines, "\n") .. "\n")
end

describe("fit", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  it("has no negative term where plain least squares has one, and small batches are not free", function()
    local path = recording("square.jsonl", 400, function(tokens) return 1e-8 * tokens * tokens + 1e-5 * tokens end)
    local fitted = assert(fit.of_recording(path))
    assert.equal(0, fitted.a)
    assert.is_true(fitted.b > 1e-5 and fitted.b < 3e-5, fitted.text)
    assert.is_true(fitted.seconds(1, 1) > 0)
    local falling = recording("falling.jsonl", 400, function(tokens) return 0.05 - 1e-5 * tokens end)
    fitted = assert(fit.of_recording(falling))
    assert.equal(0, fitted.b)
    assert.near(0.04, fitted.a, 0.001)
  end)

  it("weighs the relative error, and all batches together take as long as they did", function()
    local stream = random.new(8, "noise")
    local path = recording("noise.jsonl", 2000, function(tokens)
      return (0.004 + 2e-5 * tokens) * (0.5 + stream:uniform())
    end)
    local fitted, ratios, seen, expected = assert(fit.of_recording(path)), 0, 0, 0
    local batches = fitted.batches
    for i = 1, batches.n do
      local s = fitted.seconds(batches.tokens[i], batches.padded[i])
      ratios, seen, expected = ratios + batches.seconds[i] / s, seen + batches.seconds[i], expected + s
    end
    assert.near(1, ratios / batches.n, 0.02)
    assert.near(1, seen / expected, 1e-9)
    assert.near(0.004, fitted.a, 0.0004)
    assert.near(2e-5, fitted.b, 1e-6)
  end)

  it("a hundred large batches do not drown what small ones take", function()
    local path = recording("mixed.jsonl", 600, function(tokens, i)
      if i % 6 == 0 then return 0.001 + 1e-5 * tokens + 0.02 * (i % 12 == 0 and 1 or 0) end
      return 0.001 + 1e-5 * tokens
    end)
    local fitted = assert(fit.of_recording(path))
    assert.is_true(fitted.a < 0.006, fitted.text)
  end)

  it("counts episodes of slowness, their share, and says when they are too few for a p99", function()
    local function slow_in(episodes)
      return function(tokens, i)
        local is_slow = i % 100 < 3 and i / 100 >= 1 and i / 100 < episodes + 1
        return (0.004 + 2e-5 * tokens) * (is_slow and 5 or 1)
      end
    end
    local fitted = assert(fit.of_recording(recording("four.jsonl", 3000, slow_in(4))))
    assert.equal(4, fitted.episodes)
    assert.is_true(fitted.slow_share > 0.01 and fitted.slow_share < 0.03)
    assert.equal("4 episodes of slowness; some 20 are needed", fitted.too_short)
    assert.is_true(fitted.autocorrelation[1].value > 0.5 and fitted.autocorrelation[4].value < 0.1)
    fitted = assert(fit.of_recording(recording("many.jsonl", 3000, slow_in(25))))
    assert.same({ 25 }, { fitted.episodes, fitted.too_short })
    fitted = assert(fit.of_recording(recording("none.jsonl", 300, slow_in(0))))
    assert.same({ 0, "300 batches, and none of them slow; some 1000 batches are needed" },
      { fitted.episodes, fitted.too_short })
  end)

  it("takes batches by their starts, though they are written when they end", function()
    local lines = { '{"tokenbatcher_recording":1}', '{"at":0.5,"cost":1}' }
    for i = 1, 40 do
      local at = i % 2 == 0 and i - 1.5 or i
      lines[#lines + 1] = ('{"batch":%d,"at":%.6f,"records":1,"tokens":%d,"padded":%d,"cost":1,"service_s":%.6f,'
        .. '"failed":0}'):format(i, at, 100 + i, 100 + i, 0.01 * (100 + i))
    end
    local batches = assert(fit.of_recording(cli.file("starts.jsonl", table.concat(lines, "\n")))).batches
    assert.same({ 40, 0.5 }, { batches.n, batches.first_at_s })
    for i = 2, 40 do assert.is_true(batches.at_s[i] >= batches.at_s[i - 1]) end
    for i = 1, 40 do assert.near(0.01 * batches.tokens[i], batches.seconds[i], 1e-9) end
  end)

  it("prints a model that simulate takes as text and as a file, whatever the recording", function()
    local stream = random.new(3, "shapes")
    local shapes = {
      function(tokens) return 1e-8 * tokens * tokens end, function() return 0 end, function() return 1e-6 end,
      function(tokens) return 1 / tokens end, function(tokens) return 3e5 * tokens end,
      function(tokens) return 0.01 * stream:uniform() * tokens ^ 2 end,
    }
    for i, shape in ipairs(shapes) do
      local path = recording("shape" .. i .. ".jsonl", 200, shape)
      local printed = cli.command { "fit", path }
      assert.equal(0, printed.status, printed.err)
      local text = assert(printed.out:match "^service%s+([^\n]+)\n")
      assert.is_nil(text:find("-", 1, true) and text:gsub("e%-", ""):find("-", 1, true), text)
      local as_file = cli.file("model.txt", printed.out)
      for _, model in ipairs { "@" .. path, text, "@" .. as_file } do
        local parsed = assert(service.parse(model))
        assert.is_true(parsed.seconds(1, 1, 1, 1, -1, -1) >= 0)
        local result = cli.command { "simulate", "--arrivals", "constant:rate=1,tokens=1", "--limit", "5", "--service",
          model }
        assert.equal(0, result.status, model .. ": " .. result.err)
      end
    end
  end)

  it("reads a recording that is compressed, and says what one is that cannot be read", function()
    local path = recording("packed.jsonl", 50, function(tokens) return 0.01 + 1e-5 * tokens end)
    local plain = assert(fit.of_recording(path))
    assert.equal(0, os.execute("gzip -f '" .. path .. "'"))
    assert.equal(plain.text, assert(fit.of_recording(path .. ".gz")).text)
    assert.equal(plain.text, assert(service.parse("@" .. path .. ".gz")).text)
    local file = assert(io.open(path .. ".gz", "rb"))
    local torn = cli.file("torn.gz", file:read(300))
    file:close()
    for given, said in pairs { [torn] = "torn.gz: the gzip data ends too early", [cli.file("empty", "")] = "is empty",
      [cli.file("none", "")  .. "x"] = "nonex: No such file", [cli.file("odd", "a,b\n")] = "it has: a, b" } do
      local fitted, message = fit.of_recording(given)
      assert.is_nil(fitted)
      assert.truthy(message:find(said, 1, true), message)
    end
  end)

  it("prints how slowness goes on, and what is too short", function()
    local path = recording("plain.jsonl", 60, function(tokens) return 1e-3 + 1e-5 * tokens end)
    local out = cli.command({ "fit", path }).out
    assert.truthy(out:find "\nerror        rms 0%.000 ms, p90 0%.000 ms, relative p90 0%.0 %%\n", out)
    assert.truthy(out:find "\nslowness     0 episodes, 0%.0 %% of the busy time\n", out)
    assert.truthy(out:find "\nit goes on   autocorrelation %(lag in batches%) [%d.-]+ %(1%), .* %(20%)\n", out)
    assert.truthy(out:find "\np99          too short a recording: 60 batches, and none of them slow", out)
  end)
end)
