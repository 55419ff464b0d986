-- What a gateway may be given: each mistake is an error at the start that names the culprit, and quotes no key.

local config = require "tokenbatcher.gateway.config"
local gateways = require "tokenbatcher.gateway"
local helper = dofile "tests/lua/gateway_helper.lua"

local UPSTREAMS = { { url = "http://127.0.0.1:1" } }

local function with(more)
  local given = { upstreams = UPSTREAMS }
  for name, value in pairs(more) do given[name] = value end
  return given
end

local function message_of(given, upstream)
  local ok, err = pcall(gateways.new, given, { new_upstream = function()
    return upstream or helper.upstream(function() end)
  end })
  return not ok and tostring(err) or "no error"
end

describe("the gateway's configuration:", function()
  for name, case in pairs {
    ["an unknown name"] = { with { limit = {} }, "unknown parameter 'limit'; did you mean 'limits'" },
    ["no upstreams"] = { {}, "'upstreams' is missing" },
    ["an empty list"] = { { upstreams = {} }, '"upstreams" must be a list of at least one' },
    ["an upstream that is no table"] = { { upstreams = { "http://x" } }, "upstream 1 must be a table" },
    ["a name with a quote in it"] = { { upstreams = { { url = "x", name = 'a"b' } } }, "upstream 1: name must be" },
    ["two of one name"] = { { upstreams = { { url = "x", name = "a" }, { url = "y", name = "a" } } },
      "upstreams 1 and 2 are both named 'a'" },
    ["models that are no list"] = { { upstreams = { { url = "x", models = { a = 1 } } } },
      "upstream 1: models must be a list of names" },
    ["a batch that is none"] = { with { batch = { max_wait = 1 } }, "batch: unknown parameter 'max_wait'" },
    ["an upstream's batch"] = { { upstreams = { { url = "x", batch = { max_cost = 0 } } } },
      "upstream 1: batch: parameter 'max_cost' must be a whole number from 1" },
    ["a batcher's option"] = { with { batch = { options = { max_batch_siz = 1 } } }, "max_batch_siz" },
    ["a policy"] = { with { batch = { policy = "fare" } }, "policy 'fare'" },
    ["a limit"] = { with { limits = { body_bytes = -1 } }, "limits: parameter 'body_bytes' must be" },
    ["an age"] = { with { health = { oldest_queued_s = "soon" } }, "health: parameter 'oldest_queued_s' must be" },
    ["auth"] = { with { auth = "none" }, '"auth" must be "config", "passthrough", or a table' },
    ["auth's table"] = { with { auth = { ["sk-1"] = 5 } }, '"auth": a table must map' },
    ["a key with a line break"] = { with { auth = { ["sk-1"] = "sk-2\r\nx: y" } }, '"auth": a table must map' },
    ["a fairness key"] = { with { fairness_key = "cookie" },
      '"fairness_key" must be one of authorization, consumer, header:NAME, ip, x%-api%-key, or a function, '
      .. 'got "cookie"' },
    ["cors"] = { with { cors = true }, '"cors" must be false or a table' },
    ["cors without origins"] = { with { cors = {} }, "'origins' is missing" },
    ["join"] = { with { join = "yes" }, "'join' must be a boolean" },
  } do
    it(name .. " is named", function()
      local message = message_of(case[1])
      assert.matches(case[2]:gsub("%(", "%%("), message)
      assert.is_nil(message:find "sk%-")
    end)
  end

  it("auth is config where an upstream has a key, else what clients send", function()
    for has_key, auth in pairs { [true] = "config", [false] = "passthrough" } do
      local gateway = gateways.new(with {}, { new_upstream = function()
        return helper.upstream(function() end, { has_key = has_key })
      end })
      assert.equal(auth, gateway:auth_mode())
    end
  end)

  it("an upstream's batch is laid over the gateway's; a batcher's options win over both", function()
    local list = config.read({ batch = { max_cost = 100, max_inputs = 7 }, upstreams = { { url = "x",
      batch = { max_inputs = 8 } }, { url = "y" } } }).upstreams
    assert.same({ 100, 8, 100, 7 }, { list[1].batch.max_cost, list[1].batch.max_inputs, list[2].batch.max_cost,
      list[2].batch.max_inputs })
    local gateway = gateways.new(with { batch = { max_inputs = 7, options = { max_batch_size = 9,
      target_batch_tokens = 50 } } }, { new_upstream = function() return helper.upstream(function() end) end })
    local batcher = gateway.lines[1].batcher
    assert.same({ 9, 50, 800 }, { batcher:option "max_batch_size", batcher:option "target_batch_cost",
      batcher:option "max_queue_cost" })
  end)

  it("with several upstreams each has a recording of its own", function()
    local given = { upstreams = { { url = "x", name = "a" }, { url = "y", name = "b" } }, batch = { record = "f" } }
    local gateway = gateways.new(given, { new_upstream = function() return helper.upstream(function() end) end })
    for i = 1, 2 do assert.equal("f." .. i, gateway.lines[i].batcher:option "record") end
  end)
end)
