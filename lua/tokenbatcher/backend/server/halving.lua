--- How a batch comes through although the server refuses some of its texts.
--
-- A request that is refused (status 400, 413 or 422; or err.may_be_input: the server has ended the connection) is
-- halved, left half first, until the text that is refused is alone: it fails, and nobody else.
--
-- Where all is refused, a wrong parameter is likelier than that all texts are bad, and asking for
-- each is a waste. But nobody may fail for a stranger's text: it is given up only while nothing of
-- the batch's group was ever answered, and only after samples were refused, each by a request of its
-- own: one of each key (16 at most), 8 at least, the first, the last and the middle one among them. What was
-- not tried says so, in words that are nobody's.

local errors = require "tokenbatcher.base.errors"
local failure = require("tokenbatcher.batching.run").failure

local M = {}

local REFUSALS = { [400] = true, [413] = true, [422] = true } -- of what is in the request
-- A server that cannot be reached, or has put us off for good, is not asked for the rest.
local ENDS_BATCH = { http_connect = true, http_timeout = true, http_full = true, server_away = true,
  [401] = true, [403] = true, [404] = true, [429] = true, [502] = true, [503] = true, [504] = true, [529] = true }
local SAMPLES_LEAST, SAMPLES_MOST = 8, 16
local MOST_GROUPS = 10000 -- remembered: their names are clients'

-- Work is {inputs = list of {place, text, cost, key}, results, ask, answered, group, batch_err, refused, ended}.

local function has_been_answered(work) return work.answered.groups[work.group] end

local function remember_answer(work)
  local answered = work.answered
  if answered.groups[work.group] then return end
  if answered.n >= MOST_GROUPS then answered.groups, answered.n = {}, 0 end
  answered.groups[work.group], answered.n = true, answered.n + 1
end

local function fail(work, inputs, err)
  for _, input in ipairs(inputs) do work.results[input.place] = failure(err) end
end

-- One request. @return boolean  is it over with: answered, failed, or refused with a single text in it?
local function try(work, inputs)
  local values, err = work.ask(inputs)
  if values then
    work.succeeded = true
    remember_answer(work)
    for i, input in ipairs(inputs) do work.results[input.place] = values[i] end
    return true
  end
  if not (REFUSALS[err.status] or err.may_be_input) then
    work.batch_err = err
    if ENDS_BATCH[err.code] or ENDS_BATCH[err.status] then work.ended = err end
    fail(work, inputs, err)
    return true
  end
  work.refused = work.refused + 1
  if #inputs > 1 then return false end
  work.results[inputs[1].place] = failure(err, { refused = true })
  work.refusal, inputs[1].is_refused = err, true
  return true
end

-- The texts to try one by one: both ends, the middle, one of each key, and others evenly between.
local function samples_of(inputs)
  local chosen, list, n = {}, {}, #inputs
  local function choose(i)
    if chosen[i] or #list >= SAMPLES_MOST then return end
    chosen[i] = true
    list[#list + 1] = inputs[i]
  end
  choose(1)
  choose(n)
  choose(math.ceil(n / 2))
  local has = {}
  for _, input in ipairs(list) do has[input.key] = true end
  for i, input in ipairs(inputs) do
    if not has[input.key] then choose(i) end
    has[input.key] = true
  end
  for k = 1, SAMPLES_LEAST - 1 do
    if #list < SAMPLES_LEAST then choose(1 + math.floor(k * (n - 1) / SAMPLES_LEAST + 0.5)) end
  end
  for i = 1, n do
    if #list < SAMPLES_LEAST then choose(i) end
  end
  return list
end

local function not_tried(work, tried)
  local err = errors.new("not_tried", ("not tried: the server refused each of %d records of this batch that were "
    .. "tried one by one (status %d), and has never answered one of its kind"):format(tried, work.refusal.status))
  err.status = work.refusal.status
  return err
end

-- Nothing was ever answered, and a text was refused alone: is anything answered at all?
local function sample(work)
  local list = samples_of(work.inputs)
  for _, input in ipairs(list) do
    if work.results[input.place] == nil then try(work, { input }) end
    if not input.is_refused then return end
  end
  work.ended = not_tried(work, #list)
end

local function without_result(work, inputs, first, last)
  local left = {}
  for i = first, last do
    if work.results[inputs[i].place] == nil then left[#left + 1] = inputs[i] end
  end
  return left
end

local function solve(work, inputs, first, last)
  local left = without_result(work, inputs, first, last)
  if #left == 0 then return end
  if work.ended then return fail(work, left, work.ended) end
  if try(work, left) then
    if work.refusal and not work.is_sampled and not has_been_answered(work) then
      work.is_sampled = true
      sample(work)
    end
    return
  end
  local middle = math.floor((1 + #left) / 2)
  solve(work, left, 1, middle)
  solve(work, left, middle + 1, #left)
end

--- The results of all inputs that have a text.
-- @param work table  inputs, results (those of other records are there), ask(inputs) -> values, or nil and an err;
-- answered {groups, n}: which groups were ever answered, shared by batches; group. It gets succeeded, refused
-- (how many requests were), batch_err (of what failed for another reason) and ended (why the rest is not tried).
-- @param last_of_request function  (inputs, first): the last input of a request that begins there
function M.solve(work, last_of_request)
  work.refused, work.refusal, work.is_sampled = work.refused or 0, nil, nil
  local inputs, first = work.inputs, 1
  while first <= #inputs do
    local last = last_of_request(inputs, first)
    solve(work, inputs, first, last)
    first = last + 1
  end
end

return M
