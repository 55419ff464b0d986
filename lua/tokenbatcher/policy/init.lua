--- policy: the policies that ship, a small file each. A policy knows nothing of ours but the
-- queue and the batch that it is handed, and support/, what several of them share.

local policies = require "tokenbatcher.batching.policies"

policies.ship({ "fifo", "eager", "length_bucketed", "priority", "fair", "deadline", "adaptive", "rate_limited",
  "one_group" },
  function(name) return require("tokenbatcher.policy." .. name) end)

return policies
