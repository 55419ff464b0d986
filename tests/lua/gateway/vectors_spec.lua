-- Vectors cut out of an upstream's answer (gateway/vectors, src/vectors): whose each is, and that it is sound.

local json = require "tokenbatcher.base.json"
local vectors = require "tokenbatcher.gateway.vectors"

local function answer(items, more) return ('{"object":"list","data":[%s]%s}'):format(items, more or "") end

describe("cutting vectors out of an answer", function()
  it("gives each input its own bytes, whatever the order, the digits and the notation", function()
    local values, usage, model = vectors.cut(answer(
      '{"index":2,"embedding":"AADAPwAAEMA="}, {"embedding": [ 1.50 , -2e-3],"index":0},{"index":1,'
      .. '"embedding":[0.1,7]}',
      ',"model":"m\\u00e9","usage":{"prompt_tokens":3,"total_tokens":4,"odd":-1,"text":"x"}'), 3)
    assert.same({ "[ 1.50 , -2e-3]", "[0.1,7]", '"AADAPwAAEMA="' }, values)
    assert.same({ prompt_tokens = 3, total_tokens = 4 }, usage)
    assert.equal('"m\\u00e9"', model)
  end)

  it("knows of no usage and no model where there are none", function()
    assert.same({ { "[1]" } }, { vectors.cut(answer '{"embedding":[1]}', 1) })
    assert.same({ { "[1]" } }, { vectors.cut(answer('{"embedding":[1]}', ',"usage":7,"model":null'), 1) })
  end)

  for reason, text in pairs {
    ["has 1 item for 2 inputs"] = answer '{"embedding":[1]}',
    ["has 3 items for 2 inputs"] = answer '{"embedding":[1]},{"embedding":[1]},{"embedding":[1]}',
    ["has a number that is not finite (item 2)"] = answer '{"embedding":[1]},{"embedding":[-1e400]}',
    ["has an item whose vector is no list of numbers, nor base64 of any (item 1)"] = answer '{"embedding":[NaN]}',
    ["has an item whose index is wrong (item 2)"] = answer '{"embedding":[1],"index":0},{"embedding":[1],"index":0}',
    ["has vectors of unequal length (item 2)"] = answer '{"embedding":[1]},{"embedding":[1,2]}',
    ["has an item without a value, or with two (item 1)"] = answer '{"vector":[1]}',
    ["is not JSON (byte 27)"] = '{"object":"list","data":[{]}',
    ["has no list where one should be"] = '{"object":"list"}',
  } do
    it("says: " .. reason, function()
      local values, why = vectors.cut(text, 2)
      assert.is_nil(values)
      assert.equal(reason, why)
    end)
  end

  it("cuts lists of vectors, and items of any kind", function()
    assert.same({ "[1,2]", "[3,4]" }, (vectors.lists("[[1,2],[3,4]]", 2)))
    assert.equal("has an item whose vector is no list of numbers, nor base64 of any (item 2)",
      select(2, vectors.lists("[[1,2],[[3]]]", 2)))
    assert.same({ '[{"index":3,"value":0.5}]', "[]" }, (vectors.items('[[{"index":3,"value":0.5}],[]]', 2)))
    assert.same({ '{"text":"a","index":0}', '{"index":1,"text":"b"}' },
      (vectors.items('{"choices":[{"index":1,"text":"b"},{"text":"a","index":0}]}', 2, "choices")))
    assert.equal("is not UTF-8 (byte 3)", select(2, vectors.items('["\255"]', 1)))
  end)

  it("tells what a vector is", function()
    for raw, is in pairs { ["[1,2.5]"] = true, ['"AADAPw=="'] = true, ["[]"] = false, ['"AAAA"'] = false,
      ["[1],[2]"] = false, ["null"] = false, ["{}"] = false } do
      assert.equal(is, vectors.is_vector(raw), raw)
    end
    assert.is_true(vectors.is_text '"AADAPw=="')
    assert.is_false(vectors.is_text "[1]")
  end)

  it("makes base64 of numbers and numbers of base64, exactly", function()
    assert.equal('"AADAPwAAEMDbD0lA"', vectors.to_base64 "[1.5, -2.25,3.1415927]")
    assert.equal("[1.5,-2.25,3.1415927410125732]", vectors.to_floats '"AADAPwAAEMDbD0lA"')
    assert.same({ nil, "has a number that no 32-bit float holds" }, { vectors.to_base64 "[1e39]" })
    assert.same({ nil, "has a number that is not finite" }, { vectors.to_floats '"AACAfw=="' })
    assert.is_nil((vectors.to_floats "[1]"))
  end)

  it("leaves what it hands out as JSON.decode finds it, over many sizes", function()
    local seed = 1
    local function random() seed = seed * 16807 % 2147483647; return seed / 2147483647 - 0.5 end
    for n = 1, 64, 7 do
      local items, expected = {}, {}
      for i = 1, n do
        local numbers = {}
        for k = 1, 300 do numbers[k] = ("%.9g"):format(random() * 10 ^ (k % 7 - 5)) end
        local at = (i * 5) % n
        while expected[at + 1] do at = (at + 1) % n end
        expected[at + 1] = "[" .. table.concat(numbers, i % 2 == 0 and ", " or ",") .. "]"
        items[i] = ('{"object":"embedding","index":%d,"embedding":%s}'):format(at, expected[at + 1])
      end
      local values = assert(vectors.cut(answer(table.concat(items, ",")), n))
      assert.same(expected, values)
      for i = 1, n do
        local floats = json.decode(assert(vectors.to_floats(assert(vectors.to_base64(values[i])))))
        for k, number in ipairs(json.decode(values[i])) do
          assert.is_true(math.abs(floats[k] - number) <= math.abs(number) * 2 ^ -24)
        end
      end
    end
  end)
end)
