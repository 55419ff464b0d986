-- A batching policy of one's own is a file: here the shortest prompts go first, and with
-- max_wait_s none of the long ones starves. (The device is simulated.)
--
--     tokenbatcher run examples/custom_policy.lua --input examples/prompts.jsonl
--
-- Another policy for one run: --set policy=fifo, --set policy=fair:quantum=500; what ships:
-- tokenbatcher policies.

local tb = require "tokenbatcher"

return {
  policy = "policies/shortest_first.lua",
  max_wait_s = 0.5,
  cost_model = "padded", -- this device pads every prompt of a batch to its longest one
  target_batch_tokens = 2000,
  token_estimator = tb.estimator.chars { field = "text" },
  inference_fn = tb.backend.simulated { base_s = 0.01, per_token_s = 0.00002 },
}
