-- What a plugin may be given: the schemas for Kong and APISIX, checked with validators as strict as theirs
-- (tests/nginx/fakes), what is made of it, and the examples.

local path = package.path
package.path = "tests/nginx/fakes/?.lua;" .. path

local json_schema = require "apisix.json_schema"
local kong = require "kong.db.schema.validator"
local options = require "tokenbatcher.gateway.plugin.options"
local plugin = dofile "tests/lua/plugin_helper.lua"
local schemas = require "tokenbatcher.gateway.plugin.schemas"

package.path = path

local URL = "http://127.0.0.1:1"

local function file(name)
  local handle = assert(io.open(name))
  local text = handle:read "*a"
  handle:close()
  return text
end

local function copied(value)
  if type(value) ~= "table" then return value end
  local out = {}
  for name, item in pairs(value) do out[name] = copied(item) end
  return out
end

local kong_schema = { fields = { { config = schemas.kong() } } }

-- What either host says of a configuration: a text that holds what is wrong, or nil.
local function said_by_kong(conf)
  local ok, errors = kong.config(kong_schema, copied(conf))
  if ok then return nil end
  local parts = {}
  for where, message in pairs(errors) do parts[#parts + 1] = where .. ": " .. message end
  return table.concat(parts, "\n")
end

local function said_by_apisix(conf)
  conf = copied(conf)
  local ok, message = json_schema.check(schemas.json(), conf)
  if ok then ok, message = options.check(conf) end
  return not ok and message or nil
end

local function with(more)
  local out = { upstream = { url = URL } }
  for name, value in pairs(more) do
    if name == "upstream" then
      for field, item in pairs(value) do out.upstream[field] = item end
    else
      out[name] = value
    end
  end
  return out
end

describe("what a plugin may be given", function()
  it("the least is where the upstream is; Kong fills in the rest, and APISIX leaves it to the gateway", function()
    assert.is_nil(said_by_apisix { upstream = { url = URL } })
    local conf = assert(kong.config(kong_schema, { upstream = { url = URL } }))
    assert.same({ "config", "consumer", 5, 256, 2048, 2, true, 5, "fair", "openai" }, { conf.auth, conf.fairness_key,
      conf.batch.max_wait_ms, conf.batch.max_inputs, conf.limits.inputs, conf.retry.attempts,
      conf.upstream.tls_verify, conf.breaker.failures, conf.batch.policy, conf.upstream.preset })
    local given = options.given(conf)
    assert.is_nil(given.queue)
    local asked = assert(kong.config(kong_schema, with { queue = { slots = 4, gate = {}, weights = { a = 2 } } }))
    given.queue = options.given(asked).queue
    assert.same({ 4, 30, 0.5, 2 }, { given.queue.slots, given.queue.max_wait_s, given.queue.gate.every_s,
      given.queue.weights.a })
    assert.same({ URL, "config", "consumer" }, { given.upstreams[1].url, given.auth, given.fairness_key })
  end)

  it("what is wrong is refused by both, which name it", function()
    for said, conf in pairs {
      ["upstream"] = {}, ["url"] = { upstream = {} }, ["fairness_header"] = with { fairness_key = "header" },
      ["fairness_key"] = with { fairness_key = "cookie" }, ["auth"] = with { auth = "none" },
      ["max_wait_ms"] = with { batch = { max_wait_ms = -1 } }, ["max_inputs"] = with { batch = { max_inputs = 0 } },
      ["max_cost"] = with { batch = { max_cost = 1.5 } }, ["policy"] = with { batch = { policy = "./own.lua" } },
      ["record"] = with { batch = { record = "/tmp/x" } }, ["options"] = with { batch = { options = {} } },
      ["api_key_env"] = with { upstream = { api_key_env = "HOME" } }, ["nonsense"] = with { nonsense = 1 },
      ["timeout_s"] = with { upstream = { timeout_s = 0 } }, ["preset"] = with { upstream = { preset = "x" } },
      ["headers"] = with { upstream = { headers = { a = 1 } } }, ["models"] = with { models = {} },
      ["on"] = with { retry = { on = { 99 } } }, ["backoff_ms"] = with { retry = { backoff_ms = { 1, 2, 3 } } },
      ["open_s"] = with { breaker = { open_s = 0 } }, ["inputs"] = with { limits = { inputs = 0 } },
      ["size"] = with { upstream = { pool = { size = 0 } } }, ["path"] = with { path = "/v1/chat/completions" },
      ["join"] = with { join = "yes" }, ["slots"] = with { queue = {} },
      ["paths"] = with { queue = { slots = 1, paths = { "chat" } } }, ["every_s"] = with { queue = { slots = 1,
        gate = { every_s = 99 } } }, ["weights"] = with { queue = { slots = 1, weights = { a = "b" } } },
    } do
      for host, said_by in pairs { kong = said_by_kong, apisix = said_by_apisix } do
        local text = said_by(conf) or ""
        assert.truthy(text:find(said, 1, true), host .. ": " .. said .. ": " .. text)
      end
    end
  end)

  it("what no schema can say is refused by both, too, and never shows a secret", function()
    for said, conf in pairs {
      ["'url'"] = with { upstream = { url = "ftp://x" } },
      ["holds a key in its query"] = with { upstream = { url = URL .. "/?api_key=hidden" } },
      ["'backoff_ms'"] = with { retry = { backoff_ms = { 500, 100 } } },
      ["'api_key' must be printable"] = with { upstream = { api_key = "hidden\n" } },
      ["headers: 'a b' is not"] = with { upstream = { headers = { ["a b"] = "hidden" } } },
      ["upstream: name must be"] = with { upstream = { name = "a b" } },
      ["queue: gate: stale_s = 5 is below"] = with { queue = { slots = 2, gate = { every_s = 10 } } },
      ["weights would do nothing"] = with { queue = { slots = 2, weights = { hidden = 2 } }, fairness_key = "ip" },
      ["reserve = 2 leaves no slot"] = with { queue = { slots = 2, reserve = 2 } },
      ["would never be used"] = with { auth = "passthrough", upstream = { api_key = "hidden" } },
    } do
      for host, said_by in pairs { kong = said_by_kong, apisix = said_by_apisix } do
        local text = said_by(conf) or ""
        assert.truthy(text:find(said, 1, true) or said:find "a b" and text:find "a b", host .. ": " .. text)
        assert.is_nil(text:find "hidden" or text:find "%.lua:" or text:find "gateway: ", text)
      end
    end
  end)

  it("a key may be a reference, which is no key until its host has resolved it", function()
    for _, key in ipairs { "{vault://env/key}", "$env://KEY", "$secret://vault/1/key" } do
      for place, upstream in pairs { ["upstream.api_key"] = { api_key = key },
        ["upstream.headers.x-key"] = { headers = { ["x-other"] = "plain", ["x-key"] = key } } } do
        local conf = with { upstream = upstream }
        assert.is_nil(said_by_kong(conf))
        assert.is_nil(said_by_apisix(conf))
        assert.equal(place, options.unresolved(conf))
      end
    end
    for _, key in ipairs { "a-key", false } do
      assert.is_nil(options.unresolved(with { upstream = { api_key = key or nil, headers = key and { a = key } } }))
    end
  end)

  it("secrets are kept as each host keeps them", function()
    local found = {}
    local function walk(field, prefix)
      for _, entry in ipairs(field.fields or {}) do
        local name, inner = next(entry)
        walk(inner, prefix .. name .. ".")
      end
      local it = field.values or field
      if it.encrypted then found[#found + 1] = prefix:sub(1, -2) .. tostring(it.referenceable) end
    end
    walk(schemas.kong(), "")
    assert.same({ "upstream.api_keytrue", "upstream.headerstrue" }, found)
    assert.same({ "upstream.api_key", "upstream.headers" }, schemas.secrets())
    for _, place in ipairs(schemas.secrets()) do json_schema.assert_path(schemas.json(), place) end
  end)

  it("equal configurations have one digest, whatever their host adds; others have others", function()
    local null = require("tokenbatcher.base.json").decode "[null]"[1]
    local conf = with { batch = { max_cost = 5, max_wait_ms = 1 }, models = { "a", "b" } }
    local same = with { models = { "a", "b" }, batch = { max_wait_ms = 1, max_cost = 5, policy = null }, join = null,
      __plugin_id = "1", _meta = {} }
    assert.equal(options.digest(conf), options.digest(same))
    for _, other in ipairs { with {}, with { models = { "b", "a" }, batch = conf.batch },
      with { models = conf.models, batch = { max_cost = 6, max_wait_ms = 1 } } } do
      assert.not_equal(options.digest(conf), options.digest(other))
    end
  end)

  it("whose turn it is may be a header's matter", function()
    local conf = with { fairness_key = "header", fairness_header = "X-Tenant" }
    assert.is_nil(said_by_kong(conf))
    assert.is_nil(said_by_apisix(conf))
    assert.equal("header:x-tenant", options.given(conf).fairness_key)
    assert.equal("consumer", options.given(with { fairness_key = "credential" }).fairness_key)
  end)

  it("the examples are what their hosts take", function()
    local of_kong = plugin.yaml(file "examples/kong/kong.yml")
    assert.same({ "key-auth", "tokenbatcher" }, { of_kong.plugins[1].name, of_kong.plugins[2].name })
    assert.is_nil(said_by_kong(of_kong.plugins[2].config))
    assert.equal("tei", of_kong.plugins[2].config.upstream.preset)
    local of_apisix = plugin.yaml(file "examples/apisix/apisix.yaml")
    assert.is_nil(said_by_apisix(of_apisix.routes[1].plugins.tokenbatcher))
    assert.same({ 100, 2000 }, of_apisix.routes[1].plugins.tokenbatcher.retry.backoff_ms)
    assert.same({ ["127.0.0.1:8081"] = 1 }, of_apisix.routes[1].upstream.nodes)
  end)

  it("the lines of the guide are nginx's, and name what there is", function()
    local missing = plugin.nginx.missing()
    if missing then return pending("skipped: " .. missing) end
    local guide = file "lua/tokenbatcher/gateway/plugin/README.md"
    local of_kong, of_apisix = guide:match "```\n(plugins = .-)```", guide:match "```yaml\n(.-)```"
    assert.equal("tokenbatcher", of_kong:match "^plugins = bundled,(%S+)\n")
    local name, value = of_kong:match "\nnginx_proxy_(%S+) = (%S+)\n"
    local config = plugin.yaml(of_apisix)
    assert.same({ "tokenbatcher" }, config.plugins)
    local nginx = config.nginx_config
    local server = plugin.nginx.start { own_path = true,
      http = ('lua_package_path "%s;;"; lua_shared_dict tokenbatcher %s;'):format(
        config.apisix.extra_lua_path:gsub("/usr/local/share/lua/5.1", plugin.nginx.root .. "/lua"),
        nginx.http.custom_lua_shared_dict.tokenbatcher),
      server = ("location /kong { %s %s; } location /apisix { %s }"):format(name, value,
        nginx.http_server_location_configuration_snippet) }
    local found = server:eval [[
      return tostring(require("tokenbatcher.gateway.plugin.options").given ~= nil and ngx.shared.tokenbatcher ~= nil)]]
    server:stop()
    assert.equal("true", found)
  end)
end)
