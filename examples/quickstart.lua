-- The API in one screen. From a checkout, after make:
--     LUA_PATH="lua/?.lua;lua/?/init.lua;;" luajit examples/quickstart.lua

local tb = require "tokenbatcher"

tb.run(function()
  local batcher = tb.TokenBatcher {
    inference_fn = function(records, info)
      print(("batch %s: %d records, %d tokens"):format(info.reason, info.size, info.cost))
      tb.sleep(0.01) -- the model works; others go on meanwhile
      local results = {}
      for i, record in ipairs(records) do
        results[i] = record.text:find "?" and "answer to: " .. record.text or tb.failure "that is no question"
      end
      return results
    end,
    token_estimator = function(record) return #record.text / 4 + 1 end,
    target_batch_tokens = 12,
    batch_timeout_s = 0.02,
  }

  tb.with(batcher, function()
    local questions = { "What is 2+2?", "Who wrote Faust?", "Hello.", "Why is the sky blue?" }
    local producers = {}
    for i, text in ipairs(questions) do
      producers[i] = tb.spawn(function()
        local answer, err = batcher:submit({ text = text }):await()
        print(answer or tostring(err))
      end)
    end
    tb.gather(producers)
  end)

  local stats = batcher.stats
  print(("%d submitted, %d completed, %d failed, %d batches"):format(stats.total_submitted,
    stats.total_completed, stats.total_failed, stats.total_batches))
end)
