-- The Lua half of an engine (lua/tokenbatcher/script/engine.lua), called as the C half calls it.

local cli = dofile "tests/lua/cli_helper.lua"
local engines = require "tokenbatcher.script.engine"

local GUARD_TURNS = 100000

local function new(fields)
  local path = cli.file("engine.lua", "local tb = require 'tokenbatcher'\nreturn { " .. fields .. " }\n")
  return assert(engines.new(path, {}, function(_, text) error(text) end))
end

-- Turns until there are n answers. @return list of {id, text or code}
local function answers(engine, n)
  local out = {}
  for _ = 1, GUARD_TURNS do
    engine:turn()
    for i = 1, engine:take(16) do out[#out + 1] = { engine.ids[i], engine.texts[i] or engine.codes[i] } end
    if #out >= n then return out end
  end
  error "no answer comes"
end

local function stopped(engine)
  for _ = 1, GUARD_TURNS do
    local _, _, is_stopped = engine:turn()
    if is_stopped then return true end
  end
  return false
end

describe("the Lua half of an engine", function()
  setup(cli.new_folder)
  teardown(cli.clean)

  it("hands encode the record beside its result, whichever way it came in", function()
    local engine = new [[policy = "eager", inference_fn = function(records)
      local out = {}
      for i, record in ipairs(records) do out[i] = #record end
      return out
    end, encode = function(record, result) return tostring(record) .. ":" .. result end]]
    local id = 2 ^ 24
    assert.equal(0, engine:submit_plain(id + 1, "plain", 0, 1))
    assert.equal(0, (engine:submit(id + 2, "careful", 0)))
    assert.same({ { id + 1, "plain:5" }, { id + 2, "careful:7" } }, answers(engine, 2))
    assert.same({ {}, {} }, { engine.records, engine.live })
    engine:stop(-1)
    assert.is_true(stopped(engine))
  end)

  it("stops at once with a timeout of 0, and not before all are answered without one", function()
    local engine = new 'policy = "eager", inference_fn = function(records) tb.sleep(3600) return records end'
    assert.equal(0, engine:submit_plain(2 ^ 24 + 1, "a", 0, 1))
    engine:turn()
    engine:stop(0)
    assert.is_true(stopped(engine))
    assert.same({ { 2 ^ 24 + 1, "stopped" } }, answers(engine, 1))
    engine = new 'policy = "eager", inference_fn = function(records) return records end'
    assert.equal(0, engine:submit_plain(2 ^ 24 + 1, "a", 0, 1))
    engine:stop(-1)
    assert.is_true(stopped(engine))
    assert.same({ { 2 ^ 24 + 1, "a" } }, answers(engine, 1))
  end)

  it("cancels by the whole id, and not by its slot", function()
    local engine = new 'policy = "eager", inference_fn = function(records) tb.sleep(3600) return records end'
    assert.equal(0, engine:submit_plain(2 ^ 24 + 1, "a", 0, 1))
    assert.is_false(engine:cancel(2 * 2 ^ 24 + 1))
    assert.is_true(engine:cancel(2 ^ 24 + 1))
    assert.is_false(engine:cancel(2 ^ 24 + 1))
    engine:stop(0)
    assert.is_true(stopped(engine))
  end)
end)
