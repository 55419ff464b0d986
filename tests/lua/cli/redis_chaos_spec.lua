-- Everything at once, by one seed: see tests/soak/chaos_redis.lua, which `make soak` runs for longer. Each kind of
-- fault has a Redis and workers of its own, so they run beside each other: most of their time they wait for leases.
local R = require "tests.lua.redis_helper"

describe("in chaos (workers killed and stopped, one record each of which kills its worker),", function()
  local missing = R.missing()
  if not missing and not pcall(require, "socket") then missing = "no Lua module socket (Debian: lua-socket)" end
  local kinds = {}

  setup(function()
    if missing then return end
    for _, one in ipairs(kinds) do
      one.pipe = io.popen(("timeout 150 luajit tests/soak/chaos_redis.lua %s %d 1 2>&1; echo \"status $?\"")
        :format(one.kind, one.seconds))
    end
  end)

  local function survives(what, kind, seconds)
    local one = { kind = kind, seconds = seconds }
    kinds[#kinds + 1] = one
    it(("every record is answered once or reported dead: %s"):format(what), function()
      if missing then return pending("skipped: " .. missing) end
      local text = one.pipe:read "*a" -- until it has ended
      one.pipe:close()
      assert.is_truthy(text:find("1197 answered once, 3 reported dead, 0 wrong or lost", 1, true), text)
      assert.is_truthy(text:find "status 0\n$", text)
    end)
  end

  survives("Redis is killed, and had written once a second", "everysec", 5)
  survives("Redis is killed, and had written at once", "always", 4)
  survives("Redis is emptied", "flushall", 5)
  survives("Redis loses the last 120 kB", "cut", 5)
  survives("connections are cut at random bytes", "proxy", 5)
end)
