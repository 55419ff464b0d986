--- Another estimator times a factor that is corrected by what backends report as the true
-- count of each batch (info.usage.total_tokens).
--
-- Queued records were charged by older factors, so a batch is compared with what its records
-- would be charged now; otherwise a deep queue would be corrected over and over.

local errors = require "tokenbatcher.base.errors"

local KEEP = 0.95 -- about the last 20 batches count
local FARTHEST = 1000 -- a report that is off by more is none

-- What the records would be charged, a whole number each, over the factor.
local function charged(base, factor, records)
  local sum = 0
  for _, record in ipairs(records) do sum = sum + math.ceil(base(record) * factor) end
  return sum / factor
end

-- Records that base cannot estimate were submitted with a cost of their own; then, and
-- where nothing tells the records, the costs must do.
local function guess_of(base, factor, costs, records)
  if type(records) == "table" and #records == #costs then
    local ok, sum = pcall(charged, base, factor, records)
    if ok then return sum end
  end
  local sum = 0
  for _, cost in ipairs(costs) do sum = sum + cost end
  return sum / factor
end

local function observe(self, costs, usage, records)
  local tokens = type(usage) == "table" and usage.total_tokens
  if type(tokens) ~= "number" then return end
  local guess = guess_of(self.base, self.factor, costs, records)
  if not (guess > 0 and tokens * FARTHEST >= guess and tokens <= guess * FARTHEST) then return end
  self.guessed = self.guessed * KEEP + guess
  self.true_tokens = self.true_tokens * KEEP + tokens
  self.factor = self.true_tokens / self.guessed
end

local meta = {}
function meta.__call(self, record)
  local cost = self.base(record)
  return type(cost) == "number" and cost * self.factor or cost
end

return {
  about = "another estimator, corrected by the true counts that a backend reports",
  parameters = {
    { name = "base", default = "chars", kind = "estimator", text = "the estimator to correct" },
    { name = "field", kind = "string", text = "the field of a table that holds the text (base by name)" },
  },
  new = function(p, estimators)
    if p.field and type(p.base) ~= "string" then
      errors.misuse "estimator 'learned': parameter 'field' needs a base by name; this one reads what it wants"
    end
    local base = estimators.resolve(p.base, p.field and { field = p.field })
    return setmetatable({ base = base, factor = 1, guessed = 0, true_tokens = 0, observe = observe }, meta)
  end,
}
