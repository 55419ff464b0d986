local http = require "tests.lua.http_helper"
local urls = require "tokenbatcher.backend.redis.url"

describe("a Redis URL", function()
  local function parts(text)
    local to, message = urls.parse(text)
    assert(to, message)
    return to
  end

  it("names a host, a port and a database", function()
    local to = parts "redis://example.org:6380/3"
    assert.are.same({ "example.org", 6380, 3 }, { to.host, to.port, to.db })
    to = parts "redis://127.0.0.1"
    assert.are.same({ "127.0.0.1", 6379, 0 }, { to.host, to.port, to.db })
    assert.are.equal("::1", parts("redis://[::1]:7000").host)
    assert.are.equal(7000, parts("redis://[::1]:7000").port)
  end)

  it("names a unix socket", function()
    local to = parts "redis+unix:///run/redis/redis.sock?db=2"
    assert.are.same({ "/run/redis/redis.sock", 2 }, { to.unix_socket, to.db })
  end)

  it("may hold a user and a password, which are shown nowhere", function()
    local to = parts "redis://ann:p%40ss%3Aword@host:1/0"
    assert.are.same({ "ann", "p@ss:word" }, { to.user, to.password })
    assert.is_nil(to.shown:find("p@ss", 1, true))
    assert.is_nil(to.shown:find("ann", 1, true))
    assert.are.equal("secret", parts("redis://:secret@host").password)
  end)

  it("may leave the password to the environment", function()
    http.setenv("TOKENBATCHER_REDIS_PASSWORD", "from outside")
    local to, plain = parts "redis://ann@host", parts "redis://host"
    local own = parts "redis://ann:own@host"
    http.setenv("TOKENBATCHER_REDIS_PASSWORD", nil)
    assert.are.same({ "ann", "from outside" }, { to.user, to.password })
    assert.are.equal("from outside", plain.password)
    assert.are.equal("own", own.password)
  end)

  it("is refused with a sentence that does not quote it", function()
    for _, text in ipairs { "http://u:secret@h", "redis://u:secret@", "redis://u:secret@h:99999",
      "redis://u:secret@h/x", "redis://u:secret@h h", "redis+unix://u:secret", "secret", "redis://secret@host", "" } do
      local to, message = urls.parse(text)
      assert.is_nil(to, text)
      assert.is_nil(message:find("secret", 1, true), message)
    end
    assert.is_nil((urls.parse(7)))
  end)

  it("says what to do about TLS and Sentinel", function()
    assert.is_truthy(select(2, urls.parse "rediss://host"):find("stunnel", 1, true))
    assert.is_truthy(select(2, urls.parse "redis+sentinel://host/name"):find("master", 1, true))
  end)
end)
