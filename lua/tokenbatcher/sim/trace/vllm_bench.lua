--- What vLLM's `bench serve --save-result --save-detailed` writes: one object with a list for each figure, in
-- which place i is request i. Times are when each was sent. Of embeddings there are no output_lens and no start_times.

local tbffi = require "tokenbatcher.core.ffi"

local M = {}

local NO_OUTPUT = -1

local LISTS, LENGTHS = { "start_times", "input_lens", "output_lens" }, { "input_lens", "output_lens" }

--- Is a value of JSON one?
function M.is(value)
  return type(value) == "table" and type(value.input_lens) == "table"
    and (type(value.output_lens) == "table" or type(value.latencies) == "table")
end

local function is_number(value) return type(value) == "number" and value >= 0 and value < 1e12 end

-- What is wrong with it, or nil.
local function complaint(value, lists)
  if lists[1] == "start_times" and type(value.start_times) ~= "table" then
    return "is one of vLLM's benchmarks without start_times (of embeddings, of an older version, or not detailed): it "
      .. "does not say when requests came; its lengths can be used, with --arrivals poisson:rate=...,tokens=@FILE"
  end
  for _, name in ipairs(lists) do
    if name == "output_lens" and value.output_lens == nil then break end
    if #value[name] ~= #value.input_lens then
      return ("is one of vLLM's benchmarks in which %s has %d values, and input_lens %d"):format(name, #value[name],
        #value.input_lens)
    end
    for i, number in ipairs(value[name]) do
      if not is_number(number) then
        return ("is one of vLLM's benchmarks in which %s[%d] is no number"):format(name, i - 1)
      end
    end
  end
end

--- Did request i fail? Those have no length that came out.
function M.has_failed(value, i)
  local problem = type(value.errors) == "table" and value.errors[i]
  return type(problem) == "string" and problem ~= ""
end

--- A format (see formats.lua) whose rows are all there, ordered by time; or nil and a message.
-- @param has_no_times boolean  times are not looked at
function M.format(value, has_no_times)
  local problem = complaint(value, has_no_times and LENGTHS or LISTS)
  if problem then return nil, problem end
  local order, failed, times = {}, 0, not has_no_times and value.start_times or {}
  for i = 1, #value.input_lens do
    if M.has_failed(value, i) then failed = failed + 1 else order[#order + 1] = i end
  end
  table.sort(order, function(a, b)
    local x, y = times[a] or 0, times[b] or 0
    if x ~= y then return x < y end
    return a < b
  end)
  local rows = { n = #order, failed = failed }
  for _, name in ipairs { "at_s", "cost", "output" } do rows[name] = tbffi.new("double[?]", math.max(1, #order)) end
  for k, i in ipairs(order) do
    rows.at_s[k - 1], rows.cost[k - 1] = times[i] or 0, value.input_lens[i]
    rows.output[k - 1] = value.output_lens and value.output_lens[i] or NO_OUTPUT
  end
  return { name = "vLLM benchmark", unit = "s", rows = rows }
end

return M
