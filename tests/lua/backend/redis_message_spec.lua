-- What comes in messages is anybody's: it becomes an entry, or a reason why not, and never an error of ours.
local json = require "tokenbatcher.base.json"
local message = require "tokenbatcher.backend.redis.message"

local RULES = { prefix = "{S}:r:", most_record = 1000, decode = message.from_json }
local SID = "1700000000123-4"

local function read(fields) return message.read(SID, fields, RULES) end

describe("a message", function()
  it("is a record with an id, a reply stream and what submit is to know", function()
    local entry, reason = read { "v", "1", "id", "a", "reply_to", "{S}:r:me", "record", '{"n":1}', "cost", "7",
      "key", "k", "group", "g", "priority", "-1.5", "timeout_ms", "100", "batch_timeout_ms", "0", "deadline_ms", "5",
      "unknown", "ignored" }
    assert.is_nil(reason)
    assert.are.same({ sid = SID, id = "a", reply_to = "{S}:r:me", record = { n = 1 }, cost = 7, key = "k", group = "g",
      priority = -1.5, timeout_ms = 100, batch_timeout_ms = 0, deadline_ms = 5, v = 1 }, entry)
    assert.are.equal(1700000000123, message.added_ms(SID))
  end)

  it("needs no id where nobody waits for an answer", function()
    local entry, reason = read { "record", "1" }
    assert.is_nil(reason)
    assert.is_nil(entry.reply_to)
  end)

  local BAD = {
    { "bad_reply_to", { "id", "1", "record", "1", "reply_to", "S" } },
    { "bad_reply_to", { "id", "1", "record", "1", "reply_to", "{S}:r:" } },
    { "bad_reply_to", { "id", "1", "record", "1", "reply_to", "{T}:r:me" } },
    { "bad_reply_to", { "id", "1", "record", "1", "reply_to", "{S}:r:" .. ("x"):rep(600) } },
    { "bad_record", { "record", "1", "reply_to", "{S}:r:me" } },
    { "bad_record", { "id", ("x"):rep(600), "record", "1", "reply_to", "{S}:r:me" } },
    { "bad_record", { "id", "1" } },
    { "bad_record", {} },
    { "bad_record", { "id", "1", "record", "{" } },
    { "bad_record", { "id", "1", "record", '"\255"' } },
    { "bad_record", { "id", "1", "record", '"' .. ("x"):rep(1000) .. '"' } },
    { "bad_record", { "id", "1", "record", "1", "cost", "-1" } },
    { "bad_record", { "id", "1", "record", "1", "cost", "1e3" } },
    { "bad_record", { "id", "1", "record", "1", "cost", ("9"):rep(400) } },
    { "bad_record", { "id", "1", "record", "1", "cost", "nan" } },
    { "bad_record", { "id", "1", "record", "1", "priority", "inf" } },
    { "bad_record", { "id", "1", "record", "1", "priority", "1e999" } },
    { "bad_record", { "id", "1", "record", "1", "priority", "0x10" } },
    { "bad_record", { "id", "1", "record", "1", "key", ("k"):rep(513) } },
    { "bad_record", { "id", "1", "record", "1", "timeout_ms", "0" } },
    { "bad_record", { "id", "1", "record", "1", "deadline_ms", "soon" } },
    { "bad_record", { "id", "1", "record", "1", "v", "2" } },
  }
  for i, case in ipairs(BAD) do
    it(("number %d of the bad ones is %s, and quotes nothing of it"):format(i, case[1]), function()
      local entry, reason, problem = read(case[2])
      assert.are.equal(case[1], reason)
      assert.are.equal("string", type(problem))
      assert.is_nil(entry.record)
      assert.is_nil(problem:find "xxxx")
    end)
  end

  it("knows where to say what is wrong", function()
    local entry = read { "id", "7", "record", "{", "reply_to", "{S}:r:me" }
    assert.are.same({ "7", "{S}:r:me" }, { entry.id, entry.reply_to })
  end)

  it("of a script's own decode is what that returns", function()
    local rules = { prefix = "{S}:r:", most_record = 10, decode = function(text) return nil, "no: " .. #text end }
    local _, reason, problem = message.read(SID, { "record", "\0\255" }, rules)
    assert.are.same({ "bad_record", "no: 2" }, { reason, problem })
  end)

  -- 20,000 messages of pieces that are nearly right, by one seed.
  it("never raises, whatever its fields are", function()
    local state = 42
    local function random(n)
      state = (state * 1103515245 + 12345) % 2 ^ 31
      return math.floor(state / 2 ^ 31 * n) + 1
    end
    local NAMES = { "id", "record", "reply_to", "cost", "key", "group", "priority", "timeout_ms", "batch_timeout_ms",
      "deadline_ms", "v", "", "\0", "x" }
    local VALUES = { "", "1", "0", "-1", "1.5", "1e5", "nan", "inf", "{S}:r:", "{S}:r:a", "{", '{"a":[1,{}]}', "[]",
      "null", "\255\254", '"\0"', ("9"):rep(30), "0x1F", " 1", "1 ", ("y"):rep(2000), "true", "{S}:r:\0",
      "9007199254740993" }
    local good, bad = 0, 0
    for _ = 1, 20000 do
      local fields = {}
      for _ = 1, random(8) - 1 do
        fields[#fields + 1], fields[#fields + 2] = NAMES[random(#NAMES)], VALUES[random(#VALUES)]
      end
      local entry, reason, problem = read(fields)
      assert.are.equal(SID, entry.sid)
      if reason then
        bad = bad + 1
        assert.is_true((reason == "bad_record" or reason == "bad_reply_to") and type(problem) == "string")
        assert.is_nil(entry.record)
      else
        good = good + 1
        assert.is_not_nil(entry.record)
        assert.is_true(entry.reply_to == nil or entry.id ~= "" and entry.reply_to:sub(1, 6) == "{S}:r:")
      end
    end
    assert.is_true(good > 200 and bad > 200, good .. " good, " .. bad .. " bad")
    assert.is_not_nil(json)
  end)
end)
