--- estimator: the estimators that ship, a small file each. An estimator is handed a record and
-- says what it costs; it knows base and no other room. Only this file knows batching: it says there
-- which names there are. Whoever may name an estimator requires this room.

local estimators = require "tokenbatcher.batching.estimators"

estimators.ship({ "chars", "words", "learned" }, function(name) return require("tokenbatcher.estimator." .. name) end)

return estimators
