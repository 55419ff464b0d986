-- A simulated accelerator: waits as long as a device with a fixed cost per call and a cost
-- per token would, and answers from the input. It computes nothing.
--
--     tokenbatcher run examples/simulated_accelerator.lua --input examples/prompts.jsonl

local tb = require "tokenbatcher"

return {
  options = {
    base_s = { "seconds a call of the device takes, whatever is in it", 0.02 },
    per_token_s = { "seconds it takes for each token", 0.00005 },
  },
  setup = function(opt)
    return {
      inference_fn = tb.backend.simulated { base_s = opt.base_s, per_token_s = opt.per_token_s },
      token_estimator = function(record)
        return math.floor(#(record.text or record.question or "") / 4) + 1
      end,
      target_batch_tokens = 2000,
      max_batch_size = 64,
    }
  end,
}
