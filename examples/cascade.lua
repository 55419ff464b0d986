-- A cascade: a cheap filter answers what it can, and submits the rest to a second batcher, in
-- front of the expensive model. An inference function may submit and await like any other
-- code; several calls of the filter may wait at once, so that the model gets large batches.
--     LUA_PATH="lua/?.lua;lua/?/init.lua;;" luajit examples/cascade.lua

local tb = require "tokenbatcher"

-- Takes as long as a device would, and answers with `name`.
local function device(name, base_s, per_token_s)
  return function(records, info)
    tb.sleep(base_s + per_token_s * info.cost)
    local results = {}
    for i = 1, #records do results[i] = name end
    return results
  end
end

local model = tb.TokenBatcher { inference_fn = device("model", 0.05, 0.0005), target_batch_tokens = 3000 }
local look = device("filter", 0.005, 0.00001)

local filter = tb.TokenBatcher {
  target_batch_tokens = 1000, max_concurrent_batches = 4, batch_timeout_s = 0.01,
  inference_fn = function(records, info)
    local results = look(records, info)
    for i, record in ipairs(records) do
      if record.is_hard then results[i] = model:submit(record, { estimated_tokens = info.costs[i] }) end
    end
    for i, result in ipairs(results) do
      if result ~= "filter" then
        local answer, err = result:await()
        results[i] = answer or tb.failure(err)
      end
    end
    return results
  end,
}

tb.run(function()
  local count = { filter = 0, model = 0 }
  tb.with(model, function()
    tb.with(filter, function()
      local futures = {}
      for i = 1, 500 do
        futures[i] = filter:submit({ is_hard = i % 4 == 0 }, { estimated_tokens = 10 + i % 90 })
        tb.sleep(0.001)
      end
      for _, answer in ipairs((tb.gather(futures))) do count[answer] = count[answer] + 1 end
    end)
  end)
  for _, name in ipairs { "filter", "model" } do
    local stats = (name == "filter" and filter or model).stats
    print(("the %-6s answered %d of %d records, in %d batches of %.1f"):format(name, count[name],
      stats.total_submitted, stats.total_batches, stats.avg_batch_size))
  end
end, { clock = "virtual" })
