--- Another estimator times a factor that is corrected by what backends report as the true
-- count of each batch (info.usage.total_tokens).

local KEEP = 0.95 -- about the last 20 batches count

return {
  about = "another estimator, corrected by the true counts that a backend reports",
  parameters = {
    { name = "base", default = "chars", kind = "estimator", text = "the estimator to correct" },
    { name = "field", kind = "string", text = "the field of a table that holds the text (base by name)" },
  },
  new = function(p, estimators)
    local base = type(p.base) == "string" and p.field and estimators.shipped(p.base, { field = p.field })
      or estimators.resolve(p.base)
    local learned = { factor = 1, guessed = 0, true_tokens = 0 }
    function learned.observe(self, costs, usage)
      local tokens = type(usage) == "table" and usage.total_tokens
      if type(tokens) ~= "number" or not (tokens > 0 and tokens < math.huge) then return end
      local sum = 0
      for _, cost in ipairs(costs) do sum = sum + cost end
      if sum <= 0 then return end
      self.guessed = self.guessed * KEEP + sum / self.factor
      self.true_tokens = self.true_tokens * KEEP + tokens
      self.factor = self.true_tokens / self.guessed
    end
    return setmetatable(learned, { __call = function(self, record) return base(record) * self.factor end })
  end,
}
