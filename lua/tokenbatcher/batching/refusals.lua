--- What the caller is told when the core refused a record, or a list of them.

local errors = require "tokenbatcher.base.errors"
local tbffi = require "tokenbatcher.core.ffi"

local C = tbffi.lib

local M = {}

--- @param self table  the batcher  @param code number  the core's
-- @param i number|nil  which record of a list is at fault
-- @return err
function M.of(self, code, i)
  local record = i and ("record %d"):format(i) or "the record"
  if code == C.TB_EFULL then
    return errors.new("queue_full", ("%s: the queue is full (max_queue_size = %d%s)"):format(tostring(self),
      self._config.max_queue_size, self._config.max_queue_cost > 0
        and (", max_queue_cost = %.0f"):format(self._config.max_queue_cost) or ""))
  elseif code == C.TB_EOVERSIZE then
    local limit = math.min(self._config.target_batch_cost, self._max_record_cost)
    return errors.new("oversize", ("%s: %s alone costs more than %s = %.0f"):format(tostring(self), record,
      limit == self._max_record_cost and "the policy allows" or "target_batch_cost", limit))
  end
  error(("%s: %s"):format(tostring(self), tbffi.text(C.tb_error_text(code))), 0)
end

--- A list that the bounds of an empty queue do not hold (S5). @param values cdata  its n costs
function M.too_large(self, values, n)
  local sum, config = 0, self._config
  for i = 0, n - 1 do sum = sum + math.ceil(values[i]) end
  local bound = n > config.max_queue_size and ("%d records, and max_queue_size = %d"):format(n, config.max_queue_size)
    or ("records that cost %.0f, and max_queue_cost = %.0f"):format(sum, config.max_queue_cost)
  return errors.new("batch_too_large", ("%s: the list has %s: it can never enter as one"):format(tostring(self), bound))
end

return M
