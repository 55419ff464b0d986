-- An estimator of one's own is a function of the record; here it counts words and marks, and
-- `learned` corrects it by the true counts that the backend reports. Each answer shows what
-- the record was charged and what it cost: the first batch is off by nearly half, later ones are not.
--
--     tokenbatcher run examples/custom_estimator.lua --input examples/prompts.jsonl

local tb = require "tokenbatcher"

local function words_and_marks(record)
  local _, words = record.text:gsub("%w+", "")
  local _, marks = record.text:gsub("%p", "")
  return words + marks
end

-- Stands for a model that tells its usage, as most APIs do.
local function infer(records, info)
  local results, total = {}, 0
  for i, record in ipairs(records) do
    local tokens = math.ceil(#record.text / 3)
    results[i] = { charged = info.costs[i], tokens = tokens }
    total = total + tokens
  end
  tb.sleep(0.002)
  info.usage = { total_tokens = total }
  return results
end

return {
  token_estimator = tb.estimator.learned { base = words_and_marks },
  inference_fn = infer,
  target_batch_tokens = 1000,
  max_queue_size = 20, -- a record is charged when it is queued: a short queue shows sooner what was learned
}
