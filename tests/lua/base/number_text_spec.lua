-- Numbers as text: for people, and for programs.

local numbers = require "tokenbatcher.base.number_text"

describe("a number as text", function()
  it("for people is whole without a point, and else rounded", function()
    local cases = { [0] = "0", [-3] = "-3", [1e14] = "100000000000000", [1e15] = "1e+15", [0.25] = "0.25",
      [2 / 3] = "0.666666667", [1e-7] = "1e-07", [123456789.123] = "123456789", [math.huge] = "inf" }
    for value, text in pairs(cases) do assert.equal(text, numbers.rounded(value, 9)) end
    assert.equal("0.66666666666667", numbers.rounded(2 / 3, 14))
  end)

  it("for programs is the shortest that gives it again", function()
    local cases = { [0] = "0", [2 ^ 53 - 1] = "9007199254740991", [-1e15] = "-1000000000000000", [0.1] = "0.1",
      [1 / 3] = "0.3333333333333333", [1e300] = "1e+300", [5e-324] = "4.94065645841247e-324" }
    for value, text in pairs(cases) do assert.equal(text, numbers.shortest(value)) end
    math.randomseed(1)
    for _ = 1, 2000 do
      local value = (math.random() - 0.5) * 10 ^ math.random(-30, 30)
      assert.equal(value, tonumber(numbers.shortest(value)))
    end
  end)
end)
