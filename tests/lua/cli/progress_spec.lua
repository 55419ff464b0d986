-- How far a run is, in one line.

local progress = require "tokenbatcher.cli.progress"

local function job(more)
  local made = {
    answers = { written = 60, failed = 3, failures = { deadline = 1, inference_failed = 2 } }, earlier = 40,
    ordinal = 150, has_read_all = true, batcher = { stats = { total_batch_cost = 1200 } }, status = function() return nil end,
  }
  for name, value in pairs(more or {}) do made[name] = value end
  return made
end

local function text_of(more, s)
  local p = progress.new(false, job(more))
  p.started = 0
  return p:text((s or 6) * 1e6)
end

describe("Progress of a run", function()
  it("says done and all, failures by code, rate, tokens and the time left", function()
    assert.equal("100 of 150 records done (3 failed: deadline 1, inference_failed 2), 10/s, 200 tokens/s, 5 s left",
      text_of())
  end)

  it("counts tokens as the server does, and its retries", function()
    local text = text_of { status = function()
      return { retries = 7, usage = { total_tokens = 6000 }, state = "closed" }
    end }
    assert.truthy(text:find(", 1000 tokens/s, 7 retries, 5 s left", 1, true), text)
  end)

  it("says that the server is away, why, and when it is tried next", function()
    local text = text_of { status = function()
      return { retries = 0, state = "open", why = "status 503", next_probe_s = 12 }
    end }
    assert.truthy(text:find(", the server is away (status 503): next try in 12 s", 1, true), text)
  end)

  it("of what nobody can count says no total and no end", function()
    local text = text_of { has_read_all = false, fd = 0 }
    assert.truthy(text:find("^100 records done"), text)
    assert.is_nil(text:find "left")
  end)

  it("counts the lines of a file, blank ones not, the last without its newline", function()
    local path = os.tmpname()
    local file = io.open(path, "w")
    file:write(("x\n"):rep(70000), "\n\n", "last")
    file:close()
    local tbffi = require "tokenbatcher.core.ffi"
    local fd = tbffi.open(path)
    local text = text_of { has_read_all = false, fd = fd, input_path = path }
    tbffi.close(fd)
    os.remove(path)
    assert.truthy(text:find("^100 of 70001 records done"), text)
  end)
end)
