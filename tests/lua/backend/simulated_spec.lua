-- tb.backend.simulated: how long it takes, and what it answers.

local H = require "tests.lua.helper"
local tb = require "tokenbatcher"

describe("a simulated device", function()
  it("takes base_s a call and per_token_s a token", H.virtually(function()
    local batcher = H.start { policy = "eager",
      inference_fn = tb.backend.simulated { base_s = 0.5, per_token_s = 0.25 } }
    batcher:submit("a", { estimated_tokens = 10 }):await()
    assert.equal(3, tb.now())
    batcher:stop()
  end))

  it("answers the tokens and the first 32 bytes of a text, cutting no character", H.virtually(function()
    local batcher = H.start { policy = "eager", inference_fn = tb.backend.simulated {} }
    local function answer(record) return (batcher:submit(record, { estimated_tokens = 7 }):await()) end
    assert.same({ tokens = 7, text = ("x"):rep(32) }, answer(("x"):rep(33)))
    assert.same({ tokens = 7, text = ("x"):rep(31) }, answer(("x"):rep(31) .. "\195\164"))
    assert.same({ tokens = 7, text = ("x"):rep(30) .. "\195\164" }, answer(("x"):rep(30) .. "\195\164y"))
    assert.same({ tokens = 7, text = "hello" }, answer { prompt = "hello" })
    assert.same({ tokens = 7 }, answer(12))
    batcher:stop()
  end))
end)
