-- Fairness between tenants: `key` says whose a record is. One tenant dumps 400 long prompts at
-- once, two others send a short one now and then; fifo lets them wait behind the dump, fair
-- gives each its turn. The same on every run: the clock is virtual.
--     LUA_PATH="lua/?.lua;lua/?/init.lua;;" luajit examples/per_tenant.lua

local tb = require "tokenbatcher"

local SECONDS = 10

-- What each tenant was given in the first SECONDS, and the longest wait for an answer.
local function serve(policy)
  return tb.run(function()
    local tenants, started = {}, tb.now()
    local batcher = tb.TokenBatcher {
      policy = policy, target_batch_tokens = 2000,
      inference_fn = tb.backend.simulated { base_s = 0.05, per_token_s = 0.0002 },
    }
    local function send(tenant, tokens)
      local sent, future = tb.now(), batcher:submit(tenant, { key = tenant, estimated_tokens = tokens })
      tb.spawn(function()
        future:await()
        local got = tenants[tenant] or { tokens = 0, longest_s = 0 }
        if tb.now() - started <= SECONDS then got.tokens = got.tokens + tokens end
        got.longest_s = math.max(got.longest_s, tb.now() - sent)
        tenants[tenant] = got
      end)
    end
    tb.with(batcher, function()
      for _ = 1, 400 do send("bulk", 200) end
      for i = 1, 4 * SECONDS do
        tb.sleep(0.25)
        send("anna", 50)
        if i % 2 == 0 then send("ben", 150) end
      end
    end)
    return tenants
  end, { clock = "virtual" })
end

print(("%-6s  %-6s  %14s  %14s"):format("policy", "tenant", "tokens in " .. SECONDS .. " s", "longest wait"))
for _, policy in ipairs { "fifo", "fair" } do
  local tenants = serve(policy)
  for _, name in ipairs { "bulk", "anna", "ben" } do
    print(("%-6s  %-6s  %14d  %12.2f s"):format(policy, name, tenants[name].tokens, tenants[name].longest_s))
  end
end
