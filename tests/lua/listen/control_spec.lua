-- Options changed while batches run, through a unix socket.

local H = require "tests.lua.helper"
local L = require "tests.lua.listen_helper"
local tb = require "tokenbatcher"

local missing = L.missing()

describe("listen: control", function()
  if missing then
    pending(missing)
    return
  end

  local path, said
  before_each(function()
    path, said = os.tmpname(), {}
    os.remove(path)
  end)

  -- With a batcher, a listener, and set(text) -> status, decoded answer.
  local function controlled(given, fn)
    local all = { control = "unix:" .. path, log = function(level, text) said[#said + 1] = level .. " " .. text end }
    for name, value in pairs(given or {}) do all[name] = value end
    L.listening(all, function(listener, batcher)
      local function set(text, at)
        local answer = L.get(listener.control, at or "/set", { body = text })
        return answer.status, tb.json.decode(answer.body)
      end
      fn(listener, batcher, set)
    end)()
  end

  local function refuses(set, text, message, status)
    local got, answer = set(text)
    assert.equal(status or 400, got, text)
    assert.equal(message, answer.error.message)
  end

  it("sets what is asked, says so, and the page draws it", function()
    controlled(nil, function(listener, batcher, set)
      local status, answer = set '{"batch_timeout_s": 0.25, "max_batch_size": 7, "policy": "fair:quantum=500"}'
      assert.equal(200, status)
      assert.same({ "max_batch_size: 256 to 7", "batch_timeout_s: 0.001 to 0.25", "policy: fifo to fair:quantum=500" },
        answer.changed)
      assert.equal(0.25, batcher:option "batch_timeout_s")
      assert.equal(7, batcher:option "max_batch_size")
      assert.same({ "info TokenBatcher 'a': set: max_batch_size: 256 to 7",
        "info TokenBatcher 'a': set: batch_timeout_s: 0.001 to 0.25",
        "info TokenBatcher 'a': set: policy: fifo to fair:quantum=500" }, said)
      local state = tb.json.decode(L.get(listener.address, "/stats.json").body)
      assert.truthy(tb.json.encode(state.batchers[1].changes):find("max_batch_size: 256 to 7", 1, true))
      local options = tb.json.decode(L.get(listener.control, "/options").body).batchers[1].options
      assert.equal("0.25", options.batch_timeout_s)
      assert.equal("fair:quantum=500", options.policy)
    end)
  end)

  it("takes null for none, and texts as the command line does", function()
    controlled({ options = { inference_timeout_s = 5 } }, function(_, batcher, set)
      assert.equal(200, (set '{"inference_timeout_s": null, "on_full": "reject", "max_batch_size": "9"}'))
      assert.falsy(batcher:option "inference_timeout_s")
      assert.equal("reject", batcher:option "on_full")
      assert.equal(9, batcher:option "max_batch_size")
    end)
  end)

  it("refuses what batcher:set refuses, naming it, and changes nothing", function()
    controlled(nil, function(_, batcher, set)
      refuses(set, '{"max_batch_size": 0}',
        "TokenBatcher: option 'max_batch_size' must be a whole number from 1 to 1000000, got 0")
      refuses(set, '{"max_batch_siz": 5}',
        "TokenBatcher: unknown option 'max_batch_siz'; did you mean 'max_batch_size'?")
      refuses(set, '{"on_full": "rejekt"}',
        "set: option 'on_full' must be \"wait\" or \"reject\", got \"rejekt\"; did you mean \"reject\"?")
      refuses(set, '{"max_batch_size": 5, "min_batch_size": 6}',
        "TokenBatcher: option 'min_batch_size' (6) is above 'max_batch_size' (5)")
      refuses(set, '{"max_batch_size": 5, "inference_fn": "os.exit"}',
        "set: option 'inference_fn' is a function: a script sets it, and SIGHUP loads it again")
      refuses(set, '{"max_batch_size": [5]}',
        "TokenBatcher: option 'max_batch_size' must be a whole number from 1 to 1000000, got a table")
      refuses(set, "{}", "set: no option is given")
      for _, text in ipairs { "", "[1]", "5", "max_batch_size=5", '{"max_batch_size":' } do
        local status, answer = set(text)
        assert.equal(400, status)
        assert.truthy(answer.error.message:find("the body must be a JSON object of options by name", 1, true))
      end
      refuses(set, ("x"):rep(65537), "set: the body is too large", 413)
      assert.equal(256, batcher:option "max_batch_size")
      assert.same({}, said)
    end)
  end)

  it("says what cannot be none, and what is no path of its own", function()
    controlled(nil, function(_, _, set)
      for _, name in ipairs { "max_batch_size", "policy", "batch_timeout_s" } do
        refuses(set, ('{"%s":null}'):format(name), ("set: option '%s' cannot be none"):format(name))
      end
      local status = L.get("unix:" .. path, "/set/%00", { body = '{"max_batch_size": 3}' }).status
      assert.equal(404, status)
    end)
  end)

  it("leaves each batcher a name of its own, and logs any name on one line", function()
    local first, second = L.batcher { name = "first" }, tb.TokenBatcher { inference_fn = L.echo(), default_cost = 1 }
    controlled({ batchers = { first, second } }, function(listener, _, set)
      refuses(set, '{"max_batch_size":3}',
        "there are several batchers: POST to /set/NAME, one of: first, (one without a name)", 404)
      local status, answer = set('{"name":null}', "/set/first")
      assert.equal(400, status)
      assert.equal("set: option 'name': another batcher has the name \"\"", answer.error.message)
      assert.equal(200, (set('{"name":"x\\n\\u001b[31m<b>"}', "/set/first")))
      assert.equal(200, L.get(listener.address, "/metrics").status)
      assert.equal(1, #said)
      assert.is_nil(said[1]:find "%c")
    end)
  end)

  it("is asked by POST, and serves nothing else", function()
    controlled(nil, function(listener)
      assert.equal(405, L.get(listener.control, "/set").status)
      assert.equal(405, L.get(listener.control, "/options", { body = "{}" }).status)
      assert.equal(404, L.get(listener.control, "/metrics").status)
      assert.equal(404, L.get(listener.address, "/set", { body = '{"max_batch_size": 5}' }).status)
    end)
  end)

  it("is a file for its owner alone, which goes with it", function()
    controlled(nil, function()
      local pipe = io.popen("stat -c '%a %F' " .. path)
      assert.equal("600 socket", pipe:read "*l")
      pipe:close()
    end)
    assert.is_nil(io.open(path))
  end)

  it("asks for a name where there are several batchers", function()
    H.run(function()
      local one, two = L.batcher { name = "one" }, L.batcher { name = "two words" }
      local listener = assert(tb.listen { control = "unix:" .. path, batchers = { one, two }, log = function() end })
      local function set(at) return L.get(listener.control, at, { body = '{"max_batch_size": 3}' }) end
      assert.truthy(set("/set").body:find("POST to /set/NAME, one of: one, two words", 1, true))
      local answer = set "/set/three"
      assert.truthy(answer.body:find("there is no batcher \\\"three\\\"; there are: one, two words", 1, true))
      assert.equal(200, set("/set/two%20words").status)
      assert.equal(256, one:option "max_batch_size")
      assert.equal(3, two:option "max_batch_size")
    end, "real")
  end)

  it("loses nothing: a hundred changes under load", function()
    controlled({ options = { max_concurrent_batches = 3 } }, function(_, batcher, set)
      local n, futures, done = 0, {}, false
      local load = tb.spawn(function()
        while not done do
          n = n + 1
          futures[n] = batcher:submit("r" .. n, { key = "k" .. n % 7 })
          if n % 20 == 0 then tb.sleep(0.0005) end
        end
      end)
      local policies = { "fifo", "eager", "fair:quantum=5", "length_bucketed", "deadline" }
      for i = 1, 100 do
        local status, answer = set(('{"policy": "%s", "max_batch_size": %d, "batch_timeout_s": %g, '
          .. '"max_concurrent_batches": %d, "target_batch_tokens": %d}'):format(policies[i % #policies + 1], i % 9 + 1,
          i % 3 / 1000, i % 4 + 1, i % 17 + 3))
        assert.equal(200, status, answer.error and answer.error.message)
        assert.is_true(#answer.changed > 0)
      end
      done = true
      load:await()
      for i = 1, n do assert.equal("re:r" .. i, futures[i]:await()) end
      local stats = batcher.stats
      assert.equal(n, stats.total_submitted)
      assert.equal(n, stats.total_completed)
      assert.is_true(#said >= 100)
    end)
  end)
end)
