--- A worker for `tokenbatcher work`, and as well a script for `tokenbatcher run`: nothing in it knows of Redis.
--
--     tokenbatcher work examples/redis/worker.lua --redis redis://127.0.0.1:6379 --stream prompts

local tb = require "tokenbatcher"

return {
  inference_fn = tb.backend.simulated { base_s = 0.02, per_token_s = 0.00005 },
  token_estimator = tb.estimator.chars { field = "text" },
  target_batch_tokens = 2000,
  max_batch_size = 64,
  batch_timeout_s = 0.02,
  inference_timeout_s = 60, -- `work` wants it: a call that hangs would hold its records for ever
}
