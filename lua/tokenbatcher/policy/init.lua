--- policy: the policies that ship, a small file each. A policy knows nothing of ours but the
-- queue and the batch that it is handed, base, and support/, what several of them share; it needs
-- no other file of ours, so that a user's copy of it works like the shipped one. Only this file knows
-- batching: it says there which names there are. Whoever may name a policy requires this room.

local policies = require "tokenbatcher.batching.policies"

policies.ship({ "fifo", "eager", "length_bucketed", "priority", "fair", "deadline", "adaptive", "rate_limited",
  "one_group", "on_time" },
  function(name) return require("tokenbatcher.policy." .. name) end)

return policies
