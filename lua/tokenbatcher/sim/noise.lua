--- Slowness of a real device, as a recording has it: --noise.
--
-- Slowness belongs to time, not to batches: a device that is slow is so for whoever runs on it just then. So it is a
-- path, how many times as long as usual work takes at each moment, and a batch takes as long as its work needs on that
-- path. A batch has run at the speed of what it should have taken (fit.lua) over what it took; the device, at the mean
-- speed of those that ran; while none did, as before.
--
--   replay        the path as it was recorded, from the first arrival on, again from its beginning where a run is
--                 longer: the same for every policy. Over its own recording it gives back what was recorded; it
--                 predicts nothing.
--   blocks[:10s]  pieces of the path of so many seconds, drawn by lot: what another day may have been like, as far as
--                 the recorded episodes of slowness are all that there are.

local random = require "tokenbatcher.sim.random"

local M = {}
local Walk = {}
Walk.__index = Walk

local BLOCK_S = 10
local MOST_SPEED = 1e6 -- times as fast as usual, or as slow
--- Draws at the least from which a range is told.
M.LEAST_DRAWS = 20

--- "replay", "blocks", "blocks:5s" @return {kind, block_s}, or nil and a message
function M.parse(text)
  if text == "replay" then return { kind = "replay", text = text } end
  local kind, length = text:match "^(blocks):?([%d.]*)s?$"
  local block_s = length == "" and BLOCK_S or tonumber(length)
  if kind and block_s and block_s > 0 and block_s < 1e6 then
    return { kind = kind, block_s = block_s, text = ("blocks of %.14g s"):format(block_s) }
  end
  return nil, ("--noise needs replay, blocks or blocks:SECONDS, got '%s'"):format(text)
end

-- When batches began and ended, and how fast each was, by time; at one moment ends come first.
local function changes_of(fitted, origin)
  local out, batches = {}, fitted.batches
  for i = 1, batches.n do
    local seconds, usual = batches.seconds[i], fitted.seconds(batches.tokens[i], batches.padded[i])
    if seconds > 0 then
      local speed = math.min(MOST_SPEED, math.max(1 / MOST_SPEED, usual / seconds))
      local at_s = math.max(0, batches.at_s[i] - origin)
      out[#out + 1] = { at_s = at_s, place = 2 * i, running = 1, speed = speed }
      out[#out + 1] = { at_s = at_s + seconds, place = 2 * i + 1, running = -1, speed = speed }
    end
  end
  table.sort(out, function(a, b)
    if a.at_s ~= b.at_s then return a.at_s < b.at_s end
    if a.running ~= b.running then return a.running < b.running end
    return a.place < b.place
  end)
  return out
end

-- The recorded path: at[i] seconds after the first arrival slow[i] begins; it ends at span_s.
local function path_of(fitted)
  local path, running, sum = { at = {}, slow = {}, span_s = 0 }, 0, 0
  for _, change in ipairs(changes_of(fitted, fitted.batches.first_at_s or fitted.batches.at_s[1])) do
    running = running + change.running
    sum = running > 0 and sum + change.running * change.speed or 0
    if running > 0 then
      local n = #path.at
      if path.at[n] ~= change.at_s then n = n + 1 end
      path.at[n], path.slow[n] = change.at_s, running / math.max(sum, running / MOST_SPEED)
    end
    path.span_s = math.max(path.span_s, change.at_s)
  end
  if path.at[1] then path.at[1] = 0 end -- what was before the first batch is as slow as it
  return path
end

--- @param asked table  of parse  @param fitted table|nil  of fit.of_recording
-- @return {text, draws (does it draw lots?), walk(seed, from_s)}, or nil and a message. from_s: how long after the
-- first arrival of the recording a run begins
function M.new(asked, fitted)
  if not fitted then return nil, "--noise needs --service @RECORDING: it is the slowness of a recorded device" end
  local path = path_of(fitted)
  if not path.at[1] then return nil, "--noise: no batch of the recording took any time" end
  local draws = asked.kind == "blocks"
  if draws and asked.block_s >= path.span_s then
    return nil, ("--noise blocks: a block of %.14g s is longer than the recording of %.4g s"):format(asked.block_s,
      path.span_s)
  end
  return {
    text = asked.text, draws = draws,
    walk = function(seed, from_s)
      return setmetatable({ path = path, block_s = asked.block_s, stream = draws and random.new(seed, "noise"),
        from_s = from_s or 0, blocks = {}, end_s = 0 }, Walk)
    end,
  }
end

-- --- a walk along a path ----------------------------------------------------------

-- The last place of `at` that is not after s.
local function place_of(at, s)
  local low, high = 1, #at
  while low < high do
    local middle = math.ceil((low + high) / 2)
    if at[middle] <= s then low = middle else high = middle - 1 end
  end
  return low
end

-- One more block of the path behind what there is. A block is at[i], slow[i] from from_s to to_s.
local function extend(self)
  local path, from_s, start_s, length_s = self.path, self.end_s, 0, self.path.span_s
  if self.stream then
    length_s = self.block_s
    start_s = self.stream:uniform() * (path.span_s - length_s)
  end
  local first = place_of(path.at, start_s)
  local at, slow = { from_s }, { path.slow[first] }
  for i = first + 1, #path.at do
    if path.at[i] >= start_s + length_s then break end
    at[#at + 1], slow[#slow + 1] = from_s + path.at[i] - start_s, path.slow[i]
  end
  self.end_s = from_s + length_s
  self.blocks[#self.blocks + 1] = { at = at, slow = slow, to_s = self.end_s }
end

-- The block in which now_s is: those before it are forgotten, since time does not go back.
local function go_to(self, now_s)
  while self.end_s <= now_s do extend(self) end
  while self.blocks[1].to_s <= now_s do table.remove(self.blocks, 1) end
end

--- How long work takes that begins now. @param at_s number  now, since the run began; never less than before
-- @param work_s number  what it takes at the usual speed
function Walk:stretch(at_s, work_s)
  local now_s = self.from_s + at_s
  go_to(self, now_s)
  local b, s, left, i = 1, now_s, work_s, place_of(self.blocks[1].at, now_s)
  while true do
    local block = self.blocks[b]
    local until_s = block.at[i + 1] or block.to_s
    local needed_s = left * block.slow[i]
    if s + needed_s <= until_s then return s + needed_s - now_s end
    left, s, i = left - (until_s - s) / block.slow[i], until_s, i + 1
    if i > #block.at then
      b, i = b + 1, 1
      if not self.blocks[b] then extend(self) end
    end
  end
end

return M
