-- Speed of scripted policies, on the real clock: what one decision takes over a queue of 5,000
-- records when 256 are picked, from tb_ask() to the batch (the queue is refilled outside of
-- the timing). Prints plain lines "name value unit", the median of the decisions.
local tb = require "tokenbatcher"
local tbffi = require "tokenbatcher.core.ffi"

local QUEUED, PICKED, WARM_UP, DECISIONS, KEYS = 5000, 256, 200, 1000, 50

local function now() return tonumber(tbffi.lib.tb_ev_now()) end

local seed = 1
local function draw(n)
  seed = (seed * 1103515245 + 12345) % 2 ^ 31
  return math.floor(seed / 2 ^ 8) % n
end

-- Heavy-tailed costs, like prompts.
local function submit_one(batcher, is_timed)
  local cost = math.floor(100 / (1 - draw(1000) / 1000) ^ 0.7)
  batcher:submit(true, { estimated_cost = cost, priority = draw(5), key = "user" .. draw(KEYS),
    timeout_s = is_timed and 1000 + draw(9000) or nil })
end

local function decision_us(policy, options, is_timed)
  local times = {}
  tb.run(function()
    local given = { inference_fn = function(records) return records end, policy = policy,
      target_batch_tokens = 1e6, max_batch_size = PICKED, max_queue_size = QUEUED, batch_timeout_s = 1000 }
    for name, value in pairs(options or {}) do given[name] = value end
    local batcher = tb.TokenBatcher(given)
    batcher:start()
    local decision = batcher._decision
    local form = decision.form
    function decision.form(self, at)
      local started = now()
      local id = form(self, at)
      if id ~= 0 then times[#times + 1] = now() - started end
      return id
    end
    while #times < WARM_UP + DECISIONS do
      local stats_size = batcher.stats.queue_size
      for _ = stats_size + 1, QUEUED do submit_one(batcher, is_timed) end
      tb.sleep(0)
    end
    assert(batcher.stats.policy_errors == 0 and batcher.stats.policy_overruled == 0, "the policy went wrong")
    batcher:stop { timeout_s = 0 }
  end)
  local measured = { unpack(times, WARM_UP + 1, WARM_UP + DECISIONS) }
  table.sort(measured)
  return measured[#measured / 2]
end

local function report(name, policy, options, is_timed)
  print(("decision_%s_us %.1f us"):format(name, decision_us(policy, options, is_timed)))
end

local function view(iterate)
  return { form = function(queue, batch)
    for i in iterate(queue) do
      if not batch:add(i) then break end
    end
  end }
end

report("by_cost", view(function(queue) return queue:by_cost() end))
report("by_deadline", view(function(queue) return queue:by_deadline() end), nil, true)
report("by_priority", view(function(queue) return queue:by_priority(1) end))
report("near", view(function(queue) return queue:near(1) end))
report("keys", { form = function(queue, batch)
  for key in queue:keys() do
    for i in queue:of(key) do
      if not batch:add(i) then return end
    end
  end
end })
report("length_bucketed", "length_bucketed")
report("priority", "priority")
report("fair", "fair", { target_batch_tokens = 64000 })
report("deadline", tb.policy.deadline { base_s = 0.02, per_token_s = 0.00005 }, nil, true)
report("adaptive", "adaptive")
report("rate_limited", tb.policy.rate_limited { requests_per_minute = 1e9, tokens_per_minute = 1e12 })
report("on_time", tb.policy.on_time { slo_s = 600, base_s = 0.02, per_token_s = 0.00005 })
report("on_time_overload", tb.policy.on_time { slo_s = 30, base_s = 0.02, per_token_s = 0.005 })
