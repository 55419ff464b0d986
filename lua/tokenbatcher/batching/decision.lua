--- One decision of a scripted policy: ask the core whether it is time, show the policy the
-- queue, let it name records, and guard against everything it may do wrong.
--
-- A batcher with a scripted policy owns one Decision. It reaches the batcher through a port of
-- a few functions, so that the simulator can be one, too:
--   record(slot), key_name(number) and the others that core/view.lua names
--   count(what)   one more "errors", "overruled" or "disabled"
--   warn(text)
--   not_now(view, at_us)   may be absent: the policy has named nobody, of what the view has shown; at_us: when it is
--                 asked again at the latest, or nil

local errors = require "tokenbatcher.base.errors"
local no_suspend = require "tokenbatcher.base.no_suspend"
local policies = require "tokenbatcher.batching.policies"
local tasks = require "tokenbatcher.runtime.tasks"
local tbffi = require "tokenbatcher.core.ffi"
local view = require "tokenbatcher.core.view"

local C = tbffi.lib

local M = {}

local ERRORS_IN_A_ROW = policies.ERRORS_IN_A_ROW
local SLOW_US = 500000

local Decision = {}
Decision.__index = Decision

local function say(self, text)
  self.unsaid[#self.unsaid + 1] = text
end

local function count_error(self)
  self.port.count "errors"
end

-- The first fault is said at once: who has misspelt a name must not take what fifo did for his policy's work.
local function say_first(self, what, err)
  if self.told_error then return end
  self.told_error = true
  say(self, ("policy '%s': %s raised: %s; fifo decides in its place each time (said once)"):format(self.name, what,
    errors.message_of(err)))
end

-- A hook that raises costs one policy_errors; ten in a row disable the policy.
local function failed(self, what, err)
  count_error(self)
  say_first(self, what, err)
  local in_a_row = self.errors_in_a_row
  in_a_row[what] = in_a_row[what] + 1
  if self.is_disabled or in_a_row.form + in_a_row.on_complete < ERRORS_IN_A_ROW then return end
  self.is_disabled = true
  self.port.count "disabled"
  say(self, ("policy '%s' failed %d times in a row and is disabled until the next set{policy}; %s raised: %s")
    :format(self.name, ERRORS_IN_A_ROW, what, errors.message_of(err)))
end

-- A policy's code may read, and no more: see tasks.context().
local function as_policy(fn, a, b, c)
  local outer = tasks.set_context "policy"
  local ok, value = no_suspend(fn, a, b, c)
  tasks.set_context(outer)
  return ok, value
end

local function guarded(self, what, fn, a, b, c)
  local started = C.tb_ev_now()
  local ok, value = as_policy(fn, a, b, c)
  local spent = tonumber(C.tb_ev_now() - started)
  if spent > SLOW_US and not self.told_slow then
    self.told_slow = true
    say(self, ("policy '%s': %s took %.2f s, and nothing else could run meanwhile (said once)")
      :format(self.name, what, spent / 1e6))
  end
  if ok then self.errors_in_a_row[what] = 0 end
  return ok, value
end

-- Its hooks are read here, once: a table may raise when it is read.
local function make(resolved, former, report)
  local policy, made = resolved:make(former, report)
  return { policy = policy, resolved = made, form = policy.form, on_complete = policy.on_complete,
    admit = made.module and policy.admit }
end

--- Makes the policy, which may raise what a user's function raises.
-- @param handle cdata  the core's batcher  @param port table  see above
-- @param resolved table  see policies.resolve
-- @param former Decision|nil  the one it takes the place of: see Resolved:make
function M.new(handle, port, resolved, former)
  local self = setmetatable({
    handle = handle, port = port, name = resolved.name, view = view.new(handle, port),
    has_failed = false, is_disabled = false, told_slow = false, told_error = false,
    errors_in_a_row = { form = 0, on_complete = 0, admit = 0 }, unsaid = {},
  }, Decision)
  local ok, made = as_policy(make, resolved, former, function(err, is_last)
    count_error(self)
    say_first(self, "its inner policy", err)
    if is_last then
      self.port.count "disabled"
      say(self, ("policy '%s': its inner policy failed too often; fifo chooses in its place; it raised: %s")
        :format(self.name, errors.message_of(err)))
    end
  end)
  if not ok then error(made, 0) end
  self.policy, self.resolved = made.policy, made.resolved
  self.form_batch, self.on_complete, self.admit = made.form, made.on_complete, made.admit
  return self
end

-- The time at which a policy asks to be asked again, at least a microsecond from now, or
-- nil. Compared with the very number that it was given for now.
local function later_us(at_s, now)
  if type(at_s) ~= "number" or not (at_s > now / 1e6 and at_s < math.huge) then return nil end
  return math.min(math.max(now + 1, math.ceil(at_s * 1e6)), 2 ^ 52)
end

-- The policy named nobody: ask it again when it wants, or let fifo decide what is due.
local function not_now(self, at_s, now)
  local at_us, tell = later_us(at_s, now), self.port.not_now
  if at_us or not self.view.due then
    if at_us then C.tb_ask_again(self.handle, at_us) end
    if tell then tell(self.view, at_us) end
    return 0
  end
  local id = C.tb_form_default(self.handle, now)
  if id ~= 0 then self.port.count "overruled" end
  return id
end

local function decide(self, now)
  local ok, value = guarded(self, "form", self.form_batch, self.view.queue, self.view.batch, now / 1e6)
  self.view:close()
  if ok then
    local id = C.tb_choose_end(self.handle)
    return id ~= 0 and id or not_now(self, value, now)
  end
  C.tb_choose_abandon(self.handle)
  self.has_failed = true
  failed(self, "form", value)
  return C.tb_form_default(self.handle, now)
end

--- @return number  the id of a batch that goes now, 0 if none does
function Decision:form(now)
  if C.tb_ask(self.handle, now) == 0 then return 0 end
  -- one that has raised is not asked again in this turn: one fault is one error
  if self.is_disabled or self.has_failed or not self.view:open(now) then return C.tb_form_default(self.handle, now) end
  return decide(self, now)
end

--- To be called when the batches that form() returned in this turn have been taken over. Says
-- what is to be logged: a log function may do anything.
function Decision:end_turn()
  self.has_failed = false
  for i, text in ipairs(self.unsaid) do
    self.unsaid[i] = nil
    self.port.warn(text)
  end
end

--- May a further call of a batch go (R6), of records that cost so much?
-- @return number seconds, when to ask again, or nil: it may
function Decision:may_call(cost, now)
  if self.is_disabled or not self.admit then return nil end
  local ok, at = guarded(self, "admit", self.admit, cost, now / 1e6)
  if ok then return later_us(at, now) and at end
  failed(self, "admit", at)
  self:end_turn()
end

--- A batch is over. @param report table  id, size, cost, padded, service_s, failed, usage, requests, calls, limits
function Decision:complete(report)
  if self.is_disabled then return end
  local ok, err = guarded(self, "on_complete", self.on_complete, report)
  if not ok then failed(self, "on_complete", err) end
  self:end_turn()
end

return M
