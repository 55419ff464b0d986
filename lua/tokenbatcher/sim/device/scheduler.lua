--- A simulated server of continuous batching, as vLLM's scheduler decides: which sequences take part
-- in each iteration, and when each has its first and its last token. It knows no clock: whoever owns
-- it says when sequences arrive, and how far it may run.
--
-- An iteration serves, in order, the sequences that run (a token each, or the next chunk of their
-- prompt) and then those that wait, in order of arrival, as long as tokens, places and blocks of the KV
-- cache last. A sequence that needs a block where none is left takes those of the last that runs,
-- which goes back to the head of the line and is computed anew (preemption).
--
-- As long as nobody comes, goes or is put off, each sequence gains one token an iteration, and an
-- iteration takes longer by the same amount each time: the sum of k of them has a closed form. The
-- scheduler jumps over all of them at once, and cuts the jump when somebody arrives. With
-- `is_stepping` it goes one by one, which must come to the same.
--
-- Times are microseconds, not whole ones. Sequences have numbers, given out by admit() and valid until they
-- have been reported in `ended`.

local tbffi = require "tokenbatcher.core.ffi"

local ceil, floor, huge, max, min = math.ceil, math.floor, math.huge, math.max, math.min

local M = {}
local Scheduler = {}
Scheduler.__index = Scheduler

local COLUMNS = { "prompt", "output", "computed", "made", "blocks", "ready_us", "first_us", "last_us", "is_gone" }

local function grow(self, want)
  local size = max(256, 2 * self.capacity, want)
  for _, name in ipairs(COLUMNS) do
    local old, new = self[name], tbffi.new("double[?]", size)
    for i = 0, self.capacity - 1 do new[i] = old[i] end
    self[name] = new
  end
  self.capacity = size
end

--- @param model table  see iteration.lua
-- @param limits table  seqs, tokens, block (tokens), kv (tokens, or nil: no limit), admit ("known", "reserve"),
-- max_output (tokens, or nil), is_stepping
function M.new(model, limits)
  local self = setmetatable({
    model = model, seqs = limits.seqs, tokens = limits.tokens, block = limits.block,
    kv_blocks = limits.kv and floor(limits.kv / limits.block) or huge, does_reserve = limits.admit == "reserve",
    max_output = limits.max_output or 0, is_stepping = limits.is_stepping or false,
    capacity = 0, count = 0, free = {}, free_count = 0,
    running = tbffi.new("int32_t[?]", limits.seqs + 1), n = 0, line = {}, first_in_line = 1, last_in_line = 0,
    taking = tbffi.new("int32_t[?]", limits.seqs + 1), share = tbffi.new("double[?]", limits.seqs + 1), took = 0,
    slack = tbffi.new("double[?]", limits.block), used = 0, now_us = 0, end_us = huge, is_busy = false,
    jump = 0, begin_us = 0, first_step_us = 0, growth_us = 0,
    ended = {}, ended_count = 0, preemptions = 0, peak_blocks = 0, iterations = 0, segments = 0, tbt_max_us = 0,
  }, Scheduler)
  grow(self, 1)
  return self
end

-- --- who is there -------------------------------------------------------------------

local function blocks_for(self, tokens) return ceil(tokens / self.block) end

-- Blocks that a sequence holds to its end under `reserve`.
local function reserved(self, seq)
  return blocks_for(self, self.prompt[seq] + max(self.output[seq], self.max_output))
end

--- Could a sequence of so many tokens ever run here?
function Scheduler:fits(prompt, output)
  local most = self.does_reserve and max(output, self.max_output) or output
  return blocks_for(self, prompt + most) <= self.kv_blocks
end

--- The boundary of an iteration at or after `at_us` ends the jump that is under way.
local function cut(self, at_us)
  if self.jump <= 1 or at_us >= self.end_us then return end
  local low, high = 1, self.jump
  while low < high do
    local middle = floor((low + high) / 2)
    if self.begin_us + middle * self.first_step_us + self.growth_us * middle * (middle - 1) / 2 >= at_us then
      high = middle
    else
      low = middle + 1
    end
  end
  self.jump = low
  self.end_us = self.begin_us + low * self.first_step_us + self.growth_us * low * (low - 1) / 2
end

local function forget(self, seq)
  self.free_count = self.free_count + 1
  self.free[self.free_count] = seq
end

local function pop_line(self)
  local at = self.first_in_line
  local seq = self.line[at]
  self.line[at], self.first_in_line = nil, at + 1
  return seq
end

-- The first who waits and is wanted, or nil.
local function head_of_line(self)
  while self.first_in_line <= self.last_in_line do
    local seq = self.line[self.first_in_line]
    if self.is_gone[seq] == 0 then return seq end
    forget(self, pop_line(self))
  end
end

--- A sequence arrives: at the end of the line. @return its number
function Scheduler:admit(prompt, output, at_us)
  local seq
  if self.free_count > 0 then
    seq, self.free_count = self.free[self.free_count], self.free_count - 1
  else
    seq, self.count = self.count, self.count + 1
    if seq >= self.capacity then grow(self, seq + 1) end
  end
  self.prompt[seq], self.output[seq], self.computed[seq], self.made[seq], self.blocks[seq] = prompt, output, 0, 0, 0
  self.ready_us[seq], self.first_us[seq], self.last_us[seq], self.is_gone[seq] = at_us, -1, at_us, 0
  self.last_in_line = self.last_in_line + 1
  self.line[self.last_in_line] = seq
  if self.n < self.seqs and head_of_line(self) == seq then cut(self, at_us) end
  return seq
end

--- Nobody wants its answer any more: it leaves at the end of the iteration, and is not reported.
function Scheduler:abort(seq, at_us)
  self.is_gone[seq] = 1
  cut(self, at_us)
end

-- --- an iteration: who takes part -------------------------------------------------------

local function release(self, seq)
  self.used = self.used - self.blocks[seq]
  self.blocks[seq] = 0
end

-- The last that runs gives up its blocks and waits again, first in line.
local function preempt_last(self)
  self.n = self.n - 1
  local seq = self.running[self.n]
  release(self, seq)
  self.computed[seq] = 0
  self.preemptions = self.preemptions + 1
  self.first_in_line = self.first_in_line - 1
  self.line[self.first_in_line] = seq
  return seq
end

-- Blocks for `need` more tokens of one that runs. @return false if it had to give up its own
local function make_room(self, seq, need)
  while true do
    local more = max(0, blocks_for(self, self.computed[seq] + need) - self.blocks[seq])
    if self.used + more <= self.kv_blocks then
      self.used, self.blocks[seq] = self.used + more, self.blocks[seq] + more
      return true
    end
    if preempt_last(self) == seq then return false end
  end
end

local function take(self, seq, need)
  self.taking[self.took], self.share[self.took] = seq, need
  self.took = self.took + 1
end

local function needed_of(self, seq, budget)
  return min(self.prompt[seq] + self.made[seq] - self.computed[seq], budget)
end

-- Blocks that one who waits must find free, and those that it takes.
local function blocks_to_enter(self, seq, need)
  if self.does_reserve then
    local all = reserved(self, seq)
    return all, all
  end
  return blocks_for(self, self.prompt[seq] + self.made[seq]), blocks_for(self, self.computed[seq] + need)
end

local function can_enter(self, seq)
  return self.n < self.seqs and self.ready_us[seq] <= self.now_us
    and self.used + blocks_to_enter(self, seq, 0) <= self.kv_blocks
end

local function choose(self)
  local budget, had, at = self.tokens, self.preemptions, 0
  self.took = 0
  while at < self.n and budget > 0 do
    local seq = self.running[at]
    local need = needed_of(self, seq, budget)
    if not make_room(self, seq, need) then break end
    take(self, seq, need)
    budget, at = budget - need, at + 1
  end
  while budget > 0 and self.preemptions == had do
    local seq = head_of_line(self)
    if not seq or not can_enter(self, seq) then return end
    pop_line(self)
    local need = needed_of(self, seq, budget)
    local _, blocks = blocks_to_enter(self, seq, need)
    self.used, self.blocks[seq] = self.used + blocks, blocks
    self.running[self.n], self.n = seq, self.n + 1
    take(self, seq, need)
    budget = budget - need
  end
end

-- What the iteration is made of, and so how long it takes.
local function duration(self)
  local prefill, context, decoding, kv = 0, 0, 0, 0
  for i = 0, self.took - 1 do
    local seq, need = self.taking[i], self.share[i]
    local computed = self.computed[seq]
    if need == 1 and self.made[seq] > 0 then
      decoding, kv = decoding + 1, kv + computed + 1
    else
      prefill, context = prefill + need, context + need * (computed + need / 2)
    end
  end
  return self.model.iteration_us(prefill, context, decoding, kv, self.took)
end

-- --- a jump: how many iterations are alike -----------------------------------------------

-- Iterations, at most `most`, for which there are blocks: in each of `block` in a row every sequence
-- takes one, at a place that its last block tells.
local function steps_with_room(self, most)
  local free, n, block = self.kv_blocks - self.used, self.n, self.block
  if self.does_reserve then return most end
  if free >= n * (floor(most / block) + 1) then return most end
  local slack = self.slack
  for i = 0, block - 1 do slack[i] = 0 end
  for i = 0, n - 1 do
    local seq = self.running[i]
    local left = self.blocks[seq] * block - self.computed[seq]
    slack[left] = slack[left] + 1
  end
  local turns = floor(free / n)
  local steps, left = turns * block, free - turns * n
  for i = 0, block - 1 do
    left = left - slack[i]
    if left < 0 then break end
    steps = steps + 1
  end
  return min(most, steps)
end

-- Iterations until something else than a token each happens; 0: it happens now.
local function alike(self)
  local n, most, kv = self.n, huge, 0
  if n == 0 or self.is_stepping then return 0, 0 end
  for i = 0, n - 1 do
    local seq = self.running[i]
    local made, computed = self.made[seq], self.computed[seq]
    if made == 0 or computed ~= self.prompt[seq] + made - 1 then return 0, 0 end
    most, kv = min(most, self.output[seq] - made), kv + computed + 1
  end
  local head = n < self.tokens and head_of_line(self)
  if head and can_enter(self, head) then return 0, 0 end
  return steps_with_room(self, most), kv
end

-- --- segments: a jump, or one iteration ---------------------------------------------------

-- Begin the next segment, if that is before `limit_us`: at it, others may yet come.
-- @return false if there is nothing to do yet
local function begin(self, limit_us)
  local head, at_us = head_of_line(self), self.now_us
  if self.n == 0 then
    if not head then return false end
    at_us = max(at_us, self.ready_us[head])
  end
  if at_us >= limit_us then return false end
  self.now_us = at_us
  local steps, kv = alike(self)
  self.begin_us, self.jump, self.is_busy, self.segments = self.now_us, steps, true, self.segments + 1
  if steps == 0 then
    choose(self)
    self.end_us = self.now_us + duration(self)
    return true
  end
  self.first_step_us = self.model.iteration_us(0, 0, self.n, kv, self.n)
  self.growth_us = self.model.kv_us * self.n
  self.end_us = self.now_us + steps * self.first_step_us + self.growth_us * steps * (steps - 1) / 2
  head = head_of_line(self)
  if head and self.n < self.seqs and self.ready_us[head] > self.now_us then cut(self, self.ready_us[head]) end
  return true
end

-- Out of the running ones with those that are done or gone; the others keep their order.
local function leave(self)
  local kept = 0
  for i = 0, self.n - 1 do
    local seq = self.running[i]
    local is_done = self.made[seq] >= self.output[seq]
    if self.is_gone[seq] ~= 0 then
      release(self, seq)
      forget(self, seq)
    elseif is_done then
      release(self, seq)
      self.ended_count = self.ended_count + 1
      self.ended[self.ended_count] = seq
    else
      self.running[kept], kept = seq, kept + 1
    end
  end
  self.n = kept
end

local function finish_jump(self)
  local steps, last_step_us = self.jump, self.first_step_us + self.growth_us * (self.jump - 1)
  local longest_us = steps > 1 and last_step_us or 0
  for i = 0, self.n - 1 do
    local seq = self.running[i]
    self.computed[seq], self.made[seq] = self.computed[seq] + steps, self.made[seq] + steps
    local more = blocks_for(self, self.computed[seq]) - self.blocks[seq]
    if more > 0 then self.used, self.blocks[seq] = self.used + more, self.blocks[seq] + more end
    longest_us = max(longest_us, self.begin_us + self.first_step_us - self.last_us[seq])
    self.last_us[seq] = self.now_us
  end
  self.tbt_max_us = max(self.tbt_max_us, longest_us)
  self.iterations = self.iterations + steps
end

local function finish_iteration(self)
  local now_us = self.now_us
  for i = 0, self.took - 1 do
    local seq = self.taking[i]
    self.computed[seq] = self.computed[seq] + self.share[i]
    if self.computed[seq] >= self.prompt[seq] + self.made[seq] then
      self.made[seq] = self.made[seq] + 1
      if self.first_us[seq] < 0 then
        self.first_us[seq] = now_us
      else
        self.tbt_max_us = max(self.tbt_max_us, now_us - self.last_us[seq])
      end
      self.last_us[seq] = now_us
    end
  end
  self.iterations = self.iterations + 1
end

local function finish(self)
  self.now_us = self.end_us
  if self.jump > 0 then finish_jump(self) else finish_iteration(self) end
  self.peak_blocks = max(self.peak_blocks, self.used)
  self.is_busy, self.end_us, self.jump = false, huge, 0
  leave(self)
end

--- Run until a sequence has ended, or time would pass `limit_us`.
-- @return boolean  has one ended? They are ended[1 .. ended_count], at now_us; first_us[] and last_us[] tell
-- when their first and last tokens were made. take_ended() makes room for the next.
function Scheduler:run_to(limit_us)
  while self.ended_count == 0 do
    if not self.is_busy and not begin(self, limit_us) then return false end
    if self.end_us > limit_us then return false end
    finish(self)
  end
  return true
end

--- The ended sequences have been seen: their numbers may be given out again.
function Scheduler:take_ended()
  for i = 1, self.ended_count do forget(self, self.ended[i]) end
  self.ended_count = 0
end

--- Tokens of the KV cache held at once, at the most.
function Scheduler:kv_peak() return self.peak_blocks * self.block end

return M
