--- What `deadline` and `on_time` have in common: as many records answered by their due times as can be.
--
-- A record is due at its deadline, or slo_s (without that: its own slo) after its submission, whichever is first (or,
-- if `trusts_deadlines`, at its deadline if it has one); one with neither has time.
-- At a decision the records are looked at that can still be on time, of very many the shortest. Those that can
-- be met together are kept (keep.lua), with the arrivals that are expected (forecast.lua) in their places; the
-- kept go earliest first, then who was not kept, shortest first. A batch never takes longer than the earliest
-- due time in it allows, nor than the share LONGEST of an slo: who comes meanwhile must still have a chance. It
-- grows while a record costs less inside than by itself (a long one among short ones does not, where texts are
-- padded). A batch of the shortest goes instead, if `by_rate` is on and it is plainly the better bargain.
-- Who is late already waits until nobody else does; who has time waits as under fifo, or rides along.

local batch_model = require "tokenbatcher.policy.support.batch_model"
local forecast = require "tokenbatcher.policy.support.forecast"
local keep = require "tokenbatcher.policy.support.keep"

local floor, huge, max, min = math.floor, math.huge, math.max, math.min

local M = {}
local Punctual = {}
Punctual.__index = Punctual

local MOST, LOOKS = 192, 512 -- records that a decision weighs, and looks at to find them
local LONGEST = 0.6 -- of an slo, for a batch
local WINDOW = 0.45 -- of an slo: how far back the arrivals are that are expected once more
local HEARD = 32 -- arrivals between two decisions that are told apart
local LATE, LATE_BOUNDED = 0.3, 0.6 -- of an slo, for a batch of those that are late already
local MISFITS = 32 -- so many are passed over, then a batch of the late is closed
local BARGAIN, AHEAD = 2, 2 -- times the rate, and answers more, that the shortest must promise
local A_MOMENT = 5e-7

--- @param p table  slo_s (or nil), base_s, per_token_s: first guesses
-- @param how table  by_rate, trusts_deadlines: see above
function M.new(p, how)
  return setmetatable({
    slo_s = p.slo_s, model = batch_model.new(p.base_s, p.per_token_s), keep = keep.new(), forecast = forecast.new(),
    by_rate = how.by_rate, trusts_deadlines = how.trusts_deadlines,
    running = 0, is_padded = false, has_groups = false, has_deadlines = false,
    per_lasts = nil, lasts = p.slo_s, -- the usual time from submission to due (a harmonic mean), seconds
    most = huge, -- records in a batch, as far as is known
    position = {}, cost = {}, group = {}, seen = {}, serial = 0, late = 0, patient = 0,
    first = { n = 0 }, shortest = { n = 0 }, list = {}, mark = {}, marked = 0,
  }, Punctual)
end

-- When it is due; nil: it has time.
local function due_of(self, queue, i, now)
  local slo_s, due = self.slo_s or queue:slo(i), queue:deadline(i)
  if due then self.has_deadlines = true end
  if not slo_s or due and self.trusts_deadlines then return due end
  local at = now - queue:age(i) + slo_s
  return due and due < at and due or at
end

-- Seconds for so many, of this sum, the largest of this cost.
local function takes(self, n, sum, largest)
  local model, padded = self.model, n * largest
  return model.a + model.b * (self.is_padded and padded or sum) + model.c * padded
end

-- --- who is there, and who will come ---------------------------------------------------

-- The first position of those that came after the last decision. @return number  size + 1: none
local function first_new(queue, now, since)
  local low, high = 1, queue.size + 1
  while low < high do
    local middle = floor((low + high) / 2)
    if now - queue:age(middle) > since then high = middle else low = middle + 1 end
  end
  return low
end

local function hear(self, queue, now)
  local expected = self.forecast
  if now < expected.seen then expected:restart() end -- another clock
  local size, first = queue.size, first_new(queue, now, expected.seen + A_MOMENT)
  local stride = math.ceil((size + 1 - first) / HEARD)
  for i = first, size, max(1, stride) do
    local due, at = due_of(self, queue, i, now), now - queue:age(i)
    if due then
      local lasts = max(A_MOMENT, due - at)
      self.per_lasts = self.per_lasts and 0.98 * self.per_lasts + 0.02 / lasts or 1 / lasts
      expected:add(at, queue:cost(i), lasts, min(stride, size + 1 - i))
    end
  end
  if self.per_lasts then self.lasts = 1 / self.per_lasts end
  expected.seen = now
  if self.lasts then expected:forget(now - WINDOW * self.lasts) end
end

-- What a record takes of all slots' time: so much for each token, and no less than so much, each with its share of
-- what any batch takes.
local function set_prices(self, queue, batch)
  local model, slots = self.model, max(1, self.running + queue.idle_slots)
  local each = model:per_token()
  local room = max(1, min(batch.budget, (LONGEST * (self.lasts or huge) - model.a) / max(1e-12, each)))
  self.per_token, self.bare_token = (each + model.a / room) / slots, each / slots
  self.per_record, self.slots = model.a / self.most / slots, slots
end

local function work_of(self, cost)
  return max(self.per_token * cost, self.per_record + self.bare_token * cost)
end

local function weigh(self, queue, i, now)
  self.seen[i] = self.serial
  local due = due_of(self, queue, i, now)
  if not due then
    self.patient = self.patient + 1
    return
  end
  local cost = queue:cost(i)
  if now + self.model:service(cost) > due then
    self.late = self.late + 1
    return
  end
  local k = self.keep:add(due, work_of(self, cost), 1)
  self.position[k], self.cost[k] = i, cost
  if self.has_groups then self.group[k] = queue:group(i) end
end

-- Those that can be on time, shortest first. Where many of the shortest cannot, the newest are looked at, or those
-- with the earliest deadlines. @return number  how many
local function look(self, queue, now)
  local jobs, looks = self.keep, 0
  self.serial, self.late, self.patient = self.serial + 1, 0, 0
  jobs:clear()
  for i in queue:by_cost() do
    weigh(self, queue, i, now)
    looks, self.last = looks + 1, i
    if jobs.n == MOST or looks == LOOKS then break end
  end
  if jobs.n == MOST or looks == queue.size then return jobs.n end
  local step, from, i
  if self.has_deadlines then
    step, from, i = queue:by_deadline()
    i = step(from, i)
  end
  for back = 0, MOST - 1 do
    local newest = queue.size - back
    if i and self.seen[i] ~= self.serial then weigh(self, queue, i, now) end
    if self.seen[newest] ~= self.serial then weigh(self, queue, newest, now) end
    i = i and step(from, i)
    if jobs.n >= MOST then break end
  end
  return jobs.n
end

local function expect(self)
  local expected, jobs = self.forecast, self.keep
  local ahead, weight = WINDOW * (self.lasts or 0), 1 / WINDOW
  for k = 1, expected.n do
    local cost = expected.cost[k]
    jobs:add(expected.at[k] + ahead + expected.lasts[k], work_of(self, cost), weight * expected.weight[k])
  end
end

-- --- what goes ----------------------------------------------------------------------------

-- The batch that an order makes. @param list table|nil  candidates in that order; nil: as they are
-- @param plan table  made: n, seconds, sum, largest, ends (by when it must be over), and the candidates
local function fill(self, list, count, now, budget, plan)
  local model, costs, dues = self.model, self.cost, self.keep.due
  local a, b, c, is_padded, most = model.a, model.b, model.c, self.is_padded, self.most
  local n, sum, largest, seconds, ends = 0, 0, 0, 0, now + LONGEST * (self.lasts or huge)
  local group
  for at = 1, count do
    local k = list and list[at] or at
    local cost = costs[k]
    local total, top = sum + cost, max(largest, cost)
    local padded = (n + 1) * top
    local costs_all = is_padded and padded or total
    local longer = a + b * costs_all + c * padded
    local is_bargain = longer - seconds <= a + (b + c) * cost
    local fits = costs_all <= budget and now + longer <= min(ends, dues[k])
    if n == 0 or is_bargain and fits and (not group or group == self.group[k]) then
      if n == 0 and self.has_groups then group = self.group[k] end
      n, sum, largest, seconds, ends = n + 1, total, top, longer, min(n == 0 and huge or ends, ends, dues[k])
      plan[n] = k
      if n > most then break end
    end
  end
  plan.n, plan.seconds, plan.sum, plan.largest, plan.ends = n, max(seconds, 1e-9), sum, largest, ends
  return plan
end

-- The kept by due time, then the others by cost. @return number  how many are kept
local function in_order(self, live)
  local jobs, list, n = self.keep, self.list, 0
  local order, kept = jobs.order, jobs.kept
  for place = 1, jobs.n do
    local k = order[place]
    if k <= live and kept[k] then
      n = n + 1
      list[n] = k
    end
  end
  local count = n
  for k = 1, live do
    if not kept[k] then
      n = n + 1
      list[n] = k
    end
  end
  return count
end

-- What a batch is worth, in answers: those it gives, without those that its time could have given, and without
-- those among the kept that are late when it ends. @param longest number  work of the longest that is kept
local function worth(self, plan, kept_count, now, longest)
  local per_second = longest > 0 and 1 / longest or 0
  local jobs, model, mark = self.keep, self.model, self.mark
  self.marked = self.marked + 1
  for n = 1, plan.n do mark[plan[n]] = self.marked end
  local over, lost = now + plan.seconds / self.slots, 0
  for at = 1, kept_count do
    local k = self.list[at]
    if mark[k] ~= self.marked and over + model:service(self.cost[k]) > jobs.due[k] then
      lost = lost + max(0, 1 - per_second * jobs.work[k])
    end
  end
  return plan.n - per_second * plan.seconds / self.slots - lost
end

local function choose(self, live, now, budget, longest)
  local kept_count = in_order(self, live)
  local first = fill(self, self.list, live, now, budget, self.first)
  if not self.by_rate or kept_count == live then return first end
  local shortest = fill(self, nil, live, now, budget, self.shortest)
  if shortest.n / shortest.seconds <= BARGAIN * first.n / first.seconds then return first end
  local gain = worth(self, shortest, kept_count, now, longest) - worth(self, first, kept_count, now, longest)
  return gain > AHEAD and shortest or first
end

-- Name them; learn from what is refused how large a batch may be and whether there are groups, and from
-- its cost whether it is padded.
local function send(self, batch, plan)
  local named, sum = 0, 0
  for n = 1, plan.n do
    local k = plan[n]
    local is_in, why = batch:add(self.position[k])
    if is_in then
      named, sum = named + 1, sum + self.cost[k]
    elseif why == "budget" then
      if named == batch.size and (named + 1) * plan.largest <= batch.budget then self.most = named end
    elseif why == "group" then
      self.has_groups = true
    end
  end
  if batch.size > self.most then self.most = huge end
  if named > 1 and named == batch.size then self.is_padded = batch.cost > sum + 0.5 end
end

-- A batch that holds all that were weighed grows on, the next shorter first.
local function extend(self, queue, batch, now, plan)
  local model, n, sum, largest, ends = self.model, plan.n, plan.sum, plan.largest, plan.ends
  local step, from = queue:by_cost()
  local i, misfits = step(from, self.last), 0
  while i and misfits < MISFITS do
    local cost, due = queue:cost(i), due_of(self, queue, i, now)
    local seconds = takes(self, n + 1, sum + cost, cost)
    local is_bargain = seconds - takes(self, n, sum, largest) <= model:service(cost)
    if due and is_bargain and now + seconds <= min(ends, due) then
      local is_in, why = batch:add(i)
      if why == "budget" then break end
      if is_in then n, sum, largest, ends = n + 1, sum + cost, cost, min(ends, due) else misfits = misfits + 1 end
    elseif due and now + model:service(cost) <= due then
      misfits = misfits + 1
    end
    i = step(from, i)
  end
  plan.n, plan.sum, plan.largest, plan.ends = n, sum, largest, ends
end

-- --- the others ------------------------------------------------------------------------------

-- Who has time goes with them where there is room for it.
local function ride_along(self, queue, batch, now, plan)
  local n, sum, largest = plan.n, plan.sum, plan.largest
  for i = 1, min(queue.size, LOOKS) do
    if not due_of(self, queue, i, now) then
      local cost = queue:cost(i)
      if now + takes(self, n + 1, sum + cost, max(largest, cost)) <= plan.ends then
        local is_in, why = batch:add(i)
        if why == "budget" then return end
        if is_in then n, sum, largest = n + 1, sum + cost, max(largest, cost) end
      end
    end
  end
end

-- Nobody can be on time: who is late, and who has time if the queue is full or due, in order of arrival. Where the
-- late keep others out of the queue, the shortest of them go first: so they make the most room.
local function send_rest(self, queue, batch)
  if self.late == 0 and not (queue.full or queue.due or queue.draining) then return end
  local sum, largest, misfits = 0, 0, 0
  local share = queue.bounded and LATE_BOUNDED or LATE
  local limit = self.late > 0 and self.lasts and share * self.lasts or huge
  local function take(i)
    local cost = queue:cost(i)
    local n = batch.size + 1
    sum, largest = sum + cost, max(largest, cost)
    if n > 1 and takes(self, n, sum, largest) > limit then return false end
    local is_in, why = batch:add(i)
    if not is_in then misfits, sum = misfits + 1, sum - cost end
    return why ~= "budget" and misfits <= MISFITS
  end
  if self.late > 0 and queue.bounded then
    for i in queue:by_cost() do
      if not take(i) then return end
    end
    return
  end
  for i = 1, queue.size do
    if not take(i) then return end
  end
end

--- @param queue, batch, now  as a policy is given them
function Punctual:form(queue, batch, now)
  hear(self, queue, now)
  set_prices(self, queue, batch)
  local live = look(self, queue, now)
  if live > 0 then
    expect(self)
    local plan = choose(self, live, now, min(batch.budget, self.model:trusted()), self.keep:run(now))
    send(self, batch, plan)
    if plan.n == MOST and live == MOST then extend(self, queue, batch, now, plan) end
    if self.patient > 0 then ride_along(self, queue, batch, now, plan) end
  else
    send_rest(self, queue, batch)
  end
  if batch.size > 0 then self.running = self.running + 1 end
end

--- @param report table  as a policy is given it
function Punctual:complete(report)
  self.running = max(0, self.running - 1)
  self.model:learn(report)
end

return M
