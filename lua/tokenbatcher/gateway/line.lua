--- A line: an upstream and the batcher in front of it. One batcher serves all its models, fields and credentials:
-- what may share a call is the record's group, so there is no table of batchers that clients could fill.

local batcher = require "tokenbatcher.batching.batcher"
local calls = require "tokenbatcher.gateway.calls"
local clock = require "tokenbatcher.runtime.clock"
local counts = require "tokenbatcher.gateway.counts"
local errors = require "tokenbatcher.base.errors"

local M = {}
local Line = {}
Line.__index = Line

local MOST_RETRY_S = 60
local WINDOW_US = 10 * 1e6 -- what was answered in the last 5 to 10 s says how long a queue takes

local function batcher_options(self, batch, join)
  local options = {
    name = self.name, inference_fn = self.infer, policy = batch.policy, on_full = "reject", on_oversize = "reject",
    target_batch_cost = batch.max_cost, max_queue_cost = batch.max_queue_cost, max_queue_size = batch.max_queue,
    max_batch_size = math.min(self.most_inputs, self.limit),
    max_concurrent_batches = batch.max_in_flight, batch_timeout_s = batch.max_wait_ms / 1000,
    inference_timeout_s = batch.timeout_s, record = batch.record,
    join = join and function(record) return record.input end or nil,
  }
  for name, value in pairs(batch.options) do options[name] = value end
  return options
end

--- A name for each upstream of a configuration: its own, or where it is. Raises where two are the same.
function M.name_all(list)
  local seen = {}
  for i, it in ipairs(list) do
    it.name = it.name or it.upstream.shown
    if seen[it.name] then
      errors.misuse(("gateway: upstreams %d and %d are both named '%s': give each a name of its own"):format(
        seen[it.name], i, it.name))
    end
    seen[it.name] = i
  end
end

--- @param given table  name, upstream, models (set, or nil: any), batch (see config.lua), join, and for calls.lua:
-- secrets, shows_key_words, new_id
function M.new(given)
  local self = setmetatable({ name = given.name, upstream = given.upstream, models = given.models,
    answered_cost = 0, since_us = nil, counts = counts.of_line(), limit = given.upstream:limits().max_inputs,
    most_inputs = given.batch.options.max_batch_size or given.batch.max_inputs }, Line)
  self.infer = calls.new { upstream = given.upstream, secrets = given.secrets,
    shows_key_words = given.shows_key_words, new_id = given.new_id, counts = self.counts,
    on_batch = function(info, now_us) self:over(info, now_us) end }
  self.batcher = batcher.TokenBatcher(batcher_options(self, given.batch, given.join))
  self.max_wait_s = self.batcher:option "batch_timeout_s"
  return self
end

function Line:start()
  self.batcher:start()
  self.since_us = clock.now_us()
end

--- Inputs have been taken. @param costs number[]
function Line:count_inputs(costs)
  for i = 1, #costs do counts.observe(self.counts.tokens, counts.TOKENS, costs[i]) end
end

-- A batch is over: what it cost, and whether the upstream has said that it takes fewer inputs, or may take more again.
function Line:over(info, now_us)
  if now_us - self.since_us > WINDOW_US then
    self.answered_cost = self.answered_cost * (WINDOW_US / 2) / (now_us - self.since_us)
    self.since_us = now_us - WINDOW_US / 2
  end
  self.answered_cost = self.answered_cost + info.cost
  local limit = self.upstream:limits().max_inputs
  if limit ~= self.limit then
    self.limit = limit
    self.batcher:set { max_batch_size = math.min(self.most_inputs, limit) }
  end
end

--- How long the queue takes, as things have gone lately: whole seconds from 1 to 60, for Retry-After.
function Line:seconds()
  local passed_s = math.max((clock.now_us() - self.since_us) / 1e6, 1)
  local per_s = self.answered_cost / passed_s
  local cost = self.batcher.stats.queue_cost
  return math.min(math.max(1, per_s > 0 and math.ceil(cost / per_s) or 1), MOST_RETRY_S)
end

--- How long a client wants to wait at most, so that it rushes nobody: a record with a deadline makes the
-- queue due at half of it, and that is never before the batch's own time.
function Line:timeout_s(wanted_s)
  return wanted_s and math.max(wanted_s, 2 * self.max_wait_s) or nil
end

return M
