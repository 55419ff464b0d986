--- estimator: the estimators that ship, a small file each. They know errors and texts, no more.

local estimators = require "tokenbatcher.batching.estimators"

estimators.ship({ "chars", "words", "learned" }, function(name) return require("tokenbatcher.estimator." .. name) end)

return estimators
