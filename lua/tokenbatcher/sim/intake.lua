--- How arrivals come into a simulated run's core: see replay.lua, whose fields these are.

local known = require "tokenbatcher.sim.known"
local tbffi = require "tokenbatcher.core.ffi"

local C, SLOTS = tbffi.lib, tbffi.SLOTS

local M = {}

--- The core's clock when a run begins: a submission at 0 would mean "now".
M.ORIGIN_US = 1e6

local ORIGIN_US = M.ORIGIN_US
local OVERSIZE, FULL = tonumber(C.TB_EOVERSIZE), tonumber(C.TB_EFULL)

local submission = tbffi.new "tb_submission"

local function refused(self, at_us)
  if self.warm_up then self.warm_up:count("rejected", at_us) end
  self.source:answered(self.now - ORIGIN_US)
end

-- A record with all that the source says of it. @return id, or nil: it was refused; numbers of its key and group
local function submit_with_care(self, source, at_us)
  local key, group = source.key, source.group
  local key_id, group_id = key and self.keys:take(key) or 0, group and self.groups:take(group) or 0
  submission.cost, submission.priority, submission.key = source.cost, source.priority, key_id
  submission.timeout_us, submission.submitted_us, submission.flags = source.timeout_us, at_us, self.flags
  submission.group, submission.batch_timeout_us = group_id, source.batch_timeout_us
  local id = C.tb_submit(self.handle, submission, self.now)
  self.core_us, self.is_blocked = self.now, C.tb_waiting(self.handle) > 0
  if id > 0 then return id, key_id, group_id end
  if key then self.keys:give(key_id) end
  if group then self.groups:give(group_id) end
  if id ~= FULL and id ~= OVERSIZE then error(tbffi.text(C.tb_error_text(id)), 0) end
  return nil
end

-- It is a cost and nothing else.
local function is_plain(source)
  return source.key == nil and source.group == nil and source.priority == 0 and source.timeout_us == 0
    and source.batch_timeout_us == 0
end

local function submit(self, source, at_us)
  local cost, now = source.cost, self.now
  self.records, self.newest_us = self.records + 1, at_us
  if self.warm_up then self.warm_up:count("records", at_us) end
  if cost > self.max_cost then
    C.tb_refuse(self.handle, 1)
    return refused(self, at_us)
  end
  local id, key_id, group_id = -1, 0, 0
  if at_us == now and is_plain(source) then id = C.tb_submit_plain(self.handle, cost, now) end
  if id < 0 then id, key_id, group_id = submit_with_care(self, source, at_us) end
  if not id then return refused(self, at_us) end
  self.queued = self.queued + 1
  local slot = id % SLOTS
  if slot >= self.slots then known.reserve(self, slot) end
  self.arrived_us[slot], self.cost_of[slot] = at_us, cost
  self.output_of[slot], self.key_of[slot], self.group_of[slot] = source.output, key_id, group_id
  self.slo_of[slot], self.priority_of[slot] = self.slo:of(source), source.priority
  self.number_of[slot] = self.records
  if source.record ~= nil then self.record_of[slot], self.has_records = source.record, true end
  if key_id ~= 0 then self.fairness:arrived(key_id) end
end

--- While every slot is busy and the queue has room for all, a turn in which the core has nothing to say would only
-- cut batches ahead, as the next one does, too.
function M.is_busy(self)
  return self.running >= self.slot_count and self.queued < self.room and not self.is_blocked and not self.is_draining
end

-- Does the core, which has nothing to say, form no batch now? One that it forms is kept for the turn.
local function nothing_goes(self)
  if self.decision then return false end
  self.formed = C.tb_form(self.handle, self.now)
  self.core_us = tonumber(C.tb_next(self.handle))
  return self.formed == 0
end

-- May the next arrival come in without a turn before it? Nothing else is to happen before: no end of a batch, and
-- nothing that the core has asked to be called for (core_us, which each record with times of its own, or that waits,
-- makes unknown: it is `now` then). A timeline looks at the queue in each turn, a device has a time of its own.
local function needs_no_turn(self, at_us)
  if self.timeline or self.serving or self.is_draining or at_us >= self.next_end_us then return false end
  local core_us = self.core_us
  if core_us >= 0 and core_us <= self.now then return false end
  if not M.is_busy(self) and not nothing_goes(self) then return false end
  return self.core_us < 0 or at_us < self.core_us
end

--- Hand in what has arrived, until one has to wait for room. A turn's arrivals go in together: the decision
-- that follows them is made when the last of them has been submitted.
function M.feed(self)
  local source = self.source
  while not self.is_blocked do
    local at_us, turn = source.at_us + ORIGIN_US, source.turn
    if at_us > self.now then
      local is_same_turn = turn ~= 0 and turn == self.turn_fed and not source.is_done
      if not (is_same_turn or needs_no_turn(self, at_us)) then return end
      self.now = at_us
    end
    self.turn_fed = turn
    submit(self, source, at_us)
    source:take()
  end
end

return M
