--- Estimators that ship: tokenbatcher.estimator.NAME, modules {about, parameters, new(p)}.
-- An estimator is a function of a record, or a callable table that may have
-- observe(self, costs, usage, records): the costs of a batch, what its backend reported, and
-- what was in it.

local errors = require "tokenbatcher.base.errors"
local kinds = require "tokenbatcher.base.kinds"
local parameters = require "tokenbatcher.base.parameters"

local M = { names = {} }
local load_shipped

--- What ships. @param load function(name) -> its module
function M.ship(names, load)
  M.names, load_shipped = names, load
end

--- For tb.estimator.NAME{...}.
function M.shipped(name, given)
  local module = load_shipped(name)
  return module.new(parameters.read("estimator '" .. name .. "'", module.parameters, given), M)
end

--- By name, or as given. @return a callable, or nil and a message
-- @param given table|nil  parameters of one by name
function M.resolve(value, given)
  if type(value) == "string" then
    for _, name in ipairs(M.names) do
      if name == value then return M.shipped(name, given) end
    end
    return nil, ("there is no estimator '%s'; did you mean '%s'?"):format(value, errors.nearest(value, M.names))
  end
  if errors.is_callable(value) then return value end
  return nil, ("an estimator is a name, a function or a callable table, got %s"):format(errors.show(value))
end

--- The text that counts: a string record, or a table's field.
function M.text_of(record, field)
  if type(record) == "string" then return record end
  local text = type(record) == "table" and record[field] or nil
  if type(text) == "string" then return text end
  error(("the record has no text in its field '%s'"):format(field), 0)
end

kinds.register("estimator", M)

return M
