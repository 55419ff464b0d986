-- What is kept of an input, and whether another one is told from it (cli/fingerprint.lua).

local fingerprint = require "tokenbatcher.cli.fingerprint"

local function line(i) return ("line %d of the input"):format(i) end

local function of(count, other_at)
  local noted = fingerprint.new()
  for i = 1, count do noted:add(i == other_at and "another" or line(i)) end
  return noted
end

-- Compare an input with what was noted of `count` lines. @return first and last of which one differs, or nil
local function differing(noted, other_at, count)
  local proof = noted:proof()
  for i = fingerprint.HASHED + 1, count do
    local ok, from, to = proof:add(i == other_at and "another" or line(i))
    if not ok then return from, to end
  end
  assert.is_true(proof:is_over())
end

describe("the fingerprint of an input", function()
  it("has a hash of each of the first 1,000 lines", function()
    local noted = of(1500)
    assert.equal(1000, #noted.hashes)
    assert.equal(fingerprint.hash(line(7)), noted.hashes[7])
    assert.not_equal(noted.hashes[7], noted.hashes[8])
  end)

  it("tells any line behind them from another, and between which two it is", function()
    for _, count in ipairs { 1001, 1999, 2000, 2001, 33000, 70123 } do
      local noted = of(count)
      assert.is_nil(differing(noted, nil, count))
      for _, at in ipairs { 1001, math.floor((1001 + count) / 2), count } do
        local from, to = differing(noted, at, count)
        assert.is_true(from <= at and at <= to, ("line %d of %d: %s to %s"):format(at, count, from, to))
        assert.is_true(to - from < math.max(1000, count / 15), ("%d to %d of %d"):format(from, to, count))
      end
    end
  end)

  it("says nothing of lines before it has come to a mark behind them", function()
    local proof = of(2500):proof()
    for i = 1001, 1999 do proof:add(line(i)) end
    assert.equal(1000, proof.proven)
    proof:add(line(2000))
    assert.equal(2000, proof.proven)
    assert.is_false(proof:is_over())
  end)

  it("is the same once it was written and read, and goes on from there", function()
    for _, count in ipairs { 0, 1, 999, 1000, 1001, 2000, 2345, 33000, 50001 } do
      local whole, half = of(count + 5000), of(count)
      local read = fingerprint.parse("{" .. half:text() .. "}", 2)
      assert.equal(count, read.lines)
      for i = count + 1, count + 5000 do read:add(line(i)) end
      assert.equal(whole:text(), read:text())
    end
  end)

  it("is of one length, so that a hash and the marks have their places", function()
    local text = fingerprint.new():text()
    local noted = fingerprint.new()
    for i = 1, 40000 do
      noted:add(line(i))
      if i <= 1000 or i % 977 == 0 then
        local offset, piece
        if i <= 1000 then offset, piece = noted:hash_text(i) else offset, piece = noted:marks_text() end
        text = text:sub(1, offset) .. piece .. text:sub(offset + #piece + 1)
        assert.equal(noted:text(), text)
      end
    end
    assert.truthy(require("tokenbatcher.base.json").decode("{" .. text .. "}"))
  end)

  it("is read as far as it is whole", function()
    local text = of(3000):text()
    for at = 1, #text, 701 do
      local read = fingerprint.parse(text:sub(1, at), 1)
      assert.is_true(read.lines == 3000 or read.lines <= 1000)
    end
    assert.equal(0, fingerprint.parse("nothing of it", 1).lines)
  end)
end)
